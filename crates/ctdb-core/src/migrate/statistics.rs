//! What the record path counts (data-plane.md 11).
//!
//! Unlike the original, a call that has to wait counts once, and one whose client goes away does
//! not stay pending for ever.

use std::time::Duration;

use ctdb_proto::{DbId, hop_count_bucket};

use crate::cluster::Cluster;

impl Cluster {
    /// A client's call came in.
    pub(super) fn call_began(&mut self) {
        let totals = &mut self.statistics;
        totals.total_calls = totals.total_calls.wrapping_add(1);
        totals.pending_calls = totals.pending_calls.saturating_add(1);
    }

    /// A client's call ends without being served.
    pub(super) fn call_forgotten(&mut self) {
        let pending = &mut self.statistics.pending_calls;
        *pending = pending.saturating_sub(1);
    }

    /// A client's call was answered, this long after its record was first looked at.
    pub(super) fn call_answered(&mut self, db: DbId, took: Duration) {
        self.call_forgotten();
        self.statistics.call_latency.record(took.as_secs_f64());
        self.mention_latency("call", db, took);
    }

    /// A call was served here after this many redirects (3.6 step 9).
    pub(super) fn call_served(&mut self, db: DbId, hops: u32) {
        let bucket = hop_count_bucket(hops);
        let totals = &mut self.statistics;
        totals.max_hop_count = totals.max_hop_count.max(hops);
        count(&mut totals.hop_count_bucket, bucket);
        if let Some(database) = self.databases.get_mut(&db) {
            count(&mut database.statistics.hop_count_bucket, bucket);
        }
    }

    pub(super) fn copy_delegated(&mut self, db: DbId) {
        increment(&mut self.statistics.total_ro_delegations);
        if let Some(database) = self.databases.get_mut(&db) {
            increment(&mut database.statistics.db_ro_delegations);
        }
    }

    pub(super) fn copies_revoked(&mut self, db: DbId) {
        increment(&mut self.statistics.total_ro_revokes);
        if let Some(database) = self.databases.get_mut(&db) {
            increment(&mut database.statistics.db_ro_revokes);
        }
    }
}

fn increment(counter: &mut u32) {
    *counter = counter.wrapping_add(1);
}

fn count(buckets: &mut [u32; 16], bucket: usize) {
    if let Some(counter) = buckets.get_mut(bucket) {
        increment(counter);
    }
}
