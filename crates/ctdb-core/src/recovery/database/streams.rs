//! The records of one database on their way: from the nodes to the merge, and from there to all
//! nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{Pnn, PullDbExt, RecBuffer, Request, Srvid, Wire};
use tracing::{debug, error};

use super::{DbCtx, DbRecovery};
use crate::effect::DbOp;
use crate::recoverd::outbox::{Asker, Batch, ControlFailure, Outbox, RecoverdEffect, Token};
use crate::recovery::LOG;

/// `PullDbExt::lmaster`: all records, whoever is their lmaster.
const ANY_LMASTER: u32 = 0xFFFF_FFFF;

/// Limit for a pull as a whole. Long before, a node that sends nothing for the usual timeout has
/// failed.
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);

/// A stream of records from one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pull {
    from: Pnn,
    received: u32,
}

impl DbRecovery {
    /// Takes records; `false` if the stream is not of this database.
    pub(crate) fn on_records(
        &mut self,
        srvid: Srvid,
        from: Option<Pnn>,
        data: Bytes,
        ctx: &mut DbCtx<'_>,
    ) -> bool {
        let Some(pull) = self.pulls.get_mut(&srvid) else {
            return false;
        };
        if from.is_some_and(|from| from != pull.from) {
            debug!(target: LOG, %srvid, ?from, "records from another node than the one asked");
            return true;
        }
        let from = pull.from;
        let taken = RecBuffer::decode(&mut data.clone()).and_then(|batch| {
            batch.check_headers()?;
            // A batch of another database is not counted, so that the pull fails in the end.
            let count = Some(batch.count());
            Ok(count.filter(|_| batch.db_id() == self.db_id))
        });
        match taken {
            Ok(None) => {}
            Ok(Some(count)) => {
                pull.received = pull.received.saturating_add(count);
                let records = data;
                let token = ctx.out.merge(self.db_id, DbOp::MergeAdd { from, records });
                self.rooms.add(ctx.shared.me, token);
                self.be_patient(ctx);
            }
            Err(error) => {
                error!(target: LOG, pnn = %from, %error, "Invalid records for db {}", self.db_id);
            }
        }
        true
    }

    /// Takes a batch that was merged, and sends it to all nodes; `false` if it is not of this
    /// database.
    pub(crate) fn on_merged(&mut self, token: Token, records: &Bytes, ctx: &mut DbCtx<'_>) -> bool {
        if self.merge != Some(token) {
            return false;
        }
        let count = RecBuffer::decode(&mut records.clone()).map_or(0, |batch| batch.count());
        self.sent = self.sent.saturating_add(count);
        self.batches += 1;
        for pnn in &ctx.shared.nodes {
            ctx.out.send(*pnn, self.push_srvid, records.clone());
            self.rooms.add(*pnn, ctx.out.await_room(*pnn));
        }
        self.be_patient(ctx);
        true
    }

    /// Asks for further batches, once all nodes have room.
    pub(super) fn send_more(&mut self, ctx: &mut DbCtx<'_>) {
        let Some(token) = self.merge.filter(|_| self.rooms.is_complete()) else {
            return;
        };
        self.rooms = Batch::default();
        let db = self.db_id;
        for _ in 0..std::mem::take(&mut self.batches) {
            ctx.out.push(RecoverdEffect::ContinueMerge { token, db });
        }
    }

    /// Stops listening to the streams, and forgets what was merged.
    pub(crate) fn abandon(&mut self, out: &mut Outbox) {
        self.close_streams(out);
        self.end_merge(out);
    }

    fn close_streams(&mut self, out: &mut Outbox) {
        for (srvid, _) in std::mem::take(&mut self.pulls) {
            out.push(RecoverdEffect::Unlisten(srvid));
        }
    }

    pub(super) fn end_merge(&mut self, out: &mut Outbox) {
        self.merge = None;
        self.rooms = Batch::default();
        if std::mem::take(&mut self.merging) {
            out.merge(self.db_id, DbOp::MergeEnd);
        }
    }

    /// Asks for all records, each node on a stream of its own.
    pub(super) fn pull(&mut self, ctx: &mut DbCtx<'_>) -> Batch {
        let nodes = self
            .source
            .map_or_else(|| ctx.shared.nodes.clone(), |pnn| vec![pnn]);
        let mut batch = Batch::default();
        self.merging = true;
        let op = DbOp::MergeBegin {
            leader: ctx.shared.me,
            flags: self.flags,
            batch_limit: ctx.shared.batch_limit,
        };
        self.rooms = Batch::default();
        self.rooms.add(ctx.shared.me, ctx.out.merge(self.db_id, op));
        for from in nodes {
            let srvid = ctx.shared.new_stream();
            self.pulls.insert(srvid, Pull { from, received: 0 });
            ctx.out.push(RecoverdEffect::ListenTo(srvid));
            let payload = PullDbExt {
                db_id: self.db_id,
                lmaster: ANY_LMASTER,
                srvid,
            };
            let request = Request::DbPull(payload);
            batch.add(
                from,
                ctx.out.ask(Asker::Recovery, from, &request, PULL_TIMEOUT),
            );
        }
        batch
    }

    /// Each node must have sent as many records as it says.
    pub(super) fn finish_pull(
        &mut self,
        batch: &mut Batch,
        ctx: &mut DbCtx<'_>,
    ) -> Vec<(Pnn, ControlFailure)> {
        let counts: BTreeMap<Pnn, u32> = batch.decode();
        let mut failures = Vec::new();
        for pull in self.pulls.values() {
            let Some(count) = counts.get(&pull.from).copied() else {
                continue;
            };
            let received = pull.received;
            if count == received {
                let (db, from) = (&self.name, pull.from);
                debug!(target: LOG, "Pulled {count} records for db {db} from node {from}");
            } else {
                let problem = format!(
                    "mismatch ({count} != {received}) in DB_PULL records for db {}",
                    self.name
                );
                failures.push((pull.from, ControlFailure::Unacceptable(problem)));
            }
        }
        self.close_streams(ctx.out);
        failures
    }

    pub(super) fn start_push(&mut self, srvid: Srvid, ctx: &mut DbCtx<'_>) -> Batch {
        self.push_srvid = srvid;
        let payload = PullDbExt {
            db_id: self.db_id,
            lmaster: ANY_LMASTER,
            srvid,
        };
        ctx.ask_all(&Request::DbPushStart(payload))
    }

    /// Begins to read what was merged. The confirmation is asked for on the same connections on
    /// which the batches go, so it comes after them.
    pub(super) fn send_records(&mut self, ctx: &mut DbCtx<'_>) -> Batch {
        (self.sent, self.batches) = (0, 0);
        let token = ctx.out.merge(self.db_id, DbOp::MergeRead);
        self.merge = Some(token);
        let mut batch = Batch::default();
        batch.add(ctx.shared.me, token);
        batch
    }

    /// Each node must have stored all records.
    pub(super) fn check_counts(&self, batch: &mut Batch) -> Vec<(Pnn, ControlFailure)> {
        let counts: BTreeMap<Pnn, u32> = batch.decode();
        let sent = self.sent;
        let name = &self.name;
        debug!(target: LOG, "Pushed {sent} records for db {name}");
        counts
            .into_iter()
            .filter(|(_, stored)| *stored != sent)
            .map(|(pnn, stored)| {
                let problem = format!("Node {pnn} received {stored} of {sent} records for {name}");
                (pnn, ControlFailure::Unacceptable(problem))
            })
            .collect()
    }
}
