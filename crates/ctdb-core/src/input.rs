//! What may happen to a node.

use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{ClientId, DbId, Packet, Pnn};

use crate::cluster_lock::ClusterLockEvent;
use crate::config::ConfiguredNode;
use crate::effect::{DbAnswer, EventOutcome, Ticket};
use crate::explain::ScriptFailure;
use crate::recoverd::LockAttempt;

/// Something that happened, told to [`crate::Node::handle`].
#[derive(Debug)]
pub enum Input {
    /// Our connection to the peer stands. (The incoming one is reported by
    /// [`crate::Node::accept_peer`].)
    OutgoingUp(Pnn),
    /// One of the two connections to the peer ended, or something invalid came through it; the
    /// shell has closed both and connects again.
    LinkLost { pnn: Pnn, end: LinkEnd },
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
    /// The lock of a frozen database is gone although nobody has thawed it.
    FreezeLost(DbId),
    /// A script of the event that runs with this ticket has failed, and so will the event.
    ScriptFailed {
        ticket: Ticket,
        failure: ScriptFailure,
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
    /// Answer to `Effect::ReadNodesList`: the list, or one line that says why there is none.
    NodesList {
        ticket: Ticket,
        result: Result<Vec<ConfiguredNode>, String>,
    },
    /// Leave in good order: SIGTERM, or standard input closed in test mode.
    Shutdown { code: i32, reason: String },
}

/// How a connection to a peer ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LinkEnd {
    /// For the log, and for who asks later.
    pub why: String,
    /// The other end closed it or its host reset it: the daemon there has ended, or knows of the
    /// loss. Otherwise it may be alive and unaware.
    pub by_peer: bool,
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
