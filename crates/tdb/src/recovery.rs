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

use crate::backend::length;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::layout::{Magic, RECORD_SIZE, RECOVERY_START, Record, TAILER_SIZE};

/// Bytes in front of each block in the log.
pub(crate) const BLOCK_HEADER: u32 = 8;

/// A saved block: where it belongs, and where its bytes are in the log.
struct SavedBlock {
    offset: u32,
    bytes: std::ops::Range<usize>,
}

impl Db {
    /// Rolls an unfinished commit back, if there is one. The caller keeps others from opening the
    /// file.
    ///
    /// The area stays allocated and idle, and covers everything up to the end of the file, so that
    /// the file passes its check. (The C library leaves space there that belongs to nobody.)
    pub(crate) fn recover(&self) -> Result<()> {
        let image = &self.image;
        let start = image.word(RECOVERY_START)?;
        if start == 0 {
            return Ok(());
        }
        let area = image.record(start)?;
        if area.magic != Magic::RECOVERY {
            return Ok(());
        }
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        tracing::warn!(path = %self.path().display(), "rolling back an unfinished transaction");
        let log = self.read_log(start, &area)?;
        let blocks = self.parse_log(start, &log)?;
        for block in &blocks {
            self.restore(start, block, &log)?;
        }
        image.sync()?;
        let old_size = area.key_len;
        if old_size < start {
            self.give_up_growth(old_size)
        } else {
            self.keep_area(start, &area, old_size)
        }
    }

    fn read_log(&self, start: u32, area: &Record) -> Result<Vec<u8>> {
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
        Ok(log)
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
            let header = log[at..end].first_chunk::<{ BLOCK_HEADER as usize }>();
            let (words, _) = header
                .ok_or(corrupt("log ends within a block"))?
                .as_chunks();
            let (offset, len) = (order.word(words[0]), order.word(words[1]));
            let bytes_at = at + BLOCK_HEADER as usize;
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

    /// Writes a block back. The header of the recovery area stays what it is until the end.
    fn restore(&self, start: u32, block: &SavedBlock, log: &[u8]) -> Result<()> {
        let bytes = &log[block.bytes.clone()];
        let block_end = block.offset + length(bytes);
        let header_end = start + RECORD_SIZE;
        let before = start.clamp(block.offset, block_end) - block.offset;
        let behind = header_end.clamp(block.offset, block_end) - block.offset;
        self.image.write(block.offset, &bytes[..before as usize])?;
        self.image
            .write(block.offset + behind, &bytes[behind as usize..])
    }

    /// The transaction had grown the file: all behind its old end becomes an idle area.
    fn give_up_growth(&self, old_size: u32) -> Result<()> {
        let image = &self.image;
        let corrupt = Error::Corrupt {
            offset: old_size,
            what: "no room for the recovery area",
        };
        let rec_len = (image.size() - old_size)
            .checked_sub(RECORD_SIZE)
            .ok_or(corrupt)?;
        image.set_record(old_size, &idle_area(rec_len))?;
        image.sync()?;
        image.set_word(RECOVERY_START, old_size)?;
        image.sync()
    }

    /// The area was the last thing in the file, or in the middle of it, and stays there.
    fn keep_area(&self, start: u32, area: &Record, old_size: u32) -> Result<()> {
        let image = &self.image;
        let end = start.checked_add(area.tailer());
        let is_last = start == old_size || end.is_none_or(|end| end > old_size);
        let rec_len = if is_last {
            image.size() - start - RECORD_SIZE
        } else {
            area.rec_len
        };
        if image.word(RECOVERY_START)? != start {
            image.set_word(RECOVERY_START, start)?;
            image.sync()?;
        }
        image.set_record(start, &idle_area(rec_len))?;
        image.sync()
    }
}

/// Header of a recovery area without a log.
pub(crate) fn idle_area(rec_len: u32) -> Record {
    Record {
        magic: Magic::IDLE,
        ..Record::free(0, rec_len)
    }
}
