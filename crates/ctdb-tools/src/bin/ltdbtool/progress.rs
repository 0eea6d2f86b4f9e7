//! How far a long dump or conversion has come, for a user who watches.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use crate::complain;

/// Time between two messages, and before the first.
const INTERVAL: Duration = Duration::from_millis(500);

/// Records between two looks at the clock.
const STRIDE: u64 = 1024;

/// Counts records on standard error, if that is a terminal.
pub(crate) struct Progress {
    wanted: bool,
    count: u64,
    last: Instant,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(wanted: bool) -> Self {
        Self {
            wanted: wanted && io::stderr().is_terminal(),
            count: 0,
            last: Instant::now(),
            shown: false,
        }
    }

    /// One more record.
    pub(crate) fn step(&mut self) {
        self.count += 1;
        if self.wanted && self.count.is_multiple_of(STRIDE) && self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            self.shown = true;
            complain(&format!("\r{} records", self.count));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            // Back to the start of the line, which is wiped.
            complain("\r\x1b[K");
        }
    }
}
