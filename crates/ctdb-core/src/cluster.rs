//! The state that every machine of the node reads: who is there, in which generation, with which
//! databases. And the two things that every machine does: queue an effect, send a packet.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use ctdb_conf::Tunables;
use ctdb_proto::{
    Body, Capabilities, ClientId, DbId, Dest, Generation, Header, NodeFlags, Packet, Pnn, RecMode,
    ReqId, ReqMessage, RunState, Srvid, Statistics, VnnMap,
};

use crate::database::Database;
use crate::effect::{Effect, Ticket};
use crate::outstanding::Outstanding;
use crate::reqid::ReqIds;

/// What this node believes of itself and its cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) me: Pnn,
    /// By pnn; deleted nodes keep their place.
    pub(crate) nodes: Vec<NodeEntry>,
    pub(crate) vnn_map: VnnMap,
    pub(crate) rec_mode: RecMode,
    /// A reason for a recovery came up since the vnn map was set, while the recovery mode was
    /// ACTIVE already: the recovery that runs may be too old to repair it.
    pub(crate) recover_again: bool,
    pub(crate) run_state: RunState,
    pub(crate) capabilities: Capabilities,
    pub(crate) tunables: Tunables,
    pub(crate) databases: BTreeMap<DbId, Database>,
    /// Newest first: the order of `GET_DBMAP`.
    pub(crate) database_order: VecDeque<DbId>,
    pub(crate) statistics: Statistics,
    pub(crate) reqids: ReqIds,
    pub(crate) outstanding: Outstanding,
    /// Done by the shell, in this order.
    pub(crate) effects: VecDeque<Effect>,
    /// Packets of this node to itself: handled on the next turn, like those of a peer.
    pub(crate) loopback: VecDeque<Packet>,
    next_ticket: u64,
}

/// One line of the nodes file, and what is known of that node.
#[derive(Clone, Debug)]
pub(crate) struct NodeEntry {
    pub(crate) addr: SocketAddr,
    pub(crate) flags: NodeFlags,
}

impl Cluster {
    pub(crate) fn new(
        me: Pnn,
        nodes: Vec<NodeEntry>,
        capabilities: Capabilities,
        tunables: Tunables,
    ) -> Self {
        let map = (0..).map_while(Pnn::new).zip(&nodes);
        let map = map
            .filter(|(_, n)| !n.flags.contains(NodeFlags::DELETED))
            .map(|(pnn, _)| pnn);
        Self {
            me,
            vnn_map: VnnMap {
                generation: Generation::INVALID,
                map: map.collect(),
            },
            nodes,
            rec_mode: RecMode::Active,
            recover_again: false,
            run_state: RunState::Init,
            capabilities,
            tunables,
            databases: BTreeMap::new(),
            database_order: VecDeque::new(),
            statistics: Statistics::default(),
            reqids: ReqIds::new(),
            outstanding: Outstanding::default(),
            effects: VecDeque::new(),
            loopback: VecDeque::new(),
            next_ticket: 0,
        }
    }

    pub(crate) fn node(&self, pnn: Pnn) -> Option<&NodeEntry> {
        self.nodes.get(pnn.index())
    }

    pub(crate) fn node_mut(&mut self, pnn: Pnn) -> Option<&mut NodeEntry> {
        self.nodes.get_mut(pnn.index())
    }

    pub(crate) fn pnns(&self) -> impl Iterator<Item = Pnn> + use<> {
        (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).map_while(Pnn::new)
    }

    /// The truth about this node; what others have is a copy.
    pub(crate) fn my_flags(&self) -> NodeFlags {
        self.node(self.me).map_or(NodeFlags::empty(), |n| n.flags)
    }

    pub(crate) fn is_inactive(&self) -> bool {
        self.my_flags().intersects(NodeFlags::INACTIVE)
    }

    pub(crate) fn is_connected(&self, pnn: Pnn) -> bool {
        let gone = NodeFlags::DISCONNECTED | NodeFlags::DELETED;
        self.node(pnn).is_some_and(|n| !n.flags.intersects(gone))
    }

    /// Nodes that are connected, this one not counted.
    pub(crate) fn connected_count(&self) -> usize {
        self.pnns()
            .filter(|pnn| *pnn != self.me && self.is_connected(*pnn))
            .count()
    }

    /// Nodes that a broadcast reaches, in pnn order, this one included (wire.md 2).
    pub(crate) fn broadcast_targets(&self, dest: Dest) -> Vec<Pnn> {
        let excluded = match dest {
            Dest::Node(pnn) => return vec![pnn],
            Dest::Current => return vec![self.me],
            Dest::All => NodeFlags::DELETED,
            Dest::Active => NodeFlags::INACTIVE,
            Dest::Connected => NodeFlags::DELETED | NodeFlags::DISCONNECTED,
        };
        let keep = |pnn: &Pnn| {
            self.node(*pnn)
                .is_some_and(|n| !n.flags.intersects(excluded))
        };
        self.pnns().filter(keep).collect()
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    /// Sends a packet of this node with the generation of the vnn map.
    pub(crate) fn send(&mut self, to: Pnn, reqid: ReqId, body: Body) {
        self.send_in(self.vnn_map.generation, to, reqid, body);
    }

    /// Sends a packet of this node with a given generation: record packets carry that of their
    /// database (wire.md 2.1).
    pub(crate) fn send_in(&mut self, generation: Generation, to: Pnn, reqid: ReqId, body: Body) {
        let header = Header {
            generation,
            dest: to.get(),
            src: self.me.get(),
            reqid,
        };
        self.forward(to, Packet { header, body });
    }

    /// Sends a packet as it is, for instance one that another node began.
    pub(crate) fn forward(&mut self, to: Pnn, packet: Packet) {
        self.statistics.node_packets_sent = self.statistics.node_packets_sent.wrapping_add(1);
        if to == self.me {
            self.loopback.push_back(packet);
        } else {
            self.effects.push_back(Effect::SendPeer { to, packet });
        }
    }

    /// Sends a message to every node that `to` names; the copy to this node comes back on the
    /// next turn.
    pub(crate) fn send_message(&mut self, to: Dest, srvid: Srvid, data: &Bytes) {
        for pnn in self.broadcast_targets(to) {
            let message = ReqMessage {
                srvid,
                data: data.clone(),
            };
            self.send(pnn, ReqId(0), Body::ReqMessage(message));
        }
    }

    /// Sends a packet to a local client, with the header that clients expect (wire.md 1.3).
    pub(crate) fn send_client(&mut self, to: ClientId, reqid: ReqId, body: Body) {
        let (generation, src) = (self.vnn_map.generation, self.me.get());
        let packet = Packet {
            header: Header {
                generation,
                dest: 0,
                src,
                reqid,
            },
            body,
        };
        self.statistics.client_packets_sent = self.statistics.client_packets_sent.wrapping_add(1);
        self.effects.push_back(Effect::SendClient { to, packet });
    }

    /// Makes the leader see a node in recovery, and so recover the cluster.
    pub(crate) fn force_recovery(&mut self, why: &str) {
        if self.rec_mode == RecMode::Active {
            self.recover_again = true;
        } else {
            tracing::warn!("Recovery mode set to ACTIVE: {why}");
            self.rec_mode = RecMode::Active;
        }
    }
}
