//! The cluster of a case: what a daemon would know, and how it answers controls.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::SystemTime;

use ctdb_conf::{Tunable, Tunables};
use ctdb_proto::control::{
    DbidEntry, DbidMap, GetTunable, Iface, IfaceList, NodeAndFlags, NodeMap, PublicIp,
    PublicIpInfo, PublicIpList, Reply, Request, TunableNames, Uptime,
};
use ctdb_proto::{
    Capabilities, DB_SEQNUM_KEY, DbFlags, DbId, FixedStr, Generation, NodeFlags, Pnn, RecBuffer,
    RecMode, RecordFlags, RecordHeader, Rsn, RunState, SockAddr, Srvid, TdbOpenFlags, TimeVal,
    VnnMap,
};
use serde_json::Value;
use tdb::{Db, Flags, OpenOptions, StoreMode};

/// Pid of the client that some cases have beside the tool.
pub(crate) const CLIENT_PID: i32 = 3_999_999;

pub(crate) struct State {
    pub(crate) current: u32,
    pub(crate) leader: u32,
    nodes: Vec<Node>,
    ifaces: Vec<Iface>,
    vnnmap: VnnMap,
    dbs: Vec<Database>,
    db_dir: PathBuf,
    public_ips: Vec<Address>,
    reclock: Option<String>,
    runstate: RunState,
    recmode: RecMode,
    debug_level: i32,
    tunables: Tunables,
    started: TimeVal,
    /// Texts of nodes lists, by the names of their files.
    nodes_files: BTreeMap<String, String>,
    /// Service ids of the extra client.
    client_srvids: Option<Vec<Srvid>>,
}

struct Node {
    address: IpAddr,
    flags: NodeFlags,
    capabilities: Capabilities,
}

struct Database {
    id: DbId,
    name: String,
    flags: DbFlags,
    seqnum: u64,
    /// Open once a client has attached.
    file: Option<Db>,
}

struct Address {
    ip: PublicIp,
    /// `None`: all nodes.
    known_on: Option<Vec<u32>>,
}

fn nodes_files(cluster: &Value) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for (name, text) in cluster["files"].as_object().into_iter().flatten() {
        files.insert(name.clone(), text.as_str().unwrap().to_owned());
    }
    if let Some(text) = cluster["nodes_command"]["stdout"].as_str() {
        files.insert("nodes".to_owned(), text.to_owned());
    }
    files
}

/// What `GET_NODES_FILE` says of a list.
fn listed(text: &str) -> NodeMap {
    let line = |(pnn, line): (u32, &str)| {
        let flags = if line.starts_with('#') {
            NodeFlags::DELETED
        } else {
            NodeFlags::empty()
        };
        let ip: IpAddr = line.parse().unwrap_or(IpAddr::from([0; 4]));
        NodeAndFlags {
            pnn: Pnn::new(pnn).unwrap(),
            flags,
            addr: SockAddr(SocketAddr::new(ip, 4379)),
        }
    };
    NodeMap {
        nodes: (0..).zip(text.lines()).map(line).collect(),
    }
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn hex(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().strip_prefix("0x").unwrap(), 16).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

impl State {
    pub(crate) fn new(cluster: &Value, db_dir: PathBuf) -> Self {
        Self {
            current: number(&cluster["current"]),
            leader: number(&cluster["leader"]),
            nodes: list(&cluster["nodes"]).iter().map(Node::new).collect(),
            ifaces: list(&cluster["ifaces"]).iter().map(iface).collect(),
            vnnmap: vnnmap(&cluster["vnnmap"]),
            dbs: list(&cluster["dbs"]).iter().map(Database::new).collect(),
            db_dir,
            public_ips: list(&cluster["public_ips"])
                .iter()
                .map(Address::new)
                .collect(),
            reclock: cluster["reclock"].as_str().map(str::to_owned),
            runstate: runstate(cluster["runstate"].as_str().unwrap()),
            recmode: RecMode::Normal,
            debug_level: 0,
            tunables: Tunables::default(),
            started: TimeVal::from(SystemTime::now()),
            nodes_files: nodes_files(cluster),
            client_srvids: list(&cluster["clients"]).first().map(|client| {
                list(&client["srvids"])
                    .iter()
                    .map(|id| Srvid(hex(id)))
                    .collect()
            }),
        }
    }

    pub(crate) fn has_node(&self, pnn: u32) -> bool {
        (pnn as usize) < self.nodes.len()
    }

    /// The answer of node `pnn`. What the recording's daemon does not know is refused.
    pub(crate) fn answer(&mut self, pnn: u32, clients: i32, request: Request) -> Reply {
        match request {
            Request::GetPnn => Reply::Pnn(Pnn::new(pnn).unwrap()),
            Request::GetPid => Reply::Pid(std::process::id().cast_signed()),
            Request::Ping => Reply::NumClients(clients),
            Request::ProcessExists(pid) => {
                let exists = pid == CLIENT_PID && self.client_srvids.is_some();
                Reply::Status(if exists { 0 } else { -1 })
            }
            Request::CheckPidSrvid(wanted) => {
                let has = self
                    .client_srvids
                    .as_ref()
                    .is_some_and(|ids| ids.contains(&wanted.srvid));
                Reply::Status(if wanted.pid == CLIENT_PID && has {
                    0
                } else {
                    -1
                })
            }
            Request::RegisterSrvid(_) | Request::DeregisterSrvid(_) => Reply::DONE,
            Request::GetNodeMap => Reply::NodeMap(self.nodemap()),
            Request::GetVnnMap => Reply::VnnMap(self.vnnmap.clone()),
            Request::GetRecMode => Reply::RecMode(self.recmode),
            Request::SetRecMode(RecMode::Active) => self.recover(),
            Request::GetRunState => Reply::RunState(self.runstate),
            Request::GetReclockFile => Reply::ReclockFile(self.reclock.clone()),
            Request::GetCapabilities => Reply::Capabilities(self.node(pnn).capabilities),
            Request::GetDebug => Reply::DebugLevel(self.debug_level),
            Request::SetDebug(level) => self.done(|state| state.debug_level = level),
            Request::Uptime => Reply::Uptime(Uptime {
                current_time: TimeVal::from(SystemTime::now()),
                ctdbd_start_time: self.started,
                last_recovery_started: self.started,
                last_recovery_finished: self.started,
            }),
            Request::GetNodesFile => self.nodes_file(pnn),
            Request::ReloadNodesFile => self.reload_nodes(),
            Request::DisableNode => self.flag(pnn, NodeFlags::PERMANENTLY_DISABLED, true),
            Request::EnableNode => self.flag(pnn, NodeFlags::PERMANENTLY_DISABLED, false),
            Request::StopNode => self.flag(pnn, NodeFlags::STOPPED, true),
            Request::ContinueNode => self.flag(pnn, NodeFlags::STOPPED, false),
            Request::SetBanState(ban) => self.flag(pnn, NodeFlags::BANNED, !ban.time.is_zero()),
            request => self.answer_about_things(pnn, request),
        }
    }

    /// Tunables, addresses and databases.
    fn answer_about_things(&mut self, pnn: u32, request: Request) -> Reply {
        match request {
            Request::ListTunables => {
                let names = Tunable::current()
                    .map(|tunable| tunable.name().to_owned())
                    .collect();
                Reply::TunableNames(TunableNames { names })
            }
            Request::GetTunable(GetTunable { name }) => match Tunable::from_name(&name) {
                Some(tunable) => Reply::Tunable(self.tunables.get(tunable)),
                None => Reply::FAILED,
            },
            Request::SetTunable(order) => match Tunable::from_name(&order.name) {
                Some(tunable) => self.done(|state| state.tunables.set(tunable, order.value)),
                None => Reply::FAILED,
            },
            Request::GetIfaces => Reply::Ifaces(IfaceList {
                ifaces: self.ifaces.clone(),
            }),
            Request::SetIfaceLinkState(wanted) => self.set_link(&wanted),
            Request::GetPublicIps => {
                let known = self
                    .public_ips
                    .iter()
                    .filter(|address| address.is_known_on(pnn));
                Reply::PublicIps(PublicIpList {
                    ips: known.map(|address| address.ip).collect(),
                })
            }
            Request::GetPublicIpInfo(wanted) => self.public_ip_info(pnn, wanted),
            Request::GetDbMap => {
                let dbs = self.dbs.iter().map(|db| DbidEntry {
                    db_id: db.id,
                    flags: db.flags,
                });
                Reply::DbidMap(DbidMap { dbs: dbs.collect() })
            }
            Request::GetDbName(id) => self.of_db(id, |db, _| Reply::DbName(db.name.clone())),
            Request::GetDbPath(id) => self.of_db(id, |_, path| Reply::DbPath(path)),
            Request::DbGetHealth(id) => self.of_db(id, |_, _| Reply::DbHealth(None)),
            Request::GetDbSeqnum(wanted) => {
                self.of_db(wanted.db_id, |db, _| Reply::DbSeqnum(db.seqnum))
            }
            Request::DbOpenFlags(id) => {
                self.of_db(id, |db, _| Reply::DbOpenFlags(open_flags(db.flags)))
            }
            Request::DbAttach(name) => self.attach(name, DbFlags::empty()),
            Request::DbAttachPersistent(name) => self.attach(name, DbFlags::PERSISTENT),
            Request::DbAttachReplicated(name) => self.attach(name, DbFlags::REPLICATED),
            Request::SetDbReadonly(id) => self.set_db_flag(id, DbFlags::READONLY),
            Request::SetDbSticky(id) => self.set_db_flag(id, DbFlags::STICKY),
            Request::TraverseStartExt(_) => Reply::DONE,
            Request::Trans3Commit(records) => self.commit(&records),
            _ => Reply::FAILED,
        }
    }

    /// The list that a node reads: its own file if it has one, and an empty one is unreadable.
    fn nodes_file(&self, pnn: u32) -> Reply {
        let own = self.nodes_files.get(&format!("nodes.{pnn}"));
        let text = own.or_else(|| self.nodes_files.get("nodes"));
        match text.filter(|text| !text.is_empty()) {
            Some(text) => Reply::NodeMap(listed(text)),
            None => Reply::FAILED,
        }
    }

    fn reload_nodes(&mut self) -> Reply {
        let listed = listed(&self.nodes_files["nodes"]);
        for (index, line) in listed.nodes.iter().enumerate() {
            let is_deleted = line.flags.contains(NodeFlags::DELETED);
            match self.nodes.get_mut(index) {
                Some(node) if node.flags.contains(NodeFlags::DELETED) == is_deleted => {}
                Some(node) => node.flags = line.flags,
                None => self.nodes.push(Node {
                    address: line.addr.ip(),
                    flags: line.flags,
                    capabilities: Capabilities::DEFAULT,
                }),
            }
        }
        Reply::DONE
    }

    fn done(&mut self, change: impl FnOnce(&mut Self)) -> Reply {
        change(self);
        Reply::DONE
    }

    fn node(&self, pnn: u32) -> &Node {
        &self.nodes[pnn as usize]
    }

    fn flag(&mut self, pnn: u32, flag: NodeFlags, on: bool) -> Reply {
        self.done(|state| state.nodes[pnn as usize].flags.set(flag, on))
    }

    fn nodemap(&self) -> NodeMap {
        let node = |(pnn, node): (u32, &Node)| {
            let is_deleted = node.flags.contains(NodeFlags::DELETED);
            let ip = if is_deleted {
                "0.0.0.0".parse().unwrap()
            } else {
                node.address
            };
            NodeAndFlags {
                pnn: Pnn::new(pnn).unwrap(),
                flags: node.flags,
                addr: SockAddr(SocketAddr::new(ip, 4379)),
            }
        };
        NodeMap {
            nodes: (0..).zip(&self.nodes).map(node).collect(),
        }
    }

    /// A recovery that is over at once.
    fn recover(&mut self) -> Reply {
        self.done(|state| state.vnnmap.generation.0 += 1)
    }

    fn set_link(&mut self, wanted: &Iface) -> Reply {
        match self
            .ifaces
            .iter_mut()
            .find(|iface| iface.name == wanted.name)
        {
            Some(iface) => {
                iface.link_up = wanted.link_up;
                Reply::DONE
            }
            None => Reply::FAILED,
        }
    }

    fn public_ip_info(&self, pnn: u32, wanted: SockAddr) -> Reply {
        let known = self
            .public_ips
            .iter()
            .filter(|address| address.is_known_on(pnn));
        match known
            .into_iter()
            .find(|address| address.ip.addr.ip() == wanted.ip())
        {
            Some(address) => Reply::PublicIpInfo(PublicIpInfo {
                ip: address.ip,
                active_idx: Some(0),
                ifaces: self.ifaces.clone(),
            }),
            None => Reply::FAILED,
        }
    }

    fn of_db(&self, id: DbId, answer: impl FnOnce(&Database, String) -> Reply) -> Reply {
        match self.dbs.iter().find(|db| db.id == id) {
            Some(db) => answer(db, self.db_dir.join(&db.name).to_str().unwrap().to_owned()),
            None => Reply::FAILED,
        }
    }

    fn set_db_flag(&mut self, id: DbId, flag: DbFlags) -> Reply {
        match self
            .dbs
            .iter_mut()
            .find(|db| db.id == id && db.flags.is_volatile())
        {
            Some(db) => {
                db.flags |= flag;
                Reply::DONE
            }
            None => Reply::Status(22),
        }
    }

    fn attach(&mut self, name: String, flags: DbFlags) -> Reply {
        let id = DbId::of_name(&name);
        if !self.dbs.iter().any(|db| db.id == id) {
            self.dbs.push(Database {
                id,
                name: name.clone(),
                flags,
                seqnum: 0,
                file: None,
            });
        }
        let path = self.db_dir.join(name);
        let db = self.dbs.iter_mut().find(|db| db.id == id).unwrap();
        if db.file.is_none() {
            let flags = Flags::from_bits_truncate(open_flags(db.flags).bits());
            let options = OpenOptions::new().flags(flags).hash_size(8192).create(true);
            db.file = Some(options.open(path).unwrap());
        }
        Reply::DbAttached(id)
    }

    /// The file of a database that a client has attached to.
    fn file(&self, id: DbId) -> &Db {
        self.dbs
            .iter()
            .find(|db| db.id == id)
            .and_then(|db| db.file.as_ref())
            .unwrap()
    }

    /// Stores all records; empty ones with a history are deleted.
    fn commit(&mut self, records: &RecBuffer) -> Reply {
        for record in records {
            let (header, data) = record.split().unwrap();
            if record.key == DB_SEQNUM_KEY {
                let number = u64::from_le_bytes(data.try_into().unwrap());
                let mut dbs = self.dbs.iter_mut();
                dbs.find(|db| db.id == records.db_id()).unwrap().seqnum = number;
            }
            let file = self.file(records.db_id());
            if data.is_empty() && header.rsn > Rsn(0) {
                drop(file.delete(record.key));
            } else {
                file.store(record.key, record.data, StoreMode::Replace)
                    .unwrap();
            }
        }
        Reply::DONE
    }

    /// A call that migrates a record: it is made if it does not exist.
    pub(crate) fn migrate(&self, id: DbId, key: &[u8]) {
        let file = self.file(id);
        let old = file.fetch(key).unwrap();
        let made = RecordHeader::new(Rsn(0), Pnn::new(0).unwrap(), RecordFlags::empty());
        let (header, data) = old.as_deref().map_or((made, &[][..]), |value| {
            let (header, data) = RecordHeader::split(value).unwrap();
            (
                RecordHeader {
                    dmaster: self.current,
                    ..header
                },
                data,
            )
        });
        file.store_parts(key, &[&header.to_bytes(), data], StoreMode::Replace)
            .unwrap();
    }

    /// All records that are not empty, as a traverse of the cluster gives them.
    pub(crate) fn records(&self, id: DbId) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut records = Vec::new();
        let visited = self.file(id).traverse_read(&mut |key, value| {
            if value.len() > RecordHeader::LEN {
                records.push((key.to_vec(), value.to_vec()));
            }
            std::ops::ControlFlow::Continue(())
        });
        visited.unwrap();
        records
    }
}

impl Node {
    fn new(node: &Value) -> Self {
        let mut capabilities = Capabilities::empty();
        for name in list(&node["capabilities"]) {
            capabilities |= match name.as_str().unwrap() {
                "LEADER" => Capabilities::LEADER,
                "LMASTER" => Capabilities::LMASTER,
                other => panic!("unknown capability {other}"),
            };
        }
        Self {
            address: node["address"].as_str().unwrap().parse().unwrap(),
            flags: NodeFlags::from_bits_retain(number(&node["flags"])),
            capabilities,
        }
    }
}

impl Database {
    fn new(db: &Value) -> Self {
        let flags = list(&db["flags"])
            .iter()
            .map(|name| match name.as_str().unwrap() {
                "PERSISTENT" => DbFlags::PERSISTENT,
                "READONLY" => DbFlags::READONLY,
                "STICKY" => DbFlags::STICKY,
                "REPLICATED" => DbFlags::REPLICATED,
                other => panic!("unknown database flag {other}"),
            });
        Self {
            id: DbId::new(u32::try_from(hex(&db["id"])).unwrap()),
            name: db["name"].as_str().unwrap().to_owned(),
            flags: flags.fold(DbFlags::empty(), |sum, flag| sum | flag),
            seqnum: db["seqnum"].as_u64().unwrap(),
            file: None,
        }
    }
}

impl Address {
    fn new(address: &Value) -> Self {
        let ip: IpAddr = address["address"].as_str().unwrap().parse().unwrap();
        let pnn = address["assigned_to"]
            .as_u64()
            .map(|pnn| u32::try_from(pnn).unwrap());
        let known_on = address["known_on"].as_array();
        Self {
            ip: PublicIp {
                pnn: pnn.and_then(Pnn::new),
                addr: SockAddr::from(ip),
            },
            known_on: known_on.map(|nodes| nodes.iter().map(number).collect()),
        }
    }

    fn is_known_on(&self, pnn: u32) -> bool {
        self.known_on
            .as_ref()
            .is_none_or(|nodes| nodes.contains(&pnn))
    }
}

fn iface(iface: &Value) -> Iface {
    Iface {
        name: FixedStr::new(iface["name"].as_str().unwrap()).unwrap(),
        link_up: iface["link_up"].as_bool().unwrap(),
        references: number(&iface["references"]),
    }
}

fn vnnmap(value: &Value) -> VnnMap {
    if value.is_null() {
        return VnnMap {
            generation: Generation(1_234_567),
            map: Vec::new(),
        };
    }
    VnnMap {
        generation: Generation(number(&value["generation"])),
        map: list(&value["map"])
            .iter()
            .map(|pnn| Pnn::new(number(pnn)).unwrap())
            .collect(),
    }
}

fn runstate(name: &str) -> RunState {
    (0..=6)
        .filter_map(RunState::from_raw)
        .find(|state| state.name() == name)
        .unwrap()
}

fn open_flags(kind: DbFlags) -> TdbOpenFlags {
    let volatile =
        TdbOpenFlags::NOSYNC | TdbOpenFlags::CLEAR_IF_FIRST | TdbOpenFlags::INCOMPATIBLE_HASH;
    let always = TdbOpenFlags::DISALLOW_NESTING;
    if kind.contains(DbFlags::PERSISTENT) {
        always
    } else {
        always | volatile
    }
}
