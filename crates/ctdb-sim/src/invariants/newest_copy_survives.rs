//! A recovery keeps of each record the newest copy of those that its nodes have.
//!
//! This is the ledger of the counters: a count is in the copy of the record's dmaster, which has
//! the highest rsn. It can be lost only with that node.

use std::collections::BTreeMap;

use bytes::Bytes;
use ctdb_core::Record;
use ctdb_proto::{DbId, Generation, Pnn};

use super::{Broken, Invariant};
use crate::observed::Observed;
use crate::workload::{COUNTERS, number_in};
use crate::world::World;

type Records = BTreeMap<Bytes, Record>;

/// What each node had when it was read, and in which recovery.
#[derive(Default)]
pub(super) struct NewestCopySurvives {
    read: BTreeMap<Pnn, (Generation, Records)>,
}

impl NewestCopySurvives {
    /// The newest copies of all that took part in a recovery: rsn and the numbers in them.
    fn expected(
        &self,
        generation: Generation,
        members: &[Pnn],
    ) -> BTreeMap<&Bytes, (u64, Vec<u64>)> {
        let mut newest: BTreeMap<&Bytes, (u64, Vec<u64>)> = BTreeMap::new();
        let of_recovery = |pnn: &Pnn| self.read.get(pnn).filter(|(g, _)| *g == generation);
        let copies = members
            .iter()
            .filter_map(of_recovery)
            .flat_map(|(_, records)| records);
        for (key, record) in copies {
            let (rsn, number) = (record.header.rsn.get(), number_in(&record.data));
            let best = newest.entry(key).or_default();
            if rsn > best.0 {
                *best = (rsn, vec![number]);
            } else if rsn == best.0 {
                best.1.push(number);
            }
        }
        newest
    }
}

/// Whether what was kept, rsn and number, is older than the newest copy, or another one of the same
/// age. The leader's own store adds 1 to the rsn. A newer copy may come from a node that has
/// joined another recovery meanwhile.
fn is_worse(kept: (u64, u64), rsn: u64, numbers: &[u64]) -> bool {
    kept.0 < rsn || (kept.0 <= rsn + 1 && !numbers.contains(&kept.1))
}

impl Invariant for NewestCopySurvives {
    fn rule(&self) -> &'static str {
        "a recovery keeps the newest copy of each record"
    }

    fn see(&mut self, event: &Observed, world: &World) -> Result<(), Broken> {
        let counters = DbId::of_name(COUNTERS);
        match event {
            Observed::Pulled {
                node,
                db,
                generation,
                records,
            } if *db == counters => {
                self.read.insert(*node, (*generation, records.clone()));
            }
            Observed::Recovered {
                node,
                db,
                generation,
                members,
            } if *db == counters => {
                for (key, (rsn, numbers)) in self.expected(*generation, members) {
                    if numbers.contains(&0) {
                        continue; // Empty records are left out.
                    }
                    let kept = world.disk(*node).record(counters, key);
                    let kept = kept.map(|r| (r.header.rsn.get(), number_in(&r.data)));
                    if kept.is_none_or(|kept| is_worse(kept, rsn, &numbers)) {
                        let key = key.escape_ascii();
                        return Err(format!(
                            "{key} on node {node} is {kept:?} (rsn, count) after recovery \
                             {generation}; the newest copy had rsn {rsn}, count {numbers:?}"
                        ));
                    }
                }
            }
            Observed::Life { node, runs: false } => {
                self.read.remove(node);
            }
            _ => {}
        }
        Ok(())
    }
}
