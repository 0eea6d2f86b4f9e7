//! All copies of the records of a database, as the nodes send them.
//!
//! They are sorted into [`PARTS`] parts by hash chain. Nodes read their databases in the order of the
//! chains, at about the same time. So when [`KEEP`] bytes have come, most parts are complete: of each
//! of their records only the copy stays that wins. What is still too much for the memory is written
//! to a file without a name. When all has come, one part after the other is read back and merged
//! with what came late, if anything did.

mod part;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ctdb_core::collate::pushed_header;
use ctdb_proto::{DbId, Pnn, RecBuffer, RecBufferBuilder, RecordHeader, ReqId, Wire};
use nix::fcntl::OFlag;
use part::{Copy, Extent, Part, survivors};
use tdb::Db;

use super::MergeRules;

/// Parts of a database. A database of a gigabyte has parts of a megabyte, times the nodes.
const PARTS: usize = 1024;

/// Bytes of records that are kept before some are written to the file.
const KEEP: usize = 16 * 1024 * 1024;

/// The copies of a database.
pub(super) struct Copies {
    dir: PathBuf,
    leader: Pnn,
    parts: Vec<Part>,
    /// Bytes in the parts that are in no file.
    kept: usize,
    /// The part that each node has come to.
    reached: BTreeMap<Pnn, usize>,
    /// Parts in front of this one have been merged.
    merged: usize,
    file: Option<File>,
    file_len: u64,
}

impl Copies {
    pub(super) fn new(dir: PathBuf, leader: Pnn) -> Self {
        Self {
            dir,
            leader,
            parts: (0..PARTS).map(|_| Part::default()).collect(),
            kept: 0,
            reached: BTreeMap::new(),
            merged: 0,
            file: None,
            file_len: 0,
        }
    }

    pub(super) fn add(&mut self, db: &Db, from: Pnn, mut records: &[u8]) -> Result<(), String> {
        let buffer = RecBuffer::decode(&mut records).map_err(|error| error.to_string())?;
        let mut reached = 0;
        for record in &buffer {
            let place = db.place_of(record.key);
            let copy = Copy {
                place,
                from,
                key: record.key,
                value: record.data,
            };
            let part = part_of(place.chain, db.hash_size());
            self.kept += copy.append_to(&mut self.parts[part].kept);
            reached = reached.max(part);
        }
        let farthest = self.reached.entry(from).or_default();
        *farthest = reached.max(*farthest);
        if self.kept > KEEP {
            self.relieve().map_err(|error| {
                let dir = self.dir.display();
                format!("cannot keep the records of a recovery in {dir}: {error}")
            })?;
        }
        Ok(())
    }

    /// Makes room in memory.
    fn relieve(&mut self) -> io::Result<()> {
        let complete = self.reached.values().copied().min().unwrap_or(0);
        for number in self.merged..complete {
            self.kept -= self.parts[number].merge(self.leader);
        }
        self.merged = complete.max(self.merged);
        if self.kept > KEEP / 2 {
            self.write(self.merged)?;
        }
        // One node is far ahead of another, or they come in another order.
        if self.kept > KEEP / 4 * 3 {
            self.write(PARTS)?;
        }
        Ok(())
    }

    /// Writes to the file what is in memory of the parts in front of `end`.
    fn write(&mut self, end: usize) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless(&self.dir)?),
        };
        for part in &mut self.parts[..end] {
            let bytes = std::mem::take(&mut part.kept);
            if bytes.is_empty() {
                continue;
            }
            file.write_all_at(&bytes, self.file_len)?;
            part.written.push(Extent {
                start: self.file_len,
                len: bytes.len(),
            });
            self.file_len += bytes.len() as u64;
            self.kept -= bytes.len();
        }
        Ok(())
    }

    /// Merges, and hands the outcome to `emit` batch by batch; there is always at least one.
    /// Returns the number of records.
    pub(super) fn read(
        &mut self,
        id: DbId,
        rules: MergeRules,
        mut emit: impl FnMut(Bytes) -> bool,
    ) -> Result<u32, String> {
        let mut count = 0;
        let mut open = RecBuffer::builder(id);
        let mut close = |open: &mut RecBufferBuilder| {
            let full = std::mem::replace(open, RecBuffer::builder(id));
            let goes_on = emit(full.finish().to_bytes());
            goes_on.then_some(()).ok_or("merging was stopped")
        };
        for number in 0..self.parts.len() {
            let bytes = self.take_part(number).map_err(|error| error.to_string())?;
            for copy in survivors(&bytes, rules.leader) {
                let Ok((header, data)) = RecordHeader::split(copy.value) else {
                    continue;
                };
                if data.is_empty() {
                    continue;
                }
                let header = pushed_header(header, rules.flags, rules.leader);
                if !open.has_room_for(copy.key.len(), RecordHeader::MIN_LEN + data.len()) {
                    close(&mut open)?;
                }
                open.push_record(ReqId(0), copy.key, &header, data);
                count += 1;
                if open.wire_len() > rules.batch_limit {
                    close(&mut open)?;
                }
            }
        }
        if open.count() > 0 || count == 0 {
            close(&mut open)?;
        }
        Ok(count)
    }

    /// All bytes of a part, which is empty then.
    fn take_part(&mut self, number: usize) -> io::Result<Vec<u8>> {
        let part = std::mem::take(&mut self.parts[number]);
        self.kept -= part.kept.len();
        let Some(file) = self.file.as_ref().filter(|_| !part.written.is_empty()) else {
            return Ok(part.kept);
        };
        let len = part.written.iter().map(|extent| extent.len).sum::<usize>();
        let mut bytes = Vec::with_capacity(len + part.kept.len());
        for extent in part.written {
            let start = bytes.len();
            bytes.resize(start + extent.len, 0);
            file.read_exact_at(&mut bytes[start..], extent.start)?;
        }
        bytes.extend_from_slice(&part.kept);
        Ok(bytes)
    }
}

/// The part of a chain. Chains that follow each other are in the same part, or in parts that do.
fn part_of(chain: u32, hash_size: u32) -> usize {
    let part = u64::from(chain) * PARTS as u64 / u64::from(hash_size.max(1));
    usize::try_from(part).map_or(PARTS - 1, |part| part.min(PARTS - 1))
}

/// A file for this thread alone, gone when it is closed.
fn nameless(dir: &Path) -> io::Result<File> {
    let flags = OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options.custom_flags(flags.bits()).open(dir)
}

#[cfg(test)]
mod tests;
