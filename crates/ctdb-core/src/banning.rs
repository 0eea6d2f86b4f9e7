//! Banning credits: how the leader finds out which node to exclude.
//!
//! Two counts for each node, kept by the leader:
//!
//! - *credits* (`cluster.md 9.2`): given whenever a node disagrees or does not answer. A node with
//!   twice as many credits as there are nodes is banned. A pause longer than
//!   `RecoveryGracePeriod` clears its count.
//! - *failed recoveries* (`cluster.md 6.5`): how many recoveries in a row failed at this node. The
//!   original counts only some steps of a recovery, so that a full disk on one node keeps the
//!   whole cluster in recovery for ever; here each step that names a node counts.
//!
//! A successful recovery clears both.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ctdb_proto::Pnn;

/// Failures in recoveries after which a node is banned: the three tries of one database, or three
/// recoveries.
pub(crate) const FAILED_RECOVERIES_FOR_BAN: u32 = 3;

/// The counts of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Credits {
    nodes: BTreeMap<Pnn, Count>,
    failed_recoveries: BTreeMap<Pnn, u32>,
    /// Who got credits last. Only for a log line of the original.
    pub(crate) last_culprit: Option<Pnn>,
}

#[derive(Debug)]
struct Count {
    credits: u32,
    last: Instant,
}

impl Credits {
    /// Adds credits to a node and returns how many it has now.
    pub(crate) fn add(&mut self, pnn: Pnn, credits: u32, grace: Duration, now: Instant) -> u32 {
        self.last_culprit = Some(pnn);
        let count = self.nodes.entry(pnn).or_insert(Count {
            credits: 0,
            last: now,
        });
        if now.duration_since(count.last) > grace {
            count.credits = 0;
        }
        count.credits = count.credits.saturating_add(credits);
        count.last = now;
        count.credits
    }

    /// Takes out the nodes that have enough credits for a ban, with their credits.
    pub(crate) fn take_due(&mut self, num_nodes: usize) -> Vec<(Pnn, u32)> {
        let limit = u32::try_from(num_nodes.saturating_mul(2)).unwrap_or(u32::MAX);
        let due = |count: &Count| count.credits >= limit.max(1);
        let due: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, count)| due(count))
            .map(|(pnn, count)| (*pnn, count.credits))
            .collect();
        for (pnn, _) in &due {
            self.nodes.remove(pnn);
        }
        due
    }

    /// A recovery failed at this node, `times` times.
    pub(crate) fn recovery_failed(&mut self, pnn: Pnn, times: u32) {
        let count = self.failed_recoveries.entry(pnn).or_default();
        *count = count.saturating_add(times);
    }

    /// Takes out the node at which most recoveries failed, if they are enough for a ban. Nodes
    /// that are not `active` any more are forgiven. The lowest pnn wins a tie.
    pub(crate) fn take_worst(&mut self, active: impl Fn(Pnn) -> bool) -> Option<Pnn> {
        self.failed_recoveries.retain(|pnn, _| active(*pnn));
        let (worst, times) = self
            .failed_recoveries
            .iter()
            .rev()
            .max_by_key(|(_, times)| **times)
            .map(|(pnn, times)| (*pnn, *times))?;
        if times < FAILED_RECOVERIES_FOR_BAN {
            return None;
        }
        self.failed_recoveries.remove(&worst);
        Some(worst)
    }

    /// A recovery was successful: all is forgiven.
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.failed_recoveries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recoverd::tests::{epoch, pnn};

    const GRACE: Duration = Duration::from_secs(120);

    #[test]
    fn twice_as_many_credits_as_nodes_are_enough_for_a_ban() {
        let mut credits = Credits::default();
        for _ in 0..5 {
            credits.add(pnn(1), 1, GRACE, epoch());
        }
        credits.add(pnn(2), 1, GRACE, epoch());
        assert_eq!(credits.take_due(3), []);
        assert_eq!(credits.add(pnn(1), 1, GRACE, epoch()), 6);
        assert_eq!(credits.take_due(3), [(pnn(1), 6)]);
        assert_eq!(credits.take_due(3), [], "a banned node starts again at 0");
    }

    #[test]
    fn old_credits_are_forgotten() {
        let mut credits = Credits::default();
        credits.add(pnn(1), 5, GRACE, epoch());
        assert_eq!(credits.add(pnn(1), 1, GRACE, epoch() + GRACE), 6);
        let later = epoch() + GRACE + GRACE + Duration::from_secs(1);
        assert_eq!(credits.add(pnn(1), 1, GRACE, later), 1);
    }

    #[test]
    fn the_node_that_failed_most_recoveries_is_banned_first() {
        let mut credits = Credits::default();
        credits.recovery_failed(pnn(0), 2);
        assert_eq!(credits.take_worst(|_| true), None);
        credits.recovery_failed(pnn(2), 4);
        credits.recovery_failed(pnn(1), 4);
        assert_eq!(credits.take_worst(|_| true), Some(pnn(1)));
        assert_eq!(
            credits.take_worst(|node| node != pnn(2)),
            None,
            "2 is not active"
        );
        assert_eq!(credits.take_worst(|_| true), None, "and was forgiven");
    }

    #[test]
    fn a_successful_recovery_forgives() {
        let mut credits = Credits::default();
        credits.add(pnn(1), 99, GRACE, epoch());
        credits.recovery_failed(pnn(1), 99);
        credits.clear();
        assert_eq!(credits.take_due(3), []);
        assert_eq!(credits.take_worst(|_| true), None);
    }
}
