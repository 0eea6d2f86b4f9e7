//! Statistics of the past (data-plane.md 11): the node counts in intervals, and keeps the last of
//! them and the sum of all.
//!
//! What is being counted now is in [`Cluster::statistics`](crate::cluster::Cluster::statistics).
//! Numbers that rise and fall, such as the calls that wait, go on from one interval to the next.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ctdb_proto::{Latency, LockStatistics, Statistics, TimeVal};

/// Intervals that are remembered.
const INTERVALS: usize = 100;

/// The intervals that are over.
#[derive(Debug)]
pub(crate) struct StatHistory {
    /// Sum since the start or the last reset.
    sum: Statistics,
    /// The newest first.
    intervals: VecDeque<Statistics>,
    /// When the interval that is being counted ends. `None` while the tunable is 0.
    ends: Option<Instant>,
}

impl StatHistory {
    pub(crate) fn new(started: TimeVal) -> Self {
        Self {
            sum: sum_from(started),
            intervals: VecDeque::with_capacity(INTERVALS),
            ends: None,
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.ends
    }

    /// Begins a new interval if the last one has lasted `interval`. Zero: the one that is being
    /// counted never ends. `wall` is the time of day.
    pub(crate) fn handle_timeout(
        &mut self,
        current: &mut Statistics,
        interval: Duration,
        wall: TimeVal,
        now: Instant,
    ) {
        if interval.is_zero() {
            self.ends = None;
            return;
        }
        match self.ends {
            Some(ends) if now < ends => return,
            Some(_) => self.end_interval(current, wall),
            None => {}
        }
        self.ends = Some(now + interval);
    }

    fn end_interval(&mut self, current: &mut Statistics, wall: TimeVal) {
        add(&mut self.sum, current);
        let next = Statistics {
            statistics_start_time: wall,
            ..gauges(current)
        };
        let mut ended = std::mem::replace(current, next);
        ended.statistics_current_time = wall;
        self.intervals.truncate(INTERVALS - 1);
        self.intervals.push_front(ended);
    }

    /// Everything counted since the start or the last reset.
    pub(crate) fn total(&self, current: &Statistics) -> Statistics {
        let mut total = self.sum;
        add(&mut total, current);
        total
    }

    /// Starts the sum anew. What is remembered of the past stays.
    pub(crate) fn reset(&mut self, current: &mut Statistics, wall: TimeVal) {
        self.sum = sum_from(wall);
        *current = Statistics {
            statistics_start_time: wall,
            ..gauges(current)
        };
    }

    /// As many entries as the original sends: those that have not been are zeros.
    pub(crate) fn intervals(&self) -> Vec<Statistics> {
        let mut intervals: Vec<_> = self.intervals.iter().copied().collect();
        intervals.resize(INTERVALS, Statistics::default());
        intervals
    }
}

fn sum_from(start: TimeVal) -> Statistics {
    Statistics {
        statistics_start_time: start,
        ..Statistics::default()
    }
}

/// What is now, as opposed to what has been: all that goes on into the next interval.
fn gauges(current: &Statistics) -> Statistics {
    Statistics {
        pending_calls: current.pending_calls,
        pending_childwrite_calls: current.pending_childwrite_calls,
        locks: LockStatistics {
            num_current: current.locks.num_current,
            num_pending: current.locks.num_pending,
            ..LockStatistics::default()
        },
        ..Statistics::default()
    }
}

/// Adds the counters of `part`; takes over its gauges.
fn add(sum: &mut Statistics, part: &Statistics) {
    add_packets(sum, part);
    add_locks(&mut sum.locks, &part.locks);
    add_latency(&mut sum.reclock_ctdbd, &part.reclock_ctdbd);
    add_latency(&mut sum.reclock_recd, &part.reclock_recd);
    add_latency(&mut sum.call_latency, &part.call_latency);
    add_latency(&mut sum.childwrite_latency, &part.childwrite_latency);
    for (sum, part) in [
        (&mut sum.timeouts.call, part.timeouts.call),
        (&mut sum.timeouts.control, part.timeouts.control),
        (&mut sum.timeouts.traverse, part.timeouts.traverse),
        (&mut sum.total_calls, part.total_calls),
        (&mut sum.childwrite_calls, part.childwrite_calls),
        (&mut sum.num_recoveries, part.num_recoveries),
        (&mut sum.total_ro_delegations, part.total_ro_delegations),
        (&mut sum.total_ro_revokes, part.total_ro_revokes),
    ] {
        *sum = sum.wrapping_add(part);
    }
    add_buckets(&mut sum.hop_count_bucket, &part.hop_count_bucket);
    sum.max_hop_count = sum.max_hop_count.max(part.max_hop_count);
    sum.pending_calls = part.pending_calls;
    sum.pending_childwrite_calls = part.pending_childwrite_calls;
}

fn add_packets(sum: &mut Statistics, part: &Statistics) {
    let (node, part_node) = (&mut sum.node, &part.node);
    let (client, part_client) = (&mut sum.client, &part.client);
    for (sum, part) in [
        (&mut sum.client_packets_sent, part.client_packets_sent),
        (&mut sum.client_packets_recv, part.client_packets_recv),
        (&mut sum.node_packets_sent, part.node_packets_sent),
        (&mut sum.node_packets_recv, part.node_packets_recv),
        (&mut sum.keepalive_packets_sent, part.keepalive_packets_sent),
        (&mut sum.keepalive_packets_recv, part.keepalive_packets_recv),
        (&mut node.req_call, part_node.req_call),
        (&mut node.reply_call, part_node.reply_call),
        (&mut node.req_dmaster, part_node.req_dmaster),
        (&mut node.reply_dmaster, part_node.reply_dmaster),
        (&mut node.reply_error, part_node.reply_error),
        (&mut node.req_message, part_node.req_message),
        (&mut node.req_control, part_node.req_control),
        (&mut node.reply_control, part_node.reply_control),
        (&mut node.req_tunnel, part_node.req_tunnel),
        (&mut client.req_call, part_client.req_call),
        (&mut client.req_message, part_client.req_message),
        (&mut client.req_control, part_client.req_control),
        (&mut client.req_tunnel, part_client.req_tunnel),
    ] {
        *sum = sum.wrapping_add(part);
    }
}

fn add_locks(sum: &mut LockStatistics, part: &LockStatistics) {
    sum.num_calls = sum.num_calls.wrapping_add(part.num_calls);
    sum.num_failed = sum.num_failed.wrapping_add(part.num_failed);
    sum.num_current = part.num_current;
    sum.num_pending = part.num_pending;
    add_latency(&mut sum.latency, &part.latency);
    add_buckets(&mut sum.buckets, &part.buckets);
}

fn add_latency(sum: &mut Latency, part: &Latency) {
    if part.num == 0 {
        return;
    }
    if sum.num == 0 {
        *sum = *part;
        return;
    }
    sum.num = sum.num.saturating_add(part.num);
    sum.min = sum.min.min(part.min);
    sum.max = sum.max.max(part.max);
    sum.total += part.total;
}

fn add_buckets(sum: &mut [u32; 16], part: &[u32; 16]) {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum = sum.wrapping_add(*part);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use ctdb_proto::Wire;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(sec: i64) -> TimeVal {
        TimeVal { sec, usec: 0 }
    }

    /// Something different in each counter, so that one that is forgotten shows.
    fn all_counted() -> Statistics {
        let words = (1..=122_u32).flat_map(u32::to_le_bytes);
        let bytes: Vec<u8> = words.collect();
        let mut counted = Statistics::decode(&mut &bytes[..]).unwrap();
        let latency = Latency {
            num: 2,
            min: 0.5,
            max: 2.0,
            total: 2.5,
        };
        counted.reclock_ctdbd = latency;
        counted.reclock_recd = latency;
        counted.call_latency = latency;
        counted.childwrite_latency = latency;
        counted.locks.latency = latency;
        // Filled in by whoever answers.
        for filled_in in [
            &mut counted.num_clients,
            &mut counted.frozen,
            &mut counted.recovering,
            &mut counted.memory_used,
            &mut counted.last_counter,
        ] {
            *filled_in = 0;
        }
        counted.statistics_start_time = at(0);
        counted.statistics_current_time = TimeVal::default();
        counted
    }

    #[test]
    fn every_counter_reaches_the_total() {
        let counted = all_counted();
        let mut current = counted;
        let mut history = StatHistory::new(at(0));
        let now = Instant::now();
        history.handle_timeout(&mut current, SECOND, at(1), now);
        assert_eq!(history.total(&current), counted, "nothing has ended yet");
        history.handle_timeout(&mut current, SECOND, at(1), now + SECOND);
        assert_eq!(current.total_calls, 0);
        assert_eq!(history.total(&current), counted, "after the interval");
        current.total_calls += 5;
        current.call_latency.record(7.0);
        let total = history.total(&current);
        assert_eq!(total.total_calls, counted.total_calls + 5);
        assert_eq!((total.call_latency.num, total.call_latency.max), (3, 7.0));
    }

    #[test]
    fn what_waits_goes_on_into_the_next_interval() {
        let mut current = Statistics {
            pending_calls: 3,
            ..Statistics::default()
        };
        let mut history = StatHistory::new(at(0));
        let now = Instant::now();
        history.handle_timeout(&mut current, SECOND, at(1), now);
        history.handle_timeout(&mut current, SECOND, at(2), now + SECOND);
        assert_eq!(current.pending_calls, 3);
        history.reset(&mut current, at(3));
        assert_eq!(history.total(&current).pending_calls, 3);
    }

    #[test]
    fn the_newest_hundred_are_remembered_with_their_times() {
        let mut current = Statistics::default();
        let mut history = StatHistory::new(at(0));
        let begin = Instant::now();
        for (second, sec) in (0..=150).zip(0..) {
            history.handle_timeout(&mut current, SECOND, at(sec), begin + SECOND * second);
            current.total_calls = second;
        }
        let intervals = history.intervals();
        assert_eq!(intervals.len(), INTERVALS);
        assert_eq!(intervals[0].total_calls, 149);
        assert_eq!(intervals[0].statistics_start_time, at(149));
        assert_eq!(intervals[0].statistics_current_time, at(150));
        assert_eq!(intervals[99].total_calls, 50);
        history.reset(&mut current, at(151));
        assert_eq!(history.intervals()[0].total_calls, 149, "reset keeps them");
        assert_eq!(history.total(&current).total_calls, 0);
    }

    #[test]
    fn without_an_interval_nothing_ends() {
        let mut current = Statistics::default();
        let mut history = StatHistory::new(at(0));
        let now = Instant::now();
        history.handle_timeout(&mut current, Duration::ZERO, at(1), now);
        assert_eq!(history.poll_timeout(), None);
        assert_eq!(history.intervals()[0], Statistics::default());
    }
}
