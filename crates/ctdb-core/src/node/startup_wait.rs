//! What a node that starts waits for (cluster.md 8.1): operators look for these lines when one of
//! their nodes does not come.

use std::time::{Duration, Instant};

use ctdb_proto::{Generation, NodeFlags, RunState};
use tracing::info;

use super::Node;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// So many looks are told one by one, and then each of so many.
const TOLD_SINGLY: u32 = 59;
const TOLD_EACH: u32 = 600;

/// How long a node has waited for its `startup` event.
#[derive(Debug, Default)]
pub(crate) struct StartupWait {
    looks: u32,
    next: Option<Instant>,
}

impl StartupWait {
    /// Whether something is to be told now.
    fn is_told(&mut self, now: Instant) -> bool {
        let next = *self.next.get_or_insert(now + INTERVAL);
        if now < next {
            return false;
        }
        self.next = Some(now + INTERVAL);
        self.looks = self.looks.saturating_add(1);
        self.looks <= TOLD_SINGLY || self.looks.is_multiple_of(TOLD_EACH)
    }
}

impl Node {
    pub(super) fn report_startup_wait(&mut self, now: Instant) {
        let starts = matches!(
            self.cluster.run_state,
            RunState::FirstRecovery | RunState::Startup
        );
        if !starts || self.times.startup_running || !self.times.startup_wait.is_told(now) {
            return;
        }
        info!("CTDB_WAIT_UNTIL_RECOVERED");
        if self.cluster.my_flags().contains(NodeFlags::STOPPED) {
            info!("Node is STOPPED. Node will NOT recover.");
        }
        if self.cluster.vnn_map.generation == Generation::INVALID {
            return;
        }
        if self.is_in_recovery() {
            info!("in recovery. Wait one more second");
        } else if self.startup_due().is_none_or(|due| now < due) {
            info!("wait for pending recoveries to end. Wait one more second.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn the_first_looks_are_told_and_then_each_six_hundredth() {
        let mut wait = StartupWait::default();
        let begin = Instant::now();
        assert!(!wait.is_told(begin), "the first look comes after a second");
        let told: Vec<u32> = (1..=1300)
            .filter(|&second| wait.is_told(begin + INTERVAL * second))
            .collect();
        let expected: Vec<u32> = (1..=59).chain([600, 1200]).collect();
        assert_eq!(told, expected);
        assert!(!wait.is_told(begin + INTERVAL * 1300), "twice in a second");
    }
}
