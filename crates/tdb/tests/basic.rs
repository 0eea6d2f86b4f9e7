//! First steps: records go in and out, in a file and in memory.
#![expect(clippy::unwrap_used, reason = "a failing helper fails the test")]

use std::ops::ControlFlow;
use std::process::Command;

use tdb::{Db, Flags, OpenOptions, StoreMode};

fn open(dir: &tempfile::TempDir, flags: Flags, hash_size: u32) -> Db {
    let options = OpenOptions::new()
        .flags(flags)
        .hash_size(hash_size)
        .create(true);
    options.open(dir.path().join("test.tdb")).unwrap()
}

/// Debian's opinion of the file.
fn tdbtool_check(path: &std::path::Path) -> String {
    let output = Command::new("tdbtool").arg(path).arg("check").output();
    let output = output.expect("this test needs tdbtool: install the package tdb-tools");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn records_survive_growth_and_deletion() {
    for flags in [
        Flags::empty(),
        Flags::NOMMAP,
        Flags::VOLATILE,
        Flags::CONVERT,
        Flags::MUTEX_LOCKING | Flags::CLEAR_IF_FIRST,
        Flags::INTERNAL,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir, flags, 7);
        let value = |n: u32| vec![b'v'; (n as usize * 37) % 900];
        for n in 0..500_u32 {
            db.store(format!("key{n}").as_bytes(), &value(n), StoreMode::Insert)
                .unwrap();
        }
        for n in (0..500).step_by(3) {
            assert!(db.delete(format!("key{n}").as_bytes()).unwrap());
        }
        for n in (1..500).step_by(3) {
            db.append(format!("key{n}").as_bytes(), &value(n + 3))
                .unwrap();
        }
        for n in 0..500 {
            let expected = match n % 3 {
                0 => None,
                1 => Some([value(n), value(n + 3)].concat()),
                _ => Some(value(n)),
            };
            assert_eq!(
                db.fetch(format!("key{n}").as_bytes()).unwrap(),
                expected,
                "{flags:?} {n}"
            );
        }
        let mut seen = 0;
        let shown = db
            .traverse(&mut |key, _| {
                seen += 1;
                assert!(db.delete(key).unwrap());
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!((seen, shown), (333, 333));
        assert_eq!(db.count_records().unwrap(), 0);
        if !flags.contains(Flags::INTERNAL) && !flags.contains(Flags::MUTEX_LOCKING) {
            let said = tdbtool_check(&dir.path().join("test.tdb"));
            assert!(
                said.contains("Database integrity is OK"),
                "{flags:?}: {said}"
            );
        }
    }
}

#[test]
fn two_handles_exclude_each_other() {
    for flags in [Flags::empty(), Flags::MUTEX_LOCKING | Flags::CLEAR_IF_FIRST] {
        let dir = tempfile::tempdir().unwrap();
        let one = open(&dir, flags, 3);
        one.store(b"a", b"1", StoreMode::Insert).unwrap();
        let two = one.reopen().unwrap();
        let lock = one.try_chainlock(b"a").unwrap().unwrap();
        assert!(two.try_chainlock(b"a").unwrap().is_none());
        two.chainlock_mark(b"a");
        two.store(b"a", b"2", StoreMode::Modify).unwrap();
        two.chainlock_unmark(b"a").unwrap();
        assert_eq!(one.fetch(b"a").unwrap().as_deref(), Some(&b"2"[..]));
        drop(lock);
        let all = two.try_lockall().unwrap().unwrap();
        assert!(one.try_chainlock_read(b"a").unwrap().is_none());
        one.lockall_mark().unwrap();
        one.store(b"b", b"3", StoreMode::Insert).unwrap();
        one.lockall_unmark().unwrap();
        drop(all);
        assert_eq!(one.count_records().unwrap(), 2);
    }
}

/// A handle can be handed to a lock thread, which keeps the database frozen for others.
#[test]
fn a_lock_thread_freezes_the_database_for_its_owner() {
    for flags in [Flags::empty(), Flags::MUTEX_LOCKING | Flags::CLEAR_IF_FIRST] {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir, flags, 3);
        let (frozen, is_frozen) = std::sync::mpsc::channel();
        let (thaw, asked_to_thaw) = std::sync::mpsc::channel::<()>();
        let own = db.reopen().unwrap();
        let lock_thread = std::thread::spawn(move || {
            let _all = own.lockall().unwrap();
            frozen.send(()).unwrap();
            asked_to_thaw.recv().unwrap();
        });
        is_frozen.recv().unwrap();
        assert!(db.try_chainlock(b"key").unwrap().is_none());
        db.lockall_mark().unwrap();
        db.transaction_start().unwrap();
        db.wipe_all().unwrap();
        db.store(b"key", b"recovered", StoreMode::Insert).unwrap();
        db.transaction_commit().unwrap();
        db.lockall_unmark().unwrap();
        assert!(db.try_chainlock(b"key").unwrap().is_none());
        thaw.send(()).unwrap();
        lock_thread.join().unwrap();
        assert_eq!(
            db.fetch(b"key").unwrap().as_deref(),
            Some(&b"recovered"[..])
        );
        db.check().unwrap();
    }
}

/// Nobody but the first one with `CLEAR_IF_FIRST` empties a file; a file that is no database is
/// never emptied without it.
#[test]
fn only_the_first_opener_clears() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(&dir, Flags::CLEAR_IF_FIRST, 3);
    first.store(b"key", b"value", StoreMode::Insert).unwrap();
    let second = open(&dir, Flags::CLEAR_IF_FIRST, 3);
    assert_eq!(second.count_records().unwrap(), 1);
    drop((first, second));
    let plain = open(&dir, Flags::empty(), 3);
    assert_eq!(plain.count_records().unwrap(), 1);
    // It is mapped here: clearing it now would be the end of this process.
    assert_eq!(
        open(&dir, Flags::CLEAR_IF_FIRST, 3)
            .count_records()
            .unwrap(),
        1
    );
    drop(plain);
    assert_eq!(
        open(&dir, Flags::CLEAR_IF_FIRST, 3)
            .count_records()
            .unwrap(),
        0
    );
    let other = dir.path().join("letter.txt");
    std::fs::write(&other, "not a database").unwrap();
    let error = OpenOptions::new().create(true).open(&other).err().unwrap();
    assert!(matches!(error, tdb::OpenError::NotTdb), "{error}");
    assert_eq!(std::fs::read(&other).unwrap(), b"not a database");
}
