//! A record job and its verdict: the hand-over between the decisions and the TDB file.

use bytes::Bytes;
use ctdb_proto::{DbId, RecordHeader};

use super::Work;
use crate::effect::Effect;

/// One look at one record under the lock of its hash chain.
///
/// The shell tries the lock without waiting; if it is taken, the job waits in line for its chain
/// (first come, first served) while a lock thread waits for the lock. It is given back unchanged
/// to [`crate::Node::on_record`] with the record as read, or to
/// [`crate::Node::on_record_failed`] when the file cannot be locked or read.
#[derive(Debug)]
pub struct RecordJob {
    pub db: DbId,
    pub key: Bytes,
    pub(crate) work: Work,
}

/// What to do with a record that was read for a [`RecordJob`].
///
/// The shell carries out `write` under the same lock, releases the lock and gives the verdict
/// back: to [`crate::Node::conclude`], which lets its packets go, or to
/// [`crate::Node::abandon`] if the write failed, which forgets them and forces a recovery: a
/// record must never be announced in a state that the file does not have.
#[must_use]
#[derive(Debug)]
pub struct Verdict {
    pub write: Write,
    pub(crate) then: Vec<Effect>,
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
