//! Operations that took long (data-plane.md 11).

use std::time::Duration;

use ctdb_conf::Tunable;
use ctdb_proto::DbId;
use tracing::warn;

use crate::cluster::Cluster;

impl Cluster {
    /// Mentions an operation that took longer than the tunable `LogLatencyMs`. 0: none is
    /// mentioned.
    pub(crate) fn mention_latency(&self, operation: &str, db: DbId, took: Duration) {
        if !self.is_long(Tunable::LogLatencyMs, took) {
            return;
        }
        let name = self.databases.get(&db).map(|database| &*database.name);
        let (name, seconds) = (name.unwrap_or("?"), took.as_secs_f64());
        warn!("High latency {seconds:.6}s for operation {operation} on database {name}");
    }

    /// The same for an attempt to take the cluster lock, and `RecLockLatencyMs`.
    pub(crate) fn mention_reclock_latency(&self, operation: &str, took: Duration) {
        if self.is_long(Tunable::RecLockLatencyMs, took) {
            let seconds = took.as_secs_f64();
            warn!("High RECLOCK latency {seconds:.6}s for operation {operation}");
        }
    }

    fn is_long(&self, limit: Tunable, took: Duration) -> bool {
        let limit = Duration::from_millis(self.tunables.get(limit).into());
        !limit.is_zero() && took > limit
    }
}
