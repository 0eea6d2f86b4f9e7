//! Which copy of each record survives a recovery.
//!
//! Copies of a database are pulled from the nodes and merged by a fixed rule (`cluster.md 6.4`):
//! the highest rsn wins. Among copies of the same rsn the original keeps the first one pulled, in
//! pnn order, unless that one names the leader as dmaster. The outcome is written here as a rank,
//! so that copies can come in any order: the nodes are pulled at the same time.
//!
//! The merge is kept in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use ctdb_proto::{DbFlags, DbId, DecodeError, Pnn, RecBuffer, RecordFlags, RecordHeader, ReqId};

use crate::mutation::{self, Mutation};

/// The merge of one database.
#[derive(Debug)]
pub(crate) struct Collate {
    leader: Pnn,
    records: BTreeMap<Box<[u8]>, Copy>,
}

/// The best copy so far of one record.
#[derive(Debug)]
struct Copy {
    header: RecordHeader,
    from: Pnn,
    data: Box<[u8]>,
}

/// What goes to every node: batches of records, each one message.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Batches {
    pub(crate) messages: Vec<Bytes>,
    /// Number of records in all of them.
    pub(crate) records: u32,
}

impl Collate {
    pub(crate) fn new(leader: Pnn) -> Self {
        Self {
            leader,
            records: BTreeMap::new(),
        }
    }

    /// Takes a batch of records from a node.
    pub(crate) fn add(&mut self, from: Pnn, batch: &RecBuffer) -> Result<(), DecodeError> {
        for record in batch {
            let (header, data) = record.split()?;
            let wins = |kept: &Copy| replaces(&header, from, kept, self.leader);
            if self.records.get(record.key).is_none_or(wins) {
                self.records.insert(
                    record.key.into(),
                    Copy {
                        header,
                        from,
                        data: data.into(),
                    },
                );
            }
        }
        Ok(())
    }

    /// The merged records, ready to be sent. A batch is closed as soon as it is larger than
    /// `limit` bytes; there is always at least one. Records without data are left out. Volatile
    /// and replicated records become the leader's.
    pub(crate) fn into_batches(self, db_id: DbId, flags: DbFlags, limit: usize) -> Batches {
        let mut batches = Batches::default();
        let mut open = RecBuffer::builder(db_id);
        for (key, copy) in self.records {
            if copy.data.is_empty() {
                continue;
            }
            let header = if flags.contains(DbFlags::PERSISTENT) {
                copy.header
            } else {
                owned_by(self.leader, copy.header)
            };
            batches.records += 1;
            open.push_record(ReqId(0), &key, &header, &copy.data);
            if open.wire_len() > limit {
                let full = std::mem::replace(&mut open, RecBuffer::builder(db_id));
                batches.messages.push(full.finish().to_bytes());
            }
        }
        if open.count() > 0 || batches.messages.is_empty() {
            batches.messages.push(open.finish().to_bytes());
        }
        batches
    }
}

/// Whether a copy wins over the one that is kept. Independent of the order in which they come.
fn replaces(new: &RecordHeader, from: Pnn, kept: &Copy, leader: Pnn) -> bool {
    let is_leaders = |header: &RecordHeader| header.dmaster() == Some(leader);
    if new.rsn != kept.header.rsn {
        let wins = new.rsn > kept.header.rsn;
        return wins != mutation::is_on(Mutation::CollateKeepsLowerRsn);
    }
    match (is_leaders(new), is_leaders(&kept.header)) {
        (false, true) => true,
        (true, false) => false,
        (false, false) => from < kept.from,
        (true, true) => from > kept.from,
    }
}

/// The header of a record that moves to the leader.
fn owned_by(leader: Pnn, header: RecordHeader) -> RecordHeader {
    RecordHeader {
        dmaster: leader.get(),
        flags: header.flags | RecordFlags::MIGRATED_WITH_DATA,
        ..header
    }
}

#[cfg(test)]
#[path = "collate/tests.rs"]
mod tests;
