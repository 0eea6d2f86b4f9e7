//! Story: a million records are written on three nodes and nine out of ten of them deleted, while
//! other clients write, delete and write again a few keys that all nodes want. Vacuuming removes
//! every deleted record from the files of all nodes; nothing that was deleted comes back, and
//! nothing else is lost (`data-plane.md` 8).
//!
//! *Deleted* is what `smbd` does: the record becomes empty in the local file, and the daemon is
//! told by `SCHEDULE_FOR_DELETION`. To go, a record comes home to its lmaster, and all other nodes
//! delete their copies first.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ctdb_client::Client;
use ctdb_e2e::{Bulk, TestCluster, TestResult, in_runtime, step};
use ctdb_proto::{DbFlags, RecordHeader};
use ctdb_tools::local_cluster::{Node, wait_until};

const NAME: &str = "vacuum.tdb";
const NODES: usize = 3;
const RECORDS: usize = 1_000_000;
/// Of these one stays.
const IN: usize = 10;
/// For everything that is deleted to be gone.
const VACUUM_LIMIT: Duration = Duration::from_secs(300);

#[test]
fn what_is_deleted_leaves_all_nodes_and_nothing_else_does() -> TestResult {
    let mut options = TestCluster::options();
    options.tunables = vec![("VacuumInterval", 1), ("VacuumFastPathCount", 3)];
    let cluster = TestCluster::started(&options)?;
    let sockets: Vec<PathBuf> = cluster.nodes().iter().map(Node::socket).collect();
    let book = Book::default();
    let bulk = Bulk::new(sockets.clone(), NAME, RECORDS);
    thread::scope(|scope| {
        let keeping = scope.spawn(|| book.keep(&sockets));
        let worked = panic::catch_unwind(AssertUnwindSafe(|| write_and_delete(&bulk, &sockets)));
        book.closed.store(true, Ordering::Relaxed);
        keeping.join().expect("a client of the book panicked");
        worked.unwrap_or_else(|why| panic::resume_unwind(why));
    });
    book.check(&sockets)
}

fn write_and_delete(bulk: &Bulk, sockets: &[PathBuf]) {
    timed("a million records written", || bulk.write());
    timed("nine of ten deleted", || bulk.delete(deleter));
    timed("all gone from the files", || {
        let gone = wait_until(VACUUM_LIMIT, || {
            thread::sleep(Duration::from_secs(1));
            let left = |socket| left_of_deleted(bulk, socket);
            let left: Vec<usize> = sockets.iter().map(|socket| left(socket)).collect();
            step(&format!("deleted records left in the files: {left:?}"));
            left.iter().all(|left| *left == 0)
        });
        assert!(gone, "not all gone after {VACUUM_LIMIT:?}");
    });
    let owned = |socket| owned_of_kept(bulk, socket);
    let owned: usize = sockets.iter().map(|socket| owned(socket)).sum();
    assert_eq!(owned, RECORDS / IN, "records that were not deleted");
}

fn timed(what: &str, work: impl FnOnce()) {
    let begun = Instant::now();
    work();
    step(&format!("{what}: {:.1} s", begun.elapsed().as_secs_f64()));
}

/// Most records where they were written; every seventh by another node, so that copies of it with
/// data stay behind. One in ten stays.
fn deleter(number: usize) -> Option<usize> {
    let node = if number.is_multiple_of(7) {
        (number + 1) % NODES
    } else {
        number % NODES
    };
    is_deleted(number).then_some(node)
}

fn is_deleted(number: usize) -> bool {
    !number.is_multiple_of(IN)
}

/// Records in the file of a node, newest or not, that were deleted.
fn left_of_deleted(bulk: &Bulk, socket: &Path) -> usize {
    count(bulk, socket, |_, number, _| is_deleted(number))
}

/// Records that were not deleted, have their data, and are on this node.
fn owned_of_kept(bulk: &Bulk, socket: &Path) -> usize {
    count(bulk, socket, |me, number, value| {
        let is_whole =
            |(header, data): (RecordHeader, &[u8])| header.dmaster == me && data == Bulk::DATA;
        !is_deleted(number) && RecordHeader::split(value).is_ok_and(is_whole)
    })
}

fn count(bulk: &Bulk, socket: &Path, counts: impl Fn(u32, usize, &[u8]) -> bool) -> usize {
    let (connection, database) = bulk.open(socket);
    let me = connection.pnn().get();
    let mut count = 0;
    let read = database.file().traverse_read(&mut |key, value| {
        let is_one = Bulk::number(key).is_some_and(|number| counts(me, number, value));
        count += usize::from(is_one);
        ControlFlow::Continue(())
    });
    read.expect("the file can be read");
    count
}

/// What a few records hold that clients on all nodes change and delete all the time. A client
/// looks up and changes the entry of a record while it has the lock on the record, so what it
/// finds in the record must be what is in the book.
#[derive(Default)]
struct Book {
    entries: Mutex<BTreeMap<String, u64>>,
    last_value: AtomicU64,
    deletions: AtomicU64,
    closed: AtomicBool,
    wrong: Mutex<Vec<String>>,
}

const KEYS: usize = 300;
const CLIENTS: usize = 6;
const LONGEST_PAUSE: Duration = Duration::from_millis(4);
/// Less than any machine does.
const FEWEST: u64 = 1000;

impl Book {
    fn keep(&self, sockets: &[PathBuf]) {
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let socket = &sockets[client % NODES];
                scope.spawn(move || {
                    let done = in_runtime(self.work(socket));
                    done.unwrap_or_else(|error| panic!("client {client} of the book: {error}"));
                });
            }
        });
    }

    async fn work(&self, socket: &Path) -> TestResult {
        let client = Client::connect(socket).await?;
        let database = client.attach(NAME, DbFlags::empty()).await?;
        while !self.closed.load(Ordering::Relaxed) {
            self.change(&database).await?;
            // Some keys rest for longer than a run of vacuuming takes.
            tokio::time::sleep(LONGEST_PAUSE.mul_f64(fastrand::f64())).await;
        }
        Ok(())
    }

    async fn change(&self, database: &ctdb_client::Database) -> TestResult {
        let key = format!("book {}", fastrand::usize(..KEYS));
        let mut record = database.fetch_lock(key.clone()).await?;
        self.compare(&key, record.data());
        if fastrand::bool() {
            let value = self.last_value.fetch_add(1, Ordering::Relaxed) + 1;
            record.store(value.to_le_bytes().to_vec()).await?;
            self.entries().insert(key, value);
        } else {
            self.deletions.fetch_add(1, Ordering::Relaxed);
            self.entries().remove(&key);
            record.delete().await?;
        }
        Ok(())
    }

    fn compare(&self, key: &str, data: &[u8]) {
        let found = data.try_into().ok().map(u64::from_le_bytes);
        let expected = self.entries().get(key).copied();
        if found != expected || (found.is_none() && !data.is_empty()) {
            let text = format!("{key} is {found:?} ({data:02x?}), not {expected:?}");
            self.wrong.lock().expect("nobody panics here").push(text);
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.entries.lock().expect("nobody panics here")
    }

    fn check(&self, sockets: &[PathBuf]) -> TestResult {
        let values = self.last_value.load(Ordering::Relaxed);
        let deletions = self.deletions.load(Ordering::Relaxed);
        step(&format!("the book: {values} values, {deletions} deletions"));
        for socket in sockets {
            in_runtime(self.compare_all(socket))?;
        }
        let wrong = self.wrong.lock().expect("nobody panics here");
        assert!(wrong.is_empty(), "{} findings: {wrong:#?}", wrong.len());
        assert!(values > FEWEST && deletions > FEWEST);
        Ok(())
    }

    /// Every node has, or finds, what is in the book.
    async fn compare_all(&self, socket: &Path) -> TestResult {
        let client = Client::connect(socket).await?;
        let database = client.attach(NAME, DbFlags::empty()).await?;
        for key in (0..KEYS).map(|number| format!("book {number}")) {
            let data = database.fetch(key.clone()).await?.unwrap_or_default();
            self.compare(&key, &data);
        }
        Ok(())
    }
}
