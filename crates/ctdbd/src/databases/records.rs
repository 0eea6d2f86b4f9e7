//! The record jobs of the node: done at once, or as soon as what they need is free (data-plane.md
//! 6.7).

use std::collections::VecDeque;
use std::time::Instant;

use ctdb_core::{DbFailure, Node, RecordJob};
use ctdb_proto::DbId;
use tracing::error;

use super::Databases;
use crate::database::Database;
use crate::database::locks::{Awaited, LockHeld, Undone, WaitId};
use crate::database::record::{Tried, do_job, try_job};

/// Memory for the value of a record that is kept from one job to the next.
const KEEP_VALUE: usize = 64 * 1024;

impl Databases {
    /// Does a record job now, or as soon as its chain is free and there is room.
    pub(crate) fn record(&mut self, node: &mut Node, job: RecordJob, now: Instant) {
        let Some(database) = self.open.get_mut(&job.db) else {
            return node.on_record_failed(job, "the database is not attached", now);
        };
        if let Some(held_back) = &mut database.thawing {
            return held_back.push_back(job);
        }
        let (db, waits) = (job.db, &mut database.waits);
        let in_line = !waits.is_empty() && waits.is_waiting(database.handle.chain_of(&job.key));
        let tried = if in_line {
            Tried::Contended(job)
        } else {
            try_job(node, &database.handle, job, &mut self.value, now)
        };
        match tried {
            Tried::Done => return self.value.shrink_to(KEEP_VALUE),
            Tried::Contended(job) | Tried::NeedsRoom(job) if !job.waits() => {
                return node.on_record_failed(job, "somebody else has a lock", now);
            }
            Tried::Contended(job) => waits.push(database.handle.chain_of(&job.key), job),
            Tried::NeedsRoom(job) => waits.push_for_room(database.handle.chain_of(&job.key), job),
        }
        self.begin_waits(node, db);
    }

    /// A lock thread has what was waited for, or cannot get it: the jobs that waited are done.
    pub(crate) fn record_lock(
        &mut self,
        node: &mut Node,
        wait: WaitId,
        result: Result<LockHeld, DbFailure>,
        now: Instant,
    ) {
        let Some(database) = self.open.get_mut(&wait.db) else {
            return;
        };
        let Some(since) = database.waits.end(wait) else {
            return;
        };
        let waited = now.saturating_duration_since(since);
        node.lock_wait_ended("lock_record", wait.db, waited, result.is_ok());
        match (result, wait.awaited) {
            (Ok(held), Awaited::Chain(chain)) => {
                do_line(node, database, chain, &mut self.value, now);
                drop(held);
            }
            (Ok(held), Awaited::Room) => {
                do_lines_with_room(node, database, &mut self.value, now);
                drop(held);
            }
            (Err(failure), awaited) => {
                for job in database.waits.give_up(awaited) {
                    node.on_record_failed(job, &failure.0, now);
                }
            }
        }
        self.begin_waits(node, wait.db);
    }

    fn begin_waits(&mut self, node: &mut Node, db: DbId) {
        if let Some(database) = self.open.get_mut(&db) {
            let limit = node.tunables().get(ctdb_conf::Tunable::LockProcessesPerDB) as usize;
            let begun = database
                .waits
                .begin(limit, &database.file, &self.threads, &self.lanes);
            for _ in 0..begun {
                node.lock_wait_began(db);
            }
        }
    }
}

/// Does the jobs of a chain that a lock thread holds.
fn do_line(
    node: &mut Node,
    database: &mut Database,
    chain: u32,
    value: &mut Vec<u8>,
    now: Instant,
) {
    let jobs = database.waits.take_jobs(chain);
    let Some(key) = jobs.front().map(|job| job.key.clone()) else {
        return;
    };
    database.handle.chainlock_mark(&key);
    let undone = do_jobs(node, database, jobs, value, now);
    if let Err(error) = database.handle.chainlock_unmark(&key) {
        error!("{}", database.file.failure(&error));
    }
    database.waits.worked_off(chain, undone);
}

/// Does jobs that need room, while a lock thread holds the free list. Others have a chain and wait
/// for the free list, so that nobody may wait the other way round: the jobs of a chain that is busy
/// wait for that first, and then try again without the free list.
fn do_lines_with_room(node: &mut Node, database: &mut Database, value: &mut Vec<u8>, now: Instant) {
    database.handle.freelist_mark();
    for chain in database.waits.chains_for_room() {
        let jobs = database.waits.take_jobs(chain);
        let Some(key) = jobs.front().map(|job| job.key.clone()) else {
            continue;
        };
        let undone = match database.handle.try_chainlock(&key) {
            Ok(Some(_lock)) => do_jobs(node, database, jobs, value, now),
            Ok(None) => Undone::NeedChain(jobs),
            Err(error) => {
                for job in jobs {
                    node.on_record_failed(job, &error.to_string(), now);
                }
                Undone::Nothing
            }
        };
        database.waits.worked_off(chain, undone);
    }
    if let Err(error) = database.handle.freelist_unmark() {
        error!("{}", database.file.failure(&error));
    }
}

/// Does the jobs of a chain that is locked, up to one for which there is no room.
fn do_jobs(
    node: &mut Node,
    database: &Database,
    mut jobs: VecDeque<RecordJob>,
    value: &mut Vec<u8>,
    now: Instant,
) -> Undone {
    while let Some(job) = jobs.pop_front() {
        match do_job(node, &database.handle, job, value, now, || ()) {
            Tried::Done => {}
            Tried::Contended(job) | Tried::NeedsRoom(job) => {
                jobs.push_front(job);
                return Undone::NeedRoom(jobs);
            }
        }
    }
    Undone::Nothing
}
