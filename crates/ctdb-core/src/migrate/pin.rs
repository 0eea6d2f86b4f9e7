//! Records that stay on this node for a moment, although other nodes want them
//! (data-plane.md 5.1, 14).
//!
//! A *sticky* record, which calls had to chase, is pinned when it comes to a node. Calls of other
//! nodes wait in order; those of local clients do not.
//!
//! Other records are not pinned, not even for the client that they came for: of the contended
//! migrations of `ctdb_bench` fewer than one in a hundred found that the record had left again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::job::PeerCall;

/// The pinned and the sticky records of one database.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pins: BTreeMap<Bytes, Pin>,
    /// Until when a record is sticky.
    sticky: HashMap<Bytes, Instant>,
}

#[derive(Debug)]
struct Pin {
    until: Instant,
    waiting: VecDeque<PeerCall>,
}

impl Pins {
    /// Whether a call of another node must wait. Also past the time, while earlier ones wait.
    pub(super) fn holds(&self, key: &[u8], now: Instant) -> bool {
        self.pins
            .get(key)
            .is_some_and(|pin| now < pin.until || !pin.waiting.is_empty())
    }

    /// Puts a call in line; gives it back if the record is not pinned any more.
    pub(super) fn wait(&mut self, key: &[u8], call: PeerCall) -> Result<(), PeerCall> {
        let Some(pin) = self.pins.get_mut(key) else {
            return Err(call);
        };
        pin.waiting.push_back(call);
        Ok(())
    }

    /// Pins a record that is not pinned. Never extended: a pin always ends.
    pub(super) fn pin(&mut self, key: &Bytes, time: Duration, now: Instant) {
        if self.holds(key, now) {
            return;
        }
        self.pins
            .retain(|_, pin| now < pin.until || !pin.waiting.is_empty());
        self.pins.insert(
            key.clone(),
            Pin {
                until: now + time,
                waiting: VecDeque::new(),
            },
        );
    }

    pub(super) fn is_sticky(&self, key: &[u8], now: Instant) -> bool {
        self.sticky.get(key).is_some_and(|until| now < *until)
    }

    /// Makes a record sticky; one that is keeps its time. `false` if it was.
    pub(super) fn make_sticky(&mut self, key: &Bytes, time: Duration, now: Instant) -> bool {
        if self.is_sticky(key, now) {
            return false;
        }
        self.sticky.retain(|_, until| now < *until);
        self.sticky.insert(super::kept(key), now + time);
        true
    }

    /// The calls whose pin has ended, each key's in order.
    pub(super) fn ended(&mut self, now: Instant) -> Vec<PeerCall> {
        let over = |pin: &Pin| pin.until <= now;
        let ended: Vec<Bytes> = self
            .pins
            .iter()
            .filter(|(_, p)| over(p))
            .map(|(key, _)| key.clone())
            .collect();
        ended
            .iter()
            .filter_map(|key| self.pins.remove(key))
            .flat_map(|pin| pin.waiting)
            .collect()
    }

    /// When the next call has waited long enough. Pins that nobody waits for need no waking.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.pins
            .values()
            .filter(|p| !p.waiting.is_empty())
            .map(|p| p.until)
            .min()
    }
}
