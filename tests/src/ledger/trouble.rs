//! Failures, one after the other: daemons are killed and started again, restarted in order,
//! stopped and continued, and recoveries are forced.

use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use ctdb_tools::local_cluster::{CommandOutput, wait_until};

use super::Plan;
use super::history::Outage;
use crate::{HEALTHY_LIMIT, TestCluster, TestResult, step};

/// When each node was not, or not always, in the cluster.
#[derive(Debug, Default)]
pub struct Outages {
    of_nodes: Mutex<Spans>,
    of_links: Mutex<Spans>,
}

/// Nodes, each with a beginning and an end.
type Spans = Vec<(usize, Instant, Option<Instant>)>;

impl Outages {
    /// Call before the failure.
    pub fn begin(&self, node: usize) {
        lock(&self.of_nodes).push((node, Instant::now(), None));
    }

    /// Call when the node goes on, but may not hear from all others: what they commit it gets only
    /// with the next recovery.
    pub fn begin_apart(&self, node: usize) {
        lock(&self.of_links).push((node, Instant::now(), None));
    }

    /// Call when the cluster is healthy again.
    pub fn end(&self, node: usize) {
        for spans in [&self.of_nodes, &self.of_links] {
            for (of, _, to) in lock(spans).iter_mut() {
                if *of == node {
                    to.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    /// Whether the node has been out, or apart, at that moment or later.
    pub(super) fn has_had_one(&self, node: usize, since: Instant) -> bool {
        let later = |to: &Option<Instant>| to.is_none_or(|to| to >= since);
        [&self.of_nodes, &self.of_links].into_iter().any(|spans| {
            let spans = lock(spans);
            spans.iter().any(|(of, _, to)| *of == node && later(to))
        })
    }

    pub(super) fn all(&self) -> Vec<Outage> {
        lock(&self.of_nodes)
            .iter()
            .map(|&(node, from, to)| Outage {
                node,
                from,
                to: to.unwrap_or_else(Instant::now),
            })
            .collect()
    }
}

fn lock(spans: &Mutex<Spans>) -> MutexGuard<'_, Spans> {
    spans.lock().expect("nobody panics while holding it")
}

/// Makes trouble in a cluster.
pub(super) struct Trouble<'a> {
    cluster: &'a mut TestCluster,
    outages: &'a Outages,
    plan: &'a Plan,
    /// Nodes that have not failed yet in this round.
    to_fail: Vec<usize>,
    random: fastrand::Rng,
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    Kill,
    Restart,
    Stop,
}

impl<'a> Trouble<'a> {
    /// The seed decides what happens in what order; when, the cluster has a say in.
    pub(super) fn new(
        cluster: &'a mut TestCluster,
        outages: &'a Outages,
        plan: &'a Plan,
        seed: u64,
    ) -> Self {
        Self {
            cluster,
            outages,
            plan,
            to_fail: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Goes on for the time of the plan; leaves a healthy cluster.
    ///
    /// # Panics
    ///
    /// When the cluster does not become healthy again.
    pub(super) fn make(&mut self) -> TestResult {
        let started = Instant::now();
        let all = [Failure::Kill, Failure::Stop, Failure::Restart];
        let mut kinds = all.iter().cycle();
        let mut turns = self.plan.turns.iter().cycle();
        while started.elapsed() < self.plan.time {
            if let Some(leaders) = turns.next() {
                self.lead(leaders);
            }
            let node = self.next_node();
            let kind = *kinds.next().unwrap_or(&Failure::Kill);
            self.pause();
            self.recover(node);
            self.pause();
            self.fail(kind, node)?;
        }
        Ok(())
    }

    /// Every node has its turn before one has another.
    fn next_node(&mut self) -> usize {
        if self.to_fail.is_empty() {
            self.to_fail = (0..self.cluster.nodes().len()).collect();
            self.random.shuffle(&mut self.to_fail);
        }
        self.to_fail.pop().unwrap_or(0)
    }

    /// Makes one of these nodes the leader; afterwards the others may lead again.
    fn lead(&self, leaders: &[usize]) {
        let nodes: Vec<usize> = (0..self.cluster.nodes().len()).collect();
        for &node in leaders {
            self.cluster.ctdb(node, &["setleaderrole", "on"]);
        }
        let others: Vec<_> = nodes
            .iter()
            .filter(|node| !leaders.contains(node))
            .collect();
        for &&node in &others {
            self.cluster.ctdb(node, &["setleaderrole", "off"]);
        }
        let wanted = |leader: Option<usize>| leader.is_some_and(|node| leaders.contains(&node));
        self.cluster
            .wait_status(&nodes, HEALTHY_LIMIT, "the wanted leader", |status| {
                status.is_healthy(nodes.len()) && wanted(status.leader)
            });
        for &&node in &others {
            self.cluster.ctdb(node, &["setleaderrole", "on"]);
        }
        step(&format!("one of {leaders:?} leads"));
    }

    fn fail(&mut self, kind: Failure, node: usize) -> TestResult {
        step(&format!("{kind:?} node {node}"));
        let other = (node + 1) % self.cluster.nodes().len();
        self.outages.begin(node);
        match kind {
            Failure::Kill => self.cluster.at_mut(node).kill(),
            Failure::Restart => self.cluster.at_mut(node).stop(),
            Failure::Stop => self.order(node, "stop"),
        }
        self.pause();
        // Also while a node is missing.
        if self.has_a_leader_without(node) {
            self.recover(other);
        }
        match kind {
            Failure::Kill | Failure::Restart => self.cluster.start_node(node)?,
            Failure::Stop => self.order(node, "continue"),
        }
        // A panic shows the logs.
        let healthy = self.cluster.wait_healthy(HEALTHY_LIMIT);
        healthy.unwrap_or_else(|error| panic!("after {kind:?} of node {node}: {error}"));
        self.outages.end(node);
        step(&format!("node {node} is back"));
        Ok(())
    }

    /// Stops or continues a node. The tool waits for a leader's takeover run.
    fn order(&self, node: usize, what: &str) {
        if self.has_a_leader_without(node) {
            self.cluster.ctdb(node, &[what]);
        } else {
            let given_up = self.cluster.at(node).ctdb(["-T", "3", what]);
            given_up.unwrap_or_else(|error| panic!("ctdb {what} on node {node}: {error}"));
        }
    }

    fn has_a_leader_without(&self, node: usize) -> bool {
        self.plan.leaders.iter().any(|&leader| leader != node)
    }

    /// Forces a recovery. Between two leaders the tool finds nobody to wait for; and when a recovery
    /// has just begun, it may wait for another one, which does not come.
    fn recover(&self, node: usize) {
        let mut last = None;
        let recovered = wait_until(HEALTHY_LIMIT, || {
            last = self.cluster.at(node).ctdb(["-T", "10", "recover"]).ok();
            last.as_ref().is_some_and(CommandOutput::success)
        });
        assert!(recovered, "ctdb recover on node {node}: {last:?}");
    }

    fn pause(&mut self) {
        thread::sleep(Duration::from_millis(self.random.u64(300..1500)));
    }
}
