//! Commits to databases that every node holds in full (data-plane.md 7).
//!
//! A client sends all records of its transaction at once (`TRANS3_COMMIT`). The node hands them to
//! every node of the vnn map (`UPDATE_RECORD`), each of which writes them in one TDB transaction.
//! There is no second phase: if a node cannot write, the cluster recovers, and the recovery makes
//! the commit whole everywhere or nowhere.

mod update;

use std::time::{Duration, Instant};

use ctdb_proto::{
    ClientId, ControlFlags, DbId, NodeFlags, Opcode, Pnn, RecBuffer, RecMode, ReplyControl,
    ReqControl, Srvid,
};

pub use update::{UpdateRefused, merge_update};

use crate::database::Commit;
use crate::effect::{DbAnswer, DbOp, Effect, Ticket};
use crate::input::DbFailure;
use crate::mutation::{self, Mutation};
use crate::node::Node;
use crate::outstanding::Asker;
use crate::waiting::{Caller, Waiting};

impl Node {
    /// `TRANS3_COMMIT`. `records` has been checked to be a whole record buffer for `db`.
    pub(crate) fn commit(
        &mut self,
        caller: Caller,
        db: DbId,
        records: &bytes::Bytes,
        now: Instant,
    ) {
        if let Some(why) = self.commit_refused(caller, db) {
            tracing::warn!(%db, why, "refused a commit");
            return self.answer_status(caller, -1);
        }
        let serial = self.cluster.ticket();
        let nodes = self.commit_targets();
        let deadline = self.cluster.control_timeout().map(|limit| now + limit);
        let Some(database) = self.cluster.databases.get_mut(&db) else {
            return;
        };
        database.commit = Some(Commit {
            caller,
            serial,
            waiting_for: nodes.len(),
            failed: false,
            deadline,
        });
        for pnn in nodes {
            let control = ReqControl {
                opcode: Opcode::UPDATE_RECORD,
                srvid: Srvid(0),
                client_id: caller.client,
                flags: ControlFlags::empty(),
                data: records.clone(),
            };
            let is_member = self.cluster.vnn_map.map.contains(&pnn);
            let asker = Asker::Commit {
                db,
                serial,
                is_member,
            };
            if self.cluster.ask(asker, pnn, control, None, now).is_err() {
                self.commit_answered(db, serial, !is_member);
            }
        }
    }

    /// What no node could store is refused here: once it is on its way, only a recovery ends it.
    fn commit_refused(&self, caller: Caller, db: DbId) -> Option<&'static str> {
        if self.cluster.rec_mode != RecMode::Normal {
            return Some("in recovery");
        }
        if caller.node != self.cluster.me || !self.clients.exists(caller.client) {
            return Some("not from a client of this node");
        }
        // The original goes on without it, and the node misses a commit that later ones build on.
        let unreachable = |pnn: &Pnn| !self.cluster.is_connected(*pnn);
        if self.cluster.vnn_map.map.iter().any(unreachable) {
            return Some("a node of the vnn map cannot be reached");
        }
        let Some(database) = self.cluster.databases.get(&db) else {
            return Some("unknown database");
        };
        if database.is_volatile() {
            return Some("records of this database are not committed");
        }
        if database.commit.is_some() {
            return Some("another commit is running");
        }
        let busy = |d: &crate::database::Database| {
            d.commit
                .as_ref()
                .is_some_and(|c| c.caller.client == caller.client)
        };
        self.cluster
            .databases
            .values()
            .any(busy)
            .then_some("this client has a commit running")
    }

    /// The nodes of the vnn map, and active ones outside of it, which the original forgets. Those
    /// need not succeed: a node that waits to take part gets the database in a recovery.
    fn commit_targets(&self) -> Vec<Pnn> {
        let active = |pnn: &Pnn| {
            self.cluster
                .node(*pnn)
                .is_some_and(|n| !n.flags.intersects(NodeFlags::INACTIVE))
        };
        self.cluster.pnns().filter(active).collect()
    }

    /// One node has written the records, or has not.
    pub(crate) fn commit_answered(&mut self, db: DbId, serial: Ticket, stored: bool) {
        let in_recovery = self.is_in_recovery();
        let Some(database) = self.cluster.databases.get_mut(&db) else {
            return;
        };
        let Some(commit) = database.commit.as_mut().filter(|c| c.serial == serial) else {
            return;
        };
        if in_recovery {
            return; // The end of the recovery answers the client.
        }
        if !stored {
            commit.failed = true;
            return self
                .cluster
                .force_recovery("a node could not store a commit");
        }
        commit.waiting_for = commit.waiting_for.saturating_sub(1);
        if mutation::is_on(Mutation::LostCommit) {
            commit.waiting_for = 0;
        }
        if commit.waiting_for == 0 && !commit.failed {
            let caller = commit.caller;
            database.commit = None;
            self.answer_status(caller, 0);
        }
    }

    /// `END_RECOVERY`: open commits are done, one way or the other; the client must look.
    pub(crate) fn end_open_commits(&mut self) {
        let databases = self.cluster.databases.values_mut();
        let callers: Vec<_> = databases.filter_map(|db| db.commit.take()).collect();
        for commit in callers {
            let text = "trans3 commit ended by recovery";
            self.answer(commit.caller, ReplyControl::error(2, text));
        }
    }

    pub(crate) fn commit_abandoned_by(&mut self, client: ClientId) {
        let me = self.cluster.me;
        let is_its = |c: &Commit| c.caller.client == client && c.caller.node == me;
        let mut abandoned = false;
        for database in self.cluster.databases.values_mut() {
            if database.commit.as_ref().is_some_and(is_its) {
                database.commit = None;
                abandoned = true;
            }
        }
        if abandoned {
            let why = "client exit while transaction commit active. Forcing recovery.";
            tracing::error!("{why}");
            self.cluster.force_recovery(why);
        }
    }

    pub(crate) fn commit_deadline(&self) -> Option<Instant> {
        if self.is_in_recovery() {
            return None;
        }
        let commits = self
            .cluster
            .databases
            .values()
            .filter_map(|db| db.commit.as_ref());
        commits.filter_map(|commit| commit.deadline).min()
    }

    pub(crate) fn commits_timed_out(&mut self, now: Instant) {
        if self.is_in_recovery() {
            return;
        }
        let is_due = |c: &mut Commit| c.deadline.is_some_and(|at| at <= now);
        let databases = self.cluster.databases.values_mut();
        let late: Vec<_> = databases
            .filter_map(|db| db.commit.take_if(is_due))
            .collect();
        for commit in late {
            let text = "timeout in ctdb_persistent_state";
            self.answer(commit.caller, ReplyControl::error(1, text));
        }
    }

    /// `UPDATE_RECORD`: this node's share of a commit, or of a revoke.
    pub(crate) fn update(
        &mut self,
        caller: Caller,
        records: &RecBuffer,
        bytes: bytes::Bytes,
        now: Instant,
    ) {
        let db = records.db_id();
        let healthy = self
            .cluster
            .databases
            .get(&db)
            .filter(|d| d.health.is_none());
        let Some(database) = healthy.filter(|_| !self.is_in_recovery()) else {
            return self.answer_status(caller, -1);
        };
        if database.is_volatile() {
            return self
                .migrator
                .update_records(caller, records, &mut self.cluster);
        }
        if caller.generation != self.cluster.vnn_map.generation {
            // Its nodes are not those that must have this commit. The original takes it.
            tracing::warn!(node = %caller.node, %db, "refused a commit of another generation");
            return self.answer_status(caller, -1);
        }
        let statistics = &mut self.cluster.statistics;
        statistics.childwrite_calls = statistics.childwrite_calls.wrapping_add(1);
        statistics.pending_childwrite_calls += 1;
        let ticket = self.cluster.ticket();
        self.waiting.insert(
            ticket,
            Waiting::Update {
                caller,
                db,
                started: now,
            },
        );
        self.cluster.effect(Effect::Db {
            ticket,
            db,
            op: DbOp::Update { records: bytes },
        });
    }

    pub(crate) fn update_done(
        &mut self,
        caller: Caller,
        db: DbId,
        took: Duration,
        answer: &Result<DbAnswer, DbFailure>,
    ) {
        let statistics = &mut self.cluster.statistics;
        statistics.pending_childwrite_calls = statistics.pending_childwrite_calls.saturating_sub(1);
        statistics.childwrite_latency.record(took.as_secs_f64());
        self.cluster.mention_latency("persistent", db, took);
        if let Err(failure) = answer {
            tracing::error!("{failure}");
        }
        self.answer_status(caller, i32::from(answer.is_err()));
    }
}
