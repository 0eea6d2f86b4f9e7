//! Room that is free in the database as it was committed, and that a transaction fills at once.
//!
//! Nobody looks at what is inside a free record, so nothing that is written there has to be kept
//! apart until the commit, nor saved before it. Only whole blocks are used, with the header and the
//! tailer of the free record outside: those must stay what they are.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::backend::{Backend, length};
use crate::error::{Error, Result};
use crate::layout::{RECORD_SIZE, TAILER_SIZE};
use crate::overlay::{Overlay, Piece, Place, block_len, position};

/// Bytes that are collected before they are written.
pub(crate) const COLLECTED: usize = 256 * 1024;

/// What each end of the room leaves of a free record, at least: enough for a free record.
const EDGE: u32 = RECORD_SIZE + TAILER_SIZE;

/// The room, and how far it is filled.
#[derive(Default)]
pub(crate) struct InPlace {
    /// Whole blocks that nothing has been written to, the next to be used at the end.
    untouched: Vec<Range<u32>>,
    /// What is left of the blocks that are being filled.
    room: Range<u32>,
    /// What has been filled, in the order in which that was done.
    filled: Vec<Range<u32>>,
    /// Hash chains with deleted records, which are not given back before the end.
    dead: BTreeSet<u32>,
    /// Offset of `collected`: the beginning of a block.
    collected_at: u32,
    /// The last bytes that have been filled, not written yet.
    collected: Vec<u8>,
}

/// What has been filled in the end.
pub(crate) struct Filled {
    pub(crate) ranges: Vec<Range<u32>>,
    /// Hash chains with deleted records.
    pub(crate) dead: BTreeSet<u32>,
}

impl Overlay {
    /// Begins to fill room that is free in the database. Before anything else is changed.
    pub(crate) fn begin_in_place(&mut self, free: &[Range<u32>]) {
        self.in_place = Some(InPlace::default());
        // What is added last is used first.
        for free in free.iter().rev() {
            self.add_in_place(free);
        }
    }

    /// Adds a free record of the database to what is being filled.
    pub(crate) fn add_in_place(&mut self, free: &Range<u32>) {
        let Some(blocks) = InPlace::blocks_within(free, self.block_size) else {
            return;
        };
        let number = |offset: u32| (offset / self.block_size) as usize;
        let (first, end) = (number(blocks.start), number(blocks.end));
        self.know_places_until(end);
        let places = &mut self.places[first..end];
        if let Some(in_place) = &mut self.in_place
            && places.iter().all(|place| *place == Place::Below)
        {
            places.fill(Place::Free);
            in_place.add(blocks);
        }
    }

    /// Room for `len` bytes in what is being filled, if there is some.
    pub(crate) fn reserve_in_place(
        &mut self,
        below: &dyn Backend,
        len: u32,
    ) -> Result<Option<u32>> {
        let Some(in_place) = &mut self.in_place else {
            return Ok(None);
        };
        let reserved = in_place.reserve(below, len);
        reserved.inspect_err(|_| self.broken = true)
    }

    /// Fills what was reserved, by a call of `fill` that adds `len` bytes.
    pub(crate) fn fill_in_place(
        &mut self,
        below: &dyn Backend,
        len: u32,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<()> {
        let in_place = self.in_place.as_mut();
        let in_place = in_place.ok_or(Error::Invalid("no room was reserved"))?;
        let filled = in_place.fill(below, len, fill);
        filled.inspect_err(|_| self.broken = true)
    }

    pub(crate) fn is_in_place(&self) -> bool {
        self.in_place.is_some()
    }

    /// Fills no more. Returns what has been filled, which is in the database then.
    pub(crate) fn end_in_place(&mut self, below: &dyn Backend) -> Result<Option<Filled>> {
        let Some(mut in_place) = self.in_place.take() else {
            return Ok(None);
        };
        in_place.flush(below).inspect_err(|_| self.broken = true)?;
        Ok(Some(in_place.finish()))
    }

    /// Leaves it to later writes to fill what was reserved.
    pub(crate) fn skip_in_place(&mut self, below: &dyn Backend, len: u32) -> Result<()> {
        let in_place = self.in_place.as_mut();
        let skipped = in_place.map_or(Ok(()), |in_place| in_place.skip(below, len));
        skipped.inspect_err(|_| self.broken = true)
    }

    /// Remembers a chain with deleted records. False if nothing is being filled.
    pub(crate) fn note_dead(&mut self, chain: u32) -> bool {
        let in_place = self.in_place.as_mut();
        in_place.map(|in_place| in_place.note_dead(chain)).is_some()
    }

    pub(super) fn read_in_place(
        &self,
        below: &dyn Backend,
        block: u32,
        at: usize,
        out: &mut [u8],
    ) -> Result<()> {
        let offset = position(block * self.block_size, at);
        match &self.in_place {
            Some(in_place) => in_place.read(below, offset, out),
            None => below.read(offset, out),
        }
    }

    pub(super) fn write_in_place(
        &mut self,
        below: &dyn Backend,
        piece: &Piece,
        data: &[u8],
    ) -> Result<()> {
        let offset = position(piece.block * self.block_size, piece.at);
        match &mut self.in_place {
            Some(in_place) => in_place.write(below, offset, data),
            None => below.write(offset, data),
        }
    }

    /// Follows a commit that was made below: all but the bytes in `kept` is what it is there now.
    pub(crate) fn rebase(&mut self, below: &dyn Backend, kept: &[Range<u32>]) -> Result<()> {
        self.rebase_blocks(below, kept)
            .inspect_err(|_| self.broken = true)
    }

    fn rebase_blocks(&mut self, below: &dyn Backend, kept: &[Range<u32>]) -> Result<()> {
        self.old_size = below.refresh()?;
        self.size = self.old_size;
        for number in (0..).take(self.places.len()) {
            match self.place(number) {
                Place::Below | Place::Free => {}
                Place::Memory(index) => {
                    self.memory[index as usize] = self.rebased(below, number, kept)?;
                }
                Place::Spilled(start) => {
                    let block = self.rebased(below, number, kept)?;
                    self.spill.write(start, 0, &block)?;
                }
            }
        }
        Ok(())
    }

    /// A changed block as it is below, but for the bytes in `kept`.
    fn rebased(&self, below: &dyn Backend, number: u32, kept: &[Range<u32>]) -> Result<Vec<u8>> {
        let start = number * self.block_size;
        let mut block = vec![0; block_len(number, self.block_size, self.size)];
        self.read_below(below, u64::from(start), &mut block)?;
        let end = start + length(&block);
        for kept in kept {
            let kept = kept.start.clamp(start, end)..kept.end.clamp(start, end);
            let kept = (kept.start - start) as usize..(kept.end - start) as usize;
            self.read_block(below, number, kept.start, &mut block[kept])?;
        }
        Ok(block)
    }
}

impl InPlace {
    /// The whole blocks inside of a free record, if there are some.
    pub(crate) fn blocks_within(free: &Range<u32>, block_size: u32) -> Option<Range<u32>> {
        let start = free.start.checked_add(EDGE)?;
        let start = start.checked_next_multiple_of(block_size)?;
        let end = free.end.checked_sub(EDGE)?;
        let end = end - end % block_size;
        (start < end).then_some(start..end)
    }

    /// Adds blocks, which are used next.
    pub(crate) fn add(&mut self, blocks: Range<u32>) {
        self.untouched.push(blocks);
    }

    /// Finds room for `len` bytes behind what was filled last, or in the next blocks. `None` if
    /// there is none: the caller adds some.
    pub(crate) fn reserve(&mut self, below: &dyn Backend, len: u32) -> Result<Option<u32>> {
        while self.room.end - self.room.start < len {
            let Some(next) = self.untouched.pop() else {
                return Ok(None);
            };
            self.flush(below)?;
            self.collected_at = next.start;
            self.filled.push(next.start..next.start);
            self.room = next;
        }
        Ok(Some(self.room.start))
    }

    /// Fills what was reserved, by a call of `fill` that adds `len` bytes.
    pub(crate) fn fill(
        &mut self,
        below: &dyn Backend,
        len: u32,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<()> {
        let before = self.collected.len();
        fill(&mut self.collected);
        debug_assert_eq!(self.collected.len() - before, len as usize);
        self.advance(len);
        if self.collected.len() >= COLLECTED {
            self.flush(below)?;
        }
        Ok(())
    }

    /// Leaves it to later writes to fill what was reserved.
    fn skip(&mut self, below: &dyn Backend, len: u32) -> Result<()> {
        self.flush(below)?;
        self.advance(len);
        self.collected_at = self.room.start;
        Ok(())
    }

    fn advance(&mut self, len: u32) {
        self.room.start += len;
        if let Some(filled) = self.filled.last_mut() {
            filled.end = self.room.start;
        }
    }

    /// Writes what has been collected. After it the last block may be in the database in part.
    pub(crate) fn flush(&mut self, below: &dyn Backend) -> Result<()> {
        if !self.collected.is_empty() {
            below.write_long(self.collected_at, &self.collected)?;
            self.collected_at += length(&self.collected);
            self.collected.clear();
        }
        Ok(())
    }

    /// Remembers a chain with deleted records.
    pub(crate) fn note_dead(&mut self, chain: u32) {
        self.dead.insert(chain);
    }

    pub(crate) fn finish(self) -> Filled {
        let Self { filled, dead, .. } = self;
        Filled {
            ranges: filled,
            dead,
        }
    }

    /// Where in `collected` a request is, if all of it is there.
    fn collected(&self, offset: u32, len: usize) -> Option<Range<usize>> {
        let start = offset.checked_sub(self.collected_at)? as usize;
        let end = start.checked_add(len)?;
        (end <= self.collected.len()).then_some(start..end)
    }

    /// Whether a request has anything to do with what is collected.
    fn meets_collected(&self, offset: u32, len: usize) -> bool {
        let end = u64::from(offset) + len as u64;
        let collected_end = u64::from(self.collected_at) + self.collected.len() as u64;
        u64::from(self.collected_at) < end && u64::from(offset) < collected_end
    }

    pub(crate) fn read(&self, below: &dyn Backend, offset: u32, out: &mut [u8]) -> Result<()> {
        if let Some(range) = self.collected(offset, out.len()) {
            out.copy_from_slice(&self.collected[range]);
            return Ok(());
        }
        below.read(offset, out)?;
        if self.meets_collected(offset, out.len()) {
            for (at, byte) in (u64::from(offset)..).zip(out) {
                let collected = at.checked_sub(u64::from(self.collected_at));
                let collected = collected.and_then(|at| usize::try_from(at).ok());
                if let Some(found) = collected.and_then(|at| self.collected.get(at)) {
                    *byte = *found;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, below: &dyn Backend, offset: u32, data: &[u8]) -> Result<()> {
        if let Some(range) = self.collected(offset, data.len()) {
            self.collected[range].copy_from_slice(data);
            return Ok(());
        }
        if self.meets_collected(offset, data.len()) {
            self.flush(below)?;
        }
        below.write(offset, data)
    }
}
