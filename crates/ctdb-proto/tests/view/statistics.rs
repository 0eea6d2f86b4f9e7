//! Views of the statistics.

use ctdb_proto::{DbStatistics, Latency, LockStatistics, Statistics};
use serde_json::{Map, Value, json};

use super::{View, hex};

impl View for Latency {
    fn view(&self) -> Value {
        json!({ "num": self.num, "min": self.min, "max": self.max, "total": self.total })
    }
}

/// The locks, spread over fields of the structure they are in.
fn locks(locks: &LockStatistics) -> Value {
    json!({
        "locks.num_calls": locks.num_calls,
        "locks.num_current": locks.num_current,
        "locks.num_pending": locks.num_pending,
        "locks.num_failed": locks.num_failed,
        "locks.latency": locks.latency.view(),
        "locks.buckets": locks.buckets,
    })
}

fn merge(parts: impl IntoIterator<Item = Value>) -> Value {
    let mut fields = Map::new();
    for part in parts {
        let Value::Object(part) = part else {
            panic!("not an object")
        };
        fields.extend(part);
    }
    Value::Object(fields)
}

impl View for Statistics {
    fn view(&self) -> Value {
        let packets = json!({
            "num_clients": self.num_clients,
            "frozen": self.frozen,
            "recovering": self.recovering,
            "client_packets_sent": self.client_packets_sent,
            "client_packets_recv": self.client_packets_recv,
            "node_packets_sent": self.node_packets_sent,
            "node_packets_recv": self.node_packets_recv,
            "keepalive_packets_sent": self.keepalive_packets_sent,
            "keepalive_packets_recv": self.keepalive_packets_recv,
            "node.req_call": self.node.req_call,
            "node.reply_call": self.node.reply_call,
            "node.req_dmaster": self.node.req_dmaster,
            "node.reply_dmaster": self.node.reply_dmaster,
            "node.reply_error": self.node.reply_error,
            "node.req_message": self.node.req_message,
            "node.req_control": self.node.req_control,
            "node.reply_control": self.node.reply_control,
            "node.req_tunnel": self.node.req_tunnel,
            "client.req_call": self.client.req_call,
            "client.req_message": self.client.req_message,
            "client.req_control": self.client.req_control,
            "client.req_tunnel": self.client.req_tunnel,
            "timeouts.call": self.timeouts.call,
            "timeouts.control": self.timeouts.control,
            "timeouts.traverse": self.timeouts.traverse,
        });
        let calls = json!({
            "reclock.ctdbd": self.reclock_ctdbd.view(),
            "reclock.recd": self.reclock_recd.view(),
            "total_calls": self.total_calls,
            "pending_calls": self.pending_calls,
            "childwrite_calls": self.childwrite_calls,
            "pending_childwrite_calls": self.pending_childwrite_calls,
            "memory_used": self.memory_used,
            "last_counter": self.last_counter,
            "max_hop_count": self.max_hop_count,
            "hop_count_bucket": self.hop_count_bucket,
            "call_latency": self.call_latency.view(),
            "childwrite_latency": self.childwrite_latency.view(),
            "num_recoveries": self.num_recoveries,
            "statistics_start_time": self.statistics_start_time.view(),
            "statistics_current_time": self.statistics_current_time.view(),
            "total_ro_delegations": self.total_ro_delegations,
            "total_ro_revokes": self.total_ro_revokes,
        });
        merge([packets, locks(&self.locks), calls])
    }
}

impl View for DbStatistics {
    fn view(&self) -> Value {
        let hot_keys: Vec<Value> = self
            .hot_keys
            .iter()
            .map(|slot| {
                json!({
                    "count": slot.count,
                    "pad": "00000000",
                    "ptr": 0,
                    "dsize": slot.key.len(),
                    "key": hex(&slot.key),
                })
            })
            .collect();
        let rest = json!({
            "vacuum.latency": self.vacuum_latency.view(),
            "db_ro_delegations": self.db_ro_delegations,
            "db_ro_revokes": self.db_ro_revokes,
            "hop_count_bucket": self.hop_count_bucket,
            "num_hot_keys": hot_keys.len(),
            "hot_keys": hot_keys,
        });
        merge([locks(&self.locks), rest])
    }
}
