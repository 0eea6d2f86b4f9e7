//! Questions about databases, traverses, and records on their way to deletion.

use std::time::Instant;

use bytes::Bytes;
use ctdb_conf::Tunable;
use ctdb_proto::control::Request;
use ctdb_proto::{
    ControlFlags, DbFlags, DbId, DbidEntry, DbidMap, Pnn, RecBuffer, RecData, ReplyControl,
    ReqControl, ReqId, Srvid, TraverseAll, TraverseStart, Wire,
};

use super::{encoded, text_reply};
use crate::database::Database;
use crate::effect::{DbOp, Effect, Ticket};
use crate::node::Node;
use crate::outstanding::Asker;
use crate::waiting::{Caller, Waiting};

impl Node {
    /// Serves the controls of this family; gives any other one back.
    pub(super) fn serve_database(
        &mut self,
        caller: Caller,
        control: &ReqControl,
        request: Request,
        now: Instant,
    ) -> Result<(), Request> {
        match request {
            Request::DbAttach(name) => {
                self.attach(caller, control, name, DbFlags::empty(), now);
            }
            Request::DbAttachPersistent(name) => {
                self.attach(caller, control, name, DbFlags::PERSISTENT, now);
            }
            Request::DbAttachReplicated(name) => {
                self.attach(caller, control, name, DbFlags::REPLICATED, now);
            }
            Request::DbDetach(db) => self.detach(caller, db, now),
            Request::GetDbPath(db) => self.about(caller, db, |_, db| text_reply(&db.path)),
            Request::GetDbName(db) => self.about(caller, db, |_, db| text_reply(&db.name)),
            Request::GetDbMap => {
                let map = self.database_map();
                self.answer_data(caller, &map);
            }
            Request::DbOpenFlags(db) => {
                self.about(caller, db, |_, db| {
                    ReplyControl::ok(encoded(&db.open_flags))
                });
            }
            Request::DbGetHealth(db) => self.about(caller, db, |_, db| match &db.health {
                Some(reason) => text_reply(reason),
                None => ReplyControl::status(0),
            }),
            Request::DbSetHealthy(db) => self.set_healthy(caller, db),
            Request::GetDbStatistics(db) => self.about(caller, db, |node, db| {
                ReplyControl::ok(encoded(&node.database_statistics(db)))
            }),
            Request::SetDbReadonly(db) => self.set_db_flag(caller, db, DbFlags::READONLY),
            Request::SetDbSticky(db) => self.set_db_flag(caller, db, DbFlags::STICKY),
            Request::EnableSeqnum(db) => self.enable_seqnum(caller, db),
            Request::UpdateSeqnum(db) => self.update_seqnum(caller, db),
            Request::TraverseStart(start) => self.traverse_start(caller, &start, false, now),
            Request::TraverseStartExt(ext) => {
                self.traverse_start(caller, &ext.start, ext.with_empty_records, now);
            }
            Request::TraverseAll(all) => self.traverse_all(caller, &all, false),
            Request::TraverseAllExt(ext) => {
                self.traverse_all(caller, &ext.all, ext.with_empty_records);
            }
            Request::TraverseData(record) => self.traverse_data(caller, &record, now),
            Request::TraverseKill(kill) => self.traverse_kill(caller, &kill),
            Request::Trans3Commit(records) => {
                self.commit(caller, records.db_id(), &control.data, now);
            }
            Request::UpdateRecord(records) => {
                self.update(caller, &records, control.data.clone(), now);
            }
            Request::ScheduleForDeletion(key) => {
                let status = self.migrator.schedule_for_deletion(&key, &mut self.cluster);
                self.answer_status(caller, status);
            }
            Request::VacuumFetch(records) => {
                let status = self.migrator.vacuum_fetch(&records, &mut self.cluster);
                self.answer_status(caller, status);
            }
            Request::TryDeleteRecords(records) => {
                self.migrator
                    .try_delete_records(caller, &records, &mut self.cluster);
            }
            Request::DbVacuum(vacuum) => {
                self.migrator
                    .vacuum_now(caller, vacuum, &mut self.cluster, now);
            }
            // Replies the same bytes; the time limit in them is not used.
            Request::EchoData(_) => {
                self.answer(caller, ReplyControl::ok(control.data.clone()));
            }
            other => return Err(other),
        }
        Ok(())
    }

    /// Answers about one database; -1 if there is none with that id.
    fn about(
        &mut self,
        caller: Caller,
        db: DbId,
        reply: impl FnOnce(&Self, &Database) -> ReplyControl,
    ) {
        let reply = match self.cluster.databases.get(&db) {
            Some(database) => reply(self, database),
            None => ReplyControl::status(-1),
        };
        self.answer(caller, reply);
    }

    fn database_map(&self) -> DbidMap {
        let databases = self.cluster.database_order.iter();
        let databases = databases.filter_map(|id| self.cluster.databases.get(id));
        let entry = |db: &Database| DbidEntry {
            db_id: db.id,
            flags: db.flags,
        };
        DbidMap {
            dbs: databases.map(entry).collect(),
        }
    }

    fn set_healthy(&mut self, caller: Caller, db: DbId) {
        let starting = self.cluster.run_state == ctdb_proto::RunState::Startup;
        let Some(database) = self.cluster.databases.get_mut(&db) else {
            return self.answer_status(caller, -1);
        };
        let was_marked = database.health.take().is_some();
        let ticket = self.cluster.ticket();
        self.waiting.insert(ticket, Waiting::Status { caller });
        self.cluster.effect(Effect::Db {
            ticket,
            db,
            op: DbOp::SetHealth { reason: None },
        });
        if was_marked && starting {
            self.cluster.force_recovery("a database was set healthy");
        }
    }

    fn traverse_start(
        &mut self,
        caller: Caller,
        start: &TraverseStart,
        with_empty: bool,
        now: Instant,
    ) {
        let client = self.local_client(caller);
        let database = self.cluster.databases.get(&start.db_id);
        let readable = database.is_some_and(|db| {
            db.health.is_none() || self.cluster.tunables.get(Tunable::AllowUnhealthyDBRead) != 0
        });
        let Some(client) = client.filter(|_| readable) else {
            return self.answer_status(caller, -1);
        };
        // The reply must precede the first record.
        self.answer_status(caller, 0);
        self.traverses
            .start(client, start, with_empty, &mut self.cluster, now);
    }

    /// This node's share of a traverse.
    fn traverse_all(&mut self, caller: Caller, all: &TraverseAll, with_empty: bool) {
        let Some(database) = self.cluster.databases.get(&all.db_id) else {
            return self.answer_status(caller, -1);
        };
        let Some(origin) = Some(all.pnn).filter(|pnn| self.cluster.node(*pnn).is_some()) else {
            return self.answer_status(caller, -1);
        };
        let volatile = database.is_volatile();
        let only_dmaster = volatile.then_some(self.cluster.me);
        let ticket = self.cluster.ticket();
        self.waiting.insert(
            ticket,
            Waiting::Traverse {
                origin,
                traverse: all.reqid,
                db: all.db_id,
                client_reqid: all.client_reqid,
                srvid: all.srvid,
            },
        );
        let op = DbOp::Traverse {
            only_dmaster,
            with_empty: with_empty || !volatile,
        };
        self.cluster.effect(Effect::Db {
            ticket,
            db: all.db_id,
            op,
        });
        self.answer_status(caller, 0);
    }

    /// Sends a batch on its way. Its last record asks for a reply, which the origin puts off until
    /// the client has room for more; the original replies at once.
    pub(super) fn traverse_records(
        &mut self,
        ticket: Ticket,
        origin: Pnn,
        traverse: ReqId,
        records: &Bytes,
        now: Instant,
    ) {
        let Ok(buffer) = RecBuffer::decode(&mut records.clone()) else {
            return;
        };
        let mut left = buffer.count();
        for record in &buffer {
            let record = RecData {
                reqid: traverse,
                key: records.slice_ref(record.key),
                data: records.slice_ref(record.data),
            };
            left = left.saturating_sub(1);
            if left > 0 {
                self.send_traverse_data(origin, record);
                continue;
            }
            let control = Request::TraverseData(record).to_control(ControlFlags::empty());
            // Without a limit: how long a client may take is for its own node to say.
            let asker = Asker::Traverse(ticket);
            if self.cluster.ask(asker, origin, control, None, now).is_err() {
                self.traverse_batch_taken(ticket, false);
            }
        }
    }

    /// The client of a traverse has room for another batch, or its node is gone.
    pub(crate) fn traverse_batch_taken(&mut self, traverse: Ticket, go_on: bool) {
        let Some(Waiting::Traverse { db, .. }) = self.waiting.get(&traverse) else {
            return;
        };
        let db = *db;
        let op = if go_on {
            DbOp::ContinueTraverse { ticket: traverse }
        } else {
            DbOp::StopTraverse { ticket: traverse }
        };
        let ticket = self.cluster.ticket();
        self.waiting.insert(ticket, Waiting::Background);
        self.cluster.effect(Effect::Db { ticket, db, op });
    }

    /// A record of a traverse that a client of this node has started. Its reply is put off while
    /// the client does not read: whoever sent it sends no more then.
    fn traverse_data(&mut self, caller: Caller, record: &RecData, now: Instant) {
        let from = caller.node;
        self.traverses
            .data(from, record, &self.clients, &mut self.cluster, now);
        let reader = self
            .traverses
            .reader(record.reqid)
            .filter(|_| caller.wants_reply);
        let Some(client) = reader else {
            return self.answer_status(caller, 0);
        };
        let ticket = self.cluster.ticket();
        let traverse = record.reqid;
        self.waiting
            .insert(ticket, Waiting::Room { caller, traverse });
        self.traverses.hold(traverse);
        self.cluster.effect(Effect::AwaitRoom { client, ticket });
    }

    pub(crate) fn client_has_room(&mut self, ticket: Ticket, now: Instant) {
        if let Some(Waiting::Room { caller, traverse }) = self.waiting.remove(&ticket) {
            self.traverses.go_on(traverse, &self.cluster, now);
            self.answer_status(caller, 0);
        }
    }

    pub(super) fn traverse_end(&mut self, origin: Pnn, traverse: ReqId) {
        self.send_traverse_data(origin, RecData::end(traverse));
    }

    fn send_traverse_data(&mut self, origin: Pnn, record: RecData) {
        let control = Request::TraverseData(record).to_control(ControlFlags::NOREPLY);
        self.cluster.tell(origin, control);
    }

    fn traverse_kill(&mut self, caller: Caller, kill: &TraverseStart) {
        let is_it = |reqid: ReqId, at: Srvid| reqid == kill.reqid && at == kill.srvid;
        let found = self
            .waiting
            .iter()
            .find_map(|(ticket, waiting)| match waiting {
                Waiting::Traverse {
                    origin,
                    client_reqid,
                    srvid,
                    db,
                    ..
                } if *origin == caller.node && is_it(*client_reqid, *srvid) => Some((*ticket, *db)),
                _ => None,
            });
        if let Some((traverse, db)) = found {
            let ticket = self.cluster.ticket();
            self.waiting.insert(ticket, Waiting::Background);
            let op = DbOp::StopTraverse { ticket: traverse };
            self.cluster.effect(Effect::Db { ticket, db, op });
        }
        self.answer_status(caller, 0);
    }
}
