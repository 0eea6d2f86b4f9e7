//! Which copy of each record survives a recovery.
//!
//! Copies of a database are pulled from the nodes and merged by a fixed rule (`cluster.md 6.4`):
//! the highest rsn wins. Among copies of the same rsn the original keeps the first one pulled, in
//! pnn order, unless that one names the leader as dmaster. The outcome is written here as a rank,
//! so that copies can come in any order: the nodes are pulled at the same time.
//!
//! The shell merges, since a database may be larger than what fits into memory, and asks [`wins`]
//! and [`pushed_header`] here. [`Collate`] does the same in memory, for simulations.

use std::collections::BTreeMap;

use bytes::Bytes;
use ctdb_proto::{DbFlags, DbId, DecodeError, Pnn, RecBuffer, RecordFlags, RecordHeader, ReqId};

use crate::mutation::{self, Mutation};

/// Whether a copy, with this header and from this node, wins over the one that is kept.
/// Independent of the order in which they come.
pub fn wins(new: (&RecordHeader, Pnn), kept: (&RecordHeader, Pnn), leader: Pnn) -> bool {
    let is_leaders = |header: &RecordHeader| header.dmaster() == Some(leader);
    let ((new, from), (kept, kept_from)) = (new, kept);
    if new.rsn != kept.rsn {
        let wins = new.rsn > kept.rsn;
        return wins != mutation::is_on(Mutation::CollateKeepsLowerRsn);
    }
    match (is_leaders(new), is_leaders(kept)) {
        (false, true) => true,
        (true, false) => false,
        (false, false) => from < kept_from,
        (true, true) => from > kept_from,
    }
}

/// The header with which a merged record is pushed: volatile and replicated records become the
/// leader's.
pub fn pushed_header(header: RecordHeader, flags: DbFlags, leader: Pnn) -> RecordHeader {
    if flags.contains(DbFlags::PERSISTENT) {
        return header;
    }
    RecordHeader {
        dmaster: leader.get(),
        flags: header.flags | RecordFlags::MIGRATED_WITH_DATA,
        ..header
    }
}

/// The merge of one database, in memory.
#[derive(Debug)]
pub struct Collate {
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
pub struct Batches {
    pub messages: Vec<Bytes>,
    /// Number of records in all of them.
    pub records: u32,
}

impl Collate {
    /// Nothing yet.
    pub fn new(leader: Pnn) -> Self {
        Self {
            leader,
            records: BTreeMap::new(),
        }
    }

    /// Takes a batch of records from a node.
    pub fn add(&mut self, from: Pnn, batch: &RecBuffer) -> Result<(), DecodeError> {
        for record in batch {
            let (header, data) = record.split()?;
            let is_better =
                |kept: &Copy| wins((&header, from), (&kept.header, kept.from), self.leader);
            if self.records.get(record.key).is_none_or(is_better) {
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
    /// `limit` bytes; there is always at least one. Records without data are left out.
    pub fn into_batches(self, db_id: DbId, flags: DbFlags, limit: usize) -> Batches {
        let mut batches = Batches::default();
        let mut open = RecBuffer::builder(db_id);
        for (key, copy) in self.records {
            if copy.data.is_empty() {
                continue;
            }
            let header = pushed_header(copy.header, flags, self.leader);
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

#[cfg(test)]
#[path = "collate/tests.rs"]
mod tests;
