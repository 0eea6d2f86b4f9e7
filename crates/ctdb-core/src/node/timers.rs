//! Everything that happens because time has passed.

use std::time::{Duration, Instant};

use super::Node;
use crate::input::LinkEnd;
use crate::outstanding::NoAnswer;

/// The node asks to be woken at least this often, so that no clock is forgotten for long.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

impl Node {
    /// When to be woken.
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        [
            self.peers.poll_timeout(),
            self.cluster.outstanding.poll_timeout(),
            self.migrator.poll_timeout(),
            self.recoverd_wake,
            self.traverses.poll_timeout(),
            self.monitor.poll_timeout(),
            self.deferred_attaches
                .iter()
                .map(super::super::serve::attach::DeferredAttach::deadline)
                .min(),
            self.commit_deadline(),
            self.ban.map(|ban| ban.until),
            self.times.drop_addresses,
            self.times.seqnum_tick,
            self.stat_history.poll_timeout(),
            self.startup_due().filter(|due| *due > now),
        ]
        .into_iter()
        .flatten()
        .fold(now + LONGEST_SLEEP, Instant::min)
    }

    pub(super) fn run_timers(&mut self, now: Instant) {
        for (pnn, intervals) in self.peers.handle_timeout(&mut self.cluster, now) {
            let why = format!("nothing was heard of it for {intervals} keepalive intervals");
            let by_peer = false;
            self.peer_lost(pnn, LinkEnd { why, by_peer }, now);
        }
        for asker in self.cluster.expired_controls(now) {
            let timeouts = &mut self.cluster.statistics.timeouts;
            timeouts.control = timeouts.control.wrapping_add(1);
            self.give_no_answer(asker, NoAnswer::TimedOut, now);
        }
        self.migrator.handle_timeout(&mut self.cluster, now);
        self.traverses
            .handle_timeout(&self.clients, &mut self.cluster, now);
        self.commits_timed_out(now);
        self.deferred_attaches_due(now);
        self.ban_over(now);
        self.announce_seqnums(now);
        self.drop_addresses_when_due(now);
        self.monitor_when_due(now);
        self.end_statistics_interval(now);
        self.wake_recoverd(now);
    }
}
