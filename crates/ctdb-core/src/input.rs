//! What may happen to a node.

use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{ClientId, Packet, Pnn};

use crate::cluster_lock::ClusterLockEvent;
use crate::effect::{DbAnswer, EventOutcome, Ticket};
use crate::recoverd::LockAttempt;

/// Something that happened, told to [`crate::Node::handle`].
#[derive(Debug)]
pub enum Input {
    /// Our connection to the peer stands. (The incoming one is reported by
    /// [`crate::Node::accept_peer`].)
    OutgoingUp(Pnn),
    /// One of the two connections to the peer ended, or something invalid came through it; the
    /// shell has closed both and connects again.
    LinkLost { pnn: Pnn, reason: String },
    /// A whole packet from the incoming connection of this peer.
    PeerPacket { from: Pnn, packet: Packet },
    /// A whole packet from a local client.
    ClientPacket { client: ClientId, packet: Packet },
    /// The client closed its connection, or had it closed by the shell.
    ClientGone(ClientId),
    /// Answer to `Effect::AwaitRoom`.
    ClientHasRoom(Ticket),
    /// Answer to `Effect::AwaitPeerRoom`.
    PeerHasRoom(Ticket),
    /// Answer to `Effect::Db`.
    Db {
        ticket: Ticket,
        answer: Result<DbAnswer, DbFailure>,
    },
    /// Answer to `Effect::RunEvent`.
    EventDone {
        ticket: Ticket,
        outcome: EventOutcome,
    },
    /// About the helper that takes and holds the cluster lock; `took`: since it was started.
    ClusterLock {
        attempt: LockAttempt,
        event: ClusterLockEvent,
        took: Duration,
    },
    /// Answer to `Effect::TestClusterLock`.
    ClusterLockTested { ticket: Ticket, outcome: LockTest },
    /// Leave in good order: SIGTERM, or standard input closed in test mode.
    Shutdown { code: i32, reason: String },
}

/// Why work on a database failed. The text is for the log; peers see a status.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct DbFailure(pub String);

/// Result of trying the cluster lock while the leader should hold it (cluster.md 7).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LockTest {
    /// As it should be: somebody holds it. Seconds it took to find out.
    Contention {
        seconds: f64,
    },
    Timeout,
    /// We got the lock: the lock does not exclude.
    Taken,
    Error,
}

/// A record as read from the local TDB file: header and data.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    pub header: ctdb_proto::RecordHeader,
    pub data: Bytes,
}
