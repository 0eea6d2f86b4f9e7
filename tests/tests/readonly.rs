//! Story: one writer counts up in a record while eight readers on three nodes read it, from
//! read-only copies where they can. A node with copies is killed, another one is stopped as a
//! whole; the writer goes on soon, and nobody is told anything that was never true.
//!
//! What is promised (`data-plane.md` 4): before the record changes all copies are taken back, so a
//! reader that begins after a write has ended sees it. In the original the order to give a copy
//! back can overtake the copy itself, which then stays: its readers may see an old value once more
//! after a newer one. That is meant by "each value at most once out of order": of the values that
//! a reader gets, none may come twice after a newer one has come. Ours keeps them in order, and we
//! ask that of it: no value is older than the one before, and none older than the last that was
//! written when the read began. Only the readers of a node that is stopped may do the latter:
//! nobody can take their copy back, and they see no other until the node goes on.
//!
//! How long may the writer wait? A revoke that gets no answer ends when its node is given up: at
//! once when the connections break, else after `KeepaliveLimit` + 1 intervals. Then a recovery ends
//! all revokes. (Without either the limit is `ControlTimeout`, 60 s, and the revoke begins anew.)

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ctdb_client::{Client, Database, RecordError};
use ctdb_e2e::{HEALTHY_LIMIT, Status, TestCluster, TestResult, is_ours, step};
use ctdb_proto::{DbFlags, RecordFlags, RecordHeader};
use ctdb_tools::blocking::Connection;
use ctdb_tools::local_cluster::{Node, Signal, wait_until};
use tokio::task::JoinSet;

const NAME: &str = "readonly.tdb";
const KEY: &str = "counter";
const READERS: usize = 8;
/// The writer's node stays: what it has written is lost with it.
const WRITER: usize = 0;

const KEEPALIVE_INTERVAL: u32 = 1;
const KEEPALIVE_LIMIT: u32 = 3;
/// To give a silent node up: 4 s. To recover: well below 1 s, but the machine may be busy.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Between the failures.
const CALM: Duration = Duration::from_secs(2);
/// Between two writes, for the readers to get copies.
const PAUSE: Duration = Duration::from_millis(2);
/// Less than any machine does.
const FEWEST: usize = 100;

#[test]
fn readers_see_what_was_written_in_order_and_the_writer_never_hangs() -> TestResult {
    let mut options = TestCluster::options();
    options.tunables = vec![
        ("KeepaliveInterval", KEEPALIVE_INTERVAL),
        ("KeepaliveLimit", KEEPALIVE_LIMIT),
        // The original waits for 10 s after a recovery before the next one.
        ("RerecoveryTimeout", 1),
    ];
    let mut cluster = TestCluster::started(&options)?;
    let story = Story::new(&cluster);
    let working = story.begin();
    let made = make_trouble(&mut cluster, &story);
    story.ended.store(true, Ordering::Relaxed);
    working.join().expect("a client panicked");
    made?;
    story.check();
    Ok(())
}

fn make_trouble(cluster: &mut TestCluster, story: &Story) -> TestResult {
    thread::sleep(CALM);
    let victim = follower(cluster);
    story.wait_for_copy(victim)?;
    step(&format!("node {victim} has a copy and is killed"));
    story.cut_off(victim);
    cluster.at_mut(victim).kill();
    story.wait_for_writes();
    cluster.at_mut(victim).start()?;
    bring_back(cluster, story);

    thread::sleep(CALM);
    let victim = follower(cluster);
    let daemon = cluster.at(victim).process().expect("it runs");
    story.wait_for_copy(victim)?;
    step(&format!(
        "node {victim} has a copy and is stopped as a whole"
    ));
    story.cut_off(victim);
    daemon.signal(Signal::SIGSTOP);
    story.wait_for_writes();
    // Not continued: what becomes of a node that goes on is the story of `stopped.rs`.
    step(&format!("node {victim} is started anew"));
    cluster.at_mut(victim).kill();
    cluster.at_mut(victim).start()?;
    bring_back(cluster, story);
    thread::sleep(CALM);
    Ok(())
}

/// The last node that is neither the writer's nor the leader: this story is not about who leads
/// when a stopped leader goes on.
fn follower(cluster: &TestCluster) -> usize {
    let leader = Status::of(cluster.at(WRITER)).and_then(|status| status.leader);
    let leader = leader.expect("a healthy cluster has a leader");
    if leader == 2 { 1 } else { 2 }
}

/// Waits for the recovery that takes the node in again: its copies are gone then.
fn bring_back(cluster: &TestCluster, story: &Story) {
    cluster.wait_status(&[0, 1, 2], HEALTHY_LIMIT, "all take part", |status| {
        status.is_healthy(3)
    });
    story.cut_off.store(NOBODY, Ordering::SeqCst);
    step("all nodes take part again");
}

/// In [`Story::cut_off`]: all nodes take part.
const NOBODY: usize = usize::MAX;

/// In [`Story::writer`].
const WRITES: usize = 0;
const WAITS: usize = 1;
const HAS_STOPPED: usize = 2;

/// What the clients and the test share.
struct Story {
    sockets: Vec<PathBuf>,
    ended: AtomicBool,
    /// The last value that has certainly been written.
    written: AtomicU64,
    writer: AtomicUsize,
    /// The node that is out, or may be.
    cut_off: AtomicUsize,
    longest_wait: Mutex<Duration>,
    reads: AtomicUsize,
    /// Reads of a value older than one the same reader has had.
    out_of_order: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

impl Story {
    fn new(cluster: &TestCluster) -> Arc<Self> {
        Arc::new(Self {
            sockets: cluster.nodes().iter().map(Node::socket).collect(),
            ended: AtomicBool::new(false),
            written: AtomicU64::new(0),
            writer: AtomicUsize::new(WRITES),
            cut_off: AtomicUsize::new(NOBODY),
            longest_wait: Mutex::default(),
            reads: AtomicUsize::new(0),
            out_of_order: AtomicUsize::new(0),
            wrong: Mutex::default(),
        })
    }

    /// Has the writer and the readers work in a thread until the story has ended.
    fn begin(self: &Arc<Self>) -> thread::JoinHandle<()> {
        let story = Arc::clone(self);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime needs only descriptors");
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                tasks.spawn(write(Arc::clone(&story)));
                for number in 0..READERS {
                    tasks.spawn(Reader::new(number, &story).work());
                }
                tasks.join_all().await;
            });
        })
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// From now on the readers of this node may miss what is written.
    fn cut_off(&self, node: usize) {
        self.cut_off.store(node, Ordering::SeqCst);
    }

    /// Keeps the writer from writing, and waits until a node has a copy of what it has written.
    fn wait_for_copy(&self, node: usize) -> TestResult {
        self.writer.store(WAITS, Ordering::SeqCst);
        let mut connection = Connection::connect(&self.sockets[node])?;
        let database = connection.attach(NAME)?;
        let has_copy = wait_until(HEALTHY_LIMIT, || {
            let value = database.file().fetch(KEY.as_bytes()).ok().flatten();
            let value = value.unwrap_or_default();
            let is_copy = |header: RecordHeader| {
                header.flags.contains(RecordFlags::RO_HAVE_READONLY)
                    && header.dmaster != connection.pnn().get()
            };
            self.writer.load(Ordering::SeqCst) == HAS_STOPPED
                && RecordHeader::split(&value).is_ok_and(|(header, _)| is_copy(header))
        });
        assert!(has_copy, "node {node} gets no read-only copy");
        Ok(())
    }

    /// Lets the writer go on, which has to take back the copy of a node that does not answer.
    fn wait_for_writes(&self) {
        let asked = Instant::now();
        let from = self.written.load(Ordering::SeqCst);
        self.writer.store(WRITES, Ordering::SeqCst);
        let goes_on = wait_until(LONGEST_WAIT, || self.written.load(Ordering::SeqCst) > from);
        assert!(goes_on, "the writer hangs for {LONGEST_WAIT:?}");
        let took = asked.elapsed().as_secs_f64();
        step(&format!("the writer goes on after {took:.1} s"));
    }

    fn note(&self, what: String) {
        self.wrong.lock().expect("nobody panics here").push(what);
    }

    fn note_wait(&self, took: Duration) {
        let mut longest = self.longest_wait.lock().expect("nobody panics here");
        *longest = longest.max(took);
    }

    /// `None`: the daemon does not serve now.
    async fn attach(&self, node: usize) -> Option<Database> {
        let client = Client::connect(&self.sockets[node]).await.ok()?;
        // Sets READONLY on all nodes; one that was started again has lost it.
        client.attach(NAME, DbFlags::READONLY).await.ok()
    }

    fn check(&self) {
        let written = self.written.load(Ordering::SeqCst);
        let reads = self.reads.load(Ordering::Relaxed);
        let out_of_order = self.out_of_order.load(Ordering::Relaxed);
        let longest = *self.longest_wait.lock().expect("nobody panics here");
        step(&format!(
            "{written} writes, the longest took {longest:?}; {reads} reads, {out_of_order} of an \
             older value than the one before"
        ));
        let wrong = self.wrong.lock().expect("nobody panics here");
        assert!(
            wrong.is_empty(),
            "{} findings: {:#?}",
            wrong.len(),
            wrong.iter().take(20).collect::<Vec<_>>()
        );
        assert!(out_of_order == 0 || !is_ours(), "{out_of_order} reads");
        assert!(longest < LONGEST_WAIT, "a write took {longest:?}");
        assert!(written > FEWEST as u64 && reads > READERS * FEWEST);
    }
}

/// Counts up, and checks that nobody else has written.
async fn write(story: Arc<Story>) {
    let database = story.attach(WRITER).await.expect("this node stays");
    let mut last = 0;
    while !story.has_ended() {
        if story.writer.load(Ordering::SeqCst) != WRITES {
            // Nothing to do if the test has let it go on meanwhile.
            let _ = story.writer.compare_exchange(
                WAITS,
                HAS_STOPPED,
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let begun = Instant::now();
        let value = last + 1;
        if let Err(error) = write_once(&story, &database, last, value).await {
            return story.note(format!("the writer: {error}"));
        }
        last = value;
        story.written.store(value, Ordering::SeqCst);
        story.note_wait(begun.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
}

async fn write_once(
    story: &Story,
    database: &Database,
    last: u64,
    value: u64,
) -> Result<(), RecordError> {
    let mut record = database.fetch_lock(KEY).await?;
    let found = parse(record.data());
    if found != last {
        story.note(format!("the writer found {found} instead of {last}"));
    }
    record.store(value.to_le_bytes().to_vec()).await
}

/// 0 for a record that is empty.
fn parse(data: &[u8]) -> u64 {
    data.try_into().map_or(0, u64::from_le_bytes)
}

/// One of the eight.
struct Reader {
    number: usize,
    node: usize,
    story: Arc<Story>,
    /// The highest value so far.
    newest: u64,
    /// How often values came after a newer one.
    late: BTreeMap<u64, usize>,
}

impl Reader {
    fn new(number: usize, story: &Arc<Story>) -> Self {
        Self {
            number,
            node: number % story.sockets.len(),
            story: Arc::clone(story),
            newest: 0,
            late: BTreeMap::new(),
        }
    }

    /// Reads until the story has ended; connects again when the daemon has gone.
    async fn work(mut self) {
        while !self.story.has_ended() {
            if let Some(database) = self.story.attach(self.node).await {
                while !self.story.has_ended() && self.read(&database).await.is_ok() {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn read(&mut self, database: &Database) -> Result<(), RecordError> {
        let was_cut_off = self.is_cut_off();
        let written = self.story.written.load(Ordering::SeqCst);
        let reading = self.read_once(database);
        let Ok(value) = tokio::time::timeout(HEALTHY_LIMIT, reading).await else {
            self.story
                .note(format!("reader {} got no answer", self.number));
            return Ok(());
        };
        let value = value?;
        self.story.reads.fetch_add(1, Ordering::Relaxed);
        // One more may be written and not known to be.
        let most = self.story.written.load(Ordering::SeqCst) + 1;
        let out = was_cut_off || self.is_cut_off();
        if value > most || (value < written && !out && is_ours()) {
            let (number, node) = (self.number, self.node);
            self.story.note(format!(
                "reader {number} on node {node}: {value}, not {written} to {most}"
            ));
        }
        self.keep_order(value);
        tokio::time::sleep(PAUSE.mul_f64(fastrand::f64())).await;
        Ok(())
    }

    /// Half of the readers lock the copy, half only look.
    async fn read_once(&self, database: &Database) -> Result<u64, RecordError> {
        if self.number.is_multiple_of(2) {
            let record = database.fetch_readonly(KEY).await?;
            return Ok(parse(&record.data));
        }
        let data = database.fetch(KEY).await?;
        Ok(parse(&data.unwrap_or_default()))
    }

    fn keep_order(&mut self, value: u64) {
        if value >= self.newest {
            self.newest = value;
            return;
        }
        self.story.out_of_order.fetch_add(1, Ordering::Relaxed);
        let times = self.late.entry(value).or_default();
        *times += 1;
        if *times == 2 {
            let (number, newest) = (self.number, self.newest);
            self.story.note(format!(
                "reader {number}: {value} comes twice after {newest}"
            ));
        }
    }

    fn is_cut_off(&self) -> bool {
        self.story.cut_off.load(Ordering::SeqCst) == self.node
    }
}
