//! How far a long dump or conversion has come, for a user who watches.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use crate::complain;

/// Short work shows nothing at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time between two messages.
const INTERVAL: Duration = Duration::from_millis(500);

/// Counts records on standard error, if that is a terminal.
pub(crate) struct Progress {
    pace: Option<Pace>,
    count: u64,
}

impl Progress {
    /// `wanted`: nothing else shows the user that there is work being done.
    pub(crate) fn new(wanted: bool) -> Self {
        let is_watched = wanted && io::stderr().is_terminal();
        Self {
            pace: is_watched.then(|| Pace::new(Instant::now())),
            count: 0,
        }
    }

    /// One more record.
    pub(crate) fn step(&mut self) {
        self.count += 1;
        if let Some(pace) = &mut self.pace
            && pace.is_due(Instant::now())
        {
            complain(&format!("\r{} records", self.count));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.pace.as_ref().is_some_and(|pace| pace.has_shown) {
            // Back to the start of the line, which is wiped.
            complain("\r\x1b[K");
        }
    }
}

/// When a message is due.
struct Pace {
    next: Instant,
    has_shown: bool,
}

impl Pace {
    fn new(start: Instant) -> Self {
        Self {
            next: start + PATIENCE,
            has_shown: false,
        }
    }

    /// Whether to show a message now; if so, the next one is not due before [`INTERVAL`].
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next;
        if is_due {
            self.next = now + INTERVAL;
            self.has_shown = true;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_begin_after_a_second_and_keep_their_distance() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let due = [0, 999, 1000, 1001, 1499, 1500, 1501, 4000, 4001, 4499, 4500]
            .map(|at| pace.is_due(start + Duration::from_millis(at)));
        let expected = [
            false, false, true, false, false, true, false, true, false, false, true,
        ];
        assert_eq!(due, expected);
    }

    #[test]
    fn short_work_leaves_no_line_to_wipe() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!(!pace.is_due(start + Duration::from_millis(900)));
        assert!(!pace.has_shown);
        assert!(pace.is_due(start + Duration::from_millis(1100)));
        assert!(pace.has_shown);
    }
}
