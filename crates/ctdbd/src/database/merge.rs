//! Merging the copies of a database that a recovery has pulled from the nodes.
//!
//! A thread sorts what comes into [`PARTS`] parts by hash chain, in memory as long as it is little
//! and in a file without a name beyond that. When all has come, one part after the other is read
//! back, and of each record the copy is kept that wins. So no more than a part, and what has not
//! been written yet, is in memory.
//!
//! What goes out is in the order of the hash chains. Whoever stores it finds the records of a chain
//! side by side, and those it has to pass are in the processor's cache.

use std::cmp::Ordering;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use ctdb_core::collate::{pushed_header, wins};
use ctdb_core::{DbAnswer, Ticket};
use ctdb_proto::{DbFlags, DbId, Pnn, RecBuffer, RecBufferBuilder, RecordHeader, ReqId, Wire};
use nix::fcntl::OFlag;
use tdb::Db;

use super::DbFile;
use super::work::Pace;
use crate::event::ShellEvent;
use crate::lanes::Lanes;
use crate::threads::Threads;

/// Parts of a database. A database of a gigabyte has parts of a few megabytes.
const PARTS: usize = 256;

/// Bytes of records that are kept before they are written to the file.
const KEEP: usize = 8 * 1024 * 1024;

/// The core task's end of a merge. Dropping it ends the merge.
pub(crate) struct Merger {
    commands: mpsc::Sender<Command>,
    /// Of the reading, once it has begun.
    pace: Option<Arc<Pace>>,
}

enum Command {
    Add(Ticket, Pnn, Bytes),
    Read(Ticket, Arc<Pace>),
}

/// What the leader wants of a merge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MergeRules {
    pub(crate) leader: Pnn,
    pub(crate) flags: DbFlags,
    /// Size at which a batch of merged records is closed.
    pub(crate) batch_limit: usize,
}

impl Merger {
    /// Starts the thread; the ticket is answered when it is ready. The file, if one is needed, is
    /// made in `dir`.
    pub(crate) fn start(
        ticket: Ticket,
        file: &Arc<DbFile>,
        dir: PathBuf,
        rules: MergeRules,
        threads: &Threads,
        lanes: &Lanes,
    ) -> Self {
        let (commands, inbox) = mpsc::channel();
        let (file, lanes) = (Arc::clone(file), lanes.clone());
        threads.run(move || {
            let opened = file.open();
            let ready = opened.as_ref().map(|_| DbAnswer::Done);
            let answer = ready.map_err(Clone::clone);
            lanes.report(ShellEvent::Db { ticket, answer });
            if let Ok(db) = opened {
                serve(&inbox, &file, &db, dir, rules, &lanes);
                file.close(db);
            }
        });
        let pace = None;
        Self { commands, pace }
    }

    /// Takes records. False if the thread has ended.
    pub(crate) fn add(&self, ticket: Ticket, from: Pnn, records: Bytes) -> bool {
        let command = Command::Add(ticket, from, records);
        self.commands.send(command).is_ok()
    }

    /// Reads what was merged, as fast as `pace` allows. False if the thread has ended.
    pub(crate) fn read(&mut self, ticket: Ticket, pace: Arc<Pace>) -> bool {
        self.pace = Some(Arc::clone(&pace));
        self.commands.send(Command::Read(ticket, pace)).is_ok()
    }
}

impl Drop for Merger {
    fn drop(&mut self) {
        if let Some(pace) = &self.pace {
            pace.stop();
        }
    }
}

/// The life of the thread.
fn serve(
    inbox: &mpsc::Receiver<Command>,
    file: &DbFile,
    db: &Db,
    dir: PathBuf,
    rules: MergeRules,
    lanes: &Lanes,
) {
    let mut copies = Copies::new(dir);
    while let Ok(command) = inbox.recv() {
        let (ticket, answer) = match command {
            Command::Add(ticket, from, records) => {
                let added = copies.add(db, from, &records);
                (ticket, added.map(|()| DbAnswer::Done))
            }
            Command::Read(ticket, pace) => {
                let emit = |buffer: Bytes| {
                    let answer = Ok(DbAnswer::Batch(buffer));
                    pace.take_one() && lanes.report_data(ShellEvent::Db { ticket, answer })
                };
                let read = copies.read(file.id, rules, emit);
                (ticket, read.map(DbAnswer::Count))
            }
        };
        let answer = answer.map_err(|problem| file.failure(&problem));
        lanes.report_data(ShellEvent::Db { ticket, answer });
    }
}

/// All copies of the records of a database, by part.
struct Copies {
    dir: PathBuf,
    parts: Vec<Part>,
    /// Bytes in the parts that are in no file.
    kept: usize,
    file: Option<File>,
    file_len: u64,
}

#[derive(Default)]
struct Part {
    kept: Vec<u8>,
    written: Vec<Extent>,
}

#[derive(Clone, Copy)]
struct Extent {
    start: u64,
    len: usize,
}

/// One copy of a record, in the bytes of a part:
///
/// | offset | size | field |
/// |-------:|-----:|-------|
/// |      0 |    4 | hash chain |
/// |      4 |    4 | node that it is from |
/// |      8 |    4 | length of the key |
/// |     12 |    4 | length of the value |
/// |     16 |      | the key, then the value: header and data |
#[derive(Clone, Copy)]
struct Copy<'a> {
    chain: u32,
    from: Pnn,
    key: &'a [u8],
    value: &'a [u8],
}

impl Copies {
    fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            parts: (0..PARTS).map(|_| Part::default()).collect(),
            kept: 0,
            file: None,
            file_len: 0,
        }
    }

    fn add(&mut self, db: &Db, from: Pnn, mut records: &[u8]) -> Result<(), String> {
        let buffer = RecBuffer::decode(&mut records).map_err(|error| error.to_string())?;
        for record in &buffer {
            let chain = db.chain_of(record.key);
            let copy = Copy {
                chain,
                from,
                key: record.key,
                value: record.data,
            };
            let part = part_of(chain, db.hash_size());
            self.kept += copy.append_to(&mut self.parts[part].kept);
        }
        if self.kept > KEEP {
            self.write().map_err(|error| {
                let dir = self.dir.display();
                format!("cannot keep the records of a recovery in {dir}: {error}")
            })?;
        }
        Ok(())
    }

    /// Writes what is in memory to the file.
    fn write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless(&self.dir)?),
        };
        for part in self.parts.iter_mut().filter(|part| !part.kept.is_empty()) {
            let bytes = std::mem::take(&mut part.kept);
            file.write_all_at(&bytes, self.file_len)?;
            part.written.push(Extent {
                start: self.file_len,
                len: bytes.len(),
            });
            self.file_len += bytes.len() as u64;
        }
        self.kept = 0;
        Ok(())
    }

    /// Merges, and hands the outcome to `emit` batch by batch; there is always at least one.
    /// Returns the number of records.
    fn read(
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
            let mut copies: Vec<Copy<'_>> = CopyIter { rest: &bytes }.collect();
            copies.sort_unstable_by(Copy::by_record);
            for same in copies.chunk_by(|a, b| Copy::by_record(a, b) == Ordering::Equal) {
                let Some((header, data, key)) = survivor(same, rules.leader) else {
                    continue;
                };
                let header = pushed_header(header, rules.flags, rules.leader);
                if !open.has_room_for(key.len(), RecordHeader::MIN_LEN + data.len()) {
                    close(&mut open)?;
                }
                open.push_record(ReqId(0), key, &header, data);
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

/// Of copies of the same record the one that wins, if it has data.
fn survivor<'a>(same: &[Copy<'a>], leader: Pnn) -> Option<(RecordHeader, &'a [u8], &'a [u8])> {
    let mut best: Option<(RecordHeader, Pnn, &'a [u8], &'a [u8])> = None;
    for copy in same {
        let (header, data) = RecordHeader::split(copy.value).ok()?;
        let is_better = best.as_ref().is_none_or(|(kept, kept_from, ..)| {
            wins((&header, copy.from), (kept, *kept_from), leader)
        });
        if is_better {
            best = Some((header, copy.from, data, copy.key));
        }
    }
    let (header, _, data, key) = best?;
    (!data.is_empty()).then_some((header, data, key))
}

impl Copy<'_> {
    /// Order in which copies of the same record are side by side.
    fn by_record(a: &Self, b: &Self) -> Ordering {
        (a.chain, a.key).cmp(&(b.chain, b.key))
    }

    /// Returns how many bytes were added.
    fn append_to(&self, bytes: &mut Vec<u8>) -> usize {
        let before = bytes.len();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let words = [
            self.chain,
            self.from.get(),
            length(self.key),
            length(self.value),
        ];
        for word in words {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(self.key);
        bytes.extend_from_slice(self.value);
        bytes.len() - before
    }
}

/// The copies in the bytes of a part.
struct CopyIter<'a> {
    rest: &'a [u8],
}

impl CopyIter<'_> {
    fn word(&mut self) -> Option<u32> {
        let (word, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u32::from_le_bytes(*word))
    }
}

impl<'a> Iterator for CopyIter<'a> {
    type Item = Copy<'a>;

    fn next(&mut self) -> Option<Copy<'a>> {
        let (chain, from) = (self.word()?, Pnn::new(self.word()?)?);
        let (key_len, value_len) = (self.word()?, self.word()?);
        let (key, rest) = self.rest.split_at_checked(usize::try_from(key_len).ok()?)?;
        let (value, rest) = rest.split_at_checked(usize::try_from(value_len).ok()?)?;
        self.rest = rest;
        Some(Copy {
            chain,
            from,
            key,
            value,
        })
    }
}

/// A file for this thread alone, gone when it is closed.
fn nameless(dir: &Path) -> io::Result<File> {
    let flags = OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options.custom_flags(flags.bits()).open(dir)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ctdb_core::collate::Collate;
    use ctdb_proto::{RecordFlags, Rsn};
    use tdb::OpenOptions as TdbOptions;

    use super::*;

    const ID: DbId = DbId(7);

    fn pnn(raw: u32) -> Pnn {
        Pnn::new(raw).unwrap()
    }

    fn copy_of(from: u32, records: &[(u32, u64, usize)]) -> Bytes {
        let mut builder = RecBuffer::builder(ID);
        for (key, rsn, len) in records {
            let header = RecordHeader::new(Rsn(*rsn), pnn(from), RecordFlags::empty());
            let data = vec![u8::try_from(from).unwrap(); *len];
            builder.push_record(ReqId(0), &key.to_le_bytes(), &header, &data);
        }
        builder.finish().to_bytes()
    }

    fn records(batches: &[Bytes]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut all = BTreeMap::new();
        for batch in batches {
            let buffer = RecBuffer::decode(&mut batch.clone()).unwrap();
            for record in &buffer {
                let twice = all.insert(record.key.to_vec(), record.data.to_vec());
                assert_eq!(twice, None);
            }
        }
        all
    }

    /// More than what is kept in memory, from three nodes, merged here and by the rule in memory.
    #[test]
    fn what_goes_through_the_file_is_merged_as_in_memory() {
        let db = TdbOptions::new()
            .hash_size(1000)
            .open_memory(Vec::new())
            .unwrap();
        let mut copies = Copies::new(std::env::temp_dir());
        let mut expected = Collate::new(pnn(1));
        for round in 0..120_u32 {
            let from = round % 3;
            let batch: Vec<_> = (0..1000)
                .map(|number| {
                    let key = (round / 3 * 500 + number * 7) % 20_000;
                    let (rsn, len) = ((key + from * 3) % 5, (key + from) % 200);
                    (key, u64::from(rsn), len as usize)
                })
                .collect();
            let bytes = copy_of(from, &batch);
            copies.add(&db, pnn(from), &bytes).unwrap();
            let buffer = RecBuffer::decode(&mut bytes.clone()).unwrap();
            expected.add(pnn(from), &buffer).unwrap();
        }
        assert!(copies.file.is_some(), "it was too much for the memory");
        let flags = DbFlags::empty();
        let rules = MergeRules {
            leader: pnn(1),
            flags,
            batch_limit: 10_000,
        };
        let mut batches = Vec::new();
        let emit = |batch| {
            batches.push(batch);
            true
        };
        let count = copies.read(ID, rules, emit).unwrap();
        let expected = expected.into_batches(ID, flags, 10_000);
        assert_eq!(count, expected.records);
        let (got, wanted) = (records(&batches), records(&expected.messages));
        assert_eq!(got, wanted);
    }

    #[test]
    fn nothing_is_one_empty_batch() {
        let rules = MergeRules {
            leader: pnn(1),
            flags: DbFlags::empty(),
            batch_limit: 1000,
        };
        let mut batches = Vec::new();
        let count = Copies::new(PathBuf::new()).read(ID, rules, |batch| {
            batches.push(batch);
            true
        });
        assert_eq!(count, Ok(0));
        assert_eq!(batches, [RecBuffer::empty(ID).to_bytes()]);
    }
}
