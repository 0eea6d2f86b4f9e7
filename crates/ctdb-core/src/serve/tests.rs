//! A whole node and what its clients and peers ask of it, above all what is the end of the original
//! or what it never answers (data-plane.md 14).

mod recmode;
mod suspicion;

use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_conf::Tunable;
use ctdb_proto::control::{BanState, Request, TransDb};
use ctdb_proto::{
    Body, ClientId, ControlFlags, DbFlags, DbId, DbStatistics, DbidEntry, DbidMap, Dest,
    Generation, Header, NodeFlags, Opcode, Packet, Pnn, RecBuffer, RecMode, RecordFlags,
    RecordHeader, ReplyControl, ReqControl, ReqId, ReqMessage, Rsn, RunState, Srvid, SrvidMessage,
    Statistics, Uptime, Wire,
};

use super::encoded;
use crate::database::{Database, Freeze};
use crate::effect::{DbAnswer, DbOp, Effect, Ticket};
use crate::input::{DbFailure, Input, LinkEnd};
use crate::node::Node;

const GENERATION: Generation = Generation(5);
const VOLATILE: &str = "v.tdb";
const PERSISTENT: &str = "p.tdb";

fn pnn(raw: u32) -> Pnn {
    Pnn::new(raw).unwrap()
}

fn id(name: &str) -> DbId {
    DbId::of_name(name)
}

/// Node 0 of three that run and are connected, with a client.
struct Fixture {
    node: Node,
    client: ClientId,
    now: Instant,
    /// Effects that no question has looked at.
    effects: Vec<Effect>,
}

impl Fixture {
    #[expect(
        clippy::disallowed_methods,
        reason = "where time begins does not matter"
    )]
    fn new() -> Self {
        let now = Instant::now();
        let mut node = Node::new(crate::node::tests::config(0, &[1, 2, 3]), now);
        let cluster = &mut node.cluster;
        cluster.run_state = RunState::Running;
        cluster.rec_mode = RecMode::Normal;
        cluster.vnn_map.generation = GENERATION;
        for other in &mut cluster.nodes {
            other.flags = NodeFlags::empty();
        }
        for (name, kind) in [
            (VOLATILE, DbFlags::empty()),
            (PERSISTENT, DbFlags::PERSISTENT),
        ] {
            cluster.databases.insert(id(name), database(name, kind));
            cluster.database_order.push_front(id(name));
        }
        while node.poll_effect().is_some() {}
        let client = node.accept_client(77, now);
        let effects = Vec::new();
        Self {
            node,
            client,
            now,
            effects,
        }
    }

    fn handle(&mut self, input: Input) {
        self.node.handle(input, self.now);
        while let Some(effect) = self.node.poll_effect() {
            self.effects.push(effect);
        }
    }

    fn client_sends(&mut self, dest: u32, control: ReqControl) {
        let body = Body::ReqControl(control);
        let packet = Packet {
            header: header(0, dest),
            body,
        };
        let client = self.client;
        self.handle(Input::ClientPacket { client, packet });
    }

    /// What the client got for its control; `None` if it still waits.
    fn reply(&mut self) -> Option<ReplyControl> {
        let is_reply = |effect: &mut Effect| matches!(effect, Effect::SendClient { packet, .. } if matches!(packet.body, Body::ReplyControl(_)));
        let found = self.effects.extract_if(.., is_reply).last()?;
        match found {
            Effect::SendClient { packet, .. } => match packet.body {
                Body::ReplyControl(reply) => Some(reply),
                other => panic!("not a reply: {other:?}"),
            },
            other => panic!("not a reply: {other:?}"),
        }
    }

    fn ask(&mut self, request: &Request) -> Option<i32> {
        let control = request.to_control(ControlFlags::empty());
        self.client_sends(ctdb_proto::CURRENT_NODE, control);
        self.reply().map(|reply| reply.status)
    }

    fn peer_sends(&mut self, from: u32, body: Body) {
        let packet = Packet {
            header: header(from, 0),
            body,
        };
        let from = pnn(from);
        self.handle(Input::PeerPacket { from, packet });
    }

    fn peer_asks(&mut self, from: u32, request: &Request, flags: ControlFlags) {
        self.peer_sends(from, Body::ReqControl(request.to_control(flags)));
    }

    /// Controls that were sent to other nodes since the last time: to whom, and which.
    fn sent(&mut self) -> Vec<(u32, ReqId, Opcode)> {
        let is_control = |effect: &mut Effect| matches!(effect, Effect::SendPeer { packet, .. } if matches!(packet.body, Body::ReqControl(_)));
        let controls = self.effects.extract_if(.., is_control);
        controls
            .map(|effect| match effect {
                Effect::SendPeer { to, packet } => match packet.body {
                    Body::ReqControl(control) => (to.get(), packet.header.reqid, control.opcode),
                    other => panic!("not a control: {other:?}"),
                },
                other => panic!("not a control: {other:?}"),
            })
            .collect()
    }

    /// Work on databases that was asked for since the last time.
    fn db_work(&mut self) -> Vec<(Ticket, DbOp)> {
        let is_work = |effect: &mut Effect| matches!(effect, Effect::Db { .. });
        let work = self.effects.extract_if(.., is_work);
        work.map(|effect| match effect {
            Effect::Db { ticket, op, .. } => (ticket, op),
            other => panic!("no work on a database: {other:?}"),
        })
        .collect()
    }

    fn db_answers(&mut self, ticket: Ticket, answer: Result<DbAnswer, DbFailure>) {
        self.handle(Input::Db { ticket, answer });
    }

    fn database(&mut self, name: &str) -> &mut Database {
        self.node.cluster.databases.get_mut(&id(name)).unwrap()
    }

    fn in_recovery(&self) -> bool {
        self.node.cluster.rec_mode == RecMode::Active
    }
}

fn database(name: &str, flags: DbFlags) -> Database {
    Database {
        id: id(name),
        name: name.to_owned(),
        flags,
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

fn header(src: u32, dest: u32) -> Header {
    Header {
        generation: GENERATION,
        dest,
        src,
        reqid: ReqId(9),
    }
}

fn attached(name: &str) -> DbAnswer {
    DbAnswer::Attached {
        name: name.to_owned(),
        path: format!("/{name}"),
        open_flags: 0,
        health: None,
    }
}

fn one_record(db: DbId) -> RecBuffer {
    let mut records = RecBuffer::builder(db);
    let header = RecordHeader::new(Rsn(1), pnn(0), RecordFlags::empty());
    records.push_record(ReqId(0), b"key", &header, b"data");
    records.finish()
}

fn record_without_header(db: DbId) -> RecBuffer {
    let mut records = RecBuffer::builder(db);
    records.push(ReqId(0), b"key", b"no header");
    records.finish()
}

// Attaching (1.2, 1.3).

#[test]
fn a_name_that_leads_elsewhere_never_reaches_the_files() {
    let mut f = Fixture::new();
    for name in ["a/b.tdb", "../a.tdb", "", &"x".repeat(245)] {
        assert_eq!(f.ask(&Request::DbAttach(name.to_owned())), Some(-1));
        let of_peer = Request::DbAttachPersistent(name.to_owned());
        f.peer_asks(1, &of_peer, ControlFlags::empty());
        assert!(f.db_work().is_empty(), "{name}");
    }
}

#[test]
fn only_clients_are_kept_from_attaching() {
    let mut f = Fixture::new();
    let tunables = &mut f.node.cluster.tunables;
    tunables.set(Tunable::AllowClientDBAttach, 0);
    assert_eq!(f.ask(&Request::DbAttach("new.tdb".into())), Some(-1));
    assert_eq!(f.ask(&Request::DbAttach(VOLATILE.into())), Some(-1));
    assert!(f.db_work().is_empty());
    let of_peer = Request::DbAttach("new.tdb".into());
    f.peer_asks(1, &of_peer, ControlFlags::NOREPLY);
    assert_eq!(f.db_work().len(), 1);
}

#[test]
fn who_asks_for_another_kind_while_a_database_is_attached_opens_no_second_file() {
    let mut f = Fixture::new();
    let (persistent, volatile) = (
        Request::DbAttachPersistent("new.tdb".into()),
        Request::DbAttach("new.tdb".into()),
    );
    assert_eq!(f.ask(&volatile), None);
    assert_eq!(f.ask(&persistent), None);
    let work = f.db_work();
    let [(ticket, DbOp::Attach { .. })] = work[..] else {
        panic!("{work:?}")
    };
    f.db_answers(ticket, Ok(attached("new.tdb")));
    assert_eq!(f.reply().unwrap().status, -1, "it is volatile");
    assert!(f.db_work().is_empty());
    let order = &f.node.cluster.database_order;
    assert_eq!(order.iter().filter(|db| **db == id("new.tdb")).count(), 1);
}

// Commits (7.1).

#[test]
fn every_active_node_gets_a_commit_also_one_that_is_no_lmaster() {
    let mut f = Fixture::new();
    f.node.cluster.vnn_map.map = vec![pnn(0), pnn(1)];
    let commit = Request::Trans3Commit(one_record(id(PERSISTENT)));
    assert_eq!(f.ask(&commit), None);
    let to: Vec<_> = f.sent();
    assert_eq!(
        to.iter()
            .map(|(to, _, opcode)| (*to, *opcode))
            .collect::<Vec<_>>(),
        [(1, Opcode::UPDATE_RECORD), (2, Opcode::UPDATE_RECORD)]
    );
    let work = f.db_work();
    let [(here, DbOp::Update { .. })] = work[..] else {
        panic!("{work:?}")
    };
    f.db_answers(here, Ok(DbAnswer::Done));
    for (from, reqid, _) in to {
        assert!(f.reply().is_none(), "a node is missing");
        let packet = Packet {
            header: Header {
                reqid,
                ..header(from, 0)
            },
            body: Body::ReplyControl(ReplyControl::status(0)),
        };
        let from = pnn(from);
        f.handle(Input::PeerPacket { from, packet });
    }
    assert_eq!(f.reply().unwrap().status, 0);
}

#[test]
fn a_commit_that_no_node_could_store_is_refused_and_harms_nobody() {
    let mut f = Fixture::new();
    for records in [
        record_without_header(id(PERSISTENT)),
        one_record(id(VOLATILE)),
        one_record(DbId(0x99)),
    ] {
        assert_eq!(f.ask(&Request::Trans3Commit(records)), Some(-1));
        assert!(f.sent().is_empty() && f.db_work().is_empty());
        assert!(!f.in_recovery());
    }
    // And the next one is not in the way of anything.
    let good = Request::Trans3Commit(one_record(id(PERSISTENT)));
    assert_eq!(f.ask(&good), None);
    assert_eq!(f.db_work().len(), 1);
}

#[test]
fn records_without_a_whole_header_are_refused_on_volatile_databases_too() {
    let mut f = Fixture::new();
    let update = Request::UpdateRecord(record_without_header(id(VOLATILE)));
    assert_eq!(f.ask(&update), Some(-1));
    let delete = Request::TryDeleteRecords(record_without_header(id(VOLATILE)));
    assert_eq!(f.ask(&delete), Some(-1));
}

// Answers (10.6).

#[test]
fn a_control_that_reaches_nobody_is_answered() {
    let mut f = Fixture::new();
    let ping = || Request::Ping.to_control(ControlFlags::empty());
    for dest in [Dest::All, Dest::Active, Dest::Connected] {
        f.client_sends(dest.raw(), ping());
        assert_eq!(f.reply().unwrap().status, -1, "{dest:?}");
    }
    f.client_sends(55, ping());
    assert_eq!(f.reply().unwrap().status, -1, "no such node");
    f.node.cluster.node_mut(pnn(2)).unwrap().flags = NodeFlags::DISCONNECTED;
    f.client_sends(2, ping());
    assert_eq!(f.reply().unwrap().status, -1, "not connected");
    // One that is lost on the way.
    f.client_sends(1, ping());
    assert!(f.reply().is_none());
    let (pnn, why) = (pnn(1), "part of the test".to_owned());
    let by_peer = true;
    let end = LinkEnd { why, by_peer };
    f.handle(Input::LinkLost { pnn, end });
    assert_eq!(f.reply().unwrap().status, -1, "its node is gone");
}

// Freezing (6.5).

#[test]
fn a_frozen_database_whose_lock_is_lost_is_usable_again_and_brings_a_recovery() {
    let mut f = Fixture::new();
    let db_id = id(VOLATILE);
    f.peer_asks(1, &Request::DbFreeze(db_id), ControlFlags::empty());
    let work = f.db_work();
    let [(ticket, DbOp::Freeze)] = work[..] else {
        panic!("{work:?}")
    };
    f.db_answers(ticket, Ok(DbAnswer::Done));
    let tid = Generation(6);
    let start = Request::DbTransactionStart(TransDb { db_id, tid });
    f.peer_asks(1, &start, ControlFlags::empty());
    let work = f.db_work();
    f.db_answers(work[0].0, Ok(DbAnswer::Done));
    assert_eq!(f.database(VOLATILE).freeze, Freeze::Frozen);
    assert_eq!(f.database(VOLATILE).transaction, Some(tid));

    f.handle(Input::FreezeLost(db_id));
    assert_eq!(f.database(VOLATILE).freeze, Freeze::None);
    assert_eq!(f.database(VOLATILE).transaction, None);
    assert!(f.in_recovery());
    // The recovery that was at work cannot go on with what it does not hold any more.
    let commit = Request::DbTransactionCommit(TransDb { db_id, tid });
    f.db_work();
    f.peer_asks(1, &commit, ControlFlags::empty());
    assert!(f.db_work().is_empty());
    assert_eq!(f.database(VOLATILE).generation, GENERATION);
    // A second report finds nothing to do.
    f.handle(Input::FreezeLost(db_id));
    assert!(f.db_work().is_empty());
}

// READONLY and STICKY (1.8).

#[test]
fn after_a_recovery_the_flags_come_from_those_who_have_kept_them() {
    let mut f = Fixture::new();
    f.peer_asks(1, &Request::EndRecovery, ControlFlags::empty());
    let asked = f.sent();
    let questions: Vec<_> = asked.iter().map(|(to, _, opcode)| (*to, *opcode)).collect();
    assert_eq!(questions, [(1, Opcode::GET_DBMAP), (2, Opcode::GET_DBMAP)]);
    let entry = |name, flags| DbidEntry {
        db_id: id(name),
        flags,
    };
    let both = DbFlags::READONLY | DbFlags::STICKY;
    for ((from, reqid, _), dbs) in asked.into_iter().zip([
        vec![entry("other.tdb", both), entry(PERSISTENT, both)],
        vec![entry(VOLATILE, DbFlags::READONLY | DbFlags::PERSISTENT)],
    ]) {
        let reply = ReplyControl::ok(encoded(&DbidMap { dbs }));
        let header = Header {
            reqid,
            ..header(from, 0)
        };
        let body = Body::ReplyControl(reply);
        let (from, packet) = (pnn(from), Packet { header, body });
        f.handle(Input::PeerPacket { from, packet });
    }
    assert_eq!(f.database(VOLATILE).flags, DbFlags::READONLY);
    assert_eq!(f.database(PERSISTENT).flags, DbFlags::PERSISTENT);
}

#[test]
fn a_node_that_does_not_tell_its_flags_changes_nothing() {
    let mut f = Fixture::new();
    f.node.take_db_flags(None);
    f.node.take_db_flags(Some(ReplyControl::status(-1)));
    let bad = ReplyControl::ok(Bytes::from_static(&[255; 7]));
    f.node.take_db_flags(Some(bad));
    assert_eq!(f.database(VOLATILE).flags, DbFlags::empty());
}

// Sequence numbers of files (1.7).

#[test]
fn an_interval_of_nothing_does_not_spin() {
    let mut f = Fixture::new();
    f.node.cluster.tunables.set(Tunable::SeqnumInterval, 0);
    assert_eq!(f.ask(&Request::EnableSeqnum(id(VOLATILE))), None);
    let work = f.db_work();
    f.db_answers(work[0].0, Ok(DbAnswer::Number(1)));
    assert_eq!(f.reply().unwrap().status, 0);
    let looks = (0..1000_u32)
        .filter(|ms| {
            let now = f.now + Duration::from_millis((*ms).into());
            f.node.handle_timeout(now);
            let mut effects = std::iter::from_fn(|| f.node.poll_effect());
            let is_look = |effect: &Effect| {
                matches!(effect, Effect::Db { op, .. } if *op == DbOp::FileSeqnum)
            };
            effects.by_ref().filter(is_look).count() > 0
        })
        .count();
    assert!((50..=100).contains(&looks), "{looks} in a second");
}

#[test]
fn a_change_is_told_to_the_others_and_does_not_come_back() {
    let mut f = Fixture::new();
    assert_eq!(f.ask(&Request::EnableSeqnum(id(VOLATILE))), None);
    let (ticket, _) = f.db_work().remove(0);
    f.db_answers(ticket, Ok(DbAnswer::Number(4)));
    let tick = |f: &mut Fixture, number| {
        f.now += Duration::from_secs(1);
        f.node.handle_timeout(f.now);
        f.handle(Input::FreezeLost(DbId(0)));
        let work = f.db_work();
        let looked = work.iter().find(|(_, op)| *op == DbOp::FileSeqnum);
        f.db_answers(looked.unwrap().0, Ok(DbAnswer::Number(number)));
        let sent = f.sent();
        sent.iter()
            .filter(|(_, _, opcode)| *opcode == Opcode::UPDATE_SEQNUM)
            .map(|(to, _, _)| *to)
            .collect::<Vec<_>>()
    };
    assert_eq!(tick(&mut f, 4), []);
    assert_eq!(tick(&mut f, 6), [1, 2]);
    assert_eq!(tick(&mut f, 6), []);
    f.peer_asks(
        2,
        &Request::UpdateSeqnum(id(VOLATILE)),
        ControlFlags::NOREPLY,
    );
    let (ticket, op) = f.db_work().remove(0);
    assert_eq!(op, DbOp::BumpFileSeqnum);
    f.db_answers(ticket, Ok(DbAnswer::Number(7)));
    assert_eq!(tick(&mut f, 7), [], "that change was not ours");
}

// The clock (cluster.md 11).

#[test]
fn the_uptime_follows_a_clock_that_is_set() {
    let mut f = Fixture::new();
    let uptime = |f: &mut Fixture| -> Uptime {
        let control = Request::Uptime.to_control(ControlFlags::empty());
        f.client_sends(ctdb_proto::CURRENT_NODE, control);
        Uptime::decode(&mut f.reply().unwrap().data).unwrap()
    };
    let before = uptime(&mut f);
    let shows = Duration::from_secs(5_000_000);
    f.node.note_wall_clock(shows, f.now);
    f.now += Duration::from_secs(3);
    let after = uptime(&mut f);
    assert_eq!(after.current_time.sec, 5_000_003);
    assert_eq!(after.ctdbd_start_time, before.ctdbd_start_time);
}

// Memory (11, cluster.md 2).

#[test]
fn the_use_of_memory_is_told() {
    let mut f = Fixture::new();
    f.node.note_memory_used(123_456);
    let control = Request::Statistics.to_control(ControlFlags::empty());
    f.client_sends(ctdb_proto::CURRENT_NODE, control);
    let mut data = f.reply().unwrap().data;
    let statistics = Statistics::decode(&mut data).unwrap();
    assert_eq!(statistics.memory_used, 123_456);
    f.node.note_memory_used(usize::MAX);
    let control = Request::Statistics.to_control(ControlFlags::empty());
    f.client_sends(ctdb_proto::CURRENT_NODE, control);
    let mut data = f.reply().unwrap().data;
    assert_eq!(Statistics::decode(&mut data).unwrap().memory_used, u32::MAX);
}

#[test]
fn who_asks_for_a_dump_of_memory_gets_a_text_where_he_wants_it() {
    let mut f = Fixture::new();
    let question = SrvidMessage {
        pnn: Some(pnn(2)),
        srvid: Srvid(0xABC),
    };
    let message = |data| {
        Body::ReqMessage(ReqMessage {
            srvid: Srvid::MEM_DUMP,
            data,
        })
    };
    f.peer_sends(1, message(encoded(&question)));
    let Some(Effect::SendPeer { to, packet }) = f.effects.pop() else {
        panic!("no answer")
    };
    let Body::ReqMessage(answer) = packet.body else {
        panic!("no message")
    };
    assert_eq!((to, answer.srvid), (pnn(2), Srvid(0xABC)));
    let text = String::from_utf8(answer.data.to_vec()).unwrap();
    assert!(
        text.contains("1 clients\n") && !text.contains('\0'),
        "{text}"
    );
    // Neither a node that is none nor a question that is none.
    let nowhere = SrvidMessage {
        pnn: Some(pnn(55)),
        ..question
    };
    f.peer_sends(1, message(encoded(&nowhere)));
    f.peer_sends(1, message(Bytes::from_static(b"short")));
    assert!(f.effects.is_empty());
}

#[test]
fn a_leader_neither_changes_nor_ends_the_ban_of_an_administrator() {
    let mut t = Fixture::new();
    let ban = |seconds| {
        let time = Duration::from_secs(seconds);
        Request::SetBanState(BanState { pnn: pnn(0), time })
    };
    let banned_for = |t: &Fixture| t.node.ban.map(|ban| ban.length.as_secs());
    t.peer_asks(1, &ban(20), ControlFlags::empty());
    assert_eq!(t.ask(&ban(300)), Some(0));
    for seconds in [30, 600, 0] {
        t.peer_asks(1, &ban(seconds), ControlFlags::empty());
        assert_eq!(banned_for(&t), Some(300), "{seconds}");
    }
    assert_eq!(t.ask(&ban(0)), Some(0));
    assert_eq!(banned_for(&t), None);
}
