//! Networks of their own for the nodes of a test, whose links can be cut.
//!
//! Each node has a network namespace with one interface; a switch (a bridge in a namespace of its
//! own) connects them. Needs root.
//!
//! ```text
//!   node 0: eth0 10.99.0.1 ---+
//!   node 1: eth0 10.99.0.2 ---+--- switch
//!   node 2: eth0 10.99.0.3 ---+
//! ```
//!
//! A way from one node to another is cut by telling the sender a wrong hardware address of the
//! receiver: its packets get lost, as on a broken switch, and nobody is told.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{TestResult, need, need_root};

/// The namespaces; they go when it is dropped.
#[derive(Debug)]
pub struct Network {
    /// What the names of the namespaces begin with.
    name: String,
    nodes: usize,
}

/// Networks that were made.
static COUNT: AtomicU32 = AtomicU32::new(0);

impl Network {
    /// Connects so many nodes.
    ///
    /// # Panics
    ///
    /// Without root.
    pub fn new(nodes: usize) -> TestResult<Self> {
        need_root("to make network namespaces");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ctdb{}-{number}-", std::process::id());
        let network = Self { name, nodes };
        network.build()?;
        Ok(network)
    }

    fn build(&self) -> TestResult {
        let switch = self.switch();
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link add name br0 type bridge"))?;
        ip(&format!("-n {switch} link set br0 up"))?;
        for pnn in 0..self.nodes {
            let (node, port) = (self.namespace(pnn), format!("port{pnn}"));
            let address = Self::address(pnn);
            ip(&format!("netns add {node}"))?;
            ip(&format!(
                "-n {switch} link add {port} type veth peer name eth0 netns {node}"
            ))?;
            ip(&format!("-n {switch} link set {port} master br0 up"))?;
            ip(&format!("-n {node} address add {address}/24 dev eth0"))?;
            ip(&format!("-n {node} link set eth0 up"))?;
            ip(&format!("-n {node} link set lo up"))?;
        }
        Ok(())
    }

    /// Address of a node.
    ///
    /// # Panics
    ///
    /// For a number that has no place in the network.
    pub fn address(pnn: usize) -> Ipv4Addr {
        let last = u8::try_from(pnn + 1).expect("a test has a few nodes");
        Ipv4Addr::new(10, 99, 0, last)
    }

    /// Name of the namespace of a node, for `ip netns`.
    pub fn namespace(&self, pnn: usize) -> String {
        format!("{}{pnn}", self.name)
    }

    /// What a program must be run by to be in the network of a node.
    ///
    /// # Panics
    ///
    /// When `nsenter` is not installed.
    pub fn launcher(&self, pnn: usize) -> [String; 2] {
        let nsenter = need("nsenter", "util-linux");
        let namespace = format!("--net=/run/netns/{}", self.namespace(pnn));
        [nsenter.to_string_lossy().into_owned(), namespace]
    }

    /// From now on nothing gets from one node to the other. The way back stays.
    pub fn cut_way(&self, from: usize, to: usize) -> TestResult {
        let (from, to) = (self.namespace(from), Self::address(to));
        ip(&format!(
            "-n {from} neighbour replace {to} lladdr {NOBODY} nud permanent dev eth0"
        ))
    }

    /// Cuts two nodes from each other.
    pub fn cut(&self, a: usize, b: usize) -> TestResult {
        self.cut_way(a, b)?;
        self.cut_way(b, a)
    }

    /// Cuts a node from all others.
    pub fn isolate(&self, pnn: usize) -> TestResult {
        let mut others = (0..self.nodes).filter(|&other| other != pnn);
        others.try_for_each(|other| self.cut(pnn, other))
    }

    /// Takes back all cuts.
    pub fn heal(&self) -> TestResult {
        (0..self.nodes).try_for_each(|pnn| {
            let node = self.namespace(pnn);
            ip(&format!("-n {node} neighbour flush dev eth0 nud permanent"))
        })
    }

    fn switch(&self) -> String {
        format!("{}sw", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in (0..self.nodes)
            .map(|pnn| self.namespace(pnn))
            .chain([self.switch()])
        {
            if let Err(error) = ip(&format!("netns delete {name}")) {
                eprintln!("{error}");
            }
        }
    }
}

/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:00:01";

/// Runs `ip` with these words.
fn ip(words: &str) -> TestResult {
    let ip = need("ip", "iproute2");
    let output = Command::new(ip).args(words.split_whitespace()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {words}: {}", said.trim()).into())
}
