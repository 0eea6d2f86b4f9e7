//! What the recovery daemon does while its node leads: rounds of checks, and after them what they
//! call for: bans, a recovery, a takeover run. One recovery or takeover run at a time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ctdb_conf::Tunable;
use ctdb_proto::{BanState, Dest, Message, NodeFlags, Pnn, Request};
use tracing::{debug, error, info, warn};

use crate::cluster_check::{Verdict, log_finding};
use crate::explain::{
    CreditReason, ElectionReason, LeaderReason, RecoveryReason, TakeoverReason, What, Why,
};
use crate::recoverd::links::{EXCLUSION, Link, Repair};
use crate::recoverd::outbox::{ControlResult, Token};
use crate::recoverd::pace::urgency;
use crate::recoverd::view::View;
use crate::recoverd::{Activity, LOG, Recoverd};
use crate::recovery::{self, Failure, Recovery, vnnmap};
use crate::takeover::{self, TakeoverRun};

/// Longest pause before a failed recovery is repeated.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// Pause before a recovery that met another one is repeated: the other node's broadcast comes before.
const RIVAL_RETRY: Duration = Duration::from_millis(1500);
/// Pause before a recovery that failed because the cluster changed is repeated.
const SHORTEST_RETRY: Duration = Duration::from_millis(50);

impl Recoverd {
    /// One look at what the leader has to do.
    pub(super) fn lead(&mut self, view: &View<'_>, now: Instant) {
        self.stop_if_not_leader(view, now);
        if !self.leader.is_me(view.me) {
            // Only the leader serves takeover requests; the others forget them, once there is one.
            // Who asks while none is known asks the next one: a tool waits ten seconds before it
            // asks again.
            if self.leader.leader().is_some() && self.election.is_idle() {
                self.takeover.clear();
            }
            return;
        }
        self.drive_activity(view, now);
        if !self.leads(view) || !self.election.is_idle() {
            return;
        }
        if !self.lock.is_configured() {
            self.completeness.on_timeout(view, now);
        }
        if !matches!(self.activity, Activity::None) {
            return;
        }
        self.ban_due_nodes(view, now);
        if let Some(lost) = lost_member(view) {
            self.want_recovery(RecoveryReason::MemberLost(lost), None, view, now);
        }
        if !matches!(self.activity, Activity::None) {
            return;
        }
        let permits = self.lock.permits_leading();
        if let Some(verdict) = self.check.on_timeout(view, permits, &mut self.out, now) {
            self.act_on(&verdict, view, now);
        }
    }

    /// When to look again while there is no recovery and no takeover run.
    pub(super) fn lead_timeout(&self) -> Instant {
        let check = self.check.poll_timeout();
        self.completeness
            .poll_timeout()
            .map_or(check, |at| at.min(check))
    }

    /// What was begun as leader ends when another node leads.
    pub(super) fn stop_if_not_leader(&mut self, view: &View<'_>, now: Instant) {
        if self.leader.is_me(view.me) {
            return;
        }
        let leader = Pnn::raw_or_unknown(self.leader.leader());
        match std::mem::replace(&mut self.activity, Activity::None) {
            Activity::None => {}
            Activity::Recovery(recovery) => {
                error!(target: LOG, "Leader changed to {leader}, aborting recovery");
                let what = What::RecoveryFailed {
                    generation: recovery.generation(),
                };
                self.history.add(now, what, Why::Failures(Vec::new()));
                recovery.abandon(&mut self.out);
            }
            Activity::Takeover(run) => {
                error!(target: LOG, "Leader changed to {leader}, aborting takeover");
                run.abandon(view, &mut self.out);
            }
        }
        self.check.forget();
        self.links.forget();
        self.completeness.forget();
        self.credits.clear();
        self.retry_recovery_at = None;
        self.failed_recoveries = 0;
        self.takeover.owed = false;
    }

    /// Lets a recovery or a takeover run look at the time.
    fn drive_activity(&mut self, view: &View<'_>, now: Instant) {
        match &mut self.activity {
            Activity::None => {}
            Activity::Recovery(recovery) => {
                if let Some(lost) = recovery.lost_node(view) {
                    warn!(target: LOG, "Node {lost} was lost, aborting recovery");
                    self.end_recovery(recovery::Outcome::Failed(Vec::new()), view, now);
                } else if let Some(outcome) = recovery.go_on(view, &mut self.out, now) {
                    self.end_recovery(outcome, view, now);
                }
            }
            Activity::Takeover(run) => {
                if let Some(outcome) = run.go_on(view, &mut self.out, now) {
                    self.end_takeover(outcome, view, now);
                }
            }
        }
    }

    pub(super) fn on_recovery_reply(
        &mut self,
        token: Token,
        result: ControlResult,
        view: &View<'_>,
        now: Instant,
    ) {
        if let Activity::Recovery(recovery) = &mut self.activity
            && let Some(outcome) = recovery.on_reply(token, result, view, &mut self.out, now)
        {
            self.end_recovery(outcome, view, now);
        }
    }

    pub(super) fn on_takeover_reply(
        &mut self,
        token: Token,
        result: ControlResult,
        view: &View<'_>,
        now: Instant,
    ) {
        if let Activity::Takeover(run) = &mut self.activity
            && let Some(outcome) = run.on_reply(token, result, view, &mut self.out, now)
        {
            self.end_takeover(outcome, view, now);
        }
    }

    /// Does what a round of checks calls for.
    fn act_on(&mut self, verdict: &Verdict, view: &View<'_>, now: Instant) {
        for pnn in self.check.take_silent() {
            error!(target: LOG, "Failed to read remote nodemaps");
            self.credit(pnn, 1, CreditReason::NoAnswer, view, now);
        }
        for change in &verdict.pushes {
            let (pnn, flags) = (change.pnn, change.new_flags.bits());
            info!(target: LOG, "Pushing updated flags for node {pnn} ({flags:#x})");
            for to in view.connected() {
                self.out
                    .order(to, &Request::ModifyFlags(*change), view.recover_timeout());
            }
        }
        self.repair_links(&verdict.broken_links, view, now);
        if self.retry_recovery_at.is_some() {
            self.want_recovery(RecoveryReason::PreviousFailed, None, view, now);
        } else if let Some((reason, culprit)) = verdict.recover {
            self.want_recovery(reason, culprit, view, now);
        }
        if matches!(self.activity, Activity::None) && self.retry_recovery_at.is_none() {
            self.run_takeover_if_due(view, now);
        }
    }

    /// Recovers the cluster, unless something speaks against doing so now.
    fn want_recovery(
        &mut self,
        reason: RecoveryReason,
        culprit: Option<Pnn>,
        view: &View<'_>,
        now: Instant,
    ) {
        if self.recoveries.is_disabled() {
            debug!(target: LOG, %reason, "Unable to begin - recoveries are disabled");
            return;
        }
        let rest = view.tunables.seconds(Tunable::RerecoveryTimeout);
        let paced = self.pace.earliest(urgency(&reason), rest);
        if let Some(at) = self.retry_recovery_at.or(paced).filter(|at| now < *at) {
            self.put_off(at, Why::Pacing(reason), now);
            return;
        }
        if let Some((pnn, at)) = self.may_still_write(view, now) {
            self.put_off(at, Why::MayStillWrite { pnn, reason }, now);
            return;
        }
        log_finding(&reason, view);
        if let Some(pnn) = culprit {
            self.credit(pnn, 1, CreditReason::Disagrees(reason), view, now);
        }
        if !self.lock.permits_leading() {
            // Who leads without the lock has lost it a moment ago.
            error!(target: LOG, "Cluster lock not held - abort recovery");
            self.leader
                .set(None, LeaderReason::ElectionBegan, &mut self.history, now);
            let (election, mut ctx) = self.election(view, now);
            election.start(ElectionReason::ClusterLockLost, &mut ctx);
            return;
        }
        self.start_recovery(reason, view, now);
    }

    /// Remembers why there is no recovery yet; once for each time it is put off to.
    fn put_off(&mut self, until: Instant, why: Why, now: Instant) {
        let what = What::RecoveryPutOff { until };
        if self
            .history
            .decisions()
            .next_back()
            .is_none_or(|last| last.what != what)
        {
            debug!(target: LOG, %why, "recovery put off");
            self.history.add(now, what, why);
        }
        self.check.look_again_at(until);
    }

    fn start_recovery(&mut self, reason: RecoveryReason, view: &View<'_>, now: Instant) {
        info!(target: LOG, "Starting do_recovery");
        let culprit = self.credits.last_culprit.map_or(0, Pnn::get);
        info!(target: LOG, "Recovery initiated due to problem with node {culprit}");
        let generation = vnnmap::new_generation(&mut self.rng, view.vnn_map.generation);
        info!(target: LOG, %reason, %generation, "recovery");
        self.history.add(
            now,
            What::RecoveryStarted { generation },
            Why::Recovery(reason),
        );
        self.check.reset();
        self.pace.on_start(now);
        self.retry_recovery_at = None;
        let recovery = Recovery::start(generation, view, &mut self.out, now);
        self.activity = Activity::Recovery(Box::new(recovery));
    }

    fn end_recovery(&mut self, outcome: recovery::Outcome, view: &View<'_>, now: Instant) {
        let Activity::Recovery(recovery) = std::mem::replace(&mut self.activity, Activity::None)
        else {
            return;
        };
        let (generation, took) = (recovery.generation(), now.duration_since(recovery.started));
        recovery.abandon(&mut self.out);
        match outcome {
            recovery::Outcome::Failed(failures) => {
                self.on_recovery_failed(failures, generation, view, now);
            }
            recovery::Outcome::GaveWay(rival) => self.give_way(rival, generation, view, now),
            recovery::Outcome::Complete => {
                let what = What::RecoveryEnded { generation, took };
                self.history.add(now, what, Why::Done);
                self.failed_recoveries = 0;
                self.start_takeover(TakeoverReason::AfterRecovery, view, now);
            }
        }
    }

    /// Another node recovers the cluster. Our own recovery, if one runs, gets in its way, and it in
    /// ours.
    pub(super) fn on_rival_recovery(&mut self, rival: Pnn, view: &View<'_>, now: Instant) {
        if matches!(self.activity, Activity::Recovery(_)) && rival != view.me {
            self.end_recovery(recovery::Outcome::GaveWay(rival), view, now);
        }
    }

    /// Two recoveries at once can both fail for ever. Nobody is to blame for that: who leads must
    /// be settled first.
    fn give_way(
        &mut self,
        rival: Pnn,
        generation: ctdb_proto::Generation,
        view: &View<'_>,
        now: Instant,
    ) {
        warn!(target: recovery::LOG, "another recovery, of node {rival}: giving way");
        let what = What::RecoveryFailed { generation };
        self.history.add(now, what, Why::AnotherRecovery(rival));
        self.check.reset();
        self.retry_recovery_at = Some(now + RIVAL_RETRY);
        self.check.look_again_at(now + RIVAL_RETRY);
        if !self.lock.is_configured() {
            let (election, mut ctx) = self.election(view, now);
            election.start(ElectionReason::RivalLeader(rival), &mut ctx);
        }
    }

    /// The last steps of a recovery, after its takeover run.
    fn finish_recovery(&mut self, view: &View<'_>, now: Instant) {
        self.out.message(Dest::Connected, &Message::Reconfigure);
        info!(target: LOG, "Recovery complete");
        info!(target: LOG, "Resetting ban count to 0 for all nodes");
        self.credits.clear();
        let rest = view.tunables.seconds(Tunable::RerecoveryTimeout);
        let seconds = rest.as_secs();
        info!(
            target: LOG,
            "Just finished a recovery. New recoveries without need will now be suppressed for the \
             rerecovery timeout ({seconds} seconds)"
        );
        self.pace.on_end(rest, now);
        self.check.reset();
        self.check.hurry(now);
    }

    fn on_recovery_failed(
        &mut self,
        failures: Vec<Failure>,
        generation: ctdb_proto::Generation,
        view: &View<'_>,
        now: Instant,
    ) {
        self.check.reset();
        self.check.hurry(now);
        let changed = failures.iter().all(|failure| !failure.cause.blames_node());
        let pause = if changed {
            SHORTEST_RETRY
        } else {
            self.failed_recoveries = self.failed_recoveries.saturating_add(1);
            let doublings = self.failed_recoveries.min(5) - 1;
            LONGEST_RETRY.min(Duration::from_secs(1) * 2u32.pow(doublings))
        };
        self.retry_recovery_at = Some(now + pause);
        self.check.look_again_at(now + pause);
        for (pnn, times) in recovery::blamed(&failures) {
            self.credits.recovery_failed(pnn, times);
        }
        if let Some(first) = failures.first() {
            error!(target: recovery::LOG, "database recovery failed, ret={}", first.cause.ret());
        }
        self.history.add(
            now,
            What::RecoveryFailed { generation },
            Why::Failures(failures.clone()),
        );
        if !failures.is_empty() {
            self.ban_worst_node(failures, view, now);
        }
    }

    /// Bans the node at which recoveries failed again and again.
    fn ban_worst_node(&mut self, failures: Vec<Failure>, view: &View<'_>, now: Instant) {
        let Some(worst) = self.credits.take_worst(|pnn| view.is_active(pnn)) else {
            return;
        };
        if !view.tunables.is_on(Tunable::EnableBans) {
            info!(target: recovery::LOG, "Bans are not enabled");
            return;
        }
        let time = view.tunables.seconds(Tunable::RecoveryBanPeriod);
        self.ban(worst, time, Why::Failures(failures), view, now);
    }

    /// Gives a node credits towards a ban.
    pub(super) fn credit(
        &mut self,
        pnn: Pnn,
        count: u32,
        reason: CreditReason,
        view: &View<'_>,
        now: Instant,
    ) {
        if view.my_flags().is_inactive() {
            info!(target: LOG, "This node is INACTIVE, cannot set culprit node {pnn}");
            return;
        }
        if view.node(pnn).is_none() {
            error!(target: LOG, "Unknown culprit node {pnn}");
            return;
        }
        let grace = view.tunables.seconds(Tunable::RecoveryGracePeriod);
        let total = self.credits.add(pnn, count, grace, now);
        self.history.add(
            now,
            What::Credited { pnn, count, total },
            Why::Credit(reason),
        );
    }

    fn ban_due_nodes(&mut self, view: &View<'_>, now: Instant) {
        for (pnn, credits) in self.credits.take_due(view.nodes.len()) {
            error!(target: LOG, "Node {pnn} reached {credits} banning credits");
            let last = self.history.decisions().rev();
            let reason = last
                .filter(
                    |decision| matches!(decision.what, What::Credited { pnn: p, .. } if p == pnn),
                )
                .map(|decision| decision.why.clone())
                .next();
            let time = view.tunables.seconds(Tunable::RecoveryBanPeriod);
            self.ban(
                pnn,
                time,
                reason.unwrap_or(Why::Credit(CreditReason::NoAnswer)),
                view,
                now,
            );
        }
    }

    fn ban(&mut self, pnn: Pnn, time: Duration, why: Why, view: &View<'_>, now: Instant) {
        error!(target: LOG, "Banning node {pnn} for {} seconds", time.as_secs());
        self.history.add(
            now,
            What::Banned {
                pnn,
                until: now + time,
            },
            why,
        );
        if self.retry_recovery_at.is_some() {
            // The next try does without the node.
            self.retry_recovery_at = Some(now + SHORTEST_RETRY);
            self.check.look_again_at(now + SHORTEST_RETRY);
        }
        let request = Request::SetBanState(BanState { pnn, time });
        self.out.order(pnn, &request, view.recover_timeout());
        self.check.hurry(now);
    }

    /// Excludes nodes that others do not reach, and takes them back.
    fn repair_links(&mut self, broken: &BTreeSet<Link>, view: &View<'_>, now: Instant) {
        let period = view.tunables.seconds(Tunable::RecoveryBanPeriod);
        let time = period.min(EXCLUSION);
        if !view.tunables.is_on(Tunable::EnableBans) {
            return;
        }
        for repair in self.links.on_round(broken, time, now) {
            match repair {
                Repair::Exclude { pnn, link: (a, b) } => {
                    self.ban(pnn, time, Why::LinkBroken(a, b), view, now);
                }
                Repair::Extend(pnn) => {
                    let request = Request::SetBanState(BanState { pnn, time });
                    self.out.order(pnn, &request, view.recover_timeout());
                }
                Repair::Readmit(pnn) => self.readmit(pnn, view, now),
            }
        }
    }

    fn readmit(&mut self, pnn: Pnn, view: &View<'_>, now: Instant) {
        if !view.flags(pnn).contains(NodeFlags::BANNED) {
            return;
        }
        info!(target: LOG, "Unbanning node {pnn}, all nodes reach it again");
        self.history
            .add(now, What::Readmitted { pnn }, Why::LinksWhole);
        let time = Duration::ZERO;
        let request = Request::SetBanState(BanState { pnn, time });
        self.out.order(pnn, &request, view.recover_timeout());
        self.check.hurry(now);
    }

    fn run_takeover_if_due(&mut self, view: &View<'_>, now: Instant) {
        if self.takeover_runs.is_disabled() {
            return;
        }
        if let Some(reason) = self.takeover.due(now) {
            self.start_takeover(reason, view, now);
        }
    }

    fn start_takeover(&mut self, reason: TakeoverReason, view: &View<'_>, now: Instant) {
        let ends_recovery = reason == TakeoverReason::AfterRecovery;
        if self.takeover_runs.is_disabled() {
            error!(target: LOG, "Unable to begin - takeover runs are disabled");
            self.takeover.owed = true;
            if ends_recovery {
                self.finish_recovery(view, now);
            }
            return;
        }
        self.history
            .add(now, What::TakeoverRunStarted, Why::Takeover(reason));
        // Who asked before the recovery is served by its run.
        let requests = self.takeover.take();
        let disabled = self.config.failover_disabled;
        let ours = self.lease.ours().clone();
        let out = &mut self.out;
        let run = TakeoverRun::start(requests, ends_recovery, disabled, ours, view, out, now);
        self.activity = Activity::Takeover(run);
    }

    fn end_takeover(&mut self, outcome: takeover::Outcome, view: &View<'_>, now: Instant) {
        let Activity::Takeover(run) = std::mem::replace(&mut self.activity, Activity::None) else {
            return;
        };
        let success = outcome.is_success();
        if let Some(again) = self.takeover.on_end(success, now) {
            self.check.look_again_at(again);
        }
        takeover::answer(&run.requests, view.me, success, &mut self.out);
        if let takeover::Outcome::Failed { .. } = outcome {
            error!(target: LOG, "ctdb_takeover_run() failed");
            info!(target: LOG, "Takeover run unsuccessful");
            let why = Why::Takeover(TakeoverReason::PreviousFailed);
            self.history.add(now, What::TakeoverRunFailed, why);
        } else {
            info!(target: LOG, "Takeover run completed successfully");
            self.history.add(now, What::TakeoverRunEnded, Why::Done);
        }
        if run.ends_recovery {
            self.finish_recovery(view, now);
        }
        if let takeover::Outcome::Failed { culprit } = outcome {
            // After the end of a recovery, which forgives everybody.
            self.blame_for_takeover(culprit, view, now);
        }
    }

    fn blame_for_takeover(&mut self, culprit: Option<Pnn>, view: &View<'_>, now: Instant) {
        let Some(pnn) = culprit.filter(|_| view.tunables.is_on(Tunable::EnableBans)) else {
            return;
        };
        warn!(target: takeover::LOG, "Assigning banning credits to node {pnn}");
        let all = u32::try_from(view.nodes.len()).unwrap_or(u32::MAX);
        self.credit(pnn, all, CreditReason::TakeoverRun, view, now);
    }
}

/// A member of the vnn map that takes no part any more, as we see it: no need to ask anybody.
fn lost_member(view: &View<'_>) -> Option<Pnn> {
    let was_recovered = view.vnn_map.generation != ctdb_proto::Generation::INVALID;
    view.vnn_map
        .map
        .iter()
        .copied()
        .find(|pnn| was_recovered && !view.is_active(*pnn))
}
