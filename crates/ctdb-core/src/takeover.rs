//! A takeover run: brings public addresses to nodes that can host them (`ip-takeover.md 4`).
//!
//! ```text
//!  KnownIps -> AvailableIps -> StartIpReallocate -> (release, take) -> IpReallocated
//! ```
//!
//! Without public addresses, or without a node that can host one, a run consists of the last stage
//! alone: `IPREALLOCATED`, which lets every node run its event of that name. The allocation, and
//! with it the releasing and taking, stands between the last two stages and is not here yet: a run
//! leaves addresses where they are.
//!
//! During a run no other node checks addresses: `DISABLE_TAKEOVER_RUNS` tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ctdb_conf::Tunable;
use ctdb_proto::{
    ControlFlags, DisableMessage, Message, Pnn, PublicIpList, Request, SambaVersion, Srvid,
    SrvidMessage, Wire,
};
use tracing::{debug, error, info, warn};

use crate::explain::TakeoverReason;
use crate::recoverd::outbox::{Asker, Batch, ControlResult, Outbox, Token};
use crate::recoverd::view::View;

/// The name under which the original logs its takeover runs.
pub(crate) const LOG: &str = "ctdb-takeover";

/// First version that knows `START_IPREALLOCATE` (`wire.md 5.2`).
const KNOWS_START_IPREALLOCATE: SambaVersion = SambaVersion::new(4, 18);
/// For how long other nodes do not check addresses, if the run does not end before.
const CHECKS_DISABLED_FOR: Duration = Duration::from_secs(60);
/// Most requests that wait for a run; more are answered by asking again.
const MAX_REQUESTS: usize = 1024;

/// Who waits for a takeover run, and whether one is owed.
#[derive(Debug, Default)]
pub(crate) struct TakeoverQueue {
    requests: Vec<SrvidMessage>,
    /// The last run failed, or could not begin.
    pub(crate) owed: bool,
    /// Not before this time, after failures.
    not_before: Option<Instant>,
    failed_in_a_row: u32,
    /// Nodes that want addresses, even if that moves some from healthy nodes.
    rebalance: BTreeSet<Pnn>,
}

impl TakeoverQueue {
    /// A node or a tool asks for a run.
    pub(crate) fn add(&mut self, request: SrvidMessage) {
        if self.requests.len() < MAX_REQUESTS && !self.requests.contains(&request) {
            self.requests.push(request);
        }
    }

    /// A node wants addresses in the next run.
    pub(crate) fn add_rebalance(&mut self, pnn: Pnn) {
        info!(target: crate::recoverd::LOG, "Setting up rebalance of IPs to node {pnn}");
        self.rebalance.insert(pnn);
    }

    /// Only the leader serves requests; others drop them.
    pub(crate) fn clear(&mut self) {
        self.requests.clear();
        self.rebalance.clear();
    }

    /// Why a run is due now, if one is.
    pub(crate) fn due(&self, now: Instant) -> Option<TakeoverReason> {
        if let Some(first) = self.requests.first() {
            let requests = self.requests.len();
            return Some(TakeoverReason::Requested {
                first: first.pnn,
                requests,
            });
        }
        let may = self.not_before.is_none_or(|at| now >= at);
        (self.owed && may).then_some(TakeoverReason::PreviousFailed)
    }

    /// The requests that the next run serves.
    pub(crate) fn take(&mut self) -> Vec<SrvidMessage> {
        std::mem::take(&mut self.requests)
    }

    /// A run has ended. A failed one is repeated, each time after a longer pause: when.
    pub(crate) fn on_end(&mut self, success: bool, now: Instant) -> Option<Instant> {
        self.owed = !success;
        if success {
            self.failed_in_a_row = 0;
            self.not_before = None;
            self.rebalance.clear();
        } else {
            let pause = RETRY_FIRST * 2u32.pow(self.failed_in_a_row.min(5));
            self.failed_in_a_row = self.failed_in_a_row.saturating_add(1);
            self.not_before = Some(now + pause);
        }
        self.not_before
    }
}

/// Pause before a failed run is repeated for the first time.
const RETRY_FIRST: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Each connected node names its public addresses.
    KnownIps,
    /// Active nodes that have some name those that they can host now.
    AvailableIps,
    StartIpReallocate,
    IpReallocated,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Complete,
    /// With the node that failed most often, if any is to blame.
    Failed {
        culprit: Option<Pnn>,
    },
}

/// A takeover run.
#[derive(Debug)]
pub(crate) struct TakeoverRun {
    /// Who waits for it.
    pub(crate) requests: Vec<SrvidMessage>,
    /// It ends a recovery.
    pub(crate) ends_recovery: bool,
    /// Nodes that run this daemon, whichever version they present.
    ours: BTreeSet<Pnn>,
    stage: Stage,
    batch: Batch,
    /// When all must be done.
    deadline: Instant,
}

impl TakeoverRun {
    /// Begins a run.
    pub(crate) fn start(
        requests: Vec<SrvidMessage>,
        ends_recovery: bool,
        failover_disabled: bool,
        ours: BTreeSet<Pnn>,
        view: &View<'_>,
        out: &mut Outbox,
        now: Instant,
    ) -> Self {
        info!(target: crate::recoverd::LOG, "Takeover run starting");
        disable_checks(CHECKS_DISABLED_FOR, view, out);
        let mut run = Self {
            requests,
            ends_recovery,
            ours,
            stage: Stage::KnownIps,
            batch: Batch::default(),
            deadline: now + view.tunables.seconds(Tunable::TakeoverTimeout) * 3,
        };
        let first = if failover_disabled {
            Stage::IpReallocated
        } else {
            Stage::KnownIps
        };
        run.enter(first, view.connected().collect(), view, out, now);
        run
    }

    /// Takes a reply. How the run ended, if it has.
    pub(crate) fn on_reply(
        &mut self,
        token: Token,
        result: ControlResult,
        view: &View<'_>,
        out: &mut Outbox,
        now: Instant,
    ) -> Option<Outcome> {
        let result = if self.stage == Stage::StartIpReallocate {
            forgive(result)
        } else {
            result
        };
        self.batch.on_reply(token, result, now);
        self.go_on(view, out, now)
    }

    /// Looks whether there is nothing more to wait for. How the run ended, if it has.
    pub(crate) fn go_on(
        &mut self,
        view: &View<'_>,
        out: &mut Outbox,
        now: Instant,
    ) -> Option<Outcome> {
        while self.batch.is_settled(now) {
            let mut batch = std::mem::take(&mut self.batch);
            self.log_stage(&batch);
            let next = match self.stage {
                Stage::KnownIps => after_known_ips(&mut batch, view),
                Stage::AvailableIps => self.after_available_ips(&mut batch, view),
                Stage::StartIpReallocate => (Stage::IpReallocated, view.connected().collect()),
                Stage::IpReallocated => return Some(Self::end(&batch, view, out)),
            };
            if !batch.failures.is_empty() {
                return Some(Self::end(&batch, view, out));
            }
            self.enter(next.0, next.1, view, out, now);
        }
        None
    }

    fn enter(
        &mut self,
        stage: Stage,
        nodes: Vec<Pnn>,
        view: &View<'_>,
        out: &mut Outbox,
        now: Instant,
    ) {
        let each = view.tunables.seconds(Tunable::TakeoverTimeout);
        let left = self.deadline.saturating_duration_since(now);
        self.stage = stage;
        let (flags, timeout) = match stage {
            Stage::KnownIps => (ControlFlags::empty(), each),
            Stage::AvailableIps => (ControlFlags::ONLY_AVAILABLE, each),
            Stage::StartIpReallocate | Stage::IpReallocated => (ControlFlags::empty(), left),
        };
        let request = stage.request().to_control(flags);
        for pnn in nodes {
            self.batch.add(
                pnn,
                out.control(Asker::Takeover, pnn, request.clone(), timeout),
            );
        }
    }

    /// Only if some address can be hosted, nodes are told that addresses may move.
    fn after_available_ips(&self, batch: &mut Batch, view: &View<'_>) -> (Stage, Vec<Pnn>) {
        if nodes_with_ips(batch).is_empty() {
            return (Stage::IpReallocated, view.connected().collect());
        }
        warn!(target: LOG, "public addresses stay where they are: this leader does not move them");
        (Stage::StartIpReallocate, self.who_knows_the_start(view))
    }

    /// Connected nodes without those known to be too old for `START_IPREALLOCATE`. In a mixed
    /// cluster ours present the version of the original, and know it all the same.
    fn who_knows_the_start(&self, view: &View<'_>) -> Vec<Pnn> {
        let is_old = |pnn: &Pnn| {
            let version = view.node(*pnn).and_then(|node| node.keepalive_version);
            !self.ours.contains(pnn) && version.is_some_and(|v| v < KNOWS_START_IPREALLOCATE)
        };
        view.connected().filter(|pnn| !is_old(pnn)).collect()
    }

    fn log_stage(&self, batch: &Batch) {
        let opcode = self.stage.request().opcode();
        for (pnn, failure) in &batch.failures {
            error!(target: LOG, "{opcode} failed on node {pnn}, ret={}", failure.ret());
        }
        debug!(target: LOG, "{opcode} succeeded on {} nodes", batch.replies.len());
    }

    fn end(batch: &Batch, view: &View<'_>, out: &mut Outbox) -> Outcome {
        disable_checks(Duration::ZERO, view, out);
        if batch.failures.is_empty() {
            return Outcome::Complete;
        }
        Outcome::Failed {
            culprit: culprit(batch),
        }
    }

    /// The run cannot go on, because another node leads now.
    pub(crate) fn abandon(&self, view: &View<'_>, out: &mut Outbox) {
        disable_checks(Duration::ZERO, view, out);
        answer(&self.requests, view.me, false, out);
    }

    /// When to look again although no reply came.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.batch.poll_timeout()
    }
}

impl Stage {
    fn request(self) -> Request {
        match self {
            Self::KnownIps | Self::AvailableIps => Request::GetPublicIps,
            Self::StartIpReallocate => Request::StartIpReallocate,
            Self::IpReallocated => Request::IpReallocated,
        }
    }
}

/// Which nodes are asked for addresses that they can host now: active ones that know any.
fn after_known_ips(batch: &mut Batch, view: &View<'_>) -> (Stage, Vec<Pnn>) {
    let with_ips = nodes_with_ips(batch);
    if with_ips.is_empty() {
        return (Stage::IpReallocated, view.connected().collect());
    }
    (
        Stage::AvailableIps,
        with_ips
            .into_iter()
            .filter(|pnn| view.is_active(*pnn))
            .collect(),
    )
}

/// Nodes whose reply names at least one address.
fn nodes_with_ips(batch: &mut Batch) -> Vec<Pnn> {
    let lists: BTreeMap<Pnn, PublicIpList> = batch.decode();
    lists
        .into_iter()
        .filter(|(_, list)| !list.ips.is_empty())
        .map(|(pnn, _)| pnn)
        .collect()
}

/// A node that does not know `START_IPREALLOCATE` answers -1: no failure (`wire.md 5.2`).
fn forgive(result: ControlResult) -> ControlResult {
    result.map(|mut reply| {
        if reply.status == -1 {
            reply.status = 0;
        }
        reply
    })
}

/// The node with most failures, the lowest pnn among equals. A lost connection is no blame.
fn culprit(batch: &Batch) -> Option<Pnn> {
    let mut counts: BTreeMap<Pnn, u32> = BTreeMap::new();
    for (pnn, _) in batch
        .failures
        .iter()
        .filter(|(_, failure)| failure.blames_node())
    {
        *counts.entry(*pnn).or_default() += 1;
    }
    counts
        .into_iter()
        .rev()
        .max_by_key(|(_, count)| *count)
        .map(|(pnn, _)| pnn)
}

/// Switches the address checks of the other connected nodes off, or on again.
fn disable_checks(timeout: Duration, view: &View<'_>, out: &mut Outbox) {
    let message = DisableMessage {
        pnn: None,
        srvid: Srvid(0),
        timeout,
    };
    for pnn in view.connected_peers() {
        out.message(pnn, &Message::DisableTakeoverRuns(message));
    }
}

/// Tells those who asked for a run how it ended: the leader's pnn, or -1.
pub(crate) fn answer(requests: &[SrvidMessage], me: Pnn, success: bool, out: &mut Outbox) {
    let status = if success { me.get().cast_signed() } else { -1 };
    for request in requests {
        send_status(request.pnn, request.srvid, status, out);
    }
}

/// Answers a request that came by message, if an answer is wanted.
pub(crate) fn send_status(to: Option<Pnn>, srvid: Srvid, status: i32, out: &mut Outbox) {
    let Some(to) = to.filter(|_| srvid != Srvid(0)) else {
        return;
    };
    let mut data = Vec::new();
    status.encode(&mut data);
    out.send(to, srvid, data.into());
}

impl Outcome {
    pub(crate) fn is_success(self) -> bool {
        self == Self::Complete
    }
}

#[cfg(test)]
#[path = "takeover/tests.rs"]
mod tests;
