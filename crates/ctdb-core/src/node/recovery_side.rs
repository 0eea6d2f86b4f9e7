//! The node as the daemon of its own recovery daemon: gives it what it sees and hears, and
//! carries out what it wants.

use std::time::{Duration, Instant};

use ctdb_proto::{Capabilities, DbId, Pnn, ReplyControl, ReqMessage, SockAddr};

use super::Node;
use crate::cluster_lock::ClusterLockEvent;
use crate::effect::{DbOp, Effect, Ticket};
use crate::input::{DbFailure, LockTest};
use crate::outstanding::{Asker, NoAnswer};
use crate::recoverd::{
    self, ControlFailure, LockAttempt, NodeView, Recoverd, RecoverdConfig, RecoverdEffect,
    RecoverdInput, Token, View,
};
use crate::waiting::{RoomFor, Waiting};

impl Node {
    pub(super) fn recoverd_config(&self) -> RecoverdConfig {
        RecoverdConfig {
            cluster_lock: self.config.cluster_lock.clone(),
            leader_timeout: self.config.leader_timeout,
            fast_start: self.config.fast_start,
            failover_disabled: self.config.failover_disabled,
        }
    }

    /// Calls the recovery daemon's part with what this node sees.
    fn with_recoverd(&mut self, now: Instant, call: impl FnOnce(&mut Recoverd, &View<'_>)) {
        let Some(recoverd) = &mut self.recoverd else {
            return;
        };
        let peers = &self.peers;
        let cluster = &self.cluster;
        let nodes: Vec<_> = cluster
            .pnns()
            .zip(&cluster.nodes)
            .map(|(pnn, node)| NodeView {
                pnn,
                flags: node.flags,
                addr: SockAddr(node.addr),
                keepalive_version: peers.version(pnn),
                closed: peers.has_closed(pnn),
            })
            .collect();
        let view = View {
            me: cluster.me,
            nodes: &nodes,
            vnn_map: &cluster.vnn_map,
            rec_mode: cluster.rec_mode,
            run_state: cluster.run_state,
            tunables: &cluster.tunables,
            capabilities: cluster.capabilities,
            all_frozen: cluster.everything_is_frozen(),
        };
        call(recoverd, &view);
        self.recoverd_wake = recoverd.poll_timeout(&view);
        self.memory
            .take_in(recoverd.history(), recoverd.recovery(), now);
    }

    /// Something that the recovery daemon's part looks at may have changed, or time has passed.
    pub(crate) fn wake_recoverd(&mut self, now: Instant) {
        self.with_recoverd(now, |recoverd, view| recoverd.handle_timeout(view, now));
    }

    pub(crate) fn tell_recoverd(&mut self, input: RecoverdInput, now: Instant) {
        self.with_recoverd(now, |recoverd, view| recoverd.handle(input, view, now));
    }

    /// A control of a recovery that `leader` runs. If that is another node, and this one runs a
    /// recovery too, they are in each other's way.
    pub(crate) fn recovery_of(&mut self, leader: Pnn, now: Instant) {
        if leader != self.cluster.me {
            self.tell_recoverd(RecoverdInput::RecoveryOf(leader), now);
        }
    }

    /// Carries out one thing that the recovery daemon's part wants; `false` if there is none.
    pub(super) fn drive_recoverd(&mut self, now: Instant) -> bool {
        let Some(effect) = self.recoverd.as_mut().and_then(Recoverd::poll_effect) else {
            return false;
        };
        match effect {
            RecoverdEffect::Control {
                token,
                to,
                request,
                timeout,
            } => {
                let asker = Asker::Recoverd(token);
                if let Err(why) = self.cluster.ask(asker, to, request, Some(timeout), now) {
                    self.recoverd_answered(token, Err(why), now);
                }
            }
            RecoverdEffect::Message { to, srvid, data } => {
                self.cluster.send_message(to, srvid, &data);
            }
            RecoverdEffect::Merge { token, db, op } => self.merge(token, db, op),
            RecoverdEffect::ContinueMerge { token, db } => self.continue_merge(token, db),
            RecoverdEffect::AwaitRoom { token, to } => {
                self.await_room(to, RoomFor::Recovery(token), now);
            }
            RecoverdEffect::ListenTo(srvid) => {
                self.recovery_streams.insert(srvid);
            }
            RecoverdEffect::Unlisten(srvid) => {
                self.recovery_streams.remove(&srvid);
            }
            RecoverdEffect::TakeClusterLock(attempt) => {
                self.cluster.effect(Effect::TakeClusterLock(attempt));
            }
            RecoverdEffect::ReleaseClusterLock(attempt) => {
                self.cluster.effect(Effect::ReleaseClusterLock(attempt));
            }
        }
        true
    }

    fn merge(&mut self, token: Token, db: DbId, op: DbOp) {
        if op != DbOp::MergeRead {
            return self.work_on_records(db, op, Some(token));
        }
        let ticket = self.cluster.ticket();
        self.waiting.insert(ticket, Waiting::MergeRead { token });
        self.cluster.effect(Effect::Db { ticket, db, op });
    }

    /// Part of a merge is done, or has failed.
    pub(crate) fn merge_answered(
        &mut self,
        token: Token,
        done: Result<ReplyControl, DbFailure>,
        now: Instant,
    ) {
        let result = done.map_err(|failure| ControlFailure::Unacceptable(failure.0));
        self.tell_recoverd(RecoverdInput::Reply { token, result }, now);
    }

    pub(super) fn recoverd_answered(
        &mut self,
        token: Token,
        answer: Result<ReplyControl, NoAnswer>,
        now: Instant,
    ) {
        let result = answer.map_err(|why| match why {
            NoAnswer::TimedOut => ControlFailure::Timeout,
            NoAnswer::Disconnected | NoAnswer::NeverSent => ControlFailure::Disconnected,
        });
        self.tell_recoverd(RecoverdInput::Reply { token, result }, now);
    }

    pub(super) fn message_to_recoverd(&mut self, from: Pnn, message: &ReqMessage, now: Instant) {
        let srvid = message.srvid;
        let wanted = recoverd::SRVIDS.contains(&srvid) || self.recovery_streams.contains(&srvid);
        if wanted && self.recoverd.is_some() {
            let data = message.data.clone();
            self.tell_recoverd(
                RecoverdInput::Message {
                    srvid,
                    from: Some(from),
                    data,
                },
                now,
            );
        }
    }

    pub(super) fn cluster_lock(
        &mut self,
        attempt: LockAttempt,
        event: ClusterLockEvent,
        took: Duration,
        now: Instant,
    ) {
        if event == ClusterLockEvent::Taken {
            self.cluster
                .statistics
                .reclock_recd
                .record(took.as_secs_f64());
            self.cluster.mention_reclock_latency("take", took);
        }
        self.tell_recoverd(RecoverdInput::ClusterLock { attempt, event }, now);
    }

    /// `SET_RECMODE` NORMAL with a cluster lock: the lock was tried, and should have been held by
    /// the leader (cluster.md 7).
    pub(super) fn cluster_lock_tested(&mut self, ticket: Ticket, outcome: LockTest, now: Instant) {
        let Some(Waiting::SetRecmode { caller, generation }) = self.waiting.remove(&ticket) else {
            return;
        };
        match outcome {
            LockTest::Contention { seconds } => {
                self.cluster.statistics.reclock_ctdbd.record(seconds);
                let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                self.cluster.mention_reclock_latency("test", took);
                self.recovery_mode_normal_in(generation, caller, now);
            }
            LockTest::Timeout => {
                tracing::warn!("Time out getting recovery lock, allowing recmode set anyway");
                self.recovery_mode_normal_in(generation, caller, now);
            }
            LockTest::Taken => {
                let lock = self.config.cluster_lock.as_deref().unwrap_or_default();
                tracing::error!(
                    "ERROR: Daemon able to take recovery lock on \"{lock}\" during recovery"
                );
                let text = "Took recovery lock from daemon during recovery - probably a cluster \
                            filesystem lock coherence problem";
                self.answer(caller, ReplyControl::error(-1, text));
            }
            LockTest::Error => {
                let text = "Unexpected error when testing recovery lock";
                self.answer(caller, ReplyControl::error(-1, text));
            }
        }
    }

    /// The node leaves: it gives up the lead, so that the others need not wait to find out.
    pub(super) fn resign(&mut self, now: Instant) {
        self.set_capability(Capabilities::LEADER, false);
        self.wake_recoverd(now);
    }
}
