//! A local cluster that goes away with its test.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::Duration;

use ctdb_tools::local_cluster::{Cluster, Node, Options, temporary_folder, wait_until};

use crate::status::Status;
use crate::{Network, TestResult, daemon, is_ours, is_reference, step, tool, users_of};

/// For any daemon to become healthy: the slowest known one needs 8 s, and more on a busy machine.
pub const HEALTHY_LIMIT: Duration = Duration::from_secs(60);

/// For the helpers of a daemon that was killed to end.
const HELPERS_LIMIT: Duration = Duration::from_secs(30);

/// A running cluster of [`daemon`]s. When it is dropped the daemons stop and the folder goes;
/// if the test is failing, what the daemons logged is shown before.
pub struct TestCluster {
    /// Only empty while it is being dropped.
    cluster: Option<Cluster>,
}

impl TestCluster {
    /// What most tests want: three nodes, started and healthy.
    pub fn healthy() -> TestResult<Self> {
        Self::started(&Self::options())
    }

    /// As [`TestCluster::healthy`], but recoveries may follow each other at once. Ours repairs the
    /// loss of a node at once anyway; the original waits 10 s after the recovery before, and the
    /// cluster has just had its first.
    pub fn eager() -> TestResult<Self> {
        let mut options = Self::options();
        if !is_ours() {
            options.tunables.push(("RerecoveryTimeout", 1));
        }
        Self::started(&options)
    }

    /// A cluster of this kind, started and healthy.
    pub fn started(options: &Options) -> TestResult<Self> {
        let mut cluster = Self::create(options)?;
        cluster.start_healthy()?;
        Ok(cluster)
    }

    /// Starts the daemons, and waits until all are healthy.
    pub fn start_healthy(&mut self) -> TestResult {
        self.start()?;
        let time = self.wait_healthy(HEALTHY_LIMIT)?;
        step(&format!(
            "the cluster is healthy after {:.1} s",
            time.as_secs_f64()
        ));
        Ok(())
    }

    /// Starts a daemon that ran before. The one of the original gives up with `database not empty
    /// on attach` if anybody still has a volatile file open: its own lock helpers have, for some
    /// seconds after it was killed (`data-plane.md` 1.3).
    pub fn start_node(&mut self, pnn: usize) -> TestResult {
        let node = self.at_mut(pnn);
        if is_reference(node) {
            let files = node.base().join("var/volatile");
            if !wait_until(HELPERS_LIMIT, || users_of(&files).is_empty()) {
                let users = users_of(&files);
                return Err(format!("processes {users:?} have {} open", files.display()).into());
            }
        }
        Ok(node.start()?)
    }

    /// Configures a node whose daemon does not run yet never to lead.
    pub fn forbid_to_lead(&mut self, pnn: usize) -> TestResult {
        let path = self.at(pnn).base().join("ctdb.conf");
        let text = fs::read_to_string(&path)?;
        let section = "[cluster]\n";
        let forbidden = format!("{section}\tleader capability = false\n");
        fs::write(path, text.replacen(section, &forbidden, 1))?;
        Ok(())
    }

    /// Three nodes in a folder of their own; change what should be different.
    pub fn options() -> Options {
        Options {
            nodes: 3,
            dir: temporary_folder(),
            ctdbd: daemon(),
            node_ctdbd: std::collections::BTreeMap::new(),
            tool: tool(),
            cluster_lock: false,
            tunables: Vec::new(),
            tied: true,
        }
    }

    /// A cluster whose daemons do not run yet.
    pub fn create(options: &Options) -> TestResult<Self> {
        Ok(Self {
            cluster: Some(Cluster::create(options)?),
        })
    }

    /// As [`TestCluster::create`], each node in its own place of this network.
    pub fn create_in(network: &Network, options: &Options) -> TestResult<Self> {
        let addresses: Vec<_> = (0..options.nodes).map(Network::address).collect();
        let mut cluster = Cluster::create_at(options, &addresses)?;
        for pnn in 0..options.nodes {
            let launcher = network.launcher(pnn);
            let words = launcher.each_ref().map(String::as_str);
            cluster.node_mut(pnn)?.set_launcher(&words);
        }
        Ok(Self {
            cluster: Some(cluster),
        })
    }

    /// The node with this number.
    ///
    /// # Panics
    ///
    /// When the cluster has no such node.
    pub fn at(&self, pnn: usize) -> &Node {
        self.node(pnn)
            .expect("the test knows how many nodes there are")
    }

    /// As [`TestCluster::at`], to start or stop it.
    ///
    /// # Panics
    ///
    /// When the cluster has no such node.
    pub fn at_mut(&mut self, pnn: usize) -> &mut Node {
        self.node_mut(pnn)
            .expect("the test knows how many nodes there are")
    }

    /// Runs the tool on a node and expects exit status 0.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn ctdb(&self, pnn: usize, args: &[&str]) -> String {
        let output = self.at(pnn).ctdb(args.iter().copied());
        let output = output.unwrap_or_else(|error| panic!("ctdb {args:?} on node {pnn}: {error}"));
        assert!(output.success(), "ctdb {args:?} on node {pnn}: {output:?}");
        output.stdout
    }

    /// Waits until `ctdb status` of every node in `nodes` shows what `wanted` asks for.
    ///
    /// # Panics
    ///
    /// When a node does not get there in time; shows what all said last.
    pub fn wait_status(
        &self,
        nodes: &[usize],
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Status) -> bool,
    ) {
        let ask = || Status::of_all(nodes.iter().map(|&pnn| self.at(pnn)));
        let mut last = Vec::new();
        let reached = wait_until(limit, || {
            last = ask();
            last.iter()
                .all(|status| status.as_ref().is_some_and(&wanted))
        });
        assert!(
            reached,
            "nodes {nodes:?} do not show within {limit:?}: {what}, but {last:#?}"
        );
    }

    /// Where `CTDB_E2E_LOGS` names a folder, the whole logs go there.
    fn keep_logs(cluster: &Cluster) -> TestResult {
        let Some(folder) = std::env::var_os("CTDB_E2E_LOGS").map(PathBuf::from) else {
            return Ok(());
        };
        for node in cluster.nodes() {
            fs::copy(
                node.log(),
                folder.join(format!("log.ctdb.{}", node.address())),
            )?;
        }
        Ok(())
    }

    fn show_logs(cluster: &Cluster) {
        for node in cluster.nodes() {
            let log = fs::read(node.log()).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES);
            let running = if node.is_running() {
                "runs"
            } else {
                "does not run"
            };
            eprintln!("--- node {} ({running}), end of its log:", node.pnn());
            for line in lines.get(from..).unwrap_or_default() {
                eprintln!("{line}");
            }
        }
    }
}

impl Deref for TestCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
            .as_ref()
            .expect("it is there until it is dropped")
    }
}

impl DerefMut for TestCluster {
    fn deref_mut(&mut self) -> &mut Cluster {
        self.cluster
            .as_mut()
            .expect("it is there until it is dropped")
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        let Some(cluster) = self.cluster.take() else {
            return;
        };
        if std::thread::panicking() {
            Self::show_logs(&cluster);
            if let Err(error) = Self::keep_logs(&cluster) {
                eprintln!("the logs could not be kept: {error}");
            }
        }
        if let Err(error) = cluster.remove() {
            eprintln!("the cluster could not be removed: {error}");
        }
    }
}

/// How much of each log is shown when a test fails.
const LOG_LINES: usize = 30;
