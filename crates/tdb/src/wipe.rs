//! Removing all records at once (`tdb.md` 7.8).

use crate::db::Db;
use crate::error::{Error, Result};
use crate::layout::{
    FREELIST_HEAD, Magic, RECORD_SIZE, RECOVERY_START, Record, TAILER_SIZE, chain_head,
};

impl Db {
    /// Deletes all records. The file keeps its size and its recovery area. May be part of a
    /// transaction.
    pub fn wipe_all(&self) -> Result<()> {
        self.check_writable()?;
        let _all = self.lockall()?;
        self.seal()?;
        let size = self.image.refresh()?;
        let area = self.recovery_area(size)?;
        for chain in 0..self.hash_size {
            // Most are empty, and reading is cheaper than changing a page.
            if self.image.word(chain_head(chain))? != 0 {
                self.image.set_word(chain_head(chain), 0)?;
            }
        }
        self.image.set_word(FREELIST_HEAD, 0)?;
        let start = self.image.data_start();
        let (area_start, area_end) = area.unwrap_or((size, size));
        self.free_range(area_end, size)?;
        self.free_range(start, area_start)?;
        self.count_change();
        Ok(())
    }

    /// Where the recovery area begins and ends, if there is one.
    pub(crate) fn recovery_area(&self, size: u32) -> Result<Option<(u32, u32)>> {
        let start = self.image.word(RECOVERY_START)?;
        if start == 0 {
            return Ok(None);
        }
        let record = self.image.record(start)?;
        let end = start
            .checked_add(RECORD_SIZE)
            .and_then(|at| at.checked_add(record.rec_len));
        match end {
            Some(end)
                if start >= self.image.data_start()
                    && end <= size
                    && [Magic::IDLE, Magic::RECOVERY].contains(&record.magic) =>
            {
                let reaches_to_end = self.unsized_area()? == Some(start);
                Ok(Some((start, if reaches_to_end { size } else { end })))
            }
            _ => Err(Error::Corrupt {
                offset: start,
                what: "not a recovery area",
            }),
        }
    }

    /// Makes one free record of a range, and the only one in front of those in the list.
    pub(crate) fn free_range(&self, start: u32, end: u32) -> Result<()> {
        let Some(rec_len) = end
            .checked_sub(start)
            .and_then(|len| len.checked_sub(RECORD_SIZE))
        else {
            return Ok(());
        };
        if rec_len < TAILER_SIZE {
            return Ok(());
        }
        let record = Record::free(self.image.word(FREELIST_HEAD)?, rec_len);
        self.image.set_record(start, &record)?;
        self.image.set_tailer(start, &record)?;
        self.image.set_word(FREELIST_HEAD, start)
    }
}
