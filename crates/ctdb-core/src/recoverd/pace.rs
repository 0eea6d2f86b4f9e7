//! How soon after a recovery the next one may come.
//!
//! The original allows none for `RerecoveryTimeout` (10 s) after a recovery, whatever happens: a
//! node that is lost meanwhile blocks its records until then. Here it depends on the reason:
//!
//! - A member of the vnn map is lost: at once. This cannot go on for ever by itself, since the
//!   node has to come back before it can be lost again.
//! - A node waits to take part, or is in recovery mode: soon. The first at once, each further one
//!   of a series after a longer pause, up to `RerecoveryTimeout`. This is what a node that comes
//!   and goes, or that disturbs others, is slowed down by. A series goes on with a recovery that
//!   begins soon after the pause; one that comes later, as when an operator asks for one now and
//!   then, does not have to wait.
//! - Nodes disagree although all of them work: not within `RerecoveryTimeout`.

use std::time::{Duration, Instant};

use crate::explain::RecoveryReason;

/// How much a recovery matters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Urgency {
    AtOnce,
    Soon,
    Settled,
}

/// How much a recovery for this reason matters.
pub(crate) fn urgency(reason: &RecoveryReason) -> Urgency {
    match reason {
        RecoveryReason::MemberLost(_) | RecoveryReason::PreviousFailed => Urgency::AtOnce,
        RecoveryReason::NodeInRecovery(_)
        | RecoveryReason::MemberMissing(_)
        | RecoveryReason::MemberResigned(_)
        | RecoveryReason::ClusterLockNotHeld => Urgency::Soon,
        RecoveryReason::NodeCount { .. }
        | RecoveryReason::NodemapPnn { .. }
        | RecoveryReason::MapGeneration { .. }
        | RecoveryReason::MapSize { .. }
        | RecoveryReason::MapContent { .. } => Urgency::Settled,
    }
}

/// Pause before the second recovery of a series.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// When the last recovery ended, and how many came before it without a rest.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last_end: Option<Instant>,
    /// When the recovery began that runs now.
    started: Option<Instant>,
    series: u32,
}

impl Pace {
    /// A recovery begins.
    pub(crate) fn on_start(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// A recovery was successful. `rest` is `RerecoveryTimeout`.
    pub(crate) fn on_end(&mut self, rest: Duration, now: Instant) {
        let started = self.started.take().unwrap_or(now);
        let soon = self.pause(rest).max(FIRST_PAUSE) * 2;
        let is_soon = self.last_end.is_some_and(|end| started < end + soon);
        self.series = if is_soon {
            self.series.saturating_add(1)
        } else {
            0
        };
        self.last_end = Some(now);
    }

    /// The earliest time for the next one; `None`: any time.
    pub(crate) fn earliest(&self, urgency: Urgency, rest: Duration) -> Option<Instant> {
        let end = self.last_end?;
        match urgency {
            Urgency::AtOnce => None,
            Urgency::Soon if self.series == 0 => None,
            Urgency::Soon => Some(end + self.pause(rest)),
            Urgency::Settled => Some(end + rest),
        }
    }

    /// Pause after the last recovery of the series.
    fn pause(&self, rest: Duration) -> Duration {
        let Some(doublings) = self.series.checked_sub(1) else {
            return Duration::ZERO;
        };
        rest.min(FIRST_PAUSE * 2u32.pow(doublings.min(10)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recoverd::tests::epoch;

    const REST: Duration = Duration::from_secs(10);

    #[test]
    fn a_series_of_recoveries_becomes_slower() {
        let mut pace = Pace::default();
        assert_eq!(pace.earliest(Urgency::Settled, REST), None);
        let mut now = epoch();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pace.on_end(REST, now);
            let next = pace.earliest(Urgency::Soon, REST).unwrap_or(now);
            pauses.push(next.duration_since(now).as_millis());
            now = next.min(now + Duration::from_millis(9999));
        }
        assert_eq!(pauses, [0, 250, 500, 1000, 2000, 4000, 8000, 10000, 10000]);
    }

    #[test]
    fn a_rest_ends_the_series() {
        let mut pace = Pace::default();
        pace.on_end(REST, epoch());
        pace.on_end(REST, epoch());
        pace.on_end(REST, epoch() + REST);
        assert_eq!(pace.earliest(Urgency::Soon, REST), None);
    }

    #[test]
    fn a_recovery_every_few_seconds_does_not_wait() {
        let mut pace = Pace::default();
        for round in 0..20 {
            let start = epoch() + REST / 2 * round;
            let earliest = pace.earliest(Urgency::Soon, REST);
            assert!(earliest.is_none_or(|at| at <= start), "round {round}");
            pace.on_start(start);
            pace.on_end(REST, start + REST / 5);
        }
    }

    #[test]
    fn a_lost_member_never_waits_and_a_quarrel_always() {
        let mut pace = Pace::default();
        pace.on_end(REST, epoch());
        assert_eq!(pace.earliest(Urgency::AtOnce, REST), None);
        assert_eq!(pace.earliest(Urgency::Settled, REST), Some(epoch() + REST));
    }
}
