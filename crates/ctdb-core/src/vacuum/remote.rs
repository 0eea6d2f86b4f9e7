//! `TRY_DELETE_RECORDS`: an lmaster wants our copies of its empty records deleted
//! (data-plane.md 8.4).

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use ctdb_proto::{
    DbId, RecBuffer, RecBufferBuilder, RecordFlags, RecordHeader, ReplyControl, ReqId,
};

use super::{BATCH, PAUSE, VacuumOutcome, VacuumWork, reply, volatile};
use crate::cluster::Cluster;
use crate::input::Record;
use crate::migrate::{Migrator, View, Work};
use crate::waiting::Caller;

/// One such control, until all its records were looked at.
#[derive(Debug)]
pub(super) struct TryDelete {
    caller: Caller,
    db: DbId,
    queue: VecDeque<(Bytes, RecordHeader)>,
    in_flight: usize,
    resume: Option<Instant>,
    /// The records that stay.
    kept: RecBufferBuilder,
}

impl TryDelete {
    pub(super) fn db(&self) -> DbId {
        self.db
    }

    /// Leaves the records alone that were not looked at yet.
    pub(super) fn stop(&mut self) {
        for (key, header) in std::mem::take(&mut self.queue) {
            self.keep(&key, &header);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.resume
    }

    fn keep(&mut self, key: &[u8], header: &RecordHeader) {
        self.kept
            .push_record(ReqId(self.db.get()), key, header, b"");
    }
}

/// Whether the copy here may go: it must be older than the lmaster's and in nobody's use. It may
/// have data; then it is stale all the same.
pub(super) fn look(view: View<'_>, sent: RecordHeader, record: Option<&Record>) -> VacuumOutcome {
    if view.lmaster == view.me() {
        return VacuumOutcome::Skip;
    }
    let Some(Record { header, .. }) = record else {
        return VacuumOutcome::Deleted;
    };
    let read_only = (header.flags | sent.flags).intersects(RecordFlags::RO_FLAGS);
    let mine = header.dmaster == view.me().get();
    if mine || read_only || header.rsn > sent.rsn {
        VacuumOutcome::Skip
    } else {
        VacuumOutcome::Deleted
    }
}

impl Migrator {
    /// Looks at each record, and answers with those that stay.
    pub(crate) fn try_delete_records(
        &mut self,
        caller: Caller,
        records: &RecBuffer,
        cluster: &mut Cluster,
    ) {
        let db = records.db_id();
        if volatile(db, cluster).is_none() || records.check_headers().is_err() {
            return reply(caller, ReplyControl::status(-1), cluster);
        }
        let mut kept = RecBuffer::builder(db);
        let mut queue = VecDeque::new();
        for record in records {
            match record.split() {
                Ok((header, [])) => queue.push_back((Bytes::copy_from_slice(record.key), header)),
                _ => kept.push(record.reqid, record.key, record.data),
            }
        }
        let number = self.vacuum.number();
        let batch = TryDelete {
            caller,
            db,
            queue,
            in_flight: 0,
            resume: None,
            kept,
        };
        self.vacuum.batches.insert(number, batch);
        self.continue_batch(number, cluster);
    }

    pub(super) fn try_delete_done(
        &mut self,
        number: u64,
        key: &[u8],
        sent: &RecordHeader,
        outcome: VacuumOutcome,
        now: Instant,
    ) {
        let Some(batch) = self.vacuum.batches.get_mut(&number) else {
            return;
        };
        if !matches!(outcome, VacuumOutcome::Deleted) {
            batch.keep(key, sent);
        }
        batch.in_flight = batch.in_flight.saturating_sub(1);
        if batch.in_flight == 0 {
            batch.resume = Some(now + PAUSE);
        }
    }

    pub(super) fn continue_batches(&mut self, cluster: &mut Cluster, now: Instant) {
        let due = |batch: &TryDelete| batch.resume.is_some_and(|at| at <= now);
        let batches = self.vacuum.batches.iter();
        let due: Vec<u64> = batches
            .filter(|(_, b)| due(b))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            self.continue_batch(number, cluster);
        }
    }

    fn continue_batch(&mut self, number: u64, cluster: &mut Cluster) {
        let Some(batch) = self.vacuum.batches.get_mut(&number) else {
            return;
        };
        batch.resume = None;
        if batch.queue.is_empty() {
            if let Some(batch) = self.vacuum.batches.remove(&number) {
                let kept = batch.kept.finish().to_bytes();
                reply(batch.caller, ReplyControl::ok(kept), cluster);
            }
            return;
        }
        let db = batch.db;
        let jobs: Vec<_> = batch.queue.drain(..BATCH.min(batch.queue.len())).collect();
        batch.in_flight = jobs.len();
        for (key, sent) in jobs {
            let work = VacuumWork::TryDelete {
                batch: number,
                sent,
            };
            self.submit(db, key, Work::Vacuum(work), cluster);
        }
    }
}
