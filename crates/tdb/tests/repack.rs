//! Repacking: the records stay, the holes go, and nobody else is disturbed.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use std::path::Path;

use common::{assert_sound_for_c, dump_of, golden_file, golden_json, records_of};
use tdb::{Db, Flags, OpenOptions, StoreMode};

/// Records of many lengths with holes between them.
fn full_of_holes(path: &Path, flags: Flags) -> Db {
    let options = OpenOptions::new()
        .flags(flags)
        .hash_size(7)
        .max_dead(2)
        .create(true);
    let db = options.open(path).unwrap();
    let key = |n: usize| format!("key {n}").into_bytes();
    for n in 0..1500 {
        let data = vec![b'd'; n * 37 % 900];
        db.store(&key(n), &data, StoreMode::Insert).unwrap();
    }
    for n in (0..1500).filter(|n| n % 4 != 0) {
        assert!(db.delete(&key(n)).unwrap());
    }
    db
}

#[test]
fn records_stay_and_holes_go() {
    for flags in [
        Flags::empty(),
        Flags::NOMMAP,
        Flags::CONVERT,
        Flags::DISALLOW_NESTING | Flags::NOSYNC,
        Flags::MUTEX_LOCKING | Flags::CLEAR_IF_FIRST | Flags::NOSYNC,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holes.tdb");
        let db = full_of_holes(&path, flags);
        let before = records_of(&db);
        assert_eq!(before.len(), 375);
        let (pieces, report) = (db.freelist_size().unwrap(), db.check().unwrap());
        assert!(pieces > 300 && report.dead > 0, "{pieces}, {report:?}");
        // The second time there is a recovery area in the way.
        for round in 0..2 {
            db.repack().unwrap();
            let context = format!("{flags:?}, round {round}");
            let report = db.check().unwrap();
            assert_eq!((report.records, report.dead), (375, 0), "{context}");
            assert!(report.free <= 3, "{context}: {report:?}");
            assert_eq!(db.freelist_size().unwrap(), report.free, "{context}");
            assert_eq!(records_of(&db), before, "{context}");
            assert_eq!(dump_of(&path), before, "{context}");
            if !flags.contains(Flags::MUTEX_LOCKING) {
                assert_sound_for_c(&path, &context);
            }
        }
    }
}

#[test]
fn a_busy_database_is_left_alone() {
    for flags in [Flags::empty(), Flags::MUTEX_LOCKING | Flags::CLEAR_IF_FIRST] {
        let dir = tempfile::tempdir().unwrap();
        let db = full_of_holes(&dir.path().join("busy.tdb"), flags);
        let other = db.reopen().unwrap();
        let chain = other.chainlock(b"any").unwrap();
        assert!(
            !db.try_repack().unwrap(),
            "{flags:?}: somebody is in a chain"
        );
        drop(chain);
        other.transaction_start().unwrap();
        assert!(!db.try_repack().unwrap(), "{flags:?}: a transaction runs");
        assert_eq!(db.try_freelist_size().unwrap(), None, "{flags:?}");
        other.transaction_cancel().unwrap();
        assert!(db.try_repack().unwrap(), "{flags:?}: nobody is there");
        assert!(db.try_freelist_size().unwrap().unwrap() <= 3, "{flags:?}");
        assert_eq!(other.count_records().unwrap(), 375, "{flags:?}");
    }
}

/// Of two records of one key, which a crash can leave, the one that counts is kept.
#[test]
fn of_two_records_with_one_key_the_newer_stays() {
    let db = OpenOptions::new().open_memory(golden_file("dup_key"));
    let db = db.unwrap();
    let before = records_of(&db);
    assert!(db.check().unwrap().records > before.len() as u64);
    db.repack().unwrap();
    assert_eq!(records_of(&db), before);
    assert_eq!(db.check().unwrap().records, before.len() as u64);
}

/// The C library needs several passes for this file: 17 pieces, then 9, 5, 3, 2.
#[test]
fn neighbours_in_the_free_list_are_joined_when_it_is_measured() {
    let db = OpenOptions::new().open_memory(golden_file("free_adjacent"));
    let db = db.unwrap();
    let listed = &golden_json("free_adjacent")["freelist_order"];
    assert_eq!(listed.as_array().unwrap().len(), 17);
    assert_eq!(db.freelist_size().unwrap(), 2);
    db.check().unwrap();
}

/// A broken free list is an error, and the records are as they were.
#[test]
fn a_broken_free_list_is_told() {
    for name in ["bad_freelist_loop", "bad_freelist_past_end"] {
        let db = OpenOptions::new().open_memory(golden_file(name)).unwrap();
        let before = records_of(&db);
        assert!(db.freelist_size().is_err(), "{name}");
        assert_eq!(records_of(&db), before, "{name}");
    }
}

/// Like the C library: a transaction that grows a file whose free space is in many pieces is
/// followed by a repack.
#[test]
fn a_commit_that_grows_a_file_with_many_holes_repacks_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grows.tdb");
    let db = full_of_holes(&path, Flags::empty());
    let mut before = records_of(&db);
    db.transaction_start().unwrap();
    let big = vec![b'B'; 150_000];
    db.store(b"big", &big, StoreMode::Insert).unwrap();
    db.transaction_commit().unwrap();
    before.insert(b"big".to_vec(), big);
    assert_eq!(records_of(&db), before);
    assert!(db.check().unwrap().free <= 3);
    assert_sound_for_c(&path, "after the commit");
}
