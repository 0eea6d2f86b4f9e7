//! Vacuuming: deleted records leave all nodes (data-plane.md 8).
//!
//! A deleted record is an empty one, and stays until nobody can ask for it any more. Each node
//! keeps a *delete queue* of the empty records that it owns. A run over it (`run.rs`) sends those
//! of other lmasters home (`VACUUM_FETCH`, into their *fetch queue*), and deletes its own: at once
//! if they never left with data, else after all other nodes have deleted their copies
//! (`TRY_DELETE_RECORDS`, `remote.rs`).
//!
//! Where the original forks, a run here is a row of record jobs, a bounded number at a time and
//! with a pause in between; none of them waits for a lock that somebody else wants.

mod remote;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_conf::Tunable;
use ctdb_proto::{
    Body, CallFlags, CallId, DbId, DbVacuum, KeyData, Pnn, RecBuffer, RecMode, RecordFlags,
    RecordHeader, ReplyControl, ReqCall, Rsn,
};

use crate::cluster::Cluster;
use crate::database::{Database, Freeze};
use crate::effect::Ticket;
use crate::input::Record;
use crate::migrate::{Migrator, Origin, PendingCall, Then, Verdict, View, Write, kept};
use crate::waiting::Caller;
use remote::TryDelete;
use run::Run;

/// Records looked at without a pause. A pause lets other work of the node go first.
const BATCH: usize = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// Entries beyond this are dropped: a full run finds them again.
const QUEUE_LIMIT: usize = 1_000_000;

/// What one database has to vacuum, and when.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    /// Empty records of this node, as they were stored.
    deletes: BTreeMap<Bytes, RecordHeader>,
    /// Empty records of other nodes that have this one as lmaster.
    fetches: BTreeSet<Bytes>,
    next_run: Option<Instant>,
    /// Runs since the last full one.
    runs: u32,
}

impl Queues {
    /// The record is empty and ours.
    pub(crate) fn schedule(&mut self, key: &Bytes, header: RecordHeader) {
        if let Some(queued) = self.deletes.get_mut(key) {
            *queued = header;
        } else if self.deletes.len() < QUEUE_LIMIT {
            self.deletes.insert(kept(key), header);
        }
    }

    /// The record has data again, or is gone.
    pub(crate) fn forget(&mut self, key: &[u8]) {
        self.deletes.remove(key);
    }

    /// All records are gone.
    pub(crate) fn clear(&mut self) {
        self.deletes.clear();
        self.fetches.clear();
    }

    /// Puts an entry of a run back that came to nothing, unless there is a newer one.
    fn give_back(&mut self, key: Bytes, header: RecordHeader) {
        if self.deletes.len() < QUEUE_LIMIT {
            self.deletes.entry(key).or_insert(header);
        }
    }
}

/// The run of this node, if there is one, and the deletions that other nodes ask for.
#[derive(Debug, Default)]
pub(crate) struct Vacuum {
    run: Option<Run>,
    batches: BTreeMap<u64, TryDelete>,
    /// Effects whose end interests nobody.
    repacks: BTreeSet<Ticket>,
    last_number: u64,
}

impl Vacuum {
    /// Whether the work belongs to something that is still going on.
    pub(crate) fn is_current(&self, work: VacuumWork) -> bool {
        match work {
            VacuumWork::TryDelete { batch, .. } => self.batches.contains_key(&batch),
            VacuumWork::Fetch { run }
            | VacuumWork::Check { run, .. }
            | VacuumWork::Delete { run, .. } => self
                .run
                .as_ref()
                .is_some_and(|current| current.number == run),
        }
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// Why vacuuming looks at a record. `run` and `batch` tell late jobs from current ones.
#[derive(Clone, Copy, Debug)]
pub(crate) enum VacuumWork {
    /// Bring an empty record home to its lmaster (8.3 step 1).
    Fetch { run: u64 },
    /// Is it still empty and ours, and what is to be done with it (step 2)?
    Check { run: u64, queued: RecordHeader },
    /// All other nodes have deleted it (step 4).
    Delete { run: u64, queued: RecordHeader },
    /// The lmaster wants our copy deleted (8.4).
    TryDelete { batch: u64, sent: RecordHeader },
}

impl VacuumWork {
    /// Only what other nodes have done already is worth waiting for a lock.
    pub(crate) const fn waits(&self) -> bool {
        matches!(self, Self::Delete { .. })
    }
}

/// What vacuuming makes of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum VacuumOutcome {
    /// In use, changed or gone.
    Skip,
    /// Ask its dmaster for it.
    Ask { to: Pnn },
    /// Let its lmaster fetch it.
    TellLmaster { lmaster: Pnn, header: RecordHeader },
    /// Let all other nodes delete it first.
    AskAll { header: RecordHeader },
    /// Deleted, or it was not there.
    Deleted,
}

/// Looks at one record for vacuuming.
pub(crate) fn decide(view: View<'_>, work: VacuumWork, record: Option<&Record>) -> Verdict {
    let outcome = match work {
        VacuumWork::Fetch { .. } => look_to_fetch(view, record),
        VacuumWork::Check { queued, .. } => look_to_delete(view, record, queued.rsn),
        VacuumWork::Delete { queued, .. } => match look_to_delete(view, record, queued.rsn) {
            VacuumOutcome::AskAll { .. } => VacuumOutcome::Deleted,
            _ => VacuumOutcome::Skip,
        },
        VacuumWork::TryDelete { sent, .. } => remote::look(view, sent, record),
    };
    let mut verdict = view.leave(Then::Vacuum { work, outcome });
    if matches!(outcome, VacuumOutcome::Deleted) && record.is_some() {
        verdict.write = Write::Delete;
    }
    verdict
}

/// Step 1: a record that a client here is waiting for is no business of vacuuming.
fn look_to_fetch(view: View<'_>, record: Option<&Record>) -> VacuumOutcome {
    let dmaster = record
        .and_then(|r| r.header.dmaster())
        .filter(|pnn| *pnn != view.me());
    match dmaster.filter(|pnn| view.is_member(*pnn) && !view.is_being_fetched()) {
        Some(to) => VacuumOutcome::Ask { to },
        None => VacuumOutcome::Skip,
    }
}

/// Step 2, and once more before the delete of step 4. The original goes by the flags in the
/// queue; those in the record are at least as true.
fn look_to_delete(view: View<'_>, record: Option<&Record>, queued: Rsn) -> VacuumOutcome {
    let Some(Record { header, data }) = record else {
        return VacuumOutcome::Skip;
    };
    let idle = header.dmaster == view.me().get() && header.rsn == queued;
    if !idle || !data.is_empty() || header.flags.intersects(RecordFlags::RO_FLAGS) {
        return VacuumOutcome::Skip;
    }
    if view.lmaster != view.me() {
        VacuumOutcome::TellLmaster {
            lmaster: view.lmaster,
            header: *header,
        }
    } else if header.flags.contains(RecordFlags::MIGRATED_WITH_DATA) {
        VacuumOutcome::AskAll { header: *header }
    } else {
        VacuumOutcome::Deleted
    }
}

impl Migrator {
    /// `SCHEDULE_FOR_DELETION`: a client has emptied a record. Returns the status.
    pub(crate) fn schedule_for_deletion(&mut self, record: &KeyData, cluster: &mut Cluster) -> i32 {
        if volatile(record.db_id, cluster).is_none() {
            return -1;
        }
        self.state(record.db_id)
            .vacuum
            .schedule(&record.key, record.header);
        0
    }

    /// `VACUUM_FETCH`: these records are empty, and this node is their lmaster. Returns the status.
    pub(crate) fn vacuum_fetch(&mut self, records: &RecBuffer, cluster: &mut Cluster) -> i32 {
        if volatile(records.db_id(), cluster).is_none() {
            return -1;
        }
        let queue = &mut self.state(records.db_id()).vacuum.fetches;
        for record in records {
            if queue.len() < QUEUE_LIMIT {
                queue.insert(Bytes::copy_from_slice(record.key));
            }
        }
        0
    }

    /// `DB_VACUUM`: a run at once, answered when it has ended (8.1).
    pub(crate) fn vacuum_now(
        &mut self,
        caller: Caller,
        request: DbVacuum,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let ready = volatile(request.db_id, cluster).is_some_and(|db| may_run(db, cluster));
        if ready && self.vacuum.run.is_none() {
            self.begin_run(request.db_id, request.full, Some(caller), cluster, now);
        } else {
            reply(caller, ReplyControl::status(-1), cluster);
        }
    }

    /// The database is about to be frozen, or goes: what vacuuming has not done yet is left for
    /// later. The run ends with the next timeout, which is due at once.
    pub(crate) fn stop_vacuuming(&mut self, db: DbId) {
        if let Some(run) = self.vacuum.run.as_mut().filter(|run| run.db == db) {
            run.stop();
        }
        for batch in self
            .vacuum
            .batches
            .values_mut()
            .filter(|batch| batch.db() == db)
        {
            batch.stop();
        }
    }

    /// One job of vacuuming is done.
    pub(crate) fn vacuum_concluded(
        &mut self,
        db: DbId,
        key: Bytes,
        work: VacuumWork,
        outcome: VacuumOutcome,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        if !self.vacuum.is_current(work) {
            return;
        }
        match (work, outcome) {
            (VacuumWork::TryDelete { batch, sent }, _) => {
                self.try_delete_done(batch, &key, &sent, outcome, now);
            }
            (VacuumWork::Fetch { run }, VacuumOutcome::Ask { to }) => {
                let (call, origin) = (vacuum_call(db, key), Origin::Vacuum { run });
                let pending = PendingCall {
                    db,
                    call,
                    origin,
                    asked_at: now,
                };
                self.ask_for_vacuuming(pending, to, cluster);
            }
            _ => {
                if let Some(run) = &mut self.vacuum.run {
                    run.job_done(key, outcome, now);
                }
            }
        }
    }

    pub(crate) fn vacuum_timeout(&mut self, cluster: &mut Cluster, now: Instant) {
        self.continue_batches(cluster, now);
        self.continue_run(cluster, now);
        if self.vacuum.run.is_none() {
            self.begin_due_run(cluster, now);
        }
    }

    pub(crate) fn vacuum_poll_timeout(&self) -> Option<Instant> {
        let batches = self
            .vacuum
            .batches
            .values()
            .filter_map(TryDelete::poll_timeout)
            .min();
        let run = match &self.vacuum.run {
            Some(run) => run.poll_timeout(),
            None => self.queues().filter_map(|queues| queues.next_run).min(),
        };
        batches.into_iter().chain(run).min()
    }

    /// Starts the run of a database whose time has come; one at a time on a node (8.1).
    fn begin_due_run(&mut self, cluster: &mut Cluster, now: Instant) {
        let interval = interval(cluster);
        let full_after = cluster.tunables.get(Tunable::VacuumFastPathCount);
        let volatile: Vec<(DbId, bool)> = cluster
            .databases
            .values()
            .filter(|db| db.is_volatile())
            .map(|db| (db.id, may_run(db, cluster)))
            .collect();
        for (db, ready) in volatile {
            let queues = &mut self.state(db).vacuum;
            if *queues.next_run.get_or_insert(now + interval) > now {
                continue;
            }
            queues.next_run = Some(now + interval);
            if ready {
                let full = full_after != 0 && queues.runs >= full_after;
                return self.begin_run(db, full, None, cluster, now);
            }
        }
    }
}

/// Time between two runs of a database.
fn interval(cluster: &Cluster) -> Duration {
    cluster
        .tunables
        .seconds(Tunable::VacuumInterval)
        .max(Duration::from_secs(1))
}

/// Not during a recovery, nor in a frozen database.
fn may_run(db: &Database, cluster: &Cluster) -> bool {
    cluster.rec_mode == RecMode::Normal && db.freeze == Freeze::None
}

/// The original crashes when it is asked to vacuum another kind of database.
fn volatile(db: DbId, cluster: &Cluster) -> Option<&Database> {
    cluster.databases.get(&db).filter(|db| db.is_volatile())
}

fn vacuum_call(db: DbId, key: Bytes) -> ReqCall {
    ReqCall {
        flags: CallFlags::IMMEDIATE_MIGRATION | CallFlags::VACUUM_MIGRATION,
        db_id: db,
        call_id: CallId::NULL,
        hopcount: 0,
        key,
        data: Bytes::new(),
    }
}

fn reply(caller: Caller, reply: ReplyControl, cluster: &mut Cluster) {
    if caller.wants_reply {
        cluster.send(caller.node, caller.reqid, Body::ReplyControl(reply));
    }
}
