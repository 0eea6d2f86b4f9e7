//! What messages to the recovery daemon do. Each is checked for its size and its sender before
//! anything is believed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_proto::{
    DisableMessage, ElectionMessage, LeaderOpinion, Message, NodeFlagChange, NodeMap, Pnn, Request,
    Srvid,
};
use tracing::{debug, info, warn};

use crate::explain::{CreditReason, ElectionReason, LeaderReason};
use crate::leader::{Heard, Standing, judge};
use crate::recoverd::outbox::{Asker, ControlResult, Token, payload, require_ok};
use crate::recoverd::view::View;
use crate::recoverd::{Activity, LOG, Recoverd, opinions};
use crate::takeover::send_status;

impl Recoverd {
    pub(super) fn on_message(
        &mut self,
        srvid: Srvid,
        from: Option<Pnn>,
        data: Bytes,
        view: &View<'_>,
        now: Instant,
    ) {
        if srvid.is_recovery() {
            if let Activity::Recovery(recovery) = &mut self.activity {
                recovery.on_records(srvid, from, &data, &mut self.out, now);
            }
            return;
        }
        let message = match Message::decode(srvid, data) {
            Ok(message) => message,
            Err(error) => {
                warn!(target: LOG, %srvid, ?from, %error, "message ignored");
                return;
            }
        };
        match message {
            Message::Leader(said) => self.on_leader_message(from, said, view, now),
            Message::LeaderQuery(missed) => self.on_leader_query(from, missed, view, now),
            Message::LeaderOpinion(opinion) => self.on_opinion(from, opinion, view, now),
            Message::LeaseRequest(time) => self.on_lease_request(from, time, view, now),
            Message::LeaseGrant(time) => self.on_lease_grant(from, time, view, now),
            Message::Election(theirs) => self.on_election_message(from, &theirs, view, now),
            Message::Banning(pnn) => self.on_banning_message(pnn, view, now),
            Message::PushNodeFlags(change) => self.on_own_health(from, change, view),
            Message::ReloadNodes => self.check.hurry(now),
            Message::TakeoverRun(request) => {
                self.takeover.add(request);
                self.check.hurry(now);
            }
            Message::RebalanceNode(pnn) if self.leader.is_me(view.me) => {
                if view.node(pnn).is_some() {
                    self.takeover.add_rebalance(pnn);
                }
            }
            Message::DisableTakeoverRuns(request) => {
                self.disable_takeover_runs(from, &request, view, now);
            }
            Message::DisableRecoveries(request) => {
                self.disable_recoveries(from, &request, view, now);
            }
            Message::DisableIpCheck(timeout) => {
                let request = DisableMessage {
                    pnn: None,
                    srvid: Srvid(0),
                    timeout,
                };
                self.disable_takeover_runs(from, &request, view, now);
            }
            other => debug!(target: LOG, ?other, "message is not for the recovery daemon"),
        }
    }

    fn on_leader_message(
        &mut self,
        from: Option<Pnn>,
        said: Option<Pnn>,
        view: &View<'_>,
        now: Instant,
    ) {
        let exists = |pnn: Option<Pnn>| pnn.is_none_or(|pnn| view.is_connected(pnn));
        if !exists(from) || !exists(said) {
            debug!(target: LOG, ?from, ?said, "LEADER of a node that is not connected ignored");
            return;
        }
        let standing = Standing {
            me: view.me,
            leader: self.leader.leader(),
            electing: self.election.in_progress(),
            lock_configured: self.lock.is_configured(),
            lock_held: self.lock.is_held(),
        };
        match judge(&standing, from, said) {
            Heard::Current if said == Some(view.me) => {}
            Heard::Current => self.follow(said, view, now),
            Heard::Follow(leader) => {
                info!(target: LOG, "Received leader broadcast, leader={leader}");
                self.follow(said, view, now);
            }
            Heard::NoLeader => {
                let (election, mut ctx) = self.election(view, now);
                election.on_no_leader(&mut ctx);
            }
            Heard::Rival(rival) => {
                warn!(target: LOG, "Node {rival} also leads, without a cluster lock");
                let (election, mut ctx) = self.election(view, now);
                election.start(ElectionReason::RivalLeader(rival), &mut ctx);
            }
            Heard::Conceded(loser) => {
                let (election, mut ctx) = self.election(view, now);
                election.on_concession(loser, &mut ctx);
            }
            Heard::Missed(pnn) => {
                debug!(target: LOG, %pnn, "node misses its leader");
                if self.leads(view) {
                    self.leader.broadcast(view.me, &mut self.out, now);
                }
            }
            Heard::Ignored(reason) => {
                debug!(target: LOG, ?from, ?said, reason, "LEADER ignored");
            }
        }
    }

    /// Another node leads, by its own word.
    fn follow(&mut self, leader: Option<Pnn>, view: &View<'_>, now: Instant) {
        let Some(pnn) = leader else { return };
        self.leader
            .set(leader, LeaderReason::Broadcast, &mut self.history, now);
        self.leader.hear(now);
        self.lease.on_leader(pnn, &mut self.out, now);
        self.opinions.forget();
        let (election, mut ctx) = self.election(view, now);
        election.on_leader(pnn, &mut ctx);
    }

    /// A node that misses its leader asks about it.
    fn on_leader_query(&mut self, from: Option<Pnn>, missed: Pnn, view: &View<'_>, now: Instant) {
        let Some(from) = from.filter(|from| *from != view.me && view.is_connected(*from)) else {
            return;
        };
        debug!(target: LOG, %from, %missed, "node misses its leader");
        let heard = if self.leads(view) {
            Some((view.me, Duration::ZERO))
        } else {
            self.leader.last_heard(now)
        };
        opinions::answer(from, heard, view, &mut self.out);
    }

    fn on_lease_request(&mut self, from: Option<Pnn>, time: u64, view: &View<'_>, now: Instant) {
        let peer = from.filter(|from| *from != view.me && view.is_connected(*from));
        if let Some(from) = peer
            && self.leads(view)
            && self.lock.permits_leading()
        {
            self.lease.grant(from, time, &mut self.out, now);
        }
    }

    fn on_lease_grant(&mut self, from: Option<Pnn>, time: u64, view: &View<'_>, now: Instant) {
        if let Some(from) = from.filter(|from| *from != view.me && view.is_connected(*from)) {
            let leader = self.leader.leader();
            self.lease.on_grant(from, time, leader, now);
        }
    }

    fn on_opinion(
        &mut self,
        from: Option<Pnn>,
        opinion: LeaderOpinion,
        view: &View<'_>,
        now: Instant,
    ) {
        let Some(from) = from else { return };
        if !self.election.is_idle() || self.leader.leader().is_some() {
            self.opinions.forget();
            return;
        }
        let advice = self.opinions.on_opinion(from, opinion, view.me, now);
        self.heed(advice, view, now);
    }

    fn on_election_message(
        &mut self,
        from: Option<Pnn>,
        theirs: &ElectionMessage,
        view: &View<'_>,
        now: Instant,
    ) {
        if theirs.pnn == view.me {
            return;
        }
        let is_hearsay = from.is_some_and(|from| from != theirs.pnn);
        if is_hearsay || !view.is_connected(theirs.pnn) {
            debug!(target: LOG, ?from, pnn = %theirs.pnn, "ELECTION ignored");
            return;
        }
        let (election, mut ctx) = self.election(view, now);
        election.on_election(theirs, &mut ctx);
    }

    /// A takeover run of the own node failed mostly because of `pnn`.
    fn on_banning_message(&mut self, pnn: Pnn, view: &View<'_>, now: Instant) {
        if self.leader.is_me(view.me) {
            let all = u32::try_from(view.nodes.len()).unwrap_or(u32::MAX);
            self.credit(pnn, all, CreditReason::TakeoverRun, view, now);
        }
    }

    /// The own daemon's health has changed. The leader's node map tells whom to tell.
    fn on_own_health(&mut self, from: Option<Pnn>, change: NodeFlagChange, view: &View<'_>) {
        if from.is_some_and(|from| from != view.me) || view.node(change.pnn).is_none() {
            debug!(target: LOG, ?from, "PUSH_NODE_FLAGS ignored");
            return;
        }
        let Some(leader) = self
            .leader
            .leader()
            .filter(|leader| view.is_connected(*leader))
        else {
            return;
        };
        let timeout = view.recover_timeout();
        let token = self
            .out
            .ask(Asker::PushFlags, leader, &Request::GetNodeMap, timeout);
        self.flag_pushes.insert(token, change);
    }

    /// Tells all connected nodes about the own health.
    pub(super) fn push_flags(&mut self, token: Token, result: ControlResult, view: &View<'_>) {
        let Some(change) = self.flag_pushes.remove(&token) else {
            return;
        };
        let map = match require_ok(result).and_then(|reply| payload::<NodeMap>(&reply)) {
            Ok(map) => map,
            Err(failure) => {
                warn!(target: LOG, %failure, "Failed to get the leader's node map");
                return;
            }
        };
        let known = map.nodes.iter().find(|node| node.pnn == change.pnn);
        let old_flags = known.map_or(change.old_flags, |node| node.flags);
        let request = Request::ModifyFlags(NodeFlagChange {
            old_flags,
            ..change
        });
        for pnn in view.connected() {
            self.out.order(pnn, &request, view.recover_timeout());
        }
    }

    fn disable_takeover_runs(
        &mut self,
        from: Option<Pnn>,
        request: &DisableMessage,
        view: &View<'_>,
        now: Instant,
    ) {
        let running = matches!(self.activity, Activity::Takeover(_));
        let result = self
            .takeover_runs
            .disable(from, request.timeout, running, now);
        self.answer_disable(request, result, view);
    }

    fn disable_recoveries(
        &mut self,
        from: Option<Pnn>,
        request: &DisableMessage,
        view: &View<'_>,
        now: Instant,
    ) {
        // The takeover run at the end of a recovery is part of it.
        let running = match &self.activity {
            Activity::None => false,
            Activity::Recovery(_) => true,
            Activity::Takeover(run) => run.ends_recovery,
        };
        let result = self.recoveries.disable(from, request.timeout, running, now);
        self.answer_disable(request, result, view);
    }

    fn answer_disable(
        &mut self,
        request: &DisableMessage,
        result: Result<(), i32>,
        view: &View<'_>,
    ) {
        let status = match result {
            Ok(()) => view.me.get().cast_signed(),
            Err(status) => status,
        };
        send_status(request.pnn, request.srvid, status, &mut self.out);
    }
}
