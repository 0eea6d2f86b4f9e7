use std::time::Duration;

use ctdb_proto::Rsn;
use tdb::{Flags, StoreMode};
use tempfile::TempDir;

use super::*;

const ME: u32 = 1;

fn me() -> Pnn {
    Pnn::new(ME).unwrap()
}

fn header(dmaster: u32, flags: RecordFlags) -> RecordHeader {
    RecordHeader {
        rsn: Rsn::new(1),
        dmaster,
        reserved: 0,
        flags,
    }
}

/// A file with the record `key`, and what an end of the connection is told by.
async fn file(flags: Flags) -> (File, watch::Sender<bool>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.tdb");
    let db = OpenOptions::new().flags(flags).create(true).open(&path);
    let value = header(ME, RecordFlags::empty()).to_bytes();
    db.unwrap()
        .store(b"key", &value, StoreMode::Replace)
        .unwrap();
    let closed = watch::Sender::new(false);
    let path = path.to_str().unwrap().to_owned();
    let file = File::open(path, flags, closed.subscribe()).await.unwrap();
    (file, closed, dir)
}

async fn lock(file: &File) -> (Held, Record) {
    let locked = file.lock(Bytes::from("key"), Access::Write, me()).await;
    locked.unwrap().expect("the record is ours")
}

/// Somebody else's view of the lock.
fn is_free(dir: &TempDir, flags: Flags) -> bool {
    let db = OpenOptions::new()
        .flags(flags)
        .open(dir.path().join("file.tdb"))
        .unwrap();
    db.try_chainlock(b"key").unwrap().is_some()
}

async fn becomes_free(dir: &TempDir, flags: Flags) {
    while !is_free(dir, flags) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_record_is_written_only_where_it_is_mastered_and_not_delegated() {
    let none = RecordFlags::empty();
    let write = |header| Access::Write.allowed(&header, me());
    assert!(write(header(ME, none)));
    assert!(!write(header(0, none)));
    assert!(!write(header(ME, RecordFlags::RO_HAVE_DELEGATIONS)));
    assert!(!write(header(0, RecordFlags::RO_HAVE_READONLY)));
}

#[test]
fn a_read_only_copy_may_be_read() {
    let read = |header| Access::Read.allowed(&header, me());
    assert!(read(header(0, RecordFlags::RO_HAVE_READONLY)));
    assert!(read(header(ME, RecordFlags::RO_HAVE_DELEGATIONS)));
    assert!(!read(header(0, RecordFlags::empty())));
}

#[tokio::test]
async fn a_lock_is_held_until_it_is_dropped() {
    for flags in [Flags::empty(), Flags::MUTEX_LOCKING] {
        let (file, _closed, dir) = file(flags | Flags::INCOMPATIBLE_HASH).await;
        let flags = flags | Flags::INCOMPATIBLE_HASH;
        let (held, record) = lock(&file).await;
        assert_eq!(record.header.rsn, Rsn::new(1));
        // Work under the lock does not end it.
        let found = file.run(|db| db.exists(b"key")).await;
        assert!(found.unwrap());
        assert!(!is_free(&dir, flags));
        drop(held);
        becomes_free(&dir, flags).await;
    }
}

#[tokio::test]
async fn a_record_of_another_node_is_not_locked() {
    let (file, _closed, dir) = file(Flags::empty()).await;
    let other = Pnn::new(2).unwrap();
    let locked = file.lock(Bytes::from("key"), Access::Write, other).await;
    assert!(locked.unwrap().is_none());
    let locked = file.lock(Bytes::from("absent"), Access::Write, me()).await;
    assert!(locked.unwrap().is_none());
    becomes_free(&dir, Flags::empty()).await;
}

#[tokio::test]
async fn a_lock_that_was_waited_for_and_given_up_is_free() {
    let (file, _closed, dir) = file(Flags::empty()).await;
    let db = OpenOptions::new()
        .open(dir.path().join("file.tdb"))
        .unwrap();
    let other = db.chainlock(b"key").unwrap();
    let waiting = lock(&file);
    let waited = tokio::time::timeout(Duration::from_millis(20), waiting).await;
    assert!(waited.is_err());
    drop(other);
    // The thread gets the lock for nobody, and then serves again.
    drop(lock(&file).await);
    becomes_free(&dir, Flags::empty()).await;
}

#[tokio::test]
async fn the_end_of_the_connection_ends_locks_and_work() {
    let (file, closed, dir) = file(Flags::empty()).await;
    let (_held, _) = lock(&file).await;
    closed.send_replace(true);
    let stored = file.run(|db| db.store(b"key", b"", StoreMode::Replace));
    assert!(matches!(stored.await, Err(RecordError::Closed(_))));
    becomes_free(&dir, Flags::empty()).await;
    let again = file.lock(Bytes::from("key"), Access::Write, me()).await;
    assert!(matches!(again, Err(RecordError::Closed(_))));
}
