//! For how long a node may let its records be used without a word of the leader, and what the
//! leader knows about that.
//!
//! ```text
//!  follower                               leader, which holds the cluster lock
//!     |  LEADER, once a second               |
//!     | <------------------------------------|
//!     |  LEASE_REQUEST, own time t           |
//!     |------------------------------------->|  notes that it grants, now
//!     |  LEASE_GRANT, t                      |
//!     | <------------------------------------|
//!     |  may go on until t + length          |  knows that it stops by now + length
//! ```
//!
//! With a cluster lock only its holder recovers. A node that the holder does not reach any more may
//! still work with the records of the last recovery; the leader must not take them to another
//! generation before it has stopped. Both sides count from a moment of their own clock, and the one
//! of the follower is the earlier one: however long a message is under way, the follower stops
//! first. A new holder of the lock counts from when it took it: the one before grants nothing then.
//!
//! A leader of the original grants nothing, and waits for nobody: its broadcasts have to do. Ours
//! says that it grants before its first broadcast on a connection, so that they are told apart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ctdb_proto::{Generation, Message, NodeFlags, Pnn};

use crate::recoverd::outbox::Outbox;
use crate::recoverd::view::{NodeView, View};

/// How many leader timeouts a node goes on without a word of the leader: it takes one to miss it,
/// and an election must have time to end.
const TIMEOUTS: u32 = 2;
/// A node asks so often in a leader timeout.
const REQUESTS: u32 = 4;

/// Both sides: the own lease, and those that this node grants as leader.
#[derive(Debug)]
pub(crate) struct Lease {
    length: Duration,
    pause: Duration,
    /// Own time in requests counts from here.
    start: Instant,
    until: Instant,
    /// Who let this node go on until then; itself, as holder of the lock.
    from: Option<Pnn>,
    asked: Option<(Pnn, Instant)>,
    /// Leaders that answer requests.
    grantors: BTreeSet<Pnn>,
    /// In which generation this node went on for longer than it might: others may be in a later
    /// one since.
    ran_out_in: Option<Generation>,

    /// Since when this node holds the cluster lock.
    lock_since: Option<Instant>,
    /// Whom this node has told that it grants.
    told: BTreeSet<Pnn>,
    /// Who asked when, last.
    granted: BTreeMap<Pnn, Instant>,
    /// Connected nodes that have ever asked: they run this daemon.
    ours: BTreeSet<Pnn>,
}

impl Lease {
    pub(crate) fn new(leader_timeout: Duration, now: Instant) -> Self {
        let length = leader_timeout * TIMEOUTS;
        Self {
            length,
            pause: leader_timeout / REQUESTS,
            start: now,
            until: now + length,
            from: None,
            asked: None,
            grantors: BTreeSet::new(),
            ran_out_in: None,
            lock_since: None,
            told: BTreeSet::new(),
            granted: BTreeMap::new(),
            ours: BTreeSet::new(),
        }
    }

    /// Takes notice of who holds the cluster lock, and who is connected. Who holds it goes on.
    pub(crate) fn look(&mut self, holds_lock: bool, view: &View<'_>, now: Instant) {
        self.grantors.retain(|pnn| view.is_connected(*pnn));
        self.told.retain(|pnn| view.is_connected(*pnn));
        self.ours.retain(|pnn| view.is_connected(*pnn));
        if holds_lock {
            self.lock_since.get_or_insert(now);
            self.renew(view.me, now);
        } else if self.lock_since.take().is_some() {
            self.granted.clear();
        }
        if now >= self.until {
            self.ran_out_in = Some(view.vnn_map.generation);
        }
    }

    fn renew(&mut self, from: Pnn, since: Instant) {
        let until = since + self.length;
        if self.from != Some(from) || until > self.until {
            self.until = until.max(self.until);
            self.from = Some(from);
        }
    }

    /// The cluster lock is lost: another node may have it.
    pub(crate) fn end(&mut self, now: Instant) {
        self.until = self.until.min(now);
    }

    /// Until when this node may let records be used.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// The node that let this one go on, if the connection to it is gone.
    pub(crate) fn lost_grantor(&self, view: &View<'_>) -> Option<Pnn> {
        self.from.filter(|pnn| !view.is_connected(*pnn))
    }

    /// The leader says that it leads: asks it, if it is time.
    pub(crate) fn on_leader(&mut self, leader: Pnn, out: &mut Outbox, now: Instant) {
        if !self.grantors.contains(&leader) {
            self.renew(leader, now);
        }
        let is_due = |(asked, at): (Pnn, Instant)| asked != leader || now >= at + self.pause;
        if self.asked.is_none_or(is_due) {
            self.asked = Some((leader, now));
            let elapsed = now.saturating_duration_since(self.start).as_micros();
            let time = u64::try_from(elapsed).unwrap_or(u64::MAX).max(1);
            out.message(leader, &Message::LeaseRequest(time));
        }
    }

    /// A node answers a request, or says that it answers them.
    pub(crate) fn on_grant(&mut self, from: Pnn, time: u64, leader: Option<Pnn>, now: Instant) {
        self.grantors.insert(from);
        let asked_at = self.start.checked_add(Duration::from_micros(time));
        if let Some(asked_at) = asked_at
            && time != 0
            && leader == Some(from)
        {
            self.renew(from, asked_at.min(now));
        }
    }

    /// This node is going to say that it leads: who does not know yet that it grants is told.
    pub(crate) fn tell(&mut self, view: &View<'_>, out: &mut Outbox) {
        for pnn in view.connected_peers() {
            if self.told.insert(pnn) {
                out.message(pnn, &Message::LeaseGrant(0));
            }
        }
    }

    /// This node leads, and another one asks.
    pub(crate) fn grant(&mut self, to: Pnn, time: u64, out: &mut Outbox, now: Instant) {
        self.granted.insert(to, now);
        self.ours.insert(to);
        out.message(to, &Message::LeaseGrant(time));
    }

    /// Connected nodes that run this daemon, as far as they have told. Only this one has leases.
    pub(crate) fn ours(&self) -> &BTreeSet<Pnn> {
        &self.ours
    }

    /// A node that may still let records be used without taking part in a recovery now, and until
    /// when at most. Of several, the one that may for longest.
    ///
    /// A node that closed its connection does not: its daemon has ended, or it knows that it is on
    /// its own. Nor one that was no member of the last recovery, unless there may have been another
    /// recovery since, or if this node has no memory of any.
    pub(crate) fn outstanding(&self, view: &View<'_>, now: Instant) -> Option<(Pnn, Instant)> {
        let lock_since = self.lock_since?;
        let generation = view.vnn_map.generation;
        let is_sure = generation != Generation::INVALID && self.ran_out_in != Some(generation);
        let may_work = |node: &&NodeView| {
            node.flags.contains(NodeFlags::DISCONNECTED)
                && !node.flags.contains(NodeFlags::DELETED)
                && !node.closed
                && (!is_sure || view.vnn_map.map.contains(&node.pnn))
        };
        let stops = |node: &NodeView| {
            let granted = self.granted.get(&node.pnn);
            let last = granted.map_or(lock_since, |at| lock_since.max(*at));
            (node.pnn, last + self.length)
        };
        let nodes = view.nodes.iter().filter(may_work).map(stops);
        nodes
            .filter(|(_, until)| now < *until)
            .max_by_key(|(_, until)| *until)
    }
}

#[cfg(test)]
#[path = "lease/tests.rs"]
mod tests;
