//! A transaction that writes the whole database anew: its records are what was stored, and it writes
//! each of them once.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a failing helper fails the test"
)]

mod common;

use std::path::Path;

use common::disk::{Diary, Disk, Event, Records};
use common::{assert_sound_for_c, dump_of, records_of};
use tdb::{Db, Flags, OpenOptions, StoreMode};

fn options(flags: Flags) -> OpenOptions {
    OpenOptions::new().flags(flags).hash_size(1009).create(true)
}

/// So many records, each of about 200 bytes with what belongs to it.
fn records(count: u32, byte: u8) -> Records {
    let record = |number: u32| (number.to_le_bytes().to_vec(), vec![byte; 130]);
    (0..count).map(record).collect()
}

fn rewrite(db: &Db, records: &Records) {
    db.transaction_start().unwrap();
    db.wipe_to_rewrite().unwrap();
    for (key, data) in records {
        db.store(key, data, StoreMode::New).unwrap();
    }
    db.transaction_commit().unwrap();
}

/// Bytes that were written since the last call.
fn written(diary: &Diary) -> usize {
    let events = std::mem::take(&mut *diary.lock().unwrap());
    let lengths = events.iter().map(|event| match event {
        Event::Write(_, data) => data.len(),
        _ => 0,
    });
    lengths.sum()
}

#[test]
fn each_record_is_written_once_and_the_file_ends_to_grow() {
    let (disk, diary) = Disk::new({
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.tdb");
        drop(options(Flags::empty()).open(&path).unwrap());
        std::fs::read(path).unwrap()
    });
    let db = OpenOptions::new().open_backend(Box::new(disk)).unwrap();
    let mut sizes = Vec::new();
    for round in 0..6 {
        rewrite(&db, &records(20_000, round));
        sizes.push(db.size().unwrap());
        let bytes = written(&diary);
        assert!(bytes < 5_500_000, "round {round}: {bytes} bytes");
        assert_eq!(db.check().unwrap().records, 20_000);
        assert_eq!(records_of(&db), records(20_000, round));
    }
    assert_eq!(sizes[2], sizes[5], "{sizes:?}");
    assert!(sizes[5] < 14_000_000, "{sizes:?}");
}

/// In files of all kinds, and for the C library too.
#[test]
fn debian_finds_what_was_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        Flags::empty(),
        Flags::NOSYNC | Flags::NOMMAP,
        Flags::INCOMPATIBLE_HASH | Flags::CONVERT,
        Flags::NOSYNC | Flags::INCOMPATIBLE_HASH | Flags::CLEAR_IF_FIRST | Flags::MUTEX_LOCKING,
    ];
    for (number, flags) in kinds.into_iter().enumerate() {
        let path = dir.path().join(format!("{number}.tdb"));
        let db = options(flags).open(&path).unwrap();
        for (count, byte) in [(3000, 1), (10, 2), (9000, 3), (8000, 4)] {
            let expected = records(count, byte);
            rewrite(&db, &expected);
            assert_eq!(records_of(&db), expected, "{flags:?}");
            assert_eq!(db.check().unwrap().unowned, 0);
            assert_seen_by_c(&path, &expected, flags);
        }
        db.repack().unwrap();
        assert_seen_by_c(&path, &records(8000, 4), flags);
        let pieces = db.freelist_size().unwrap();
        assert!(pieces <= 4, "{pieces}");
    }
}

fn assert_seen_by_c(path: &Path, expected: &Records, flags: Flags) {
    assert_sound_for_c(path, &format!("{flags:?}"));
    assert_eq!(dump_of(path), *expected, "{flags:?}");
}

/// The same key again, longer records, deleted ones, another wipe, a cancelled transaction.
#[test]
fn what_is_changed_while_it_is_written_anew_is_as_in_any_transaction() {
    let mut random = fastrand::Rng::with_seed(5);
    let db = OpenOptions::new()
        .hash_size(7)
        .open_memory(Vec::new())
        .unwrap();
    let mut committed = Records::new();
    for round in 0..200 {
        db.transaction_start().unwrap();
        db.wipe_to_rewrite().unwrap();
        let mut now = Records::new();
        for _ in 0..random.usize(0..400) {
            let key = vec![random.u8(0..60); 1 + random.usize(0..20)];
            let longest = if random.u8(0..100) == 0 {
                400_000
            } else {
                3000
            };
            let data = vec![random.u8(..); random.usize(0..longest)];
            match random.u8(0..100) {
                0..70 => {
                    db.store(&key, &data, StoreMode::Replace).unwrap();
                    now.insert(key, data);
                }
                70..80 => {
                    db.append(&key, &data).unwrap();
                    now.entry(key).or_default().extend(&data);
                }
                80..98 => assert_eq!(db.delete(&key).unwrap(), now.remove(&key).is_some()),
                98 => {
                    db.wipe_to_rewrite().unwrap();
                    now.clear();
                }
                _ => drop(db.check().unwrap()),
            }
        }
        assert_eq!(records_of(&db), now, "round {round}");
        if random.bool() {
            db.transaction_commit().unwrap();
            committed = now;
        } else {
            db.transaction_cancel().unwrap();
        }
        assert_eq!(records_of(&db), committed, "round {round}");
        assert_eq!(db.check().unwrap().records, committed.len() as u64);
        // Others change things in between.
        let key = random.u32(..).to_le_bytes();
        db.store(&key, &[7; 40], StoreMode::Replace).unwrap();
        assert!(db.delete(&key).unwrap());
    }
}
