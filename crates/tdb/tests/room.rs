//! Who may not wait, in a database whose free list somebody else has locked.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use common::{records_of, tdbtool_check};
use tdb::{Db, Error, Flags, OpenOptions, StoreMode};

const CHAINS: u32 = 7;
const MAX_DEAD: u32 = 2;

const KINDS: [Flags; 2] = [Flags::NOSYNC, MUTEXES];

/// As CTDB opens volatile databases.
const MUTEXES: Flags = Flags::NOSYNC
    .union(Flags::CLEAR_IF_FIRST)
    .union(Flags::MUTEX_LOCKING);

/// A database with two handles: one that keeps locks, and one that may not wait for them.
struct Stage {
    dir: tempfile::TempDir,
    holder: Db,
    db: Db,
}

fn stage(flags: Flags) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions::new().flags(flags).hash_size(CHAINS);
    let path = dir.path().join("room.tdb");
    let holder = options.max_dead(MAX_DEAD).create(true).open(&path).unwrap();
    assert_eq!(holder.uses_mutexes(), flags == MUTEXES);
    let db = holder.reopen().unwrap();
    db.set_may_wait(false);
    Stage { dir, holder, db }
}

impl Stage {
    fn path(&self) -> &Path {
        self.db.path()
    }

    /// The database without the mutexes before it, whose owners show in their bytes.
    fn bytes(&self) -> Vec<u8> {
        let file = std::fs::read(self.path()).unwrap();
        let size = self.db.size().unwrap() as usize;
        file[file.len() - size..].to_vec()
    }

    /// Sound for us and for the C library, with so many records.
    #[track_caller]
    fn check(self, records: usize) {
        assert_eq!(records_of(&self.db).len(), records);
        self.db.check().unwrap();
        let path = self.path().to_owned();
        let Self { dir, holder, db } = self;
        drop((holder, db));
        assert_eq!(tdbtool_check(&path), Some(records as u64));
        drop(dir);
    }
}

fn would_block<T>(result: &tdb::Result<T>) -> bool {
    matches!(result, Err(Error::WouldBlock))
}

fn key(number: u32) -> Vec<u8> {
    format!("key {number}").into_bytes()
}

#[test]
fn a_store_that_needs_room_fails_at_once_and_changes_nothing() {
    for flags in KINDS {
        let stage = stage(flags);
        let Stage { holder, db, .. } = &stage;
        db.store(b"here", &[7; 100], StoreMode::Replace).unwrap();
        let freelist = holder.freelist_lock().unwrap();
        let before = stage.bytes();
        assert!(would_block(&db.store(b"new", b"value", StoreMode::Replace)));
        assert!(would_block(&db.store(
            b"here",
            &[8; 9000],
            StoreMode::Replace
        )));
        assert!(would_block(&db.append(b"here", &[8; 9000])));
        assert!(would_block(&db.append(b"new", b"value")));
        assert!(stage.bytes() == before, "the file has changed");

        // What fits needs no room.
        db.store(b"here", &[9; 90], StoreMode::Replace).unwrap();
        assert_eq!(db.fetch(b"here").unwrap(), Some(vec![9; 90]));
        drop(freelist);
        db.store(b"new", b"value", StoreMode::Replace).unwrap();
        db.store(b"here", &[8; 9000], StoreMode::Replace).unwrap();
        stage.check(2);
    }
}

#[test]
fn a_delete_leaves_what_it_cannot_give_back_to_the_next_one() {
    for flags in KINDS {
        let stage = stage(flags);
        let Stage { holder, db, .. } = &stage;
        for number in 0..100 {
            db.store(&key(number), &[7; 50], StoreMode::Insert).unwrap();
        }
        let freelist = holder.freelist_lock().unwrap();
        for number in 0..100 {
            assert!(db.delete(&key(number)).unwrap());
        }
        assert_eq!(db.count_records().unwrap(), 0);
        assert_eq!(db.summary().unwrap().dead.count, 100);
        // Room that is there is used, also while the free list is busy.
        let size = db.size().unwrap();
        for number in 100..150 {
            db.store(&key(number), &[8; 50], StoreMode::Insert).unwrap();
        }
        assert_eq!(db.size().unwrap(), size);
        drop(freelist);
        for number in 100..150 {
            assert!(db.delete(&key(number)).unwrap());
        }
        let dead = db.summary().unwrap().dead.count;
        assert!(dead <= u64::from(CHAINS * MAX_DEAD), "{dead} dead records");
        stage.check(0);
    }
}

#[test]
fn who_is_lent_the_free_list_stores_with_it() {
    for flags in KINDS {
        let stage = stage(flags);
        let Stage { holder, db, .. } = &stage;
        let freelist = holder.freelist_lock().unwrap();
        db.freelist_mark();
        for number in 0..100 {
            let _chain = db.try_chainlock(&key(number)).unwrap().unwrap();
            db.store(&key(number), &[7; 500], StoreMode::Insert)
                .unwrap();
        }
        db.freelist_unmark().unwrap();
        assert!(would_block(&db.store(
            b"new",
            &[7; 500],
            StoreMode::Replace
        )));
        drop(freelist);
        db.store(b"new", &[7; 500], StoreMode::Replace).unwrap();
        stage.check(101);
    }
}

#[test]
fn who_may_not_wait_does_not_wait_for_a_chain() {
    for flags in KINDS {
        let stage = stage(flags);
        let Stage { holder, db, .. } = &stage;
        db.store(b"key", b"value", StoreMode::Replace).unwrap();
        let chain = holder.chainlock(b"key").unwrap();
        assert!(would_block(&db.fetch(b"key")));
        assert!(would_block(&db.exists(b"key")));
        assert!(would_block(&db.store(b"key", b"other", StoreMode::Replace)));
        assert!(would_block(&db.append(b"key", b"more")));
        assert!(would_block(&db.delete(b"key")));
        drop(chain);
        assert_eq!(db.fetch(b"key").unwrap(), Some(b"value".to_vec()));
        stage.check(1);
    }
}

/// Others who store may wait: they do until the free list is free, and lose nothing.
#[test]
fn who_may_wait_waits_for_the_free_list() {
    for flags in KINDS {
        let stage = stage(flags);
        let freelist = stage.holder.freelist_lock().unwrap();
        let other = stage.db.reopen().unwrap();
        let storing = std::thread::spawn(move || other.store(b"new", b"value", StoreMode::Insert));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!storing.is_finished());
        drop(freelist);
        storing.join().unwrap().unwrap();
        stage.check(1);
    }
}

/// The lock of the free list does not keep commits away. Who has only that one, and locks a chain,
/// must see that a commit was cut short meanwhile.
#[test]
fn a_commit_that_was_cut_short_is_noticed_behind_the_free_list() {
    let stage = stage(Flags::NOSYNC);
    let Stage { holder, db, .. } = &stage;
    commit(holder, b"key");
    db.freelist_mark();
    cut_short(holder);
    let lock = db.try_chainlock(b"key").unwrap().unwrap();
    assert_eq!(db.fetch(b"key").unwrap(), Some(b"old".to_vec()));
    drop(lock);
    db.freelist_unmark().unwrap();
    stage.check(1);
}

/// Rolling back needs the whole file: who may not wait leaves it to others while somebody is there.
#[test]
fn who_may_not_wait_does_not_wait_to_roll_back() {
    let stage = stage(Flags::NOSYNC);
    let Stage { holder, db, .. } = &stage;
    let near = key(0);
    let mut others = (1..100).map(key);
    let far = others.find(|key| db.chain_of(key) != db.chain_of(&near));
    commit(holder, &near);
    let lock = holder.chainlock(&far.unwrap()).unwrap();
    cut_short(holder);
    assert!(db.try_chainlock(&near).unwrap().is_none());
    assert!(would_block(&db.fetch(&near)));
    drop(lock);
    assert_eq!(db.fetch(&near).unwrap(), Some(b"old".to_vec()));
    stage.check(1);
}

/// Changes a record from `old` to `new` in a transaction.
fn commit(db: &Db, key: &[u8]) {
    db.store(key, b"old", StoreMode::Insert).unwrap();
    db.transaction_start().unwrap();
    db.store(key, b"new", StoreMode::Replace).unwrap();
    db.transaction_commit().unwrap();
}

/// Makes the last commit look unfinished: the recovery area still has what it has overwritten.
fn cut_short(db: &Db) {
    const RECOVERY_START: u64 = 44;
    const MAGIC_AT: u64 = 20;
    const UNFINISHED: u32 = 0xF53B_C0E7;
    let mut options = File::options();
    let file = options.read(true).write(true).open(db.path()).unwrap();
    let mut start = [0; 4];
    file.read_exact_at(&mut start, RECOVERY_START).unwrap();
    let area = u64::from(u32::from_le_bytes(start));
    let magic = UNFINISHED.to_le_bytes();
    file.write_all_at(&magic, area + MAGIC_AT).unwrap();
}
