//! What a transaction has changed, kept in memory until it commits (`tdb.md` 6).

use std::collections::BTreeMap;
use std::ops::Range;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::mutex::page_size;

/// Changed blocks, one page each, in front of a database that stays as it is.
pub(crate) struct Overlay {
    /// Changed blocks by number. The last one of the database may be shorter than a page.
    blocks: BTreeMap<u32, Vec<u8>>,
    block_size: u32,
    /// Size of the database when the transaction began.
    old_size: u32,
    /// Size that the transaction sees: what it adds is zeros at first.
    size: u32,
    /// A change was lost: the transaction must not commit.
    broken: bool,
}

/// The bytes of a request that lie in one block.
struct Piece {
    block: u32,
    /// Where in the block.
    at: usize,
    /// Where in the request.
    range: Range<usize>,
}

impl Overlay {
    pub(crate) fn new(size: u32) -> Self {
        let blocks = BTreeMap::new();
        Self {
            blocks,
            block_size: page_size(),
            old_size: size,
            size,
            broken: false,
        }
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    pub(crate) fn old_size(&self) -> u32 {
        self.old_size
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(crate) fn grow(&mut self, new_size: u32) {
        self.size = self.size.max(new_size);
        // The block at the old end, if it was changed, reaches further now.
        let size = self.size;
        if let Some(mut last) = self.blocks.last_entry() {
            let len = block_len(*last.key(), self.block_size, size);
            last.get_mut().resize(len, 0);
        }
    }

    pub(crate) fn read(&self, below: &dyn Backend, offset: u32, out: &mut [u8]) -> Result<()> {
        self.check(offset, out.len())?;
        for piece in self.pieces(offset, out.len()) {
            let out = &mut out[piece.range.clone()];
            match self.blocks.get(&piece.block) {
                Some(bytes) => out.copy_from_slice(&bytes[piece.at..piece.at + out.len()]),
                None => self.read_below(below, self.start(piece.block) + piece.at as u64, out)?,
            }
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, below: &dyn Backend, offset: u32, data: &[u8]) -> Result<()> {
        self.check(offset, data.len())?;
        for piece in self.pieces(offset, data.len()) {
            let loaded = self
                .load(below, piece.block)
                .inspect_err(|_| self.broken = true);
            loaded?;
            let data = &data[piece.range];
            if let Some(bytes) = self.blocks.get_mut(&piece.block) {
                bytes[piece.at..piece.at + data.len()].copy_from_slice(data);
            }
        }
        Ok(())
    }

    /// The changed blocks by offset, in ascending order.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.blocks
            .iter()
            .map(|(&number, bytes)| (number * self.block_size, &bytes[..]))
    }

    fn check(&self, offset: u32, len: usize) -> Result<()> {
        let end = u64::from(offset) + len as u64;
        if end <= u64::from(self.size) {
            Ok(())
        } else {
            Err(Error::OutOfBounds {
                offset,
                len,
                size: self.size,
            })
        }
    }

    /// Brings a block into memory, to be changed.
    fn load(&mut self, below: &dyn Backend, number: u32) -> Result<()> {
        if self.blocks.contains_key(&number) {
            return Ok(());
        }
        let mut bytes = vec![0; block_len(number, self.block_size, self.size)];
        self.read_below(below, self.start(number), &mut bytes)?;
        self.blocks.insert(number, bytes);
        Ok(())
    }

    /// Reads what the database holds; zeros behind its old end.
    fn read_below(&self, below: &dyn Backend, start: u64, out: &mut [u8]) -> Result<()> {
        let old = u64::from(self.old_size)
            .saturating_sub(start)
            .min(out.len() as u64);
        let (old, new) = out.split_at_mut(usize::try_from(old).unwrap_or(0));
        new.fill(0);
        match u32::try_from(start) {
            Ok(start) if !old.is_empty() => below.read(start, old),
            _ => Ok(()),
        }
    }

    fn start(&self, block: u32) -> u64 {
        u64::from(block) * u64::from(self.block_size)
    }

    fn pieces(&self, offset: u32, len: usize) -> impl Iterator<Item = Piece> + use<> {
        let block_size = self.block_size;
        let mut done = 0;
        std::iter::from_fn(move || {
            let left = len - done;
            if left == 0 {
                return None;
            }
            // Both sums stay below the size of the database, as `check` made sure.
            let position = offset as usize + done;
            let at = position % block_size as usize;
            let count = left.min(block_size as usize - at);
            let range = done..done + count;
            done += count;
            let block = u32::try_from(position / block_size as usize).ok()?;
            Some(Piece { block, at, range })
        })
    }
}

/// Bytes of block `number` in a database of `size` bytes.
fn block_len(number: u32, block_size: u32, size: u32) -> usize {
    size.saturating_sub(number.saturating_mul(block_size))
        .min(block_size) as usize
}
