//! What the node wants done. Effects are data: the daemon carries them out, the simulator plays
//! them, a test compares them. Each that an operator may ask about carries its reason.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{ClientId, DbFlags, DbId, Packet, Pnn, VnnMap};

use crate::migrate::RecordJob;
use crate::recoverd::LockAttempt;

/// Names one thing that was asked for, so that its answer finds the asker. Never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ticket(pub u64);

/// One thing to do, taken from [`crate::Node::poll_effect`] and carried out in that order.
#[derive(Debug)]
pub enum Effect {
    /// Accept clients, connect to every peer, tell the waiting parent process that the start
    /// succeeded.
    OpenForBusiness,
    /// Send a packet on the outgoing link to a peer; without that link it is dropped silently.
    SendPeer { to: Pnn, packet: Packet },
    /// Close both links to a peer and start connecting again.
    DropPeer { pnn: Pnn, reason: PeerLoss },
    /// Start connecting to a node that the nodes list has now.
    AddPeer { pnn: Pnn, addr: SocketAddr },
    /// Close both links to a node that the nodes list does not have any more, for good.
    RemovePeer { pnn: Pnn },
    /// Read the nodes list again; answered by `Input::NodesList`.
    ReadNodesList { ticket: Ticket },
    /// Send a packet to a local client.
    SendClient { to: ClientId, packet: Packet },
    /// Close the connection of a local client; no `Input::ClientGone` follows.
    DropClient {
        client: ClientId,
        reason: ClientLoss,
    },
    /// Wait until little is queued for a local client; answered by `Input::ClientHasRoom`, also when
    /// the client goes or is not there.
    AwaitRoom { client: ClientId, ticket: Ticket },
    /// Wait until less than `limit` bytes are queued for a peer; answered by
    /// `Input::PeerHasRoom`, also when it is not connected.
    AwaitPeerRoom {
        pnn: Pnn,
        limit: usize,
        ticket: Ticket,
    },
    /// Lock the hash chain of a record, read it and call [`crate::Node::on_record`].
    Record(RecordJob),
    /// Do something with a whole database; answered by one or more `Input::Db`.
    Db { ticket: Ticket, db: DbId, op: DbOp },
    /// Run an event of the event scripts; answered by `Input::EventDone`.
    RunEvent {
        ticket: Ticket,
        event: Event,
        timeout: Duration,
    },
    /// Kill the run of an event; it is answered as [`EventOutcome::Cancelled`].
    CancelEvent { ticket: Ticket },
    /// Run the notification script in the background, without waiting.
    Notify(Notification),
    /// Start the helper that takes and holds the cluster lock; answered by one
    /// `Input::ClusterLock`. `Lost` may follow `Taken`.
    TakeClusterLock(LockAttempt),
    /// End the helper of that attempt, whether it holds the lock or still tries to get it. Nothing
    /// more is reported of it.
    ReleaseClusterLock(LockAttempt),
    /// Start a short-lived helper that tries the cluster lock (cluster.md 7); answered by
    /// `Input::ClusterLockTested`.
    TestClusterLock { ticket: Ticket, limit: Duration },
    /// Set the level of the log (`ctdb setdebug`): 0 error, 1 warning, 3 notice, 5 info, 10 debug.
    SetDebugLevel(i32),
    /// Leave: close everything, remove the pid file and exit with `code`.
    Exit { code: i32, reason: String },
}

/// Batches of a traverse that are on their way to its client.
pub const TRAVERSE_WINDOW: u32 = 4;

/// Batches of a pull, or of a merge, that may be answered ahead of [`DbOp::ContinueTraverse`].
pub const RECOVERY_WINDOW: u32 = 2;

/// Work on a whole database, outside the record path. Most of it runs in a thread of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DbOp {
    /// Open or create the file (data-plane.md 1.3). Answer: [`DbAnswer::Attached`].
    Attach {
        name: String,
        flags: DbFlags,
        hash_size: u32,
        max_dead: u32,
    },
    /// Close the file; it stays on disk. Answer: [`DbAnswer::Done`].
    Detach,
    /// Take the lock over all records, wait for its holders as long as it takes, and keep it.
    /// Answer: [`DbAnswer::Done`] once it is held.
    Freeze,
    /// Give the lock of [`DbOp::Freeze`] back; an open transaction is cancelled. Also ends a
    /// freeze that is still waiting. Answer: [`DbAnswer::Done`].
    Thaw,
    /// Start a TDB transaction under the freeze; one already open is cancelled first.
    TransactionStart,
    /// Cancel the transaction under the freeze, if any.
    TransactionCancel,
    /// Commit the transaction under the freeze; durable when answered for persistent databases.
    TransactionCommit,
    /// Delete all records, in the transaction under the freeze.
    Wipe,
    /// Read every record under the freeze, as record buffers (`RecBuffer`, wire.md 4.2) closed
    /// when they reach `batch_limit` bytes. Answers: any number of [`DbAnswer::Batch`], then
    /// [`DbAnswer::Count`]. Only [`RECOVERY_WINDOW`] batches may be answered ahead of
    /// [`DbOp::ContinueTraverse`]; stopped, it fails.
    Pull { batch_limit: usize },
    /// Begin to merge copies of this database, and forget what was merged of it before: the leader
    /// of a recovery does. What does not fit into a bounded amount of memory goes to a file. Answer:
    /// [`DbAnswer::Done`].
    MergeBegin {
        leader: Pnn,
        flags: DbFlags,
        /// Size at which a batch of merged records is closed.
        batch_limit: usize,
    },
    /// Take a record buffer, whose records all have headers, from the copy of a node. Of each record
    /// the copy is kept that wins by [`crate::collate::wins`]. Answer: [`DbAnswer::Done`].
    MergeAdd { from: Pnn, records: Bytes },
    /// Read what was merged, as record buffers with headers by [`crate::collate::pushed_header`],
    /// without records that have no data. Answers: at least one [`DbAnswer::Batch`], then
    /// [`DbAnswer::Count`]. Only [`RECOVERY_WINDOW`] batches may be answered ahead of
    /// [`DbOp::ContinueTraverse`].
    MergeRead,
    /// Forget what was merged. Answer: [`DbAnswer::Done`].
    MergeEnd,
    /// Store the records of one record buffer under the freeze, read-only flags stripped: by the
    /// rule of [`crate::migrate::server_store`] with the lmasters of `vnn_map` if there is one
    /// (volatile databases), else as they are. Answer: [`DbAnswer::Done`]; a failure makes the
    /// count of [`DbOp::PushConfirm`] short.
    Push {
        records: Bytes,
        vnn_map: Option<VnnMap>,
    },
    /// Ends a push. Answer: [`DbAnswer::Count`] of the records stored since the last one.
    PushConfirm,
    /// `UPDATE_RECORD` (data-plane.md 7.3): all records of the buffer in one transaction of its
    /// own, decided by [`crate::persistent::merge_update`]. Answer: [`DbAnswer::Done`].
    Update { records: Bytes },
    /// Read every record without the freeze (data-plane.md 9.2): only those with this dmaster if
    /// one is given, empty ones only if asked for. Answers: [`DbAnswer::Batch`] with a record
    /// buffer each, then [`DbAnswer::Done`]. Only [`TRAVERSE_WINDOW`] batches may be answered ahead
    /// of [`DbOp::ContinueTraverse`].
    Traverse {
        only_dmaster: Option<Pnn>,
        with_empty: bool,
    },
    /// Read every record without data that has this dmaster, without the freeze: what a full run
    /// of vacuuming looks at. Answers: [`DbAnswer::Batch`] with a record buffer each (key and
    /// header), then [`DbAnswer::Done`].
    ListEmpty { dmaster: Pnn },
    /// One batch of the traverse with that ticket has been taken: read one more. Answer:
    /// [`DbAnswer::Done`].
    ContinueTraverse { ticket: Ticket },
    /// Stop the traverse with that ticket; it answers [`DbAnswer::Done`] soon.
    StopTraverse { ticket: Ticket },
    /// Read [`ctdb_proto::DB_SEQNUM_KEY`], through the freeze if there is one. Answer:
    /// [`DbAnswer::Number`]; 0 if absent or not 8 bytes.
    Seqnum,
    /// Turn the TDB sequence number of the file on (data-plane.md 1.7). Answer:
    /// [`DbAnswer::Number`], the number that it has.
    EnableFileSeqnum,
    /// Read the TDB sequence number of the file. Answer: [`DbAnswer::Number`].
    FileSeqnum,
    /// Add one to the TDB sequence number of the file. Answer: [`DbAnswer::Number`], the new one.
    BumpFileSeqnum,
    /// Read the health mark (data-plane.md 1.6). Answer: [`DbAnswer::Health`].
    Health,
    /// Write the health mark, or remove it with `None`. Answer: [`DbAnswer::Done`].
    SetHealth { reason: Option<String> },
    /// Rewrite the file without its holes if the free list has at least `min_free` entries
    /// (data-plane.md 8.3 step 5). Answer: [`DbAnswer::Done`].
    Repack { min_free: u32 },
}

/// What came of a [`DbOp`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DbAnswer {
    Done,
    /// The database is open: its name, where its file is, with which TDB flags (wire.md 4.6), and
    /// the health mark (data-plane.md 1.6).
    Attached {
        name: String,
        path: String,
        open_flags: i32,
        health: Option<String>,
    },
    /// One record buffer; more follow.
    Batch(Bytes),
    Count(u32),
    Number(u64),
    Health(Option<String>),
}

/// A run of the event scripts (events.md 2.1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    Init,
    Setup,
    Startup,
    StartRecovery,
    Recovered,
    Monitor,
    Shutdown,
    StartIpReallocate,
    IpReallocated,
}

impl Event {
    /// The name that the scripts get as their first argument.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Setup => "setup",
            Self::Startup => "startup",
            Self::StartRecovery => "startrecovery",
            Self::Recovered => "recovered",
            Self::Monitor => "monitor",
            Self::Shutdown => "shutdown",
            Self::StartIpReallocate => "startipreallocate",
            Self::IpReallocated => "ipreallocated",
        }
    }
}

/// How a run of the event scripts ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EventOutcome {
    Ok,
    /// A script failed or could not be run; the status is positive (events.md 1.6).
    Failed {
        status: i32,
    },
    TimedOut,
    /// Another event took its place, or it was cancelled.
    Cancelled,
}

/// A run of the notification script (events.md 2.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Notification {
    Init,
    Setup,
    Startup,
    Healthy,
    Unhealthy,
}

impl Notification {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Setup => "setup",
            Self::Startup => "startup",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Why a peer is taken for dead.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PeerLoss {
    /// The connection ended or failed: the shell saw it.
    LinkLost,
    /// Nothing was heard for `KeepaliveLimit` intervals.
    Silent { intervals: u32 },
}

/// Why the daemon closes the connection of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientLoss {
    /// Somebody asked for its process on a banned or stopped node (data-plane.md 10.4).
    NodeInactive,
}
