//! One node with a record map in place of its file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use ctdb_conf::Tunables;
use ctdb_proto::{
    Body, CallFlags, CallId, Capabilities, ClientId, DbFlags, DbId, DbStatistics, Generation,
    Header, NodeFlags, Packet, Pnn, RecMode, RecordFlags, RecordHeader, ReqCall, ReqId, Rsn,
    RunState,
};

use crate::cluster::{Cluster, NodeEntry};
use crate::database::{Database, Freeze};
use crate::effect::Effect;
use crate::input::Record;
use crate::migrate::{Migrator, RecordJob, Write};

pub(super) const DB: DbId = DbId(0x11);
pub(super) const GENERATION: Generation = Generation(5);
pub(super) const NODES: u32 = 3;

pub(super) fn pnn(raw: u32) -> Pnn {
    Pnn::new(raw).unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "where time begins does not matter"
)]
pub(super) fn start() -> Instant {
    Instant::now()
}

pub(super) fn header(rsn: u64, dmaster: u32, flags: RecordFlags) -> RecordHeader {
    RecordHeader::new(Rsn(rsn), pnn(dmaster), flags)
}

/// A record path with the state that its node would have.
pub(super) struct Fixture {
    pub(super) cluster: Cluster,
    pub(super) migrator: Migrator,
    pub(super) records: BTreeMap<Bytes, Record>,
    pub(super) gone: BTreeSet<ClientId>,
    pub(super) now: Instant,
}

impl Fixture {
    /// Node `me` of three, with one volatile database.
    pub(super) fn new(me: u32) -> Self {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 4379));
        let nodes = (0..NODES)
            .map(|_| NodeEntry {
                addr,
                flags: NodeFlags::empty(),
            })
            .collect();
        let mut cluster = Cluster::new(pnn(me), nodes, Capabilities::DEFAULT, Tunables::default());
        cluster.vnn_map.generation = GENERATION;
        cluster.rec_mode = RecMode::Normal;
        cluster.run_state = RunState::Running;
        cluster.databases.insert(DB, database());
        let (records, gone) = (BTreeMap::new(), BTreeSet::new());
        Self {
            cluster,
            migrator: Migrator::new(),
            records,
            gone,
            now: start(),
        }
    }

    pub(super) fn with_flag(mut self, flag: DbFlags) -> Self {
        self.database().flags |= flag;
        self
    }

    pub(super) fn database(&mut self) -> &mut Database {
        self.cluster.databases.get_mut(&DB).unwrap()
    }

    /// A key with this lmaster.
    pub(super) fn key(&self, lmaster: u32) -> Bytes {
        let mut keys = (0..).map(|n| Bytes::from(format!("key{n}")));
        keys.find(|key| self.cluster.vnn_map.lmaster(key) == Some(pnn(lmaster)))
            .unwrap()
    }

    pub(super) fn put(&mut self, key: &Bytes, header: RecordHeader, data: &'static [u8]) {
        self.records.insert(
            key.clone(),
            Record {
                header,
                data: Bytes::from_static(data),
            },
        );
    }

    pub(super) fn client_call(&mut self, client: u32, reqid: u32, call: ReqCall) {
        let (client, reqid) = (ClientId(client), ReqId(reqid));
        self.migrator
            .client_call(client, reqid, call, &mut self.cluster);
    }

    pub(super) fn peer_packet(&mut self, packet: Packet) {
        self.migrator
            .peer_packet(packet, &mut self.cluster, self.now);
    }

    /// Carries one job out as the shell does.
    pub(super) fn carry_out(&mut self, job: RecordJob) {
        let key = job.key.clone();
        let record = self.records.get(&key).cloned();
        let exists = |client: ClientId| !self.gone.contains(&client);
        let verdict = self
            .migrator
            .on_record(job, record, &self.cluster, &exists, self.now);
        match verdict.write.clone() {
            Write::Nothing => {}
            Write::Store { header, data } => {
                self.records.insert(key, Record { header, data });
            }
            Write::Delete => _ = self.records.remove(&key),
        }
        self.migrator.conclude(verdict, &mut self.cluster, self.now);
    }

    /// Carries out all record jobs; returns everything that leaves the record path, as text.
    pub(super) fn run(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        loop {
            while let Some(effect) = self.cluster.effects.pop_front() {
                match effect {
                    Effect::Record(job) => self.carry_out(job),
                    Effect::SendPeer { to, packet } => out.push(format!("{to} {}", show(&packet))),
                    Effect::SendClient { to, packet } => {
                        out.push(format!("client {to} {}", show(&packet)));
                    }
                    other => out.push(format!("{other:?}")),
                }
            }
            match self.cluster.loopback.pop_front() {
                Some(packet) => out.push(format!("self {}", show(&packet))),
                None => return out,
            }
        }
    }

    pub(super) fn peer_says(&mut self, packet: Packet) -> Vec<String> {
        self.peer_packet(packet);
        self.run()
    }

    pub(super) fn client_says(&mut self, client: u32, reqid: u32, call: ReqCall) -> Vec<String> {
        self.client_call(client, reqid, call);
        self.run()
    }

    /// The record as `rsn@dmaster flags data`; `-` if there is none.
    pub(super) fn record(&self, key: &Bytes) -> String {
        self.records
            .get(key)
            .map_or_else(|| "-".to_owned(), show_record)
    }
}

fn database() -> Database {
    Database {
        id: DB,
        name: "test.tdb".to_owned(),
        flags: DbFlags::empty(),
        path: String::new(),
        open_flags: 0,
        generation: GENERATION,
        freeze: Freeze::None,
        invalid_records: false,
        transaction: None,
        push: None,
        health: None,
        commit: None,
        file_seqnum: None,
        statistics: DbStatistics::default(),
    }
}

pub(super) fn call(key: &Bytes, call_id: CallId) -> ReqCall {
    ReqCall {
        flags: CallFlags::IMMEDIATE_MIGRATION,
        db_id: DB,
        call_id,
        hopcount: 0,
        key: key.clone(),
        data: Bytes::new(),
    }
}

pub(super) fn copy_call(key: &Bytes, call_id: CallId) -> ReqCall {
    ReqCall {
        flags: CallFlags::WANT_READONLY,
        ..call(key, call_id)
    }
}

pub(super) fn from(src: u32, reqid: u32, body: Body) -> Packet {
    Packet {
        header: Header {
            generation: GENERATION,
            dest: 0,
            src,
            reqid: ReqId(reqid),
        },
        body,
    }
}

pub(super) fn show_record(record: &Record) -> String {
    let RecordHeader {
        rsn,
        dmaster,
        flags,
        ..
    } = record.header;
    format!("{rsn}@{dmaster} {:x} {}", flags.bits(), text(&record.data))
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// A packet in one line: its kind, what matters of it, and its reqid.
pub(super) fn show(packet: &Packet) -> String {
    let reqid = packet.header.reqid;
    match &packet.body {
        Body::ReqCall(call) => {
            let (id, flags, hops) = (call.call_id.get() & 0xFF, call.flags.bits(), call.hopcount);
            format!(
                "REQ_CALL {id} flags {flags} hops {hops} from {} #{reqid}",
                packet.header.src
            )
        }
        Body::ReplyCall(reply) => {
            format!(
                "REPLY_CALL {} {} #{reqid}",
                reply.status,
                show_reply(&reply.data)
            )
        }
        Body::ReplyError(error) => {
            format!("REPLY_ERROR {} {} #{reqid}", error.status, error.text())
        }
        Body::ReqDmaster(r) => {
            let flags = r.record_flags.unwrap_or_default().bits();
            let record = format!("{}@{} {flags:x} {}", r.rsn, r.dmaster, text(&r.data));
            format!("REQ_DMASTER {record} #{reqid}")
        }
        Body::ReplyDmaster(r) => {
            let flags = r.record_flags.unwrap_or_default().bits();
            format!(
                "REPLY_DMASTER {} {flags:x} {} #{reqid}",
                r.rsn,
                text(&r.data)
            )
        }
        Body::ReqControl(control) => format!("{} #{reqid}", control.opcode),
        Body::ReplyControl(reply) => format!("REPLY_CONTROL {} #{reqid}", reply.status),
        other => format!("{:?}", other.operation()),
    }
}

/// Data of a reply; a header in front of it is shown as one.
fn show_reply(data: &Bytes) -> String {
    match RecordHeader::split(data) {
        Ok((header, rest)) => show_record(&Record {
            header,
            data: Bytes::copy_from_slice(rest),
        }),
        Err(_) => text(data),
    }
}
