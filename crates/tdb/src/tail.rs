//! The end of the file: space that a crash, or a killed process, has left to nobody.
//!
//! Were the file to grow behind such space, it would not pass its check any more. (The C library
//! does not look for that.)

use crate::db::Db;
use crate::error::{Error, Result};
use crate::layout::{
    ALIGNMENT, FREELIST_HEAD, Magic, REC_LEN_AT, RECORD_SIZE, RECOVERY_START, Record, TAILER_SIZE,
};
use crate::recovery::idle_area;

impl Db {
    /// A free record at the end of the file, of at least `length`, that a walk along the list has not
    /// met: a killed process, through the C library, has left it to nobody. It would swallow all
    /// growth. Puts it into the list. False if there is none.
    pub(crate) fn list_lost_tail(&self, length: u32) -> Result<bool> {
        let image = &self.image;
        let Some((offset, record)) = self.free_left_neighbour(image.size())? else {
            return Ok(false);
        };
        if record.rec_len < length || !self.walk_meets(offset)? {
            return Ok(false);
        }
        let next = image.word(FREELIST_HEAD)?;
        image.set_record(offset, &Record { next, ..record })?;
        image.set_word(FREELIST_HEAD, offset)?;
        Ok(true)
    }

    /// Before the file grows: gives such space to the free list, which is held.
    pub(crate) fn adopt_tail(&self) -> Result<()> {
        let Some(start) = self.settle_end()? else {
            return Ok(());
        };
        let end = self.reach(start, RECORD_SIZE + TAILER_SIZE)?;
        tracing::warn!(path = %self.path().display(), start, end, "adopting unused space");
        self.free(start, Record::free(0, end - start - RECORD_SIZE))
    }

    /// Before a transaction begins: makes such space the recovery area, if there is none yet.
    pub(crate) fn area_from_tail(&self) -> Result<()> {
        let Some(start) = self.settle_end()? else {
            return Ok(());
        };
        if self.image.word(RECOVERY_START)? != 0 {
            return Ok(());
        }
        let end = self.reach(start, RECORD_SIZE + TAILER_SIZE)?;
        let idle = idle_area(end - start - RECORD_SIZE);
        self.image.set_record(start, &idle)?;
        self.image.sync()?;
        self.image.set_word(RECOVERY_START, start)?;
        self.image.sync()
    }

    /// Makes the file end where a record could follow. Returns where unowned space begins, if there
    /// is some.
    fn settle_end(&self) -> Result<Option<u32>> {
        self.size_area()?;
        self.align_end()?;
        if self.tail_is_owned()? {
            return Ok(None);
        }
        self.find_unowned(self.image.size())
    }

    /// Adds up to three bytes to a file that a crash has left with an odd size.
    fn align_end(&self) -> Result<()> {
        let size = self.image.refresh()?;
        let missing = size.wrapping_neg() % ALIGNMENT;
        if missing == 0 {
            return Ok(());
        }
        self.reach(size, missing)?;
        let area = self.image.word(RECOVERY_START)?;
        if area < self.image.data_start() {
            return Ok(());
        }
        let record = self.image.record(area)?;
        if record.tailer() == size.wrapping_sub(area) {
            let rec_len = record.rec_len + missing;
            self.image.set_word(area + REC_LEN_AT, rec_len)?;
        }
        Ok(())
    }

    /// Has the file reach to `start + len` at least. Returns its size.
    fn reach(&self, start: u32, len: u32) -> Result<u32> {
        let end = start.checked_add(len).ok_or(Error::TooLarge)?;
        if end > self.image.size() {
            self.image.grow(end)?;
        }
        Ok(self.image.size())
    }

    /// Whether a record, or the recovery area, ends where the file does.
    fn tail_is_owned(&self) -> Result<bool> {
        let (size, data_start) = (self.image.size(), self.image.data_start());
        let Some(last) = size
            .checked_sub(TAILER_SIZE)
            .filter(|&last| last >= data_start)
        else {
            return Ok(true);
        };
        let tailer = self.image.word(last)?;
        if let Some(start) = size
            .checked_sub(tailer)
            .filter(|&start| start >= data_start)
            && tailer >= RECORD_SIZE + TAILER_SIZE
            && self.image.record(start)?.tailer() == tailer
            && (self.is_listed(start) || self.walk_meets(start)?)
        {
            return Ok(true);
        }
        let area = self.image.word(RECOVERY_START)?;
        Ok(area >= data_start && self.image.record(area)?.tailer() == size.wrapping_sub(area))
    }

    /// Whether the record at `offset` is in the list that its header names: so there is no need to
    /// walk the file. Others may be at work on its chain, so that it may not be found.
    fn is_listed(&self, offset: u32) -> bool {
        let look = || -> Result<bool> {
            let record = self.image.record(offset)?;
            let mut walk = match record.magic {
                Magic::FREE => self.image.freelist()?,
                Magic::USED | Magic::DEAD => self.image.chain(self.bucket(record.full_hash))?,
                _ => return Ok(false),
            };
            while let Some(item) = walk.step()? {
                if item.offset == offset {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        look().unwrap_or(false)
    }

    /// Walks the whole file for the place where records end. `None` if that cannot be told.
    fn find_unowned(&self, size: u32) -> Result<Option<u32>> {
        let end = self.walk_records(size)?;
        let unowned = end < size && size - end >= RECORD_SIZE;
        Ok(unowned.then_some(end))
    }

    /// Whether there is a record at `offset`. What looks like one in unowned space is none.
    fn walk_meets(&self, offset: u32) -> Result<bool> {
        Ok(self.walk_records(offset)? == offset)
    }

    /// Goes from record to record until `limit`, or to where unowned space begins. Returns where it
    /// ends: beyond the limit if a record is across it.
    fn walk_records(&self, limit: u32) -> Result<u32> {
        let area = self.image.word(RECOVERY_START)?;
        let mut at = self.image.data_start();
        while at < limit && limit - at >= RECORD_SIZE {
            let record = self.image.record(at)?;
            let unused = [Magic::IDLE, Magic::FILLER].contains(&record.magic);
            if unused && at != area {
                break;
            }
            at = at
                .saturating_add(RECORD_SIZE)
                .saturating_add(record.rec_len);
        }
        Ok(at)
    }
}
