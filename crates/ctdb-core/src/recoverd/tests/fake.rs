//! A daemon as far as the recovery daemon sees it: answers controls from state in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{
    DbFlags, DbId, DbidEntry, DbidMap, Generation, NodeAndFlags, NodeFlags, NodeMap, Opcode, Pnn,
    PublicIpList, PullDbExt, RecBuffer, RecMode, RecordFlags, RecordHeader, Reply, ReplyControl,
    ReqControl, ReqId, Request, Rsn, RunState, Srvid, TransDb, Wire,
};

use super::FakeNode;

/// One database of one daemon.
#[derive(Clone, Debug)]
pub(super) struct FakeDb {
    pub(super) name: String,
    pub(super) flags: DbFlags,
    pub(super) records: BTreeMap<Vec<u8>, (RecordHeader, Vec<u8>)>,
    pub(super) seqnum: u64,
    pub(super) generation: Generation,
    pub(super) frozen: bool,
    transaction: Option<Generation>,
    /// Stream of records that comes in, and how many came.
    push: Option<(Srvid, u32)>,
}

impl FakeDb {
    pub(super) fn new(name: &str, flags: DbFlags) -> Self {
        Self {
            name: name.to_owned(),
            flags,
            records: BTreeMap::new(),
            seqnum: 0,
            generation: Generation::INVALID,
            frozen: false,
            transaction: None,
            push: None,
        }
    }

    pub(super) fn store(&mut self, key: &str, rsn: u64, dmaster: Pnn, data: &str) {
        let header = RecordHeader::new(Rsn(rsn), dmaster, RecordFlags::empty());
        self.records.insert(key.into(), (header, data.into()));
    }

    pub(super) fn data(&self, key: &str) -> Option<&str> {
        let (_, data) = self.records.get(key.as_bytes())?;
        std::str::from_utf8(data).ok()
    }
}

/// The daemon of one node.
#[derive(Debug)]
pub(super) struct FakeDaemon {
    pub(super) node: FakeNode,
    pub(super) dbs: BTreeMap<DbId, FakeDb>,
    /// These controls answer -1.
    pub(super) refuses: BTreeSet<Opcode>,
    /// These controls are never answered.
    pub(super) ignores: BTreeSet<Opcode>,
    /// The ban that came last: its number and its length.
    pub(super) ban: (u32, Duration),
    /// Every control that came, with its sender.
    pub(super) served: Vec<(Pnn, Opcode)>,
}

/// What a control makes the daemon send, and what it answers.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) messages: Vec<(Srvid, Bytes)>,
    pub(super) reply: ReplyControl,
}

impl FakeDaemon {
    pub(super) fn new(node: FakeNode) -> Self {
        Self {
            node,
            dbs: BTreeMap::new(),
            refuses: BTreeSet::new(),
            ignores: BTreeSet::new(),
            ban: (0, Duration::ZERO),
            served: Vec::new(),
        }
    }

    pub(super) fn db(&mut self, name: &str, flags: DbFlags) -> &mut FakeDb {
        let new = || FakeDb::new(name, flags);
        self.dbs.entry(DbId::of_name(name)).or_insert_with(new)
    }

    /// Does what a control asks for. `None`: no answer, ever.
    pub(super) fn control(&mut self, from: Pnn, control: &ReqControl) -> Option<Answer> {
        self.served.push((from, control.opcode));
        if self.ignores.contains(&control.opcode) {
            return None;
        }
        let mut messages = Vec::new();
        let reply = if self.refuses.contains(&control.opcode) {
            Reply::FAILED
        } else {
            let request = Request::from_control(control).expect("we send well-formed requests");
            self.serve(request, &mut messages).unwrap_or(Reply::FAILED)
        };
        Some(Answer {
            messages,
            reply: reply.to_control(),
        })
    }

    /// Takes records that are pushed.
    pub(super) fn records(&mut self, srvid: Srvid, mut data: Bytes) {
        let batch = RecBuffer::decode(&mut data).unwrap();
        let Some(db) = self.dbs.get_mut(&batch.db_id()) else {
            return;
        };
        let Some((stream, count)) = &mut db.push else {
            return;
        };
        if *stream != srvid {
            return;
        }
        for record in &batch {
            let (header, data) = record.split().unwrap();
            db.records
                .insert(record.key.to_vec(), (header, data.to_vec()));
            *count += 1;
        }
    }

    /// What a node does with itself when it is banned or stopped (`cluster.md 2.3`).
    pub(super) fn become_inactive(&mut self, flag: NodeFlags) {
        let me = self.node.me;
        let flags = self.node.view().my_flags() | flag;
        self.node.set_flags(me, flags);
        self.node.vnn_map.generation = Generation::INVALID;
        self.node.rec_mode = RecMode::Active;
        self.node.all_frozen = true;
        self.dbs.values_mut().for_each(|db| db.frozen = true);
    }

    pub(super) fn end_ban(&mut self) {
        let flags = self.node.view().my_flags() - NodeFlags::BANNED;
        self.node.set_flags(self.node.me, flags);
    }

    fn serve(&mut self, request: Request, messages: &mut Vec<(Srvid, Bytes)>) -> Option<Reply> {
        Some(match request {
            Request::GetNodeMap => Reply::NodeMap(self.node_map()),
            Request::GetCapabilities => Reply::Capabilities(self.node.capabilities),
            Request::GetRecMode => Reply::RecMode(self.node.rec_mode),
            Request::GetVnnMap => Reply::VnnMap(self.node.vnn_map.clone()),
            Request::GetRunState => Reply::RunState(self.node.run_state),
            Request::GetPublicIps => Reply::PublicIps(PublicIpList::default()),
            Request::GetDbMap => Reply::DbidMap(self.db_map()),
            Request::GetDbName(id) => Reply::DbName(self.dbs.get(&id)?.name.clone()),
            Request::GetDbSeqnum(seqnum) => Reply::DbSeqnum(self.dbs.get(&seqnum.db_id)?.seqnum),
            Request::DbAttach(name) => self.attach(&name, DbFlags::empty()),
            Request::DbAttachPersistent(name) => self.attach(&name, DbFlags::PERSISTENT),
            Request::DbAttachReplicated(name) => self.attach(&name, DbFlags::REPLICATED),
            Request::DbFreeze(id) => {
                self.dbs.get_mut(&id)?.frozen = true;
                Reply::DONE
            }
            Request::DbTransactionStart(TransDb { db_id, tid }) => {
                let db = self.dbs.get_mut(&db_id).filter(|db| db.frozen)?;
                db.transaction = Some(tid);
                Reply::DONE
            }
            Request::DbPull(pull) => Reply::NumRecords(self.pull(&pull, messages)?),
            Request::WipeDatabase(TransDb { db_id, tid }) => {
                self.in_transaction(db_id, tid)?.records.clear();
                Reply::DONE
            }
            Request::DbPushStart(push) => {
                let db = self.dbs.get_mut(&push.db_id).filter(|db| db.frozen)?;
                db.push = Some((push.srvid, 0));
                Reply::DONE
            }
            Request::DbPushConfirm(id) => Reply::NumRecords(self.dbs.get_mut(&id)?.push.take()?.1),
            Request::DbTransactionCommit(TransDb { db_id, tid }) => {
                let db = self.in_transaction(db_id, tid)?;
                db.transaction = None;
                db.generation = tid;
                Reply::DONE
            }
            Request::DbThaw(id) => {
                self.dbs.get_mut(&id)?.frozen = false;
                Reply::DONE
            }
            request => return self.serve_node(request),
        })
    }

    /// Controls that change the node itself.
    fn serve_node(&mut self, request: Request) -> Option<Reply> {
        let node = &mut self.node;
        match request {
            Request::SetRecMode(mode) => {
                let map = node.vnn_map.generation;
                let is_behind = |db: &FakeDb| db.generation != map;
                if mode == RecMode::Normal && self.dbs.values().any(is_behind) {
                    return None;
                }
                node.rec_mode = mode;
                node.all_frozen &= mode == RecMode::Active;
            }
            Request::SetVnnMap(map) => {
                if node.rec_mode != RecMode::Active {
                    return None;
                }
                node.vnn_map = map;
            }
            Request::ModifyFlags(change) => {
                let old = node.view().flags(change.pnn);
                if change.pnn != node.me && !old.contains(NodeFlags::DISCONNECTED) {
                    node.set_flags(change.pnn, change.new_flags - NodeFlags::DISCONNECTED);
                }
            }
            Request::SetBanState(ban) => {
                if ban.pnn != node.me {
                    return None;
                }
                self.ban = (self.ban.0 + 1, ban.time);
                self.become_inactive(NodeFlags::BANNED);
                if ban.time.is_zero() {
                    self.end_ban();
                }
            }
            Request::Freeze => {
                node.all_frozen = true;
                self.dbs.values_mut().for_each(|db| db.frozen = true);
            }
            Request::EndRecovery => node.run_state = node.run_state.max(RunState::Running),
            Request::StartRecovery | Request::IpReallocated => {}
            other => panic!("a control that no recovery daemon sends: {other:?}"),
        }
        Some(Reply::DONE)
    }

    fn node_map(&self) -> NodeMap {
        let nodes = self.node.nodes.iter();
        let entry = |node: &super::NodeView| NodeAndFlags {
            pnn: node.pnn,
            flags: node.flags,
            addr: node.addr,
        };
        NodeMap {
            nodes: nodes.map(entry).collect(),
        }
    }

    fn db_map(&self) -> DbidMap {
        let dbs = self.dbs.iter();
        DbidMap {
            dbs: dbs
                .map(|(id, db)| DbidEntry {
                    db_id: *id,
                    flags: db.flags,
                })
                .collect(),
        }
    }

    fn attach(&mut self, name: &str, flags: DbFlags) -> Reply {
        self.db(name, flags);
        Reply::DbAttached(DbId::of_name(name))
    }

    fn in_transaction(&mut self, id: DbId, tid: Generation) -> Option<&mut FakeDb> {
        self.dbs
            .get_mut(&id)
            .filter(|db| db.frozen && db.transaction == Some(tid))
    }

    fn pull(&self, pull: &PullDbExt, messages: &mut Vec<(Srvid, Bytes)>) -> Option<u32> {
        let db = self.dbs.get(&pull.db_id).filter(|db| db.frozen)?;
        for (key, (header, data)) in &db.records {
            let mut batch = RecBuffer::builder(pull.db_id);
            batch.push_record(ReqId(0), key, header, data);
            messages.push((pull.srvid, batch.finish().to_bytes()));
        }
        u32::try_from(db.records.len()).ok()
    }
}
