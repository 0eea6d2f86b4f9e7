//! A full disk: the operation that needs more room fails and says so, and what was stored before is
//! there.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tdb::{Backend, Db, Error, ErrorCode, OpenOptions, Result, StoreMode};

/// A disk in memory with room for `limit` bytes.
struct SmallDisk {
    bytes: RefCell<Vec<u8>>,
    limit: Arc<AtomicU32>,
}

impl Backend for SmallDisk {
    fn size(&self) -> u32 {
        u32::try_from(self.bytes.borrow().len()).unwrap()
    }

    fn refresh(&self) -> Result<u32> {
        Ok(self.size())
    }

    fn read(&self, offset: u32, out: &mut [u8]) -> Result<()> {
        let (size, len, start) = (self.size(), out.len(), offset as usize);
        let bytes = self.bytes.borrow();
        let found = bytes.get(start..start + len);
        out.copy_from_slice(found.ok_or(Error::OutOfBounds { offset, len, size })?);
        Ok(())
    }

    fn write(&self, offset: u32, data: &[u8]) -> Result<()> {
        let start = offset as usize;
        self.bytes.borrow_mut()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn grow(&self, new_size: u32) -> Result<()> {
        if new_size > self.limit.load(Ordering::Relaxed).max(self.size()) {
            return Err(Error::NoSpace {
                wanted: new_size.into(),
            });
        }
        let new_size = self.bytes.borrow().len().max(new_size as usize);
        self.bytes.borrow_mut().resize(new_size, 0);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// An empty database on a disk whose size can be changed.
fn small() -> (Db, Arc<AtomicU32>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty.tdb");
    drop(
        OpenOptions::new()
            .hash_size(3)
            .create(true)
            .open(&path)
            .unwrap(),
    );
    let limit = Arc::new(AtomicU32::new(u32::MAX));
    let bytes = RefCell::new(std::fs::read(&path).unwrap());
    let disk = SmallDisk {
        bytes,
        limit: Arc::clone(&limit),
    };
    (
        OpenOptions::new().open_backend(Box::new(disk)).unwrap(),
        limit,
    )
}

fn assert_no_space<T: std::fmt::Debug>(result: Result<T>) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    assert_eq!(error.code(), ErrorCode::OutOfMemory);
}

#[test]
fn a_replace_that_finds_no_room_keeps_the_old_record() {
    let (db, limit) = small();
    db.store(b"kept", &[1; 100], StoreMode::Insert).unwrap();
    limit.store(db.size().unwrap(), Ordering::Relaxed);
    assert_no_space(db.store(b"kept", &vec![2; 100_000], StoreMode::Replace));
    assert_no_space(db.append(b"kept", &vec![2; 100_000]));
    assert_no_space(db.store(b"new", &vec![2; 100_000], StoreMode::Insert));
    assert_eq!(db.fetch(b"kept").unwrap().unwrap(), [1; 100]);
    assert!(!db.exists(b"new").unwrap());
    assert_eq!(db.check().unwrap().records, 1);
}

#[test]
fn everything_acknowledged_is_there_when_the_disk_fills_up() {
    let (db, limit) = small();
    limit.store(500_000, Ordering::Relaxed);
    let mut stored = 0_u32;
    while db
        .store(&stored.to_le_bytes(), &[3; 1000], StoreMode::Insert)
        .is_ok()
    {
        stored += 1;
    }
    assert!(stored > 100);
    assert_eq!(db.check().unwrap().records, u64::from(stored));
    // What is deleted makes room again.
    assert!(db.delete(&0_u32.to_le_bytes()).unwrap());
    db.store(b"instead", &[4; 900], StoreMode::Insert).unwrap();
    assert_eq!(db.check().unwrap().records, u64::from(stored));
}

#[test]
fn a_transaction_without_room_changes_nothing() {
    let (db, limit) = small();
    db.store(b"kept", &[1; 100], StoreMode::Insert).unwrap();
    limit.store(db.size().unwrap(), Ordering::Relaxed);
    db.transaction_start().unwrap();
    db.store(b"kept", &[2; 100], StoreMode::Replace).unwrap();
    assert_no_space(db.transaction_commit());
    assert!(!db.in_transaction());
    assert_eq!(db.fetch(b"kept").unwrap().unwrap(), [1; 100]);
    db.check().unwrap();
    limit.store(u32::MAX, Ordering::Relaxed);
    db.transaction_start().unwrap();
    db.store(b"kept", &[2; 100], StoreMode::Replace).unwrap();
    db.transaction_commit().unwrap();
    assert_eq!(db.fetch(b"kept").unwrap().unwrap(), [2; 100]);
    db.check().unwrap();
}
