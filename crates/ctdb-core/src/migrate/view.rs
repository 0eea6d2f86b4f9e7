//! What a decision about one record may look at. It can change nothing: what follows from it is
//! in the verdict, and happens once the record is written.

use std::time::Instant;

use bytes::Bytes;
use ctdb_proto::{DbFlags, NodeFlags, Pnn, ReqId};

use super::DbState;
use super::job::{Then, Verdict};
use super::pending::{PendingCall, PendingCalls};
use super::store::Draft;
use crate::cluster::Cluster;
use crate::database::Database;
use crate::input::Record;

/// One record's surroundings.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) db: &'a Database,
    pub(super) state: &'a DbState,
    pub(super) pending: &'a PendingCalls,
    pub(super) key: &'a Bytes,
    pub(super) lmaster: Pnn,
    pub(super) now: Instant,
}

impl View<'_> {
    pub(super) fn me(&self) -> Pnn {
        self.cluster.me
    }

    pub(super) fn fetch(&self, record: Option<Record>) -> Draft {
        Draft::fetch(record, self.cluster.me, self.lmaster)
    }

    /// A verdict that leaves the record alone.
    pub(super) fn leave(&self, then: Then) -> Verdict {
        let (db, key) = (self.db.id, self.key.clone());
        Verdict { write: super::Write::Nothing, db, key, notes: super::job::Notes::default(), then }
    }

    pub(super) fn verdict(&self, draft: Draft, then: Then) -> Verdict {
        draft.verdict(self.db.id, self.key.clone(), then)
    }

    pub(super) fn is_readonly(&self) -> bool {
        self.db.flags.contains(DbFlags::READONLY)
    }

    pub(super) fn is_sticky(&self) -> bool {
        self.db.flags.contains(DbFlags::STICKY)
    }

    /// Whether a record may be sent to this node: it is in the nodes file and not deleted.
    pub(super) fn is_member(&self, pnn: Pnn) -> bool {
        self.cluster.node(pnn).is_some_and(|n| !n.flags.contains(NodeFlags::DELETED))
    }

    /// The call of this node for this very record, if it is still wanted.
    pub(super) fn pending(&self, reqid: ReqId) -> Option<&PendingCall> {
        self.pending.get(reqid).filter(|p| p.db == self.db.id && p.call.key == *self.key)
    }
}
