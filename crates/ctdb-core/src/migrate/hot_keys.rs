//! Which records of a database come to this node most often (data-plane.md 5.3).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Counts are per second.
const WINDOW: Duration = Duration::from_secs(1);
/// Counters that are older than the window are dropped this often.
const PURGE_INTERVAL: Duration = Duration::from_secs(10);
/// Length of the list.
pub(crate) const HOT_KEYS: usize = 10;

/// Counters for all records that arrived lately, and the list of the hottest ever.
#[derive(Debug, Default)]
pub(crate) struct HotKeys {
    counters: HashMap<Bytes, Counter>,
    top: Vec<HotKey>,
    next_purge: Option<Instant>,
}

#[derive(Debug)]
struct Counter {
    since: Instant,
    count: u32,
}

/// One of the hottest records.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HotKey {
    pub(crate) key: Bytes,
    /// Most arrivals in one second.
    pub(crate) count: u32,
    last_logged: u32,
}

impl HotKeys {
    /// The record came to this node because a call here wanted it.
    pub(super) fn count(&mut self, db_name: &str, key: &Bytes, now: Instant) {
        self.purge(now);
        let count = if let Some(counter) = self.counters.get_mut(key) {
            counter.increment(now)
        } else {
            self.counters.insert(
                super::kept(key),
                Counter {
                    since: now,
                    count: 1,
                },
            );
            1
        };
        self.rank(db_name, key, count);
    }

    /// Ascending by count; at most [`HOT_KEYS`].
    pub(crate) fn top(&self) -> &[HotKey] {
        &self.top
    }

    /// Forgets the list (`STATISTICS_RESET`).
    pub(crate) fn reset(&mut self) {
        self.top.clear();
    }

    fn rank(&mut self, db_name: &str, key: &Bytes, count: u32) {
        let full = self.top.len() >= HOT_KEYS;
        if full && self.top.first().is_some_and(|lowest| count <= lowest.count) {
            return;
        }
        if let Some(hot) = self.top.iter_mut().find(|hot| hot.key == *key) {
            if count <= hot.count {
                return;
            }
            hot.count = count;
            if count >= hot.last_logged.saturating_mul(2) {
                hot.last_logged = count;
                tracing::info!("Updated hot key database={db_name} key={key:X} count={count}");
            }
        } else {
            if full {
                self.top.remove(0);
            }
            tracing::info!("Added hot key database={db_name} key={key:X} count={count}");
            self.top.push(HotKey {
                key: super::kept(key),
                count,
                last_logged: count,
            });
        }
        self.top.sort_by_key(|hot| hot.count);
    }

    fn purge(&mut self, now: Instant) {
        if self.next_purge.is_none_or(|at| at <= now) {
            self.next_purge = Some(now + PURGE_INTERVAL);
            self.counters.retain(|_, counter| !counter.is_over(now));
        }
    }
}

impl Counter {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }

    fn increment(&mut self, now: Instant) -> u32 {
        if self.is_over(now) {
            *self = Self {
                since: now,
                count: 0,
            };
        }
        self.count += 1;
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Bytes {
        Bytes::from(format!("key{n:02}"))
    }

    fn counts(keys: &HotKeys) -> Vec<(Bytes, u32)> {
        keys.top()
            .iter()
            .map(|hot| (hot.key.clone(), hot.count))
            .collect()
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn the_hottest_come_last_and_the_coldest_gives_way() {
        let now = Instant::now();
        let mut keys = HotKeys::default();
        for n in 0..10 {
            for _ in 0..=n {
                keys.count("db", &key(n), now);
            }
        }
        let expected: Vec<_> = (0..10).map(key).zip(1..).collect();
        assert_eq!(counts(&keys), expected);

        keys.count("db", &key(77), now);
        assert_eq!(
            counts(&keys),
            expected,
            "a count of 1 does not beat a count of 1"
        );
        keys.count("db", &key(77), now);
        let now_hot = counts(&keys);
        assert!(now_hot.contains(&(key(77), 2)) && !now_hot.contains(&(key(0), 1)));
        assert_eq!(now_hot.len(), HOT_KEYS);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_counter_starts_again_after_a_second() {
        let now = Instant::now();
        let mut keys = HotKeys::default();
        for ms in [0, 400, 999] {
            keys.count("db", &key(1), now + Duration::from_millis(ms));
        }
        keys.count("db", &key(1), now + Duration::from_secs(1));
        assert_eq!(
            counts(&keys),
            [(key(1), 3)],
            "the list keeps the best second"
        );
        assert_eq!(keys.counters[&key(1)].count, 1);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn old_counters_are_dropped() {
        let now = Instant::now();
        let mut keys = HotKeys::default();
        for n in 0..100 {
            keys.count("db", &key(n), now);
        }
        keys.count("db", &key(0), now + Duration::from_secs(11));
        assert_eq!(keys.counters.len(), 1);
    }
}
