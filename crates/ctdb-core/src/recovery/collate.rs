//! Which copy of each record survives a recovery.
//!
//! Copies of a database are pulled from the nodes and merged by a fixed rule (`cluster.md 6.4`):
//! the highest rsn wins. Among copies of the same rsn the original keeps the first one pulled, in
//! pnn order, unless that one names the leader as dmaster. The outcome is written here as a rank,
//! so that copies can come in any order: the nodes are pulled at the same time.
//!
//! The merge is kept in memory. What it is given are slices of the packets received, so that a
//! record is not copied before it is sent again.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use ctdb_proto::record::{RecBuffer, RecData};
use ctdb_proto::{DbFlags, DbId, DecodeError, Pnn, RecordFlags, RecordHeader, ReqId, Wire};

use crate::recoverd::outbox::bytes_of;

/// The merge of one database.
#[derive(Debug)]
pub(crate) struct Collate {
    leader: Pnn,
    records: BTreeMap<Bytes, Copy>,
}

/// The best copy so far of one record.
#[derive(Debug)]
struct Copy {
    header: RecordHeader,
    from: Pnn,
    /// Header and data, as pulled.
    value: Bytes,
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
        Self { leader, records: BTreeMap::new() }
    }

    /// Takes a batch of records from a node.
    pub(crate) fn add(&mut self, from: Pnn, batch: RecBuffer) -> Result<(), DecodeError> {
        for record in batch.records {
            let (header, _) = RecordHeader::split(&record.data)?;
            let copy = Copy { header, from, value: record.data };
            match self.records.get_mut(&record.key) {
                Some(kept) => {
                    if replaces(&copy, kept, self.leader) {
                        *kept = copy;
                    }
                }
                None => {
                    self.records.insert(record.key, copy);
                }
            }
        }
        Ok(())
    }

    /// The merged records, ready to be sent. A batch is closed as soon as it is larger than
    /// `limit` bytes; there is always at least one. Records without data are left out. Volatile
    /// and replicated records become the leader's.
    pub(crate) fn into_batches(self, db_id: DbId, flags: DbFlags, limit: usize) -> Batches {
        let mut batches = Batches::default();
        let mut open = Batch::new(db_id);
        for (key, copy) in self.records {
            if copy.value.len() <= RecordHeader::LEN {
                continue;
            }
            let data = if flags.contains(DbFlags::PERSISTENT) {
                copy.value
            } else {
                owned_by(self.leader, &copy)
            };
            batches.records += 1;
            open.push(RecData { reqid: ReqId(0), key, data });
            if open.len > limit {
                batches.messages.push(open.close());
                open = Batch::new(db_id);
            }
        }
        if !open.buffer.records.is_empty() || batches.messages.is_empty() {
            batches.messages.push(open.close());
        }
        batches
    }
}

/// Whether a copy wins over the one that is kept. Independent of the order in which they come.
fn replaces(new: &Copy, kept: &Copy, leader: Pnn) -> bool {
    let leaders = |copy: &Copy| copy.header.dmaster == leader.get();
    if new.header.rsn != kept.header.rsn {
        return new.header.rsn > kept.header.rsn;
    }
    match (leaders(new), leaders(kept)) {
        (false, true) => true,
        (true, false) => false,
        (false, false) => new.from < kept.from,
        (true, true) => new.from > kept.from,
    }
}

/// The value of a record that moves to the leader.
fn owned_by(leader: Pnn, copy: &Copy) -> Bytes {
    let header = RecordHeader {
        dmaster: leader.get(),
        flags: copy.header.flags | RecordFlags::MIGRATED_WITH_DATA,
        ..copy.header
    };
    let mut value = BytesMut::with_capacity(copy.value.len());
    header.encode(&mut value);
    value.extend_from_slice(copy.value.get(RecordHeader::LEN..).unwrap_or_default());
    value.freeze()
}

/// A batch that is being filled.
struct Batch {
    buffer: RecBuffer,
    /// Its length on the wire.
    len: usize,
}

impl Batch {
    fn new(db_id: DbId) -> Self {
        Self { buffer: RecBuffer { db_id, records: Vec::new() }, len: RecBuffer::MIN_LEN }
    }

    fn push(&mut self, record: RecData) {
        self.len += RecData::MIN_LEN + record.key.len() + record.data.len();
        self.buffer.records.push(record);
    }

    fn close(self) -> Bytes {
        bytes_of(&self.buffer)
    }
}

#[cfg(test)]
#[path = "collate/tests.rs"]
mod tests;
