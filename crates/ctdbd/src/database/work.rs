//! Work on databases that are not frozen, done by threads with handles of their own.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ctdb_core::persistent::merge_update;
use ctdb_core::{DbAnswer, DbFailure, Record, Ticket};
use ctdb_proto::{Pnn, RecBuffer, RecordHeader, RecordRef, VnnMap, Wire};
use tdb::Db;

use super::batch::{self, Selection};
use super::freeze::seqnum;
use super::{DbFile, Era};
use crate::event::ShellEvent;
use crate::lanes::Lanes;

/// Bytes of records that a traverse hands over at once.
const TRAVERSE_BATCH: usize = 64 * 1024;

/// How fast a traverse may go: so many batches ahead of who takes them.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Batches that it may still hand over; `None` once it has to stop.
    allowed: Mutex<Option<u32>>,
    changed: Condvar,
}

impl Pace {
    pub(crate) fn of(window: u32) -> Self {
        Self {
            allowed: Mutex::new(Some(window)),
            changed: Condvar::new(),
        }
    }

    /// As fast as the batches are taken from their queue.
    pub(crate) fn unlimited() -> Self {
        Self::of(u32::MAX)
    }

    pub(crate) fn stop(&self) {
        *self.lock() = None;
        self.changed.notify_one();
    }

    pub(crate) fn allow_one_more(&self) {
        if let Some(allowed) = self.lock().as_mut() {
            *allowed = allowed.saturating_add(1);
        }
        self.changed.notify_one();
    }

    /// Waits until a batch may be handed over. False if the traverse has to stop.
    pub(crate) fn take_one(&self) -> bool {
        let wait = self
            .changed
            .wait_while(self.lock(), |allowed| *allowed == Some(0));
        let mut allowed = wait.unwrap_or_else(PoisonError::into_inner);
        match allowed.as_mut() {
            // Without a limit there is nothing to count.
            Some(&mut u32::MAX) => true,
            Some(allowed) => {
                *allowed -= 1;
                true
            }
            None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<u32>> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the records of a database, batch by batch. Waits for those who write, and for a thaw, and
/// for its pace; holds no lock then.
pub(crate) fn traverse(
    file: &DbFile,
    ticket: Ticket,
    selection: Selection,
    pace: &Pace,
    lanes: &Lanes,
) -> Result<DbAnswer, DbFailure> {
    let db = file.open()?;
    let emit = |buffer: Bytes| {
        let answer = Ok(DbAnswer::Batch(buffer));
        pace.take_one() && lanes.report_data(ShellEvent::Db { ticket, answer })
    };
    let read = batch::read_records(&db, file.id, selection, TRAVERSE_BATCH, emit);
    file.close(db);
    read.map(|_| DbAnswer::Done)
        .map_err(|error| file.failure(&error))
}

/// Reads the sequence number record. Waits for those who write.
pub(crate) fn read_seqnum(file: &DbFile) -> Result<DbAnswer, DbFailure> {
    let db = file.open()?;
    let number = seqnum(&db);
    file.close(db);
    number
        .map(DbAnswer::Number)
        .map_err(|error| file.failure(&error))
}

/// Stores the records of a commit, all or none (data-plane.md 7.3). One that gets the lock only
/// after a freeze is refused: the recovery has not seen it, and no other node would have it.
pub(crate) fn update(
    file: &DbFile,
    me: Pnn,
    mut records: &[u8],
    vnn_map: &VnnMap,
    era: Era,
) -> Result<DbAnswer, DbFailure> {
    let buffer = RecBuffer::decode(&mut records).map_err(|error| file.failure(&error))?;
    buffer
        .check_headers()
        .map_err(|error| file.failure(&error))?;
    let db = file.open()?;
    let volatile = file.kind.is_volatile();
    let stored = in_transaction(&db, |db| {
        if file.era() != era {
            return Err("a recovery came first".to_owned());
        }
        buffer
            .iter()
            .try_for_each(|record| update_record(db, me, record, volatile.then_some(vnn_map)))
    });
    file.close(db);
    stored
        .map(|()| DbAnswer::Done)
        .map_err(|error| file.failure(&error))
}

fn update_record(
    db: &Db,
    me: Pnn,
    record: RecordRef<'_>,
    volatile: Option<&VnnMap>,
) -> Result<(), String> {
    let text = |error: tdb::Error| error.to_string();
    let (header, data) = record.split().map_err(|error| error.to_string())?;
    let new = Record {
        header,
        data: Bytes::copy_from_slice(data),
    };
    let value = db.fetch(record.key).map_err(text)?.unwrap_or_default();
    let old = RecordHeader::split(&value)
        .ok()
        .map(|(header, data)| Record {
            header,
            data: Bytes::copy_from_slice(data),
        });
    let merged = merge_update(old.as_ref(), &new, volatile.is_some());
    let Some(Record { header, data }) = merged.map_err(|refused| refused.to_string())? else {
        return Ok(());
    };
    batch::store(db, me, record.key, header, &data, volatile).map_err(text)
}

/// Attempts to find nobody at work in a database, in the time that a run of vacuuming may take.
const REPACK_ATTEMPTS: u32 = 20;

/// Pause between two of them.
const REPACK_PAUSE: Duration = Duration::from_millis(5);

/// Joins the free space of a file if it is in at least `min_free` pieces (data-plane.md 8.3, step
/// 5). Waits for nobody: a database that stays busy is left to the next run.
pub(crate) fn repack(file: &DbFile, min_free: u32) -> Result<DbAnswer, DbFailure> {
    let db = file.open()?;
    let done = repack_if_idle(&db, &file.name, min_free);
    file.close(db);
    done.map(|_| DbAnswer::Done)
        .map_err(|error| file.failure(&error))
}

/// Returns whether it was repacked.
fn repack_if_idle(db: &Db, name: &str, min_free: u32) -> tdb::Result<bool> {
    for attempt in 0..REPACK_ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(REPACK_PAUSE);
        }
        let Some(pieces) = db.try_freelist_size()? else {
            continue;
        };
        if pieces < u64::from(min_free) {
            return Ok(false);
        }
        if db.try_repack()? {
            tracing::info!("Repacking {name} with {pieces} freelist entries");
            return Ok(true);
        }
    }
    Ok(false)
}

/// Runs `work` in a transaction, which is cancelled if it fails.
fn in_transaction(db: &Db, work: impl FnOnce(&Db) -> Result<(), String>) -> Result<(), String> {
    db.transaction_start().map_err(|error| error.to_string())?;
    match work(db) {
        Ok(()) => db.transaction_commit().map_err(|error| error.to_string()),
        Err(problem) => {
            if let Err(error) = db.transaction_cancel() {
                tracing::error!("cannot cancel a transaction: {error}");
            }
            Err(problem)
        }
    }
}

#[cfg(test)]
mod tests {
    use ctdb_proto::{DbFlags, Generation, RecordFlags, ReqId, Rsn};
    use tdb::{OpenOptions, StoreMode};

    use super::super::{open_flags, path_in};
    use super::*;

    fn pnn() -> Pnn {
        Pnn::new(0).unwrap()
    }

    fn no_nodes() -> VnnMap {
        VnnMap {
            generation: Generation::INVALID,
            map: Vec::new(),
        }
    }

    fn persistent(dir: &tempfile::TempDir) -> DbFile {
        let path = path_in(dir.path(), "p.tdb", pnn());
        let options = OpenOptions::new().flags(open_flags(DbFlags::PERSISTENT, false));
        drop(options.clone().create(true).open(&path).unwrap());
        DbFile::new("p.tdb".into(), DbFlags::PERSISTENT, path, options)
    }

    fn buffer(file: &DbFile, records: &[(&str, u64, &str)]) -> Bytes {
        let mut builder = RecBuffer::builder(file.id);
        for (key, rsn, data) in records {
            let header = RecordHeader::new(Rsn(*rsn), pnn(), RecordFlags::empty());
            builder.push_record(ReqId(0), key.as_bytes(), &header, data.as_bytes());
        }
        builder.finish().to_bytes()
    }

    fn data(file: &DbFile, key: &str) -> Option<String> {
        let value = file.open().unwrap().fetch(key.as_bytes()).unwrap()?;
        let (_, data) = RecordHeader::split(&value).unwrap();
        Some(String::from_utf8(data.to_vec()).unwrap())
    }

    #[test]
    fn a_traverse_goes_so_far_ahead_and_no_farther() {
        let pace = Pace::of(2);
        let (taken, batches) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while pace.take_one() {
                    taken.send(()).unwrap();
                }
                drop(taken);
            });
            for _ in 0..2 {
                batches.recv().unwrap();
            }
            assert!(batches.recv_timeout(Duration::from_millis(50)).is_err());
            pace.allow_one_more();
            batches.recv().unwrap();
            assert!(batches.recv_timeout(Duration::from_millis(50)).is_err());
            pace.stop();
            // A late permission does not make it go on.
            pace.allow_one_more();
        });
        assert!(!pace.take_one());
    }

    #[test]
    fn a_commit_is_stored_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = persistent(&dir);
        let map = no_nodes();
        let good = buffer(&file, &[("a", 3, "one"), ("b", 3, "two")]);
        let stored = update(&file, pnn(), &good, &map, file.era());
        assert_eq!(stored, Ok(DbAnswer::Done));
        // The second record is older than what is stored: neither of the two may change.
        let bad = buffer(&file, &[("a", 4, "new"), ("b", 2, "old")]);
        let failure = update(&file, pnn(), &bad, &map, file.era()).unwrap_err();
        assert!(failure.0.contains("larger RSN"), "{failure}");
        assert_eq!(data(&file, "a").as_deref(), Some("one"));
        assert_eq!(data(&file, "b").as_deref(), Some("two"));
    }

    #[test]
    fn a_commit_that_waited_until_after_a_freeze_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = persistent(&dir);
        let records = buffer(&file, &[("a", 3, "one")]);
        let asked = file.era();
        file.freeze_begins();
        let failure = update(&file, pnn(), &records, &no_nodes(), asked).unwrap_err();
        assert!(failure.0.contains("a recovery came first"), "{failure}");
        assert_eq!(data(&file, "a"), None);
        let stored = update(&file, pnn(), &records, &no_nodes(), file.era());
        assert_eq!(stored, Ok(DbAnswer::Done));
    }

    #[test]
    fn a_file_is_repacked_when_it_has_many_holes_and_nobody_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = persistent(&dir);
        let db = file.open().unwrap();
        let key = |n: u32| format!("key {n}").into_bytes();
        for n in 0..200 {
            db.store(&key(n), &[7; 40], StoreMode::Insert).unwrap();
        }
        for n in (0..200).step_by(2) {
            assert!(db.delete(&key(n)).unwrap());
        }
        let pieces = db.freelist_size().unwrap();
        assert!(pieces >= 50, "{pieces}");
        let enough = u32::try_from(pieces).unwrap();
        assert_eq!(repack(&file, enough + 1), Ok(DbAnswer::Done));
        assert_eq!(db.freelist_size().unwrap(), pieces, "too few to repack");
        let busy = db.chainlock(b"any").unwrap();
        assert_eq!(repack(&file, enough), Ok(DbAnswer::Done));
        drop(busy);
        assert_eq!(db.freelist_size().unwrap(), pieces, "somebody was there");
        assert_eq!(repack(&file, enough), Ok(DbAnswer::Done));
        assert!(db.freelist_size().unwrap() <= 3);
        assert_eq!(db.count_records().unwrap(), 100);
        db.check().unwrap();
    }

    #[test]
    fn the_sequence_number_is_that_of_its_record() {
        let dir = tempfile::tempdir().unwrap();
        let file = persistent(&dir);
        assert_eq!(read_seqnum(&file), Ok(DbAnswer::Number(0)));
        let mut builder = RecBuffer::builder(file.id);
        let header = RecordHeader::new(Rsn(1), pnn(), RecordFlags::empty());
        let number = 77_u64.to_le_bytes();
        builder.push_record(ReqId(0), ctdb_proto::DB_SEQNUM_KEY, &header, &number);
        let records = builder.finish().to_bytes();
        assert_eq!(
            update(&file, pnn(), &records, &no_nodes(), file.era()),
            Ok(DbAnswer::Done)
        );
        assert_eq!(read_seqnum(&file), Ok(DbAnswer::Number(77)));
    }
}
