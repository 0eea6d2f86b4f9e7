//! Only who holds the cluster lock leads. Since one node holds it, one node leads.

use ctdb_proto::Pnn;

use super::{Broken, Invariant};
use crate::world::World;

pub(super) struct LockHolderLeads;

impl Invariant for LockHolderLeads {
    fn rule(&self) -> &'static str {
        "at most one node leads, and it holds the cluster lock"
    }

    fn look_at(&mut self, node: Pnn, world: &World) -> Result<(), Broken> {
        let leads = world.node(node).is_some_and(ctdb_core::Node::leads);
        if !leads || !world.has_cluster_lock() || world.is_paused(node) || world.may_hold_lock(node)
        {
            return Ok(());
        }
        Err(format!("node {node} leads without the lock"))
    }
}
