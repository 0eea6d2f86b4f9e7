//! A process that is killed at any moment of a change without a transaction. The other records stay
//! what they are, and the one under change is as it was or as it should be; only a value that is
//! overwritten in its place can be half old and half new. Space may be left that belongs to nobody:
//! it does no harm to those who go on, ours or of the C library, and a repack takes it back.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use common::disk::{Disk, Event, Records, apply};
use common::{dump_of, records_of, tdbtool, tdbtool_check};
use tdb::{Db, Flags, OpenOptions, StoreMode};

const KEYS: u32 = 12;

/// What a process writes at once: a word.
fn words(diary: Vec<Event>) -> Vec<Event> {
    let mut words = Vec::new();
    for event in diary {
        match event {
            Event::Write(offset, data) => {
                for (at, word) in (offset..).step_by(4).zip(data.chunks(4)) {
                    words.push(Event::Write(at, word.to_vec()));
                }
            }
            event => words.push(event),
        }
    }
    words
}

/// One change without a transaction.
fn change(db: &Db, random: &mut fastrand::Rng, number: u8) {
    let key = format!("key {}", random.u32(0..KEYS)).into_bytes();
    let most = 1 << random.u32(3..9);
    let data = vec![number; random.usize(0..most)];
    match random.u32(0..4) {
        0 => drop(db.delete(&key).unwrap()),
        1 => db.append(&key, &data).unwrap(),
        _ => db.store(&key, &data, StoreMode::Replace).unwrap(),
    }
}

/// Makes many changes. Returns the first content of the database, and the diary.
fn run(flags: Flags, seed: u64) -> (Vec<u8>, Vec<Event>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("start.tdb");
    let options = OpenOptions::new().flags(flags).hash_size(3).create(true);
    drop(options.open(&path).unwrap());
    let first = std::fs::read(&path).unwrap();
    let (disk, diary) = Disk::new(first.clone());
    let db = options.open_backend(Box::new(disk)).unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..150 {
        change(&db, &mut random, number);
        db.check().unwrap();
        let records = records_of(&db);
        diary.lock().unwrap().push(Event::Committed(records));
    }
    drop(db);
    let diary = diary.lock().unwrap().clone();
    (first, words(diary))
}

/// The records before and after the change that is under way at `position` of the diary.
fn around(diary: &[Event], position: usize) -> [Records; 2] {
    let committed = |event: &Event| match event {
        Event::Committed(records) => Some(records.clone()),
        _ => None,
    };
    let before = diary[..position].iter().rev().find_map(committed);
    let after = diary[position..].iter().find_map(committed);
    [before.unwrap_or_default(), after.unwrap()]
}

/// Whether `found` is made of bytes of `old` and `new`, each in its place.
fn is_mix(found: &[u8], old: &[u8], new: &[u8]) -> bool {
    let fits = |(at, byte): (usize, &u8)| [old.get(at), new.get(at)].contains(&Some(byte));
    [old.len(), new.len()].contains(&found.len()) && found.iter().enumerate().all(fits)
}

fn assert_nothing_lost(found: &Records, [before, after]: &[Records; 2], context: &str) {
    for key in before.keys().chain(after.keys()).chain(found.keys()) {
        let (found, old, new) = (found.get(key), before.get(key), after.get(key));
        let torn = match (found, old, new) {
            (Some(found), Some(old), Some(new)) => is_mix(found, old, new),
            _ => false,
        };
        assert!(
            found == old || found == new || torn,
            "{context}: {key:?}: {found:?} of {old:?} and {new:?}"
        );
    }
}

/// Others go on, and spoil nothing; then a repack puts everything in order.
fn assert_life_goes_on(image: Vec<u8>, flags: Flags, context: &str) {
    let db = OpenOptions::new().flags(flags).open_memory(image).unwrap();
    let mut expected = records_of(&db);
    for n in 0..20_u8 {
        let key = vec![b'n', n % 7];
        if n % 3 == 2 {
            let known = expected.remove(&key).is_some();
            assert_eq!(db.delete(&key).unwrap(), known, "{context}");
        } else {
            let data = vec![n; usize::from(n) * 13];
            db.store(&key, &data, StoreMode::Replace).unwrap();
            expected.insert(key, data);
        }
    }
    assert!(records_of(&db) == expected, "{context}: spoilt later");
    db.repack().unwrap();
    db.check()
        .unwrap_or_else(|error| panic!("{context}, repacked: {error}"));
    assert!(records_of(&db) == expected, "{context}: repacked");
}

/// Every prefix of what was written is a moment at which the process may have been killed.
fn for_each_moment(flags: Flags, mut look: impl FnMut(&[u8], &[Records; 2], usize)) {
    for seed in 0..4 {
        let (mut image, diary) = run(flags, seed);
        let last = diary
            .iter()
            .rposition(|event| matches!(event, Event::Committed(_)));
        for position in 0..last.unwrap() {
            apply(&mut image, &diary[position]);
            if !matches!(diary[position], Event::Committed(_)) {
                look(&image, &around(&diary, position), position);
            }
        }
    }
}

#[test]
fn a_killed_process_loses_nothing() {
    for flags in [Flags::empty(), Flags::VOLATILE] {
        let (mut moments, mut unsound) = (0_usize, 0);
        for_each_moment(flags, |image, around, position| {
            let context = format!("{flags:?}, {position}");
            let open = OpenOptions::new().flags(flags).open_memory(image.to_vec());
            let db = open.unwrap();
            assert_nothing_lost(&records_of(&db), around, &context);
            unsound += usize::from(db.check().is_err());
            moments += 1;
            // Most differ from their neighbours by a word of data.
            if moments.is_multiple_of(5) {
                assert_life_goes_on(image.to_vec(), flags, &context);
            }
        });
        assert!(moments > 1000, "{moments}");
        // A list and a record that comes to it cannot be written at once. But all that needs time,
        // as copying of data does, is done before or after.
        assert!(unsound * 2 < moments, "{unsound} of {moments}");
    }
}

/// What the C library can leave: a free record at the end of the file that is in no list.
#[test]
fn a_free_record_in_no_list_does_not_swallow_growth() {
    const FREELIST_HEAD: usize = 168;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("remains.tdb");
    let options = OpenOptions::new().create(true);
    let db = options.open(&path).unwrap();
    for key in [b"last", b"kept"] {
        db.store(key, &[1; 100], StoreMode::Insert).unwrap();
    }
    db.delete(b"last").unwrap();
    drop(db);
    let mut image = std::fs::read(&path).unwrap();
    let word = |at: usize| [image[at], image[at + 1], image[at + 2], image[at + 3]];
    let first = u32::from_le_bytes(word(FREELIST_HEAD)) as usize;
    let second = word(first);
    image[FREELIST_HEAD..FREELIST_HEAD + 4].copy_from_slice(&second);
    let db = options.open_memory(image).unwrap();
    db.check().unwrap_err();
    db.store(b"new", &vec![2; 50_000], StoreMode::Insert)
        .unwrap();
    assert_eq!(db.check().unwrap().records, 2);
}

/// The same remains in the hands of the C library.
#[test]
fn the_c_library_goes_on_with_what_a_killed_process_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("remains.tdb");
    let mut count = 0_usize;
    for_each_moment(Flags::empty(), |image, around, position| {
        let options = OpenOptions::new();
        count += 1;
        if !count.is_multiple_of(32) {
            return;
        }
        std::fs::write(&path, image).unwrap();
        let context = format!("{position}");
        let report = options.open_memory(image.to_vec()).unwrap().check();
        let records = report.ok().map(|report| report.records);
        assert_eq!(records, tdbtool_check(&path), "{context}");
        let mut expected = dump_of(&path);
        assert_nothing_lost(&expected, around, &context);
        tdbtool(&path, &c_commands(&mut expected));
        assert!(dump_of(&path) == expected, "{context}: spoilt later");
    });
}

/// Commands for `tdbtool`, which are done to `records` too.
fn c_commands(records: &mut Records) -> String {
    let mut commands = String::new();
    for n in 0..20 {
        let (key, data) = (format!("n{}", n % 7), "x".repeat(n * 13 + 1));
        if n % 3 == 2 {
            commands.extend(["delete ", &key, "\n"]);
            records.remove(key.as_bytes());
        } else {
            commands.extend(["store ", &key, " ", &data, "\n"]);
            records.insert(key.into_bytes(), data.into_bytes());
        }
    }
    commands
}
