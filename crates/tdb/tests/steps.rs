//! After every single operation of a long random run Debian's `tdbtool check` finds the file sound,
//! and as many records in it as there should be.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use common::{dump_of, records_of};
use tdb::{Db, Flags, OpenOptions, StoreMode};

const OPERATIONS: u32 = 100_000;
const KEYS: u8 = 40;

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

#[test]
fn every_step_is_sound_for_the_c_library() {
    let flags = Flags::NOSYNC | Flags::SEQNUM;
    let options = OpenOptions::new().flags(flags).hash_size(5);
    let tally = Walk::new(&options, 1).run();
    assert_eq!(tally.with_dead, 0, "{tally:?}");
}

#[test]
fn every_step_is_sound_for_the_c_library_where_dead_records_stay() {
    let flags = Flags::NOSYNC | Flags::NOMMAP | Flags::INCOMPATIBLE_HASH;
    let options = OpenOptions::new().flags(flags).hash_size(3).max_dead(5);
    let tally = Walk::new(&options, 2).run();
    assert!(tally.with_dead > 20, "{tally:?}");
}

/// One `tdbtool` that has a file open, and is asked again and again.
struct Checker {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Checker {
    fn new(path: &Path) -> Self {
        // Without stdbuf the answers would come when the pipe is full.
        let mut process = Command::new("stdbuf")
            .args(["-oL", "tdbtool"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs stdbuf: install the package coreutils");
        Self {
            questions: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }

    /// Number of records in the file; fails unless it is sound.
    fn check(&mut self, context: &str) -> usize {
        self.questions.write_all(b"check\n").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert!(
            !answer.is_empty(),
            "tdbtool ended: install the package tdb-tools"
        );
        let count = answer
            .split_once("Database integrity is OK and has ")
            .and_then(|(_, rest)| rest.split_once(' '));
        let (count, _) = count.unwrap_or_else(|| panic!("{context}: {answer}"));
        count.parse().unwrap()
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How often something happened.
#[derive(Debug, Default)]
struct Tally {
    files: u32,
    growths: u32,
    commits: u32,
    cancels: u32,
    repacks: u32,
    wipes: u32,
    rewrites: u32,
    with_dead: u32,
}

struct Walk {
    dir: tempfile::TempDir,
    options: OpenOptions,
    db: Db,
    checker: Checker,
    /// Of the file, at the last look.
    size: u32,
    random: fastrand::Rng,
    now: Records,
    /// The records without those changes that are not committed yet.
    committed: Option<Records>,
    tally: Tally,
}

impl Walk {
    fn new(options: &OpenOptions, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.tdb");
        let options = options.clone().create(true);
        let db = options.open(&path).unwrap();
        Self {
            dir,
            options,
            size: db.size().unwrap(),
            db,
            checker: Checker::new(&path),
            random: fastrand::Rng::with_seed(seed),
            now: Records::new(),
            committed: None,
            tally: Tally::default(),
        }
    }

    /// Returns what happened how often; fails if something has not.
    fn run(mut self) -> Tally {
        for step in 0..OPERATIONS {
            let done = self.step();
            let context = format!("step {step}, {done}");
            let counted = self.checker.check(&context);
            assert_eq!(counted, self.in_file().len(), "{context}");
            if step.is_multiple_of(1000) {
                self.compare(&context);
            }
            let size = self.db.size().unwrap();
            self.tally.growths += u32::from(size > self.size);
            self.size = size;
        }
        let tally = self.tally;
        assert!(tally.files > 50 && tally.growths > 200, "{tally:?}");
        assert!(tally.commits > 500 && tally.cancels > 100, "{tally:?}");
        assert!(tally.repacks > 50 && tally.wipes > 20, "{tally:?}");
        assert!(tally.rewrites > 100, "{tally:?}");
        tally
    }

    /// The records without the changes of a running transaction.
    fn in_file(&self) -> &Records {
        self.committed.as_ref().unwrap_or(&self.now)
    }

    /// Compares the contents as we see them, and as others do.
    fn compare(&mut self, context: &str) {
        assert_eq!(records_of(&self.db), self.now, "{context}");
        assert_eq!(dump_of(self.db.path()), *self.in_file(), "{context}");
        let report = self.db.check().unwrap();
        self.tally.with_dead += u32::from(report.dead > 0);
    }

    /// Does something. Returns what it was.
    fn step(&mut self) -> String {
        let key = vec![self.random.u8(0..KEYS); 1 + self.random.usize(0..2) * 20];
        match self.random.u32(0..1000) {
            0..450 => self.store(&key),
            450..600 => self.append(&key),
            600..940 => self.delete(&key),
            940..950 => self.measure(),
            950..953 => self.repack(),
            953 => self.wipe(),
            954 => self.begin_anew(),
            955..960 => self.rewrite(),
            _ => self.begin_or_end(),
        }
    }

    fn store(&mut self, key: &[u8]) -> String {
        let data = self.data();
        self.db.store(key, &data, StoreMode::Replace).unwrap();
        let done = format!("store of {} bytes", data.len());
        self.now.insert(key.to_vec(), data);
        done
    }

    fn append(&mut self, key: &[u8]) -> String {
        let data = vec![b'a'; self.random.usize(0..60)];
        self.db.append(key, &data).unwrap();
        self.now.entry(key.to_vec()).or_default().extend(&data);
        format!("append of {} bytes", data.len())
    }

    fn delete(&mut self, key: &[u8]) -> String {
        let existed = self.now.remove(key).is_some();
        assert_eq!(self.db.delete(key).unwrap(), existed);
        "delete".into()
    }

    fn measure(&mut self) -> String {
        let pieces = self.db.freelist_size().unwrap();
        format!("{pieces} pieces of free space")
    }

    fn repack(&mut self) -> String {
        self.db.repack().unwrap();
        self.tally.repacks += 1;
        "repack".into()
    }

    fn wipe(&mut self) -> String {
        self.db.wipe_all().unwrap();
        self.now.clear();
        self.tally.wipes += 1;
        "wipe".into()
    }

    /// Begins, wipes and stores at once: the lock keeps the checker out meanwhile.
    fn rewrite(&mut self) -> String {
        if self.committed.is_some() {
            return "nothing: a transaction is running".into();
        }
        self.db.transaction_start().unwrap();
        self.db.wipe_to_rewrite().unwrap();
        let before = std::mem::take(&mut self.now);
        for _ in 0..self.random.u8(0..40) {
            let key = vec![self.random.u8(0..KEYS); 3];
            match self.random.u8(0..8) {
                0 => drop(self.delete(&key)),
                _ => drop(self.store(&key)),
            }
        }
        if self.random.u8(0..4) == 0 {
            self.db.transaction_cancel().unwrap();
            self.now = before;
            return "cancelled rewrite".into();
        }
        self.db.transaction_commit().unwrap();
        self.tally.rewrites += 1;
        "rewrite".into()
    }

    /// With an empty file, which has to grow.
    fn begin_anew(&mut self) -> String {
        self.tally.files += 1;
        let path = self.dir.path().join(format!("{}.tdb", self.tally.files));
        self.db = self.options.open(&path).unwrap();
        self.checker = Checker::new(&path);
        self.size = self.db.size().unwrap();
        self.now.clear();
        self.committed = None;
        "begin with another file".into()
    }

    fn begin_or_end(&mut self) -> String {
        let Some(before) = self.committed.take() else {
            self.db.transaction_start().unwrap();
            self.committed = Some(self.now.clone());
            return "begin of a transaction".into();
        };
        if self.random.u8(0..4) > 0 {
            self.db.transaction_commit().unwrap();
            self.tally.commits += 1;
            return "commit".into();
        }
        self.db.transaction_cancel().unwrap();
        self.now = before;
        self.tally.cancels += 1;
        "cancel".into()
    }

    /// Mostly short.
    fn data(&mut self) -> Vec<u8> {
        let len = match self.random.u32(0..1000) {
            0..700 => self.random.usize(0..64),
            700..999 => self.random.usize(0..700),
            _ => self.random.usize(0..150_000),
        };
        vec![self.random.u8(b'b'..=b'z'); len]
    }
}
