//! The cluster lock, as its holder and its contenders see it.
//!
//! ```text
//!            take                   Taken
//!  Unheld ---------> Taking ---------------------> Held
//!    ^                 | Contention, Timeout, Error  | Lost, release
//!    +-----------------+-----------------------------+
//! ```
//!
//! The helper process that really holds it belongs to the daemon (`cluster.md 4.6`).

use std::time::Duration;

use tracing::{error, info};

use crate::mutation::{self, Mutation};
use crate::recoverd::LOG;
use crate::recoverd::outbox::{LockAttempt, Outbox, RecoverdEffect};

/// What the lock helper reports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClusterLockEvent {
    /// The lock is ours until `Lost`, or until we release it.
    Taken,
    /// Another process holds it.
    Contention,
    /// The helper did not answer in time.
    Timeout,
    /// The helper answered something else, or nothing.
    Error,
    /// The helper has ended although it held the lock.
    Lost,
}

/// What a helper's report means for the election.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LockOutcome {
    Taken,
    NotTaken,
    Lost,
    /// A report of a helper that was stopped, or out of place.
    Stale,
}

/// The own node's share in the cluster lock.
#[derive(Debug)]
pub(crate) struct ClusterLock {
    /// The configured lock: a file, or `!` and a command. `None`: the cluster has no lock.
    name: Option<String>,
    state: State,
    /// The last try; reports of older ones are stale.
    attempt: LockAttempt,
    /// Tries in a row that found it taken.
    contended: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Unheld,
    Taking,
    Held,
}

impl ClusterLock {
    pub(crate) fn new(name: Option<String>) -> Self {
        Self {
            name,
            state: State::Unheld,
            attempt: LockAttempt(0),
            contended: 0,
        }
    }

    pub(crate) fn is_configured(&self) -> bool {
        self.name.is_some()
    }

    pub(crate) fn is_held(&self) -> bool {
        self.state == State::Held
    }

    /// Whether nothing about the lock forbids to lead: it is held, or there is none.
    pub(crate) fn permits_leading(&self) -> bool {
        !self.is_configured() || self.is_held()
    }

    /// Starts a try. Does nothing while one is under way or the lock is held.
    pub(crate) fn take(&mut self, out: &mut Outbox) {
        let Some(name) = self.name.as_deref().filter(|_| self.state == State::Unheld) else {
            return;
        };
        info!(target: LOG, "Attempting to take cluster lock ({name})");
        self.state = State::Taking;
        self.attempt = LockAttempt(self.attempt.0 + 1);
        out.push(RecoverdEffect::TakeClusterLock(self.attempt));
    }

    /// Gives the lock up, or stops trying.
    pub(crate) fn release(&mut self, out: &mut Outbox) {
        if self.state == State::Unheld {
            return;
        }
        if self.state == State::Held {
            info!(target: LOG, "Releasing cluster lock");
        }
        self.state = State::Unheld;
        out.push(RecoverdEffect::ReleaseClusterLock(self.attempt));
    }

    /// Takes a report of a helper.
    pub(crate) fn on_event(
        &mut self,
        attempt: LockAttempt,
        event: ClusterLockEvent,
    ) -> LockOutcome {
        if attempt != self.attempt {
            return LockOutcome::Stale;
        }
        match (self.state, event) {
            (State::Taking, ClusterLockEvent::Contention)
                if mutation::is_on(Mutation::TwoLeaders) =>
            {
                self.state = State::Held;
                LockOutcome::Taken
            }
            (State::Taking, ClusterLockEvent::Taken) => {
                info!(target: LOG, "Cluster lock taken successfully");
                self.state = State::Held;
                self.contended = 0;
                LockOutcome::Taken
            }
            (State::Held, ClusterLockEvent::Lost) => {
                error!(target: LOG, "Cluster lock helper terminated");
                self.state = State::Unheld;
                LockOutcome::Lost
            }
            (State::Taking, failure) => {
                let reason = match failure {
                    ClusterLockEvent::Contention => "contention",
                    ClusterLockEvent::Timeout => "timeout",
                    _ => "unknown error",
                };
                error!(target: LOG, "Unable to take cluster lock - {reason}");
                self.state = State::Unheld;
                self.contended = self.contended.saturating_add(1);
                LockOutcome::NotTaken
            }
            // Taken after we had given up: the release that was sent stops the helper.
            (State::Unheld | State::Held, _) => LockOutcome::Stale,
        }
    }

    /// Somebody else holds it, as far as is known.
    pub(crate) fn is_elsewhere(&self) -> bool {
        !self.is_held() && self.contended > 0
    }

    /// A leader is known: the next race is a new one.
    pub(crate) fn forget_races(&mut self) {
        self.contended = 0;
    }

    /// How long to wait for the winner of a race before the next try. The lock of a killed leader
    /// stays for a moment, until its helper notices; a lock that stays for longer is tried less
    /// and less often.
    pub(crate) fn retry_delay(&self) -> Duration {
        let doublings = self.contended.saturating_sub(QUICK_RETRIES).min(5);
        RETRY_PAUSE * 2u32.pow(doublings)
    }
}

/// First pauses between two tries to get the lock, and their number.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
const QUICK_RETRIES: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_report_means_one_thing_in_each_state() {
        use ClusterLockEvent as E;
        use LockOutcome as O;
        // State before the report, the report, what it means, whether the lock is held then.
        let table = [
            ("taking", E::Taken, O::Taken, true),
            ("taking", E::Contention, O::NotTaken, false),
            ("taking", E::Timeout, O::NotTaken, false),
            ("taking", E::Error, O::NotTaken, false),
            ("taking", E::Lost, O::NotTaken, false),
            ("held", E::Lost, O::Lost, false),
            ("held", E::Contention, O::Stale, true),
            ("unheld", E::Taken, O::Stale, false),
            ("unheld", E::Lost, O::Stale, false),
        ];
        for (state, event, expected, held) in table {
            let mut out = Outbox::default();
            let mut lock = ClusterLock::new(Some("/cluster/lock".into()));
            if state != "unheld" {
                lock.take(&mut out);
            }
            if state == "held" {
                lock.on_event(LockAttempt(1), E::Taken);
            }
            let outcome = lock.on_event(LockAttempt(1), event);
            assert_eq!(
                (outcome, lock.is_held()),
                (expected, held),
                "{state} {event:?}"
            );
        }
    }

    #[test]
    fn without_a_lock_nothing_is_taken() {
        let mut out = Outbox::default();
        let mut lock = ClusterLock::new(None);
        lock.take(&mut out);
        assert!(lock.permits_leading());
        assert_eq!(out.pop(), None);
    }

    #[test]
    fn a_report_of_an_older_attempt_is_stale() {
        let mut out = Outbox::default();
        let mut lock = ClusterLock::new(Some("/cluster/lock".into()));
        lock.take(&mut out);
        lock.release(&mut out);
        lock.take(&mut out);
        let late = (LockAttempt(1), ClusterLockEvent::Taken);
        assert_eq!(lock.on_event(late.0, late.1), LockOutcome::Stale);
        assert!(!lock.is_held());
    }

    #[test]
    fn retries_come_slower_each_time() {
        let mut out = Outbox::default();
        let mut lock = ClusterLock::new(Some("/cluster/lock".into()));
        let mut delays = Vec::new();
        for raw in 1..=14 {
            lock.take(&mut out);
            let (attempt, event) = (LockAttempt(raw), ClusterLockEvent::Contention);
            lock.on_event(attempt, event);
            delays.push(lock.retry_delay().as_millis());
        }
        assert_eq!(delays[..8], [250; 8]);
        assert_eq!(delays[8..], [500, 1000, 2000, 4000, 8000, 8000]);
    }
}
