//! Who keeps whom out: each lock held by the C library, and probed by us, and the other way round.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::compile;
use tdb::{AllLock, ChainLock, Db, Flags, OpenOptions, StoreMode};

/// Keys of two chains, with 7 chains and the Jenkins hash.
const A: &str = "a";
const B: &str = "b";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Lock {
    Chain(&'static str),
    ChainRead(&'static str),
    All,
    AllRead,
    Transaction,
    /// A read traverse that stands on the record of [`A`], the only one.
    Traverse,
    /// The same, and it goes on to the other records.
    Walk,
}

impl Lock {
    /// As `holder.c` calls it.
    fn name(self) -> String {
        match self {
            Self::Chain(key) => format!("chain:{key}"),
            Self::ChainRead(key) => format!("chain_read:{key}"),
            Self::All => "all".to_owned(),
            Self::AllRead => "all_read".to_owned(),
            Self::Transaction => "transaction".to_owned(),
            Self::Traverse => "traverse".to_owned(),
            Self::Walk => "walk".to_owned(),
        }
    }

    /// What it needs of each thing that can be locked: 0 nothing, 1 to read it, 2 to write it.
    fn needs(self) -> Needs {
        let nothing = Needs {
            chain_a: 0,
            chain_b: 0,
            records: 0,
            transaction: 0,
        };
        match self {
            Self::Chain(A) => Needs {
                chain_a: 2,
                ..nothing
            },
            Self::Chain(_) => Needs {
                chain_b: 2,
                ..nothing
            },
            Self::ChainRead(A) => Needs {
                chain_a: 1,
                ..nothing
            },
            Self::ChainRead(_) => Needs {
                chain_b: 1,
                ..nothing
            },
            Self::All => Needs {
                chain_a: 2,
                chain_b: 2,
                records: 2,
                ..nothing
            },
            Self::AllRead => Needs {
                chain_a: 1,
                chain_b: 1,
                records: 1,
                ..nothing
            },
            Self::Transaction => Needs {
                chain_a: 1,
                chain_b: 1,
                records: 1,
                transaction: 2,
            },
            Self::Traverse | Self::Walk => Needs {
                records: 1,
                ..nothing
            },
        }
    }

    fn is_all(self) -> bool {
        matches!(self, Self::All | Self::AllRead | Self::Transaction)
    }

    /// Whether two owners can have their locks at the same time.
    fn goes_with(self, other: Self, mutexes: bool) -> bool {
        let (mine, theirs) = (self.needs(), other.needs());
        if mutexes && (self.is_all() && other.is_all()) {
            return false;
        }
        let one_is_all = self.is_all() || other.is_all();
        let chains = |a: u8, b: u8| {
            // A mutex knows no readers. Only the holder of the whole database lets readers in.
            let shared = if mutexes {
                one_is_all && !self.is_all()
            } else {
                true
            };
            a == 0 || b == 0 || (shared && a + b == 2)
        };
        chains(mine.chain_a, theirs.chain_a)
            && chains(mine.chain_b, theirs.chain_b)
            && (mine.records + theirs.records < 3 || mine.records == 0 || theirs.records == 0)
            && mine.transaction + theirs.transaction < 4
    }
}

struct Needs {
    chain_a: u8,
    chain_b: u8,
    records: u8,
    transaction: u8,
}

/// A database with one record, and the means to lock it.
struct Stage {
    dir: tempfile::TempDir,
    holder: PathBuf,
    db: Db,
}

impl Stage {
    fn new(flags: Flags) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let holder = compile("holder", dir.path());
        let flags = flags | Flags::INCOMPATIBLE_HASH | Flags::CLEAR_IF_FIRST;
        let options = OpenOptions::new().flags(flags).hash_size(7).create(true);
        let db = options.open(dir.path().join("locks.tdb")).unwrap();
        assert_ne!(db.chain_of(A.as_bytes()), db.chain_of(B.as_bytes()));
        db.store(A.as_bytes(), b"value", StoreMode::Insert).unwrap();
        Self { dir, holder, db }
    }

    fn command(&self, mode: &str, lock: Lock) -> Command {
        let mut command = Command::new(&self.holder);
        command.arg(self.dir.path().join("locks.tdb"));
        command
            .arg(format!("{:x}", self.db.flags().bits()))
            .arg(mode)
            .arg(lock.name());
        command
    }

    /// A process that holds a lock until it is dropped.
    fn hold(&self, lock: Lock) -> Holder {
        let mut command = self.command("hold", lock);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "held\n", "{lock:?}");
        Holder(process)
    }

    /// Returns when somebody waits for a lock of the kernel on the file.
    fn wait_for_a_waiter(&self) {
        let inode = std::fs::metadata(self.db.path()).unwrap().ino();
        let deadline = Instant::now() + Duration::from_secs(10);
        let waits = |line: &str| line.contains("->") && line.contains(&format!(":{inode} "));
        while !std::fs::read_to_string("/proc/locks")
            .unwrap()
            .lines()
            .any(waits)
        {
            assert!(Instant::now() < deadline, "nobody waits");
            std::thread::yield_now();
        }
    }

    fn c_can_have(&self, lock: Lock) -> bool {
        let status = self.command("try", lock).status().unwrap();
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
        status.success()
    }
}

struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// A lock of ours.
enum Ours<'db> {
    Chain(#[expect(dead_code, reason = "held")] ChainLock<'db>),
    All(#[expect(dead_code, reason = "held")] AllLock<'db>),
    Transaction(&'db Db),
}

impl Drop for Ours<'_> {
    fn drop(&mut self) {
        if let Self::Transaction(db) = self {
            db.transaction_cancel().unwrap();
        }
    }
}

fn try_ours(db: &Db, lock: Lock) -> Option<Ours<'_>> {
    match lock {
        Lock::Chain(key) => db.try_chainlock(key.as_bytes()).unwrap().map(Ours::Chain),
        Lock::ChainRead(key) => db
            .try_chainlock_read(key.as_bytes())
            .unwrap()
            .map(Ours::Chain),
        Lock::All => db.try_lockall().unwrap().map(Ours::All),
        Lock::AllRead => db.try_lockall_read().unwrap().map(Ours::All),
        Lock::Transaction => db
            .try_transaction_start()
            .unwrap()
            .then(|| Ours::Transaction(db)),
        Lock::Traverse | Lock::Walk => panic!("our traverses hold nothing"),
    }
}

const LOCKS: [Lock; 6] = [
    Lock::Chain(A),
    Lock::Chain(B),
    Lock::ChainRead(A),
    Lock::All,
    Lock::AllRead,
    Lock::Transaction,
];

/// A transaction waits for readers to come, whatever is asked: it is tried against another only.
fn can_be_tried(probe: Lock, held: Lock) -> bool {
    probe != Lock::Transaction || held == Lock::Transaction
}

fn assert_conforms(flags: Flags) {
    let stage = Stage::new(flags);
    let mutexes = stage.db.uses_mutexes();
    assert_eq!(mutexes, flags.contains(Flags::MUTEX_LOCKING));
    for held in LOCKS.into_iter().chain([Lock::Traverse]) {
        let holder = stage.hold(held);
        for probe in LOCKS.into_iter().filter(|&probe| can_be_tried(probe, held)) {
            let got = try_ours(&stage.db, probe).is_some();
            assert_eq!(
                got,
                probe.goes_with(held, mutexes),
                "C holds {held:?}, we try {probe:?}"
            );
        }
        drop(holder);
    }
    for held in LOCKS {
        let ours = try_ours(&stage.db, held).unwrap();
        for probe in LOCKS.into_iter().filter(|&probe| can_be_tried(probe, held)) {
            let got = stage.c_can_have(probe);
            assert_eq!(
                got,
                probe.goes_with(held, mutexes),
                "we hold {held:?}, C tries {probe:?}"
            );
        }
        drop(ours);
    }
}

#[test]
fn kernel_locks_exclude_as_those_of_the_c_library() {
    assert_conforms(Flags::empty());
}

#[test]
fn mutexes_exclude_as_those_of_the_c_library() {
    assert_conforms(Flags::MUTEX_LOCKING);
}

/// A record that is deleted while the C library stands on it stays, dead, until that moves on.
#[test]
fn a_record_under_a_traverse_is_not_freed() {
    for flags in [Flags::empty(), Flags::MUTEX_LOCKING] {
        let stage = Stage::new(flags);
        let holder = stage.hold(Lock::Traverse);
        assert!(stage.db.delete(A.as_bytes()).unwrap());
        assert!(!stage.db.exists(A.as_bytes()).unwrap());

        assert!(
            !stage
                .db
                .chain_is_empty(stage.db.chain_of(A.as_bytes()))
                .unwrap()
        );
        drop(holder);
        stage
            .db
            .store(A.as_bytes(), b"again", StoreMode::Insert)
            .unwrap();
        let report = stage.db.check().unwrap();
        assert_eq!((report.records, report.dead), (1, 0));
    }
}

/// A commit waits for those who read, and they can go on meanwhile: one who stands on a record and
/// wants the next one must not be kept from its chain.
#[test]
fn a_commit_lets_a_traverse_come_to_its_end() {
    for flags in [Flags::empty(), Flags::MUTEX_LOCKING] {
        let stage = Stage::new(flags);
        for key in 0..20_u8 {
            stage.db.store(&[key], b"value", StoreMode::Insert).unwrap();
        }
        let mut walker = stage.hold(Lock::Walk);
        let (db, (done, is_done)) = (stage.db.reopen().unwrap(), std::sync::mpsc::channel());
        let commit = std::thread::spawn(move || {
            db.transaction_start().unwrap();
            db.store(b"new", b"value", StoreMode::Insert).unwrap();
            done.send(db.transaction_commit()).unwrap();
        });
        stage.wait_for_a_waiter();
        // The program ends when it has seen all records.
        drop(walker.0.stdin.take());
        let committed = is_done.recv_timeout(Duration::from_secs(10));
        if committed.is_err() {
            walker.0.kill().unwrap();
        }
        committed.expect("the commit waits for ever").unwrap();
        commit.join().unwrap();
        assert_eq!(stage.db.count_records().unwrap(), 22, "{flags:?}");
    }
}

/// The lock of a process that is killed goes to the next who asks.
#[test]
fn a_killed_holder_leaves_no_lock_behind() {
    for flags in [Flags::empty(), Flags::MUTEX_LOCKING] {
        let stage = Stage::new(flags);
        for held in [Lock::Chain(A), Lock::All, Lock::AllRead] {
            let mut holder = stage.hold(held);
            assert!(stage.db.try_chainlock(A.as_bytes()).unwrap().is_none());
            holder.0.kill().unwrap();
            holder.0.wait().unwrap();
            drop(stage.db.chainlock(A.as_bytes()).unwrap());
            drop(stage.db.lockall().unwrap());
            stage
                .db
                .store(A.as_bytes(), b"after", StoreMode::Replace)
                .unwrap();
        }
    }
}

/// Locks nest: inner uses of a lock neither wait for the outer one nor release it.
#[test]
fn locks_nest_within_a_handle() {
    for flags in [Flags::empty(), Flags::MUTEX_LOCKING] {
        let stage = Stage::new(flags);
        let outer = stage.db.chainlock(A.as_bytes()).unwrap();
        let inner = stage.db.try_chainlock(A.as_bytes()).unwrap().unwrap();
        assert!(stage.db.lockall().is_err(), "not with a chain held");
        drop(inner);
        assert!(!stage.c_can_have(Lock::Chain(A)));
        drop(outer);
        assert!(stage.c_can_have(Lock::Chain(A)));
        let all = stage.db.lockall_read().unwrap();
        assert!(stage.db.fetch(A.as_bytes()).unwrap().is_some());
        assert!(
            stage
                .db
                .store(A.as_bytes(), b"no", StoreMode::Replace)
                .is_err()
        );
        drop(all);
        stage
            .db
            .store(A.as_bytes(), b"yes", StoreMode::Replace)
            .unwrap();
    }
}

/// A process that is killed can take the wake-up with it that all others wait for. They get the
/// mutex that nobody holds.
#[test]
fn a_lost_wake_up_does_not_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wake-up.tdb");
    let flags = Flags::MUTEX_LOCKING | Flags::CLEAR_IF_FIRST;
    let options = OpenOptions::new().flags(flags).hash_size(1).create(true);
    let holder = options.open(&path).unwrap();
    let waiter = holder.reopen().unwrap();
    let (locked, is_locked) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let holding = std::thread::spawn({
        let locked = locked.clone();
        move || {
            std::mem::forget(holder.chainlock(b"key").unwrap());
            locked.send(()).unwrap();
            let _ = ended.recv();
        }
    });
    is_locked.recv().unwrap();
    let waiting = std::thread::spawn(move || {
        drop(waiter.chainlock(b"key").unwrap());
        locked.send(()).unwrap();
    });
    // The futex of chain 0, which says that somebody sleeps.
    let (file, at) = (
        std::fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap(),
        216 + 40,
    );
    let mut word = [0; 4];
    while word[3] & 0x80 == 0 {
        std::thread::yield_now();
        file.read_exact_at(&mut word, at).unwrap();
    }
    file.write_all_at(&[0; 4], at).unwrap();
    let woken = is_locked.recv_timeout(Duration::from_secs(30));
    woken.expect("the waiter still sleeps");
    waiting.join().unwrap();
    drop(end);
    holding.join().unwrap();
}
