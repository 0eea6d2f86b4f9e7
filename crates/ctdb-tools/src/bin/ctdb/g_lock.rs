//! Locks for the whole cluster, in the records of `g_lock.tdb` (`data-plane.md` 7.2).

use std::time::Duration;

use ctdb_proto::control::KeyData;
use ctdb_proto::{
    DbFlags, GLock, GLockEntry, GLockType, Pnn, RecordHeader, Wire, glock::G_LOCK_DB,
};
use tdb::Db;
use tokio::time::sleep;

use crate::context::Context;
use crate::database::{Database, attach};
use crate::exit::{EDEADLK, Failure};
use crate::fetch_lock::{Record, store, with_record};

/// Time between two looks at a lock that somebody else has.
const RETRY: Duration = Duration::from_millis(1);

/// A lock that this tool holds. It must be given back: nobody does so when it is dropped. (If the
/// tool dies, others find out that its process is gone.)
#[must_use]
pub(crate) struct GLockHeld {
    locks: LockRecord,
    own: GLockEntry,
}

/// The record of one lock.
struct LockRecord {
    database: Database,
    db: Db,
    /// With its NUL.
    key: Vec<u8>,
    name: String,
}

/// What was found in the record of a lock.
enum Found {
    /// The lock is ours now.
    Taken,
    /// Somebody has it who does not let us in.
    HeldBy(GLockEntry),
    /// We have it already.
    Ours,
}

impl GLockHeld {
    /// Takes a lock, however long that takes.
    pub(crate) async fn take(
        context: &Context,
        name: &str,
        own: GLockEntry,
    ) -> Result<Self, Failure> {
        let locks = LockRecord::open(context, name).await?;
        loop {
            let found = locks
                .try_take(context, own)
                .await
                .map_err(|failure| failure.and(format!("g_lock_lock: {name} fetch lock failed")))?;
            match found {
                Found::Taken => return Ok(Self { locks, own }),
                Found::Ours => {
                    let line = format!("g_lock_lock: {name} deadlock");
                    return Err(Failure::with_code(EDEADLK, line));
                }
                Found::HeldBy(other) if is_alive(context, other).await? => sleep(RETRY).await,
                Found::HeldBy(other) => drop(locks.remove(context, other).await?),
            }
        }
    }

    /// Gives the lock back.
    pub(crate) async fn release(self, context: &Context) -> Result<(), Failure> {
        let Self { locks, own } = self;
        let Some(header) = locks.remove(context, own).await? else {
            return Ok(());
        };
        let record = KeyData {
            db_id: locks.database.id,
            header,
            key: locks.key.into(),
        };
        // Nobody holds the lock now, whether or not its remains are cleaned up.
        let _ = context.here().schedule_for_deletion(&record).await;
        Ok(())
    }
}

impl LockRecord {
    async fn open(context: &Context, name: &str) -> Result<Self, Failure> {
        let (id, db) = attach(context, G_LOCK_DB, DbFlags::empty()).await?;
        let database = Database {
            id,
            name: G_LOCK_DB.to_owned(),
            flags: DbFlags::empty(),
        };
        let key = [name.as_bytes(), b"\0"].concat();
        Ok(Self {
            database,
            db,
            key,
            name: name.to_owned(),
        })
    }

    async fn try_take(&self, context: &Context, own: GLockEntry) -> Result<Found, Failure> {
        let take = |db: &Db, record: &Record| {
            let mut lock = holders(&record.data);
            let found = conflict(&lock, own);
            if matches!(found, Found::Taken) {
                lock.entries.push(own);
                store(db, &self.key, &record.header, &lock.to_bytes())?;
            }
            Ok(found)
        };
        with_record(context, &self.database, &self.db, &self.key, false, take).await
    }

    /// Takes a holder off the list; gives the header of the record if that was the last one.
    async fn remove(
        &self,
        context: &Context,
        holder: GLockEntry,
    ) -> Result<Option<RecordHeader>, Failure> {
        let remove = |db: &Db, record: &Record| {
            let mut lock = holders(&record.data);
            lock.entries.retain(|entry| *entry != holder);
            store(db, &self.key, &record.header, &lock.to_bytes())?;
            Ok(lock.entries.is_empty().then_some(record.header))
        };
        with_record(context, &self.database, &self.db, &self.key, false, remove)
            .await
            .map_err(|failure| {
                failure.and(format!("g_lock_unlock: {} fetch lock failed", self.name))
            })
    }
}

/// Whether somebody on the list keeps us out. Readers let each other in.
fn conflict(lock: &GLock, own: GLockEntry) -> Found {
    for entry in &lock.entries {
        if entry.holder == own.holder {
            return Found::Ours;
        }
        if entry.kind == GLockType::Write || own.kind == GLockType::Write {
            return Found::HeldBy(*entry);
        }
    }
    Found::Taken
}

/// The holders in the data of a record. Like the original this takes what it can read and leaves
/// out the rest: `smbd` has another layout for its own locks.
fn holders(data: &[u8]) -> GLock {
    let entries = data.chunks_exact(GLockEntry::LEN);
    GLock {
        entries: entries
            .filter_map(|mut entry| GLockEntry::decode(&mut entry).ok())
            .collect(),
    }
}

/// Whether the holder of a lock still has a connection to the daemon of its node. It has, unless
/// that daemon says that it has not: one that does not answer may come back with the process.
async fn is_alive(context: &Context, entry: GLockEntry) -> Result<bool, Failure> {
    let holder = entry.holder;
    let (Some(node), Ok(pid)) = (Pnn::new(holder.vnn), i32::try_from(holder.pid)) else {
        return Ok(false);
    };
    let status = context.at(node).process_exists(pid).await?;
    Ok(status == 0)
}

#[cfg(test)]
mod tests {
    use ctdb_proto::ServerId;

    use super::*;

    fn entry(kind: GLockType, pid: u64) -> GLockEntry {
        let holder = ServerId {
            pid,
            ..ServerId::default()
        };
        GLockEntry { kind, holder }
    }

    fn lock(entries: &[GLockEntry]) -> GLock {
        GLock {
            entries: entries.to_vec(),
        }
    }

    #[test]
    fn only_readers_let_each_other_in() {
        use GLockType::{Read, Write};
        let enters = |held, wanted| {
            let found = conflict(&lock(&[entry(held, 1)]), entry(wanted, 2));
            matches!(found, Found::Taken)
        };
        assert!(enters(Read, Read));
        assert!(!enters(Read, Write));
        assert!(!enters(Write, Read));
        assert!(!enters(Write, Write));
        let free = conflict(&lock(&[]), entry(Write, 2));
        assert!(matches!(free, Found::Taken));
    }

    #[test]
    fn a_lock_is_not_taken_twice() {
        let own = entry(GLockType::Read, 1);
        assert!(matches!(conflict(&lock(&[own]), own), Found::Ours));
    }

    #[test]
    fn what_is_no_entry_is_left_out() {
        let own = entry(GLockType::Write, 1);
        let mut data = [0xFF; GLockEntry::LEN].to_vec();
        data.extend(lock(&[own]).to_bytes());
        data.extend([1, 2, 3]);
        assert_eq!(holders(&data), lock(&[own]));
    }
}
