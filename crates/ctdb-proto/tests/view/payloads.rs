//! Views of the structures in controls and messages.

use ctdb_proto::{
    AddrInfo, BanState, Connection, DbVacuum, DbidMap, DisableMessage, EchoData, ElectionMessage,
    GetTunable, Iface, IfaceList, KeyData, NodeFlagChange, NodeMap, NotifyData, PidSrvid, Pnn,
    PublicIp, PublicIpInfo, PublicIpList, PullDbExt, SetTunable, SrvidMessage, TickleList, TransDb,
    TraverseAll, TraverseAllExt, TraverseStart, TraverseStartExt, TunableList, TunableNames,
    UNKNOWN_PNN, Uptime,
};
use serde_json::{Map, Value, json};

use super::{View, hex, list, word};

/// A node that may be missing.
pub(crate) fn raw(pnn: Option<Pnn>) -> u32 {
    pnn.map_or(UNKNOWN_PNN, Pnn::get)
}

/// A string with a length in front.
fn counted(text: &str) -> Value {
    match text {
        "" => json!({ "len": 0, "str": null }),
        _ => json!({ "len": text.len() + 1, "str": text }),
    }
}

impl View for DbidMap {
    fn view(&self) -> Value {
        let dbs: Vec<Value> = self
            .dbs
            .iter()
            .map(|db| json!({ "db_id": db.db_id.view(), "flags": db.flags.bits() }))
            .collect();
        json!({ "num": dbs.len(), "dbs": dbs })
    }
}

impl View for PullDbExt {
    fn view(&self) -> Value {
        json!({
            "db_id": self.db_id.view(),
            "lmaster": word(self.lmaster),
            "srvid": self.srvid.view(),
        })
    }
}

impl View for TransDb {
    fn view(&self) -> Value {
        json!({ "db_id": self.db_id.view(), "tid": self.tid.get() })
    }
}

impl View for DbVacuum {
    fn view(&self) -> Value {
        json!({ "db_id": self.db_id.view(), "full_vacuum_run": self.full })
    }
}

impl View for KeyData {
    fn view(&self) -> Value {
        json!({
            "db_id": self.db_id.view(),
            "header": self.header.view(),
            "key": hex(&self.key),
        })
    }
}

impl View for NodeMap {
    fn view(&self) -> Value {
        let nodes: Vec<Value> = self
            .nodes
            .iter()
            .map(|node| {
                json!({
                    "pnn": node.pnn.get(),
                    "flags": word(node.flags.bits()),
                    "addr": node.addr.view(),
                })
            })
            .collect();
        json!({ "num": nodes.len(), "nodes": nodes })
    }
}

impl View for NodeFlagChange {
    fn view(&self) -> Value {
        json!({
            "pnn": self.pnn.get(),
            "new_flags": word(self.new_flags.bits()),
            "old_flags": word(self.old_flags.bits()),
        })
    }
}

impl View for BanState {
    fn view(&self) -> Value {
        json!({ "pnn": self.pnn.get(), "time": self.time.as_secs() })
    }
}

impl View for Uptime {
    fn view(&self) -> Value {
        json!({
            "current_time": self.current_time.view(),
            "ctdbd_start_time": self.ctdbd_start_time.view(),
            "last_recovery_started": self.last_recovery_started.view(),
            "last_recovery_finished": self.last_recovery_finished.view(),
        })
    }
}

impl View for PidSrvid {
    fn view(&self) -> Value {
        json!({ "pid": self.pid, "srvid": self.srvid.view() })
    }
}

impl View for NotifyData {
    fn view(&self) -> Value {
        json!({ "srvid": self.srvid.view(), "data": hex(&self.data) })
    }
}

impl View for EchoData {
    fn view(&self) -> Value {
        json!({ "timeout": self.timeout, "buf": hex(&self.data) })
    }
}

impl View for PublicIp {
    fn view(&self) -> Value {
        json!({ "pnn": raw(self.pnn), "addr": self.addr.view() })
    }
}

impl View for PublicIpList {
    fn view(&self) -> Value {
        json!({ "num": self.ips.len(), "ips": list(&self.ips) })
    }
}

impl View for Iface {
    fn view(&self) -> Value {
        json!({
            "name": self.name.as_str(),
            "link_state": u16::from(self.link_up),
            "references": self.references,
        })
    }
}

impl View for IfaceList {
    fn view(&self) -> Value {
        json!({ "num": self.ifaces.len(), "ifaces": list(&self.ifaces) })
    }
}

impl View for PublicIpInfo {
    fn view(&self) -> Value {
        json!({
            "ip": self.ip.view(),
            "active_idx": self.active_idx.unwrap_or(u32::MAX),
            "ifaces": { "num": self.ifaces.len(), "ifaces": list(&self.ifaces) },
        })
    }
}

impl View for Connection {
    fn view(&self) -> Value {
        json!({ "src": self.src.view(), "dst": self.dst.view() })
    }
}

impl View for TickleList {
    fn view(&self) -> Value {
        json!({
            "addr": self.addr.view(),
            "num": self.connections.len(),
            "connections": list(&self.connections),
        })
    }
}

impl View for AddrInfo {
    fn view(&self) -> Value {
        json!({
            "addr": self.addr.view(),
            "mask": self.mask_bits,
            "iface": counted(&self.ifaces),
        })
    }
}

impl View for TraverseStart {
    fn view(&self) -> Value {
        json!({
            "db_id": self.db_id.view(),
            "reqid": self.reqid.get(),
            "srvid": self.srvid.view(),
        })
    }
}

impl View for TraverseStartExt {
    fn view(&self) -> Value {
        let mut fields = self.start.view();
        fields["withemptyrecords"] = json!(self.with_empty_records);
        fields
    }
}

impl View for TraverseAll {
    fn view(&self) -> Value {
        json!({
            "db_id": self.db_id.view(),
            "reqid": self.reqid.get(),
            "pnn": self.pnn.get(),
            "client_reqid": self.client_reqid.get(),
            "srvid": self.srvid.view(),
        })
    }
}

impl View for TraverseAllExt {
    fn view(&self) -> Value {
        let mut fields = self.all.view();
        fields["withemptyrecords"] = json!(self.with_empty_records);
        fields
    }
}

impl View for SetTunable {
    fn view(&self) -> Value {
        json!({ "value": self.value, "name": counted(&self.name) })
    }
}

impl View for GetTunable {
    fn view(&self) -> Value {
        json!({ "name": counted(&self.name) })
    }
}

impl View for TunableNames {
    fn view(&self) -> Value {
        let text: String = self.names.iter().flat_map(|name| [":", name]).collect();
        json!({ "names": counted(&text) })
    }
}

impl View for TunableList {
    fn view(&self) -> Value {
        let names = TUNABLE_FIELDS.split_whitespace();
        let values = self.values.iter().map(|value| json!(value));
        Value::Object(names.map(str::to_owned).zip(values).collect::<Map<_, _>>())
    }
}

/// The names that the file has for the values, in the order of the wire.
const TUNABLE_FIELDS: &str = "
    max_redirect_count seqnum_interval control_timeout traverse_timeout keepalive_interval
    keepalive_limit recover_timeout recover_interval election_timeout takeover_timeout
    monitor_interval tickle_update_interval script_timeout monitor_timeout_count
    script_unhealthy_on_timeout recovery_grace_period recovery_ban_period database_hash_size
    database_max_dead rerecovery_timeout enable_bans deterministic_public_ips reclock_ping_period
    no_ip_failback disable_ip_failover verbose_memory_names recd_ping_timeout recd_ping_failcount
    log_latency_ms reclock_latency_ms recovery_drop_all_ips verify_recovery_lock vacuum_interval
    vacuum_max_run_time repack_limit vacuum_limit max_queue_depth_drop_msg
    allow_unhealthy_db_read stat_history_interval deferred_attach_timeout vacuum_fast_path_count
    lcp2_public_ip_assignment allow_client_db_attach recover_pdb_by_seqnum
    deferred_rebalance_on_node_add fetch_collapse hopcount_make_sticky sticky_duration
    sticky_pindown no_ip_takeover db_record_count_warn db_record_size_warn db_size_warn
    pulldb_preallocation_size no_ip_host_on_all_disabled samba3_hack mutex_enabled
    lock_processes_per_db rec_buffer_size_limit queue_buffer_size ip_alloc_algorithm
    allow_mixed_versions";

impl View for ElectionMessage {
    fn view(&self) -> Value {
        json!({
            "num_connected": self.num_connected,
            "priority_time": self.priority_time.view(),
            "pnn": self.pnn.get(),
            "node_flags": word(self.node_flags.bits()),
        })
    }
}

impl View for SrvidMessage {
    fn view(&self) -> Value {
        json!({ "pnn": raw(self.pnn), "srvid": self.srvid.view() })
    }
}

impl View for DisableMessage {
    fn view(&self) -> Value {
        json!({
            "pnn": raw(self.pnn),
            "srvid": self.srvid.view(),
            "timeout": self.timeout.as_secs(),
        })
    }
}
