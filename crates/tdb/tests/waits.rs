//! Three of us and a traverse of the C library, in a database with mutexes, where nobody waits for
//! ever.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::compile;
use tdb::{Db, Flags, OpenOptions, StoreMode};

/// Places in the file (`tdb.md` 5.1 and 5.2).
const ALLRECORD_MUTEX: u64 = 168;
const ALLRECORD_STATE: u64 = 208;
const STATE_FREE: u8 = 2;
const CHAINS: u32 = 7;

/// Traverses the database, and stays on each record until its input ends.
fn walk(holder: &Path, db: &Db) -> Child {
    let mut walker = Command::new(holder)
        .arg(db.path())
        .arg(format!("{:x}", db.flags().bits()))
        .args(["hold", "walk"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let said = walker.stdout.as_mut().unwrap();
    BufReader::new(said).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    walker
}

/// Does something with a handle in a thread. Tells when it is done.
fn beside(db: &Db, work: impl FnOnce(&Db) + Send + 'static) -> Receiver<()> {
    let (db, (done, is_done)) = (db.reopen().unwrap(), channel());
    std::thread::spawn(move || {
        work(&db);
        done.send(()).unwrap();
    });
    is_done
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 10 seconds: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn byte(path: &PathBuf, at: u64) -> u8 {
    let mut byte = [0];
    let file = File::open(path).unwrap();
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0]
}

/// One of us wants to lock everything while somebody stays in a chain, and another waits behind him
/// with a transaction. A traverse of the C library, standing on a record, wants to go on: if it had
/// to wait for the first, the second would come before it, and wait for its record.
#[test]
fn a_traverse_does_not_wait_for_one_who_wants_all() {
    let dir = tempfile::tempdir().unwrap();
    let holder = compile("holder", dir.path());
    let path = dir.path().join("waits.tdb");
    let flags = Flags::MUTEX_LOCKING | Flags::CLEAR_IF_FIRST | Flags::NOSYNC;
    let options = OpenOptions::new().flags(flags).hash_size(CHAINS);
    let db = options.create(true).open(&path).unwrap();
    for key in 0..20_u8 {
        db.store(&[key], b"value", StoreMode::Insert).unwrap();
    }
    let mut walker = walk(&holder, &db);
    let last = (0..20).find(|&key| db.chain_of(&[key]) == CHAINS - 1);
    let busy = db.chainlock(&[last.unwrap()]).unwrap();

    let all = beside(&db, |db| drop(db.lockall().unwrap()));
    wait_until("lock on all", || byte(&path, ALLRECORD_STATE) != STATE_FREE);
    let commit = beside(&db, |db| {
        db.transaction_start().unwrap();
        db.store(b"new", b"value", StoreMode::Insert).unwrap();
        db.transaction_commit().unwrap();
    });
    wait_until("transaction", || {
        byte(&path, ALLRECORD_MUTEX + 3) & 0x80 != 0
    });
    drop(walker.stdin.take());
    // For the traverse to come as far as it can.
    std::thread::sleep(Duration::from_millis(200));
    drop(busy);

    let wait = Duration::from_secs(10);
    let done = [all.recv_timeout(wait), commit.recv_timeout(wait)];
    let killed = done.iter().any(Result::is_err) && walker.kill().is_ok();
    let status = walker.wait().unwrap();
    assert!(!killed && status.success(), "{done:?}, traverse: {status}");
    assert_eq!(db.count_records().unwrap(), 21);
}
