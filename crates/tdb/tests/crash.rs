//! A power failure at any moment of a run of transactions, with a repack at their end: afterwards the
//! database holds what it held before the commit, or after it, and is sound.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use common::disk::{Disk, Event, Records, apply};
use common::{assert_sound_for_c, dump_of, records_of, tdbtool};
use tdb::{Db, Flags, OpenOptions, StoreMode};

/// One transaction: what is stored, and what is deleted.
type Changes = (Vec<(&'static [u8], usize)>, Vec<&'static [u8]>);

/// Small and big ones, so that the recovery area is made, used again, made larger at the end of the
/// file, and moved.
fn transactions() -> Vec<Changes> {
    vec![
        (vec![(b"one", 10), (b"two", 20)], vec![]),
        (vec![(b"one", 12)], vec![b"two"]),
        (vec![(b"big", 30_000), (b"three", 5)], vec![]),
        (vec![(b"huge", 700_000)], vec![b"one"]),
        (vec![(b"four", 4)], vec![b"big"]),
        (vec![(b"more", 900_000), (b"five", 4)], vec![b"huge"]),
        (vec![(b"six", 6)], vec![b"more", b"five"]),
    ]
}

/// Runs the transactions on a database that holds some records. Returns its first content and the
/// diary.
fn run(flags: Flags, start: Start) -> (Vec<u8>, Vec<Event>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("start.tdb");
    let db = OpenOptions::new()
        .flags(flags)
        .hash_size(3)
        .create(true)
        .open(&path)
        .unwrap();
    for (key, len) in start {
        db.store(key, &vec![b's'; *len], StoreMode::Insert).unwrap();
    }
    drop(db);
    let first = std::fs::read(&path).unwrap();
    let (disk, diary) = Disk::new(first.clone());
    let db = OpenOptions::new()
        .flags(flags)
        .open_backend(Box::new(disk))
        .unwrap();
    let commit_point = |db: &Db| diary.lock().unwrap().push(Event::Committed(records_of(db)));
    commit_point(&db);
    for (number, (stores, deletes)) in transactions().into_iter().enumerate() {
        db.transaction_start().unwrap();
        let fill = b'a' + u8::try_from(number).unwrap();
        for (key, len) in stores {
            db.store(key, &vec![fill; len], StoreMode::Replace).unwrap();
        }
        for key in deletes {
            assert!(db.delete(key).unwrap());
        }
        db.transaction_commit().unwrap();
        commit_point(&db);
        db.check()
            .unwrap_or_else(|error| panic!("transaction {number}: {error}"));
    }
    // Not by `freelist_size`, which changes the list without a transaction.
    let pieces = db.check().unwrap().free;
    db.repack().unwrap();
    assert!(db.check().unwrap().free < pieces, "of {pieces} pieces");
    commit_point(&db);
    drop(db);
    let diary = diary.lock().unwrap().clone();
    (first, diary)
}

/// The records before and after the commit that is under way at `position` of the diary.
fn allowed(diary: &[Event], position: usize) -> [Records; 2] {
    let committed = |event: &Event| match event {
        Event::Committed(records) => Some(records.clone()),
        _ => None,
    };
    let before = diary[..position].iter().rev().find_map(committed);
    let after = diary[position..].iter().find_map(committed);
    let before = before.unwrap_or_else(|| after.clone().unwrap());
    [before.clone(), after.unwrap_or(before)]
}

/// Whether something new can happen at `position`. In a long row of writes, each of one block, every
/// 16th stands for its neighbours.
fn is_interesting(diary: &[Event], position: usize) -> bool {
    let around = &diary[position.saturating_sub(3)..diary.len().min(position + 3)];
    let turns = around
        .iter()
        .any(|event| !matches!(event, Event::Write(..)));
    turns || position.is_multiple_of(16)
}

/// Opens what survived, and fails unless it is before or after the commit, and sound for good.
fn assert_survives(image: Vec<u8>, flags: Flags, allowed: &[Records; 2], context: &str) {
    let db = OpenOptions::new().flags(flags).open_memory(image).unwrap();
    let found = records_of(&db);
    assert!(allowed.contains(&found), "{context}: {:?}", found.keys());
    db.check()
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    db.transaction_start().unwrap();
    db.store(b"afterwards", &[1; 5000], StoreMode::Insert)
        .unwrap();
    db.transaction_commit().unwrap();
    db.store(b"and plain", &vec![1; 50_000], StoreMode::Insert)
        .unwrap();
    db.check()
        .unwrap_or_else(|error| panic!("{context}, later: {error}"));
}

/// Records that a database begins with: keys and lengths.
type Start = &'static [(&'static [u8], usize)];

const STARTS: [(Flags, Start); 3] = [
    (Flags::empty(), &[]),
    (Flags::empty(), &[(b"one", 100), (b"start", 3000)]),
    (
        Flags::INCOMPATIBLE_HASH.union(Flags::CONVERT),
        &[(b"one", 100), (b"start", 3000)],
    ),
];

#[test]
fn a_prefix_of_the_writes_is_before_or_after_a_commit() {
    for (flags, start) in STARTS {
        let (mut image, diary) = run(flags, start);
        assert!(diary.len() > 100, "{}", diary.len());
        for position in 0..diary.len() {
            if is_interesting(&diary, position) {
                let context = format!("{flags:?}, {} records, {position}", start.len());
                assert_survives(image.clone(), flags, &allowed(&diary, position), &context);
            }
            apply(&mut image, &diary[position]);
        }
    }
}

/// Of the writes since the last sync, any may have reached the disk.
#[test]
fn any_choice_of_unsynced_writes_is_before_or_after_a_commit() {
    let (flags, start) = STARTS[1];
    let (mut synced, diary) = run(flags, start);
    let mut since_sync: Vec<Event> = Vec::new();
    let mut random = 1_u64;
    for position in 0..diary.len() {
        let rounds = if is_interesting(&diary, position) {
            2
        } else {
            0
        };
        for round in 0..rounds {
            let mut image = synced.clone();
            for event in &since_sync {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                // The size of a file is never lost while writes behind its old end are kept.
                if matches!(event, Event::Grow(_)) || random >> 63 == 0 {
                    apply(&mut image, event);
                }
            }
            let context = format!("position {position}, choice {round}");
            assert_survives(image, flags, &allowed(&diary, position), &context);
        }
        if matches!(diary[position], Event::Sync) {
            since_sync
                .drain(..)
                .for_each(|event| apply(&mut synced, &event));
        } else {
            since_sync.push(diary[position].clone());
        }
    }
}

/// The C library opens the same remains, and rolls our commits back.
#[test]
fn the_c_library_recovers_from_our_commits() {
    let dir = tempfile::tempdir().unwrap();
    let (flags, start) = STARTS[1];
    let (mut image, diary) = run(flags, start);
    for (position, event) in diary.iter().enumerate() {
        if matches!(event, Event::Sync) || position % 16 == 0 {
            let path = dir.path().join("remains.tdb");
            std::fs::write(&path, &image).unwrap();
            let context = format!("position {position}");
            assert_sound_for_c(&path, &context);
            let allowed = allowed(&diary, position);
            assert!(allowed.contains(&dump_of(&path)), "{context}");
            tdbtool(
                &path,
                "transaction_start\ninsert fresh value\ntransaction_commit\n",
            );
            let dumped = dump_of(&path);
            assert_eq!(
                dumped.get(&b"fresh"[..]),
                Some(&b"value".to_vec()),
                "{context}"
            );
        }
        apply(&mut image, event);
    }
}
