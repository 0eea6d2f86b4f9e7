//! Waiting for hash chains that somebody else has locked (data-plane.md 6, style of the locks: a
//! thread waits, the core task works).
//!
//! ```text
//! core task:  chain is taken ---> job waits in line, first of the line starts a wait
//! thread:     opens a handle, waits for the chain, reports ChainHeld, keeps the lock
//! core task:  does the jobs of the chain under a mark in its own handle, drops ChainHeld
//! thread:     lets go
//! ```
//!
//! There is one wait for each contended chain, whatever the number of jobs: when a lock that
//! everybody wants is released, no herd runs after it. Jobs of one chain are done in the order in
//! which they came, also those that come while the chain is being waited for.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_core::RecordJob;
use ctdb_proto::DbId;
use tracing::warn;

use super::DbFile;
use crate::event::ShellEvent;
use crate::lanes::Lanes;
use crate::threads::Threads;

/// A wait that takes so long is mentioned in the log, and again each time as long.
pub(crate) const REPORT_AFTER: Duration = Duration::from_secs(10);

/// Jobs done under one lock, before others get a chance to take it.
pub(crate) const JOBS_PER_LOCK: usize = 64;

/// Names one wait for one chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct WaitId {
    pub(crate) db: DbId,
    pub(crate) chain: u32,
    serial: u64,
}

/// A chain that a thread holds for the core task. Dropping this lets it go.
#[derive(Debug)]
pub(crate) struct ChainHeld {
    _release: mpsc::Sender<()>,
}

/// The record jobs of one database that wait for their chains.
#[derive(Default)]
pub(crate) struct ChainWaits {
    chains: BTreeMap<u32, Line>,
    /// Chains whose wait has not begun, because enough others have.
    not_begun: VecDeque<u32>,
    running: usize,
    last_serial: u64,
}

/// The jobs of one chain in the order in which they came.
struct Line {
    jobs: VecDeque<RecordJob>,
    wait: Option<Wait>,
}

struct Wait {
    serial: u64,
    since: Instant,
    reported: Duration,
}

impl ChainWaits {
    /// Whether no job waits at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Whether jobs wait for this chain: a new one then has to get in line.
    pub(crate) fn is_waiting(&self, chain: u32) -> bool {
        self.chains.contains_key(&chain)
    }

    /// Puts a job in line. The caller then calls [`Self::begin`].
    pub(crate) fn push(&mut self, chain: u32, job: RecordJob) {
        let line = self.chains.entry(chain).or_insert_with(|| {
            self.not_begun.push_back(chain);
            Line {
                jobs: VecDeque::new(),
                wait: None,
            }
        });
        line.jobs.push_back(job);
    }

    /// Begins waits, in the order of their chains' first jobs, while fewer than `limit` run;
    /// returns how many.
    pub(crate) fn begin(
        &mut self,
        limit: usize,
        file: &Arc<DbFile>,
        threads: &Threads,
        lanes: &Lanes,
    ) -> usize {
        let before = self.running;
        while self.running < limit.max(1) {
            let Some(chain) = self.not_begun.pop_front() else {
                break;
            };
            let Some(line) = self.chains.get_mut(&chain) else {
                continue;
            };
            let Some(key) = line.jobs.front().map(|job| job.key.clone()) else {
                continue;
            };
            self.last_serial += 1;
            let serial = self.last_serial;
            line.wait = Some(Wait {
                serial,
                since: Instant::now(),
                reported: Duration::ZERO,
            });
            self.running += 1;
            let wait = WaitId {
                db: file.id,
                chain,
                serial,
            };
            start_wait(wait, key, Arc::clone(file), threads, lanes.clone());
        }
        self.running - before
    }

    /// The wait is over: takes the jobs to do now, and since when they waited. Others of the chain stay in line, and wait
    /// anew once the caller calls [`Self::begin`]. `None` if nobody waits any more.
    pub(crate) fn end(&mut self, wait: WaitId) -> Option<(VecDeque<RecordJob>, Instant)> {
        let line = self.chains.get_mut(&wait.chain)?;
        let is_it = |current: &mut Wait| current.serial == wait.serial;
        let since = line.wait.take_if(is_it)?.since;
        self.running -= 1;
        let later = line.jobs.split_off(line.jobs.len().min(JOBS_PER_LOCK));
        let jobs = std::mem::replace(&mut line.jobs, later);
        if line.jobs.is_empty() {
            self.chains.remove(&wait.chain);
        } else {
            self.not_begun.push_back(wait.chain);
        }
        Some((jobs, since))
    }

    /// Takes all jobs: the database goes away.
    pub(crate) fn take_all(&mut self) -> Vec<RecordJob> {
        self.not_begun.clear();
        self.running = 0;
        std::mem::take(&mut self.chains)
            .into_values()
            .flat_map(|line| line.jobs)
            .collect()
    }

    /// Mentions waits that take long. Returns whether there was one to mention.
    pub(crate) fn report_long_waits(&mut self, db_name: &str, now: Instant) -> bool {
        let mut mentioned = false;
        for line in self.chains.values_mut() {
            let Some(wait) = &mut line.wait else {
                continue;
            };
            let waited = now.saturating_duration_since(wait.since);
            if waited >= wait.reported + REPORT_AFTER {
                wait.reported = waited;
                mentioned = true;
                let key = line
                    .jobs
                    .front()
                    .map(|job| hex(&job.key))
                    .unwrap_or_default();
                let seconds = waited.as_secs();
                warn!(
                    "Unable to get RECORD lock on database {db_name} for {seconds} seconds \
                     (key {key})"
                );
            }
        }
        mentioned
    }
}

fn start_wait(wait: WaitId, key: Bytes, file: Arc<DbFile>, threads: &Threads, lanes: Lanes) {
    threads.run(move || {
        let db = match file.open() {
            Ok(db) => db,
            Err(failure) => {
                return lanes.report(ShellEvent::ChainLock {
                    wait,
                    result: Err(failure),
                });
            }
        };
        let lock = match db.chainlock(&key) {
            Ok(lock) => lock,
            Err(error) => {
                let result = Err(file.failure(&error));
                return lanes.report(ShellEvent::ChainLock { wait, result });
            }
        };
        let (release, released) = mpsc::channel();
        let result = Ok(ChainHeld { _release: release });
        lanes.report(ShellEvent::ChainLock { wait, result });
        // Nothing is ever sent: the end of the channel is the signal.
        let _ = released.recv();
        drop(lock);
        file.close(db);
    });
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
