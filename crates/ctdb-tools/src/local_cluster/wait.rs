//! Waiting for a condition, never for a fixed time.

use std::thread;
use std::time::{Duration, Instant};

/// Asks `condition` every few milliseconds until it holds or `limit` has passed; says whether it held.
///
/// It is asked at least once, and once more after the limit: a machine that slept for a second
/// between two questions does not make a test fail.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        let last = Instant::now() >= deadline;
        if condition() {
            return true;
        }
        if last {
            return false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Short enough that a measured time is right to a twentieth of a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut asked = 0;
        let held = wait_until(Duration::from_secs(10), || {
            asked += 1;
            asked == 3
        });
        assert!(held);
        assert_eq!(asked, 3);
    }

    #[test]
    fn a_condition_that_stays_false_is_given_up() {
        assert!(!wait_until(Duration::from_millis(20), || false));
    }
}
