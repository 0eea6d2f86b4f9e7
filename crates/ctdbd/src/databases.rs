//! What the core task does with its databases: records at once, in [`records`], everything else
//! through threads.

mod records;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use ctdb_core::{DbAnswer, DbFailure, DbOp, Node, RECOVERY_WINDOW, TRAVERSE_WINDOW, Ticket};
use ctdb_proto::DbId;
use tracing::error;

use crate::database::attach::{AttachRequest, Attached, DbSetup};
use crate::database::batch::Selection;
use crate::database::freeze::Freezer;
use crate::database::locks::LockWaits;
use crate::database::merge::{MergeRules, Merger};
use crate::database::work::{self, Pace};
use crate::database::{Database, DbFile, LockKind, LongWait};
use crate::event::ShellEvent;
use crate::lanes::Lanes;
use crate::threads::Threads;

/// All attached databases.
pub(crate) struct Databases {
    setup: Arc<DbSetup>,
    lanes: Lanes,
    threads: Threads,
    open: BTreeMap<DbId, Database>,
    traverses: BTreeMap<Ticket, Arc<Pace>>,
    /// What this node merges as the leader of a recovery.
    merges: BTreeMap<DbId, Merger>,
    /// Memory for values, used by each job in turn.
    value: Vec<u8>,
}

impl Databases {
    pub(crate) fn new(setup: DbSetup, lanes: Lanes) -> Self {
        Self {
            setup: Arc::new(setup),
            lanes,
            threads: Threads::default(),
            open: BTreeMap::new(),
            traverses: BTreeMap::new(),
            merges: BTreeMap::new(),
            value: Vec::new(),
        }
    }

    /// Carries out work on a whole database. The answer comes as an event.
    pub(crate) fn carry_out(
        &mut self,
        node: &mut Node,
        ticket: Ticket,
        db: DbId,
        op: DbOp,
        now: Instant,
    ) {
        match op {
            DbOp::Attach {
                name,
                flags,
                hash_size,
                max_dead,
            } => {
                self.attach(
                    ticket,
                    AttachRequest {
                        name,
                        kind: flags,
                        hash_size,
                        max_dead,
                    },
                );
            }
            DbOp::StopTraverse { ticket: traverse } => {
                if let Some(pace) = self.traverses.get(&traverse) {
                    pace.stop();
                }
                self.answer(ticket, Ok(DbAnswer::Done));
            }
            DbOp::ContinueTraverse { ticket: traverse } => {
                if let Some(pace) = self.traverses.get(&traverse) {
                    pace.allow_one_more();
                }
                self.answer(ticket, Ok(DbAnswer::Done));
            }
            DbOp::Detach => {
                self.detach(node, db, now);
                self.answer(ticket, Ok(DbAnswer::Done));
            }
            DbOp::MergeBegin { .. } | DbOp::MergeAdd { .. } | DbOp::MergeRead | DbOp::MergeEnd => {
                self.merge(ticket, db, op);
            }
            op => self.carry_out_on(node, ticket, db, op),
        }
    }

    /// Work on a database that must be attached.
    fn carry_out_on(&mut self, node: &Node, ticket: Ticket, db: DbId, op: DbOp) {
        let Some(database) = self.open.get_mut(&db) else {
            let failure = DbFailure(format!("no database {db}"));
            return self.answer(ticket, Err(failure));
        };
        let file = Arc::clone(&database.file);
        match op {
            DbOp::Freeze if database.freezer.is_none() => {
                file.freeze_begins();
                let me = self.setup.pnn;
                let freezer = Freezer::start(ticket, &file, me, &self.threads, &self.lanes);
                database.freezer = Some(freezer);
            }
            DbOp::Freeze => self.answer(ticket, Err(file.failure(&"is being frozen already"))),
            DbOp::Thaw => self.thaw(ticket, db),
            DbOp::Seqnum if !database.is_frozen() => {
                self.in_thread(ticket, move |_| work::read_seqnum(&file));
            }
            DbOp::Pull { batch_limit } => {
                let pace = self.new_pace(ticket, RECOVERY_WINDOW);
                let freezer = self.open.get(&db).and_then(|db| db.freezer.as_ref());
                if !freezer.is_some_and(|f| f.pull(ticket, batch_limit, pace)) {
                    self.answer(ticket, Err(file.failure(&"is not frozen")));
                }
            }
            DbOp::TransactionStart
            | DbOp::TransactionCancel
            | DbOp::TransactionCommit
            | DbOp::Wipe
            | DbOp::Push { .. }
            | DbOp::PushConfirm
            | DbOp::Seqnum => {
                let accepted = database
                    .freezer
                    .as_ref()
                    .is_some_and(|f| f.work(ticket, op));
                if !accepted {
                    self.answer(ticket, Err(file.failure(&"is not frozen")));
                }
            }
            DbOp::Repack { min_free } => {
                self.in_thread(ticket, move |_| work::repack(&file, min_free));
            }
            DbOp::Update { records } => {
                let (me, map, era) = (self.setup.pnn, node.vnn_map().clone(), file.era());
                self.in_thread(ticket, move |_| {
                    work::update(&file, me, &records, &map, era)
                });
            }
            DbOp::Traverse {
                only_dmaster,
                with_empty,
            } => {
                let selection = Selection {
                    dmaster: only_dmaster,
                    full: true,
                    empty: with_empty,
                };
                self.traverse(ticket, file, selection, Pace::of(TRAVERSE_WINDOW));
            }
            DbOp::ListEmpty { dmaster } => {
                let selection = Selection {
                    dmaster: Some(dmaster),
                    full: false,
                    empty: true,
                };
                self.traverse(ticket, file, selection, Pace::unlimited());
            }
            op => {
                let answer = self.small_work(ticket, &file, db, op);
                if let Some(answer) = answer {
                    self.answer(ticket, answer);
                }
            }
        }
    }

    /// Work on the copies of a database that this node merges as the leader of a recovery.
    fn merge(&mut self, ticket: Ticket, db: DbId, op: DbOp) {
        let accepted = match op {
            DbOp::MergeBegin {
                leader,
                flags,
                batch_limit,
            } => {
                let rules = MergeRules {
                    leader,
                    flags,
                    batch_limit,
                };
                self.begin_merge(ticket, db, rules)
            }
            DbOp::MergeAdd { from, records } => {
                let merger = self.merges.get(&db);
                merger.is_some_and(|merger| merger.add(ticket, from, records))
            }
            DbOp::MergeRead => {
                let pace = self.new_pace(ticket, RECOVERY_WINDOW);
                let merger = self.merges.get_mut(&db);
                merger.is_some_and(|merger| merger.read(ticket, pace))
            }
            _ => {
                self.merges.remove(&db);
                return self.answer(ticket, Ok(DbAnswer::Done));
            }
        };
        if !accepted {
            self.answer(ticket, Err(DbFailure(format!("{db} is not being merged"))));
        }
    }

    /// False if the database is not attached.
    fn begin_merge(&mut self, ticket: Ticket, db: DbId, rules: MergeRules) -> bool {
        let Some(database) = self.open.get(&db) else {
            return false;
        };
        let (file, dir) = (&database.file, self.setup.state_dir.clone());
        let merger = Merger::start(ticket, file, dir, rules, &self.threads, &self.lanes);
        self.merges.insert(db, merger);
        true
    }

    /// Sequence numbers of files, health marks. `None` if a thread answers.
    fn small_work(
        &mut self,
        ticket: Ticket,
        file: &Arc<DbFile>,
        db: DbId,
        op: DbOp,
    ) -> Option<Result<DbAnswer, DbFailure>> {
        let database = self.open.get(&db)?;
        let failed = |error: tdb::Error| file.failure(&error);
        let number = |handle: &tdb::Db| {
            handle
                .sequence_number()
                .map(|n| DbAnswer::Number(n.into()))
                .map_err(failed)
        };
        Some(match op {
            DbOp::EnableFileSeqnum => {
                file.enable_seqnum();
                database.handle.set_seqnum(true);
                number(&database.handle)
            }
            DbOp::FileSeqnum => number(&database.handle),
            DbOp::BumpFileSeqnum => database
                .handle
                .increment_sequence_number()
                .map_err(failed)
                .and_then(|()| number(&database.handle)),
            DbOp::Health => {
                let (setup, file) = (Arc::clone(&self.setup), Arc::clone(file));
                self.in_thread(ticket, move |_| {
                    let health = setup.health.get(&file.name);
                    health
                        .map(DbAnswer::Health)
                        .map_err(|error| file.failure(&error))
                });
                return None;
            }
            DbOp::SetHealth { reason } => {
                let (setup, file) = (Arc::clone(&self.setup), Arc::clone(file));
                self.in_thread(ticket, move |_| {
                    let done = setup.health.set(&file.name, reason.as_deref());
                    done.map(|()| DbAnswer::Done)
                        .map_err(|error| file.failure(&error))
                });
                return None;
            }
            other => Err(file.failure(&format!("not work on one database: {other:?}"))),
        })
    }

    fn attach(&self, ticket: Ticket, request: AttachRequest) {
        let (setup, lanes) = (Arc::clone(&self.setup), self.lanes.clone());
        self.threads.run(move || {
            let result = setup.attach(request).map(Box::new);
            lanes.report(ShellEvent::Attached { ticket, result });
        });
    }

    /// A thread has opened a database. Returns what to tell the node.
    pub(crate) fn attached(
        &mut self,
        result: Result<Box<Attached>, DbFailure>,
    ) -> Result<DbAnswer, DbFailure> {
        let Attached {
            file,
            handle,
            answer,
        } = *result?;
        // The core task waits for nobody, see `records`.
        handle.set_may_wait(false);
        let waits = LockWaits::default();
        let id = file.id;
        let database = Database {
            file,
            handle,
            waits,
            freezer: None,
            thawing: None,
        };
        self.open.insert(id, database);
        Ok(answer)
    }

    fn detach(&mut self, node: &mut Node, db: DbId, now: Instant) {
        if let Some(mut database) = self.open.remove(&db) {
            let held_back = database.thawing.take().unwrap_or_default();
            for job in database.waits.take_all().into_iter().chain(held_back) {
                node.on_record_failed(job, "the database was detached", now);
            }
        }
    }

    fn thaw(&mut self, ticket: Ticket, db: DbId) {
        let Some(database) = self.open.get_mut(&db) else {
            return;
        };
        let Some(freezer) = database.freezer.take() else {
            return self.answer(ticket, Ok(DbAnswer::Done));
        };
        match freezer.thaw(ticket) {
            // Until the lock is released every job would find its chain taken.
            None => database.thawing = Some(VecDeque::new()),
            Some(freeze) => {
                let failure = database.file.failure(&"thawed before it was frozen");
                self.answer(freeze, Err(failure));
            }
        }
    }

    /// The thread of this freeze has failed. False if it was to end anyway.
    pub(crate) fn freeze_lost(&mut self, ticket: Ticket, db: DbId) -> bool {
        let database = self.open.get_mut(&db);
        let lost = database.and_then(|db| db.freezer.take_if(|freezer| freezer.is(ticket)));
        lost.is_some()
    }

    /// The lock over all records has been released: the jobs that came meanwhile are done.
    pub(crate) fn thawed(&mut self, node: &mut Node, db: DbId, now: Instant) {
        let held_back = self
            .open
            .get_mut(&db)
            .and_then(|database| database.thawing.take());
        for job in held_back.into_iter().flatten() {
            self.record(node, job, now);
        }
    }

    /// A thread has answered. Takes note of what concerns this module.
    pub(crate) fn note_answer(&mut self, ticket: Ticket, answer: &Result<DbAnswer, DbFailure>) {
        match answer {
            Ok(DbAnswer::Batch(_)) => {}
            Ok(_) => {
                self.traverses.remove(&ticket);
                for database in self.open.values_mut() {
                    if let Some(freezer) = &mut database.freezer {
                        freezer.note_answer(ticket);
                    }
                }
            }
            Err(failure) => {
                error!("{failure}");
                self.traverses.remove(&ticket);
                for database in self.open.values_mut() {
                    database
                        .freezer
                        .take_if(|freezer| freezer.has_failed(ticket));
                }
            }
        }
    }

    /// Gives memory back that is not needed now.
    pub(crate) fn release_memory(&self) {
        let mut databases = self.open.values();
        if databases.all(|database| database.freezer.is_none()) {
            self.threads.run(ctdb_sys::process::release_unused_memory);
        }
    }

    /// Mentions locks that take long to get. Returns what the lock debug script shall look into:
    /// of each kind of lock one for each database.
    pub(crate) fn report_long_waits(&mut self, now: Instant) -> Vec<LongWait> {
        let mut long_waits = Vec::new();
        for database in self.open.values_mut() {
            let wait = |kind| LongWait {
                kind,
                path: database.file.path.clone(),
                uses_mutexes: database.handle.uses_mutexes(),
            };
            if database.waits.report_long_waits(&database.file.name, now) {
                long_waits.push(wait(LockKind::Record));
            }
            if let Some(freezer) = &mut database.freezer
                && freezer.report_long_wait(&database.file.name, now)
            {
                long_waits.push(wait(LockKind::Database));
            }
        }
        long_waits
    }

    /// A pace that [`DbOp::ContinueTraverse`] with this ticket keeps going.
    fn new_pace(&mut self, ticket: Ticket, window: u32) -> Arc<Pace> {
        let pace = Arc::new(Pace::of(window));
        self.traverses.insert(ticket, Arc::clone(&pace));
        pace
    }

    fn traverse(&mut self, ticket: Ticket, file: Arc<DbFile>, selection: Selection, pace: Pace) {
        let pace = Arc::new(pace);
        self.traverses.insert(ticket, Arc::clone(&pace));
        self.in_thread(ticket, move |lanes| {
            work::traverse(&file, ticket, selection, &pace, lanes)
        });
    }

    /// Has work done by a thread, and its result reported behind everything it reports itself.
    fn in_thread(
        &self,
        ticket: Ticket,
        work: impl FnOnce(&Lanes) -> Result<DbAnswer, DbFailure> + Send + 'static,
    ) {
        let lanes = self.lanes.clone();
        self.threads.run(move || {
            let answer = work(&lanes);
            lanes.report_data(ShellEvent::Db { ticket, answer });
        });
    }

    fn answer(&self, ticket: Ticket, answer: Result<DbAnswer, DbFailure>) {
        self.lanes.report(ShellEvent::Db { ticket, answer });
    }
}
