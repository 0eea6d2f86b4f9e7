//! When the `monitor` event runs, and what its result means (cluster.md 8.2, events.md 2.3).

use std::time::{Duration, Instant};

use crate::effect::EventOutcome;

/// Before the first run, and the first waits after the start.
const FIRST_INTERVAL: Duration = Duration::from_secs(2);
/// After a change of health.
const CHANGED_INTERVAL: Duration = Duration::from_secs(5);

/// The schedule of the `monitor` event.
#[derive(Debug)]
pub(crate) struct Monitor {
    next: Option<Instant>,
    interval: Duration,
    /// Runs in a row that ran out of time.
    timeouts: u32,
}

/// What a run of the event says of the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Health {
    Unchanged,
    Healthy,
    Unhealthy,
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            next: None,
            interval: FIRST_INTERVAL,
            timeouts: 0,
        }
    }
}

impl Monitor {
    /// The node is RUNNING.
    pub(crate) fn start(&mut self, now: Instant) {
        self.interval = FIRST_INTERVAL;
        self.next = Some(now + FIRST_INTERVAL);
    }

    pub(crate) fn stop(&mut self) {
        self.next = None;
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Whether the event is due. The caller then runs it or says [`Self::skipped`].
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_some_and(|at| at <= now);
        if due {
            self.next = None;
        }
        due
    }

    /// The node is in no state to be monitored: again after the current interval.
    pub(crate) fn skipped(&mut self, now: Instant) {
        self.next = Some(now + self.interval);
    }

    /// A run ended. `longest` is `MonitorInterval`, `tolerated` is `MonitorTimeoutCount`.
    pub(crate) fn finished(
        &mut self,
        outcome: EventOutcome,
        is_healthy: bool,
        (longest, tolerated): (Duration, u32),
        now: Instant,
    ) -> Health {
        let health = self.judge(outcome, is_healthy, tolerated);
        if health != Health::Unchanged {
            self.interval = CHANGED_INTERVAL;
        }
        self.next = Some(now + self.interval);
        self.interval = (self.interval * 2).min(longest);
        health
    }

    fn judge(&mut self, outcome: EventOutcome, is_healthy: bool, tolerated: u32) -> Health {
        let failed = match outcome {
            EventOutcome::Cancelled => {
                tracing::warn!("Monitoring event was cancelled");
                return Health::Unchanged;
            }
            EventOutcome::TimedOut => {
                self.timeouts += 1;
                if self.timeouts < tolerated {
                    return Health::Unchanged;
                }
                tracing::error!(
                    "Maximum monitor timeout count {} reached. Making node unhealthy",
                    self.timeouts
                );
                true
            }
            EventOutcome::Ok => {
                self.timeouts = 0;
                false
            }
            EventOutcome::Failed { .. } => {
                self.timeouts = 0;
                true
            }
        };
        match (failed, is_healthy) {
            (true, true) => Health::Unhealthy,
            (false, false) => Health::Healthy,
            _ => Health::Unchanged,
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test is the caller that gives the time"
)]
mod tests {
    use super::*;

    const LIMITS: (Duration, u32) = (Duration::from_secs(15), 3);
    const FAILED: EventOutcome = EventOutcome::Failed { status: 1 };

    /// Waits after each run, in seconds.
    fn waits(monitor: &mut Monitor, runs: &[(EventOutcome, bool)]) -> Vec<u64> {
        let now = Instant::now();
        let mut waits = Vec::new();
        for (outcome, healthy) in runs {
            monitor.finished(*outcome, *healthy, LIMITS, now);
            waits.push(monitor.next.unwrap().duration_since(now).as_secs());
        }
        waits
    }

    #[test]
    fn waits_grow_after_a_change_of_health() {
        let mut monitor = Monitor::default();
        let runs = [
            (EventOutcome::Ok, false),
            (EventOutcome::Ok, true),
            (EventOutcome::Ok, true),
        ];
        assert_eq!(waits(&mut monitor, &runs), [5, 10, 15]);
    }

    #[test]
    fn a_node_that_stays_sick_is_asked_after_2_4_8_15() {
        let mut monitor = Monitor::default();
        assert_eq!(
            waits(&mut monitor, &[(FAILED, false); 5]),
            [2, 4, 8, 15, 15]
        );
    }

    #[test]
    fn hung_scripts_are_tolerated_for_some_runs() {
        let (mut monitor, now) = (Monitor::default(), Instant::now());
        let mut run = |outcome| monitor.finished(outcome, true, LIMITS, now);
        assert_eq!(run(EventOutcome::TimedOut), Health::Unchanged);
        assert_eq!(run(EventOutcome::TimedOut), Health::Unchanged);
        assert_eq!(run(EventOutcome::Ok), Health::Unchanged, "resets the count");
        assert_eq!(run(EventOutcome::TimedOut), Health::Unchanged);
        assert_eq!(run(EventOutcome::Cancelled), Health::Unchanged, "does not");
        assert_eq!(run(EventOutcome::TimedOut), Health::Unchanged);
        assert_eq!(run(EventOutcome::TimedOut), Health::Unhealthy);
    }
}
