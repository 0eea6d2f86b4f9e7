//! The election of a leader, from the first suspicion to its end (`cluster.md 4.3` to 4.5).
//!
//! ```text
//!          start                    all nodes are in recovery mode (or did not answer in time)
//!  Idle ----------> Preparing --------------------+-------------------------+
//!    |                                            | no cluster lock         | cluster lock
//!    |  ELECTION or LEADER(none) heard            v                         v
//!    +-----------------------------------------> Voting                   Racing
//!    |                                            | nobody objects          | lock taken, or not
//!    +<-------------------------------------------+-------------------------+
//! ```
//!
//! *With* a cluster lock, who gets it leads. *Without*, each node that stands for election sends
//! `ELECTION` to all; who would win against a message answers with its own, and the one whose
//! recovery daemon runs longest is left.
//!
//! Where this is faster than the original, in ways that a node of the original does not notice:
//!
//! - A node that does not answer the order to enter recovery mode holds the election up for
//!   [`PREPARE_TIMEOUT`] only.
//! - Who loses against a message *concedes*: it sends `LEADER` with the winner's pnn to the winner
//!   alone. When all connected nodes have conceded the election is over at once. A node of the
//!   original never concedes, so with one of them around the election takes its full time.
//! - Who loses a race for the lock tries again soon, unless a leader is heard.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, UNIX_EPOCH};

use ctdb_conf::Tunable;
use ctdb_proto::{Dest, ElectionMessage, Message, NodeFlags, Pnn, RecMode, Request, TimeVal};
use tracing::{debug, error, info, warn};

use crate::cluster_lock::{ClusterLock, LockOutcome};
use crate::explain::{ElectionReason, History, LeaderReason, What, Why};
use crate::leader::{LeaderWatch, say};
use crate::recoverd::LOG;
use crate::recoverd::outbox::{Asker, Batch, ControlResult, Outbox, Token};
use crate::recoverd::view::{NodeView, View};

/// How long an election waits for all nodes to enter recovery mode.
pub(crate) const PREPARE_TIMEOUT: Duration = Duration::from_secs(3);
/// Length of the first election with fast start. The original's test mode has 0.5 s here, which is
/// also the time after which its nodes object: too short to hear them.
pub(crate) const FAST_ELECTION: Duration = Duration::from_millis(800);
/// How long to wait for a candidate after another node said that there is no leader.
pub(crate) const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(1);
/// How much later each node starts an election than the active node before it, when all of them
/// have the same reason at the same time.
pub(crate) const RANK_DELAY: Duration = Duration::from_millis(100);
/// How long a node that was away hears the others before it asks for an election: two broadcasts
/// of a leader, and time to connect again.
pub(crate) const LISTEN_TIME: Duration = Duration::from_millis(2500);
/// Bounds of the pause before a node that would win answers, in milliseconds.
const ANSWER_DELAY_MS: std::ops::Range<u64> = 10..50;

/// The own part in elections.
#[derive(Debug)]
pub(crate) struct Election {
    phase: Phase,
    /// Since when this node's recovery daemon runs without being inactive, as Unix time. The
    /// oldest wins.
    priority: TimeVal,
    fast_start: bool,
    /// When to start one, if nothing happens before.
    start_at: Option<(Instant, ElectionReason)>,
    /// When to race for the lock again, if no leader is heard before.
    race_again_at: Option<Instant>,
    rng: fastrand::Rng,
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// All active nodes are ordered into recovery mode.
    Preparing(Batch),
    Voting {
        ends: Instant,
        /// When to answer a candidate that would lose against us.
        answer_at: Option<Instant>,
        /// Who accepts that we win.
        conceded: BTreeSet<Pnn>,
    },
    /// The lock helper runs.
    Racing,
}

/// What the election works on, all parts of the recovery daemon.
pub(crate) struct ElectionCtx<'a, 'v> {
    pub(crate) view: &'a View<'v>,
    pub(crate) now: Instant,
    /// Now, as Unix time.
    pub(crate) wall: Duration,
    pub(crate) leader: &'a mut LeaderWatch,
    pub(crate) lock: &'a mut ClusterLock,
    pub(crate) out: &'a mut Outbox,
    pub(crate) history: &'a mut History,
}

impl ElectionCtx<'_, '_> {
    fn set_leader(&mut self, leader: Option<Pnn>, reason: LeaderReason) {
        self.leader.set(leader, reason, self.history, self.now);
    }

    fn leads(&self) -> bool {
        self.leader.is_me(self.view.me)
    }
}

/// Whether this node wins against a candidate (`cluster.md 4.5`). The number of connected nodes
/// in the message does not count.
pub(crate) fn wins_against(
    theirs: &ElectionMessage,
    can_lead: bool,
    my_priority: TimeVal,
    me: Pnn,
) -> bool {
    can_lead
        && (theirs.node_flags.is_inactive()
            || theirs.priority_time > my_priority
            || (theirs.priority_time == my_priority && me > theirs.pnn))
}

impl Election {
    pub(crate) fn new(fast_start: bool, wall: Duration, rng: fastrand::Rng) -> Self {
        Self {
            phase: Phase::Idle,
            priority: time_val(wall),
            fast_start,
            start_at: None,
            race_again_at: None,
            rng,
        }
    }

    /// Whether candidates are judged or the lock is raced for: nobody leads meanwhile.
    pub(crate) fn in_progress(&self) -> bool {
        matches!(self.phase, Phase::Voting { .. } | Phase::Racing)
    }

    /// Whether nothing at all is going on.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle) && self.start_at.is_none()
    }

    /// An inactive node is as young as can be: when it returns, it loses elections.
    pub(crate) fn reset_priority(&mut self, wall: Duration) {
        self.priority = time_val(wall);
    }

    /// Starts an election soon: at once on the first active node, later on the others, so that
    /// not all of them start one for the same reason.
    pub(crate) fn start_by_rank(&mut self, reason: ElectionReason, ctx: &ElectionCtx<'_, '_>) {
        let delay = RANK_DELAY.saturating_mul(ctx.view.rank());
        self.start_at.get_or_insert((ctx.now + delay, reason));
    }

    /// Starts an election: first all active nodes enter recovery mode. A node that must not lead
    /// starts none, so that it cannot disturb the others.
    pub(crate) fn start(&mut self, reason: ElectionReason, ctx: &mut ElectionCtx<'_, '_>) {
        self.start_at = None;
        if !ctx.view.can_lead() || !matches!(self.phase, Phase::Idle) {
            return;
        }
        error!(target: LOG, "Start election");
        info!(target: LOG, %reason, "election");
        ctx.history
            .add(ctx.now, What::ElectionStarted, Why::Election(reason));
        let request = Request::SetRecMode(RecMode::Active);
        let timeout = PREPARE_TIMEOUT.min(ctx.view.recover_timeout());
        let batch = Batch::send(
            ctx.out,
            Asker::Election,
            ctx.view.active(),
            &request,
            timeout,
        );
        self.phase = Phase::Preparing(batch);
    }

    /// A node has entered recovery mode, or not.
    pub(crate) fn on_reply(
        &mut self,
        token: Token,
        result: ControlResult,
        ctx: &mut ElectionCtx<'_, '_>,
    ) {
        let Phase::Preparing(batch) = &mut self.phase else {
            return;
        };
        if !batch.on_reply(token, result, ctx.now) || !batch.is_complete() {
            return;
        }
        for (pnn, failure) in &batch.failures {
            warn!(target: LOG, %pnn, %failure, "Unable to set recovery mode to active on node");
        }
        say(None, ctx.out);
        if ctx.lock.is_configured() {
            self.race(ctx);
        } else {
            self.stand(ctx);
        }
    }

    /// Races for the cluster lock. Who holds it already has won.
    fn race(&mut self, ctx: &mut ElectionCtx<'_, '_>) {
        self.race_again_at = None;
        if !ctx.view.can_lead() {
            ctx.lock.release(ctx.out);
            self.phase = Phase::Idle;
        } else if ctx.lock.is_held() {
            self.phase = Phase::Idle;
            ctx.set_leader(Some(ctx.view.me), LeaderReason::ClusterLockTaken);
            ctx.leader.broadcast(ctx.view.me, ctx.out, ctx.now);
        } else {
            ctx.set_leader(None, LeaderReason::ElectionBegan);
            ctx.leader.stop_timeout();
            ctx.lock.take(ctx.out);
            self.phase = Phase::Racing;
        }
    }

    /// The lock helper has reported.
    pub(crate) fn on_lock(&mut self, outcome: LockOutcome, ctx: &mut ElectionCtx<'_, '_>) {
        match outcome {
            LockOutcome::Stale => {}
            LockOutcome::Taken => self.lead_with_lock(ctx),
            LockOutcome::NotTaken => {
                self.end_race(ctx);
                self.race_again_at = Some(ctx.now + ctx.lock.retry_delay());
            }
            LockOutcome::Lost => {
                ctx.set_leader(None, LeaderReason::ElectionBegan);
                ctx.leader.restart_timeout(ctx.now);
                self.phase = Phase::Idle;
                self.start(ElectionReason::ClusterLockLost, ctx);
            }
        }
    }

    fn lead_with_lock(&mut self, ctx: &mut ElectionCtx<'_, '_>) {
        self.end_race(ctx);
        if !ctx.view.can_lead() {
            ctx.lock.release(ctx.out);
            return;
        }
        let me = ctx.view.me;
        warn!(target: LOG, "Took cluster lock, leader={me}");
        ctx.set_leader(Some(me), LeaderReason::ClusterLockTaken);
        ctx.leader.broadcast(me, ctx.out, ctx.now);
    }

    fn end_race(&mut self, ctx: &mut ElectionCtx<'_, '_>) {
        if matches!(self.phase, Phase::Racing) {
            self.phase = Phase::Idle;
        }
        ctx.leader.restart_timeout(ctx.now);
    }

    /// Stands for election: wins unless somebody objects in time.
    fn stand(&mut self, ctx: &mut ElectionCtx<'_, '_>) {
        self.vote_until(ctx.now + self.length(ctx.view), ctx);
        self.send_candidacy(ctx);
        self.end_if_all_conceded(ctx);
    }

    /// How long to wait for objections: as long as a node of the original might need.
    fn length(&self, view: &View<'_>) -> Duration {
        let normal = view.tunables.seconds(Tunable::ElectionTimeout);
        if self.fast_start {
            FAST_ELECTION.min(normal)
        } else {
            normal
        }
    }

    fn vote_until(&mut self, until: Instant, ctx: &mut ElectionCtx<'_, '_>) {
        self.start_at = None;
        ctx.leader.stop_timeout();
        match &mut self.phase {
            Phase::Voting { ends, .. } => *ends = until,
            phase => {
                *phase = Phase::Voting {
                    ends: until,
                    answer_at: None,
                    conceded: BTreeSet::new(),
                };
            }
        }
    }

    /// Tells all nodes that we stand, and assumes victory.
    fn send_candidacy(&mut self, ctx: &mut ElectionCtx<'_, '_>) {
        ctx.set_leader(Some(ctx.view.me), LeaderReason::Standing);
        self.send_election_message(ctx);
    }

    fn send_election_message(&self, ctx: &mut ElectionCtx<'_, '_>) {
        let can_lead = ctx.view.can_lead();
        let is_connected = |node: &&NodeView| !node.flags.contains(NodeFlags::DISCONNECTED);
        let connected = ctx.view.nodes.iter().filter(is_connected).count();
        let message = ElectionMessage {
            num_connected: if can_lead {
                u32::try_from(connected).unwrap_or(u32::MAX)
            } else {
                0
            },
            priority_time: if can_lead {
                self.priority
            } else {
                time_val(ctx.wall)
            },
            pnn: ctx.view.me,
            node_flags: ctx.view.my_flags(),
        };
        ctx.out.message(Dest::All, &Message::Election(message));
    }

    /// Another node stands for election.
    pub(crate) fn on_election(&mut self, theirs: &ElectionMessage, ctx: &mut ElectionCtx<'_, '_>) {
        if ctx.lock.is_configured() {
            // Elections of a cluster with a lock send no such message: a node of another mind.
            debug!(target: LOG, pnn = %theirs.pnn, "ELECTION ignored, the cluster lock decides");
            return;
        }
        self.vote_until(ctx.now + self.length(ctx.view), ctx);
        let can_lead = ctx.view.can_lead();
        if wins_against(theirs, can_lead, self.priority, ctx.view.me) {
            self.answer_soon(ctx.now);
            return;
        }
        if let Phase::Voting {
            answer_at,
            conceded,
            ..
        } = &mut self.phase
        {
            *answer_at = None;
            conceded.clear();
        }
        ctx.set_leader(Some(theirs.pnn), LeaderReason::LostTo(theirs.pnn));
        if !theirs.node_flags.is_inactive() {
            ctx.out
                .message(theirs.pnn, &Message::Leader(Some(theirs.pnn)));
        }
    }

    /// Answers a candidate after a moment: one answer is enough for all that stand meanwhile.
    fn answer_soon(&mut self, now: Instant) {
        let delay = Duration::from_millis(self.rng.u64(ANSWER_DELAY_MS));
        if let Phase::Voting { answer_at, .. } = &mut self.phase {
            answer_at.get_or_insert(now + delay);
        }
    }

    /// Another node accepts that we win.
    pub(crate) fn on_concession(&mut self, from: Pnn, ctx: &mut ElectionCtx<'_, '_>) {
        if let Phase::Voting { conceded, .. } = &mut self.phase {
            conceded.insert(from);
            self.end_if_all_conceded(ctx);
        }
    }

    fn end_if_all_conceded(&mut self, ctx: &mut ElectionCtx<'_, '_>) {
        let Phase::Voting {
            conceded,
            answer_at: None,
            ..
        } = &self.phase
        else {
            return;
        };
        if ctx.leads() && ctx.view.active_peers().all(|pnn| conceded.contains(&pnn)) {
            self.end(ctx);
        }
    }

    /// Another node says that there is no leader: an election has begun.
    pub(crate) fn on_no_leader(&mut self, ctx: &mut ElectionCtx<'_, '_>) {
        match self.phase {
            // With a lock all race at once; our own preparations end in a race as well.
            Phase::Idle if ctx.lock.is_configured() => {
                self.start_at = None;
                self.race(ctx);
            }
            Phase::Idle => {
                if !ctx.leads() {
                    ctx.set_leader(None, LeaderReason::ElectionBegan);
                }
                // The original waits for ever if no candidate comes.
                self.vote_until(ctx.now + CANDIDATE_TIMEOUT.min(self.length(ctx.view)), ctx);
            }
            Phase::Preparing(_) | Phase::Voting { .. } | Phase::Racing => {}
        }
    }

    /// Another node leads, by its own word: it ends our election or comes before it.
    pub(crate) fn on_leader(&mut self, leader: Pnn, ctx: &mut ElectionCtx<'_, '_>) {
        self.start_at = None;
        self.race_again_at = None;
        if matches!(self.phase, Phase::Racing) {
            ctx.lock.release(ctx.out);
        }
        ctx.lock.forget_races();
        if self.in_progress() {
            warn!(target: LOG, "Election period ended, leader={leader}");
            self.fast_start = false;
        }
        self.phase = Phase::Idle;
        ctx.leader.restart_timeout(ctx.now);
    }

    /// The connection to the leader, or to the likely winner, is gone.
    pub(crate) fn on_leader_disconnected(&mut self, ctx: &mut ElectionCtx<'_, '_>) {
        ctx.set_leader(None, LeaderReason::Disconnected);
        ctx.leader.restart_timeout(ctx.now);
        if matches!(self.phase, Phase::Voting { .. }) {
            self.phase = Phase::Idle;
        }
    }

    /// This node was away: nobody led or voted here meanwhile. If no leader is heard soon, it asks
    /// for an election.
    pub(crate) fn was_away(&mut self, ctx: &mut ElectionCtx<'_, '_>) {
        ctx.set_leader(None, LeaderReason::WasAway);
        ctx.leader.restart_timeout(ctx.now);
        self.race_again_at = None;
        if !matches!(self.phase, Phase::Racing) {
            self.phase = Phase::Idle;
        }
        self.start_at = Some((ctx.now + LISTEN_TIME, ElectionReason::WasAway));
    }

    /// This node must not lead any more, if it ever did: gives the lock up and says so. The
    /// original is silent, so that the others wait for the leader timeout.
    pub(crate) fn resign(&mut self, ctx: &mut ElectionCtx<'_, '_>) {
        self.start_at = None;
        self.race_again_at = None;
        ctx.lock.release(ctx.out);
        match &mut self.phase {
            Phase::Preparing(_) | Phase::Racing => {
                self.phase = Phase::Idle;
                ctx.leader.ensure_timeout(ctx.now);
            }
            Phase::Voting { answer_at, .. } => *answer_at = None,
            Phase::Idle => {}
        }
        if !ctx.leads() {
            return;
        }
        ctx.set_leader(None, LeaderReason::Resigned);
        ctx.leader.restart_timeout(ctx.now);
        say(None, ctx.out);
        if !ctx.lock.is_configured() {
            // A node of the original that hears of an election, but of no candidate, waits for
            // ever. Everybody who can lead wins against this one and stands.
            self.send_election_message(ctx);
        }
    }

    /// Looks at all timers.
    pub(crate) fn on_timeout(&mut self, ctx: &mut ElectionCtx<'_, '_>) {
        if let Some((at, reason)) = self.start_at
            && ctx.now >= at
        {
            self.start(reason, ctx);
        }
        if self.race_again_at.is_some_and(|at| ctx.now >= at) {
            self.race_again_at = None;
            if matches!(self.phase, Phase::Idle) {
                self.race(ctx);
            }
        }
        let Phase::Voting {
            ends, answer_at, ..
        } = &mut self.phase
        else {
            return;
        };
        let is_over = ctx.now >= *ends;
        if answer_at.is_some_and(|at| ctx.now >= at) {
            *answer_at = None;
            self.send_candidacy(ctx);
            self.end_if_all_conceded(ctx);
        } else if is_over {
            self.end(ctx);
        } else {
            // Who has not conceded may have gone meanwhile.
            self.end_if_all_conceded(ctx);
        }
    }

    /// Nobody objected in time, or all agreed.
    fn end(&mut self, ctx: &mut ElectionCtx<'_, '_>) {
        self.phase = Phase::Idle;
        self.fast_start = false;
        ctx.leader.restart_timeout(ctx.now);
        let leader = ctx.leader.leader();
        warn!(
            target: LOG,
            "Election period ended, leader={}",
            Pnn::raw_or_unknown(leader)
        );
        if leader.is_none() {
            self.start(ElectionReason::NobodyStood, ctx);
        } else if ctx.leads() {
            ctx.history.add(
                ctx.now,
                What::Leader(leader),
                Why::Leader(LeaderReason::Elected),
            );
            ctx.leader.broadcast(ctx.view.me, ctx.out, ctx.now);
        }
    }

    /// When to look again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let voting = match &self.phase {
            Phase::Voting {
                ends, answer_at, ..
            } => Some(answer_at.unwrap_or(*ends).min(*ends)),
            Phase::Idle | Phase::Preparing(_) | Phase::Racing => None,
        };
        let start = self.start_at.map(|(at, _)| at);
        [voting, start, self.race_again_at]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Unix time as the wire has it. Cut before it is compared, so that both sides see a tie as a tie.
fn time_val(time: Duration) -> TimeVal {
    (UNIX_EPOCH + time).into()
}

#[cfg(test)]
#[path = "election/tests.rs"]
mod tests;
