//! The answer to `ctdb explain`: statements made of what the node is, remembers and has decided.
//!
//! Times leave here as times since 1970: what was measured on the clock that cannot be set, counted
//! back from now.

use std::fmt::{self, Write as _};
use std::time::Instant;

use ctdb_proto::control::{Explanation, Statement, Topic};
use ctdb_proto::{NodeFlags, Pnn, TimeVal};

use super::memory::RecoveryStory;
use super::{Decision, What, Why};
use crate::node::{Node, Times};
use crate::recoverd::Recoverd;
use crate::recovery::phases::Phase;

/// How many decisions of the recovery daemon's part are told, and how many other things. The rest
/// of an answer is at most some statements for each node.
const MOST_DECISIONS: usize = 200;

impl Node {
    /// All that this node has to say about why things are as they are.
    pub(crate) fn explanation(&self, now: Instant) -> Explanation {
        let mut say = Statements {
            times: &self.times,
            list: Vec::new(),
        };
        self.say_state(&mut say);
        self.say_leader(&mut say);
        self.say_events(&mut say);
        self.say_bans(&mut say, now);
        for (pnn, since, why) in self.memory.unreachable() {
            say.about(Topic::UNREACHABLE, pnn, since, None, &why);
        }
        self.say_recoveries(&mut say, now);
        self.say_takeover(&mut say);
        self.say_decisions(&mut say);
        Explanation {
            pnn: self.cluster.me,
            now: Times::to_wire(self.times.wall(now)),
            statements: say.list,
        }
    }

    fn say_state(&self, say: &mut Statements<'_>) {
        let cluster = &self.cluster;
        let mut text = format!(
            "run state {}, recovery mode {}, generation {}",
            cluster.run_state,
            cluster.rec_mode.name(),
            cluster.vnn_map.generation
        );
        if cluster.everything_is_frozen() && !cluster.databases.is_empty() {
            text.push_str(", all databases frozen");
        }
        if let Some(reason) = self.recoverd.as_ref().and_then(Recoverd::fenced) {
            let _ = write!(text, ", records are blocked: {reason}");
        }
        let (me, started) = (Some(cluster.me), Times::to_wire(self.times.started()));
        say.at(Topic::STATE, me, started, TimeVal::ZERO, &text);
    }

    fn say_leader(&self, say: &mut Statements<'_>) {
        if let Some(decision) = self.memory.leader() {
            let leader = match decision.what {
                What::Leader(leader) => leader,
                _ => None,
            };
            say.one(Topic::LEADER, leader, decision.at, None, &decision.why);
        }
    }

    fn say_events(&self, say: &mut Statements<'_>) {
        let me = self.cluster.me;
        for (event, failing) in self.memory.failing() {
            let text = format!("{event}: {}", failing.why);
            say.about(Topic::EVENT, me, failing.since, Some(failing.last), &text);
        }
    }

    /// Bans that are in force as far as this node knows, and why if it knows that.
    fn say_bans(&self, say: &mut Statements<'_>, now: Instant) {
        if let Some(ban) = &self.ban {
            let (since, until) = (ban.since, Some(ban.until));
            say.about(Topic::BAN, self.cluster.me, since, until, &ban.by);
        }
        let nodes = self.cluster.pnns().zip(&self.cluster.nodes);
        let banned = nodes.filter(|(_, node)| node.flags.contains(NodeFlags::BANNED));
        for (pnn, _) in banned.filter(|(pnn, _)| *pnn != self.cluster.me) {
            match self.memory.ban_of(pnn).map(|ban| (ban, end_of(ban))) {
                Some((ban, Some(until))) if until > now => {
                    say.about(Topic::BAN, pnn, ban.at, Some(until), &ban.why);
                }
                _ => {
                    let text = "not by a decision of this node";
                    say.at(Topic::BAN, Some(pnn), TimeVal::ZERO, TimeVal::ZERO, &text);
                }
            }
        }
    }

    fn say_recoveries(&self, say: &mut Statements<'_>, now: Instant) {
        let times = &self.times;
        if times.recovery_started != times.started() {
            let until = times.recovery_finished.max(times.recovery_started);
            let is_over = times.recovery_finished >= times.recovery_started;
            let until = if is_over {
                Times::to_wire(until)
            } else {
                TimeVal::ZERO
            };
            let since = Times::to_wire(times.recovery_started);
            say.at(Topic::TOOK_PART, None, since, until, &"");
        }
        let Some(story) = self.memory.recovery() else {
            return;
        };
        let ended = story.ended.as_ref().map(|ended| ended.at);
        say.one(
            Topic::RECOVERY,
            None,
            story.started.at,
            ended,
            &outcome(story),
        );
        for (phase, since, length) in story.lengths(now) {
            say.one(
                Topic::PHASE,
                None,
                since,
                Some(since + length),
                &phase_name(phase),
            );
        }
    }

    fn say_takeover(&self, say: &mut Statements<'_>) {
        let Some((start, end)) = self.memory.takeover() else {
            return;
        };
        let result = match end.as_ref().map(|end| &end.what) {
            None => "it runs",
            Some(What::TakeoverRunEnded) => "complete",
            Some(_) => "failed",
        };
        let text = format!("{}; {result}", start.why);
        let ended = end.as_ref().map(|end| end.at);
        say.one(Topic::TAKEOVER_RUN, None, start.at, ended, &text);
    }

    /// What was decided and what happened, in order.
    fn say_decisions(&self, say: &mut Statements<'_>) {
        let decided = self
            .history()
            .into_iter()
            .flat_map(|h| newest(h.decisions()));
        let mut all: Vec<&Decision> = decided
            .chain(newest(self.memory.own().decisions()))
            .collect();
        // Those of one moment keep their order.
        all.reverse();
        all.sort_by_key(|decision| decision.at);
        // That a takeover run went well is what one expects, and they are many.
        all.retain(|decision| decision.what != What::TakeoverRunEnded);
        for decision in all {
            let text = match decision.why {
                Why::Done => decision.what.to_string(),
                _ => decision.to_string(),
            };
            say.one(
                Topic::DECISION,
                node_of(&decision.what),
                decision.at,
                end_of(decision),
                &text,
            );
        }
    }
}

fn newest<'a>(
    decisions: impl DoubleEndedIterator<Item = &'a Decision>,
) -> impl Iterator<Item = &'a Decision> {
    decisions.rev().take(MOST_DECISIONS)
}

/// Collects statements.
struct Statements<'a> {
    times: &'a Times,
    list: Vec<Statement>,
}

impl Statements<'_> {
    fn about(
        &mut self,
        topic: Topic,
        about: Pnn,
        since: Instant,
        until: Option<Instant>,
        text: &dyn fmt::Display,
    ) {
        self.one(topic, Some(about), since, until, text);
    }

    fn one(
        &mut self,
        topic: Topic,
        about: Option<Pnn>,
        since: Instant,
        until: Option<Instant>,
        text: &dyn fmt::Display,
    ) {
        let wire = |at| Times::to_wire(self.times.wall(at));
        let (since, until) = (wire(since), until.map_or(TimeVal::ZERO, wire));
        self.at(topic, about, since, until, text);
    }

    fn at(
        &mut self,
        topic: Topic,
        about: Option<Pnn>,
        since: TimeVal,
        until: TimeVal,
        text: &dyn fmt::Display,
    ) {
        self.list.push(Statement {
            topic,
            about,
            since,
            until,
            text: text.to_string(),
        });
    }
}

/// Why a recovery started, and how it ended.
fn outcome(story: &RecoveryStory) -> String {
    let (why, generation) = (&story.started.why, story.generation);
    match &story.ended {
        None => format!("{why}; generation {generation}, it runs"),
        Some(end) if matches!(end.what, What::RecoveryEnded { .. }) => {
            format!("{why}; generation {generation}, complete")
        }
        Some(end) => format!("{why}; generation {generation}, failed: {}", end.why),
    }
}

/// Until when it holds, if it is about that.
fn end_of(decision: &Decision) -> Option<Instant> {
    match decision.what {
        What::Banned { until, .. } | What::RecoveryPutOff { until } => Some(until),
        _ => None,
    }
}

/// The node that it is about, if it is about one.
fn node_of(what: &What) -> Option<Pnn> {
    match what {
        What::Leader(leader) => *leader,
        What::Credited { pnn, .. }
        | What::Banned { pnn, .. }
        | What::PeerConnected(pnn)
        | What::PeerLost(pnn)
        | What::Listed { pnn, .. }
        | What::Readmitted { pnn } => Some(*pnn),
        _ => None,
    }
}

/// What a phase does, in words.
fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::ReadFlags => "read flags",
        Phase::PushFlags => "push flags",
        Phase::ReadCapabilities => "read capabilities",
        Phase::ReadDatabases => "list databases",
        Phase::EnterRecovery => "recovery mode on",
        Phase::StartRecovery => "event startrecovery",
        Phase::SetVnnMap => "new vnn map",
        Phase::Databases => "databases",
        Phase::LeaveRecovery => "recovery mode off",
        Phase::EndRecovery => "event recovered",
    }
}

#[cfg(test)]
mod tests;
