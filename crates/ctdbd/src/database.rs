//! The open databases of this node, as the core task holds them.
//!
//! The core task has one handle for each database and never waits with it. What may wait is done
//! by threads, each with a handle of its own on the same file:
//!
//! | module     | does                                                            |
//! |------------|-----------------------------------------------------------------|
//! | [`attach`] | finds, opens, checks and closes files                           |
//! | [`record`] | one look at one record, under the lock of its chain             |
//! | [`locks`]  | waits for a chain, or the free list, that somebody else has     |
//! | [`freeze`] | holds a whole database locked, and works on it for a recovery   |
//! | [`merge`]  | merges the copies of a database that a recovery has pulled      |
//! | [`batch`]  | record buffers out of and into a file                           |
//! | [`work`]   | everything else that looks at whole databases                   |
//! | [`health`] | the marks of databases that must not be trusted                 |

pub(crate) mod attach;
pub(crate) mod batch;
pub(crate) mod freeze;
pub(crate) mod health;
pub(crate) mod locks;
pub(crate) mod merge;
pub(crate) mod record;
pub(crate) mod work;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ctdb_core::{DbFailure, RecordJob};
use ctdb_proto::{DbFlags, DbId};
use tdb::{Db, Flags, OpenOptions};

use freeze::Freezer;
use locks::LockWaits;

/// Handles that are kept for the next thread. More wait for locks at the same time only when many
/// chains are contended at once.
const SPARE_HANDLES: usize = 2;

/// An attached database.
pub(crate) struct Database {
    pub(crate) file: Arc<DbFile>,
    /// The handle of the core task.
    pub(crate) handle: Db,
    /// Record jobs that wait for their chain, or for room.
    pub(crate) waits: LockWaits,
    /// Holds the database frozen, or is about to.
    pub(crate) freezer: Option<Freezer>,
    /// Jobs that came between the order to thaw and its end.
    pub(crate) thawing: Option<VecDeque<RecordJob>>,
}

/// What threads need to open the file of an attached database for themselves.
pub(crate) struct DbFile {
    pub(crate) id: DbId,
    pub(crate) name: String,
    pub(crate) kind: DbFlags,
    pub(crate) path: PathBuf,
    options: OpenOptions,
    spares: Mutex<Vec<Db>>,
    /// Handles count changes in the file (data-plane.md 1.7).
    seqnum: AtomicBool,
    /// How often it was frozen.
    freezes: AtomicU32,
}

/// Which time between two freezes something belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Era(u32);

impl DbFile {
    pub(crate) fn new(name: String, kind: DbFlags, path: PathBuf, options: OpenOptions) -> Self {
        // The core task's handle keeps the file in use: it is not cleared by a second one.
        let options = options.create(false);
        Self {
            id: DbId::of_name(&name),
            name,
            kind,
            path,
            options,
            spares: Mutex::default(),
            seqnum: AtomicBool::new(false),
            freezes: AtomicU32::new(0),
        }
    }

    /// A freeze begins: what still waits for its lock comes too late.
    pub(crate) fn freeze_begins(&self) {
        self.freezes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn era(&self) -> Era {
        Era(self.freezes.load(Ordering::Relaxed))
    }

    /// A handle for the calling thread alone. May wait for others who open the file.
    pub(crate) fn open(&self) -> Result<Db, DbFailure> {
        let spare = self
            .spares
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let db = match spare {
            Some(db) => db,
            None => self
                .options
                .open(&self.path)
                .map_err(|error| self.failure(&error))?,
        };
        db.set_seqnum(self.seqnum.load(Ordering::Relaxed));
        Ok(db)
    }

    /// Gives a handle without locks back, for the next thread.
    pub(crate) fn close(&self, db: Db) {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() < SPARE_HANDLES {
            spares.push(db);
        }
    }

    /// From now on handles that are opened count changes in the file.
    pub(crate) fn enable_seqnum(&self) {
        self.seqnum.store(true, Ordering::Relaxed);
    }

    /// Why something on this file failed, for the log.
    pub(crate) fn failure(&self, error: &impl std::fmt::Display) -> DbFailure {
        DbFailure(format!("{}: {error}", self.name))
    }
}

/// A lock that takes long to get.
#[derive(Clone, Debug)]
pub(crate) struct LongWait {
    pub(crate) kind: LockKind,
    /// Of the database.
    pub(crate) path: PathBuf,
    pub(crate) uses_mutexes: bool,
}

/// What is locked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LockKind {
    /// A hash chain.
    Record,
    /// Everything.
    Database,
}

impl LockKind {
    /// For the lock debug script.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Record => "RECORD",
            Self::Database => "DB",
        }
    }
}

/// Path of the file of a database: `DIR/NAME.PNN`.
pub(crate) fn path_in(dir: &Path, name: &str, pnn: ctdb_proto::Pnn) -> PathBuf {
    dir.join(format!("{name}.{pnn}"))
}

/// How the file of a database of this kind is opened (data-plane.md 1.1).
pub(crate) fn open_flags(kind: DbFlags, mutexes: bool) -> Flags {
    if kind.contains(DbFlags::PERSISTENT) {
        return Flags::DISALLOW_NESTING;
    }
    let volatile =
        Flags::CLEAR_IF_FIRST | Flags::NOSYNC | Flags::INCOMPATIBLE_HASH | Flags::DISALLOW_NESTING;
    if kind.contains(DbFlags::REPLICATED) || !mutexes {
        return volatile;
    }
    volatile | Flags::MUTEX_LOCKING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_flags_are_those_that_clients_expect() {
        assert_eq!(open_flags(DbFlags::empty(), true).bits(), 0x1c41);
        assert_eq!(open_flags(DbFlags::empty(), false).bits(), 0x0c41);
        assert_eq!(open_flags(DbFlags::REPLICATED, true).bits(), 0x0c41);
        assert_eq!(open_flags(DbFlags::PERSISTENT, true).bits(), 0x400);
    }
}
