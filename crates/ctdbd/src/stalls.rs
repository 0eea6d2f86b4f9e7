//! Notices when the core task stands still, or was not let run: what operators look for first when a
//! node was taken for dead (cluster.md 1.6).

use std::time::{Duration, Instant};

use tracing::error;

/// A longer turn, or a longer time without one, is told. The node wakes every second at least.
const LIMIT: Duration = Duration::from_secs(3);

/// When the turns of the core task began and ended.
#[derive(Debug)]
pub(crate) struct Stalls {
    began: Instant,
    ended: Instant,
}

impl Stalls {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            began: now,
            ended: now,
        }
    }

    /// There is something to do.
    pub(crate) fn turn_began(&mut self, now: Instant) {
        self.began = now;
        if let Some(seconds) = too_long(self.ended, now) {
            error!("No event for {seconds} seconds!");
        }
    }

    /// All is done that there was to do.
    pub(crate) fn turn_ended(&mut self, now: Instant) {
        self.ended = now;
        if let Some(seconds) = too_long(self.began, now) {
            error!("Handling event took {seconds} seconds!");
        }
    }
}

/// How many whole seconds it took, if that is worth a line.
fn too_long(from: Instant, to: Instant) -> Option<u64> {
    let took = to.saturating_duration_since(from);
    (took > LIMIT).then_some(took.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_longer_than_the_limit_is_told() {
        let from = Instant::now();
        assert_eq!(too_long(from, from + LIMIT), None);
        assert_eq!(too_long(from, from + LIMIT * 3 / 2), Some(4));
        assert_eq!(too_long(from + LIMIT * 2, from), None, "out of order");
    }
}
