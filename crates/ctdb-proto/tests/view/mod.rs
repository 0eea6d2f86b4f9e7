//! How packets and payloads look in the golden file: integers as numbers, ids and flag words as
//! hex texts, byte strings as hex.

mod payloads;
mod statistics;

use ctdb_proto::{
    Body, DbId, Message, RecBuffer, RecData, RecordHeader, RecordRef, Reply, Request, SockAddr,
    Srvid, TimeVal, VnnMap,
};
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::SocketAddr;

/// A value as the golden file shows it.
pub(crate) trait View {
    fn view(&self) -> Value;
}

/// Bytes as hex digits.
pub(crate) fn hex(bytes: &[u8]) -> Value {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text.into()
}

/// A flag word.
pub(crate) fn word(value: u32) -> Value {
    format!("{value:#010x}").into()
}

pub(crate) fn list<T: View>(values: &[T]) -> Vec<Value> {
    values.iter().map(View::view).collect()
}

/// The fields of an operation, its payload excepted.
pub(crate) fn body(body: &Body) -> Value {
    match body {
        Body::ReqCall(call) => json!({
            "flags": word(call.flags.bits()),
            "db_id": call.db_id.view(),
            "callid": call.call_id.to_string(),
            "hopcount": call.hopcount,
            "keylen": call.key.len(),
            "calldatalen": call.data.len(),
            "key": hex(&call.key),
            "calldata": hex(&call.data),
        }),
        Body::ReplyCall(reply) => json!({
            "status": reply.status,
            "datalen": reply.data.len(),
            "data": hex(&reply.data),
        }),
        Body::ReqDmaster(req) => json!({
            "db_id": req.db_id.view(),
            "rsn": req.rsn.get(),
            "dmaster": req.dmaster.get(),
            "keylen": req.key.len(),
            "datalen": req.data.len(),
            "key": hex(&req.key),
            "data": hex(&req.data),
            "record_flags": req.record_flags.map(|flags| word(flags.bits())),
        }),
        Body::ReplyDmaster(reply) => json!({
            "db_id": reply.db_id.view(),
            "rsn": reply.rsn.get(),
            "keylen": reply.key.len(),
            "datalen": reply.data.len(),
            "key": hex(&reply.key),
            "data": hex(&reply.data),
            "record_flags": reply.record_flags.map(|flags| word(flags.bits())),
        }),
        Body::ReplyError(reply) => json!({
            "status": reply.status,
            "msglen": reply.message.len(),
            "msg": hex(&reply.message),
        }),
        Body::ReqMessage(message) => json!({
            "srvid": message.srvid.view(),
            "datalen": message.data.len(),
        }),
        Body::ReqControl(control) => json!({
            "opcode": control.opcode.get(),
            "srvid": control.srvid.view(),
            "client_id": control.client_id.get(),
            "flags": word(control.flags.bits()),
            "datalen": control.data.len(),
        }),
        Body::ReplyControl(reply) => json!({
            "status": reply.status,
            "datalen": reply.data.len(),
            "errorlen": reply.error.len(),
            "error": str::from_utf8(&reply.error).unwrap(),
        }),
        Body::ReqKeepalive(keepalive) => json!({
            "sender_version": keepalive.version.map(|version| word(version.0)),
            "uptime": keepalive.uptime,
        }),
        Body::ReqTunnel(tunnel) => json!({
            "tunnel_id": tunnel.tunnel_id.to_string(),
            "flags": word(tunnel.flags.bits()),
            "datalen": tunnel.data.len(),
            "data": hex(&tunnel.data),
        }),
    }
}

impl View for Request {
    fn view(&self) -> Value {
        match self {
            Self::DbAttach(name)
            | Self::DbAttachPersistent(name)
            | Self::DbAttachReplicated(name) => json!({ "name": name }),
            Self::SetLmasterRole(role) | Self::SetRecmasterRole(role) => {
                json!({ "role": u32::from(*role) })
            }
            Self::ProcessExists(pid) => json!({ "pid": pid }),
            Self::SetDebug(level) => json!({ "level": level }),
            Self::SetRecMode(mode) => json!({ "recmode": mode.raw() }),
            Self::RecdReclockLatency(seconds) => json!({ "latency": seconds }),
            Self::GetDbPath(id)
            | Self::GetDbName(id)
            | Self::EnableSeqnum(id)
            | Self::UpdateSeqnum(id)
            | Self::DbSetHealthy(id)
            | Self::DbGetHealth(id)
            | Self::SetDbReadonly(id)
            | Self::GetDbStatistics(id)
            | Self::SetDbSticky(id)
            | Self::DbDetach(id)
            | Self::DbFreeze(id)
            | Self::DbThaw(id)
            | Self::DbTransactionCancel(id)
            | Self::DbPushConfirm(id)
            | Self::DbOpenFlags(id) => {
                json!({ "db_id": id.view() })
            }
            Self::GetDbSeqnum(argument) => json!({ "db_id": argument.db_id.view() }),
            Self::SetVnnMap(map) => map.view(),
            Self::TraverseStart(argument) | Self::TraverseKill(argument) => argument.view(),
            Self::TraverseStartExt(argument) => argument.view(),
            Self::TraverseAll(argument) => argument.view(),
            Self::TraverseAllExt(argument) => argument.view(),
            Self::TraverseData(record) => record.view(),
            Self::TcpClient(connection)
            | Self::TcpAdd(connection)
            | Self::TcpRemove(connection)
            | Self::TcpAddDelayedUpdate(connection)
            | Self::TcpClientDisconnected(connection)
            | Self::TcpClientPassed(connection) => connection.view(),
            Self::SetTunable(tunable) => tunable.view(),
            Self::GetTunable(tunable) => tunable.view(),
            Self::ModifyFlags(change) => change.view(),
            Self::GetTcpTickleList(addr) | Self::GetPublicIpInfo(addr) => {
                json!({ "addr": addr.view() })
            }
            Self::SetTcpTickleList(tickles) => tickles.view(),
            Self::UpdateRecord(records)
            | Self::TryDeleteRecords(records)
            | Self::Trans3Commit(records)
            | Self::VacuumFetch(records) => records.view(),
            Self::SendGratuitousArp(info) | Self::AddPublicIp(info) | Self::DelPublicIp(info) => {
                info.view()
            }
            Self::WipeDatabase(db)
            | Self::DbTransactionStart(db)
            | Self::DbTransactionCommit(db) => db.view(),
            Self::ReleaseIp(ip) | Self::TakeoverIp(ip) => ip.view(),
            Self::SetBanState(state) => state.view(),
            Self::RegisterNotify(notify) => notify.view(),
            Self::DeregisterNotify(srvid) => json!({ "srvid": srvid.view() }),
            Self::SetIfaceLinkState(iface) => iface.view(),
            Self::ScheduleForDeletion(key) => key.view(),
            Self::DbPull(pull) | Self::DbPushStart(pull) => pull.view(),
            Self::CheckPidSrvid(argument) => argument.view(),
            Self::DbVacuum(vacuum) => vacuum.view(),
            Self::EchoData(echo) => echo.view(),
            without_argument => {
                let (_, _, data) = without_argument.encode();
                assert!(data.is_empty(), "{without_argument:?} needs a view");
                Value::Null
            }
        }
    }
}

impl View for Reply {
    fn view(&self) -> Value {
        match self {
            // The status is a field of the packet.
            Self::Status(_)
            | Self::NumClients(_)
            | Self::Pid(_)
            | Self::Pnn(_)
            | Self::RecMode(_)
            // Ours: it is in no recording.
            | Self::Explanation(_) => Value::Null,
            Self::DbPath(path) => json!({ "path": path }),
            Self::DbName(name) => json!({ "name": name }),
            Self::DbHealth(reason) => json!({ "reason": reason }),
            Self::ReclockFile(path) => json!({ "path": path }),
            Self::MemoryDump(text) => hex(text),
            Self::Statistics(statistics) => statistics.view(),
            Self::VnnMap(map) => map.view(),
            Self::DebugLevel(level) => json!({ "level": level }),
            Self::DbidMap(map) => map.view(),
            Self::DbAttached(id) => json!({ "db_id": id.view() }),
            Self::Tunable(value) => json!({ "value": value }),
            Self::TunableNames(names) => names.view(),
            Self::AllTunables(tunables) => tunables.view(),
            Self::TickleList(tickles) => tickles.view(),
            Self::Uptime(uptime) => uptime.view(),
            Self::RecordsKept(records) => records.view(),
            Self::Capabilities(capabilities) => {
                json!({ "capabilities": word(capabilities.bits()) })
            }
            Self::PublicIps(ips) => ips.view(),
            Self::NodeMap(map) => map.view(),
            Self::BanState(state) => state.view(),
            Self::DbSeqnum(number) => json!({ "seqnum": number }),
            Self::PublicIpInfo(info) => info.view(),
            Self::Ifaces(ifaces) => ifaces.view(),
            Self::StatHistory(history) => json!(list(&history.statistics)),
            Self::DbStatistics(statistics) => statistics.view(),
            Self::RunState(state) => json!({ "runstate": state.raw() }),
            Self::NumRecords(number) => json!({ "num_records": number }),
            Self::DbOpenFlags(flags) => json!({ "tdb_flags": word(flags.bits()) }),
            Self::EchoData(echo) => echo.view(),
        }
    }
}

impl View for Message {
    fn view(&self) -> Value {
        match self {
            Self::Reconfigure
            | Self::IpReallocated
            | Self::StartIpReallocate
            | Self::GetLog
            | Self::ClearLog
            | Self::ReloadNodes => Value::Null,
            Self::ReleaseIp(ip) | Self::TakeIp(ip) => json!({ "ip": ip }),
            Self::Banning(pnn) | Self::RebalanceNode(pnn) => json!({ "pnn": pnn.get() }),
            Self::Leader(pnn) => json!({ "pnn": payloads::raw(*pnn) }),
            Self::Election(election) => election.view(),
            Self::SetNodeFlags(change) | Self::PushNodeFlags(change) => change.view(),
            Self::RecdUpdateIp(ip) => ip.view(),
            Self::VacuumFetch(records) | Self::Records { records, .. } => records.view(),
            Self::DetachDatabase(id) => json!({ "db_id": id.view() }),
            Self::MemDump(question) | Self::TakeoverRun(question) => question.view(),
            Self::DisableTakeoverRuns(disable) | Self::DisableRecoveries(disable) => disable.view(),
            Self::DisableIpCheck(timeout) => json!({ "timeout": timeout.as_secs() }),
            Self::SambaNotify(data) => hex(data),
            Self::LeaderQuery(_)
            | Self::LeaderOpinion(_)
            | Self::LeaseRequest(_)
            | Self::LeaseGrant(_) => {
                panic!("the original has no such message")
            }
            Self::Other(message) => panic!("{} has no view", message.srvid),
        }
    }
}

impl View for DbId {
    fn view(&self) -> Value {
        self.to_string().into()
    }
}

impl View for Srvid {
    fn view(&self) -> Value {
        self.to_string().into()
    }
}

impl View for TimeVal {
    fn view(&self) -> Value {
        json!({ "sec": self.sec, "usec": self.usec })
    }
}

impl View for SockAddr {
    fn view(&self) -> Value {
        match self.0 {
            SocketAddr::V4(addr) => {
                json!({ "family": "inet", "port": addr.port(), "addr": addr.ip() })
            }
            SocketAddr::V6(addr) => json!({
                "family": "inet6",
                "port": addr.port(),
                "flowinfo": addr.flowinfo(),
                "addr": addr.ip(),
                "scope_id": addr.scope_id(),
            }),
        }
    }
}

impl View for VnnMap {
    fn view(&self) -> Value {
        let map: Vec<u32> = self.map.iter().map(|pnn| pnn.get()).collect();
        json!({ "generation": self.generation.get(), "size": map.len(), "map": map })
    }
}

impl View for RecordHeader {
    fn view(&self) -> Value {
        json!({
            "rsn": self.rsn.get(),
            "dmaster": self.dmaster,
            "reserved1": self.reserved,
            "flags": word(self.flags.bits()),
        })
    }
}

impl View for RecData {
    fn view(&self) -> Value {
        RecordRef {
            reqid: self.reqid,
            key: &self.key,
            data: &self.data,
        }
        .view()
    }
}

impl View for RecordRef<'_> {
    fn view(&self) -> Value {
        let mut fields = json!({
            "length": 16 + self.key.len() + self.data.len(),
            "reqid": self.reqid.get(),
            "keylen": self.key.len(),
            "datalen": self.data.len(),
            "key": hex(self.key),
            "data": hex(self.data),
        });
        if let Ok((header, _)) = self.split() {
            fields["ltdb_header"] = header.view();
        }
        fields
    }
}

impl View for RecBuffer {
    fn view(&self) -> Value {
        let records: Vec<Value> = self.iter().map(|record| record.view()).collect();
        json!({ "db_id": self.db_id().view(), "count": self.count(), "records": records })
    }
}
