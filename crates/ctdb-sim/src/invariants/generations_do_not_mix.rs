//! A record packet of an old generation changes no record.

use super::{Broken, Invariant};
use crate::observed::Observed;
use crate::world::World;

pub(super) struct GenerationsDoNotMix;

impl Invariant for GenerationsDoNotMix {
    fn rule(&self) -> &'static str {
        "no record packet of an old generation changes a record"
    }

    fn see(&mut self, event: &Observed, _: &World) -> Result<(), Broken> {
        let Observed::Written {
            node,
            key,
            of_packet: Some(packet),
            generation,
            ..
        } = event
        else {
            return Ok(());
        };
        if Some(*packet) == *generation {
            return Ok(());
        }
        let key = key.escape_ascii();
        Err(format!(
            "{key} on node {node}: packet of {packet}, database of {generation:?}"
        ))
    }
}
