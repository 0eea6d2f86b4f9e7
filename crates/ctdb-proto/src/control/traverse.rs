//! Controls that walk through all records of a database (`wire.md 6.3`).

use crate::wire::wire_fields;
use crate::{DbId, Pnn, ReqId, Srvid};

/// A client wants all records as messages. 16 bytes.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    4 | `db_id`                |
/// |      4 |    4 | `reqid`                |
/// |      8 |    8 | `srvid`                |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraverseStart {
    pub db_id: DbId,
    /// Chosen by the client; comes back with each record.
    pub reqid: ReqId,
    /// Where the client wants the records.
    pub srvid: Srvid,
}

wire_fields!(TraverseStart, 16 bytes { db_id, reqid, srvid });

/// As [`TraverseStart`], with a choice. 24 bytes: 16, the flag, 7 bytes of padding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraverseStartExt {
    pub start: TraverseStart,
    /// Records without data too.
    pub with_empty_records: bool,
}

wire_fields!(TraverseStartExt, 24 bytes { start, with_empty_records + 7 });

/// A daemon wants the records of another node. 24 bytes.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    4 | `db_id`                |
/// |      4 |    4 | `reqid`                |
/// |      8 |    4 | `pnn`                  |
/// |     12 |    4 | `client_reqid`         |
/// |     16 |    8 | `srvid`                |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraverseAll {
    pub db_id: DbId,
    /// Id of the traverse at the asking daemon; comes back with each record.
    pub reqid: ReqId,
    /// The asking daemon: where the records go.
    pub pnn: Pnn,
    /// The client's own id, and its address: name the traverse when it is killed.
    pub client_reqid: ReqId,
    pub srvid: Srvid,
}

wire_fields!(TraverseAll, 24 bytes { db_id, reqid, pnn, client_reqid, srvid });

/// As [`TraverseAll`], with a choice. 32 bytes: 24, the flag, 7 bytes of padding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraverseAllExt {
    pub all: TraverseAll,
    /// Records without data too.
    pub with_empty_records: bool,
}

wire_fields!(TraverseAllExt, 32 bytes { all, with_empty_records + 7 });
