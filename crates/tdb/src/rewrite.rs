//! Writing a whole database anew in a transaction, as a recovery does, in one go.
//!
//! An ordinary transaction writes each block three times: apart from the database, as it was before
//! to the log, and to the database. All that is new here goes to room that is free in the committed
//! database, once, as it comes. The commit, an ordinary one, then has to change the heads of the
//! lists and the few free records between: where the old records were is free space then, which the
//! next such transaction fills. So a file becomes up to twice as large as its records need.
//!
//! The committed database stays sound throughout. If there is too little free room in it, a small
//! commit of its own adds some at its end; it stays when the transaction is cancelled.

use std::ops::Range;

use crate::backend::length;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::freelist::Room;
use crate::layout::{
    FREELIST_HEAD, Magic, RECORD_SIZE, Record, SEQUENCE_NUMBER, TAILER_SIZE, chain_head, padded_len,
};
use crate::mutex::page_size;
use crate::overlay::in_place::COLLECTED;

impl Db {
    /// Deletes all records like [`Db::wipe_all`], in a transaction that is going to store about as
    /// many: what it stores is written once, into free room of the file, which grows if there is
    /// too little. What the transaction has changed before is forgotten.
    ///
    /// Waits for those who read, and keeps them out until the transaction has ended.
    pub fn wipe_to_rewrite(&self) -> Result<()> {
        self.check_writable()?;
        self.seal()?;
        let is_outermost = self.in_transaction() && !self.is_nested();
        let free = is_outermost.then(|| self.committed_free());
        let Some(Ok(free)) = free else {
            // Not sound enough to know what is free. Or not of a kind that could forget changes.
            return self.wipe_all();
        };
        self.locks.upgrade_all()?;
        self.image.begin(self.spill())?;
        self.image
            .with_changes(|changes, _| changes.begin_in_place(&free));
        for list in std::iter::once(FREELIST_HEAD).chain((0..self.hash_size).map(chain_head)) {
            if self.image.word(list)? != 0 {
                self.image.set_word(list, 0)?;
            }
        }
        self.count_change();
        Ok(())
    }

    /// Large free records of the database without the changes of the transaction.
    fn committed_free(&self) -> Result<Vec<Range<u32>>> {
        let changes = self.image.end();
        let found = self.large_free();
        self.image.resume(changes);
        found
    }

    fn large_free(&self) -> Result<Vec<Range<u32>>> {
        let size = self.image.refresh()?;
        let mut found = Vec::new();
        let mut walk = self.image.freelist()?;
        while let Some(item) = walk.step()? {
            let free = item.offset..item.offset.saturating_add(item.record.tailer());
            if free.end - free.start < 2 * page_size() {
                continue;
            }
            let inside = free.end <= size && item.record.magic == Magic::FREE;
            if !inside || self.image.word(free.end - TAILER_SIZE)? != item.record.tailer() {
                let what = "record in the free list is not free";
                return Err(Error::Corrupt {
                    offset: free.start,
                    what,
                });
            }
            found.push(free);
        }
        found.sort_by_key(|free| free.start);
        if found.windows(2).any(|pair| pair[0].end > pair[1].start) {
            let what = "free records lie in each other";
            return Err(Error::Corrupt {
                offset: FREELIST_HEAD,
                what,
            });
        }
        Ok(found)
    }

    /// Stores a record that is not there, if the database is being written anew. False if it is not,
    /// or not any more: there is no more room for that.
    pub(crate) fn write_anew(
        &self,
        key: &[u8],
        hash: u32,
        parts: &[&[u8]],
        data_len: u32,
    ) -> Result<bool> {
        let in_place = self.image.with_changes(|changes, _| changes.is_in_place());
        if in_place != Some(true) {
            return Ok(false);
        }
        let content = length(key).checked_add(data_len).ok_or(Error::TooLarge)?;
        let rec_len = padded_len(content).ok_or(Error::TooLarge)?;
        let total = rec_len.checked_add(RECORD_SIZE).ok_or(Error::TooLarge)?;
        let Some(offset) = self.room_in_place(total)? else {
            return Ok(false);
        };
        if total as usize > COLLECTED {
            self.image
                .with_changes(|changes, below| changes.skip_in_place(below, total))
                .transpose()?;
            let tail = Record::free(0, rec_len);
            self.image.set_tailer(offset, &tail)?;
            self.link(key, hash, Room { offset, rec_len }, parts, data_len)?;
            return Ok(true);
        }
        let record = Record {
            next: 0,
            rec_len,
            key_len: length(key),
            data_len,
            full_hash: hash,
            magic: Magic::USED,
        };
        self.append_in_place(offset, record, key, parts)?;
        Ok(true)
    }

    /// Adds a short record, and makes it the first of its chain.
    fn append_in_place(
        &self,
        offset: u32,
        mut record: Record,
        key: &[u8],
        parts: &[&[u8]],
    ) -> Result<()> {
        let head = chain_head(self.bucket(record.full_hash));
        record.next = self.image.word(head)?;
        let (order, total) = (self.image.order(), record.tailer());
        let add_to = |bytes: &mut Vec<u8>| {
            let end = bytes.len() + total as usize;
            bytes.extend_from_slice(&record.encode(order));
            for part in std::iter::once(&key).chain(parts) {
                bytes.extend_from_slice(part);
            }
            bytes.resize(end - TAILER_SIZE as usize, 0);
            bytes.extend_from_slice(&order.bytes(total));
        };
        self.image
            .with_changes(|changes, below| changes.fill_in_place(below, total, add_to))
            .transpose()?;
        self.image.set_word(head, offset)
    }

    fn reserve(&self, len: u32) -> Result<Option<u32>> {
        let reserved = self
            .image
            .with_changes(|changes, below| changes.reserve_in_place(below, len));
        reserved.unwrap_or(Ok(None))
    }

    /// Room for that many bytes. `None` if there is none: from then on the transaction is an
    /// ordinary one.
    fn room_in_place(&self, len: u32) -> Result<Option<u32>> {
        if let Some(offset) = self.reserve(len)? {
            return Ok(Some(offset));
        }
        match self.widen(len) {
            Ok(()) => self.reserve(len),
            Err(Error::NoSpace { .. } | Error::TooLarge) => {
                self.seal()?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Adds free room to the committed database, in a commit of its own.
    fn widen(&self, len: u32) -> Result<()> {
        let more = 3 * page_size();
        let wanted = len.checked_add(more).ok_or(Error::TooLarge)?;
        let changes = self.image.end();
        let widened = self.commit_growth(wanted);
        let lists = FREELIST_HEAD..self.image.data_start();
        let counted = SEQUENCE_NUMBER..SEQUENCE_NUMBER + 4;
        self.image.resume(changes);
        self.image
            .with_changes(|changes, below| {
                changes.rebase(below, &[counted, lists])?;
                widened.map(|free| changes.add_in_place(&free))
            })
            .unwrap_or(Ok(()))
    }

    /// Returns what was added.
    fn commit_growth(&self, wanted: u32) -> Result<Range<u32>> {
        self.image.begin(None)?;
        match self.grow_free(wanted) {
            Ok(grown) => self.commit_apart().map(|()| grown),
            Err(error) => {
                drop(self.image.end());
                Err(error)
            }
        }
    }

    fn grow_free(&self, wanted: u32) -> Result<Range<u32>> {
        self.adopt_tail()?;
        let start = self.image.size();
        self.expand(wanted)?;
        Ok(start..self.image.size())
    }

    /// Ends the writing in place: from here on the transaction is an ordinary one, which finds free
    /// space in its list.
    pub(crate) fn seal(&self) -> Result<()> {
        let filled = self
            .image
            .with_changes(|changes, below| changes.end_in_place(below));
        let Some(filled) = filled.transpose()?.flatten() else {
            return Ok(());
        };
        self.free_all_but(filled.ranges)?;
        for chain in filled.dead {
            self.free_dead(chain, self.max_dead.get())?;
        }
        Ok(())
    }

    /// Makes free records of everything but these records, and the recovery area.
    fn free_all_but(&self, mut kept: Vec<Range<u32>>) -> Result<()> {
        let size = self.image.size();
        let area = self.recovery_area(size)?;
        kept.extend(area.map(|(start, end)| start..end));
        kept.push(size..size);
        kept.retain(|range| !range.is_empty() || range.start == size);
        kept.sort_by_key(|range| range.start);
        self.image.set_word(FREELIST_HEAD, 0)?;
        let mut at = self.image.data_start();
        for range in kept {
            self.free_range(at, range.start)?;
            at = range.end;
        }
        Ok(())
    }
}
