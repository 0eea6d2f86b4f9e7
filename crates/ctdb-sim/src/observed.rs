//! What the world saw happen to records, for those who watch over the rules.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ctdb_core::Record;
use ctdb_proto::{DbId, Generation, Pnn};

/// Something happened to the records of a node.
#[derive(Clone, Debug)]
pub enum Observed {
    /// The daemon was started, or has ended.
    Life { node: Pnn, runs: bool },
    /// The daemon wrote a record for a packet of `of_packet`, if it was for a packet.
    Written {
        node: Pnn,
        db: DbId,
        key: Bytes,
        of_packet: Option<Generation>,
        generation: Option<Generation>,
    },
    /// A recovery has read all records of a database.
    Pulled {
        node: Pnn,
        db: DbId,
        generation: Generation,
        records: BTreeMap<Bytes, Record>,
    },
    /// A recovery has replaced all records of a database; `members`: the vnn map of that
    /// generation.
    Recovered {
        node: Pnn,
        db: DbId,
        generation: Generation,
        members: Vec<Pnn>,
    },
    /// A client found itself on the dmaster of a record and wrote this number.
    Counted {
        node: Pnn,
        db: DbId,
        key: Bytes,
        generation: Generation,
        number: u64,
    },
    /// A client was told that its commit of this record is done.
    Committed { node: Pnn, db: DbId, key: Bytes },
    /// An administrator banned the node, with success, or ended the ban (`None`).
    Banned { node: Pnn, until: Option<Duration> },
}
