//! A real file system that is full: a tmpfs of a few megabytes. Whatever needs more room fails and
//! says so, nobody is killed, and what was acknowledged is there, for us and for the C library.
//!
//! Needs root. Each test mounts in a mount namespace of its own, which goes away with its thread,
//! however that ends.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{assert_sound_for_c, dump_of, records_of, tdbtool_check};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::statvfs;
use tdb::{Db, Error, ErrorCode, Flags, OpenOptions, Result, StoreMode};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Size of the file system.
const PAGES: u64 = 4096;

/// Pages that are left when an operation begins: those with which one step or another of it fails.
const LEFT: [u64; 12] = [0, 1, 2, 3, 8, 21, 55, 89, 120, 144, 233, 377];

/// The ways to reach and to lock a file.
const SETTINGS: [Flags; 3] = [
    Flags::empty(),
    Flags::NOMMAP,
    Flags::MUTEX_LOCKING.union(Flags::CLEAR_IF_FIRST),
];

/// A small file system.
struct Disk {
    dir: PathBuf,
}

/// Runs a story on a small disk that nobody else sees.
fn on_a_small_disk(story: impl FnOnce(&Disk) + Send) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("disk");
    std::fs::create_dir(&dir).unwrap();
    let disk = Disk { dir };
    std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            disk.mount();
            story(&disk);
        });
        if let Err(panic) = told.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Disk {
    /// For this thread and the processes that it starts.
    fn mount(&self) {
        let none: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root, to mount a file system");
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let size = format!("size={}", PAGES * 4096);
        mount(
            none,
            &self.dir,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(&size[..]),
        )
        .expect("this test needs root, and tmpfs");
    }

    fn free_pages(&self) -> u64 {
        statvfs(&self.dir).unwrap().blocks_available()
    }

    fn filler(&self) -> PathBuf {
        self.dir.join("filler")
    }

    /// Has another process fill the disk up to so many pages.
    fn leave(&self, pages: u64) {
        // Some pages of files that were removed become free late.
        for _ in 0..100 {
            match self.free_pages().checked_sub(pages) {
                Some(0) => return,
                Some(count) => self.add_zeros(count),
                None => panic!("fewer than {pages} pages are free"),
            }
        }
        panic!("{} pages stay free", self.free_pages());
    }

    fn add_zeros(&self, pages: u64) {
        let output = Command::new("dd")
            .args(["if=/dev/zero", "bs=4096", "oflag=append", "conv=notrunc"])
            .arg(format!("of={}", self.filler().display()))
            .arg(format!("count={pages}"))
            .output();
        let output = output.expect("this test needs dd: install the package coreutils");
        assert!(output.status.success(), "{output:?}");
    }

    fn make_room(&self) {
        let filler = self.filler();
        let pages = std::fs::metadata(&filler).unwrap().len() / 4096;
        let wanted = self.free_pages() + pages;
        std::fs::remove_file(filler).unwrap();
        // Some of its pages become free late.
        for _ in 0..1000 {
            if self.free_pages() >= wanted {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{} of {wanted} pages are free", self.free_pages());
    }

    /// A new database, with some records in it and some free space.
    fn database(&self, flags: Flags) -> Acknowledged {
        let path = self.dir.join("full.tdb");
        let _ = std::fs::remove_file(&path);
        let options = OpenOptions::new().flags(flags).hash_size(7).create(true);
        let mut db = Acknowledged {
            db: options.open(&path).unwrap(),
            records: Records::new(),
        };
        for n in 0..20_u8 {
            db.store(&[n], &[n; 200]).unwrap();
        }
        db
    }
}

/// A database, and what it must contain.
struct Acknowledged {
    db: Db,
    records: Records,
}

impl Acknowledged {
    /// Fails unless both libraries find the file sound, with the records that were acknowledged.
    fn assert_kept_for_both(&self, context: &str) {
        self.assert_kept(context);
        let path = self.db.path();
        assert_eq!(dump_of(path), self.records, "{context}, by tdbdump");
        if self.db.uses_mutexes() {
            assert!(tdbtool_check(path).is_some(), "{context}: tdbtool check");
        } else {
            assert_sound_for_c(path, context);
        }
    }

    fn store(&mut self, key: &[u8], data: &[u8]) -> Result<()> {
        self.db.store(key, data, StoreMode::Replace)?;
        self.records.insert(key.to_vec(), data.to_vec());
        Ok(())
    }

    fn append(&mut self, key: &[u8], data: &[u8]) -> Result<()> {
        self.db.append(key, data)?;
        self.records.entry(key.to_vec()).or_default().extend(data);
        Ok(())
    }

    fn transact(&mut self, key: &[u8], data: &[u8]) -> Result<()> {
        self.db.transaction_start()?;
        self.db.store(key, data, StoreMode::Replace)?;
        self.db.delete(&[0])?;
        self.db.transaction_commit()?;
        self.records.insert(key.to_vec(), data.to_vec());
        self.records.remove(&[0][..]);
        Ok(())
    }

    fn transact_in_two_steps(&mut self, key: &[u8], data: &[u8]) -> Result<()> {
        self.db.transaction_start()?;
        self.db.store(key, data, StoreMode::Replace)?;
        self.db.transaction_prepare()?;
        // From here on nothing may fail for lack of room.
        self.db.transaction_commit().unwrap();
        self.records.insert(key.to_vec(), data.to_vec());
        Ok(())
    }
}

impl Acknowledged {
    /// Fails unless the file is sound for us, with the records that were acknowledged.
    fn assert_kept(&self, context: &str) {
        let report = self.db.check();
        let report = report.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(report.records, self.records.len() as u64, "{context}");
        assert_eq!(records_of(&self.db), self.records, "{context}");
    }
}

/// Something that needs more room each time. Its number is that of the attempt.
type Operation = fn(&mut Acknowledged, u32) -> Result<()>;

const OPERATIONS: [(&str, Operation); 7] = [
    ("store", |db, n| db.store(&n.to_le_bytes(), &[1; 3000])),
    ("append", |db, _| db.append(&[1], &[2; 2000])),
    ("replace", |db, n| {
        db.store(&[2], &vec![3; 4000 * (n as usize + 1)])
    }),
    ("one that makes the file larger", |db, n| {
        db.store(&[3], &vec![4; 120_000 * (n as usize + 1)])
    }),
    ("transaction", |db, n| {
        db.transact(&n.to_le_bytes(), &[5; 9000])
    }),
    ("transaction that overwrites", |db, n| {
        db.transact(&[4], &vec![6; 30_000 * (n as usize + 1)])
    }),
    ("prepared transaction", |db, n| {
        db.transact_in_two_steps(&n.to_le_bytes(), &[7; 9000])
    }),
];

fn assert_no_space(error: &Error, context: &str) {
    assert!(
        matches!(error, Error::NoSpace { .. }),
        "{context}: {error:?}"
    );
    assert_eq!(error.code(), ErrorCode::OutOfMemory, "{context}");
    assert!(error.to_string().contains("no space left on device"));
}

/// Repeats an operation until the disk is full, which must come.
fn fill_up(db: &mut Acknowledged, operation: Operation, context: &str) {
    let mut attempts = 0..2000;
    let error = attempts.find_map(|n| operation(db, n).err());
    assert_no_space(&error.expect("the disk is never full"), context);
}

/// Each operation, with any room that is left.
fn fill_with(flags: Flags) {
    on_a_small_disk(|disk| {
        for (name, operation) in OPERATIONS {
            for pages in LEFT {
                let context = format!("{name}, {flags:?}, {pages} pages left");
                let mut db = disk.database(flags);
                disk.leave(pages);
                fill_up(&mut db, operation, &context);
                assert!(!db.db.in_transaction(), "{context}");
                db.assert_kept_for_both(&context);
                // It goes on as soon as there is room.
                disk.make_room();
                operation(&mut db, 0).unwrap_or_else(|error| panic!("{context}: {error}"));
                db.assert_kept_for_both(&context);
            }
        }
    });
}

#[test]
fn whatever_does_not_fit_fails_and_the_rest_is_kept() {
    fill_with(SETTINGS[0]);
}

#[test]
fn whatever_does_not_fit_fails_and_the_rest_is_kept_without_mmap() {
    fill_with(SETTINGS[1]);
}

#[test]
fn whatever_does_not_fit_fails_and_the_rest_is_kept_with_mutexes() {
    fill_with(SETTINGS[2]);
}

/// What was deleted is room for others, however full the disk is.
#[test]
fn a_full_disk_does_not_keep_records_from_being_changed() {
    on_a_small_disk(|disk| {
        for flags in SETTINGS {
            let context = format!("{flags:?}");
            let mut db = disk.database(flags);
            disk.leave(0);
            fill_up(&mut db, OPERATIONS[0].1, &context);
            assert!(db.db.delete(&[1]).unwrap());
            db.records.remove(&[1][..]);
            db.store(b"instead", &[8; 150]).unwrap();
            db.assert_kept_for_both(&context);
            drop(db.db);
            let path = disk.dir.join("full.tdb");
            let again = OpenOptions::new().flags(flags - Flags::CLEAR_IF_FIRST);
            let again = again.open(&path).unwrap();
            assert_eq!(records_of(&again), db.records, "{context}");
            disk.make_room();
        }
    });
}

#[test]
fn a_database_that_cannot_be_created_is_an_error_and_can_be_created_later() {
    on_a_small_disk(|disk| {
        for flags in SETTINGS {
            for pages in 0..5 {
                let path = disk.dir.join(format!("new-{pages}-{}.tdb", flags.bits()));
                disk.leave(pages);
                let options = OpenOptions::new().flags(flags).create(true);
                let options = options.hash_size(10_000);
                let error = options.open(&path).err().expect("there is no room for it");
                assert_eq!(error.errno(), Some(libc::ENOSPC), "{error}");
                disk.make_room();
                let db = options.open(&path).unwrap();
                db.store(b"key", b"data", StoreMode::Insert).unwrap();
                db.check().unwrap();
                std::fs::remove_file(&path).unwrap();
            }
        }
    });
}

fn assert_not_sparse(path: &Path, context: &str) {
    let metadata = File::open(path).unwrap().metadata().unwrap();
    assert!(
        metadata.blocks() * 512 >= metadata.len(),
        "{context}: {metadata:?}"
    );
}

/// Others may take all the room that is left at any moment: what we have made large has its blocks,
/// down to the last hash chain that nobody has used yet.
#[test]
fn files_of_ours_have_all_their_blocks() {
    on_a_small_disk(|disk| {
        for flags in SETTINGS {
            let context = format!("{flags:?}");
            let path = disk.dir.join("blocks.tdb");
            let options = OpenOptions::new().flags(flags).hash_size(10_000);
            let mut db = Acknowledged {
                db: options.create(true).open(&path).unwrap(),
                records: Records::new(),
            };
            assert_not_sparse(&path, &context);
            db.store(b"one that makes the file larger", &[1; 10])
                .unwrap();
            assert_not_sparse(&path, &context);
            db.transact(b"one that makes room for a log", &[1; 10])
                .unwrap();
            assert_not_sparse(&path, &context);
            disk.leave(0);
            // Every chain, and all the free space.
            fill_up(
                &mut db,
                |db, n| db.store(&n.to_le_bytes(), &[2; 100]),
                &context,
            );
            db.assert_kept_for_both(&context);
            disk.make_room();
            std::fs::remove_file(&path).unwrap();
        }
    });
}

/// A copy of a database without the blocks that are all zeros, as backups make it.
fn sparse_copy(disk: &Disk, flags: Flags) -> (PathBuf, Records) {
    let db = disk.database(flags);
    let (source, path) = (db.db.path().to_owned(), disk.dir.join("sparse.tdb"));
    let records = db.records;
    drop(db.db);
    let status = Command::new("cp")
        .arg("--sparse=always")
        .args([&source, &path])
        .status();
    assert!(status.expect("install the package coreutils").success());
    std::fs::remove_file(source).unwrap();
    let metadata = std::fs::metadata(&path).unwrap();
    assert!(metadata.blocks() * 512 < metadata.len(), "{metadata:?}");
    (path, records)
}

/// On a full disk a write to a place without a block kills the C library. We refuse to write, and
/// read what there is.
#[test]
fn a_sparse_file_on_a_full_disk_can_be_read_but_not_written() {
    on_a_small_disk(|disk| {
        for flags in [Flags::empty(), Flags::NOMMAP] {
            let context = format!("{flags:?}");
            let (path, records) = sparse_copy(disk, flags);
            disk.leave(0);
            let reader = OpenOptions::new().flags(flags).read_only(true);
            let reader = reader.open(&path).unwrap();
            assert_eq!(records_of(&reader), records, "{context}");
            reader.check().unwrap();
            let db = OpenOptions::new().flags(flags).open(&path).unwrap();
            let mut db = Acknowledged { db, records };
            for (name, operation) in OPERATIONS {
                let context = format!("{context}, {name}");
                assert_no_space(&operation(&mut db, 0).unwrap_err(), &context);
                db.assert_kept(&context);
            }
            assert_no_space(&db.db.delete(&[1]).unwrap_err(), &context);
            db.assert_kept(&context);
            disk.make_room();
            for (name, operation) in OPERATIONS {
                operation(&mut db, 0).unwrap();
                db.assert_kept_for_both(&format!("{context}, {name}, later"));
            }
            assert_not_sparse(&path, &context);
        }
    });
}

/// The same while the file is open and mapped, which another process has made larger by a hole.
#[test]
fn a_hole_that_another_process_makes_is_noticed() {
    on_a_small_disk(|disk| {
        for flags in SETTINGS {
            let context = format!("{flags:?}");
            let mut db = disk.database(flags);
            disk.leave(0);
            let file = File::options().write(true).open(db.db.path()).unwrap();
            let len = file.metadata().unwrap().len();
            file.set_len(len + 40 * 4096).unwrap();
            let size = db.db.size().unwrap();
            assert!(u64::from(size) >= 40 * 4096, "{context}");
            db.assert_kept(&context);
            assert_no_space(&db.store(b"new", &[1; 10]).unwrap_err(), &context);
            db.assert_kept(&context);
            disk.make_room();
            disk.leave(300);
            fill_up(&mut db, OPERATIONS[0].1, &context);
            db.assert_kept_for_both(&context);
            assert_not_sparse(db.db.path(), &context);
            disk.make_room();
        }
    });
}

/// A rollback needs no room.
#[test]
fn an_unfinished_commit_is_rolled_back_on_a_full_disk() {
    on_a_small_disk(|disk| {
        let path = disk.dir.join("recover.tdb");
        std::fs::write(&path, common::golden_file("recover_mid_write")).unwrap();
        disk.leave(0);
        let db = OpenOptions::new().open(&path).unwrap();
        let records = records_of(&db);
        Acknowledged { db, records }.assert_kept_for_both("after the rollback");
    });
}
