//! One node of a [`World`] with its surroundings, and how its daemon is configured.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ctdb_core::{ConfiguredNode, Input, Node, NodeConfig, RecordJob};
use ctdb_proto::{Capabilities, ClientId, NodeFlags, Packet, Pnn, SambaVersion};

use super::{LEADER_TIMEOUT, World};
use crate::disk::Disk;

/// Unix time at the beginning of each run.
const WALL: Duration = Duration::from_secs(1_800_000_000);

/// One node with its surroundings. Without a daemon it is down.
pub(super) struct Host {
    pub(super) daemon: Option<Daemon>,
    pub(super) disk: Disk,
    /// Grows with each start of the daemon: what was meant for an earlier one is dropped.
    pub(super) life: u64,
    /// All of it stands still; what comes for the daemon waits.
    pub(super) paused: bool,
    pub(super) backlog: VecDeque<Input>,
    /// What the clock shows, compared with the true time.
    pub(super) clock_ahead: f64,
    /// Work on a database takes longer than usual by this.
    pub(super) disk_delay: Duration,
    pub(super) wake: Option<Instant>,
    /// The `cluster lock` option, if it is not that of the others.
    pub(super) lock_name: Option<String>,
}

pub(super) struct Daemon {
    pub(super) node: Node,
    pub(super) open: bool,
    /// Jobs that met a frozen database.
    pub(super) held: Vec<RecordJob>,
    pub(super) inbox: BTreeMap<ClientId, Vec<Packet>>,
}

impl Host {
    pub(super) fn new(pnn: Pnn) -> Self {
        Self {
            daemon: None,
            disk: Disk::new(pnn),
            life: 0,
            paused: false,
            backlog: VecDeque::new(),
            clock_ahead: 0.0,
            disk_delay: Duration::ZERO,
            wake: None,
            lock_name: None,
        }
    }
}

impl World {
    pub(super) fn config(&mut self, pnn: Pnn) -> NodeConfig {
        let nodes = self.pnns().map(|pnn| ConfiguredNode {
            addr: addr(pnn),
            deleted: false,
        });
        let wall = (WALL + self.elapsed()).as_secs_f64() + self.host(pnn).clock_ahead;
        NodeConfig {
            pnn,
            nodes: nodes.collect(),
            tunables: self.options.tunables,
            capabilities: Capabilities::DEFAULT,
            start_flags: NodeFlags::empty(),
            cluster_lock: self.lock_name(pnn),
            leader_timeout: LEADER_TIMEOUT,
            keepalive_interval: None,
            failover_disabled: false,
            version: SambaVersion::new(4, 24),
            version_pinned: false,
            fast_start: self.options.fast_start,
            persistent_databases: self.host(pnn).disk.persistent(),
            pid: 1000 + pnn.get().cast_signed(),
            debug_level: 2,
            started: Duration::from_secs_f64(wall),
            seed: self.random.u64(..),
        }
    }

    fn lock_name(&self, pnn: Pnn) -> Option<String> {
        let usual = self
            .options
            .cluster_lock
            .then(|| "/cluster/lock".to_owned());
        self.host(pnn).lock_name.clone().or(usual)
    }
}

pub(super) fn addr(pnn: Pnn) -> SocketAddr {
    let [.., high, low] = pnn.get().to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), 4379)
}
