//! The cluster as a whole: made, found again, started, waited for, stopped.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::addresses::{Prefix, free_prefix};
use super::error::{Error, Result};
use super::layout::{Layout, Marker};
use super::node::Node;
use super::wait::wait_until;

/// What a new cluster is to be.
#[derive(Clone, Debug)]
pub struct Options {
    pub nodes: usize,
    /// Where everything goes; made if it is not there. Absolute.
    pub dir: PathBuf,
    /// The daemon's program, and those of nodes that run another.
    pub ctdbd: PathBuf,
    pub node_ctdbd: BTreeMap<usize, PathBuf>,
    /// The `ctdb` tool.
    pub tool: PathBuf,
    /// Configure a cluster lock: a file in `dir`.
    pub cluster_lock: bool,
    /// Tunables that differ from their defaults on every node, by the names of `config.md` 2.4.
    pub tunables: Vec<(&'static str, u32)>,
    /// End the daemons when this process ends, however it ends.
    pub tied: bool,
}

/// The nodes of one cluster and the folder they live in.
///
/// Dropping it stops nothing (but daemons that are `tied` see their standard input close and shut
/// down): a cluster may go on without the process that started it.
#[derive(Debug)]
pub struct Cluster {
    layout: Layout,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Chooses addresses and makes the folders. No daemon runs yet.
    pub fn create(options: &Options) -> Result<Self> {
        let count = u8::try_from(options.nodes)
            .ok()
            .filter(|&n| (1..=MOST_NODES).contains(&n));
        let count = count.ok_or(Error::NodeCount {
            nodes: options.nodes,
            max: MOST_NODES,
        })?;
        let prefix = free_prefix(count)?;
        let addresses: Vec<_> = (0..count).map(|pnn| prefix.node(pnn)).collect();
        Self::create_at(options, &addresses)
    }

    /// As [`Cluster::create`], with these addresses, one for each node. What is needed so that a
    /// daemon can listen on its own is up to the caller, see [`Node::set_launcher`].
    pub fn create_at(options: &Options, addresses: &[Ipv4Addr]) -> Result<Self> {
        if let Some(&pnn) = options.node_ctdbd.keys().find(|&&pnn| pnn >= options.nodes) {
            return Err(Error::NoSuchNode {
                pnn,
                nodes: options.nodes,
            });
        }
        let ctdbd = |pnn| {
            options
                .node_ctdbd
                .get(&pnn)
                .unwrap_or(&options.ctdbd)
                .clone()
        };
        let marker = Marker {
            made_folder: false,
            cluster_lock: options.cluster_lock,
            nodes: addresses
                .iter()
                .enumerate()
                .map(|(pnn, &address)| (address, ctdbd(pnn)))
                .collect(),
        };
        let layout = Layout::new(options.dir.clone());
        layout.create(marker.clone(), &options.tunables)?;
        let mut cluster = Self::of(layout, marker, &options.tool);
        if options.tied {
            cluster.nodes.iter_mut().for_each(Node::tie);
        }
        Ok(cluster)
    }

    /// Finds a cluster that was made earlier, perhaps by another process.
    pub fn open(dir: &Path, tool: &Path) -> Result<Self> {
        let layout = Layout::new(dir.to_owned());
        let marker = layout.marker()?;
        Ok(Self::of(layout, marker, tool))
    }

    fn of(layout: Layout, marker: Marker, tool: &Path) -> Self {
        let nodes = marker
            .nodes
            .into_iter()
            .enumerate()
            .map(|(pnn, (address, ctdbd))| {
                Node::new(pnn, address, layout.base(pnn), ctdbd, tool.to_owned())
            })
            .collect();
        Self { layout, nodes }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Panics never: a number out of range is an error with the number of nodes.
    pub fn node(&self, pnn: usize) -> Result<&Node> {
        self.nodes.get(pnn).ok_or(Error::NoSuchNode {
            pnn,
            nodes: self.nodes.len(),
        })
    }

    pub fn node_mut(&mut self, pnn: usize) -> Result<&mut Node> {
        let nodes = self.nodes.len();
        self.nodes
            .get_mut(pnn)
            .ok_or(Error::NoSuchNode { pnn, nodes })
    }

    /// The network of the cluster, for clients that want an address of their own.
    pub fn prefix(&self) -> Option<Prefix> {
        self.nodes
            .first()
            .and_then(|node| Prefix::of(node.address()))
    }

    /// Starts every daemon that does not run.
    pub fn start(&mut self) -> Result<()> {
        self.nodes
            .iter_mut()
            .filter(|node| !node.is_running())
            .try_for_each(Node::start)
    }

    /// Waits until every node runs and sees every node healthy; returns how long that took.
    pub fn wait_healthy(&self, limit: Duration) -> Result<Duration> {
        let started = Instant::now();
        if wait_until(limit, || self.nodes.iter().all(Node::sees_all_healthy)) {
            return Ok(started.elapsed());
        }
        let seconds = limit.as_secs();
        Err(Error::Timeout {
            what: self.why_not_healthy(),
            seconds,
        })
    }

    fn why_not_healthy(&self) -> String {
        let Some(node) = self.nodes.iter().find(|node| !node.sees_all_healthy()) else {
            return "the nodes were not healthy at the same time".to_owned();
        };
        let (pnn, log) = (node.pnn(), node.log());
        if !node.is_running() {
            return format!("node {pnn} does not run, see {}", log.display());
        }
        match node.ctdb(["nodestatus", "all"]) {
            Ok(output) => format!(
                "node {pnn} does not see all nodes healthy, see {}:\n{}{}",
                log.display(),
                output.stdout,
                output.stderr
            ),
            Err(error) => format!("node {pnn}: {error}"),
        }
    }

    pub fn is_running(&self) -> bool {
        self.nodes.iter().any(Node::is_running)
    }

    /// Stops all daemons in order, all at the same time. The folders stay.
    pub fn stop(&mut self) {
        thread::scope(|scope| {
            for node in &mut self.nodes {
                scope.spawn(|| node.stop());
            }
        });
    }

    /// Stops what runs and removes what was made.
    pub fn remove(mut self) -> Result<()> {
        self.stop();
        self.layout.remove()
    }
}

/// The last byte of an address is the node's number and one.
const MOST_NODES: u8 = 200;
