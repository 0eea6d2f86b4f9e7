//! One run of vacuuming over one database (data-plane.md 8.3).
//!
//! ```text
//!   List (full runs) -> Fetch -> Check -> Tell the lmasters -> Ask all nodes -> Delete -> end
//! ```
//!
//! Each phase waits for what it has begun, then pauses. The delete queue is taken when the check
//! begins, so that what was just fetched is deleted in the same run; the original needs another
//! one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use ctdb_conf::Tunable;
use ctdb_proto::{DbId, Dest, Opcode, Pnn, RecBuffer, RecordHeader, ReplyControl, ReqId, Wire};
use tracing::{debug, warn};

use super::{BATCH, PAUSE, VacuumOutcome, VacuumWork, reply};
use crate::cluster::Cluster;
use crate::effect::{DbAnswer, DbOp, Effect, Ticket};
use crate::input::DbFailure;
use crate::migrate::{Asked, Migrator, Work, request};
use crate::outstanding::Asker;
use crate::waiting::Caller;

/// A run that is going on.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) number: u64,
    pub(super) db: DbId,
    /// Who asked for it, if it was not the timer.
    caller: Option<Caller>,
    full: bool,
    started: Instant,
    /// End of `VacuumMaxRunTime`.
    deadline: Option<Instant>,
    phase: Phase,
    /// Jobs, calls and controls that are not over yet.
    in_flight: usize,
    /// When to go on after a pause.
    resume: Option<Instant>,
    stopped: bool,
    fetches: VecDeque<Bytes>,
    checks: VecDeque<(Bytes, RecordHeader)>,
    /// Records for each other lmaster.
    to_lmaster: BTreeMap<Pnn, Vec<(Bytes, RecordHeader)>>,
    /// Records that may have copies elsewhere.
    to_delete: BTreeMap<Bytes, RecordHeader>,
    deleted: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    List(Ticket),
    Fetch,
    Check,
    Tell,
    Ask,
    Delete,
}

impl Run {
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.stopped {
            return Some(self.started);
        }
        self.resume.into_iter().chain(self.deadline).min()
    }

    /// One job is done; the key is kept for what comes of it.
    pub(super) fn job_done(&mut self, key: Bytes, outcome: VacuumOutcome, now: Instant) {
        match outcome {
            VacuumOutcome::Skip | VacuumOutcome::Ask { .. } => {}
            VacuumOutcome::TellLmaster { lmaster, header } => {
                self.to_lmaster
                    .entry(lmaster)
                    .or_default()
                    .push((key, header));
            }
            VacuumOutcome::AskAll { header } => _ = self.to_delete.insert(key, header),
            VacuumOutcome::Deleted => self.deleted += 1,
        }
        self.one_over(now);
    }

    fn one_over(&mut self, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight == 0 {
            self.resume = Some(now + PAUSE);
        }
    }

    /// The next records to look at in this phase.
    fn next_batch(&mut self) -> Vec<(Bytes, VacuumWork)> {
        let run = self.number;
        match self.phase {
            Phase::Fetch => {
                let keys = self.fetches.drain(..BATCH.min(self.fetches.len()));
                keys.map(|key| (key, VacuumWork::Fetch { run })).collect()
            }
            Phase::Check => {
                let entries = self.checks.drain(..BATCH.min(self.checks.len()));
                let check = |(key, queued)| (key, VacuumWork::Check { run, queued });
                entries.map(check).collect()
            }
            Phase::Delete => {
                let entries = std::iter::from_fn(|| self.to_delete.pop_first()).take(BATCH);
                let delete = |(key, queued)| (key, VacuumWork::Delete { run, queued });
                entries.map(delete).collect()
            }
            Phase::List(_) | Phase::Tell | Phase::Ask => Vec::new(),
        }
    }
}

impl Migrator {
    pub(super) fn begin_run(
        &mut self,
        db: DbId,
        full: bool,
        caller: Option<Caller>,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let limit = cluster.tunables.seconds(Tunable::VacuumMaxRunTime);
        let phase = if full {
            Phase::List(cluster.ticket())
        } else {
            Phase::Fetch
        };
        let fetches = std::mem::take(&mut self.state(db).vacuum.fetches)
            .into_iter()
            .collect();
        self.vacuum.run = Some(Run {
            number: self.vacuum.number(),
            db,
            caller,
            full,
            started: now,
            deadline: (!limit.is_zero()).then(|| now + limit),
            phase,
            in_flight: 0,
            resume: None,
            stopped: false,
            fetches,
            checks: VecDeque::new(),
            to_lmaster: BTreeMap::new(),
            to_delete: BTreeMap::new(),
            deleted: 0,
        });
        if let Phase::List(ticket) = phase {
            let op = DbOp::ListEmpty {
                dmaster: cluster.me,
            };
            cluster.effect(Effect::Db { ticket, db, op });
        } else {
            self.advance_run(cluster, now);
        }
    }

    /// The answer to an effect of vacuuming. `false` if nobody here asked with this ticket.
    pub(crate) fn db_answered(
        &mut self,
        ticket: Ticket,
        answer: &Result<DbAnswer, DbFailure>,
        cluster: &mut Cluster,
        now: Instant,
    ) -> bool {
        if self.vacuum.repacks.remove(&ticket) {
            if let Err(failure) = answer {
                warn!(%failure, "repacking failed");
            }
            return true;
        }
        let Some(run) = self
            .vacuum
            .run
            .as_mut()
            .filter(|r| r.phase == Phase::List(ticket))
        else {
            return false;
        };
        match answer {
            Ok(DbAnswer::Batch(records)) => {
                let db = run.db;
                self.list(db, records.clone());
            }
            Ok(_) => {
                run.phase = Phase::Fetch;
                self.advance_run(cluster, now);
            }
            Err(failure) => {
                warn!(%failure, "listing empty records failed");
                self.end_run(false, cluster, now);
            }
        }
        true
    }

    fn list(&mut self, db: DbId, mut records: Bytes) {
        let Ok(records) = RecBuffer::decode(&mut records) else {
            return;
        };
        let queues = &mut self.state(db).vacuum;
        for record in &records {
            if let Ok((header, _)) = record.split() {
                queues.give_back(Bytes::copy_from_slice(record.key), header);
            }
        }
    }

    /// Goes on after a pause; ends a run that takes too long.
    pub(super) fn continue_run(&mut self, cluster: &mut Cluster, now: Instant) {
        let Some(run) = &mut self.vacuum.run else {
            return;
        };
        if run.stopped {
            return self.end_run(false, cluster, now);
        }
        if run.deadline.is_some_and(|at| at <= now) {
            let name = cluster
                .databases
                .get(&run.db)
                .map_or("?", |db| db.name.as_str());
            warn!("Vacuuming child process timed out for db {name}");
            return self.end_run(false, cluster, now);
        }
        if run.resume.is_some_and(|at| at <= now) {
            run.resume = None;
            self.advance_run(cluster, now);
        }
    }

    /// Begins as much as may be begun at once: a batch of this phase, or the next phase.
    fn advance_run(&mut self, cluster: &mut Cluster, now: Instant) {
        while let Some(run) = self.vacuum.run.as_mut().filter(|run| run.in_flight == 0) {
            let db = run.db;
            let batch = run.next_batch();
            run.in_flight = batch.len();
            if batch.is_empty() && !self.next_phase(cluster, now) {
                return;
            }
            for (key, work) in batch {
                self.submit(db, key, Work::Vacuum(work), cluster);
            }
        }
    }

    /// The current phase has nothing left to do. `false` if the run cannot go on now.
    fn next_phase(&mut self, cluster: &mut Cluster, now: Instant) -> bool {
        let Some(run) = &mut self.vacuum.run else {
            return false;
        };
        match run.phase {
            Phase::List(_) => return false,
            Phase::Fetch => {
                run.phase = Phase::Check;
                let db = run.db;
                let queue = std::mem::take(&mut self.state(db).vacuum.deletes);
                if let Some(run) = &mut self.vacuum.run {
                    run.checks = queue.into_iter().collect();
                }
            }
            Phase::Check => {
                run.phase = Phase::Tell;
                self.tell_lmasters(cluster, now);
            }
            Phase::Tell => {
                run.phase = Phase::Ask;
                self.ask_all_to_delete(cluster, now);
            }
            Phase::Ask => run.phase = Phase::Delete,
            Phase::Delete => {
                self.end_run(true, cluster, now);
                return false;
            }
        }
        true
    }

    /// Step 3: each other lmaster is told which of its records are empty.
    fn tell_lmasters(&mut self, cluster: &mut Cluster, now: Instant) {
        let Some(run) = &self.vacuum.run else { return };
        let (db, me) = (run.db, ReqId(cluster.me.get()));
        let mut controls = Vec::new();
        for (lmaster, records) in &run.to_lmaster {
            let mut keys = RecBuffer::builder(db);
            for (key, _) in records {
                keys.push(me, key, b"");
            }
            controls.push((*lmaster, keys.finish().to_bytes()));
        }
        for (lmaster, data) in controls {
            self.ask_node(lmaster, Opcode::VACUUM_FETCH, data, cluster, now);
        }
    }

    /// Step 4: all other nodes delete their copies first.
    fn ask_all_to_delete(&mut self, cluster: &mut Cluster, now: Instant) {
        let Some(run) = &self.vacuum.run else { return };
        if run.to_delete.is_empty() {
            return;
        }
        let mut records = RecBuffer::builder(run.db);
        for (key, header) in &run.to_delete {
            records.push_record(ReqId(run.db.get()), key, header, b"");
        }
        let data = records.finish().to_bytes();
        for pnn in cluster.broadcast_targets(Dest::Active) {
            if pnn != cluster.me {
                self.ask_node(pnn, Opcode::TRY_DELETE_RECORDS, data.clone(), cluster, now);
            }
        }
    }

    fn ask_node(
        &mut self,
        to: Pnn,
        opcode: Opcode,
        data: Bytes,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let Some(run) = &mut self.vacuum.run else {
            return;
        };
        let number = run.number;
        run.in_flight += 1;
        let ticket = cluster.ticket();
        let control = request(opcode, data);
        let limit = cluster.control_timeout();
        match cluster.ask(Asker::Records(ticket), to, control, limit, now) {
            Ok(()) => self.remember_control(ticket, Asked::Vacuum { run: number, to }),
            Err(_) => self.vacuum_answered(number, to, None, now),
        }
    }

    /// A node has answered `VACUUM_FETCH` or `TRY_DELETE_RECORDS`. What it refuses is tried again
    /// in a later run.
    pub(crate) fn vacuum_answered(
        &mut self,
        number: u64,
        from: Pnn,
        answer: Option<ReplyControl>,
        now: Instant,
    ) {
        let Some(run) = self.vacuum.run.as_mut().filter(|r| r.number == number) else {
            return;
        };
        let db = run.db;
        let answer = answer.filter(|reply| reply.status == 0);
        let mut back: Vec<(Bytes, RecordHeader)> = Vec::new();
        if run.phase == Phase::Tell {
            let told = run.to_lmaster.remove(&from).unwrap_or_default();
            if answer.is_none() {
                back = told;
            }
        } else if let Some(kept) = answer.and_then(|mut r| RecBuffer::decode(&mut r.data).ok()) {
            for record in &kept {
                back.extend(run.to_delete.remove_entry(record.key));
            }
        } else {
            back.extend(std::mem::take(&mut run.to_delete));
        }
        run.one_over(now);
        debug!(%from, again = back.len(), "vacuuming: a node has answered");
        self.give_back(db, back);
    }

    /// A record has come home, or will not.
    pub(crate) fn vacuum_fetched(&mut self, number: u64, now: Instant) {
        if let Some(run) = self.vacuum.run.as_mut().filter(|r| r.number == number) {
            run.one_over(now);
        }
    }

    fn give_back(&mut self, db: DbId, records: impl IntoIterator<Item = (Bytes, RecordHeader)>) {
        let queues = &mut self.state(db).vacuum;
        for (key, header) in records {
            queues.give_back(key, header);
        }
    }

    /// Ends the run; whatever it has not done goes back into the queues. The original loses it.
    fn end_run(&mut self, ok: bool, cluster: &mut Cluster, now: Instant) {
        let Some(run) = self.vacuum.run.take() else {
            return;
        };
        self.forget_vacuum_calls(run.number, cluster);
        if let Some(caller) = run.caller {
            reply(
                caller,
                ReplyControl::status(if ok { 0 } else { -1 }),
                cluster,
            );
        }
        let Some(database) = cluster.databases.get_mut(&run.db) else {
            return;
        };
        let took = now.saturating_duration_since(run.started);
        database
            .statistics
            .vacuum_latency
            .record(took.as_secs_f64());
        cluster.mention_latency("vacuum", run.db, took);
        let name = cluster.databases.get(&run.db).map(|db| db.name.as_str());
        debug!(
            name,
            deleted = run.deleted,
            full = run.full,
            ok,
            "vacuuming has ended"
        );
        let interval = super::interval(cluster);
        let queues = &mut self.state(run.db).vacuum;
        queues.runs = if run.full {
            0
        } else {
            queues.runs.saturating_add(1)
        };
        if run.caller.is_none() {
            queues.next_run = Some(now + interval);
        }
        queues.fetches.extend(run.fetches);
        self.give_back(run.db, run.checks);
        self.give_back(run.db, run.to_lmaster.into_values().flatten());
        self.give_back(run.db, run.to_delete);
        if ok && (run.full || run.deleted > 0) {
            self.repack(run.db, cluster);
        }
    }

    /// Step 5: has the free space of the file joined if it is in many pieces.
    fn repack(&mut self, db: DbId, cluster: &mut Cluster) {
        let min_free = cluster.tunables.get(Tunable::RepackLimit);
        if min_free == 0 {
            return;
        }
        let ticket = cluster.ticket();
        self.vacuum.repacks.insert(ticket);
        cluster.effect(Effect::Db {
            ticket,
            db,
            op: DbOp::Repack { min_free },
        });
    }
}
