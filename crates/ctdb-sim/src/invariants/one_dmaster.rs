//! Between recoveries a record has one dmaster, and neither its rsn nor what is counted in it ever
//! goes back.
//!
//! A node is dmaster of a record if its copy says so, and if its clients can use that copy: the
//! database is thawed, and in a generation. In another generation another node may be dmaster.

use std::collections::BTreeMap;

use ctdb_core::Node;
use ctdb_proto::{DbId, Generation, Pnn};

use super::{Broken, Invariant};
use crate::workload::{COUNTERS, KEYS, number_in};
use crate::world::World;

/// What a dmaster says.
#[derive(Clone, Copy, Debug)]
struct Claim {
    generation: Generation,
    rsn: u64,
    number: u64,
}

pub(super) struct OneDmaster {
    db: DbId,
    /// By key and node.
    claims: Vec<Vec<Option<Claim>>>,
    /// The newest state of each record in a generation.
    newest: Vec<BTreeMap<u32, Claim>>,
}

impl OneDmaster {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            db: DbId::of_name(COUNTERS),
            claims: vec![vec![None; nodes]; KEYS.len()],
            newest: vec![BTreeMap::new(); KEYS.len()],
        }
    }

    fn claim(&self, node: Pnn, generation: Generation, key: &[u8], world: &World) -> Option<Claim> {
        let record = world.disk(node).record(self.db, key)?;
        (record.header.dmaster == node.get()).then(|| Claim {
            generation,
            rsn: record.header.rsn.get(),
            number: number_in(&record.data),
        })
    }

    fn check(&mut self, node: Pnn, index: usize, claim: Claim) -> Result<(), Broken> {
        let key = KEYS[index].escape_ascii();
        let of_generation = |c: &Option<Claim>| c.is_some_and(|c| c.generation == claim.generation);
        let mut others = self.claims[index].iter().enumerate();
        if let Some((other, _)) = others.find(|(n, c)| *n != node.index() && of_generation(c)) {
            return Err(format!("nodes {other} and {node} both own {key}"));
        }
        let newest = self.newest[index].get(&claim.generation.0).copied();
        // Without data it may be deleted, and begins anew.
        if let Some(old) = newest.filter(|old| old.number > 0)
            && (claim.rsn < old.rsn || claim.number < old.number)
        {
            return Err(format!(
                "{key} on node {node} went back from rsn {} ({}) to rsn {} ({})",
                old.rsn, old.number, claim.rsn, claim.number
            ));
        }
        self.newest[index].insert(claim.generation.0, claim);
        self.claims[index][node.index()] = Some(claim);
        Ok(())
    }
}

impl Invariant for OneDmaster {
    fn rule(&self) -> &'static str {
        "between recoveries a record has one dmaster and its rsn does not go back"
    }

    fn look_at(&mut self, node: Pnn, world: &World) -> Result<(), Broken> {
        let usable = |n: &Node| n.database_generation(self.db);
        let generation = world
            .node(node)
            .and_then(usable)
            .filter(|generation| *generation != Generation::INVALID)
            .filter(|_| !world.disk(node).is_frozen(self.db));
        for (index, key) in KEYS.iter().enumerate() {
            let claim = generation.and_then(|g| self.claim(node, g, key, world));
            match claim {
                Some(claim) => self.check(node, index, claim)?,
                None => self.claims[index][node.index()] = None,
            }
        }
        Ok(())
    }
}
