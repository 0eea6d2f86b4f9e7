//! What the own daemon knows, as the recovery daemon reads it.
//!
//! The original asks its own daemon by controls (`GET_NODEMAP`, `GETVNNMAP`, `GET_RECMODE`, ...)
//! at the start of each round. Here both live in one process, so that each step looks at one
//! consistent state.

use std::time::Duration;

use ctdb_conf::{Tunable, Tunables};
use ctdb_proto::{Capabilities, NodeFlags, Pnn, RecMode, RunState, SambaVersion, SockAddr, VnnMap};

/// What the own daemon knows of one node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeView {
    pub pnn: Pnn,
    /// For the own node the truth, for others a copy; `DISCONNECTED` is always what we see.
    pub flags: NodeFlags,
    pub addr: SockAddr,
    /// Version that the node's keepalives announce. `None` before the first one, and for the own
    /// node.
    pub keepalive_version: Option<SambaVersion>,
    /// It is lost, and closed the connection itself: its daemon has ended, or knows of the loss.
    pub closed: bool,
}

/// The state of the own daemon at the time of one call.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub me: Pnn,
    /// All nodes of the nodes list, deleted ones too, in pnn order.
    pub nodes: &'a [NodeView],
    pub vnn_map: &'a VnnMap,
    pub rec_mode: RecMode,
    pub run_state: RunState,
    pub tunables: &'a Tunables,
    /// Of the own node.
    pub capabilities: Capabilities,
    /// Whether every database of the own node is frozen.
    pub all_frozen: bool,
}

impl<'a> View<'a> {
    /// The entry of a node, if there is such a node.
    pub fn node(&self, pnn: Pnn) -> Option<&'a NodeView> {
        self.nodes.iter().find(|node| node.pnn == pnn)
    }

    /// The flags of a node; a node that does not exist counts as deleted.
    pub fn flags(&self, pnn: Pnn) -> NodeFlags {
        self.node(pnn).map_or(NodeFlags::DELETED, |node| node.flags)
    }

    /// The flags of the own node.
    pub fn my_flags(&self) -> NodeFlags {
        self.flags(self.me)
    }

    /// Whether the own node may lead the cluster (`cluster.md 4.1`).
    pub fn can_lead(&self) -> bool {
        !self.my_flags().is_inactive() && self.capabilities.contains(Capabilities::LEADER)
    }

    /// Whether packets reach the node. True for the own node.
    pub fn is_connected(&self, pnn: Pnn) -> bool {
        !self
            .flags(pnn)
            .intersects(NodeFlags::DISCONNECTED | NodeFlags::DELETED)
    }

    /// Whether the node takes part in the cluster, as far as we know.
    pub fn is_active(&self, pnn: Pnn) -> bool {
        !self.flags(pnn).is_inactive()
    }

    /// Nodes that packets reach, the own one included: the broadcast set `CONNECTED`.
    pub fn connected(&self) -> impl Iterator<Item = Pnn> + 'a {
        let unreachable = NodeFlags::DISCONNECTED | NodeFlags::DELETED;
        self.nodes
            .iter()
            .filter(move |node| !node.flags.intersects(unreachable))
            .map(|node| node.pnn)
    }

    /// Connected nodes without the own one.
    pub fn connected_peers(&self) -> impl Iterator<Item = Pnn> + 'a {
        let me = self.me;
        self.connected().filter(move |pnn| *pnn != me)
    }

    /// Nodes without one of the inactive flags: the broadcast set `ACTIVE`.
    pub fn active(&self) -> impl Iterator<Item = Pnn> + 'a {
        self.nodes
            .iter()
            .filter(|node| !node.flags.is_inactive())
            .map(|node| node.pnn)
    }

    /// Active nodes without the own one.
    pub fn active_peers(&self) -> impl Iterator<Item = Pnn> + 'a {
        let me = self.me;
        self.active().filter(move |pnn| *pnn != me)
    }

    /// Whether each node of the nodes list that is not deleted is connected.
    pub fn is_complete(&self) -> bool {
        let lost = |node: &NodeView| {
            node.flags.contains(NodeFlags::DISCONNECTED) && !node.flags.contains(NodeFlags::DELETED)
        };
        !self.nodes.iter().any(lost)
    }

    /// How many active nodes stand before the own one: lower ranks act first.
    pub fn rank(&self) -> u32 {
        let before = self.active_peers().filter(|pnn| *pnn < self.me).count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// Time limit of the recovery daemon's controls.
    pub fn recover_timeout(&self) -> Duration {
        self.tunables.seconds(Tunable::RecoverTimeout)
    }
}
