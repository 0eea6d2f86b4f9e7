//! Numbers about this node (data-plane.md 11).

use std::time::Instant;

use ctdb_proto::control::Request;
use ctdb_proto::{DbId, DbStatistics, RecMode, Statistics, Uptime};

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
            Request::Uptime => {
                let uptime = Uptime {
                    current_time: Times::to_wire(self.times.wall(now)),
                    ctdbd_start_time: Times::to_wire(self.times.started()),
                    last_recovery_started: Times::to_wire(self.times.recovery_started),
                    last_recovery_finished: Times::to_wire(self.times.recovery_finished),
                };
                self.answer_data(caller, &uptime);
            }
            other => return Err(other),
        }
        Ok(())
    }

    fn statistics(&self, now: Instant) -> Statistics {
        let mut statistics = self.cluster.statistics;
        statistics.num_clients = u32::try_from(self.clients.count()).unwrap_or(u32::MAX);
        statistics.frozen = self.freezes.everything_is_frozen(&self.cluster).into();
        statistics.recovering = u32::from(self.cluster.rec_mode == RecMode::Active);
        statistics.statistics_current_time = Times::to_wire(self.times.wall(now));
        statistics
    }

    fn reset_statistics(&mut self, now: Instant) {
        self.cluster.statistics = Statistics {
            statistics_start_time: Times::to_wire(self.times.wall(now)),
            ..Statistics::default()
        };
        for database in self.cluster.databases.values_mut() {
            database.statistics = DbStatistics::default();
        }
        self.migrator.reset_hot_keys();
    }

    pub(super) fn database_statistics(&self, db: DbId) -> DbStatistics {
        let database = self.cluster.databases.get(&db);
        let mut statistics = database.map(|db| db.statistics.clone()).unwrap_or_default();
        statistics.hot_keys = self.migrator.hot_keys(db);
        statistics
    }
}
