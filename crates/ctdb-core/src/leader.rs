//! Who leads, as this node sees it: what a `LEADER` message means, and when its silence counts.
//!
//! The leader says once a second that it leads (`cluster.md 4.2`). This module judges each such
//! message by [`judge`], a plain function, and keeps the two clocks: the own broadcasts, and the
//! leader's silence. It starts no election; the election does.

use std::time::{Duration, Instant};

use ctdb_proto::{Dest, Message, Pnn};
use tracing::info;

use crate::explain::{History, LeaderReason, What, Why};
use crate::recoverd::LOG;
use crate::recoverd::outbox::Outbox;
use crate::recoverd::view::View;

/// Longest pause between two broadcasts of the leader.
const BROADCAST_INTERVAL: Duration = Duration::from_secs(1);

/// What counts when a `LEADER` message is judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Standing {
    pub me: Pnn,
    /// Whom this node follows; itself, if it leads or stands for election.
    pub leader: Option<Pnn>,
    /// An election is under way.
    pub electing: bool,
    pub lock_configured: bool,
    pub lock_held: bool,
}

/// What a `LEADER` message means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Heard {
    /// The leader we know is alive.
    Current,
    /// An election has begun somewhere.
    NoLeader,
    /// Follow this node from now on.
    Follow(Pnn),
    /// That node also believes to lead; the two of us must settle it.
    Rival(Pnn),
    /// That node accepts that we win this election. Only our own kind says so.
    Conceded(Pnn),
    /// That node misses its leader, and we hold the cluster lock: it should hear us at once.
    Missed(Pnn),
    /// Of no meaning, for this reason.
    Ignored(&'static str),
}

/// Judges a `LEADER` message: `said` leads, says node `from`.
///
/// The original follows whoever spoke last, so that two leaders switch each other off. Here the
/// holder of the cluster lock does not give way, and without a lock an election settles it.
pub(crate) fn judge(standing: &Standing, from: Option<Pnn>, said: Option<Pnn>) -> Heard {
    let me = standing.me;
    let Some(said) = said else {
        return judge_no_leader(standing, from);
    };
    if said == me {
        return match from {
            Some(other) if other != me && standing.leads_election() => Heard::Conceded(other),
            Some(other) if other != me => Heard::Ignored("we do not stand for election"),
            _ if standing.leader == Some(me) => Heard::Current,
            _ => Heard::Ignored("our own, from before we stopped leading"),
        };
    }
    if from.is_some_and(|from| from != said) {
        return Heard::Ignored("not from the leader itself");
    }
    if standing.leader == Some(said) {
        return Heard::Current;
    }
    if standing.lock_held {
        return Heard::Ignored("we hold the cluster lock");
    }
    if standing.leader != Some(me) || standing.lock_configured {
        return Heard::Follow(said);
    }
    if standing.electing {
        Heard::Ignored("we stand for election")
    } else {
        Heard::Rival(said)
    }
}

fn judge_no_leader(standing: &Standing, from: Option<Pnn>) -> Heard {
    match from {
        Some(from) if from == standing.me => Heard::Ignored("our own"),
        Some(from) if standing.lock_held => Heard::Missed(from),
        None if standing.lock_held => Heard::Ignored("we hold the cluster lock"),
        _ => Heard::NoLeader,
    }
}

impl Standing {
    /// Whether we stand for election, so that others can concede.
    fn leads_election(&self) -> bool {
        self.electing && self.leader == Some(self.me)
    }
}

/// Whom this node follows, and the two clocks.
#[derive(Debug)]
pub(crate) struct LeaderWatch {
    leader: Option<Pnn>,
    /// Whether a leader was ever known: if not, the cluster may be starting.
    ever_known: bool,
    timeout: Duration,
    /// When silence has lasted too long. `None` while an election is under way.
    silent_at: Option<Instant>,
    broadcast_at: Instant,
    /// When the leader last said that it leads.
    heard_at: Option<Instant>,
}

impl LeaderWatch {
    pub(crate) fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            leader: None,
            ever_known: false,
            timeout,
            silent_at: None,
            broadcast_at: now,
            heard_at: None,
        }
    }

    pub(crate) fn leader(&self) -> Option<Pnn> {
        self.leader
    }

    pub(crate) fn is_me(&self, me: Pnn) -> bool {
        self.leader == Some(me)
    }

    pub(crate) fn was_ever_known(&self) -> bool {
        self.ever_known
    }

    /// Follows another node, or none.
    pub(crate) fn set(
        &mut self,
        leader: Option<Pnn>,
        reason: LeaderReason,
        history: &mut History,
        now: Instant,
    ) {
        if self.leader == leader {
            return;
        }
        self.leader = leader;
        self.heard_at = None;
        self.ever_known |= leader.is_some();
        history.add(now, What::Leader(leader), Why::Leader(reason));
    }

    /// The leader says that it leads.
    pub(crate) fn hear(&mut self, now: Instant) {
        self.heard_at = Some(now);
    }

    /// Whom this node follows and how long ago that one said that it leads, if it ever did.
    pub(crate) fn last_heard(&self, now: Instant) -> Option<(Pnn, Duration)> {
        let heard = self.heard_at?;
        Some((self.leader?, now.saturating_duration_since(heard)))
    }

    /// Pause between two broadcasts: some may be late before the leader counts as silent.
    pub(crate) fn broadcast_interval(&self) -> Duration {
        BROADCAST_INTERVAL.min(self.timeout / 4)
    }

    /// Starts to count the leader's silence anew.
    pub(crate) fn restart_timeout(&mut self, now: Instant) {
        self.silent_at = Some(now + self.timeout);
    }

    /// Starts to count it unless it is counted already.
    pub(crate) fn ensure_timeout(&mut self, now: Instant) {
        self.silent_at.get_or_insert(now + self.timeout);
    }

    /// Silence does not count during an election.
    pub(crate) fn stop_timeout(&mut self) {
        self.silent_at = None;
    }

    /// Whether the leader has been silent for too long. Says so once, then counts anew.
    pub(crate) fn is_silent(&mut self, me: Pnn, now: Instant) -> bool {
        if self.is_me(me) || self.silent_at.is_none_or(|at| now < at) {
            return false;
        }
        info!(target: LOG, "Leader broadcast timeout");
        self.restart_timeout(now);
        true
    }

    /// The leader to which the connection is gone, if it is.
    pub(crate) fn disconnected(&self, view: &View<'_>) -> Option<Pnn> {
        self.leader.filter(|leader| !view.is_connected(*leader))
    }

    /// Says that this node leads, if a second has passed.
    pub(crate) fn broadcast_if_due(&mut self, me: Pnn, out: &mut Outbox, now: Instant) {
        if now >= self.broadcast_at {
            self.broadcast(me, out, now);
        }
    }

    /// Says that this node leads.
    pub(crate) fn broadcast(&mut self, me: Pnn, out: &mut Outbox, now: Instant) {
        self.broadcast_at = now + self.broadcast_interval();
        say(Some(me), out);
    }

    /// When to look again. `leading`: this node leads and no election is under way.
    pub(crate) fn poll_timeout(&self, me: Pnn, leading: bool) -> Option<Instant> {
        if leading {
            Some(self.broadcast_at)
        } else {
            self.silent_at.filter(|_| !self.is_me(me))
        }
    }
}

/// Sends `LEADER` to all connected nodes. `None`: an election begins.
pub(crate) fn say(leader: Option<Pnn>, out: &mut Outbox) {
    out.message(Dest::Connected, &Message::Leader(leader));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recoverd::tests::{epoch, pnn};

    const ME: u32 = 1;

    fn standing(leader: Option<u32>) -> Standing {
        Standing {
            me: pnn(ME),
            leader: leader.map(pnn),
            electing: false,
            lock_configured: false,
            lock_held: false,
        }
    }

    #[test]
    fn each_leader_message_means_one_thing_in_each_standing() {
        let idle = standing;
        let electing = |leader| Standing {
            electing: true,
            ..standing(leader)
        };
        let waiting_for_lock = |leader| Standing {
            lock_configured: true,
            ..standing(leader)
        };
        let holding = |leader| Standing {
            lock_held: true,
            ..waiting_for_lock(leader)
        };
        let ignored = |heard| matches!(heard, Heard::Ignored(_));
        let hear = |standing: Standing, from: u32, said: Option<u32>| {
            judge(&standing, Some(pnn(from)), said.map(pnn))
        };

        assert_eq!(hear(idle(None), 2, Some(2)), Heard::Follow(pnn(2)));
        assert_eq!(hear(idle(Some(0)), 2, Some(2)), Heard::Follow(pnn(2)));
        assert_eq!(hear(idle(Some(2)), 2, Some(2)), Heard::Current);
        assert!(ignored(hear(idle(Some(0)), 2, Some(0))), "hearsay");
        assert_eq!(hear(idle(Some(2)), 2, None), Heard::NoLeader);
        assert_eq!(hear(idle(None), 2, None), Heard::NoLeader);
        assert!(ignored(hear(idle(None), ME, None)), "our own");

        assert_eq!(hear(idle(Some(ME)), ME, Some(ME)), Heard::Current);
        assert_eq!(hear(idle(Some(ME)), 2, Some(2)), Heard::Rival(pnn(2)));
        assert_eq!(hear(idle(Some(ME)), 2, None), Heard::NoLeader);
        assert!(
            ignored(hear(idle(Some(ME)), 2, Some(ME))),
            "a late concession"
        );
        assert!(
            ignored(hear(idle(Some(0)), ME, Some(ME))),
            "our own, of the past"
        );

        assert_eq!(
            hear(electing(Some(ME)), 2, Some(ME)),
            Heard::Conceded(pnn(2))
        );
        assert!(
            ignored(hear(electing(Some(ME)), 2, Some(2))),
            "the election will tell"
        );
        assert_eq!(hear(electing(Some(0)), 2, Some(2)), Heard::Follow(pnn(2)));

        assert_eq!(
            hear(waiting_for_lock(None), 2, Some(2)),
            Heard::Follow(pnn(2))
        );
        assert_eq!(
            hear(waiting_for_lock(Some(ME)), 2, Some(2)),
            Heard::Follow(pnn(2))
        );
        assert!(
            ignored(hear(holding(Some(ME)), 2, Some(2))),
            "the lock decides"
        );
        assert_eq!(hear(holding(Some(ME)), 2, None), Heard::Missed(pnn(2)));
    }

    #[test]
    fn a_broadcast_puts_the_timeout_off() {
        let s = Duration::from_secs;
        let mut watch = LeaderWatch::new(s(5), epoch());
        let mut history = History::default();
        watch.set(Some(pnn(2)), LeaderReason::Broadcast, &mut history, epoch());
        watch.restart_timeout(epoch());
        watch.restart_timeout(epoch() + s(4));
        assert!(!watch.is_silent(pnn(ME), epoch() + s(5)));
        assert!(watch.is_silent(pnn(ME), epoch() + s(9)));
        assert!(!watch.is_silent(pnn(ME), epoch() + s(9)), "said once");
    }

    #[test]
    fn the_leader_itself_hears_no_silence() {
        let mut watch = LeaderWatch::new(Duration::from_secs(5), epoch());
        watch.set(
            Some(pnn(ME)),
            LeaderReason::Elected,
            &mut History::default(),
            epoch(),
        );
        watch.restart_timeout(epoch());
        assert!(!watch.is_silent(pnn(ME), epoch() + Duration::from_secs(60)));
    }
}
