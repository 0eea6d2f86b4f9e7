//! Waiting for locks that somebody else has, so that record jobs can be done (data-plane.md 6, style
//! of the locks: a thread waits, the core task works).
//!
//! ```text
//! core task:  chain is taken ---> job waits in line, first of the line starts a wait
//! thread:     opens a handle, waits for the chain, reports LockHeld, keeps the lock
//! core task:  does the jobs of the chain under a mark in its own handle, drops LockHeld
//! thread:     lets go
//! ```
//!
//! There is one wait for each contended chain, whatever the number of jobs: when a lock that
//! everybody wants is released, no herd runs after it. Jobs of one chain are done in the order in
//! which they came, also those that come while the chain is being waited for.
//!
//! A job whose record finds no room without the free list, while somebody else has that, waits for
//! the free list in the same way, and does not hold its chain meanwhile. One wait is for all such
//! jobs of a database.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ctdb_core::{DbFailure, RecordJob};
use ctdb_proto::DbId;
use tdb::Db;
use tracing::warn;

use super::DbFile;
use crate::event::ShellEvent;
use crate::lanes::Lanes;
use crate::threads::Threads;

/// A wait that takes so long is mentioned in the log, and again each time as long.
pub(crate) const REPORT_AFTER: Duration = Duration::from_secs(10);

/// Jobs of a chain done under one lock, before others get a chance to take it.
pub(crate) const JOBS_PER_LOCK: usize = 64;

/// Chains worked on under one lock of the free list.
const CHAINS_PER_LOCK: usize = 64;

/// What a wait is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Awaited {
    Chain(u32),
    /// The free list.
    Room,
}

/// Names one wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct WaitId {
    pub(crate) db: DbId,
    pub(crate) awaited: Awaited,
    serial: u64,
}

/// A lock that a thread holds for the core task. Dropping this lets it go.
#[derive(Debug)]
pub(crate) struct LockHeld {
    _release: mpsc::Sender<()>,
}

/// Jobs of a chain that could not be done, in their order, and why the first could not.
#[derive(Debug)]
pub(crate) enum Undone {
    Nothing,
    NeedChain(VecDeque<RecordJob>),
    NeedRoom(VecDeque<RecordJob>),
}

/// The record jobs of one database that wait for locks.
#[derive(Default)]
pub(crate) struct LockWaits {
    lines: BTreeMap<u32, Line>,
    /// Chains whose wait has not begun, because enough others have.
    not_begun: VecDeque<u32>,
    /// Chains whose first job needs room.
    for_room: VecDeque<u32>,
    room: Option<Wait>,
    /// Waits for chains.
    running: usize,
    last_serial: u64,
}

/// The jobs of one chain in the order in which they came.
#[derive(Default)]
struct Line {
    jobs: VecDeque<RecordJob>,
    /// For the chain.
    wait: Option<Wait>,
}

struct Wait {
    serial: u64,
    since: Instant,
    reported: Duration,
}

impl LockWaits {
    /// Whether no job waits at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether jobs wait for this chain: a new one then has to get in line.
    pub(crate) fn is_waiting(&self, chain: u32) -> bool {
        self.lines.contains_key(&chain)
    }

    /// Puts a job in line for its chain. The caller then calls [`Self::begin`].
    pub(crate) fn push(&mut self, chain: u32, job: RecordJob) {
        let line = self.lines.entry(chain).or_insert_with(|| {
            self.not_begun.push_back(chain);
            Line::default()
        });
        line.jobs.push_back(job);
    }

    /// Has a job wait for room. No other one waits for its chain. The caller then calls
    /// [`Self::begin`].
    pub(crate) fn push_for_room(&mut self, chain: u32, job: RecordJob) {
        self.worked_off(chain, Undone::NeedRoom([job].into()));
    }

    /// Begins waits while fewer than `limit` run for chains, in the order of their first jobs, and
    /// one for room; returns how many.
    pub(crate) fn begin(
        &mut self,
        limit: usize,
        file: &Arc<DbFile>,
        threads: &Threads,
        lanes: &Lanes,
    ) -> usize {
        let mut begun = 0;
        if self.room.is_none() && !self.for_room.is_empty() {
            let (wait, id) = self.new_wait(file.id, Awaited::Room);
            self.room = Some(wait);
            start_wait(id, file, threads, lanes, |db, lender| {
                let _lock = db.freelist_lock()?;
                lender.lend();
                Ok(())
            });
            begun += 1;
        }
        while self.running < limit.max(1)
            && let Some(chain) = self.not_begun.pop_front()
        {
            let (wait, id) = self.new_wait(file.id, Awaited::Chain(chain));
            let Some(line) = self.lines.get_mut(&chain) else {
                continue;
            };
            let Some(key) = line.jobs.front().map(|job| job.key.clone()) else {
                continue;
            };
            line.wait = Some(wait);
            self.running += 1;
            start_wait(id, file, threads, lanes, move |db, lender| {
                let _lock = db.chainlock(&key)?;
                lender.lend();
                Ok(())
            });
            begun += 1;
        }
        begun
    }

    fn new_wait(&mut self, db: DbId, awaited: Awaited) -> (Wait, WaitId) {
        self.last_serial += 1;
        let serial = self.last_serial;
        let wait = Wait {
            serial,
            since: Instant::now(),
            reported: Duration::ZERO,
        };
        let id = WaitId {
            db,
            awaited,
            serial,
        };
        (wait, id)
    }

    /// The wait is over. Returns when it began, or `None` if nobody waits any more. The caller works
    /// on the chain, or on [`Self::chains_for_room`]: takes the jobs of each, says what it has
    /// [worked off](Self::worked_off), and then calls [`Self::begin`].
    pub(crate) fn end(&mut self, wait: WaitId) -> Option<Instant> {
        let is_it = |current: &mut Wait| current.serial == wait.serial;
        match wait.awaited {
            Awaited::Room => self.room.take_if(is_it).map(|wait| wait.since),
            Awaited::Chain(chain) => {
                let ended = self.lines.get_mut(&chain)?.wait.take_if(is_it)?;
                self.running -= 1;
                Some(ended.since)
            }
        }
    }

    /// Some of the chains whose first jobs need room, not to be named again.
    pub(crate) fn chains_for_room(&mut self) -> Vec<u32> {
        let count = self.for_room.len().min(CHAINS_PER_LOCK);
        self.for_room.drain(..count).collect()
    }

    /// Takes the jobs of a chain to do now.
    pub(crate) fn take_jobs(&mut self, chain: u32) -> VecDeque<RecordJob> {
        let Some(line) = self.lines.get_mut(&chain) else {
            return VecDeque::new();
        };
        let later = line.jobs.split_off(line.jobs.len().min(JOBS_PER_LOCK));
        std::mem::replace(&mut line.jobs, later)
    }

    /// Jobs of a chain, for which nothing is being waited for now, have been done, but for those
    /// that still have to wait. The rest of its line waits as well.
    pub(crate) fn worked_off(&mut self, chain: u32, undone: Undone) {
        let line = self.lines.entry(chain).or_default();
        let (mut first, queue) = match undone {
            Undone::Nothing => (VecDeque::new(), &mut self.not_begun),
            Undone::NeedChain(jobs) => (jobs, &mut self.not_begun),
            Undone::NeedRoom(jobs) => (jobs, &mut self.for_room),
        };
        first.append(&mut line.jobs);
        line.jobs = first;
        if line.jobs.is_empty() {
            self.lines.remove(&chain);
        } else {
            queue.push_back(chain);
        }
    }

    /// Takes the jobs that wait for what cannot be had.
    pub(crate) fn give_up(&mut self, awaited: Awaited) -> Vec<RecordJob> {
        let chains = match awaited {
            Awaited::Chain(chain) => vec![chain],
            Awaited::Room => self.for_room.drain(..).collect(),
        };
        let lines = chains.iter().filter_map(|chain| self.lines.remove(chain));
        lines.flat_map(|line| line.jobs).collect()
    }

    /// Takes all jobs: the database goes away.
    pub(crate) fn take_all(&mut self) -> Vec<RecordJob> {
        let lines = std::mem::take(self).lines;
        lines.into_values().flat_map(|line| line.jobs).collect()
    }

    /// Mentions waits that take long. Returns whether there was one to mention.
    pub(crate) fn report_long_waits(&mut self, db_name: &str, now: Instant) -> bool {
        let mut mentioned = false;
        if let Some(seconds) = self.room.as_mut().and_then(|wait| wait.is_long(now)) {
            mentioned = true;
            let waiting = self.for_room.len();
            warn!(
                waiting,
                "Unable to get free list lock on database {db_name} for {seconds} seconds"
            );
        }
        for line in self.lines.values_mut() {
            let Some(seconds) = line.wait.as_mut().and_then(|wait| wait.is_long(now)) else {
                continue;
            };
            mentioned = true;
            let key = line.jobs.front().map(|job| hex(&job.key));
            let key = key.unwrap_or_default();
            warn!(
                "Unable to get RECORD lock on database {db_name} for {seconds} seconds (key {key})"
            );
        }
        mentioned
    }
}

impl Wait {
    /// For how many seconds, if that is to be mentioned now.
    fn is_long(&mut self, now: Instant) -> Option<u64> {
        let waited = now.saturating_duration_since(self.since);
        if waited < self.reported + REPORT_AFTER {
            return None;
        }
        self.reported = waited;
        Some(waited.as_secs())
    }
}

fn start_wait(
    id: WaitId,
    file: &Arc<DbFile>,
    threads: &Threads,
    lanes: &Lanes,
    lock_and_lend: impl FnOnce(&Db, &Lender) -> tdb::Result<()> + Send + 'static,
) {
    let (file, lender) = (Arc::clone(file), Lender(id, lanes.clone()));
    threads.run(move || {
        let db = match file.open() {
            Ok(db) => db,
            Err(failure) => return lender.report(Err(failure)),
        };
        match lock_and_lend(&db, &lender) {
            Ok(()) => file.close(db),
            Err(error) => lender.report(Err(file.failure(&error))),
        }
    });
}

/// The thread's end of a wait.
struct Lender(WaitId, Lanes);

impl Lender {
    /// Tells the core task that this thread has the lock, until it lets it go.
    fn lend(&self) {
        let (release, released) = mpsc::channel();
        self.report(Ok(LockHeld { _release: release }));
        // Nothing is ever sent: the end of the channel is the signal.
        let _ = released.recv();
    }

    fn report(&self, result: Result<LockHeld, DbFailure>) {
        let wait = self.0;
        self.1.report(ShellEvent::RecordLock { wait, result });
    }
}

/// Upper-case hexadecimal, cut to a length that fits into a line.
fn hex(bytes: &[u8]) -> String {
    const LIMIT: usize = 64;
    let mut text = String::new();
    for byte in bytes.iter().take(LIMIT) {
        let _ = write!(text, "{byte:02X}");
    }
    text
}
