//! What a transaction has changed, kept apart until it commits (`tdb.md` 6).
//!
//! The first [`IN_MEMORY`] changed blocks are in memory. A transaction that changes more, as when a
//! recovery writes a whole database anew, has the others in a file of its own without a name. Blocks
//! in room that is free in the database are written where they are ([`InPlace`]).

pub(crate) mod in_place;

use std::ops::Range;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::map::FileBackend;
use crate::mutex::page_size;
use in_place::InPlace;

/// Changed blocks that are kept in memory: 4 MiB.
const IN_MEMORY: usize = 1024;

/// Blocks by which the file of the others grows.
const SPILL_STEP: u32 = 1024;

/// Changed blocks, one page each, in front of a database that stays as it is.
pub(crate) struct Overlay {
    /// Where the changed block is, for each block of the database up to the last changed one.
    places: Vec<Place>,
    memory: Vec<Vec<u8>>,
    spill: Spill,
    in_place: Option<InPlace>,
    block_size: u32,
    /// Size of the database when the transaction began.
    old_size: u32,
    /// Size that the transaction sees: what it adds is zeros at first.
    size: u32,
    /// A change was lost: the transaction must not commit.
    broken: bool,
}

/// Where a block is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// In the database: it is not changed.
    Below,
    /// Index of the changed block in memory.
    Memory(u32),
    /// Offset of the changed block in the file.
    Spilled(u32),
    /// In the database, in the middle of free room: it is changed there.
    Free,
}

/// The file for what does not stay in memory, made when it is needed.
#[derive(Default)]
enum Spill {
    /// Nothing goes there: everything stays in memory.
    #[default]
    None,
    /// Makes the file.
    Ready(OpenSpill),
    Open {
        file: FileBackend,
        /// Bytes in use.
        used: u32,
    },
}

/// Makes a file without a name; `None` if that is not possible.
pub(crate) type OpenSpill = Box<dyn Fn() -> Option<FileBackend> + Send>;

/// The bytes of a request that lie in one block.
struct Piece {
    block: u32,
    /// Where in the block.
    at: usize,
    /// Where in the request.
    range: Range<usize>,
}

impl Overlay {
    /// Nothing is changed yet. Without a way to open a file for it everything stays in memory.
    pub(crate) fn new(size: u32, spill: Option<OpenSpill>) -> Self {
        Self {
            places: Vec::new(),
            memory: Vec::new(),
            spill: spill.map_or(Spill::None, Spill::Ready),
            in_place: None,
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

    /// Whether nothing is changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(crate) fn grow(&mut self, new_size: u32) {
        self.size = self.size.max(new_size);
        // The block at the old end, if it was changed, reaches further now. In the file it has room
        // for that, and zeros.
        if let Some(&Place::Memory(index)) = self.places.last() {
            let last = self.places.len() - 1;
            let number = u32::try_from(last).expect("a database has fewer blocks than bytes");
            let len = block_len(number, self.block_size, self.size);
            self.memory[index as usize].resize(len, 0);
        }
    }

    pub(crate) fn read(&self, below: &dyn Backend, offset: u32, out: &mut [u8]) -> Result<()> {
        self.check(offset, out.len())?;
        // Most are a few words.
        let (block, at) = (offset / self.block_size, offset % self.block_size);
        if at as usize + out.len() <= self.block_size as usize {
            return self.read_block(below, block, at as usize, out);
        }
        for piece in self.pieces(offset, out.len()) {
            self.read_block(below, piece.block, piece.at, &mut out[piece.range])?;
        }
        Ok(())
    }

    #[inline]
    fn read_block(&self, below: &dyn Backend, block: u32, at: usize, out: &mut [u8]) -> Result<()> {
        match self.place(block) {
            Place::Memory(index) => {
                let bytes = &self.memory[index as usize];
                out.copy_from_slice(&bytes[at..at + out.len()]);
                Ok(())
            }
            Place::Spilled(start) => self.spill.read(start, at, out),
            Place::Free => self.read_in_place(below, block, at, out),
            Place::Below => self.read_below(below, self.start(block) + at as u64, out),
        }
    }

    pub(crate) fn write(&mut self, below: &dyn Backend, offset: u32, data: &[u8]) -> Result<()> {
        self.check(offset, data.len())?;
        for piece in self.pieces(offset, data.len()) {
            let data = &data[piece.range.clone()];
            self.write_piece(below, &piece, data)
                .inspect_err(|_| self.broken = true)?;
        }
        Ok(())
    }

    fn write_piece(&mut self, below: &dyn Backend, piece: &Piece, data: &[u8]) -> Result<()> {
        match self.changeable(below, piece.block)? {
            Place::Memory(index) => {
                let bytes = &mut self.memory[index as usize];
                bytes[piece.at..piece.at + data.len()].copy_from_slice(data);
                Ok(())
            }
            Place::Spilled(start) => self.spill.write(start, piece.at, data),
            Place::Free => self.write_in_place(below, piece, data),
            Place::Below => Ok(()),
        }
    }

    /// Offset and length of each changed block that the commit has to write, in ascending order.
    pub(crate) fn changed(&self) -> impl Iterator<Item = (u32, usize)> {
        let numbers = (0..).zip(&self.places);
        numbers
            .filter(|(_, place)| !matches!(place, Place::Below | Place::Free))
            .map(|(number, _)| {
                let len = block_len(number, self.block_size, self.size);
                (number * self.block_size, len)
            })
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

    fn place(&self, number: u32) -> Place {
        let place = self.places.get(number as usize);
        place.copied().unwrap_or(Place::Below)
    }

    /// A copy of a block that may be changed.
    fn changeable(&mut self, below: &dyn Backend, number: u32) -> Result<Place> {
        let known = self.place(number);
        if known != Place::Below {
            return Ok(known);
        }
        let mut bytes = vec![0; block_len(number, self.block_size, self.size)];
        self.read_below(below, self.start(number), &mut bytes)?;
        let place = self.keep(bytes)?;
        let index = number as usize;
        self.know_places_until(index + 1);
        self.places[index] = place;
        Ok(place)
    }

    fn know_places_until(&mut self, end: usize) {
        if self.places.len() < end {
            self.places.resize(end, Place::Below);
        }
    }

    fn keep(&mut self, block: Vec<u8>) -> Result<Place> {
        if self.memory.len() >= IN_MEMORY
            && let Some(start) = self.spill.add(&block, self.block_size)?
        {
            return Ok(Place::Spilled(start));
        }
        let index = self.memory.len();
        self.memory.push(block);
        Ok(Place::Memory(
            u32::try_from(index).expect("a database has fewer blocks than bytes"),
        ))
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

impl Spill {
    /// Adds a block; `None` if there is no file for it.
    fn add(&mut self, block: &[u8], block_size: u32) -> Result<Option<u32>> {
        if let Self::Ready(open) = self {
            *self = open().map_or(Self::None, |file| Self::Open { file, used: 0 });
        }
        let Self::Open { file, used } = self else {
            return Ok(None);
        };
        let start = *used;
        let end = start.checked_add(block_size).ok_or(Error::TooLarge)?;
        if end > file.size() {
            let more = block_size.saturating_mul(SPILL_STEP);
            file.grow(start.checked_add(more).ok_or(Error::TooLarge)?)?;
        }
        file.write_long(start, block)?;
        *used = end;
        Ok(Some(start))
    }

    fn read(&self, start: u32, at: usize, out: &mut [u8]) -> Result<()> {
        match self {
            Self::Open { file, .. } => file.read(position(start, at), out),
            Self::None | Self::Ready(_) => Err(Error::Invalid("no file of changed blocks")),
        }
    }

    fn write(&self, start: u32, at: usize, data: &[u8]) -> Result<()> {
        match self {
            Self::Open { file, .. } => file.write(position(start, at), data),
            Self::None | Self::Ready(_) => Err(Error::Invalid("no file of changed blocks")),
        }
    }
}

/// Offset in the file; `at` is less than the size of a block.
fn position(start: u32, at: usize) -> u32 {
    start.saturating_add(u32::try_from(at).unwrap_or(u32::MAX))
}

/// Bytes of block `number` in a database of `size` bytes.
fn block_len(number: u32, block_size: u32, size: u32) -> usize {
    size.saturating_sub(number.saturating_mul(block_size))
        .min(block_size) as usize
}
