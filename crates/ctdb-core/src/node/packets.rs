//! Where packets go: from peers, from this node itself, from clients (wire.md 1, data-plane.md
//! 3.5 and 10).

use std::time::Instant;

use ctdb_proto::{
    Body, ClientId, ControlFlags, DbId, Dest, Message, NodeFlags, Opcode, Packet, Pnn,
    ReplyControl, ReqControl, ReqId, ReqMessage, ReqTunnel, Srvid, Wire,
};
use tracing::{debug, warn};

use super::Node;
use crate::mutation::{self, Mutation};
use crate::outstanding::{Asker, NoAnswer};
use crate::waiting::Caller;

impl Node {
    /// A packet from the incoming link of a peer.
    pub(super) fn peer_packet(&mut self, from: Pnn, packet: Packet, now: Instant) {
        let statistics = &mut self.cluster.statistics;
        statistics.node_packets_recv = statistics.node_packets_recv.wrapping_add(1);
        let redirected = matches!(&packet.body, Body::ReqCall(call) if call.hopcount != 0);
        if !redirected {
            self.peers.heard(from);
        }
        // The original believes the header. A redirected call keeps the node that began it.
        let from_other = packet.header.src != from.get();
        if from_other && !matches!(packet.body, Body::ReqCall(_)) {
            warn!(src = packet.header.src, %from, "dropped a packet in the name of another node");
            return;
        }
        self.dispatch(packet, now);
    }

    /// A packet that this node sent to itself on an earlier turn.
    pub(super) fn packet_from_self(&mut self, packet: Packet, now: Instant) {
        self.dispatch(packet, now);
    }

    /// Handles what came for a database while it was being attached.
    pub(crate) fn release_held_for(&mut self, db: DbId, now: Instant) {
        for packet in self.attaching.remove(&db).unwrap_or_default() {
            self.dispatch(packet, now);
        }
    }

    fn dispatch(&mut self, packet: Packet, now: Instant) {
        let header = packet.header;
        let Some(src) = header.src().filter(|pnn| self.cluster.node(*pnn).is_some()) else {
            warn!(src = header.src, "dropped a packet from an unknown node");
            return;
        };
        if is_record_packet(&packet.body) && !self.accepts_records_of(&packet) {
            return;
        }
        if let Some(db) = database_of(&packet.body)
            && let Some(held) = self.attaching.get_mut(&db)
        {
            // The sender attached it first, and what it sends next relies on that.
            return held.push(packet);
        }
        self.count_node_packet(&packet.body);
        match packet.body {
            Body::ReqCall(_)
            | Body::ReplyCall(_)
            | Body::ReqDmaster(_)
            | Body::ReplyDmaster(_)
            | Body::ReplyError(_) => self.migrator.peer_packet(packet, &mut self.cluster, now),
            Body::ReqMessage(message) => self.message(src, &message, now),
            Body::ReqControl(control) => {
                self.serve(Caller::of(src, &header, &control), &control, now);
            }
            Body::ReplyControl(reply) => self.control_answered(header.reqid, reply, now),
            Body::ReqKeepalive(keepalive) => {
                let verdict = self.peers.keepalive(src, keepalive, &mut self.cluster, now);
                if verdict.is_err() {
                    let reason = "CTDB Cluster with mixed versions, cannot continue";
                    tracing::error!("{reason}");
                    self.shut_down(0, reason.into(), now);
                }
            }
            Body::ReqTunnel(tunnel) => self.clients.deliver_tunnel(tunnel, &mut self.cluster),
        }
    }

    /// Record packets of another generation, or for a banned node, are dropped (wire.md 1.2).
    fn accepts_records_of(&self, packet: &Packet) -> bool {
        if mutation::is_on(Mutation::NoGenerationCheck) {
            return true;
        }
        if self.cluster.my_flags().contains(NodeFlags::BANNED) {
            debug!(
                src = packet.header.src,
                "dropped a record packet: this node is banned"
            );
            return false;
        }
        let (theirs, ours) = (packet.header.generation, self.cluster.vnn_map.generation);
        // REPLY_ERROR is subject to no check.
        if theirs != ours && !matches!(packet.body, Body::ReplyError(_)) {
            debug!(src = packet.header.src, %theirs, %ours, "dropped a record packet: generation");
            return false;
        }
        true
    }

    fn count_node_packet(&mut self, body: &Body) {
        let node = &mut self.cluster.statistics.node;
        let counter = match body {
            Body::ReqCall(_) => &mut node.req_call,
            Body::ReplyCall(_) => &mut node.reply_call,
            Body::ReqDmaster(_) => &mut node.req_dmaster,
            Body::ReplyDmaster(_) => &mut node.reply_dmaster,
            Body::ReplyError(_) => &mut node.reply_error,
            Body::ReqMessage(_) => &mut node.req_message,
            Body::ReqControl(_) => &mut node.req_control,
            Body::ReplyControl(_) => &mut node.reply_control,
            Body::ReqTunnel(_) => &mut node.req_tunnel,
            Body::ReqKeepalive(_) => return,
        };
        *counter = counter.wrapping_add(1);
    }

    /// Hands a message to all who listen on this node: the recovery daemon's part, a running
    /// push, the clients.
    fn message(&mut self, src: Pnn, message: &ReqMessage, now: Instant) {
        if message.srvid == Srvid::MEM_DUMP {
            self.dump_memory_for(message);
        }
        self.message_to_recoverd(src, message, now);
        self.pushed_records(message);
        if message.srvid == Srvid::RECOVERED {
            self.told_of_recovery(src, message);
        }
        self.clients.deliver(message, &mut self.cluster);
    }

    fn told_of_recovery(&mut self, teller: Pnn, message: &ReqMessage) {
        match Message::from_message(message) {
            Ok(Message::Recovered(generation)) => self.recovered_without(teller, generation),
            other => debug!(node = %teller, ?other, "message ignored"),
        }
    }

    pub(super) fn client_packet(&mut self, client: ClientId, packet: Packet, now: Instant) {
        let statistics = &mut self.cluster.statistics;
        statistics.client_packets_recv = statistics.client_packets_recv.wrapping_add(1);
        if !self.clients.exists(client) {
            return;
        }
        let header = packet.header;
        let counters = &mut self.cluster.statistics.client;
        match packet.body {
            Body::ReqCall(call) => {
                counters.req_call = counters.req_call.wrapping_add(1);
                self.migrator
                    .client_call(client, header.reqid, call, &mut self.cluster);
            }
            Body::ReqMessage(message) => {
                counters.req_message = counters.req_message.wrapping_add(1);
                self.client_message(header.dest(), &message, now);
            }
            Body::ReqControl(control) => {
                counters.req_control = counters.req_control.wrapping_add(1);
                self.client_control(client, header.reqid, header.dest(), control, now);
            }
            Body::ReqTunnel(tunnel) => {
                counters.req_tunnel = counters.req_tunnel.wrapping_add(1);
                self.client_tunnel(header.dest, tunnel);
            }
            other => {
                warn!("daemon: unrecognized operation {}", other.operation().raw());
            }
        }
    }

    fn client_message(&mut self, dest: Option<Dest>, message: &ReqMessage, now: Instant) {
        let me = self.cluster.me;
        match dest {
            Some(Dest::Current) => self.message(me, message, now),
            Some(Dest::Node(pnn)) if pnn == me => self.message(me, message, now),
            Some(Dest::Node(pnn)) if self.cluster.node(pnn).is_none() => {
                warn!(%pnn, "dropped a message to a node that does not exist");
            }
            Some(dest) => self
                .cluster
                .send_message(dest, message.srvid, &message.data),
            None => warn!("dropped a message to a node that does not exist"),
        }
    }

    /// A packet of a tunnel goes to one node: neither "this one" nor many will do.
    fn client_tunnel(&mut self, dest: u32, tunnel: ReqTunnel) {
        let exists = |pnn: &Pnn| self.cluster.node(*pnn).is_some();
        let Some(pnn) = Pnn::new(dest).filter(exists) else {
            warn!("Invalid destination {dest:#x}");
            return;
        };
        if self.clients.has_tunnel(tunnel.tunnel_id) {
            self.cluster.send(pnn, ReqId(0), Body::ReqTunnel(tunnel));
        } else {
            let id = tunnel.tunnel_id.get();
            warn!("tunnel id {id:#x} not registered, dropping pkt");
        }
    }

    /// Sends a client's control on its way; also one for this node, which it reaches on the next
    /// turn (wire.md 3.6).
    fn client_control(
        &mut self,
        client: ClientId,
        reqid: ReqId,
        dest: Option<Dest>,
        mut control: ReqControl,
        now: Instant,
    ) {
        control.client_id = client;
        let wants_reply = !control.flags.contains(ControlFlags::NOREPLY);
        let to = match dest {
            Some(Dest::Current) => Some(self.cluster.me),
            Some(Dest::Node(pnn)) => Some(pnn),
            Some(broadcast) if !wants_reply => {
                for pnn in self.cluster.broadcast_targets(broadcast) {
                    self.cluster.tell(pnn, control.clone());
                }
                return;
            }
            // The original never answers here, and its client waits for ever.
            Some(_) => {
                warn!("Attempt to broadcast control without NOREPLY");
                None
            }
            None => None,
        };
        let to = to.filter(|pnn| self.cluster.is_connected(*pnn));
        match to {
            Some(to) if wants_reply => {
                let asker = Asker::Client { id: client, reqid };
                let limit = self.cluster.control_timeout();
                if let Err(no_answer) = self.cluster.ask(asker, to, control, limit, now) {
                    self.give_no_answer(asker, no_answer, now);
                }
            }
            Some(to) => self.cluster.tell(to, control),
            None if wants_reply => {
                self.give_no_answer(
                    Asker::Client { id: client, reqid },
                    NoAnswer::NeverSent,
                    now,
                );
            }
            None => {}
        }
    }

    fn control_answered(&mut self, reqid: ReqId, reply: ReplyControl, now: Instant) {
        if let Some(asker) = self.cluster.answered(reqid) {
            self.give(asker, Ok(reply), now);
        } else {
            debug!(%reqid, "nobody waits for this reply of a control");
        }
    }

    pub(super) fn give_no_answer(&mut self, asker: Asker, why: NoAnswer, now: Instant) {
        self.give(asker, Err(why), now);
    }

    /// Hands the answer of a control, or the lack of one, to who asked.
    fn give(&mut self, asker: Asker, answer: Result<ReplyControl, NoAnswer>, now: Instant) {
        match asker {
            Asker::Client { id, reqid } => {
                if self.clients.exists(id) {
                    let reply = answer.unwrap_or_else(NoAnswer::reply);
                    self.cluster
                        .send_client(id, reqid, Body::ReplyControl(reply));
                }
            }
            Asker::Recoverd(token) => self.recoverd_answered(token, answer, now),
            Asker::Commit {
                db,
                serial,
                is_member,
            } => {
                let stored = answer.is_ok_and(|reply| reply.status == 0);
                self.commit_answered(db, serial, stored || !is_member);
            }
            Asker::LeadersLock(ticket) => {
                let lock = answer
                    .ok()
                    .filter(|reply| reply.status == 0)
                    .map(|reply| reply.data);
                self.leaders_lock(ticket, lock, now);
            }
            Asker::DbFlags => self.take_db_flags(answer.ok()),
            Asker::Traverse(ticket) => self.traverse_batch_taken(ticket, answer.is_ok()),
            Asker::Records(ticket) => {
                self.migrator
                    .control_answered(ticket, answer.ok(), &mut self.cluster, now);
            }
        }
    }

    /// The client is gone: what it owns goes with it (data-plane.md 10.6).
    pub(crate) fn client_gone(&mut self, client: ClientId) {
        let Some(departed) = self.clients.remove(client) else {
            return;
        };
        self.cluster.reqids.release(ReqId(client.get()));
        if departed.persistent_updates > 0 {
            self.cluster
                .force_recovery("a client left with an unfinished persistent update");
        }
        self.commit_abandoned_by(client);
        for (srvid, data) in departed.notifications {
            debug!("Sending client notify message for srvid:{}", srvid.get());
            self.cluster.send_message(Dest::Connected, srvid, &data);
        }
        self.migrator.client_gone(client, &mut self.cluster);
        self.cluster.forget_controls_of(client);
        self.traverses.client_gone(client, &mut self.cluster);
        self.deferred_attaches
            .retain(|attach| attach.caller.client != client);
    }
}

/// The database that a packet is about, unless it is to attach it.
fn database_of(body: &Body) -> Option<DbId> {
    const ABOUT_DATABASES: [Opcode; 8] = [
        Opcode::UPDATE_RECORD,
        Opcode::TRAVERSE_ALL,
        Opcode::TRAVERSE_ALL_EXT,
        Opcode::SET_DB_READONLY,
        Opcode::SET_DB_STICKY,
        Opcode::VACUUM_FETCH,
        Opcode::TRY_DELETE_RECORDS,
        Opcode::DB_DETACH,
    ];
    match body {
        Body::ReqCall(call) => Some(call.db_id),
        Body::ReqDmaster(request) => Some(request.db_id),
        Body::ReplyDmaster(reply) => Some(reply.db_id),
        Body::ReqControl(control) if ABOUT_DATABASES.contains(&control.opcode) => {
            DbId::decode(&mut control.data.clone()).ok()
        }
        _ => None,
    }
}

fn is_record_packet(body: &Body) -> bool {
    matches!(
        body,
        Body::ReqCall(_)
            | Body::ReplyCall(_)
            | Body::ReqDmaster(_)
            | Body::ReplyDmaster(_)
            | Body::ReplyError(_)
    )
}
