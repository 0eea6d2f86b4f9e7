//! Rolling back a commit that was cut short (`tdb.md` 6.1, 6.4 and 6.5).
//!
//! The recovery area holds what the blocks contained before the commit began to overwrite them:
//!
//! | offset | size | field                                                                      |
//! |-------:|-----:|----------------------------------------------------------------------------|
//! |      0 |   24 | a [`Record`]: `rec_len` is the capacity, `data_len` the length of the log, |
//! |        |      | `key_len` the size of the file before the transaction                      |
//! |        |      | for each block: its offset, its length, its bytes                          |
//! |        |    4 | tailer: capacity + 24, directly behind the last block                      |
//!
//! A rollback can itself be cut short and starts again then: until its last write, `recovery_start`
//! and the log stay what they are.

use std::ops::Range;

use crate::backend::length;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::layout::{Magic, RECORD_SIZE, RECOVERY_START, Record, TAILER_SIZE};

/// Bytes in front of each block in the log.
const BLOCK_HEADER: usize = 8;

/// A saved block: where it belongs, and where its bytes are in the log.
struct SavedBlock {
    offset: u32,
    bytes: Range<usize>,
}

/// An unfinished commit.
struct Unfinished {
    /// Offset of the recovery area.
    start: u32,
    area: Record,
    log: Vec<u8>,
    blocks: Vec<SavedBlock>,
}

/// Which part of the file is the recovery area after a rollback.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum AreaAfter {
    /// The same, which now reaches to the end of the file.
    ToEnd(u32),
    /// The same, in the middle of the file.
    InMiddle(u32),
    /// All that the transaction added to the file.
    Growth,
}

impl Db {
    /// Rolls an unfinished commit back, if there is one. The caller keeps others from opening the
    /// file; `exclusive` tells that they do not use it either.
    ///
    /// Afterwards no space in the file belongs to nobody, so that it passes its check. (A rollback
    /// by the C library can leave such space.)
    pub(crate) fn recover(&self, exclusive: bool) -> Result<()> {
        let Some(unfinished) = self.find_unfinished()? else {
            return Ok(());
        };
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        tracing::warn!(path = %self.path().display(), "rolling back an unfinished transaction");
        for block in &unfinished.blocks {
            self.restore(&unfinished, block)?;
        }
        self.image.sync()?;
        let after = self.settle_area(&unfinished)?;
        let leaves_tail = matches!(after, AreaAfter::InMiddle(_));
        if leaves_tail && exclusive {
            self.adopt_tail()
        } else {
            Ok(())
        }
    }

    /// Gives the recovery area its length, if a crash of the C library has left it without: it lies
    /// at the end of the file then. The caller keeps commits out.
    pub(crate) fn size_area(&self) -> Result<()> {
        let Some(start) = self.unsized_area()? else {
            return Ok(());
        };
        let rest = self.image.size().saturating_sub(start);
        match rest.checked_sub(RECORD_SIZE) {
            Some(rec_len) => self.image.set_record(start, &idle_area(rec_len)),
            None => Ok(()),
        }
    }

    /// Offset of a recovery area that was never written, with nothing behind it.
    pub(crate) fn unsized_area(&self) -> Result<Option<u32>> {
        let start = self.image.word(RECOVERY_START)?;
        if start == 0 {
            return Ok(None);
        }
        let area = self.image.record(start)?;
        if area.magic != Magic::IDLE || area.rec_len != 0 {
            return Ok(None);
        }
        let behind = start + RECORD_SIZE;
        let is_last = match self.image.refresh()?.saturating_sub(behind) {
            0 => return Ok(None),
            1..RECORD_SIZE => true,
            _ => {
                let magic = self.image.record(behind)?.magic;
                [Magic::IDLE, Magic::FILLER].contains(&magic) && self.is_unowned(behind)?
            }
        };
        Ok(is_last.then_some(start))
    }

    /// Reads and checks the log, if a commit is unfinished.
    fn find_unfinished(&self) -> Result<Option<Unfinished>> {
        let start = self.image.word(RECOVERY_START)?;
        if start == 0 {
            return Ok(None);
        }
        let area = self.image.record(start)?;
        if area.magic != Magic::RECOVERY {
            return Ok(None);
        }
        let corrupt = |what| {
            Err(Error::Corrupt {
                offset: start,
                what,
            })
        };
        if area.data_len > area.rec_len {
            return corrupt("log is longer than the recovery area");
        }
        if area.key_len > self.image.refresh()? {
            return corrupt("file is shorter than before the transaction");
        }
        let mut log = Vec::new();
        self.image
            .append_to(start + RECORD_SIZE, area.data_len, &mut log)?;
        let blocks = self.parse_log(start, &log)?;
        Ok(Some(Unfinished {
            start,
            area,
            log,
            blocks,
        }))
    }

    /// Finds the blocks. Every one is checked before the first is written.
    fn parse_log(&self, start: u32, log: &[u8]) -> Result<Vec<SavedBlock>> {
        let corrupt = |what| Error::Corrupt {
            offset: start,
            what,
        };
        let order = self.image.order();
        let end = log.len().checked_sub(TAILER_SIZE as usize);
        let end = end.ok_or(corrupt("log has no tailer"))?;
        let mut blocks = Vec::new();
        let mut at = 0;
        while at < end {
            let header = log[at..end].first_chunk::<BLOCK_HEADER>();
            let (words, _) = header
                .ok_or(corrupt("log ends within a block"))?
                .as_chunks();
            let (offset, len) = (order.word(words[0]), order.word(words[1]));
            let bytes_at = at + BLOCK_HEADER;
            at = bytes_at
                .checked_add(len as usize)
                .ok_or(corrupt("log wraps around"))?;
            if at > end {
                return Err(corrupt("log ends within a block"));
            }
            self.image.check_inside(offset, len)?;
            blocks.push(SavedBlock {
                offset,
                bytes: bytes_at..at,
            });
        }
        Ok(blocks)
    }

    /// Writes a block back, all but what must not change before the end.
    fn restore(&self, unfinished: &Unfinished, block: &SavedBlock) -> Result<()> {
        let bytes = &unfinished.log[block.bytes.clone()];
        let kept = [recovery_start_word(), unfinished.log_range()];
        write_around(&kept, block.offset, bytes, |offset, bytes| {
            self.image.write(offset, bytes)
        })
    }

    /// Makes the recovery area idle, and sound for a file that has the size it has now.
    fn settle_area(&self, unfinished: &Unfinished) -> Result<AreaAfter> {
        let image = &self.image;
        let (area, old_size) = (&unfinished.area, unfinished.area.key_len);
        let to_end = |start: u32| {
            let corrupt = Error::Corrupt {
                offset: start,
                what: "no room for a recovery area",
            };
            (image.size() - start)
                .checked_sub(RECORD_SIZE)
                .ok_or(corrupt)
        };
        let after = unfinished.area_after();
        match after {
            AreaAfter::ToEnd(start) => {
                image.set_record(start, &idle_area(to_end(start)?))?;
            }
            AreaAfter::InMiddle(start) => {
                self.disown_tail(old_size)?;
                image.set_record(start, &idle_area(area.rec_len))?;
            }
            AreaAfter::Growth => {
                image.set_record(old_size, &idle_area(to_end(old_size)?))?;
                image.sync()?;
                image.set_word(RECOVERY_START, old_size)?;
            }
        }
        image.sync()?;
        Ok(after)
    }

    /// Makes what the transaction added look like bytes that were never written.
    fn disown_tail(&self, old_size: u32) -> Result<()> {
        let len = (self.image.size() - old_size).min(RECORD_SIZE) as usize;
        self.image
            .write(old_size, &[0; RECORD_SIZE as usize][..len])?;
        self.image.sync()
    }
}

impl Unfinished {
    /// The header of the recovery area, and its log.
    fn log_range(&self) -> Range<u32> {
        self.start..self.start + RECORD_SIZE + self.area.data_len
    }

    fn area_after(&self) -> AreaAfter {
        let (start, old_size) = (self.start, self.area.key_len);
        if start > old_size {
            return AreaAfter::Growth;
        }
        let end = u64::from(start) + u64::from(RECORD_SIZE) + u64::from(self.area.rec_len);
        if end >= u64::from(old_size) {
            AreaAfter::ToEnd(start)
        } else {
            AreaAfter::InMiddle(start)
        }
    }
}

/// Header of a recovery area without a log.
pub(crate) fn idle_area(rec_len: u32) -> Record {
    Record {
        magic: Magic::IDLE,
        ..Record::free(0, rec_len)
    }
}

/// The word of the header that leads to the recovery area.
pub(crate) fn recovery_start_word() -> Range<u32> {
    RECOVERY_START..RECOVERY_START + 4
}

/// Calls `write` for those parts of `bytes`, which belong at `offset`, that lie outside of the
/// ranges to keep. These are in ascending order.
pub(crate) fn write_around(
    kept: &[Range<u32>],
    offset: u32,
    bytes: &[u8],
    mut write: impl FnMut(u32, &[u8]) -> Result<()>,
) -> Result<()> {
    let end = offset + length(bytes);
    let mut at = offset;
    for kept in kept {
        let part = at..kept.start.clamp(at, end);
        if !part.is_empty() {
            write(
                at,
                &bytes[(part.start - offset) as usize..(part.end - offset) as usize],
            )?;
        }
        at = kept.end.clamp(at, end);
    }
    if at < end {
        write(at, &bytes[(at - offset) as usize..])
    } else {
        Ok(())
    }
}
