//! Whether a leader that is not heard here still leads the others.
//!
//! ```text
//!          ask                   nobody hears it, or nobody answers
//!  Idle ---------> Asking ------------------------------------------> election
//!    ^               |  ^
//!    |        heard  v  | after a second
//!    +------------ CutOff
//!    the leader is heard again
//! ```
//!
//! In the original a node that loses its leader calls an election at once. If only its own link to
//! the leader is broken, the others keep their leader, and each election puts them into recovery
//! mode: the cluster recovers every few seconds for ever (`cluster.md` 10 and 14.3). So the node
//! asks the others first. While one of them hears the leader there is no election.
//!
//! A few are asked, each time the same ones, and each node asks others: where hundreds of nodes lose
//! their leader together, not everybody asks everybody.
//!
//! A node of the original does not answer; among such nodes the election starts a moment later
//! than it would.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ctdb_proto::{LeaderOpinion, Message, Pnn};

use crate::explain::ElectionReason;
use crate::recoverd::outbox::Outbox;
use crate::recoverd::view::View;

/// How long to wait for answers.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);

/// How often a node that was told that others hear the leader goes without any answer before it
/// believes that they do not any more: they may be busy.
const UNANSWERED: u32 = 5;

/// How many nodes are asked: in a cluster of usual size, all.
const WITNESSES: usize = 8;

/// What has become of a leader that is not heard here.
#[derive(Debug)]
pub(crate) struct Opinions {
    state: State,
    /// How often a leader speaks.
    interval: Duration,
}

#[derive(Debug, Default)]
enum State {
    /// It is heard, or there is an election.
    #[default]
    Idle,
    Asking {
        missed: Pnn,
        reason: ElectionReason,
        /// Who has not answered.
        waiting: BTreeSet<Pnn>,
        ends: Instant,
        /// It was heard by others before.
        again: bool,
        /// Questions in a row that nobody has answered.
        unanswered: u32,
    },
    /// Others hear it.
    CutOff { missed: Pnn, ask_at: Instant },
}

/// What to do about the leader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Advice {
    Wait,
    /// There is none any more.
    Elect(ElectionReason),
    /// It leads those who hear it; said once.
    CutOff {
        leader: Pnn,
        witness: Pnn,
    },
}

impl Opinions {
    /// `interval`: how often a leader speaks.
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            state: State::Idle,
            interval,
        }
    }

    /// Whether nobody is missed.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// The leader that others hear and this node does not.
    pub(crate) fn cut_off_from(&self) -> Option<Pnn> {
        match self.state {
            State::Asking {
                missed,
                again: true,
                ..
            }
            | State::CutOff { missed, .. } => Some(missed),
            State::Idle | State::Asking { .. } => None,
        }
    }

    /// A leader is heard, or an election has begun.
    pub(crate) fn forget(&mut self) {
        self.state = State::Idle;
    }

    /// The leader is missed: asks some who could hear it.
    pub(crate) fn ask(
        &mut self,
        missed: Pnn,
        reason: ElectionReason,
        view: &View<'_>,
        out: &mut Outbox,
        now: Instant,
    ) -> Advice {
        let again = self.cut_off_from().is_some();
        let unanswered = match self.state {
            State::Asking { unanswered, .. } => unanswered,
            State::Idle | State::CutOff { .. } => 0,
        };
        let waiting = witnesses(missed, view);
        if waiting.is_empty() {
            self.state = State::Idle;
            return Advice::Elect(reason);
        }
        for pnn in &waiting {
            out.message(*pnn, &Message::LeaderQuery(missed));
        }
        self.state = State::Asking {
            missed,
            reason,
            waiting,
            ends: now + ANSWER_TIMEOUT,
            again,
            unanswered,
        };
        Advice::Wait
    }

    /// A node has answered.
    pub(crate) fn on_opinion(
        &mut self,
        from: Pnn,
        opinion: LeaderOpinion,
        me: Pnn,
        now: Instant,
    ) -> Advice {
        let State::Asking {
            missed,
            reason,
            waiting,
            again,
            ..
        } = &mut self.state
        else {
            return Advice::Wait;
        };
        if !waiting.remove(&from) {
            return Advice::Wait;
        }
        let ago = Duration::from_millis(opinion.heard_ago_ms.into());
        if let Some(leader) = opinion.leader
            && leader != me
            // It was heard so lately that it is heard.
            && ago < self.interval.mul_f32(2.5)
        {
            let known = *again && leader == *missed;
            self.state = State::CutOff {
                missed: leader,
                ask_at: now + self.interval,
            };
            let witness = from;
            return if known {
                Advice::Wait
            } else {
                Advice::CutOff { leader, witness }
            };
        }
        let reason = *reason;
        if waiting.is_empty() {
            self.state = State::Idle;
            return Advice::Elect(reason);
        }
        Advice::Wait
    }

    /// Nobody may answer; and who has heard the leader may not hear it any more.
    pub(crate) fn on_timeout(&mut self, view: &View<'_>, out: &mut Outbox, now: Instant) -> Advice {
        match self.state {
            State::Asking {
                missed,
                reason,
                ends,
                again: true,
                ref mut unanswered,
                ..
            } if now >= ends && *unanswered + 1 < UNANSWERED => {
                *unanswered += 1;
                self.ask(missed, reason, view, out, now)
            }
            State::Asking { ends, reason, .. } if now >= ends => {
                self.state = State::Idle;
                Advice::Elect(reason)
            }
            State::CutOff { missed, ask_at } if now >= ask_at => {
                self.ask(missed, ElectionReason::LeaderSilent, view, out, now)
            }
            _ => Advice::Wait,
        }
    }

    /// When to look again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Idle => None,
            State::Asking { ends, .. } => Some(ends),
            State::CutOff { ask_at, .. } => Some(ask_at),
        }
    }
}

/// Active nodes after this one in the order of the pnns, and after the last one the first. If there
/// is nobody else, the one that is missed: it may have won an election and follow another one.
fn witnesses(missed: Pnn, view: &View<'_>) -> BTreeSet<Pnn> {
    let others = || view.active_peers().filter(|pnn| *pnn != missed);
    let after = others().filter(|pnn| *pnn > view.me);
    let before = others().filter(|pnn| *pnn < view.me);
    let witnesses: BTreeSet<Pnn> = after.chain(before).take(WITNESSES).collect();
    if witnesses.is_empty() && missed != view.me && view.is_active(missed) {
        return [missed].into();
    }
    witnesses
}

/// Tells a node whom this one follows. A leader that is not connected counts as none.
pub(crate) fn answer(to: Pnn, heard: Option<(Pnn, Duration)>, view: &View<'_>, out: &mut Outbox) {
    let heard = heard.filter(|(leader, _)| view.is_connected(*leader));
    let (leader, ago) = heard.map_or((None, Duration::ZERO), |(pnn, ago)| (Some(pnn), ago));
    let opinion = LeaderOpinion {
        leader,
        heard_ago_ms: u32::try_from(ago.as_millis()).unwrap_or(u32::MAX),
    };
    out.message(to, &Message::LeaderOpinion(opinion));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recoverd::tests::{FakeNode, epoch, pnn};

    const INTERVAL: Duration = Duration::from_secs(1);
    const REASON: ElectionReason = ElectionReason::LeaderSilent;

    fn hears(leader: Option<u32>, heard_ago_ms: u32) -> LeaderOpinion {
        LeaderOpinion {
            leader: leader.map(pnn),
            heard_ago_ms,
        }
    }

    /// Node 2 of four misses node 0.
    fn asked() -> (Opinions, FakeNode, Outbox) {
        let (mut opinions, node) = (Opinions::new(INTERVAL), FakeNode::new(2, 4));
        let mut out = Outbox::default();
        let advice = opinions.ask(pnn(0), REASON, &node.view(), &mut out, epoch());
        assert_eq!(advice, Advice::Wait);
        (opinions, node, out)
    }

    #[test]
    fn an_election_waits_until_all_have_denied() {
        let (mut opinions, ..) = asked();
        let mut hear = |from, opinion| opinions.on_opinion(pnn(from), opinion, pnn(2), epoch());
        assert_eq!(hear(1, hears(None, 0)), Advice::Wait);
        assert_eq!(hear(1, hears(None, 0)), Advice::Wait, "counted once");
        assert_eq!(
            hear(3, hears(Some(0), 4000)),
            Advice::Elect(REASON),
            "long ago"
        );
    }

    #[test]
    fn one_who_hears_the_leader_is_enough() {
        let (mut opinions, ..) = asked();
        let advice = opinions.on_opinion(pnn(3), hears(Some(0), 800), pnn(2), epoch());
        let (leader, witness) = (pnn(0), pnn(3));
        assert_eq!(advice, Advice::CutOff { leader, witness });
        assert_eq!(opinions.cut_off_from(), Some(leader));
    }

    #[test]
    fn in_a_large_cluster_each_asks_a_few_others() {
        let mut asked = Vec::new();
        for me in 0..100 {
            let node = FakeNode::new(me, 100);
            let nodes = witnesses(pnn(7), &node.view());
            assert_eq!(nodes.len(), 8);
            assert!(!nodes.contains(&pnn(7)) && !nodes.contains(&pnn(me)));
            asked.extend(nodes);
        }
        let most = (0..100).map(|raw| asked.iter().filter(|p| **p == pnn(raw)).count());
        assert!(most.max() <= Some(9), "nobody is asked by all");
        let node = FakeNode::new(2, 4);
        let all = witnesses(pnn(0), &node.view());
        assert_eq!(all, [pnn(1), pnn(3)].into());
    }

    #[test]
    fn silence_is_no_answer() {
        let (mut opinions, node, mut out) = asked();
        let late = epoch() + ANSWER_TIMEOUT;
        let advice = opinions.on_timeout(&node.view(), &mut out, late);
        assert_eq!(advice, Advice::Elect(REASON));
    }

    #[test]
    fn who_is_cut_off_asks_again_and_says_so_once() {
        let (mut opinions, node, mut out) = asked();
        opinions.on_opinion(pnn(3), hears(Some(0), 800), pnn(2), epoch());
        let later = epoch() + INTERVAL;
        let advice = opinions.on_timeout(&node.view(), &mut out, later);
        assert_eq!(advice, Advice::Wait);
        let advice = opinions.on_opinion(pnn(3), hears(Some(0), 800), pnn(2), later);
        assert_eq!(advice, Advice::Wait, "known already");
        opinions.on_timeout(&node.view(), &mut out, later + INTERVAL);
        for from in [1, 3] {
            opinions.on_opinion(pnn(from), hears(None, 0), pnn(2), later);
        }
        assert!(opinions.is_idle(), "now there is an election");
    }

    #[test]
    fn who_is_cut_off_bears_with_witnesses_that_are_busy() {
        let (mut opinions, node, mut out) = asked();
        opinions.on_opinion(pnn(3), hears(Some(0), 800), pnn(2), epoch());
        let mut now = epoch() + INTERVAL;
        let mut tries = 0;
        while opinions.on_timeout(&node.view(), &mut out, now) == Advice::Wait {
            now += ANSWER_TIMEOUT;
            tries += 1;
        }
        assert_eq!(tries, UNANSWERED);
    }

    #[test]
    fn the_missed_one_is_asked_if_there_is_nobody_else() {
        let (mut opinions, node) = (Opinions::new(INTERVAL), FakeNode::new(1, 2));
        let mut out = Outbox::default();
        let advice = opinions.ask(pnn(0), REASON, &node.view(), &mut out, epoch());
        assert_eq!(advice, Advice::Wait);
        let advice = opinions.on_opinion(pnn(0), hears(Some(5), 100), pnn(1), epoch());
        let (leader, witness) = (pnn(5), pnn(0));
        assert_eq!(advice, Advice::CutOff { leader, witness });
    }

    #[test]
    fn with_nobody_to_ask_the_election_comes_at_once() {
        let (mut opinions, mut node) = (Opinions::new(INTERVAL), FakeNode::new(1, 2));
        node.set_flags(pnn(0), ctdb_proto::NodeFlags::DISCONNECTED);
        let advice = opinions.ask(
            pnn(0),
            REASON,
            &node.view(),
            &mut Outbox::default(),
            epoch(),
        );
        assert_eq!(advice, Advice::Elect(REASON));
    }
}
