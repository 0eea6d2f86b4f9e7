//! A TDB file with any content: whatever can be done to a database ends, with a result or an error,
//! and needs no more memory than the file's size allows.
//!
//! Input: a byte of flags, then the file.
#![no_main]

use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use tdb::{Db, Flags, OpenOptions, StoreMode};

fuzz_target!(|input: &[u8]| {
    let Some((choice, file)) = input.split_first() else {
        return;
    };
    let mut flags = Flags::empty();
    flags.set(Flags::SEQNUM, choice & 1 != 0);
    flags.set(Flags::DISALLOW_NESTING, choice & 2 != 0);
    let options = OpenOptions::new()
        .flags(flags)
        .max_dead(u32::from(choice >> 4))
        .read_only(choice & 4 != 0);
    // An empty one would be made anew.
    if file.is_empty() {
        return;
    }
    let Ok(db) = options.open_memory(file.to_vec()) else {
        return;
    };
    look(&db, file.len());
    // Makes the file much larger, and takes most of the time.
    if choice & 8 != 0 {
        change(&db);
    }
});

/// Reads in every way. What is found cannot be longer than the file.
fn look(db: &Db, limit: usize) {
    let mut keys: Vec<Vec<u8>> = vec![Vec::new(), b"key".to_vec()];
    let mut note = |key: &[u8], data: &[u8]| {
        assert!(key.len() + data.len() <= limit);
        if keys.len() < 16 {
            keys.push(key.to_vec());
        }
        ControlFlow::Continue(())
    };
    let checked = db.check();
    let shown = db.traverse_read(&mut note);
    let rescued = db.rescue(&mut note);
    if let Ok(report) = checked {
        // A sound file can be read as a whole.
        assert_eq!(shown.expect("sound"), report.records);
        assert!(rescued.is_ok());
    }
    if let Ok(summary) = db.summary() {
        assert!(!summary.to_string().is_empty());
    }
    for key in keys {
        let fetched = db.fetch(&key);
        if let (Ok(data), Ok(exists)) = (fetched, db.exists(&key)) {
            assert_eq!(data.is_some(), exists);
        }
    }
}

/// Changes in every way.
fn change(db: &Db) {
    let sound = db.check().is_ok();
    let _ = db.freelist_size();
    let _ = db.append(b"key", &[1; 40]);
    let _ = db.store(b"another", &[2; 300], StoreMode::Replace);
    let _ = db.delete(b"key");
    let _ = db.traverse(&mut |key, _| {
        let _ = db.store(key, b"short", StoreMode::Modify);
        ControlFlow::Continue(())
    });
    if db.transaction_start().is_ok() {
        let _ = db.store(b"in a transaction", &[3; 1000], StoreMode::Insert);
        let _ = db.transaction_commit();
    }
    let _ = db.repack();
    if sound {
        db.check().expect("was sound before");
    }
    let _ = db.wipe_all();
    let _ = db.store(b"afterwards", b"value", StoreMode::Replace);
}
