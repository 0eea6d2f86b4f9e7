//! What the node knows of one attached database.

use std::time::Instant;

use ctdb_proto::{DbFlags, DbId, DbStatistics, Generation, Srvid};

use crate::effect::Ticket;
use crate::waiting::Caller;

/// One attached database. The file itself is the shell's.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) id: DbId,
    pub(crate) name: String,
    pub(crate) flags: DbFlags,
    /// Full path of the file on this node, as GETDBPATH reports it.
    pub(crate) path: String,
    /// TDB flags that clients open the file with (wire.md 4.6).
    pub(crate) open_flags: i32,
    /// Set to that of the vnn map on attach, to the transaction id on `DB_TRANSACTION_COMMIT`, to
    /// INVALID when the node becomes inactive. Record packets are sent with it.
    pub(crate) generation: Generation,
    pub(crate) freeze: Freeze,
    /// The node became inactive: the records may be old and must not enter the next recovery.
    pub(crate) invalid_records: bool,
    /// Id of the recovery transaction that is open under the freeze.
    pub(crate) transaction: Option<Generation>,
    /// Where the records of a running push arrive (`DB_PUSH_START`).
    pub(crate) push: Option<Srvid>,
    /// Why the database is unhealthy; `None` is healthy (data-plane.md 1.6).
    pub(crate) health: Option<String>,
    /// The `TRANS3_COMMIT` that is running here.
    pub(crate) commit: Option<Commit>,
    /// TDB sequence number that was last announced, if `ENABLE_SEQNUM` was asked for.
    pub(crate) file_seqnum: Option<u64>,
    pub(crate) statistics: DbStatistics,
}

/// Whether the recovery has stopped the access to a database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Freeze {
    None,
    /// The lock over all records was asked for; clients still hold some.
    Pending {
        ticket: Ticket,
    },
    Frozen,
}

/// A client's `TRANS3_COMMIT` on its way through the nodes (data-plane.md 7.1).
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) caller: Caller,
    /// Tells the answers of this commit from late ones of an earlier commit.
    pub(crate) serial: Ticket,
    pub(crate) waiting_for: usize,
    /// A node could not store the records: only the end of the recovery answers the client.
    pub(crate) failed: bool,
    pub(crate) deadline: Option<Instant>,
}

impl Database {
    pub(crate) fn is_volatile(&self) -> bool {
        !self
            .flags
            .intersects(DbFlags::PERSISTENT | DbFlags::REPLICATED)
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.freeze == Freeze::Frozen
    }
}
