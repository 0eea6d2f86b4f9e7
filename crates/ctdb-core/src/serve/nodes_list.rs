//! The controls about the nodes list (cluster.md 9.4, config.md 2.1).

use std::time::Instant;

use ctdb_proto::{Dest, NodeAndFlags, NodeFlags, NodeMap, Pnn, SockAddr, Srvid};
use tracing::{error, info, warn};

use crate::cluster::NodeEntry;
use crate::config::ConfiguredNode;
use crate::effect::{Effect, Ticket};
use crate::input::LinkEnd;
use crate::node::Node;
use crate::nodes_list::{Asker, Change, GONE, Purpose, changes};
use crate::waiting::Caller;

impl Node {
    /// `GET_NODES_FILE` and `RELOAD_NODES_FILE`: answered when the list was read.
    pub(super) fn want_nodes_list(&mut self, caller: Caller, purpose: Purpose) {
        if !self.readings.ask(Asker { caller, purpose }) {
            error!("too many wait for the nodes list to be read");
            return self.answer_status(caller, -1);
        }
        self.read_nodes_list();
    }

    fn read_nodes_list(&mut self) {
        if self.readings.is_due() {
            let ticket = self.cluster.ticket();
            self.readings.start(ticket);
            self.cluster.effect(Effect::ReadNodesList { ticket });
        }
    }

    /// The list was read, or could not be.
    pub(crate) fn nodes_list_read(
        &mut self,
        ticket: Ticket,
        list: &Result<Vec<ConfiguredNode>, String>,
        now: Instant,
    ) {
        let askers = self.readings.end(ticket);
        if let Err(why) = list {
            error!("{why}; the list that was read before stays in force");
        }
        let reloads = askers.iter().any(|asker| asker.purpose == Purpose::Reload);
        let reloaded = match list {
            Ok(list) if reloads => self.take_over(list, now),
            Ok(_) => true,
            Err(_) => false,
        };
        for Asker { caller, purpose } in askers {
            match (purpose, list) {
                (Purpose::Show, Ok(list)) => self.answer_data(caller, &as_node_map(list)),
                (Purpose::Reload, Ok(_)) if reloaded => self.answer_status(caller, 0),
                _ => self.answer_status(caller, -1),
            }
        }
        self.read_nodes_list();
    }

    /// Brings the known nodes in line with the list; false if it is refused.
    fn take_over(&mut self, list: &[ConfiguredNode], now: Instant) -> bool {
        let changes = match changes(&self.cluster.nodes, list, self.cluster.me) {
            Ok(changes) => changes,
            Err(why) => {
                error!("the nodes list is not taken over: {why}");
                return false;
            }
        };
        if changes.is_empty() {
            info!("the nodes list has not changed");
        }
        for change in changes {
            match change {
                Change::New(line) => self.add_node(line, now),
                Change::Deleted(pnn) => self.delete_node(pnn, now),
                Change::Undeleted(pnn, addr) => {
                    warn!("Node {pnn} is UNDELETED");
                    let deleted = false;
                    self.expect_node(pnn, ConfiguredNode { addr, deleted }, now);
                }
            }
        }
        let (me, nothing) = (self.cluster.me, bytes::Bytes::new());
        self.cluster
            .send_message(Dest::Node(me), Srvid::RELOAD_NODES, &nothing);
        self.wake_recoverd(now);
        true
    }

    fn add_node(&mut self, line: ConfiguredNode, now: Instant) {
        let count = self.cluster.nodes.len();
        let Some(pnn) = u32::try_from(count).ok().and_then(Pnn::new) else {
            return error!("there are no numbers for more than {count} nodes");
        };
        warn!("Node {pnn} is NEW");
        self.cluster.nodes.push(NodeEntry::from(&line));
        self.peers.resize(self.cluster.nodes.len());
        if !line.deleted {
            self.expect_node(pnn, line, now);
        }
    }

    /// A node that is listed now: we connect to it, and let it connect.
    fn expect_node(&mut self, pnn: Pnn, line: ConfiguredNode, now: Instant) {
        if let Some(node) = self.cluster.node_mut(pnn) {
            *node = NodeEntry::from(&line);
        }
        self.memory.listed(pnn, false, now);
        self.memory.peer_expected(pnn, now);
        let addr = line.addr;
        self.cluster.effect(Effect::AddPeer { pnn, addr });
    }

    /// Its number stays taken. What waits for the node is told that it is gone.
    fn delete_node(&mut self, pnn: Pnn, now: Instant) {
        warn!("Node {pnn} is DELETED");
        let why = "it was deleted from the nodes list".to_owned();
        let by_peer = false;
        self.peer_lost(pnn, LinkEnd { why, by_peer }, now);
        self.memory.listed(pnn, true, now);
        self.memory.peer_deleted(pnn);
        if let Some(node) = self.cluster.node_mut(pnn) {
            node.flags = GONE;
            node.addr = without_ip(node.addr);
        }
        self.cluster.effect(Effect::RemovePeer { pnn });
    }
}

/// 0.0.0.0, with the port that all nodes have.
fn without_ip(addr: std::net::SocketAddr) -> std::net::SocketAddr {
    (std::net::Ipv4Addr::UNSPECIFIED, addr.port()).into()
}

fn as_node_map(list: &[ConfiguredNode]) -> NodeMap {
    let flags = |line: &ConfiguredNode| {
        if line.deleted {
            NodeFlags::DELETED
        } else {
            NodeFlags::empty()
        }
    };
    let nodes = (0..).map_while(Pnn::new).zip(list);
    let nodes = nodes.map(|(pnn, line)| NodeAndFlags {
        pnn,
        flags: flags(line),
        addr: SockAddr(line.addr),
    });
    NodeMap {
        nodes: nodes.collect(),
    }
}

#[cfg(test)]
mod tests;
