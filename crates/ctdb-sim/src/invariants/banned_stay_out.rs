//! A node that was banned stays banned until the time is over, somebody ends the ban, or its
//! daemon is started anew.

use std::collections::BTreeMap;
use std::time::Duration;

use ctdb_proto::{NodeFlags, Pnn};

use super::{Broken, Invariant};
use crate::observed::Observed;
use crate::world::World;

/// Until when each node is banned.
#[derive(Default)]
pub(super) struct BannedStayOut {
    until: BTreeMap<Pnn, Duration>,
}

impl Invariant for BannedStayOut {
    fn rule(&self) -> &'static str {
        "a banned node stays banned"
    }

    fn see(&mut self, event: &Observed, _: &World) -> Result<(), Broken> {
        match event {
            Observed::Banned {
                node,
                until: Some(until),
            } => {
                self.until.insert(*node, *until);
            }
            Observed::Banned { node, until: None } | Observed::Life { node, .. } => {
                self.until.remove(node);
            }
            _ => {}
        }
        Ok(())
    }

    fn look_at(&mut self, node: Pnn, world: &World) -> Result<(), Broken> {
        let Some(until) = self.until.get(&node).copied() else {
            return Ok(());
        };
        let banned = |n: &ctdb_core::Node| n.flags_of(node).contains(NodeFlags::BANNED);
        if world.elapsed() >= until {
            self.until.remove(&node);
        } else if world.node(node).is_some_and(|n| !banned(n)) {
            return Err(format!(
                "node {node} is not, although it is banned until {until:?}"
            ));
        }
        Ok(())
    }
}
