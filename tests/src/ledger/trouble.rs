//! Failures, one after the other: daemons are killed and started again, restarted in order,
//! stopped and continued, and recoveries are forced.

use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

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
    /// Nodes that are only stopped.
    spared: &'a [usize],
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
        spared: &'a [usize],
        seed: u64,
    ) -> Self {
        Self {
            cluster,
            outages,
            spared,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Goes on for this time; leaves a healthy cluster.
    ///
    /// # Panics
    ///
    /// When the cluster does not become healthy again.
    pub(super) fn make(&mut self, duration: Duration) -> TestResult {
        let started = Instant::now();
        let all = [Failure::Kill, Failure::Stop, Failure::Restart];
        let mut kinds = all.iter().cycle();
        let nodes = self.cluster.nodes().len();
        while started.elapsed() < duration {
            let node = self.random.usize(..nodes);
            let kind = *kinds.next().unwrap_or(&Failure::Kill);
            let spared = self.spared.contains(&node);
            let kind = if spared { Failure::Stop } else { kind };
            self.pause();
            self.recover(node);
            self.pause();
            self.fail(kind, node)?;
        }
        Ok(())
    }

    fn fail(&mut self, kind: Failure, node: usize) -> TestResult {
        step(&format!("{kind:?} node {node}"));
        let other = (node + 1) % self.cluster.nodes().len();
        self.outages.begin(node);
        match kind {
            Failure::Kill => self.cluster.at_mut(node).kill(),
            Failure::Restart => self.cluster.at_mut(node).stop(),
            Failure::Stop => drop(self.cluster.ctdb(node, &["stop"])),
        }
        self.pause();
        // Also while a node is missing.
        self.recover(other);
        match kind {
            Failure::Kill | Failure::Restart => self.cluster.at_mut(node).start()?,
            Failure::Stop => drop(self.cluster.ctdb(node, &["continue"])),
        }
        // A panic shows the logs.
        let healthy = self.cluster.wait_healthy(HEALTHY_LIMIT);
        healthy.unwrap_or_else(|error| panic!("after {kind:?} of node {node}: {error}"));
        self.outages.end(node);
        step(&format!("node {node} is back"));
        Ok(())
    }

    fn recover(&self, node: usize) {
        self.cluster.ctdb(node, &["recover"]);
    }

    fn pause(&mut self) {
        thread::sleep(Duration::from_millis(self.random.u64(300..1500)));
    }
}
