//! Once the records of a database can be used in the generation of a later recovery, nobody writes
//! one of them in an earlier generation any more.
//!
//! So two halves of a partition never both write after a recovery. It holds with a cluster lock;
//! without one each half recovers for itself. It does not hold for a while if the lock is taken
//! away from its holder, which cannot know at once: until its helper notices, and then until the
//! lease of those has run out that it let go on meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use ctdb_proto::{DbId, Generation, Pnn};

use super::{Broken, Invariant};
use crate::observed::Observed;
use crate::workload::{COMMITS, COUNTERS};
use crate::world::World;

/// The generations of a database.
#[derive(Default)]
struct Generations {
    /// In which it could be used on some node. A node that lacks it attaches it in the midst of a
    /// recovery, and has the new generation before the others.
    seen: BTreeSet<Generation>,
    /// In which a recovery has replaced its records on some node.
    recovered: BTreeSet<Generation>,
    /// The last of those in which it could be used then.
    newest: Option<Generation>,
    /// All that were seen before that.
    outdated: BTreeSet<Generation>,
}

impl Generations {
    /// The records can be used on some node.
    fn usable_in(&mut self, generation: Generation) {
        self.seen.insert(generation);
        let is_recovered = self.recovered.contains(&generation);
        let is_new = self.newest != Some(generation) && !self.outdated.contains(&generation);
        if is_recovered && is_new {
            self.newest = Some(generation);
            self.outdated = self.seen.clone();
            self.outdated.remove(&generation);
        }
    }

    /// The newest one, if the generation is older.
    fn newer_than(&self, generation: Generation) -> Option<Generation> {
        let is_old = generation == Generation::INVALID || self.outdated.contains(&generation);
        self.newest.filter(|_| is_old)
    }
}

pub(super) struct OneSideWrites {
    databases: BTreeMap<DbId, Generations>,
}

impl OneSideWrites {
    pub(super) fn new() -> Self {
        let databases = [COUNTERS, COMMITS];
        Self {
            databases: databases
                .map(|name| (DbId::of_name(name), Generations::default()))
                .into(),
        }
    }

    fn wrote(&self, node: Pnn, db: DbId, key: &[u8], world: &World) -> Result<(), Broken> {
        let of_node = world.node(node).and_then(|n| n.database_generation(db));
        let (Some(generation), Some(generations)) = (of_node, self.databases.get(&db)) else {
            return Ok(());
        };
        let newer = generations.newer_than(generation);
        let Some(newest) = newer.filter(|_| !world.is_lock_in_doubt()) else {
            return Ok(());
        };
        let key = key.escape_ascii();
        Err(format!(
            "node {node} wrote {key} in generation {generation}, others are in {newest}"
        ))
    }
}

impl Invariant for OneSideWrites {
    fn rule(&self) -> &'static str {
        "nobody writes in the generation before a recovery that has ended"
    }

    fn see(&mut self, event: &Observed, world: &World) -> Result<(), Broken> {
        if !world.has_cluster_lock() {
            return Ok(());
        }
        match event {
            Observed::Written { node, db, key, .. }
            | Observed::Counted { node, db, key, .. }
            | Observed::Committed { node, db, key } => self.wrote(*node, *db, key, world),
            Observed::Recovered { db, generation, .. } => {
                if let Some(generations) = self.databases.get_mut(db) {
                    generations.recovered.insert(*generation);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn look_at(&mut self, node: Pnn, world: &World) -> Result<(), Broken> {
        let Some(daemon) = world.node(node) else {
            return Ok(());
        };
        for (db, generations) in &mut self.databases {
            let generation = daemon.database_generation(*db);
            let is_usable = !world.disk(node).is_frozen(*db);
            let known = generation.filter(|g| is_usable && *g != Generation::INVALID);
            if let Some(generation) = known {
                generations.usable_in(generation);
            }
        }
        Ok(())
    }
}
