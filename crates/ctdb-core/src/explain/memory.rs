//! What a node remembers so that it can explain itself: the latest of each kind, beside the
//! [`History`] of everything.
//!
//! The recovery daemon's part notes what it decides; what it noted is taken in after each step
//! ([`Memory::take_in`]). What the rest of the node sees (peers, event scripts, bans) is told here
//! directly.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ctdb_proto::{Generation, Pnn};

use super::{Banner, Decision, History, ScriptFailure, What, Why};
use crate::effect::Ticket;
use crate::recovery::phases::Phase;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// What happened to the node outside of its recovery daemon's part.
    own: History,
    /// How many decisions of the recovery daemon's part are known.
    taken_in: u64,
    /// The last change of leader.
    leader: Option<Decision>,
    recovery: Option<RecoveryStory>,
    /// The last takeover run: its start, and its end.
    takeover: Option<(Decision, Option<Decision>)>,
    /// The last ban of each node by this one.
    bans: BTreeMap<Pnn, Decision>,
    /// Since when a peer cannot be reached, and why.
    unreachable: BTreeMap<Pnn, (Instant, String)>,
    /// Events that failed the last time they ran.
    failing: BTreeMap<&'static str, Failing>,
    /// Of an event whose end is about to be told.
    script: Option<(Ticket, ScriptFailure)>,
}

/// A recovery that this node leads or led.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RecoveryStory {
    pub(crate) generation: Generation,
    pub(crate) started: Decision,
    /// When each phase began. One that took no time may be missing.
    pub(crate) phases: Vec<(Phase, Instant)>,
    pub(crate) ended: Option<Decision>,
}

impl RecoveryStory {
    /// How long each phase took; the last one of a recovery that still runs, until now.
    pub(crate) fn lengths(&self, now: Instant) -> Vec<(Phase, Instant, Duration)> {
        let end = self.ended.as_ref().map_or(now, |ended| ended.at);
        let begun = self.phases.iter();
        let ends = begun.clone().skip(1).map(|(_, at)| *at).chain([end]);
        begun
            .zip(ends)
            .map(|((phase, at), end)| (*phase, *at, end.saturating_duration_since(*at)))
            .collect()
    }
}

/// An event whose last run failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failing {
    pub(crate) since: Instant,
    pub(crate) last: Instant,
    pub(crate) why: Why,
}

impl Memory {
    /// The last things that happened to the node.
    pub(crate) fn own(&self) -> &History {
        &self.own
    }

    /// Who leads, since when and why; `None` before anything was decided about it.
    pub(crate) fn leader(&self) -> Option<&Decision> {
        self.leader.as_ref()
    }

    pub(crate) fn recovery(&self) -> Option<&RecoveryStory> {
        self.recovery.as_ref()
    }

    pub(crate) fn takeover(&self) -> Option<&(Decision, Option<Decision>)> {
        self.takeover.as_ref()
    }

    /// Why and until when this node has banned another one, the last time it did.
    pub(crate) fn ban_of(&self, pnn: Pnn) -> Option<&Decision> {
        self.bans.get(&pnn)
    }

    pub(crate) fn unreachable(&self) -> impl Iterator<Item = (Pnn, Instant, &str)> {
        let peers = self.unreachable.iter();
        peers.map(|(pnn, (since, why))| (*pnn, *since, why.as_str()))
    }

    pub(crate) fn failing(&self) -> impl Iterator<Item = (&'static str, &Failing)> {
        self.failing
            .iter()
            .map(|(event, failing)| (*event, failing))
    }

    /// Takes in what the recovery daemon's part has decided since the last time, and what its
    /// recovery is at.
    pub(crate) fn take_in(
        &mut self,
        history: &History,
        recovery: Option<(Generation, Phase)>,
        now: Instant,
    ) {
        for decision in history.after(self.taken_in) {
            self.take_in_one(decision);
        }
        self.taken_in = history.count();
        let story = self.recovery.as_mut();
        if let (Some((generation, phase)), Some(story)) = (recovery, story)
            && story.generation == generation
            && story.phases.last().is_none_or(|(last, _)| *last != phase)
        {
            story.phases.push((phase, now));
        }
    }

    fn take_in_one(&mut self, decision: &Decision) {
        let is_ours = |story: &&mut RecoveryStory, of| story.generation == of;
        match decision.what {
            What::Leader(_) => self.leader = Some(decision.clone()),
            What::RecoveryStarted { generation } => {
                self.recovery = Some(RecoveryStory {
                    generation,
                    started: decision.clone(),
                    phases: Vec::new(),
                    ended: None,
                });
            }
            What::RecoveryEnded { generation, .. } | What::RecoveryFailed { generation } => {
                let story = self.recovery.as_mut();
                if let Some(story) = story.filter(|story| is_ours(story, generation)) {
                    story.ended = Some(decision.clone());
                }
            }
            What::TakeoverRunStarted => self.takeover = Some((decision.clone(), None)),
            What::TakeoverRunEnded | What::TakeoverRunFailed => {
                if let Some((_, end)) = &mut self.takeover {
                    *end = Some(decision.clone());
                }
            }
            What::Readmitted { pnn } => _ = self.bans.remove(&pnn),
            What::Banned { pnn, .. } => _ = self.bans.insert(pnn, decision.clone()),
            _ => {}
        }
    }

    /// A peer cannot be reached, or not yet.
    pub(crate) fn peer_lost(&mut self, pnn: Pnn, why: String, now: Instant) {
        let what = What::PeerLost(pnn);
        self.own.add(now, what, Why::Told(why.clone()));
        self.unreachable.insert(pnn, (now, why));
    }

    /// A peer that is listed, and has not been heard of since.
    pub(crate) fn peer_expected(&mut self, pnn: Pnn, now: Instant) {
        let why = "it has not connected yet".to_owned();
        self.unreachable.insert(pnn, (now, why));
    }

    pub(crate) fn peer_connected(&mut self, pnn: Pnn, now: Instant) {
        let what = What::PeerConnected(pnn);
        self.own.add(now, what, Why::Done);
        self.unreachable.remove(&pnn);
    }

    /// The nodes list does not have it any more.
    pub(crate) fn peer_deleted(&mut self, pnn: Pnn) {
        self.unreachable.remove(&pnn);
    }

    /// A script of the event with this ticket has failed; how the event ends follows.
    pub(crate) fn script_failed(&mut self, ticket: Ticket, failure: ScriptFailure) {
        self.script = Some((ticket, failure));
    }

    /// An event has ended well. Only the first time after a failure is remembered.
    pub(crate) fn event_ok(&mut self, event: &'static str, now: Instant) {
        if self.failing.remove(event).is_some() {
            self.own.add(now, What::EventOk { event }, Why::Done);
        }
    }

    /// An event has failed; `otherwise` says why if no script is known to have. Remembered in the
    /// history when it is news.
    pub(crate) fn event_failed(
        &mut self,
        event: &'static str,
        ticket: Ticket,
        otherwise: &str,
        now: Instant,
    ) {
        let script = self.script.take().filter(|(of, _)| *of == ticket);
        let why = match script {
            Some((_, failure)) => Why::Script(failure),
            None => Why::Told(otherwise.to_owned()),
        };
        let before = self.failing.get(event);
        if before.is_none_or(|before| before.why != why) {
            let what = What::EventFailed { event };
            self.own.add(now, what, why.clone());
        }
        let since = before.map_or(now, |before| before.since);
        let last = now;
        self.failing.insert(event, Failing { since, last, why });
    }

    /// This node became healthy or not.
    pub(crate) fn health(&mut self, is_healthy: bool, now: Instant) {
        let why = if is_healthy {
            "the monitor event went well"
        } else {
            "the monitor event failed"
        };
        self.own
            .add(now, What::Health(is_healthy), Why::Told(why.to_owned()));
    }

    pub(crate) fn banned(&mut self, pnn: Pnn, until: Instant, by: Banner, now: Instant) {
        let what = What::Banned { pnn, until };
        self.own.add(now, what, Why::Banner(by));
    }

    pub(crate) fn unbanned(&mut self, why: &str, now: Instant) {
        self.own.add(now, What::Unbanned, Why::Told(why.to_owned()));
    }

    /// A node, by number, has joined, left or rejoined the nodes list.
    pub(crate) fn listed(&mut self, pnn: Pnn, is_deleted: bool, now: Instant) {
        let what = What::Listed { pnn, is_deleted };
        let why = "the nodes list was reloaded".to_owned();
        self.own.add(now, what, Why::Told(why));
    }
}

#[cfg(test)]
mod tests;
