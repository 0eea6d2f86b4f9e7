//! Connections between the nodes of a [`World`]: made, lost, made again.

use std::time::Duration;

use ctdb_core::{Input, LinkEnd};
use ctdb_proto::{Body, Packet, Pnn};

use super::host::addr;
use super::{Happening, World};
use crate::net::{LATENCY, Lost, Parcel};

/// Between two tries to connect.
const CONNECT_RETRY: Duration = Duration::from_secs(1);

impl World {
    /// The daemon of a node begins to connect to all others.
    pub(super) fn open(&mut self, pnn: Pnn) {
        if let Some(daemon) = &mut self.host_mut(pnn).daemon {
            daemon.open = true;
        }
        for other in self.pnns().filter(|other| *other != pnn) {
            self.plan_connect(pnn, other, LATENCY);
        }
    }

    pub(super) fn plan_connect(&mut self, from: Pnn, to: Pnn, after: Duration) {
        let life = self.host(from).life;
        self.plan(after, Happening::Connect { from, to, life });
    }

    fn is_open(&self, pnn: Pnn) -> bool {
        let host = self.host(pnn);
        !host.paused && host.daemon.as_ref().is_some_and(|daemon| daemon.open)
    }

    pub(super) fn connect(&mut self, from: Pnn, to: Pnn) {
        if self.host(from).daemon.is_none() || self.net.is_open(from, to) {
            return;
        }
        let both = self.is_open(from) && self.is_open(to) && self.net.can_connect(from, to);
        if both && self.accept(from, to) {
            self.net.connected(from, to);
            self.carry_out(to);
            self.tell(from, Input::OutgoingUp(to));
        } else {
            self.plan_connect(from, to, CONNECT_RETRY);
        }
    }

    fn accept(&mut self, from: Pnn, to: Pnn) -> bool {
        let now = self.now;
        let daemon = self.host_mut(to).daemon.as_mut();
        daemon.is_some_and(|daemon| daemon.node.accept_peer(addr(from).ip(), now).is_ok())
    }

    pub(super) fn send(&mut self, from: Pnn, to: Pnn, packet: Packet) {
        self.cost.packets += 1;
        *self.sent.entry(kind(&packet)).or_default() += 1;
        if let Some(parcel) = self.net.pack(from, to, packet) {
            self.dispatch(from, to, parcel);
        }
    }

    fn dispatch(&mut self, from: Pnn, to: Pnn, parcel: Parcel) {
        let jitter = self.random.f64();
        if let Some((at, parcel)) = self.net.dispatch(from, to, parcel, jitter, self.now) {
            self.plan(at - self.now, Happening::Arrival { from, to, parcel });
        }
    }

    pub(super) fn arrives(&mut self, from: Pnn, to: Pnn, parcel: Parcel) {
        match self.net.arrived(from, to, parcel) {
            Ok(Some(packet)) => self.tell(to, Input::PeerPacket { from, packet }),
            Ok(None) => {}
            Err(Lost) => self.lost(to, from, "connection closed"),
        }
    }

    /// A node sees that its connections with another one are gone, and connects again.
    fn lost(&mut self, node: Pnn, other: Pnn, reason: &str) {
        let (pnn, why) = (other, reason.to_owned());
        let by_peer = true;
        let end = LinkEnd { why, by_peer };
        self.tell(node, Input::LinkLost { pnn, end });
        self.plan_connect(node, other, LATENCY * 2);
    }

    /// A node closes its connections with another one, which will see it if it can.
    pub(super) fn close(&mut self, node: Pnn, other: Pnn) {
        if let Some(parcel) = self.net.close(node, other) {
            self.dispatch(node, other, parcel);
        }
    }

    /// The connections between two nodes break; both see it at once.
    pub fn reset(&mut self, a: Pnn, b: Pnn) {
        self.note(format!("connections of nodes {a} and {b} reset"));
        for (this, other) in [(a, b), (b, a)] {
            if self.net.close(this, other).is_some() {
                self.lost(this, other, "connection reset");
            }
        }
    }

    /// Cuts two nodes off from each other, silently.
    pub fn cut(&mut self, a: Pnn, b: Pnn) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// What a node sends to another one does not arrive any more.
    pub fn cut_one_way(&mut self, from: Pnn, to: Pnn) {
        self.note(format!("cut from node {from} to node {to}"));
        self.net.cut(from, to);
    }

    /// Undoes [`Self::cut`] and [`Self::cut_one_way`]: what waited on a connection that was not
    /// given up arrives now.
    pub fn heal(&mut self, a: Pnn, b: Pnn) {
        if self.net.can_connect(a, b) {
            return;
        }
        self.note(format!("links of nodes {a} and {b} healed"));
        for (from, to) in [(a, b), (b, a)] {
            for parcel in self.net.heal(from, to) {
                self.dispatch(from, to, parcel);
            }
        }
    }

    /// Makes the links between two nodes slower, or as fast as usual again.
    pub fn delay(&mut self, a: Pnn, b: Pnn, delay: Duration) {
        self.note(format!("links of nodes {a} and {b} delayed by {delay:?}"));
        self.net.delay(a, b, delay);
        self.net.delay(b, a, delay);
    }

    /// Cuts each node of one side off from each of the other.
    pub fn partition(&mut self, one: &[Pnn], other: &[Pnn]) {
        for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
            self.cut(a, b);
        }
    }

    /// Heals all links.
    pub fn heal_all(&mut self) {
        let nodes: Vec<_> = self.pnns().collect();
        for (index, a) in nodes.iter().enumerate() {
            for b in &nodes[index + 1..] {
                self.heal(*a, *b);
            }
        }
    }
}

/// The opcode of a control, the address of a message, the operation of anything else.
fn kind(packet: &Packet) -> String {
    match &packet.body {
        Body::ReqControl(control) => control.opcode.to_string(),
        Body::ReqMessage(message) => match message.srvid.name() {
            Some(name) => name.to_owned(),
            None => message.srvid.to_string(),
        },
        body => format!("{:?}", body.operation()),
    }
}
