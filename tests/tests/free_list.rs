//! Stories about processes that have the lock of a database's free list.
//!
//! One is stopped while it has it. Stores that need room wait, and nobody else: not other records,
//! not other databases, not the cluster. When the process goes on, all that waited is done.
//!
//! Others have it nearly all the time, while records that grow go from node to node. No change is
//! lost.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ctdb_e2e::{Status, TestCluster, TestResult, step};
use ctdb_proto::RecordHeader;
use ctdb_tools::blocking::{Connection, Database};
use ctdb_tools::local_cluster::{Node, Options, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MUTEXES: &str = "tdb mutexes = true";
const NO_MUTEXES: &str = "tdb mutexes = false";

const DATABASE: &str = "free_list.tdb";
const LIMIT: Duration = Duration::from_secs(120);

/// The daemon mentions a wait after 10 s, and looks every few seconds.
const MENTIONED: Duration = Duration::from_secs(60);

/// What a call of somebody who needs no room may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Records that come to the node and need room: more than locks may be waited for at a time
/// (`LockProcessesPerDB`).
const NEWCOMERS: usize = 500;

#[test]
fn a_process_stops_with_a_mutex() -> TestResult {
    a_process_stops(MUTEXES)
}

#[test]
fn a_process_stops_with_a_lock_of_the_kernel() -> TestResult {
    a_process_stops(NO_MUTEXES)
}

#[test]
fn records_that_grow_with_mutexes() -> TestResult {
    records_grow(MUTEXES)
}

#[test]
fn records_that_grow_with_locks_of_the_kernel() -> TestResult {
    records_grow(NO_MUTEXES)
}

/// A healthy cluster with this setting for databases. A node that stands still is noticed after four
/// seconds.
fn cluster_with(setting: &str) -> TestResult<TestCluster> {
    let mut cluster = TestCluster::create(&Options {
        tunables: vec![("KeepaliveInterval", 1), ("KeepaliveLimit", 4)],
        ..TestCluster::options()
    })?;
    for node in cluster.nodes() {
        let path = node.base().join("ctdb.conf");
        let text = std::fs::read_to_string(&path)?;
        let section = "[database]\n";
        std::fs::write(
            &path,
            text.replace(section, &format!("{section}\t{setting}\n")),
        )?;
    }
    cluster.start_healthy()?;
    Ok(cluster)
}

fn a_process_stops(setting: &str) -> TestResult {
    let cluster = cluster_with(setting)?;
    let sockets = [cluster.at(0).socket(), cluster.at(1).socket()];
    let mut here = Connection::connect(&sockets[0])?;
    let mut there = Connection::connect(&sockets[1])?;
    let database = here.attach(DATABASE)?;
    let elsewhere = there.attach(DATABASE)?;
    for (file, connection) in [(&database, &mut here), (&elsewhere, &mut there)] {
        file.update(connection, b"known", |_| b"value".to_vec())?;
    }
    let generation = cluster.ctdb(0, &["status"]);
    let generation = generation_of(&generation).to_owned();

    step("a process stops with the lock of the free list");
    let mut holder = Holder::start(&sockets[0], None)?;
    holder.signal(Signal::SIGSTOP)?;

    step("records come to the node that need room");
    let keys: Vec<Vec<u8>> = (0..NEWCOMERS)
        .map(|number| format!("newcomer {number}").into_bytes())
        .collect();
    let mut waiter = Connection::connect(&sockets[0])?;
    waiter.set_limit(LIMIT);
    let (id, wanted) = (waiter.attach(DATABASE)?, keys.clone());
    let waiting = thread::spawn(move || id.bring(&mut waiter, &wanted));

    step("others are served all the while");
    let log = cluster.at(0).log();
    let begin = Instant::now();
    let mut slowest = Duration::ZERO;
    let mentioned = wait_until(MENTIONED, || {
        let asked = Instant::now();
        use_without_room([(&database, &mut here), (&elsewhere, &mut there)])
            .expect("is served meanwhile");
        cluster.ctdb(1, &["-n", "0", "ping"]);
        slowest = slowest.max(asked.elapsed());
        for status in Status::of_all(cluster.nodes()) {
            assert!(status.is_some_and(|status| status.is_healthy(3)));
        }
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("Unable to get free list lock on database free_list.tdb for")
    });
    let text = std::fs::read_to_string(&log)?;
    assert!(mentioned, "nothing about the free list in the log:\n{text}");
    assert!(slowest < PATIENCE, "a round of calls took {slowest:?}");
    assert!(!waiting.is_finished(), "done without room");
    assert!(begin.elapsed() > Duration::from_secs(9));

    step("the process goes on");
    holder.signal(Signal::SIGCONT)?;
    holder.end()?;
    waiting.join().expect("the waiter does not panic")?;
    for key in &keys {
        let value = database.file().fetch(key)?.expect("it is here");
        let (header, _) = RecordHeader::split(&value)?;
        assert_eq!(header.dmaster, 0, "{key:?}");
    }
    database.file().check()?;
    let status = cluster.ctdb(0, &["status"]);
    assert_eq!(generation_of(&status), generation, "a recovery: {status}");
    Ok(())
}

/// Records that all nodes write to, and what each write adds to them.
const SHARED: u32 = 10;
const PIECE: &[u8] = b"one more piece";

/// How long a process has the lock each time.
const HELD_FOR: u32 = 5;
const WRITING_FOR: Duration = Duration::from_secs(10);

fn records_grow(setting: &str) -> TestResult {
    let cluster = cluster_with(setting)?;
    let sockets: Vec<_> = cluster.nodes().iter().map(Node::socket).collect();
    let mut holders = Vec::new();
    for socket in &sockets {
        holders.push(Holder::start(socket, Some(HELD_FOR))?);
    }

    step("all nodes write to the same records");
    let end = Instant::now() + WRITING_FOR;
    let writers: Vec<_> = sockets.iter().chain(&sockets).cloned().collect();
    let writing: Vec<_> = writers
        .into_iter()
        .map(|socket| thread::spawn(move || write_until(&socket, end)))
        .collect();
    let locking: Vec<_> = sockets
        .iter()
        .cloned()
        .map(|socket| thread::spawn(move || lock_until(&socket, end)))
        .collect();
    let mut written = 0;
    for writer in writing {
        written += writer.join().expect("no writer panics");
    }
    for locker in locking {
        locker.join().expect("no locker panics");
    }
    for holder in &mut holders {
        holder.end()?;
    }

    step(&format!("all {written} writes are there"));
    let mut reader = Connection::connect(&sockets[0])?;
    let database = reader.attach(DATABASE)?;
    let mut bytes = 0;
    for key in 0..SHARED {
        database.update(&mut reader, &key.to_le_bytes(), |old| {
            bytes += old.len();
            old.to_vec()
        })?;
    }
    assert_eq!(bytes, written * PIECE.len());
    assert!(written > 100, "only {written} writes");
    database.file().check()?;
    Ok(())
}

/// Adds to the records in turn. Returns how often.
fn write_until(socket: &Path, end: Instant) -> usize {
    let mut connection = Connection::connect(socket).expect("the daemon serves");
    connection.set_limit(LIMIT);
    let database = connection.attach(DATABASE).expect("is attached");
    let mut written = 0;
    for key in (0..SHARED).cycle() {
        if Instant::now() >= end {
            break;
        }
        let added = database.update(&mut connection, &key.to_le_bytes(), |old| {
            [old, PIECE].concat()
        });
        added.expect("a record is written");
        written += 1;
    }
    written
}

/// Keeps the chains of the records locked in turn, so that who has the free list finds them busy.
fn lock_until(socket: &Path, end: Instant) {
    let mut connection = Connection::connect(socket).expect("the daemon serves");
    let database = connection.attach(DATABASE).expect("is attached");
    for key in (0..SHARED).cycle() {
        if Instant::now() >= end {
            break;
        }
        let locked = database.file().chainlock(&key.to_le_bytes());
        let _locked = locked.expect("a chain is locked");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A record that both nodes have room for goes to and fro, and another database grows.
fn use_without_room(users: [(&Database, &mut Connection); 2]) -> TestResult {
    for (database, connection) in users {
        connection.call(database.migrate(b"known"))?;
        connection.call(database.fetch(b"known"))?;
        let other = connection.attach("other.tdb")?;
        let key = format!("{:?}", Instant::now());
        other.update(connection, key.as_bytes(), |_| b"value".to_vec())?;
    }
    Ok(())
}

/// The line `Generation:NUMBER` of `ctdb status`.
fn generation_of(status: &str) -> &str {
    let mut lines = status.lines();
    lines
        .find(|line| line.starts_with("Generation:"))
        .expect("the status tells the generation")
}

/// A process that has the lock of the free list.
struct Holder(Child);

impl Holder {
    /// `time`: for how many milliseconds it has the lock before it takes it anew.
    fn start(socket: &Path, time: Option<u32>) -> TestResult<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_hold_freelist"))
            .arg(socket)
            .arg(DATABASE)
            .args(time.map(|time| time.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut holder = Self(child);
        let said = holder.0.stdout.as_mut().ok_or("no standard output")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        assert_eq!(line, "held\n");
        Ok(holder)
    }

    fn signal(&self, signal: Signal) -> TestResult {
        kill(Pid::from_raw(i32::try_from(self.0.id())?), signal)?;
        Ok(())
    }

    /// Has it let go, and waits until it is gone.
    fn end(&mut self) -> TestResult {
        drop(self.0.stdin.take());
        let status = self.0.wait()?;
        assert!(status.success(), "{status}");
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Too late, if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
