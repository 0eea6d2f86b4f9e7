//! Numbers about this node (data-plane.md 11).

use std::time::{Duration, Instant};

use ctdb_conf::Tunable;
use ctdb_proto::control::Request;
use ctdb_proto::{
    DbId, DbStatistics, HotKey, LockStatistics, Message, RecMode, ReplyControl, ReqMessage,
    SrvidMessage, Statistics, StatisticsList, Uptime,
};
use tracing::warn;

use crate::database::Database;
use crate::node::{Node, Times};
use crate::waiting::Caller;

impl Node {
    /// Serves the controls of this family; gives any other one back.
    pub(super) fn serve_statistics(
        &mut self,
        caller: Caller,
        request: Request,
        now: Instant,
    ) -> Result<(), Request> {
        match request {
            Request::Statistics => {
                let statistics = self.statistics(now);
                self.answer_data(caller, &statistics);
            }
            Request::StatisticsReset => {
                self.reset_statistics(now);
                self.answer_status(caller, 0);
            }
            Request::GetStatHistory => {
                let statistics = self.stat_history.intervals();
                self.answer_data(caller, &StatisticsList { statistics });
            }
            Request::Uptime => {
                let uptime = Uptime {
                    current_time: Times::to_wire(self.times.wall(now)),
                    ctdbd_start_time: Times::to_wire(self.times.started()),
                    last_recovery_started: Times::to_wire(self.times.recovery_started),
                    last_recovery_finished: Times::to_wire(self.times.recovery_finished),
                };
                self.answer_data(caller, &uptime);
            }
            Request::DumpMemory => {
                let data = self.memory_use().into_bytes().into();
                self.answer(caller, ReplyControl::ok(data));
            }
            other => return Err(other),
        }
        Ok(())
    }

    /// The message `MEM_DUMP`: the recovery daemon, a part of this one here, is to tell what it uses.
    pub(crate) fn dump_memory_for(&mut self, question: &ReqMessage) {
        let Ok(Message::MemDump(SrvidMessage { pnn, srvid })) = Message::from_message(question)
        else {
            warn!("dropped a request to dump memory that is none");
            return;
        };
        if let Some(pnn) = pnn.filter(|pnn| self.cluster.node(*pnn).is_some()) {
            let text = self.memory_use().into();
            self.cluster.send_message(pnn.into(), srvid, &text);
        }
    }

    /// What takes memory and how much there is of it, for people to read: one line each. (The
    /// original prints the tree of its allocations, which nothing reads either.)
    fn memory_use(&self) -> String {
        let held: usize = self.attaching.values().map(Vec::len).sum();
        let lines = [
            ("bytes in use", self.memory_used),
            ("clients", self.clients.count()),
            ("attached databases", self.cluster.databases.len()),
            ("work on databases under way", self.waiting.len()),
            ("databases being attached", self.attaching.len()),
            ("packets held until they are", held),
            (
                "attaches put off by a recovery",
                self.deferred_attaches.len(),
            ),
        ];
        let calls = self.cluster.statistics.pending_calls;
        lines
            .iter()
            .map(|(what, count)| format!("{count:10} {what}\n"))
            .chain([format!("{calls:10} calls of clients that wait\n")])
            .collect()
    }

    /// The shell waits for a hash chain that somebody else has locked.
    pub fn lock_wait_began(&mut self, db: DbId) {
        self.count_locks(db, |locks| locks.num_current += 1);
    }

    /// The wait for a hash chain (`lock_record`), or for a whole database (`lock_db`), is over.
    pub fn lock_wait_ended(
        &mut self,
        operation: &'static str,
        db: DbId,
        waited: Duration,
        obtained: bool,
    ) {
        self.cluster.mention_latency(operation, db, waited);
        self.count_locks(db, |locks| {
            locks.num_current = locks.num_current.saturating_sub(1);
            locks.num_calls = locks.num_calls.wrapping_add(1);
            if obtained {
                let bucket = &mut locks.buckets[lock_bucket(waited)];
                *bucket = bucket.wrapping_add(1);
                locks.latency.record(waited.as_secs_f64());
            } else {
                locks.num_failed = locks.num_failed.wrapping_add(1);
            }
        });
    }

    fn count_locks(&mut self, db: DbId, count: impl Fn(&mut LockStatistics)) {
        count(&mut self.cluster.statistics.locks);
        if let Some(database) = self.cluster.databases.get_mut(&db) {
            count(&mut database.statistics.locks);
        }
    }

    fn statistics(&self, now: Instant) -> Statistics {
        let mut statistics = self.stat_history.total(&self.cluster.statistics);
        statistics.num_clients = u32::try_from(self.clients.count()).unwrap_or(u32::MAX);
        statistics.frozen = self.cluster.everything_is_frozen().into();
        statistics.recovering = u32::from(self.cluster.rec_mode == RecMode::Active);
        statistics.memory_used = u32::try_from(self.memory_used).unwrap_or(u32::MAX);
        statistics.statistics_current_time = Times::to_wire(self.times.wall(now));
        statistics
    }

    /// Lets the counting begin anew every `StatHistoryInterval` seconds.
    pub(crate) fn end_statistics_interval(&mut self, now: Instant) {
        let interval = self.cluster.tunables.get(Tunable::StatHistoryInterval);
        let interval = Duration::from_secs(interval.into());
        let wall = Times::to_wire(self.times.wall(now));
        self.stat_history
            .handle_timeout(&mut self.cluster.statistics, interval, wall, now);
    }

    fn reset_statistics(&mut self, now: Instant) {
        let wall = Times::to_wire(self.times.wall(now));
        self.stat_history.reset(&mut self.cluster.statistics, wall);
        for database in self.cluster.databases.values_mut() {
            database.statistics = DbStatistics::default();
        }
        self.migrator.reset_hot_keys();
    }

    /// All slots for hot keys are sent, also the unused ones (data-plane.md 5.3).
    pub(super) fn database_statistics(&self, database: &Database) -> DbStatistics {
        let mut hot_keys = self.migrator.hot_keys(database.id);
        hot_keys.resize_with(DbStatistics::HOT_KEYS, HotKey::default);
        DbStatistics {
            hot_keys,
            ..database.statistics.clone()
        }
    }
}

/// Which bucket counts a wait of this length: below 1 ms, 10 ms, 100 ms, then 1, 2, 4 ... 64 s.
fn lock_bucket(waited: Duration) -> usize {
    const BOUNDS_MS: [u128; 10] = [
        1, 10, 100, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000,
    ];
    let waited = waited.as_millis();
    BOUNDS_MS
        .iter()
        .position(|bound| waited < *bound)
        .unwrap_or(BOUNDS_MS.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_counted_by_their_length() {
        let bucket = |ms| lock_bucket(Duration::from_millis(ms));
        assert_eq!(
            [0, 1, 9, 10, 99, 100, 999].map(bucket),
            [0, 1, 1, 2, 2, 3, 3]
        );
        assert_eq!(
            [1_000, 2_000, 63_999, 64_000, 999_999].map(bucket),
            [4, 5, 9, 10, 10]
        );
    }
}
