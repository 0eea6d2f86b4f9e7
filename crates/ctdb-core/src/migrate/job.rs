//! A record job and its verdict: the hand-over between the decisions and the TDB file.

use std::time::Instant;

use bytes::Bytes;
use ctdb_proto::{
    Body, ClientId, DbId, Generation, Header, Packet, Pnn, RecordHeader, ReplyCall, ReplyDmaster,
    ReqCall, ReqDmaster, ReqId,
};

use crate::input::Record;
use crate::vacuum::{VacuumOutcome, VacuumWork};

/// One look at one record under the lock of its hash chain.
///
/// The shell tries the lock without waiting; if it is taken, the job waits in line for its chain
/// (first come, first served) while a lock thread waits for the lock. Jobs on one key are carried
/// out in the order in which they were asked for: nothing else keeps a request behind the record
/// that is just arriving. The job is given back unchanged to [`crate::Node::on_record`] with the
/// record as read, or to [`crate::Node::on_record_failed`] when the file cannot be locked or read.
#[derive(Clone, Debug)]
pub struct RecordJob {
    pub db: DbId,
    pub key: Bytes,
    pub(crate) work: Work,
}

impl RecordJob {
    /// Generation of the packet behind the job; `None` for work that began on this node.
    pub fn generation(&self) -> Option<Generation> {
        self.work.generation()
    }

    /// Whether the job is worth waiting for the lock. If not, and the lock is taken or others are
    /// in line for the chain, the shell gives it to [`crate::Node::on_record_failed`] at once:
    /// vacuuming must not stand in anybody's way.
    pub fn waits(&self) -> bool {
        match &self.work {
            Work::Vacuum(work) => work.waits(),
            _ => true,
        }
    }
}

/// What to do with a record that was read for a [`RecordJob`].
///
/// The shell carries out `write` under the same lock, releases the lock and gives the verdict
/// back: to [`crate::Node::conclude`], which lets its packets go, or to
/// [`crate::Node::abandon`] if the write failed, which forgets them and forces a recovery: a
/// record must never be announced in a state that the file does not have. If the write would have to
/// wait, and so has changed nothing, the verdict may also be dropped, and the job done again later.
#[must_use]
#[derive(Debug)]
pub struct Verdict {
    pub write: Write,
    pub(crate) db: DbId,
    pub(crate) key: Bytes,
    pub(crate) notes: Notes,
    pub(crate) then: Then,
}

/// Change to one record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Write {
    /// Leave the record as it is.
    Nothing,
    /// Replace the record, or create it.
    Store { header: RecordHeader, data: Bytes },
    /// Remove the record; it is no error if it is not there.
    Delete,
}

/// Why a record is looked at.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A call of a local client (data-plane.md 3.3).
    ClientCall(ClientCall),
    /// A call of another node, or of this node resent to itself (3.6).
    PeerCall(PeerCall),
    /// The dmaster gives the record away; this node is its lmaster (3.9).
    ReqDmaster { header: Header, request: ReqDmaster },
    /// The record comes to this node (3.10).
    ReplyDmaster { header: Header, reply: ReplyDmaster },
    /// A read-only copy comes to this node (4.3).
    ReadOnlyCopy { header: Header, reply: ReplyCall },
    /// All read-only copies were taken back, or some could not be (4.4 step 3).
    FinishRevoke { number: u64, all: bool },
    /// `UPDATE_RECORD` of a volatile database: another node takes its read-only copy back (7.3).
    Update {
        batch: u64,
        generation: Generation,
        record: Record,
    },
    /// Part of vacuuming (8).
    Vacuum(VacuumWork),
}

impl Work {
    /// Generation of the packet behind the work; `None` for work that began on this node and
    /// outlives a recovery.
    pub(super) fn generation(&self) -> Option<Generation> {
        match self {
            Self::PeerCall(PeerCall { header, .. })
            | Self::ReqDmaster { header, .. }
            | Self::ReplyDmaster { header, .. }
            | Self::ReadOnlyCopy { header, .. } => Some(header.generation),
            Self::Update { generation, .. } => Some(*generation),
            Self::ClientCall(_) | Self::FinishRevoke { .. } | Self::Vacuum(_) => None,
        }
    }
}

impl Work {
    /// What is left to do when a recovery came in between.
    pub(super) fn outdated(self) -> Then {
        match self {
            Self::Update { batch, .. } => Then::Updated { batch, ok: false },
            _ => Then::Drop,
        }
    }
}

/// A call of a local client, which knows it by its own reqid.
#[derive(Clone, Debug)]
pub(crate) struct ClientCall {
    pub(crate) client: ClientId,
    pub(crate) reqid: ReqId,
    pub(crate) call: ReqCall,
}

/// A call on its way through the nodes. The header stays that of the node that asks.
#[derive(Clone, Debug)]
pub(crate) struct PeerCall {
    /// Node that asks, from the header.
    pub(crate) requester: Pnn,
    pub(crate) header: Header,
    pub(crate) call: ReqCall,
}

/// What happens once the record is as the verdict wants it.
#[derive(Debug)]
pub(crate) enum Then {
    /// Nothing: the packet was old, or its sender is gone.
    Drop,
    /// The work cannot be done: say so.
    Refuse { work: Work, reason: &'static str },
    /// The client is gone: its call is no longer pending.
    ForgetClientCall,
    /// The database is frozen: look again after the thaw.
    AfterThaw(Work),
    /// Another call for this key is on its way: wait for the record with it (`FetchCollapse`).
    JoinFetch(ClientCall),
    /// The record stays here for a moment.
    WaitForPin(PeerCall),
    /// The read-only copies of the record are being taken back.
    WaitForRevoke(Work),
    /// Take the read-only copies back, then look again. The record as it is stored now.
    Revoke {
        work: Work,
        header: RecordHeader,
        data: Bytes,
    },
    /// Ask the node that should have the record.
    Ask {
        call: ClientCall,
        to: Pnn,
        asked_at: Instant,
    },
    /// Answer the client.
    Answer {
        call: ClientCall,
        data: Bytes,
        asked_at: Instant,
    },
    /// Send a packet in the generation of the database.
    Send { to: Pnn, reqid: ReqId, body: Body },
    /// Send a packet of another node on.
    Forward { to: Pnn, packet: Packet },
    /// The record is ours now: end the call that asked for it.
    Arrived {
        from: Option<Pnn>,
        reqid: ReqId,
        data: Bytes,
    },
    /// The read-only copy is in place: end the call that asked for it.
    Copied { reqid: ReqId, reply: ReplyCall },
    /// The revoke of the key is over. `ready`: all copies are gone.
    RevokeOver { ready: bool },
    /// One record of an `UPDATE_RECORD` was looked at.
    Updated { batch: u64, ok: bool },
    /// Something cannot be right: let a recovery repair it.
    ForceRecovery(&'static str),
    /// Part of vacuuming.
    Vacuum {
        work: VacuumWork,
        outcome: VacuumOutcome,
    },
}

/// What the node remembers once the write is done.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) deletion: Deletion,
    /// The record was found with all its copies revoked, and cleared of the read-only flags.
    pub(crate) revoked: bool,
    /// This node got a read-only copy.
    pub(crate) delegated_to: Option<Pnn>,
    /// A call with this hopcount was served.
    pub(crate) hops: Option<u32>,
}

/// What a store means for the delete queue (data-plane.md 2.5, 8.2).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Deletion {
    #[default]
    Unchanged,
    /// The record is empty: vacuuming may delete it, if it still has this rsn then.
    Schedule(RecordHeader),
    /// The record has data, or is gone.
    Forget,
}
