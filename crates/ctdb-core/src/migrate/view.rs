//! What a decision about one record may look at. It can change nothing: what follows from it is
//! in the verdict, and happens once the record is written.

use std::time::Instant;

use bytes::Bytes;
use ctdb_proto::{DbFlags, NodeFlags, Pnn, RecordHeader, ReqId};

use super::DbState;
use super::job::{Then, Verdict};
use super::pending::{PendingCall, PendingCalls};
use super::store::Draft;
use crate::cluster::Cluster;
use crate::database::Database;
use crate::input::Record;

/// One record's surroundings.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) db: &'a Database,
    pub(crate) state: &'a DbState,
    pub(crate) pending: &'a PendingCalls,
    pub(crate) key: &'a Bytes,
    pub(crate) lmaster: Pnn,
    pub(crate) now: Instant,
}

impl View<'_> {
    pub(crate) fn me(&self) -> Pnn {
        self.cluster.me
    }

    pub(crate) fn fetch(&self, record: Option<Record>) -> Draft {
        Draft::fetch(record, self.cluster.me, self.lmaster)
    }

    /// A record that comes from elsewhere and replaces what is here.
    pub(crate) fn arrived(&self, header: RecordHeader, data: Bytes) -> Draft {
        Draft::arrived(header, data, self.cluster.me, self.lmaster)
    }

    /// A verdict that leaves the record alone.
    pub(crate) fn leave(&self, then: Then) -> Verdict {
        let (db, key) = (self.db.id, self.key.clone());
        Verdict {
            write: super::Write::Nothing,
            db,
            key,
            notes: super::job::Notes::default(),
            then,
        }
    }

    pub(crate) fn verdict(&self, draft: Draft, then: Then) -> Verdict {
        draft.verdict(self.db.id, self.key.clone(), then)
    }

    pub(crate) fn is_readonly(&self) -> bool {
        self.db.flags.contains(DbFlags::READONLY)
    }

    /// Whether a client here waits for the record.
    pub(crate) fn is_being_fetched(&self) -> bool {
        self.state.fetches.is_under_way(self.key)
    }

    /// Whether a record may be sent to this node: it is in the nodes file and not deleted.
    pub(crate) fn is_member(&self, pnn: Pnn) -> bool {
        self.cluster
            .node(pnn)
            .is_some_and(|n| !n.flags.contains(NodeFlags::DELETED))
    }

    /// The call of this node for this very record, if it is still wanted.
    pub(crate) fn pending(&self, reqid: ReqId) -> Option<&PendingCall> {
        self.pending
            .get(reqid)
            .filter(|p| p.db == self.db.id && p.call.key == *self.key)
    }
}
