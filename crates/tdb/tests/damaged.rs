//! Files that lie: whatever a file contains, operations end, with a result or an error, and never
//! ask for more memory than the file is long.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use std::ops::ControlFlow;

use common::{golden_file, golden_names};
use proptest::prelude::*;
use tdb::{OpenOptions, StoreMode};

/// Does everything that can be done to a database. Only panics, hangs and crashes matter.
fn exercise(image: Vec<u8>, keys: &[Vec<u8>]) {
    let size = image.len();
    let Ok(db) = OpenOptions::new().open_memory(image) else {
        return;
    };
    let _ = db.check();
    let _ = db.summary().map(|summary| summary.to_string());
    let _ = db.rescue(&mut |key, data| {
        assert!(key.len() + data.len() <= size);
        ControlFlow::Continue(())
    });
    let _ = db.count_records();
    let _ = db.traverse_read(&mut |key, data| {
        assert!(key.len() + data.len() <= size);
        ControlFlow::Continue(())
    });
    for key in keys {
        let _ = db.fetch(key);
        let _ = db.append(
            key,
            b"more and more and more and more and more and more and more",
        );
        let _ = db.delete(key);
        let _ = db.store(key, &[1; 300], StoreMode::Replace);
    }
    if db.transaction_start().is_ok() {
        let _ = db.store(b"in a transaction", &[2; 5000], StoreMode::Insert);
        let _ = db.transaction_commit();
    }
    let _ = db.freelist_size();
    let _ = db.repack();
    let _ = db.traverse(&mut |key, _| {
        let _ = db.delete(key);
        ControlFlow::Continue(())
    });
    let _ = db.wipe_all();
    let _ = db.check();
}

/// Small golden files, sound and damaged ones.
fn images() -> Vec<Vec<u8>> {
    let files = golden_names().into_iter().map(|name| golden_file(&name));
    files.filter(|image| image.len() <= 16 * 1024).collect()
}

fn keys() -> Vec<Vec<u8>> {
    let words = [
        "alpha", "beta", "gamma", "delta", "", "key-000", "key-005", "key-011", "k1",
    ];
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn damaged_golden_files_are_survived() {
    for image in images() {
        exercise(image, &keys());
    }
}

/// A crash while the file grows leaves space at its end that belongs to nobody. Whoever lets the
/// file grow after that, plainly or by a transaction, must not leave it behind his records.
#[test]
fn unowned_space_of_any_length_is_taken_over() {
    for name in ["few_old", "free_jenkins", "trans_two"] {
        for extra in (0..=60).chain([97, 98, 130]) {
            for transaction in [false, true] {
                let mut image = golden_file(name);
                let area = word_at(&image, RECOVERY_START_AT);
                image.resize(image.len() + extra, 0);
                let context = format!("{name}, recovery area at {area}, {extra}, {transaction}");
                grow_and_check(image, transaction, &context);
            }
        }
    }
}

const RECOVERY_START_AT: usize = 44;

fn word_at(image: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(image[at..at + 4].try_into().unwrap())
}

fn grow_and_check(image: Vec<u8>, transaction: bool, context: &str) {
    let db = OpenOptions::new().open_memory(image).unwrap();
    // Less than a record header cannot even be looked at, says the C library, and so do we.
    if db.check().is_err() {
        return;
    }
    let big = vec![7; 100_000];
    if transaction {
        db.transaction_start().unwrap();
    }
    db.store(b"big", &big, StoreMode::Insert).unwrap();
    if transaction {
        db.transaction_commit().unwrap();
    }
    let found = db
        .check()
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(found.unowned, 0, "{context}");
    assert_eq!(db.fetch(b"big").unwrap().unwrap(), big, "{context}");
}

/// A free record at the end of the file that is in no list was left by a kill, and is put into the
/// list; but not if it lies in space that belongs to nobody, where anything may look like one.
#[test]
fn what_looks_free_in_unowned_space_is_not_listed() {
    const FREE: u32 = 0xd9fe_e666;
    for extra in [400, 401, 403] {
        let mut image = golden_file("few_old");
        let len: u32 = 300;
        let fields = [0, len, 0, 0, 0, FREE].map(u32::to_le_bytes).concat();
        image.resize(image.len() + extra, 0);
        image.extend(fields);
        image.resize(image.len() + len as usize - 4, 0);
        image.extend((len + 24).to_le_bytes());
        let db = OpenOptions::new().open_memory(image).unwrap();
        assert!(db.check().unwrap().unowned > 300, "{extra}");
        for n in 0..40_u8 {
            let data = [n; 200];
            db.store(&[n], &data, StoreMode::Insert).unwrap();
            let found = db.check();
            assert!(found.is_ok(), "{extra}, {n}: {found:?}");
            assert_eq!(db.fetch(&[n]).unwrap().unwrap(), data, "{extra}");
        }
        assert_eq!(db.check().unwrap().unowned, 0, "{extra}");
    }
}

/// A crash of the C library can leave a recovery area without a length at the end of the file. It is
/// that of whatever follows only if nothing does; others may have the file open, so that an open
/// alone cannot settle it.
#[test]
fn a_recovery_area_without_a_length_is_not_mistaken() {
    const HEADER: usize = 24;
    // Behind the area come bytes that were never written, or a free record.
    for behind_is_free in [false, true] {
        let mut image = golden_file("empty_old");
        let start = image.len();
        image[44..48].copy_from_slice(&u32::try_from(start).unwrap().to_le_bytes());
        image.resize(start + HEADER + 400, 0);
        if behind_is_free {
            let at = start + HEADER;
            let words = [0_u32, 376, 0, 0, 0, 0xD9FE_E666].map(u32::to_le_bytes);
            image[at..at + HEADER].copy_from_slice(words.as_flattened());
            image[at + 396..at + 400].copy_from_slice(&400_u32.to_le_bytes());
            image[168..172].copy_from_slice(&u32::try_from(at).unwrap().to_le_bytes());
        }
        let db = OpenOptions::new().open_memory(image).unwrap();
        db.check().unwrap();
        for n in 0..20_u8 {
            db.store(&[n], &[n; 100], StoreMode::Insert).unwrap();
            db.check().unwrap();
        }
        db.transaction_start().unwrap();
        db.store(b"in a transaction", &[1; 5000], StoreMode::Insert)
            .unwrap();
        // There is no sound place for a log if something follows the area.
        assert_eq!(db.transaction_commit().is_ok(), !behind_is_free);
        db.check().unwrap();
        assert_eq!(db.fetch(&[7]).unwrap().as_deref(), Some(&[7; 100][..]));
        db.wipe_all().unwrap();
        db.check().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_words_are_survived(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), word()), 1..6),
        cut in proptest::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        thread_local!(static IMAGES: Vec<Vec<u8>> = images());
        let mut image = IMAGES.with(|images| which.get(images).clone());
        for (place, word) in changes {
            // Words that matter lie in the header and in records: mostly near non-zero bytes.
            let words = image.len() / 4;
            if words > 0 {
                let at = place.index(words) * 4;
                let at = (at..image.len()).step_by(4).find(|&at| image[at..at + 4] != [0; 4]).unwrap_or(at);
                image[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len() + 1));
        }
        exercise(image, &keys());
    }
}

/// Numbers that are likely to do harm.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        2 => (0..4096_u32).prop_map(|n| n * 4),
        1 => any::<u32>(),
        1 => (0..64_u32).prop_map(|n| u32::MAX - n),
        1 => prop::sample::select(vec![0x2601_1999, 0xFEE1_DEAD, 0xD9FE_E666, 0xF53B_C0E7, 0, 0x4242_4242]),
    ]
}
