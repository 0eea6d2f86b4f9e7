//! Room for records: taking it from the free list, giving it back, growing the file
//! (`tdb.md` 3.3 to 3.8).
//!
//! The order of things is that of the C library, so that a file develops the same way whoever
//! writes to it.

use crate::db::{Db, unless_blocked};
use crate::error::{Error, Result};
use crate::image::{Item, Walk};
use crate::layout::{
    FREELIST_HEAD, Magic, REC_LEN_AT, RECORD_SIZE, Record, TAILER_SIZE, growth, padded_len,
};
use crate::lock::{Rw, Wait};
use crate::mutex::page_size;

/// Room that has been taken for a record: linked nowhere, marked as dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) offset: u32,
    pub(crate) rec_len: u32,
}

/// Chains that a handle which may not wait looks through for a dead record, and looks as often
/// whether the free list is still busy: usually it is so for less long.
const CHAINS_TO_TRY: u32 = 64;

/// Walks and expansions that find room in any sound file. Without a limit a broken free list would
/// make the file grow for ever.
const MAX_ROUNDS: u32 = 4;

impl Db {
    /// Finds room for `content` bytes of key and data. The caller holds the chain of `hash` for
    /// writing. [`Error::WouldBlock`] before anything is changed.
    pub(crate) fn allocate(&self, hash: u32, content: u32) -> Result<Room> {
        if self.max_dead.get() > 0
            && let Some(room) = self.allocate_without_waiting(hash, content)?
        {
            return Ok(room);
        }
        let _freelist = self.lock_freelist(self.wait.get())?;
        self.purge_and_allocate(hash, content)
    }

    /// Reuses a dead record of this or, if the free list is busy, of the chains that follow.
    /// `None` if everything is busy.
    fn allocate_without_waiting(&self, hash: u32, content: u32) -> Result<Option<Room>> {
        for distance in 0..self.chains_to_try() {
            let chain = self.bucket(hash.wrapping_add(distance));
            match self.lock_chain(chain, Rw::Write, Wait::Try) {
                Ok(_lock) => {
                    if let Some(room) = self.reuse_dead(chain, content)? {
                        return Ok(Some(room));
                    }
                }
                Err(Error::WouldBlock) => {}
                Err(error) => return Err(error),
            }
            match self.lock_freelist(Wait::Try) {
                Ok(_lock) => return self.purge_and_allocate(hash, content).map(Some),
                Err(Error::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Nobody who may not wait looks through a hundred thousand chains.
    fn chains_to_try(&self) -> u32 {
        match self.wait.get() {
            Wait::Block => self.hash_size,
            Wait::Try => self.hash_size.min(CHAINS_TO_TRY),
        }
    }

    /// Takes the smallest dead record of `chain` that is large enough and that no traverse stands
    /// on: it would be led astray. (The C library does not look for that.)
    fn reuse_dead(&self, chain: u32, content: u32) -> Result<Option<Room>> {
        let wanted = content.checked_add(TAILER_SIZE).ok_or(Error::TooLarge)?;
        let mut best: Option<Item> = None;
        let mut walk = self.image.chain(chain)?;
        while let Some(item) = walk.step_chain()? {
            let record = item.record;
            if record.magic == Magic::DEAD
                && record.rec_len >= wanted
                && best.is_none_or(|best| record.rec_len < best.record.rec_len)
                && self.locks.record_is_unused(item.offset)?
            {
                best = Some(item);
            }
        }
        let Some(Item {
            offset,
            link,
            record,
        }) = best
        else {
            return Ok(None);
        };
        self.image.set_word(link, record.next)?;
        self.set_aside(offset, record.rec_len).map(Some)
    }

    /// Makes room of what is in no list: a dead record without a key, which points to itself. So the
    /// file passes its check if we are killed before the room is linked: each record of a list is
    /// pointed to once.
    fn set_aside(&self, offset: u32, rec_len: u32) -> Result<Room> {
        let record = Record {
            magic: Magic::DEAD,
            full_hash: self.hash.hash(b""),
            ..Record::free(offset, rec_len)
        };
        self.image.set_record(offset, &record)?;
        Ok(Room { offset, rec_len })
    }

    /// The free list is held.
    fn purge_and_allocate(&self, hash: u32, content: u32) -> Result<Room> {
        self.free_dead(self.bucket(hash), 0)?;
        self.take_free(content)
    }

    /// Gives dead records of `chain` back to the free list, beyond the first `keep` of them. Those
    /// that a traverse stands on stay; and all of them if the free list is busy and this handle may
    /// not wait for it. The chain is held for writing.
    pub(crate) fn free_dead(&self, chain: u32, keep: u32) -> Result<()> {
        // While the database is written anew there is no free list.
        let noted = self
            .image
            .with_changes(|changes, _| changes.note_dead(chain));
        if noted == Some(true) {
            return Ok(());
        }
        let mut freelist = None;
        let mut dead = 0;
        let mut walk = self.image.chain(chain)?;
        while let Some(item) = walk.step_chain()? {
            if item.record.magic != Magic::DEAD {
                continue;
            }
            dead += 1;
            if dead <= keep {
                continue;
            }
            if freelist.is_none() {
                freelist = unless_blocked(self.lock_freelist(self.wait.get()))?;
                if freelist.is_none() {
                    return Ok(());
                }
            }
            if self.locks.record_is_unused(item.offset)? {
                walk.unlink(&item)?;
                self.free(item.offset, item.record)?;
            }
        }
        Ok(())
    }

    /// Puts a record into the free list, or joins it to a free left neighbour. The free list is
    /// held.
    pub(crate) fn free(&self, offset: u32, record: Record) -> Result<()> {
        let image = &self.image;
        image.set_tailer(offset, &record)?;
        if let Some((left_offset, left)) = self.free_left_neighbour(offset)? {
            return self.merge(left_offset, left, &record).map(drop);
        }
        let next = image.word(FREELIST_HEAD)?;
        // Not marked as free before the list has it: if we are killed in between, it would swallow
        // its neighbours, and all growth of the file, and nobody would find it. Whereas one that is
        // in the list and marked as used counts as free, here and for the C library.
        image.set_record(
            offset,
            &Record {
                next,
                magic: Magic::USED,
                ..record
            },
        )?;
        image.set_word(FREELIST_HEAD, offset)?;
        image.set_magic(offset, Magic::FREE)
    }

    /// The record in front of `offset`, found by its tailer, if it is free.
    pub(crate) fn free_left_neighbour(&self, offset: u32) -> Result<Option<(u32, Record)>> {
        let data_start = self.image.data_start();
        if offset <= data_start + TAILER_SIZE {
            return Ok(None);
        }
        let tailer = self.image.word(offset - TAILER_SIZE)?;
        let left = match offset.checked_sub(tailer) {
            Some(left) if tailer != 0 && tailer != Magic::FILLER.0 && left >= data_start => left,
            _ => return Ok(None),
        };
        let record = self.image.record(left)?;
        let is_free = record.magic == Magic::FREE && record.tailer() == tailer;
        Ok(is_free.then_some((left, record)))
    }

    /// Lets `left` swallow its right neighbour. Returns the new length of `left`.
    fn merge(&self, left_offset: u32, left: Record, right: &Record) -> Result<u32> {
        let rec_len = left
            .rec_len
            .checked_add(RECORD_SIZE)
            .and_then(|len| len.checked_add(right.rec_len))
            .ok_or(Error::Corrupt {
                offset: left_offset,
                what: "free record length overflows",
            })?;
        // Not the whole header: its `next` may have changed since it was read.
        self.image.set_word(left_offset + REC_LEN_AT, rec_len)?;
        self.image
            .set_tailer(left_offset, &Record { rec_len, ..left })?;
        Ok(rec_len)
    }

    /// Takes room from the free list, which is held, and grows the file if there is none.
    pub(crate) fn take_free(&self, content: u32) -> Result<Room> {
        let length = padded_len(content).ok_or(Error::TooLarge)?;
        for _ in 0..MAX_ROUNDS {
            match self.search_free(length)? {
                Search::Found(item) => return self.take(&item, length),
                Search::Again => {}
                Search::Nothing if self.list_lost_tail(length)? => {}
                Search::Nothing => {
                    self.expand(length.checked_add(RECORD_SIZE).ok_or(Error::TooLarge)?)?;
                }
            }
        }
        Err(Error::Corrupt {
            offset: FREELIST_HEAD,
            what: "free list loses what is freed",
        })
    }

    /// Walks the free list for the smallest record of at least `length`, joining neighbours on the
    /// way. The longer the walk, the less it insists on a good fit.
    #[expect(
        clippy::cast_precision_loss,
        reason = "the C library reckons in single precision"
    )]
    fn search_free(&self, length: u32) -> Result<Search> {
        let mut best: Option<Item> = None;
        let mut tolerance = 1.0_f32;
        let mut merged_enough = false;
        let mut walk = self.image.freelist()?;
        while let Some(item) = walk.step()? {
            let item = self.check_free(item)?;
            if let Some((left_offset, left)) = self.free_left_neighbour(item.offset)? {
                let rec_len = self.join_left(&mut walk, &item, left_offset, left)?;
                if let Some(best) = &mut best
                    && best.offset == left_offset
                {
                    best.record.rec_len = rec_len;
                }
                merged_enough |= rec_len > length;
                continue;
            }
            let rec_len = item.record.rec_len;
            if rec_len >= length
                && best
                    .as_ref()
                    .is_none_or(|best| rec_len < best.record.rec_len)
            {
                best = Some(item);
            }
            if let Some(best) = &best
                && (best.record.rec_len as f32) < length as f32 * tolerance
            {
                break;
            }
            tolerance *= 1.05;
        }
        Ok(match best {
            Some(best) => Search::Found(best),
            None if merged_enough => Search::Again,
            None => Search::Nothing,
        })
    }

    /// Joins free records with their left neighbours. The free list is held.
    pub(crate) fn join_free(&self) -> Result<()> {
        let mut walk = self.image.freelist()?;
        while let Some(item) = walk.step()? {
            let item = self.check_free(item)?;
            if let Some((left_offset, left)) = self.free_left_neighbour(item.offset)? {
                self.join_left(&mut walk, &item, left_offset, left)?;
            }
        }
        Ok(())
    }

    /// Takes a free record out of the list and joins it to its left neighbour. Returns the new
    /// length of that. As in [`Self::free`], what is in no list does not look free.
    fn join_left(
        &self,
        walk: &mut Walk<'_>,
        item: &Item,
        left_offset: u32,
        left: Record,
    ) -> Result<u32> {
        self.image.set_magic(item.offset, Magic::USED)?;
        walk.unlink(item)?;
        self.merge(left_offset, left, &item.record)
    }

    /// Number of free records that have a free left neighbour. The free list is held.
    pub(crate) fn free_followers(&self) -> Result<u64> {
        let mut count = 0;
        let mut walk = self.image.freelist()?;
        while let Some(item) = walk.step()? {
            count += u64::from(self.free_left_neighbour(item.offset)?.is_some());
        }
        Ok(count)
    }

    /// A record met in the free list must be free. One that is marked as used was left by a crash
    /// on its way out of the list: it is free.
    fn check_free(&self, mut item: Item) -> Result<Item> {
        self.image
            .check_inside(item.offset + RECORD_SIZE, item.record.rec_len)?;
        match item.record.magic {
            Magic::FREE => {}
            Magic::USED => {
                item.record.magic = Magic::FREE;
                self.image.set_record(item.offset, &item.record)?;
            }
            _ => {
                let what = "record in the free list is not free";
                return Err(Error::Corrupt {
                    offset: item.offset,
                    what,
                });
            }
        }
        Ok(item)
    }

    /// Takes `length` bytes from a free record: all of it, or its end if the rest is worth keeping.
    fn take(&self, free: &Item, length: u32) -> Result<Room> {
        let image = &self.image;
        let &Item { offset, link, .. } = free;
        // Read again: the walk may have joined the record behind it, and so changed its `next`.
        let record = image.record(offset)?;
        if record.rec_len < length.saturating_add(RECORD_SIZE + 12) {
            image.set_magic(offset, Magic::USED)?;
            image.set_word(link, record.next)?;
            return self.set_aside(offset, record.rec_len);
        }
        let rest = Record {
            rec_len: record.rec_len - length - RECORD_SIZE,
            ..record
        };
        let taken_offset = offset + rest.tailer();
        let room = self.set_aside(taken_offset, length)?;
        image.set_tailer(taken_offset, &Record::free(0, length))?;
        image.set_tailer(offset, &rest)?;
        // All of this was inside the free record until now, where it meant nothing.
        image.set_word(offset + REC_LEN_AT, rest.rec_len)?;
        Ok(room)
    }

    /// Grows the file by at least `wanted` bytes and frees them. The free list is held.
    pub(crate) fn expand(&self, wanted: u32) -> Result<()> {
        self.adopt_tail()?;
        let size = self.image.size();
        let more = growth(size, wanted, page_size());
        let new_size = size.checked_add(more).ok_or(Error::TooLarge)?;
        let rec_len = more.checked_sub(RECORD_SIZE).ok_or(Error::TooLarge)?;
        self.image.grow(new_size)?;
        self.free(size, Record::free(0, rec_len))
    }
}

/// Outcome of a walk along the free list.
enum Search {
    Found(Item),
    /// Joining neighbours made a record that is large enough.
    Again,
    Nothing,
}
