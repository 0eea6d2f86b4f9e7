//! A transaction that changes more than stays in memory: it can be read, cancelled and committed,
//! and needs no memory of the size of the database.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

use std::fs;
use std::path::Path;

use tdb::{Db, Flags, OpenOptions, StoreMode};

const RECORDS: u32 = 100_000;

/// A share of the 20 MiB that the transaction writes.
const MEMORY: u64 = 10 << 20;

fn open(dir: &Path) -> Db {
    let flags = Flags::NOSYNC | Flags::INCOMPATIBLE_HASH;
    let options = OpenOptions::new().flags(flags).hash_size(10_007);
    options.create(true).open(dir.join("large.tdb")).unwrap()
}

fn fill(db: &Db, byte: u8) {
    db.wipe_all().unwrap();
    for number in 0..RECORDS {
        db.store(&number.to_le_bytes(), &[byte; 150], StoreMode::Replace)
            .unwrap();
    }
}

fn holds(db: &Db, byte: u8) -> bool {
    (0..RECORDS)
        .step_by(97)
        .all(|number| db.fetch(&number.to_le_bytes()).unwrap() == Some(vec![byte; 150]))
}

/// Memory of this process that is in no file, in bytes.
fn own_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1));
    kib.unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_large_transaction_commits_and_cancels_in_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let before = own_memory();
    db.transaction_start().unwrap();
    fill(&db, 1);
    assert!(holds(&db, 1));
    let growth = own_memory().saturating_sub(before);
    assert!(growth < MEMORY, "{growth} bytes");
    db.transaction_commit().unwrap();
    assert!(holds(&db, 1));
    assert_eq!(db.check().unwrap().records, u64::from(RECORDS));

    db.transaction_start().unwrap();
    fill(&db, 2);
    assert!(holds(&db, 2));
    db.transaction_cancel().unwrap();
    assert!(holds(&db, 1));

    db.transaction_start().unwrap();
    fill(&db, 3);
    db.transaction_commit().unwrap();
    let growth = own_memory().saturating_sub(before);
    assert!(growth < MEMORY, "{growth} bytes");
    drop(db);
    let db = open(dir.path());
    assert!(holds(&db, 3));
    assert_eq!(db.check().unwrap().records, u64::from(RECORDS));
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 1, "nothing is left beside the database");
}
