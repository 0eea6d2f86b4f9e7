//! Stories: each node in its turn is shut down and started again, as for an upgrade, while the
//! writers of the ledger work on all three. Nothing that they were told is done is lost, the others
//! go on at once, and in the end one node leads a healthy cluster. The same with one node that runs
//! Debian's daemon, which leads part of the time.
//!
//! `CTDB_E2E_CTDBD=/usr/sbin/ctdbd` tells the stories of three of Debian's daemons; nothing is
//! expected of the times then.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ctdb_e2e::ledger::{Outages, keep_books_while};
use ctdb_e2e::{
    HEALTHY_LIMIT, TestCluster, TestResult, View, Watch, agree, is_ours, reference_daemon, step,
};

const NODES: usize = 3;
/// Every node twice: each also leads, and is the leader that goes.
const ROUNDS: usize = 2;
/// Of undisturbed work after each restart.
const CALM: Duration = Duration::from_secs(2);
/// Of all that together at least, so that the writers' work can be judged.
const TIME: Duration = Duration::from_secs(CALM.as_secs() * (NODES * ROUNDS) as u64);

/// From the start of a daemon until it is `OK`: 3 s, and 13 s of settling that the test mode of a
/// cluster leaves out (`cluster.md` 13, 8.1), and twice that for a busy machine.
const BACK_LIMIT: Duration = Duration::from_secs(6);
/// From the order to shut down until the others have recovered without the node: as after
/// `kill -9` of a leader, the slowest of the two (`cluster.md` 13).
const GONE_LIMIT: Duration = Duration::from_secs(8);

/// The stories share the machine badly: each measures time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn ours_are_restarted_in_turn() -> TestResult {
    tell(None)
}

#[test]
fn one_of_debian_s_is_among_those_restarted() -> TestResult {
    tell(Some(1))
}

fn tell(debian: Option<usize>) -> TestResult {
    // A story that failed does not matter to the next.
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut options = TestCluster::options();
    options
        .node_ctdbd
        .extend(debian.map(|node| (node, reference_daemon())));
    options.tunables = vec![("VacuumInterval", 1), ("VacuumFastPathCount", 3)];
    let mut cluster = TestCluster::started(&options)?;
    let watch = Watch::new(&cluster);
    keep_books_while(&mut cluster, TIME, |cluster, outages| {
        (0..ROUNDS * NODES).try_for_each(|turn| {
            let restart = Restart {
                node: turn % NODES,
                in_time: debian.is_none() && is_ours(),
            };
            restart.make(cluster, &watch, outages)
        })
    })
}

/// One of the restarts.
struct Restart {
    node: usize,
    /// Whether the times are those of our daemons alone.
    in_time: bool,
}

impl Restart {
    fn make(&self, cluster: &mut TestCluster, watch: &Watch, outages: &Outages) -> TestResult {
        let others: Vec<usize> = (0..NODES).filter(|&pnn| pnn != self.node).collect();
        let all: Vec<usize> = (0..NODES).collect();
        let generation = watch.views()[others[0]]
            .as_ref()
            .map(|view| view.generation);
        outages.begin(self.node);

        let begin = Instant::now();
        cluster.at_mut(self.node).stop();
        let gone = watch.until(&others, begin, HEALTHY_LIMIT, |views| {
            Some(views[0].generation) != generation && is_one_cluster(views, &others)
        });
        let begin = Instant::now();
        cluster.start_node(self.node)?;
        let back = watch.until(&all, begin, HEALTHY_LIMIT, |views| {
            is_one_cluster(views, &all) && views.iter().all(|view| view.is_healthy(&all))
        });
        cluster.wait_healthy(HEALTHY_LIMIT)?;
        outages.end(self.node);

        let gone = gone.ok_or("the others do not recover without it")?;
        let back = back.ok_or("it does not become healthy again")?;
        step(&format!(
            "node {}: recovered {gone:.2?} after the order to shut down, healthy {back:.2?} after the start",
            self.node
        ));
        assert!(!self.in_time || gone <= GONE_LIMIT, "{gone:?}");
        assert!(!self.in_time || back <= BACK_LIMIT, "{back:?}");
        thread::sleep(CALM);
        Ok(())
    }
}

/// Whether these nodes, and no others, have recovered under one of them.
fn is_one_cluster(views: &[View], nodes: &[usize]) -> bool {
    let leader = views[0].leader;
    agree(views)
        && leader.is_some_and(|leader| nodes.contains(&leader))
        && views
            .iter()
            .all(|view| view.leader == leader && view.has_recovered(nodes))
}
