//! A cluster in a network of its own, and the table of what was measured.

use std::io::{self, Write};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ctdb_e2e::{HEALTHY_LIMIT, Network, TestCluster, TestResult, View, Watch, agree};
use ctdb_proto::Generation;
use ctdb_tools::local_cluster::{Options, Signal};

/// Longest time that is waited for anything: longer than the reference needs for the slowest.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Three nodes, and everything around them.
pub(crate) struct Stage {
    // Dropped in this order.
    pub(crate) watch: Watch,
    cluster: TestCluster,
    pub(crate) network: Network,
}

impl Stage {
    /// All nodes are healthy.
    pub(crate) fn healthy(lock: bool) -> TestResult<Self> {
        let mut options = TestCluster::options();
        options.cluster_lock = lock;
        Self::healthy_with(&options, |_| Ok(()))
    }

    /// As [`Stage::healthy`], after some preparation.
    pub(crate) fn healthy_with(
        options: &Options,
        prepare: impl FnOnce(&mut TestCluster) -> TestResult,
    ) -> TestResult<Self> {
        let network = Network::new(options.nodes)?;
        let mut cluster = TestCluster::create_in(&network, options)?;
        prepare(&mut cluster)?;
        cluster.start()?;
        cluster.wait_healthy(HEALTHY_LIMIT)?;
        let watch = Watch::new(&cluster);
        let stage = Self {
            watch,
            cluster,
            network,
        };
        let all: Vec<usize> = (0..options.nodes).collect();
        let begin = Instant::now();
        let ready = |views: &[View]| agree(views) && common_leader(views, &all).is_some();
        let reached = stage.watch.until(&all, begin, HEALTHY_LIMIT, ready);
        reached.ok_or("a healthy cluster has one leader")?;
        Ok(stage)
    }

    /// The leader, and the nodes that are not.
    pub(crate) fn roles(&self) -> (usize, Vec<usize>) {
        let all: Vec<usize> = (0..self.cluster.nodes().len()).collect();
        let views: Option<Vec<View>> = self.watch.views().into_iter().collect();
        let leader = views.and_then(|views| common_leader(&views, &all));
        let leader = leader.expect("a healthy cluster has one leader");
        (
            leader,
            all.into_iter().filter(|&pnn| pnn != leader).collect(),
        )
    }

    /// Stops a daemon as `kill -STOP` does, or lets it go on.
    pub(crate) fn signal(&self, pnn: usize, signal: Signal) {
        let process = self.at(pnn).process();
        process.expect("the daemon runs").signal(signal);
    }

    /// Until these nodes follow one of them.
    pub(crate) fn one_leads(&self, nodes: &[usize], begin: Instant) -> Option<Duration> {
        let led = |views: &[View]| common_leader(views, nodes).is_some();
        self.watch.until(nodes, begin, LIMIT, led)
    }

    /// Until these nodes, and no others, have recovered, under one leader.
    pub(crate) fn recovered(&self, nodes: &[usize], begin: Instant) -> Option<Duration> {
        self.watch.until(nodes, begin, LIMIT, |views| {
            agree(views)
                && common_leader(views, nodes).is_some()
                && views.iter().all(|view| view.has_recovered(nodes))
        })
    }

    /// Until all nodes are `OK`, in one cluster.
    pub(crate) fn whole(&self, begin: Instant) -> Option<Duration> {
        let all: Vec<usize> = (0..self.cluster.nodes().len()).collect();
        self.watch.until(&all, begin, LIMIT, |views| {
            agree(views)
                && common_leader(views, &all).is_some()
                && views.iter().all(|view| view.is_healthy(&all))
        })
    }

    /// Whether all nodes say now that they are in one healthy cluster.
    pub(crate) fn is_whole(&self) -> bool {
        let all: Vec<usize> = (0..self.cluster.nodes().len()).collect();
        let views: Option<Vec<View>> = self.watch.views().into_iter().collect();
        views.is_some_and(|views| agree(&views) && views.iter().all(|view| view.is_healthy(&all)))
    }

    /// A file in the folder of the cluster.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.layout().dir().join(name)
    }
}

impl Deref for Stage {
    type Target = TestCluster;

    fn deref(&self) -> &TestCluster {
        &self.cluster
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut TestCluster {
        &mut self.cluster
    }
}

/// Until one of these groups is a cluster and stays one, in the same generation.
pub(crate) fn stays(
    stage: &Stage,
    groups: &[Vec<usize>],
    begin: Instant,
    stable: Duration,
) -> Option<Duration> {
    let mut since: Option<(Instant, &Vec<usize>, Generation)> = None;
    while begin.elapsed() < LONG + stable {
        let views = stage.watch.views();
        let found = groups.iter().find_map(|group| {
            let views: Option<Vec<&View>> = group.iter().map(|&pnn| views[pnn].as_ref()).collect();
            let views = views?;
            let generation = views.first()?.generation;
            let one = |view: &&View| view.has_recovered(group) && view.generation == generation;
            views.iter().all(one).then_some((group, generation))
        });
        since = match (since, found) {
            (Some((at, group, generation)), Some(now)) if now == (group, generation) => {
                if at.elapsed() >= stable {
                    return Some(at - begin);
                }
                Some((at, group, generation))
            }
            (_, Some((group, generation))) => Some((Instant::now(), group, generation)),
            (_, None) => None,
        };
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// The reference recovers every 11 to 13 s where two nodes do not reach each other.
pub(crate) const STABLE: Duration = Duration::from_secs(15);
const LONG: Duration = Duration::from_secs(75);

/// The generation that each node is in: another one after each recovery.
pub(crate) fn recoveries(stage: &Stage) -> Vec<Option<Generation>> {
    let views = stage.watch.views();
    views
        .iter()
        .map(|view| view.as_ref().map(|view| view.generation))
        .collect()
}

/// Whom all follow, if it is the same and one of these nodes.
pub(crate) fn common_leader(views: &[View], nodes: &[usize]) -> Option<usize> {
    let first = views.first()?.leader?;
    let same = views.iter().all(|view| view.leader == Some(first));
    (same && nodes.contains(&first)).then_some(first)
}

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Table(Mutex<Vec<Row>>);

#[derive(Debug)]
struct Row {
    fault: &'static str,
    what: &'static str,
    /// Seconds that the specification gives for the reference; `None` if it names none, or if the
    /// reference does not come to an end.
    reference: Option<f64>,
    took: Option<Duration>,
}

impl Table {
    /// `reference`: seconds in the tables of `cluster.md` 13 and 10.
    pub(crate) fn note(
        &self,
        fault: &'static str,
        what: &'static str,
        reference: impl Into<Option<f64>>,
        took: Option<Duration>,
    ) {
        let reference = reference.into();
        self.rows().push(Row {
            fault,
            what,
            reference,
            took,
        });
    }

    /// Prints it, also when the test passes: the test runner holds back only what is printed by
    /// `println!`.
    pub(crate) fn show(&self) -> io::Result<()> {
        let mut out = io::stderr();
        writeln!(out, "| fault | until | specification | measured |")?;
        writeln!(out, "|---|---|---:|---:|")?;
        let mut rows = self.rows();
        rows.sort_by_key(|row| row.fault);
        for row in rows.iter() {
            let reference = row.reference.map_or("-".to_owned(), shown);
            let took = row.took.map(|took| shown(took.as_secs_f64()));
            let took = took.unwrap_or_else(|| "never".to_owned());
            let (fault, what) = (row.fault, row.what);
            writeln!(out, "| {fault} | {what} | {reference} | {took} |")?;
        }
        Ok(())
    }

    /// What took longer than the reference needs, beyond what a busy machine adds.
    pub(crate) fn too_slow(&self) -> Vec<String> {
        let slow = |row: &&Row| match (row.took, row.reference) {
            (None, _) => true,
            (Some(took), Some(reference)) => took > Duration::from_secs_f64(reference) + NOISE,
            (Some(_), None) => false,
        };
        self.rows()
            .iter()
            .filter(slow)
            .map(|row| format!("{row:?}"))
            .collect()
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.0.lock().expect("nobody panics while holding it")
    }
}

fn shown(seconds: f64) -> String {
    format!("{seconds:.2} s")
}

/// Other stories run at the same time.
const NOISE: Duration = Duration::from_secs(2);
