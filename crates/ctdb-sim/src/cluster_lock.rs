//! The cluster lock, as the helpers of all nodes find it: it works, is slow, or is refused; and it
//! can be taken away from who holds it.

use std::time::{Duration, Instant};

use ctdb_core::{ClusterLockEvent, LockAttempt, LockTest};
use ctdb_proto::Pnn;

/// Time that a helper takes for its answer.
const HELPER: Duration = Duration::from_millis(2);
/// A helper that has not answered then is killed (`cluster.md` 4.6).
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// How the file system behaves that the lock is on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LockService {
    #[default]
    Works,
    /// Each answer takes this long.
    Slow(Duration),
    /// Nobody gets an answer but an error.
    Refuses,
}

/// The lock, and who tries to get it.
#[derive(Default)]
pub(crate) struct ClusterLock {
    pub(crate) service: LockService,
    holder: Option<(Pnn, LockAttempt)>,
    trying: Vec<(Pnn, LockAttempt)>,
    /// Whose lock was taken away, and does not know it yet.
    unaware: Vec<Pnn>,
    /// When the last of them came to know it.
    aware_at: Option<Instant>,
}

impl ClusterLock {
    pub(crate) fn holder(&self) -> Option<Pnn> {
        self.holder.map(|(pnn, _)| pnn)
    }

    /// Whether a node may well believe that it holds the lock.
    pub(crate) fn may_believe_to_hold(&self, pnn: Pnn) -> bool {
        self.holder() == Some(pnn) || self.unaware.contains(&pnn)
    }

    /// A helper starts: after which time its try is decided.
    pub(crate) fn begin(&mut self, pnn: Pnn, attempt: LockAttempt) -> Duration {
        self.trying.push((pnn, attempt));
        self.answer_time().min(TIME_LIMIT)
    }

    /// Decides a try. Nothing if the helper was ended before.
    pub(crate) fn decide(&mut self, pnn: Pnn, attempt: LockAttempt) -> Option<ClusterLockEvent> {
        let index = self.trying.iter().position(|one| *one == (pnn, attempt))?;
        self.trying.remove(index);
        Some(match (self.service, self.holder) {
            (LockService::Refuses, _) => ClusterLockEvent::Error,
            (LockService::Slow(takes), _) if takes >= TIME_LIMIT => ClusterLockEvent::Timeout,
            (_, Some(_)) => ClusterLockEvent::Contention,
            (_, None) => {
                self.holder = Some((pnn, attempt));
                ClusterLockEvent::Taken
            }
        })
    }

    /// The helper of that attempt ends.
    pub(crate) fn release(&mut self, pnn: Pnn, attempt: LockAttempt, now: Instant) {
        self.trying.retain(|one| *one != (pnn, attempt));
        self.holder.take_if(|holder| *holder == (pnn, attempt));
        self.is_aware(pnn, now);
    }

    /// All helpers of a node end with it.
    pub(crate) fn forget(&mut self, pnn: Pnn, now: Instant) {
        self.trying.retain(|(one, _)| *one != pnn);
        self.holder.take_if(|(one, _)| *one == pnn);
        self.is_aware(pnn, now);
    }

    /// Takes the lock away from its holder, who does not know it yet.
    pub(crate) fn lose(&mut self) -> Option<(Pnn, LockAttempt)> {
        let lost = self.holder.take()?;
        self.unaware.push(lost.0);
        Some(lost)
    }

    /// The former holder knows.
    pub(crate) fn is_aware(&mut self, pnn: Pnn, now: Instant) {
        if self.unaware.contains(&pnn) {
            self.unaware.retain(|one| *one != pnn);
            self.aware_at = Some(now);
        }
    }

    /// Whether a node believes to hold the lock that does not, or has until so short a time ago.
    pub(crate) fn is_in_doubt(&self, time: Duration, now: Instant) -> bool {
        !self.unaware.is_empty() || self.aware_at.is_some_and(|at| now < at + time)
    }

    /// What a helper finds that only tries the lock, and how long it takes.
    pub(crate) fn test(&self, limit: Duration) -> (Duration, LockTest) {
        let takes = self.answer_time();
        let found = match (self.service, self.holder) {
            (LockService::Refuses, _) => LockTest::Error,
            _ if takes > limit => LockTest::Timeout,
            (_, Some(_)) => LockTest::Contention {
                seconds: takes.as_secs_f64(),
            },
            (_, None) => LockTest::Taken,
        };
        (takes.min(limit), found)
    }

    fn answer_time(&self) -> Duration {
        match self.service {
            LockService::Slow(takes) => takes,
            LockService::Works | LockService::Refuses => HELPER,
        }
    }
}
