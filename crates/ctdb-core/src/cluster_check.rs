//! How the leader watches the cluster: it asks each node how it sees things, and judges
//! (`cluster.md 5.2` and 5.4).
//!
//! Once in each `RecoverInterval`, and at once when something has changed, each connected node is
//! asked for its node map, recovery mode, vnn map and capabilities, all at the same time. When all
//! have answered, or the interval is over, [`judge`] compares the answers. A node that does not
//! answer delays nobody else: its question stays open, and it counts as it was last seen.
//!
//! [`ClusterCheck`] asks and collects; [`judge`] is a plain function of what came back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ctdb_conf::Tunable;
use ctdb_proto::{
    Capabilities, NodeAndFlags, NodeFlagChange, NodeFlags, NodeMap, Opcode, Pnn, RecMode, Request,
    VnnMap,
};
use tracing::{error, warn};

use crate::explain::RecoveryReason;
use crate::recoverd::LOG;
use crate::recoverd::links::Link;
use crate::recoverd::outbox::{
    Asker, ControlFailure, ControlResult, Outbox, Token, payload, require_ok,
};
use crate::recoverd::view::{NodeView, View};

/// Shortest pause between the beginnings of two rounds, so that a stream of changes is no storm.
const MIN_PAUSE: Duration = Duration::from_millis(20);

/// What a node said about itself and the cluster. What it was not asked, or has not answered, is
/// missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub nodes: Option<NodeMap>,
    pub rec_mode: Option<RecMode>,
    pub vnn_map: Option<VnnMap>,
}

/// What the leader knows when it judges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub view: &'a View<'a>,
    /// Of other nodes, as far as they answered in this round.
    pub reports: &'a BTreeMap<Pnn, Report>,
    /// Of other nodes, as last heard.
    pub capabilities: &'a BTreeMap<Pnn, Capabilities>,
    /// The lock is held, or none is configured.
    pub lock_permits: bool,
}

/// What the leader should do about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// What some node has to be told about another node's flags.
    pub pushes: Vec<NodeFlagChange>,
    /// Why a recovery is needed, and who is to blame for it, if anybody.
    pub recover: Option<(RecoveryReason, Option<Pnn>)>,
    /// Nodes that do not reach each other although we reach both.
    pub broken_links: BTreeSet<Link>,
}

impl Facts<'_> {
    /// The flags of a node: its own word counts, except that we see connections for ourselves.
    fn flags(&self, pnn: Pnn) -> NodeFlags {
        let seen = self.view.flags(pnn);
        let own_word = self.reports.get(&pnn).and_then(|report| {
            let nodes = report.nodes.as_ref()?;
            nodes
                .nodes
                .iter()
                .find(|node| node.pnn == pnn)
                .map(|node| node.flags)
        });
        match own_word {
            Some(word) => (word - NodeFlags::DISCONNECTED) | (seen & NodeFlags::DISCONNECTED),
            None => seen,
        }
    }

    fn is_active(&self, pnn: Pnn) -> bool {
        !self.flags(pnn).is_inactive()
    }

    /// Active nodes without ourselves, in pnn order.
    fn active_peers(&self) -> impl Iterator<Item = Pnn> + '_ {
        let peers = self.view.nodes.iter().map(|node| node.pnn);
        peers.filter(|pnn| *pnn != self.view.me && self.is_active(*pnn))
    }

    /// Whether a node acts as lmaster; `None` if it has not told us yet.
    fn is_lmaster(&self, pnn: Pnn) -> Option<bool> {
        let capabilities = if pnn == self.view.me {
            Some(&self.view.capabilities)
        } else {
            self.capabilities.get(&pnn)
        };
        capabilities.map(|capabilities| capabilities.contains(Capabilities::LMASTER))
    }

    fn active_reports(&self) -> impl Iterator<Item = (Pnn, &Report)> + '_ {
        self.reports
            .iter()
            .filter(|(pnn, _)| self.is_active(**pnn))
            .map(|(pnn, report)| (*pnn, report))
    }
}

/// Compares what the nodes said: the steps 13 to 24 of `cluster.md 5.4`, in their order.
pub(crate) fn judge(facts: &Facts<'_>) -> Verdict {
    Verdict {
        pushes: pushes(facts),
        recover: recovery_mode(facts)
            .or_else(|| cluster_lock(facts))
            .or_else(|| node_maps(facts))
            .or_else(|| members(facts))
            .or_else(|| vnn_maps(facts)),
        broken_links: broken_links(facts),
    }
}

fn broken_links(facts: &Facts<'_>) -> BTreeSet<Link> {
    let mut broken = BTreeSet::new();
    for (node, report) in facts.reports {
        let copies = report.nodes.iter().flat_map(|map| &map.nodes);
        let lost = copies.filter(|copy| copy.flags.contains(NodeFlags::DISCONNECTED));
        let reachable = lost.filter(|copy| facts.view.is_connected(copy.pnn));
        let others = reachable.filter(|copy| copy.pnn != facts.view.me);
        broken.extend(others.map(|copy| (copy.pnn.min(*node), copy.pnn.max(*node))));
    }
    broken
}

/// A reason to recover and the node that gets credits for it.
type Finding = Option<(RecoveryReason, Option<Pnn>)>;

/// Flags that some node has wrong. A node that has lost its own connection to the other one takes
/// no news about it, so it is not told.
fn pushes(facts: &Facts<'_>) -> Vec<NodeFlagChange> {
    let mut pushes = Vec::new();
    for node in facts.view.nodes {
        if !facts.view.is_connected(node.pnn) {
            continue;
        }
        let word = facts.flags(node.pnn) - NodeFlags::DISCONNECTED;
        let is_wrong = |copy: NodeFlags| !copy.contains(NodeFlags::DISCONNECTED) && copy != word;
        let wrong_elsewhere = facts.reports.iter().any(|(pnn, report)| {
            let nodes = report.nodes.iter().flat_map(|map| &map.nodes);
            *pnn != node.pnn
                && nodes
                    .filter(|copy| copy.pnn == node.pnn)
                    .any(|copy| is_wrong(copy.flags))
        });
        if is_wrong(node.flags) {
            warn!(
                target: LOG,
                "Remote node {} had flags {:#x}, local had {:#x} - updating local",
                node.pnn,
                word.bits(),
                node.flags.bits()
            );
        }
        if wrong_elsewhere || is_wrong(node.flags) {
            pushes.push(NodeFlagChange {
                pnn: node.pnn,
                new_flags: word,
                old_flags: node.flags,
            });
        }
    }
    pushes
}

fn recovery_mode(facts: &Facts<'_>) -> Finding {
    let mine = (facts.view.rec_mode == RecMode::Active).then_some(facts.view.me);
    let mut theirs = facts
        .active_reports()
        .filter(|(_, r)| r.rec_mode == Some(RecMode::Active));
    let node = mine.or_else(|| theirs.next().map(|(pnn, _)| pnn))?;
    Some((RecoveryReason::NodeInRecovery(node), None))
}

fn cluster_lock(facts: &Facts<'_>) -> Finding {
    if facts.lock_permits {
        return None;
    }
    Some((RecoveryReason::ClusterLockNotHeld, Some(facts.view.me)))
}

/// Every node must know the same nodes. Their flags are not compared here.
fn node_maps(facts: &Facts<'_>) -> Finding {
    let ours = facts.view.nodes;
    facts.active_reports().find_map(|(node, report)| {
        let theirs = &report.nodes.as_ref()?.nodes;
        if theirs.len() != ours.len() {
            let (theirs, ours) = (theirs.len(), ours.len());
            return Some((RecoveryReason::NodeCount { node, theirs, ours }, Some(node)));
        }
        let differs = |(ours, theirs): (&NodeView, &NodeAndFlags)| ours.pnn != theirs.pnn;
        let index = ours.iter().zip(theirs).position(differs)?;
        Some((RecoveryReason::NodemapPnn { node, index }, Some(node)))
    })
}

/// The vnn map must hold exactly the active nodes with the lmaster capability.
fn members(facts: &Facts<'_>) -> Finding {
    let map = &facts.view.vnn_map.map;
    if let Some(lost) = map.iter().find(|pnn| !facts.is_active(**pnn)) {
        return Some((RecoveryReason::MemberLost(*lost), None));
    }
    let me = facts.view.me;
    let mut active = facts.active_peers().chain([me]);
    if let Some(missing) = active.find(|p| !map.contains(p) && facts.is_lmaster(*p) == Some(true)) {
        let culprit = Some(missing).filter(|pnn| *pnn != me);
        return Some((RecoveryReason::MemberMissing(missing), culprit));
    }
    // Without any lmaster the leader alone makes up the map: that is as good as it gets.
    if *map == [me] {
        return None;
    }
    let resigned = map
        .iter()
        .find(|pnn| facts.is_lmaster(**pnn) == Some(false))?;
    Some((RecoveryReason::MemberResigned(*resigned), Some(me)))
}

/// Every active node must have our vnn map.
fn vnn_maps(facts: &Facts<'_>) -> Finding {
    let ours = facts.view.vnn_map;
    facts.active_reports().find_map(|(node, report)| {
        let theirs = report.vnn_map.as_ref()?;
        let reason = if theirs.generation != ours.generation {
            let (theirs, ours) = (theirs.generation, ours.generation);
            RecoveryReason::MapGeneration { node, theirs, ours }
        } else if theirs.map.len() != ours.map.len() {
            let (theirs, ours) = (theirs.map.len(), ours.map.len());
            RecoveryReason::MapSize { node, theirs, ours }
        } else if theirs.map != ours.map {
            RecoveryReason::MapContent { node }
        } else {
            return None;
        };
        Some((reason, Some(node)))
    })
}

/// Says why a recovery is needed, in the words of the original.
pub(crate) fn log_finding(reason: &RecoveryReason, view: &View<'_>) {
    match reason {
        RecoveryReason::NodeInRecovery(pnn) => {
            error!(target: LOG, "Node:{pnn} was in recovery mode. Start recovery process");
        }
        RecoveryReason::ClusterLockNotHeld => {
            error!(target: LOG, "Failed cluster lock sanity check");
        }
        RecoveryReason::NodeCount { node, theirs, ours } => error!(
            target: LOG,
            "Remote node:{node} has different node count. {theirs} vs {ours} of the local node"
        ),
        RecoveryReason::NodemapPnn { node, index } => error!(
            target: LOG,
            "Remote node:{node} has different nodemap pnn for {index}."
        ),
        RecoveryReason::MemberLost(pnn) | RecoveryReason::MemberResigned(pnn) => error!(
            target: LOG,
            "Node {pnn} of the vnnmap is no active lmaster any more ({} nodes in the map)",
            view.vnn_map.map.len()
        ),
        RecoveryReason::MemberMissing(pnn) => {
            error!(target: LOG, "Active LMASTER node {pnn} is not in the vnnmap");
        }
        RecoveryReason::MapGeneration { node, theirs, ours } => error!(
            target: LOG,
            "Remote node {node} has different generation of vnnmap. {theirs} vs {ours} (ours)"
        ),
        RecoveryReason::MapSize { node, theirs, ours } => error!(
            target: LOG,
            "Remote node {node} has different size of vnnmap. {theirs} vs {ours} (ours)"
        ),
        RecoveryReason::MapContent { node } => {
            error!(target: LOG, "Remote node {node} has different vnnmap.");
        }
        RecoveryReason::PreviousFailed => {}
    }
}

/// The rounds of the leader.
#[derive(Debug)]
pub(crate) struct ClusterCheck {
    polls: BTreeMap<Pnn, Poll>,
    /// Last heard, for nodes that are slow to answer.
    capabilities: BTreeMap<Pnn, Capabilities>,
    /// Who failed to answer since the last verdict, by its own fault.
    silent: BTreeSet<Pnn>,
    round: Option<Round>,
    next_at: Instant,
    last_began: Option<Instant>,
}

#[derive(Debug)]
struct Round {
    /// Judge then, whoever has not answered.
    ends: Instant,
    /// Something changed since it began: another one follows at once.
    again: bool,
}

/// The open questions to one node, and its answers so far.
#[derive(Debug, Default)]
struct Poll {
    open: BTreeMap<Token, Opcode>,
    report: Report,
    /// Of an older round, which did not wait any longer.
    is_late: bool,
}

impl ClusterCheck {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            polls: BTreeMap::new(),
            capabilities: BTreeMap::new(),
            silent: BTreeSet::new(),
            round: None,
            next_at: now,
            last_began: None,
        }
    }

    /// Something has changed: do not wait for the next regular round.
    pub(crate) fn hurry(&mut self, now: Instant) {
        if let Some(round) = &mut self.round {
            round.again = true;
        }
        let earliest = self.last_began.map_or(now, |began| began + MIN_PAUSE);
        self.next_at = self.next_at.min(earliest.max(now));
    }

    /// Do not wait for the next regular round beyond this time.
    pub(crate) fn look_again_at(&mut self, at: Instant) {
        self.next_at = self.next_at.min(at);
    }

    /// Forgets all questions and answers: they are about the time before a recovery, or before
    /// this node led. Replies that still come are ignored.
    pub(crate) fn reset(&mut self) {
        self.polls.clear();
        self.round = None;
    }

    /// Forgets also what lasts, because another node leads now.
    pub(crate) fn forget(&mut self) {
        self.reset();
        self.silent.clear();
        self.capabilities.clear();
    }

    /// Begins a round if it is time, and ends it if it is over. The verdict of an ended round.
    pub(crate) fn on_timeout(
        &mut self,
        view: &View<'_>,
        lock_permits: bool,
        out: &mut Outbox,
        now: Instant,
    ) -> Option<Verdict> {
        if self.round.is_none() && now >= self.next_at {
            self.begin(view, out, now);
        }
        let round = self.round.as_ref()?;
        let all_in = self
            .polls
            .values()
            .all(|poll| poll.is_late || poll.open.is_empty());
        if !all_in && now < round.ends {
            return None;
        }
        Some(self.end(view, lock_permits, now))
    }

    fn begin(&mut self, view: &View<'_>, out: &mut Outbox, now: Instant) {
        let interval = view
            .tunables
            .seconds(Tunable::RecoverInterval)
            .max(MIN_PAUSE);
        self.last_began = Some(now);
        self.next_at = now + interval;
        self.round = Some(Round {
            ends: now + interval,
            again: false,
        });
        self.polls
            .retain(|pnn, poll| view.is_connected(*pnn) && !poll.open.is_empty());
        for poll in self.polls.values_mut() {
            poll.is_late = true;
        }
        for pnn in view.connected_peers() {
            self.polls
                .entry(pnn)
                .or_insert_with(|| Poll::begin(pnn, view, out));
        }
    }

    fn end(&mut self, view: &View<'_>, lock_permits: bool, now: Instant) -> Verdict {
        if self.round.take().is_some_and(|round| round.again) {
            self.next_at = self.last_began.map_or(now, |began| began + MIN_PAUSE);
        }
        let reports = self
            .polls
            .iter()
            .filter(|(_, poll)| poll.open.is_empty() && !poll.is_late)
            .map(|(pnn, poll)| (*pnn, poll.report.clone()))
            .collect();
        let capabilities = &self.capabilities;
        judge(&Facts {
            view,
            reports: &reports,
            capabilities,
            lock_permits,
        })
    }

    /// Takes a reply.
    pub(crate) fn on_reply(&mut self, token: Token, result: ControlResult) {
        let Some((pnn, poll)) = self
            .polls
            .iter_mut()
            .find(|(_, poll)| poll.open.contains_key(&token))
        else {
            return;
        };
        let Some(opcode) = poll.open.remove(&token) else {
            return;
        };
        match poll.report.fill_in(opcode, result) {
            Ok(Some(capabilities)) => {
                self.capabilities.insert(*pnn, capabilities);
            }
            Ok(None) => {}
            Err(failure) => {
                error!(target: LOG, %pnn, %failure, "Failed to read remote {opcode}");
                if failure.blames_node() {
                    self.silent.insert(*pnn);
                }
            }
        }
    }

    /// Who failed to answer since this was asked for the last time.
    pub(crate) fn take_silent(&mut self) -> BTreeSet<Pnn> {
        std::mem::take(&mut self.silent)
    }

    /// When to look again.
    pub(crate) fn poll_timeout(&self) -> Instant {
        self.round.as_ref().map_or(self.next_at, |round| round.ends)
    }
}

impl Poll {
    /// Asks a node. A node that takes no part in the cluster is only asked for its flags.
    fn begin(pnn: Pnn, view: &View<'_>, out: &mut Outbox) -> Self {
        let all = [
            Request::GetNodeMap,
            Request::GetCapabilities,
            Request::GetRecMode,
            Request::GetVnnMap,
        ];
        let count = if view.is_active(pnn) { all.len() } else { 1 };
        let mut poll = Self::default();
        for request in all.into_iter().take(count) {
            let token = out.ask(Asker::Check, pnn, &request, view.recover_timeout());
            poll.open.insert(token, request.opcode());
        }
        poll
    }
}

impl Report {
    /// Enters one answer. Capabilities are kept elsewhere.
    fn fill_in(
        &mut self,
        opcode: Opcode,
        result: ControlResult,
    ) -> Result<Option<Capabilities>, ControlFailure> {
        if opcode == Opcode::GET_RECMODE {
            // The mode is the status.
            let raw = u32::try_from(result?.status).ok();
            let mode = raw.and_then(RecMode::from_raw);
            let bad = || ControlFailure::Unacceptable("unknown recovery mode".to_owned());
            self.rec_mode = Some(mode.ok_or_else(bad)?);
            return Ok(None);
        }
        let reply = require_ok(result)?;
        match opcode {
            Opcode::GET_NODEMAP => self.nodes = Some(payload(&reply)?),
            Opcode::GETVNNMAP => self.vnn_map = Some(payload(&reply)?),
            Opcode::GET_CAPABILITIES => return Ok(Some(payload(&reply)?)),
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
#[path = "cluster_check/tests.rs"]
mod tests;
