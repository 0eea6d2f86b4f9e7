//! Three nodes with packets between them: in order on a link, free between links.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_proto::{
    Body, ClientId, DbFlags, Generation, Opcode, Packet, Pnn, RecBuffer, RecordFlags, RecordHeader,
    ReqControl, Wire,
};

use super::fixture::{DB, Fixture, NODES, pnn, show, start};
use crate::database::Freeze;
use crate::effect::{DbAnswer, DbOp, Effect};
use crate::input::Record;
use crate::migrate::{RecordJob, server_store};
use crate::outstanding::Asker;
use crate::waiting::Caller;

/// Nodes, links, and the line of jobs at each node.
pub(super) struct Net {
    pub(super) nodes: Vec<Fixture>,
    /// By (from, to).
    pub(super) links: BTreeMap<(u32, u32), VecDeque<Packet>>,
    /// Jobs that wait for the lock of their chain, by node and key.
    pub(super) lines: BTreeMap<(u32, Bytes), VecDeque<RecordJob>>,
    /// Packets to clients: (node, client, packet).
    pub(super) to_clients: Vec<(u32, ClientId, Packet)>,
    /// Every packet that was delivered, as text.
    pub(super) log: Vec<String>,
    pub(super) now: Instant,
}

/// What can happen next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    Deliver(u32, u32),
    CarryOut(u32, Bytes),
}

impl Net {
    pub(super) fn new(flags: DbFlags) -> Self {
        let now = start();
        let mut nodes: Vec<Fixture> = (0..NODES)
            .map(|me| Fixture::new(me).with_flag(flags))
            .collect();
        for node in &mut nodes {
            node.now = now;
        }
        let (links, lines) = (BTreeMap::new(), BTreeMap::new());
        let (to_clients, log) = (Vec::new(), Vec::new());
        let mut net = Self {
            nodes,
            links,
            lines,
            to_clients,
            log,
            now,
        };
        net.advance(Duration::ZERO);
        net
    }

    pub(super) fn node(&mut self, me: u32) -> &mut Fixture {
        &mut self.nodes[me as usize]
    }

    /// Puts what the node wants done where it happens later; packets to itself come at once.
    pub(super) fn collect(&mut self, me: u32) {
        loop {
            while let Some(effect) = self.node(me).cluster.effects.pop_front() {
                self.place(me, effect);
            }
            let Some(packet) = self.node(me).cluster.loopback.pop_front() else {
                return;
            };
            self.receive(me, packet);
        }
    }

    fn place(&mut self, me: u32, effect: Effect) {
        match effect {
            Effect::Record(job) => {
                self.lines
                    .entry((me, job.key.clone()))
                    .or_default()
                    .push_back(job);
            }
            Effect::SendPeer { to, packet } => {
                self.links
                    .entry((me, to.get()))
                    .or_default()
                    .push_back(packet);
            }
            Effect::SendClient { to, packet } => self.to_clients.push((me, to, packet)),
            Effect::Db { ticket, op, .. } => {
                let answers = match op {
                    DbOp::ListEmpty { dmaster } => {
                        vec![
                            DbAnswer::Batch(self.list_empty(me, dmaster)),
                            DbAnswer::Done,
                        ]
                    }
                    DbOp::Repack { .. } => vec![DbAnswer::Done],
                    other => panic!("the record path does not ask for {other:?}"),
                };
                for answer in answers {
                    let node = self.node(me);
                    let (cluster, now) = (&mut node.cluster, node.now);
                    assert!(node.migrator.db_answered(ticket, &Ok(answer), cluster, now));
                }
            }
            other => panic!("the record path does not ask for {other:?}"),
        }
    }

    fn list_empty(&mut self, me: u32, dmaster: Pnn) -> Bytes {
        let mut records = RecBuffer::builder(DB);
        for (key, record) in &self.node(me).records {
            if record.data.is_empty() && record.header.dmaster == dmaster.get() {
                records.push_record(ctdb_proto::ReqId(0), key, &record.header, b"");
            }
        }
        records.finish().to_bytes()
    }

    /// Every step that is possible now, in a fixed order.
    pub(super) fn steps(&self) -> Vec<Step> {
        let links = self.links.iter().filter(|(_, queue)| !queue.is_empty());
        let links = links.map(|((from, to), _)| Step::Deliver(*from, *to));
        let lines = self.lines.iter().filter(|(_, line)| !line.is_empty());
        links
            .chain(lines.map(|((me, key), _)| Step::CarryOut(*me, key.clone())))
            .collect()
    }

    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::Deliver(from, to) => {
                let link = self.links.get_mut(&(*from, *to)).unwrap();
                let packet = link.pop_front().unwrap();
                self.log.push(format!("{from}->{to} {}", show(&packet)));
                self.receive(*to, packet);
                self.collect(*to);
            }
            Step::CarryOut(me, key) => {
                let line = self.lines.get_mut(&(*me, key.clone())).unwrap();
                let job = line.pop_front().unwrap();
                self.node(*me).carry_out(job);
                self.collect(*me);
            }
        }
    }

    /// What a node does with a packet, generation check included (data-plane.md 3.5).
    fn receive(&mut self, me: u32, packet: Packet) {
        let node = &mut self.nodes[me as usize];
        let (cluster, now) = (&mut node.cluster, node.now);
        let header = packet.header;
        match packet.body {
            Body::ReqControl(control) => {
                let caller = Caller::of(header.src().unwrap(), &header, &control);
                serve(&mut node.migrator, caller, &control, cluster);
            }
            Body::ReplyControl(reply) => match cluster.answered(header.reqid) {
                Some(Asker::Records(ticket)) => {
                    node.migrator
                        .control_answered(ticket, Some(reply), cluster, now);
                }
                other => panic!("the record path did not ask as {other:?}"),
            },
            Body::ReplyError(_) => node.migrator.peer_packet(packet, cluster, now),
            _ if header.generation == cluster.vnn_map.generation => {
                node.migrator.peer_packet(packet, cluster, now);
            }
            _ => {}
        }
    }

    /// Does all that is possible, in a fixed order, without letting time pass.
    pub(super) fn run(&mut self) {
        for me in 0..NODES {
            self.collect(me);
        }
        while let Some(step) = self.steps().first().cloned() {
            self.step(&step);
        }
    }

    pub(super) fn advance(&mut self, time: Duration) {
        self.now += time;
        for me in 0..NODES {
            let now = self.now;
            let node = self.node(me);
            node.now = now;
            node.migrator.handle_timeout(&mut node.cluster, now);
            self.collect(me);
        }
    }

    /// Lets the time pass until there is nothing left to do.
    pub(super) fn advance_to(&mut self, end: Instant) {
        self.run();
        let wake = |net: &Self| {
            net.nodes
                .iter()
                .filter_map(|n| n.migrator.poll_timeout())
                .min()
        };
        while let Some(at) = wake(self).filter(|at| *at <= end) {
            self.advance(at.saturating_duration_since(self.now));
            self.run();
        }
        self.advance(end.saturating_duration_since(self.now));
        self.run();
    }

    pub(super) fn idle_for(&mut self, time: Duration) {
        self.advance_to(self.now + time);
    }

    /// The record on each node, as text.
    pub(super) fn record(&mut self, key: &Bytes) -> [String; NODES as usize] {
        [0, 1, 2].map(|me| self.node(me).record(key))
    }

    pub(super) fn freeze(&mut self) {
        for node in &mut self.nodes {
            node.cluster.rec_mode = ctdb_proto::RecMode::Active;
            node.database().freeze = Freeze::Frozen;
            node.migrator.freezing(DB);
        }
    }

    /// What a recovery does to a frozen database: the newest copies that have data go everywhere,
    /// with `leader` as dmaster (6.6, cluster.md 6).
    pub(super) fn recover(&mut self, leader: u32, generation: Generation) {
        let mut newest: BTreeMap<Bytes, Record> = BTreeMap::new();
        for (key, record) in self.nodes.iter().flat_map(|node| &node.records) {
            let best = newest.entry(key.clone()).or_insert_with(|| record.clone());
            if record.header.rsn > best.header.rsn {
                *best = record.clone();
            }
        }
        for node in &mut self.nodes {
            let (me, cluster) = (node.cluster.me, &mut node.cluster);
            cluster.vnn_map.generation = generation;
            node.records.clear();
            node.migrator.database_wiped(DB);
            for (key, record) in newest.iter().filter(|(_, r)| !r.data.is_empty()) {
                let RecordHeader { rsn, flags, .. } = record.header;
                let flags = (flags - RecordFlags::RO_FLAGS) | RecordFlags::MIGRATED_WITH_DATA;
                let pushed = RecordHeader::new(rsn, pnn(leader), flags);
                let lmaster = cluster.vnn_map.lmaster(key).unwrap();
                let stored = server_store(me, lmaster, pushed, &record.data);
                let record = Record {
                    header: stored.header,
                    data: record.data.clone(),
                };
                node.records.insert(key.clone(), record);
            }
            node.migrator.push_confirmed(DB, cluster);
            node.database().generation = generation;
        }
    }

    pub(super) fn thaw(&mut self, me: u32) {
        let node = self.node(me);
        node.cluster.rec_mode = ctdb_proto::RecMode::Normal;
        node.database().freeze = Freeze::None;
        node.migrator.thawed(DB, &mut node.cluster, node.now);
        self.collect(me);
    }
}

fn serve(
    migrator: &mut crate::migrate::Migrator,
    caller: Caller,
    control: &ReqControl,
    cluster: &mut crate::cluster::Cluster,
) {
    let records = RecBuffer::decode(&mut control.data.clone()).unwrap();
    match control.opcode {
        Opcode::UPDATE_RECORD => migrator.update_records(caller, &records, cluster),
        Opcode::TRY_DELETE_RECORDS => migrator.try_delete_records(caller, &records, cluster),
        Opcode::VACUUM_FETCH => {
            let status = migrator.vacuum_fetch(&records, cluster);
            let reply = Body::ReplyControl(ctdb_proto::ReplyControl::status(status));
            cluster.send(caller.node, caller.reqid, reply);
        }
        other => panic!("the record path does not send {other}"),
    }
}
