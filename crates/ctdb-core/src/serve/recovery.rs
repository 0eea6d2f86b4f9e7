//! What a node does for the leader in a recovery (data-plane.md 6.5, 6.6; cluster.md 6, 7).

use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_conf::Tunable;
use ctdb_proto::control::Request;
use ctdb_proto::{
    ControlFlags, DbId, Generation, NodeFlags, RecMode, ReplyControl, ReqMessage, RunState, Srvid,
    VnnMap,
};
use tracing::{error, info, warn};

use super::status_of;
use crate::effect::{DbAnswer, DbOp, Effect, Event, Ticket};
use crate::input::DbFailure;
use crate::node::Node;
use crate::outstanding::Asker;
use crate::recoverd::outbox::ANOTHER_RECOVERY;
use crate::waiting::{Caller, Waiting};

/// How long `SET_RECMODE` NORMAL tries the cluster lock.
const LOCK_TEST_LIMIT: Duration = Duration::from_secs(5);

impl Node {
    /// Serves the controls of this family; gives any other one back.
    pub(super) fn serve_recovery(
        &mut self,
        caller: Caller,
        request: Request,
        now: Instant,
    ) -> Result<(), Request> {
        match request {
            Request::GetRecMode => {
                self.answer_status(caller, self.cluster.rec_mode.raw().cast_signed());
            }
            Request::SetRecMode(mode) => self.set_recmode(caller, mode, now),
            Request::GetVnnMap => {
                let map = self.cluster.vnn_map.clone();
                self.answer_data(caller, &map);
            }
            Request::SetVnnMap(map) => {
                self.recovery_of(caller.node, now);
                self.set_vnn_map(caller, map, now);
            }
            Request::StartRecovery => {
                self.recovery_of(caller.node, now);
                self.start_recovery(caller, now);
            }
            Request::EndRecovery => self.run_recovery_event(caller, false, now),
            Request::Freeze => self.freeze_all(Some(caller), now),
            Request::DbFreeze(db) => self.freeze_one(db, caller, now),
            Request::DbThaw(db) => {
                let known = self.cluster.databases.contains_key(&db);
                self.thaw(db, now);
                self.answer_status(caller, if known { 0 } else { -1 });
            }
            Request::DbTransactionStart(t) => {
                self.recovery_of(caller.node, now);
                self.transaction_start(caller, t.db_id, t.tid);
            }
            Request::DbTransactionCommit(t) => {
                self.transaction_commit(caller, t.db_id, t.tid);
            }
            Request::DbTransactionCancel(db) => self.transaction_cancel(caller, db),
            Request::WipeDatabase(t) => self.wipe(caller, t.db_id, t.tid),
            Request::DbPull(pull) => self.pull(caller, pull.db_id, pull.srvid),
            Request::DbPushStart(push) => self.push_start(caller, push.db_id, push.srvid),
            Request::DbPushConfirm(db) => self.push_confirm(caller, db),
            Request::GetDbSeqnum(request) => self.db_seqnum(caller, request.db_id),
            other => return Err(other),
        }
        Ok(())
    }

    fn set_recmode(&mut self, caller: Caller, mode: RecMode, now: Instant) {
        if mode == self.cluster.rec_mode {
            self.cluster.recover_again |= mode == RecMode::Active;
            info!("Recovery mode already set to {}", mode_name(mode));
            return self.answer_status(caller, 0);
        }
        warn!("Recovery mode set to {}", mode_name(mode));
        if mode == RecMode::Active {
            self.cluster.rec_mode = mode;
            self.answer_status(caller, 0);
            return self.wake_recoverd(now);
        }
        if self.has_inconsistent_generation() {
            return self.answer_status(caller, -1);
        }
        if self.config.cluster_lock.is_none() {
            return self.recovery_mode_normal(caller, now);
        }
        let ticket = self.cluster.ticket();
        let generation = self.cluster.vnn_map.generation;
        let waiting = Waiting::SetRecmode { caller, generation };
        self.waiting.insert(ticket, waiting);
        self.cluster.effect(Effect::TestClusterLock {
            ticket,
            limit: LOCK_TEST_LIMIT,
        });
    }

    /// A database that was attached in the middle of the recovery has not taken part in it.
    fn has_inconsistent_generation(&self) -> bool {
        let ours = self.cluster.vnn_map.generation;
        let mut databases = self.cluster.databases.values();
        let Some(odd) = databases.find(|db| db.generation != ours) else {
            return false;
        };
        error!(
            "Inconsistent DB generation {} for {}",
            odd.generation, odd.name
        );
        true
    }

    /// The end of the recovery of a generation was put off for the test of the cluster lock. If this
    /// node has become inactive since, or takes part in another recovery, it is not its end.
    pub(crate) fn recovery_mode_normal_in(
        &mut self,
        generation: Generation,
        caller: Caller,
        now: Instant,
    ) {
        let ours = self.cluster.vnn_map.generation;
        if ours == generation && !self.has_inconsistent_generation() {
            return self.recovery_mode_normal(caller, now);
        }
        warn!("The end of recovery {generation} came too late: generation is {ours}");
        self.answer_status(caller, -1);
    }

    /// The recovery is over as far as clients are concerned.
    pub(crate) fn recovery_mode_normal(&mut self, caller: Caller, now: Instant) {
        self.thaw_all_if_frozen(now);
        self.cluster.rec_mode = RecMode::Normal;
        self.times.drop_addresses = None;
        self.release_deferred_attaches(now);
        self.answer_status(caller, 0);
        if self.cluster.recover_again {
            self.cluster
                .force_recovery("a reason came up while the last recovery ran");
        }
        self.wake_recoverd(now);
    }

    /// Notes when all addresses must be given up, whichever way the recovery mode became ACTIVE.
    pub(crate) fn drop_addresses_when_due(&mut self, now: Instant) {
        if !self.is_in_recovery() || self.cluster.run_state.raw() < RunState::Startup.raw() {
            self.times.drop_addresses = None;
            return;
        }
        let limit = now + self.cluster.tunables.seconds(Tunable::RecoveryDropAllIPs);
        let due = *self.times.drop_addresses.get_or_insert(limit);
        if due <= now {
            error!("Been in recovery mode for too long. Dropping all IPS");
            // Public addresses are not served yet: there is none to drop.
            self.times.drop_addresses = Some(limit);
        }
    }

    fn set_vnn_map(&mut self, caller: Caller, map: VnnMap, now: Instant) {
        if self.cluster.rec_mode != RecMode::Active {
            error!("Attempt to set vnnmap when not in recovery");
            return self.answer_status(caller, -1);
        }
        let known = map.map.iter().all(|pnn| self.cluster.node(*pnn).is_some());
        if map.map.is_empty() || !known || map.generation == Generation::INVALID {
            error!(?map, "refused a vnn map");
            return self.answer_status(caller, -1);
        }
        self.cluster.vnn_map = map;
        self.cluster.recover_again = false;
        self.answer_status(caller, 0);
        self.wake_recoverd(now);
    }

    /// `START_RECOVERY`: a node with another cluster lock than the leader must not take part. The
    /// original asks the leader; the question needs an answer before the event runs. Whoever leads
    /// himself has nobody to compare with: of two, the intruder must not make him leave.
    fn start_recovery(&mut self, caller: Caller, now: Instant) {
        if caller.node == self.cluster.me {
            return self.run_recovery_event(caller, true, now);
        }
        if self.leads() {
            warn!(
                "refused a recovery of node {}: this node leads",
                caller.node
            );
            return self.answer_status(caller, -1);
        }
        self.compare_cluster_lock(caller, now);
    }

    fn frozen(&self, db: DbId) -> bool {
        self.cluster
            .databases
            .get(&db)
            .is_some_and(super::super::database::Database::is_frozen)
    }

    /// The database is frozen and in the transaction with that id.
    fn in_transaction(&self, db: DbId, transaction: Generation) -> bool {
        let open = self
            .cluster
            .databases
            .get(&db)
            .and_then(|db| db.transaction);
        self.frozen(db) && open == Some(transaction)
    }

    /// A step of a recovery does not fit. If its node has joined another recovery since, the leader
    /// is told, so that it blames nobody.
    fn refuse_transaction(&mut self, caller: Caller, transaction: Generation) {
        let ours = self.cluster.vnn_map.generation;
        if transaction == ours {
            return self.answer_status(caller, -1);
        }
        let text = format!("{ANOTHER_RECOVERY} has begun here: generation {ours}");
        let error = text.into_bytes().into();
        let status = -1;
        self.answer(
            caller,
            ReplyControl {
                status,
                error,
                data: Bytes::new(),
            },
        );
    }

    fn start_db_work(&mut self, db: DbId, op: DbOp, waiting: Waiting) {
        let ticket = self.cluster.ticket();
        self.waiting.insert(ticket, waiting);
        self.cluster.effect(Effect::Db { ticket, db, op });
    }

    fn transaction_start(&mut self, caller: Caller, db: DbId, transaction: Generation) {
        if !self.frozen(db) {
            return self.answer_status(caller, -1);
        }
        self.stop_pulls(|_, pulled| pulled == db);
        let waiting = Waiting::TransactionStart {
            caller,
            db,
            transaction,
        };
        self.start_db_work(db, DbOp::TransactionStart, waiting);
    }

    pub(super) fn transaction_started(
        &mut self,
        caller: Caller,
        db: DbId,
        transaction: Generation,
        answer: &Result<DbAnswer, DbFailure>,
    ) {
        if let Some(database) = self.cluster.databases.get_mut(&db)
            && database.is_frozen()
        {
            database.transaction = answer.is_ok().then_some(transaction);
        }
        self.answer_status(caller, status_of(answer));
    }

    fn transaction_cancel(&mut self, caller: Caller, db: DbId) {
        let Some(database) = self.cluster.databases.get_mut(&db) else {
            return self.answer_status(caller, -1);
        };
        if database.transaction.take().is_none() {
            return self.answer_status(caller, 0);
        }
        self.start_db_work(db, DbOp::TransactionCancel, Waiting::Status { caller });
    }

    fn transaction_commit(&mut self, caller: Caller, db: DbId, transaction: Generation) {
        if !self.in_transaction(db, transaction) {
            return self.refuse_transaction(caller, transaction);
        }
        let waiting = Waiting::TransactionCommit {
            caller,
            db,
            transaction,
        };
        self.start_db_work(db, DbOp::TransactionCommit, waiting);
    }

    pub(super) fn transaction_committed(
        &mut self,
        caller: Caller,
        db: DbId,
        transaction: Generation,
        answer: &Result<DbAnswer, DbFailure>,
    ) {
        // Another recovery may have begun its own transaction since.
        let database = self.cluster.databases.get_mut(&db);
        if let Some(database) = database.filter(|db| db.transaction == Some(transaction)) {
            database.transaction = None;
            if answer.is_ok() {
                database.generation = transaction;
            }
        }
        if answer.is_ok() {
            self.update_health(db);
        }
        self.answer_status(caller, status_of(answer));
    }

    /// A recovered database is healthy again if some node is; otherwise the mark says so
    /// (data-plane.md 1.6).
    fn update_health(&mut self, db: DbId) {
        const NO_HEALTHY_NODES: &str = "NO-HEALTHY-NODES - ";
        let some_healthy = self
            .cluster
            .nodes
            .iter()
            .any(|node| node.flags == NodeFlags::empty());
        let Some(database) = self.cluster.databases.get_mut(&db) else {
            return;
        };
        let Some(reason) = database.health.take() else {
            return;
        };
        database.health = (!some_healthy).then(|| {
            let known = reason.starts_with(NO_HEALTHY_NODES);
            if known {
                reason
            } else {
                format!("{NO_HEALTHY_NODES}{reason}")
            }
        });
        let reason = database.health.clone();
        let what = Waiting::Background;
        self.start_db_work(db, DbOp::SetHealth { reason }, what);
    }

    fn wipe(&mut self, caller: Caller, db: DbId, transaction: Generation) {
        if !self.in_transaction(db, transaction) {
            return self.refuse_transaction(caller, transaction);
        }
        self.migrator.database_wiped(db);
        self.start_db_work(db, DbOp::Wipe, Waiting::Status { caller });
    }

    fn pull(&mut self, caller: Caller, db: DbId, srvid: Srvid) {
        if !self.frozen(db) {
            return self.answer_status(caller, -1);
        }
        if self
            .cluster
            .databases
            .get(&db)
            .is_some_and(|db| db.invalid_records)
        {
            return self.answer_data(caller, &0_u32);
        }
        let batch_limit = self.cluster.tunables.get(Tunable::RecBufferSizeLimit) as usize;
        // Who asks again does not want the rest of what it asked for before.
        self.stop_pulls(|_, pulled| pulled == db);
        let waiting = Waiting::Pull { caller, db, srvid };
        self.start_db_work(db, DbOp::Pull { batch_limit }, waiting);
    }

    fn push_start(&mut self, caller: Caller, db: DbId, srvid: Srvid) {
        let frozen = self.frozen(db);
        if let Some(database) = self.cluster.databases.get_mut(&db).filter(|_| frozen) {
            database.push = Some(srvid);
        }
        self.answer_status(caller, if frozen { 0 } else { -1 });
    }

    /// Records of a push arrive as messages.
    pub(crate) fn pushed_records(&mut self, message: &ReqMessage) {
        let databases = self.cluster.databases.values();
        let mut pushed = databases.filter(|db| db.push == Some(message.srvid));
        let Some((db, volatile)) = pushed.next().map(|db| (db.id, db.is_volatile())) else {
            return;
        };
        let vnn_map = volatile.then(|| self.cluster.vnn_map.clone());
        let records = message.data.clone();
        self.work_on_records(db, DbOp::Push { records, vnn_map }, None);
    }

    fn push_confirm(&mut self, caller: Caller, db: DbId) {
        let pushing = self
            .cluster
            .databases
            .get(&db)
            .is_some_and(|db| db.push.is_some());
        if !(self.frozen(db) && pushing) {
            return self.answer_status(caller, -1);
        }
        self.start_db_work(db, DbOp::PushConfirm, Waiting::PushConfirm { caller, db });
    }

    pub(super) fn push_confirmed(
        &mut self,
        caller: Caller,
        db: DbId,
        answer: &Result<DbAnswer, DbFailure>,
    ) {
        if let Some(database) = self.cluster.databases.get_mut(&db) {
            database.push = None;
        }
        self.migrator.push_confirmed(db, &mut self.cluster);
        self.answer_count(caller, answer);
    }

    fn db_seqnum(&mut self, caller: Caller, db: DbId) {
        let Some(database) = self.cluster.databases.get(&db) else {
            return self.answer_status(caller, -1);
        };
        if database.is_frozen() && database.transaction.is_none() {
            return self.answer_status(caller, -1);
        }
        self.start_db_work(db, DbOp::Seqnum, Waiting::Seqnum { caller });
    }

    pub(super) fn answer_seqnum(&mut self, caller: Caller, answer: &Result<DbAnswer, DbFailure>) {
        match answer {
            Ok(DbAnswer::Number(number)) => self.answer_data(caller, number),
            _ => self.answer_status(caller, -1),
        }
    }

    /// IPREALLOCATED and `START_IPREALLOCATE`: the event scripts are told.
    pub(super) fn ip_reallocated(&mut self, caller: Caller, start: bool) {
        if !start {
            return self.run_event(Event::IpReallocated, Waiting::IpReallocated { caller });
        }
        if self.cluster.run_state == RunState::Running {
            let waiting = Waiting::StartIpReallocate { caller };
            self.run_event(Event::StartIpReallocate, waiting);
        } else {
            self.answer_status(caller, 0);
        }
    }

    /// Compares the cluster lock with that of the leader who starts a recovery; the answer of
    /// the leader continues in `cluster_lock_of_leader`.
    fn compare_cluster_lock(&mut self, caller: Caller, now: Instant) {
        let ticket = self.cluster.ticket();
        self.waiting.insert(ticket, Waiting::LeadersLock { caller });
        let control = Request::GetReclockFile.to_control(ControlFlags::empty());
        let asker = Asker::LeadersLock(ticket);
        let limit = self.cluster.control_timeout();
        if self
            .cluster
            .ask(asker, caller.node, control, limit, now)
            .is_err()
        {
            self.leaders_lock(ticket, None, now);
        }
    }

    /// The leader has said which cluster lock it has, or has not answered.
    pub(crate) fn leaders_lock(&mut self, ticket: Ticket, lock: Option<Bytes>, now: Instant) {
        let Some(Waiting::LeadersLock { caller }) = self.waiting.remove(&ticket) else {
            return;
        };
        let Some(lock) = lock else {
            return self.answer_status(caller, -1);
        };
        let theirs = lock.strip_suffix(&[0]).unwrap_or(&lock);
        let ours = self.config.cluster_lock.as_deref().unwrap_or_default();
        if theirs == ours.as_bytes() {
            return self.run_recovery_event(caller, true, now);
        }
        let shown = |lock: &str| {
            if lock.is_empty() {
                "NULL".to_owned()
            } else {
                lock.to_owned()
            }
        };
        let (theirs, ours) = (shown(&String::from_utf8_lossy(theirs)), shown(ours));
        let reason = format!(
            "Recovery lock configuration inconsistent: recmaster has {theirs}, this node has \
             {ours}, shutting down"
        );
        error!("{reason}");
        self.answer_status(caller, -1);
        self.shut_down(1, reason, now);
    }
}

/// The mode as log lines name it; the tool shows ACTIVE as RECOVERY.
fn mode_name(mode: RecMode) -> &'static str {
    match mode {
        RecMode::Normal => "NORMAL",
        RecMode::Active => "ACTIVE",
    }
}
