//! The recovery daemon: leader election, watch over the cluster, recovery, takeover runs, bans.
//!
//! In the original this is a process of its own beside the daemon (`cluster.md 5`), and an
//! ordinary client of it. Here it is a machine without I/O that the node drives: inputs go in with
//! a [`View`] of what the daemon knows, effects come out. [`Recoverd`] owns the parts and routes
//! inputs to them; each part decides about one thing:
//!
//! | part | decides |
//! |---|---|
//! | `leader` | what a `LEADER` message means, when a leader is silent for too long |
//! | `opinions` | whether a leader that is not heard here still leads the others |
//! | `election` | who leads |
//! | `cluster_lock` | whether this node holds the cluster lock |
//! | `cluster_check` | what the leader finds wrong with the cluster |
//! | `banning` | who has to be excluded |
//! | `links` | who has to be excluded because two nodes do not reach each other |
//! | `lease` | for how long a node goes on without a word of the leader, and what the leader knows of it |
//! | `fence` | when a node without a leader must not let records be used |
//! | `recovery` | the steps of one recovery |
//! | `takeover` | the steps of one takeover run |
//! | `explain` | nothing: it remembers what was decided, and why |
//!
//! Each call is one step on one consistent state: the input is taken in, then every part looks
//! once at what time it is. Nothing waits inside of a call.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_proto::{Generation, NodeFlagChange, NodeFlags, Pnn, RecMode, RunState, Srvid};
use tracing::{error, info, warn};

use crate::banning::Credits;
use crate::cluster_check::ClusterCheck;
use crate::cluster_lock::{ClusterLock, ClusterLockEvent, LockOutcome};
use crate::election::{Election, ElectionCtx};
use crate::explain::{ElectionReason, History, LeaderReason, What, Why};
use crate::leader::LeaderWatch;
use crate::recovery::Recovery;
use crate::recovery::phases::Phase;
use crate::takeover::{TakeoverQueue, TakeoverRun};

pub(crate) mod cold_start;
mod completeness;
mod fence;
mod lead;
mod lease;
pub(crate) mod links;
mod messages;
mod opinions;
pub(crate) mod outbox;
mod pace;
mod switch;
pub(crate) mod view;

use cold_start::ColdStart;
use completeness::Completeness;
use fence::Fence;
use lease::Lease;
use links::Links;
use opinions::{Advice, Opinions};
use outbox::{Asker, Outbox};
pub use outbox::{ControlFailure, ControlResult, LockAttempt, RecoverdEffect, Token};
use pace::Pace;
use switch::Switch;
pub use view::{NodeView, View};

/// The name under which the original logs what its recovery daemon says.
pub const LOG: &str = "ctdb-recoverd";

/// What the configuration says about recoveries and leaders.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecoverdConfig {
    /// `[cluster] cluster lock`.
    pub cluster_lock: Option<String>,
    /// `[cluster] leader timeout`.
    pub leader_timeout: Duration,
    /// The first election is short: the original's test mode.
    pub fast_start: bool,
    /// `[failover] disabled`: public addresses never move.
    pub failover_disabled: bool,
}

/// Something happened that the recovery daemon has to know.
#[derive(Clone, Debug, PartialEq)]
pub enum RecoverdInput {
    /// The reply to a control, or why there is none.
    Reply { token: Token, result: ControlResult },
    /// A message to one of [`SRVIDS`], or to one that the recovery daemon listens to.
    Message {
        srvid: Srvid,
        from: Option<Pnn>,
        data: Bytes,
    },
    /// A batch of records that a merge has read.
    Merged { token: Token, records: Bytes },
    /// Another node has told the own one to take part in its recovery, by a control that only the
    /// leader of a recovery sends.
    RecoveryOf(Pnn),
    /// A report of the helper that takes the cluster lock.
    ClusterLock {
        attempt: LockAttempt,
        event: ClusterLockEvent,
    },
}

/// Messages that the recovery daemon always wants.
pub const SRVIDS: [Srvid; 14] = [
    Srvid::ELECTION,
    Srvid::LEADER,
    Srvid::LEADER_QUERY,
    Srvid::LEADER_OPINION,
    Srvid::LEASE_REQUEST,
    Srvid::LEASE_GRANT,
    Srvid::BANNING,
    Srvid::PUSH_NODE_FLAGS,
    Srvid::RELOAD_NODES,
    Srvid::TAKEOVER_RUN,
    Srvid::REBALANCE_NODE,
    Srvid::DISABLE_TAKEOVER_RUNS,
    Srvid::DISABLE_RECOVERIES,
    Srvid::DISABLE_IP_CHECK,
];

/// The recovery daemon of one node.
#[derive(Debug)]
pub struct Recoverd {
    config: RecoverdConfig,
    clock: Clock,
    rng: fastrand::Rng,
    out: Outbox,
    history: History,
    /// Runs since the daemon has its first recovery ahead.
    is_awake: bool,
    /// When it was called last.
    last_call: Instant,
    seen: Seen,

    leader: LeaderWatch,
    opinions: Opinions,
    election: Election,
    lock: ClusterLock,
    cold_start: ColdStart,
    lease: Lease,
    fence: Fence,

    check: ClusterCheck,
    credits: Credits,
    links: Links,
    activity: Activity,
    /// A recovery failed: it is repeated, not before the time given.
    retry_recovery_at: Option<Instant>,
    failed_recoveries: u32,
    pace: Pace,
    recoveries: Switch,
    takeover_runs: Switch,
    takeover: TakeoverQueue,
    completeness: Completeness,
    /// Changes of the own health that wait for the leader's node map.
    flag_pushes: BTreeMap<Token, NodeFlagChange>,
}

/// What the leader is doing beside its rounds. One thing at a time.
#[derive(Debug)]
enum Activity {
    None,
    Recovery(Box<Recovery>),
    Takeover(TakeoverRun),
}

/// Monotonic time and Unix time, tied together at the start: steps of the wall clock have no
/// influence.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start: Instant,
    wall: Duration,
}

impl Clock {
    fn wall(&self, now: Instant) -> Duration {
        self.wall + now.saturating_duration_since(self.start)
    }
}

/// The parts of the last view whose change calls for action.
#[derive(Debug, Default, Eq, PartialEq)]
struct Seen {
    flags: Vec<(Pnn, NodeFlags)>,
    recovering: bool,
}

impl Recoverd {
    /// `wall`: the Unix time at `now`; the oldest recovery daemon wins elections.
    pub fn new(config: RecoverdConfig, seed: u64, now: Instant, wall: Duration) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let election_rng = rng.fork();
        let leader = LeaderWatch::new(config.leader_timeout, now);
        Self {
            clock: Clock { start: now, wall },
            rng,
            out: Outbox::default(),
            history: History::default(),
            is_awake: false,
            last_call: now,
            seen: Seen::default(),
            opinions: Opinions::new(leader.broadcast_interval()),
            leader,
            election: Election::new(config.fast_start, wall, election_rng),
            lock: ClusterLock::new(config.cluster_lock.clone()),
            cold_start: ColdStart::new(),
            lease: Lease::new(config.leader_timeout, now),
            fence: Fence::default(),
            check: ClusterCheck::new(now),
            credits: Credits::default(),
            links: Links::default(),
            activity: Activity::None,
            retry_recovery_at: None,
            failed_recoveries: 0,
            pace: Pace::default(),
            recoveries: Switch::new("recoveries"),
            takeover_runs: Switch::new("takeover runs"),
            takeover: TakeoverQueue::default(),
            completeness: Completeness::default(),
            flag_pushes: BTreeMap::new(),
            config,
        }
    }

    /// Something happened.
    pub fn handle(&mut self, input: RecoverdInput, view: &View<'_>, now: Instant) {
        if !self.wake_up(view, now) {
            return;
        }
        self.look_around(view, now);
        match input {
            RecoverdInput::Reply { token, result } => self.on_reply(token, result, view, now),
            RecoverdInput::Message { srvid, from, data } => {
                self.on_message(srvid, from, data, view, now);
            }
            RecoverdInput::Merged { token, records } => {
                if let Activity::Recovery(recovery) = &mut self.activity {
                    recovery.on_merged(token, &records, &mut self.out, now);
                }
            }
            RecoverdInput::RecoveryOf(leader) => self.on_rival_recovery(leader, view, now),
            RecoverdInput::ClusterLock { attempt, event } => {
                let outcome = self.lock.on_event(attempt, event);
                match outcome {
                    LockOutcome::Taken => self.lease.tell(view, &mut self.out),
                    LockOutcome::Lost => self.lease.end(now),
                    LockOutcome::NotTaken | LockOutcome::Stale => {}
                }
                let (election, mut ctx) = self.election(view, now);
                election.on_lock(outcome, &mut ctx);
            }
        }
        self.step(view, now);
    }

    /// Time has passed, or something in the view has changed. Harmless if neither has.
    pub fn handle_timeout(&mut self, view: &View<'_>, now: Instant) {
        if self.wake_up(view, now) {
            self.look_around(view, now);
            self.step(view, now);
        }
    }

    /// What to do next; call until `None`. The order counts: what goes to one node must arrive
    /// there in this order.
    pub fn poll_effect(&mut self) -> Option<RecoverdEffect> {
        self.out.pop()
    }

    /// When to call [`Self::handle_timeout`] at the latest. `None` before the first recovery.
    pub fn poll_timeout(&self, view: &View<'_>) -> Option<Instant> {
        if !self.is_awake {
            return None;
        }
        let activity = match &self.activity {
            Activity::None if self.leads(view) && self.election.is_idle() => {
                Some(self.lead_timeout())
            }
            Activity::None => None,
            Activity::Recovery(recovery) => recovery.poll_timeout(),
            Activity::Takeover(run) => run.poll_timeout(),
        };
        let timers = [
            activity,
            self.election.poll_timeout(),
            self.leader.poll_timeout(view.me, self.leads(view)),
            self.opinions.poll_timeout(),
            self.fence_at(view),
            self.cold_start
                .poll_timeout(view.is_complete() && view.can_lead()),
            self.recoveries.poll_timeout(),
            self.takeover_runs.poll_timeout(),
        ];
        timers.into_iter().flatten().min()
    }

    /// The node that leads the cluster, as far as this one knows; itself, while it stands for
    /// election.
    pub fn leader(&self) -> Option<Pnn> {
        self.leader.leader()
    }

    /// The last decisions, with their reasons.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The recovery that this leader runs, if it does, and what it is at.
    pub fn recovery(&self) -> Option<(Generation, Phase)> {
        match &self.activity {
            Activity::Recovery(recovery) => Some((recovery.generation(), recovery.phase())),
            Activity::None | Activity::Takeover(_) => None,
        }
    }

    /// Whether this node leads, and no election is under way.
    pub fn is_leader(&self, me: Pnn) -> bool {
        self.leader.is_me(me) && !self.election.in_progress()
    }

    fn leads(&self, view: &View<'_>) -> bool {
        self.is_leader(view.me)
    }

    /// The recovery daemon starts when the daemon has only the first recovery ahead.
    fn wake_up(&mut self, view: &View<'_>, now: Instant) -> bool {
        if !self.is_awake && view.run_state >= RunState::FirstRecovery {
            info!(target: LOG, "monitor_cluster starting");
            self.is_awake = true;
            self.last_call = now;
            self.leader.ensure_timeout(now);
        }
        self.is_awake
    }

    /// What must be known before anything else is taken in: a node that may not let records be used
    /// any more blocks them whatever it hears next, since that may be old news.
    fn look_around(&mut self, view: &View<'_>, now: Instant) {
        self.lease.look(self.lock.is_held(), view, now);
        if self.lock.is_held() {
            self.lease.tell(view, &mut self.out);
        }
        self.keep_fenced(view, now);
        self.notice_absence(view, now);
        self.notice_changes(view, now);
    }

    /// The node wakes every second. If it did not for as long as the others wait for a leader, the
    /// process was stopped, or its machine: whoever led then, another node may lead now, and what
    /// was under way is over. It hears the others before it does anything.
    fn notice_absence(&mut self, view: &View<'_>, now: Instant) {
        let absence = now.saturating_duration_since(self.last_call);
        self.last_call = now;
        if absence <= self.config.leader_timeout {
            return;
        }
        let seconds = absence.as_secs();
        warn!(target: LOG, "This node was away for {seconds} seconds");
        let (election, mut ctx) = self.election(view, now);
        election.was_away(&mut ctx);
        self.stop_if_not_leader(view, now);
    }

    /// Compares with the view of the last call: what changed is looked at without delay.
    fn notice_changes(&mut self, view: &View<'_>, now: Instant) {
        let seen = Seen {
            flags: view
                .nodes
                .iter()
                .map(|node| (node.pnn, node.flags))
                .collect(),
            recovering: view.rec_mode == RecMode::Active,
        };
        if seen == self.seen {
            return;
        }
        let lost_node = self.seen.flags.iter().any(|(pnn, flags)| {
            !flags.contains(NodeFlags::DISCONNECTED) && !view.is_connected(*pnn)
        });
        if lost_node && self.retry_recovery_at.is_some() {
            self.retry_recovery_at = Some(now);
        }
        self.seen = seen;
        self.check.hurry(now);
    }

    /// One look of every part at the time and the view.
    fn step(&mut self, view: &View<'_>, now: Instant) {
        if !view.can_lead() {
            let (election, mut ctx) = self.election(view, now);
            election.resign(&mut ctx);
        }
        for switch in [&mut self.recoveries, &mut self.takeover_runs] {
            switch.on_timeout(now);
            switch.on_lost_nodes(|pnn| view.is_connected(pnn));
        }
        self.watch_leader(view, now);
        let (election, mut ctx) = self.election(view, now);
        election.on_timeout(&mut ctx);
        if self.leads(view) {
            self.lease.tell(view, &mut self.out);
            self.leader.broadcast_if_due(view.me, &mut self.out, now);
        }
        self.lease.look(self.lock.is_held(), view, now);
        self.keep_fenced(view, now);
        self.lead(view, now);
    }

    /// The election, and what it works on.
    fn election<'a, 'v>(
        &'a mut self,
        view: &'a View<'v>,
        now: Instant,
    ) -> (&'a mut Election, ElectionCtx<'a, 'v>) {
        let ctx = ElectionCtx {
            view,
            now,
            wall: self.clock.wall(now),
            leader: &mut self.leader,
            lock: &mut self.lock,
            out: &mut self.out,
            history: &mut self.history,
        };
        (&mut self.election, ctx)
    }

    /// Calls for an election if there is no leader any more, or never was one.
    fn watch_leader(&mut self, view: &View<'_>, now: Instant) {
        if let Some(leader) = self.leader.disconnected(view) {
            let (election, mut ctx) = self.election(view, now);
            election.on_leader_disconnected(&mut ctx);
            self.miss_leader(
                leader,
                ElectionReason::LeaderDisconnected(leader),
                view,
                now,
            );
        }
        if self.leader.is_silent(view.me, now) {
            let missed = self.leader.leader();
            let history = &mut self.history;
            self.leader.set(None, LeaderReason::Silent, history, now);
            match missed {
                Some(leader) => self.miss_leader(leader, ElectionReason::LeaderSilent, view, now),
                None if self.opinions.is_idle() => {
                    self.elect(ElectionReason::LeaderSilent, view, now);
                }
                // Somebody who hears the leader has been asked, or is asked again.
                None => {}
            }
        }
        let advice = self.opinions.on_timeout(view, &mut self.out, now);
        self.heed(advice, view, now);
        if self.leader.was_ever_known() || !self.election.is_idle() {
            self.cold_start.settle();
        } else if view.can_lead() && self.cold_start.on_timeout(view, &mut self.out, now) {
            self.start_cold(view, now);
        }
        if !self.election.in_progress() {
            self.leader.ensure_timeout(now);
        }
    }

    /// The leader is not heard any more: asks others whether they hear it before there is an
    /// election.
    fn miss_leader(&mut self, leader: Pnn, reason: ElectionReason, view: &View<'_>, now: Instant) {
        let advice = self.opinions.ask(leader, reason, view, &mut self.out, now);
        self.heed(advice, view, now);
    }

    /// Does what others have said about a leader that is not heard here.
    fn heed(&mut self, advice: Advice, view: &View<'_>, now: Instant) {
        match advice {
            Advice::Wait => {}
            Advice::Elect(reason) => self.elect(reason, view, now),
            Advice::CutOff { leader, witness } => {
                warn!(
                    target: LOG,
                    "Leader {leader} is heard by node {witness}, but not by this node"
                );
                self.history
                    .add(now, What::CutOff { leader }, Why::HeardBy(witness));
            }
        }
    }

    fn elect(&mut self, reason: ElectionReason, view: &View<'_>, now: Instant) {
        let (election, mut ctx) = self.election(view, now);
        match reason {
            ElectionReason::LeaderDisconnected(_) => election.start_by_rank(reason, &ctx),
            _ => election.start(reason, &mut ctx),
        }
    }

    fn start_cold(&mut self, view: &View<'_>, now: Instant) {
        let (election, ctx) = self.election(view, now);
        election.start_by_rank(ElectionReason::ColdStart, &ctx);
    }

    /// Hands a reply to who asked. Nobody asked, or not any more: it is ignored.
    fn on_reply(&mut self, token: Token, result: ControlResult, view: &View<'_>, now: Instant) {
        match self.out.answered(token) {
            None => {}
            Some(Asker::Election) => {
                let (election, mut ctx) = self.election(view, now);
                election.on_reply(token, result, &mut ctx);
            }
            Some(Asker::ColdStart) => {
                let due = self.cold_start.on_reply(token, result, now);
                if due && view.can_lead() && self.election.is_idle() {
                    self.start_cold(view, now);
                }
            }
            Some(Asker::Check) => self.check.on_reply(token, result),
            Some(Asker::PushFlags) => self.push_flags(token, result, view),
            Some(Asker::Recovery) => self.on_recovery_reply(token, result, view, now),
            Some(Asker::Takeover) => self.on_takeover_reply(token, result, view, now),
            Some(Asker::Order(opcode, pnn)) => {
                if let Err(failure) = outbox::require_ok(result) {
                    error!(target: LOG, %pnn, %failure, "{opcode} failed");
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
