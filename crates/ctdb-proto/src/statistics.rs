//! What a daemon counts, as a whole and for each database (`wire.md 4.3` and `4.5`).

use bytes::{Buf, BufMut, Bytes};

use crate::time::TimeVal;
use crate::wire::{put_padding, require, skip_padding, to_u32, wire_fields, wire_list};
use crate::{DecodeError, Wire};

/// How long something took, in seconds. 32 bytes.
///
/// | offset | size | field                               |
/// |-------:|-----:|-------------------------------------|
/// |      0 |    4 | `num`, then 4 bytes of padding      |
/// |      8 |    8 | `min`                               |
/// |     16 |    8 | `max`                               |
/// |     24 |    8 | `total`                             |
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// How often it was measured.
    pub num: i32,
    pub min: f64,
    pub max: f64,
    /// Sum of all: divide by `num` for the mean.
    pub total: f64,
}

wire_fields!(Latency, 32 bytes { num + 4, min, max, total });

impl Latency {
    /// Counts one more measurement.
    pub fn record(&mut self, seconds: f64) {
        let is_first = self.num == 0;
        self.num = self.num.saturating_add(1);
        self.min = if is_first {
            seconds
        } else {
            self.min.min(seconds)
        };
        self.max = if is_first {
            seconds
        } else {
            self.max.max(seconds)
        };
        self.total += seconds;
    }
}

/// What became of requests for locks. 112 bytes: four counters, latency, buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LockStatistics {
    pub num_calls: u32,
    pub num_current: u32,
    pub num_pending: u32,
    pub num_failed: u32,
    pub latency: Latency,
    /// How many took how long.
    pub buckets: [u32; 16],
}

wire_fields!(LockStatistics, 112 bytes {
    num_calls, num_current, num_pending, num_failed, latency, buckets,
});

/// Packets that the node side has processed, by operation. Those that the node sends to itself
/// count too.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NodeCounters {
    pub req_call: u32,
    pub reply_call: u32,
    pub req_dmaster: u32,
    pub reply_dmaster: u32,
    pub reply_error: u32,
    pub req_message: u32,
    pub req_control: u32,
    pub reply_control: u32,
    pub req_tunnel: u32,
}

wire_fields!(NodeCounters, 36 bytes {
    req_call, reply_call, req_dmaster, reply_dmaster, reply_error, req_message, req_control,
    reply_control, req_tunnel,
});

/// Packets from clients, by operation.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ClientCounters {
    pub req_call: u32,
    pub req_message: u32,
    pub req_control: u32,
    pub req_tunnel: u32,
}

wire_fields!(ClientCounters, 16 bytes { req_call, req_message, req_control, req_tunnel });

/// What waited too long.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TimeoutCounters {
    pub call: u32,
    pub control: u32,
    pub traverse: u32,
}

wire_fields!(TimeoutCounters, 12 bytes { call, control, traverse });

/// What a daemon has counted since its start or the last reset. 488 bytes.
///
/// | offset | size | field                                                     |
/// |-------:|-----:|-----------------------------------------------------------|
/// |      0 |   36 | nine counters, `num_clients` to `keepalive_packets_recv`  |
/// |     36 |   36 | `node`                                                    |
/// |     72 |   16 | `client`                                                  |
/// |     88 |   12 | `timeouts`, then 4 bytes of padding                       |
/// |    104 |   64 | `reclock_ctdbd`, `reclock_recd`                           |
/// |    168 |  112 | `locks`                                                   |
/// |    280 |   28 | seven counters, `total_calls` to `max_hop_count`          |
/// |    308 |   64 | `hop_count_bucket`, then 4 bytes of padding               |
/// |    376 |   64 | `call_latency`, `childwrite_latency`                      |
/// |    440 |    4 | `num_recoveries`, then 4 bytes of padding                 |
/// |    448 |   32 | `statistics_start_time`, `statistics_current_time`        |
/// |    480 |    8 | `total_ro_delegations`, `total_ro_revokes`                |
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Filled in when the control is answered, as `frozen`, `recovering`, `memory_used` and
    /// `statistics_current_time`.
    pub num_clients: u32,
    /// 0 or 1.
    pub frozen: u32,
    /// 0 or 1.
    pub recovering: u32,
    pub client_packets_sent: u32,
    pub client_packets_recv: u32,
    pub node_packets_sent: u32,
    pub node_packets_recv: u32,
    pub keepalive_packets_sent: u32,
    pub keepalive_packets_recv: u32,
    pub node: NodeCounters,
    pub client: ClientCounters,
    pub timeouts: TimeoutCounters,
    pub reclock_ctdbd: Latency,
    pub reclock_recd: Latency,
    pub locks: LockStatistics,
    pub total_calls: u32,
    pub pending_calls: u32,
    pub childwrite_calls: u32,
    pub pending_childwrite_calls: u32,
    /// Bytes.
    pub memory_used: u32,
    /// Always 0: marks the end of the counters.
    pub last_counter: u32,
    pub max_hop_count: u32,
    /// See [`hop_count_bucket`].
    pub hop_count_bucket: [u32; 16],
    pub call_latency: Latency,
    pub childwrite_latency: Latency,
    pub num_recoveries: u32,
    pub statistics_start_time: TimeVal,
    pub statistics_current_time: TimeVal,
    pub total_ro_delegations: u32,
    pub total_ro_revokes: u32,
}

wire_fields!(Statistics, 488 bytes {
    num_clients, frozen, recovering, client_packets_sent, client_packets_recv, node_packets_sent,
    node_packets_recv, keepalive_packets_sent, keepalive_packets_recv, node, client, timeouts + 4,
    reclock_ctdbd, reclock_recd, locks, total_calls, pending_calls, childwrite_calls,
    pending_childwrite_calls, memory_used, last_counter, max_hop_count, hop_count_bucket + 4,
    call_latency, childwrite_latency, num_recoveries + 4, statistics_start_time,
    statistics_current_time, total_ro_delegations, total_ro_revokes,
});

/// Bucket for a call that was redirected `hopcount` times: its length in bits, at most 15.
pub const fn hop_count_bucket(hopcount: u32) -> usize {
    let bits = u32::BITS - hopcount.leading_zeros();
    if bits > 15 { 15 } else { bits as usize }
}

/// Statistics of the past, newest first. A daemon always sends 100.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatisticsList {
    pub statistics: Vec<Statistics>,
}

wire_list!(StatisticsList {
    num: u32 + 4,
    statistics
});

/// A record that many nodes want.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HotKey {
    /// 0: the slot is not in use.
    pub count: u32,
    pub key: Bytes,
}

/// What a daemon has counted for one database. 464 bytes, then the hot keys.
///
/// | offset | size | field                                                       |
/// |-------:|-----:|-------------------------------------------------------------|
/// |      0 |  112 | `locks`                                                     |
/// |    112 |   32 | `vacuum_latency`                                            |
/// |    144 |    8 | `db_ro_delegations`, `db_ro_revokes`                        |
/// |    152 |   64 | `hop_count_bucket`                                          |
/// |    216 |    4 | number of hot keys, then 4 bytes of padding                 |
/// |    224 |  240 | 10 slots: count, padding, 8 bytes without use, size of key  |
/// |    464 |      | the keys, one after the other                               |
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DbStatistics {
    pub locks: LockStatistics,
    pub vacuum_latency: Latency,
    pub db_ro_delegations: u32,
    pub db_ro_revokes: u32,
    /// See [`hop_count_bucket`].
    pub hop_count_bucket: [u32; 16],
    /// At most [`Self::HOT_KEYS`], ascending by count; the original sends unused slots too.
    pub hot_keys: Vec<HotKey>,
}

impl DbStatistics {
    /// Number of slots for hot keys.
    pub const HOT_KEYS: usize = 10;
}

impl Wire for DbStatistics {
    const MIN_LEN: usize = 464;

    fn encode(&self, out: &mut impl BufMut) {
        self.locks.encode(out);
        self.vacuum_latency.encode(out);
        self.db_ro_delegations.encode(out);
        self.db_ro_revokes.encode(out);
        self.hop_count_bucket.encode(out);
        let keys = || self.hot_keys.iter().take(Self::HOT_KEYS);
        to_u32(keys().len()).encode(out);
        put_padding(out, 4);
        for slot in keys() {
            slot.count.encode(out);
            // Padding, and where the original has a pointer of its own that is nobody's business.
            put_padding(out, 4 + 8);
            (slot.key.len() as u64).encode(out);
        }
        put_padding(out, (Self::HOT_KEYS - keys().len()) * HOT_KEY_SLOT_LEN);
        for slot in keys() {
            out.put_slice(&slot.key);
        }
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        require(src, Self::MIN_LEN)?;
        Ok(Self {
            locks: Wire::decode(src)?,
            vacuum_latency: Wire::decode(src)?,
            db_ro_delegations: Wire::decode(src)?,
            db_ro_revokes: Wire::decode(src)?,
            hop_count_bucket: Wire::decode(src)?,
            hot_keys: decode_hot_keys(src)?,
        })
    }
}

const HOT_KEY_SLOT_LEN: usize = 24;

fn decode_hot_keys(src: &mut impl Buf) -> Result<Vec<HotKey>, DecodeError> {
    let used = u32::decode(src)?;
    skip_padding(src, 4)?;
    let mut slots = [(0, 0); DbStatistics::HOT_KEYS];
    for (count, size) in &mut slots {
        *count = u32::decode(src)?;
        skip_padding(src, 4 + 8)?;
        *size = u64::decode(src)?;
    }
    let slots = slots.get(..used as usize).ok_or(DecodeError::BadValue {
        field: "number of hot keys",
        value: used.into(),
    })?;
    slots
        .iter()
        .map(|(count, size)| take_hot_key(*count, *size, src))
        .collect()
}

fn take_hot_key(count: u32, size: u64, src: &mut impl Buf) -> Result<HotKey, DecodeError> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    require(src, size)?;
    Ok(HotKey {
        count,
        key: src.copy_to_bytes(size),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode_exact;

    #[test]
    fn hops_are_counted_by_their_bits() {
        let buckets: Vec<_> = [0, 1, 2, 3, 4, 0x3FFF, 0x4000, u32::MAX]
            .map(hop_count_bucket)
            .into();
        assert_eq!(buckets, [0, 1, 2, 2, 3, 14, 15, 15]);
    }

    #[test]
    fn latency_keeps_the_extremes() {
        let mut latency = Latency::default();
        latency.record(2.0);
        latency.record(0.5);
        assert_eq!(
            latency,
            Latency {
                num: 2,
                min: 0.5,
                max: 2.0,
                total: 2.5
            }
        );
    }

    #[test]
    fn hot_keys_come_back_without_pointers() {
        let key = HotKey {
            count: 3,
            key: Bytes::from_static(b"hot"),
        };
        let stats = DbStatistics {
            hot_keys: vec![key],
            ..DbStatistics::default()
        };
        let mut bytes = Vec::new();
        stats.encode(&mut bytes);
        assert_eq!(bytes.len(), 464 + 3);
        bytes[232..240].fill(0xAA);
        assert_eq!(decode_exact::<DbStatistics>(bytes.as_slice()), Ok(stats));
    }

    #[test]
    fn hot_keys_cannot_be_larger_than_the_packet() {
        let mut bytes = vec![0; 464];
        bytes[216] = 1;
        bytes[240..248].fill(0xFF);
        assert!(decode_exact::<DbStatistics>(bytes.as_slice()).is_err());
        bytes[240..248].fill(0);
        bytes[216] = 11;
        assert!(decode_exact::<DbStatistics>(bytes.as_slice()).is_err());
    }
}
