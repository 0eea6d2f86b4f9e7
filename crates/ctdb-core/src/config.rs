//! What a node must know before it can start.

use std::net::SocketAddr;
use std::time::Duration;

use ctdb_conf::Tunables;
use ctdb_proto::{Capabilities, NodeFlags, Pnn, SambaVersion};

/// Everything that is fixed when the daemon starts; read by the shell, used by the node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Number of this node: the place of its own address in `nodes`.
    pub pnn: Pnn,
    /// The `nodes` file, one entry for each line that counts.
    pub nodes: Vec<ConfiguredNode>,
    pub tunables: Tunables,
    /// [`Capabilities::DEFAULT`] without what `ctdb.conf` takes away.
    pub capabilities: Capabilities,
    /// `PERMANENTLY_DISABLED` for `start as disabled`, STOPPED for `start as stopped`.
    pub start_flags: NodeFlags,
    /// The `cluster lock` option as written, compared between nodes to the letter.
    pub cluster_lock: Option<String>,
    /// `leader timeout` of `ctdb.conf`.
    pub leader_timeout: Duration,
    /// `keepalive interval ms` of `ctdb.conf`, in place of the tunable.
    pub keepalive_interval: Option<Duration>,
    /// `[failover] disabled`.
    pub failover_disabled: bool,
    /// The version of Samba to present to peers, and whether the operator chose it.
    pub version: SambaVersion,
    pub version_pinned: bool,
    /// Test mode: no grace periods at the start (config.md 4).
    pub fast_start: bool,
    /// Names of the databases found in the persistent directory, without the `.<pnn>`.
    pub persistent_databases: Vec<String>,
    /// Pid that `GET_PID` reports.
    pub pid: i32,
    /// Level of the log at the start, as `SET_DEBUG` counts it.
    pub debug_level: i32,
    /// Wall-clock time of the start: since 1970.
    pub started: Duration,
    /// Seeds every random choice of the node.
    pub seed: u64,
}

/// One line of the nodes file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConfiguredNode {
    pub addr: SocketAddr,
    /// The line is commented out: the number stays taken, the node is gone.
    pub deleted: bool,
}
