//! When a node must not let records be used: while it is inactive (`cluster.md` 5.2, step 9), and
//! while others may go on without it.
//!
//! Fenced, a node is in recovery mode and its databases are frozen, so that its clients wait, also
//! those that find their records in the local file. The leader that takes the node back recovers,
//! and that ends it.
//!
//! The original has no such thing for a node that has lost the others: with a cluster lock it
//! waits in recovery mode, but its clients go on with the records that are there, while the other
//! side has recovered and writes the same ones (`cluster.md` 10).

use std::time::Instant;

use ctdb_proto::{Pnn, RecMode, Request};
use tracing::warn;

use crate::explain::{FenceReason, What, Why};
use crate::mutation::{self, Mutation};
use crate::recoverd::view::View;
use crate::recoverd::{LOG, Recoverd};

/// What was done to the own node since it must not let records be used.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    asked_for_recovery_mode: bool,
    asked_for_freeze: bool,
    /// Why, unless it is inactive.
    reason: Option<FenceReason>,
}

impl Recoverd {
    /// Why this node does not let records be used, unless it is inactive.
    pub(crate) fn fenced(&self) -> Option<FenceReason> {
        self.fence.reason
    }

    pub(super) fn keep_fenced(&mut self, view: &View<'_>, now: Instant) {
        if view.my_flags().is_inactive() {
            self.election.reset_priority(self.clock.wall(now));
            if view.rec_mode != RecMode::Active && !self.fence.asked_for_recovery_mode {
                warn!(
                    target: LOG,
                    "Node is stopped or banned but recovery mode is not active. \
                     Activate recovery mode and lock databases"
                );
            }
        } else if let Some(reason) = self.fence_reason(view, now) {
            let is_news = self.fence.reason.is_none() || reason != FenceReason::NoLeader;
            if is_news && self.fence.reason != Some(reason) {
                warn!(target: LOG, "Records are blocked: {reason}");
                self.history.add(now, What::Fenced, Why::Fence(reason));
                self.fence.reason = Some(reason);
            }
        } else {
            self.fence = Fence::default();
            return;
        }
        self.block_records(view);
    }

    fn block_records(&mut self, view: &View<'_>) {
        if view.rec_mode == RecMode::Active {
            self.fence.asked_for_recovery_mode = false;
        } else if !self.fence.asked_for_recovery_mode {
            self.fence.asked_for_recovery_mode = true;
            let request = Request::SetRecMode(RecMode::Active);
            self.out.order(view.me, &request, view.recover_timeout());
        }
        if view.all_frozen {
            // A recovery that this node took part in when it began may still thaw something.
            self.fence.asked_for_freeze = false;
        } else if !self.fence.asked_for_freeze {
            self.fence.asked_for_freeze = true;
            self.out
                .order(view.me, &Request::Freeze, view.recover_timeout());
        }
    }

    /// A node that may still let records be used although it takes no part in a recovery now, and
    /// when it must have stopped.
    pub(super) fn may_still_write(&self, view: &View<'_>, now: Instant) -> Option<(Pnn, Instant)> {
        if !self.lock.is_configured() {
            return None;
        }
        self.lease.outstanding(view, now)
    }

    fn fence_reason(&self, view: &View<'_>, now: Instant) -> Option<FenceReason> {
        let left_out = self.opinions.cut_off_from();
        if let Some(leader) = left_out.filter(|leader| !view.is_connected(*leader)) {
            return Some(FenceReason::LeftOut { leader });
        }
        let until = self.lease_until()?;
        if now >= until {
            return Some(if self.lock.is_elsewhere() {
                FenceReason::ClusterLockElsewhere
            } else {
                FenceReason::NoLeader
            });
        }
        let leader = self.lease.lost_grantor(view)?;
        Some(FenceReason::LeaderLost { leader })
    }

    /// When to look again.
    pub(super) fn fence_at(&self, view: &View<'_>) -> Option<Instant> {
        let is_fenced = self.fence.reason.is_some() || view.my_flags().is_inactive();
        self.lease_until().filter(|_| !is_fenced)
    }

    /// When this node must stop, if there is a cluster lock that somebody else may hold.
    fn lease_until(&self) -> Option<Instant> {
        let needs_leader = self.lock.is_configured()
            && !self.lock.is_held()
            && !mutation::is_on(Mutation::NoFence);
        needs_leader.then(|| self.lease.until())
    }
}
