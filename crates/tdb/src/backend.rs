//! Where the bytes of a database live.
//!
//! The engine reads and writes through [`Backend`] only, so that tests can count, stop or tear its
//! writes. Two ship with the crate: the shared file (`map.rs`) and memory.

use std::cell::{Ref, RefCell};

use crate::error::{Error, Result};
use crate::layout::ByteOrder;

/// Bytes `0..size()` of one database, without the mutex area.
///
/// Other processes may change and grow the bytes between any two calls. Methods take `&self`
/// because a callback of a traverse uses the database while the traverse does.
pub trait Backend: Send {
    /// Size as far as it is known.
    fn size(&self) -> u32;

    /// Asks again how big the database is: another process may have grown it.
    fn refresh(&self) -> Result<u32>;

    /// Fills `out` from `offset` on. Fails with [`Error::OutOfBounds`] behind the end.
    fn read(&self, offset: u32, out: &mut [u8]) -> Result<()>;

    /// Writes `data` at `offset`. Never grows the database.
    fn write(&self, offset: u32, data: &[u8]) -> Result<()>;

    /// The same for a page or more that perhaps nobody has looked at yet.
    fn write_long(&self, offset: u32, data: &[u8]) -> Result<()> {
        self.write(offset, data)
    }

    /// Makes the database `new_size` bytes big; the new bytes are zero. After an error it is as
    /// big as before.
    fn grow(&self, new_size: u32) -> Result<()>;

    /// Returns when all that was written would survive a power failure.
    fn sync(&self) -> Result<()>;

    /// The word at `offset`, as it lies in the file. Read in one access where possible.
    fn word(&self, offset: u32) -> Result<[u8; 4]> {
        let mut word = [0; 4];
        self.read(offset, &mut word)?;
        Ok(word)
    }

    /// Whether the bytes from `offset` on are `expected`.
    fn matches(&self, offset: u32, expected: &[u8]) -> Result<bool> {
        let mut found = [0; 256];
        let mut at = offset;
        for expected in expected.chunks(found.len()) {
            let found = &mut found[..expected.len()];
            self.read(at, found)?;
            if found != expected {
                return Ok(false);
            }
            at += length(found);
        }
        Ok(true)
    }

    /// Adds 1 to the word at `offset`, so that no other process's addition is lost. `false` if that
    /// needs a lock, which the caller then takes.
    fn increment(&self, offset: u32, order: ByteOrder) -> Result<bool> {
        let _ = (offset, order);
        Ok(false)
    }

    /// Tells the time of the last change to those who look at the file from outside.
    fn touch(&self) {}
}

/// A database in memory, seen by nobody else.
#[derive(Default)]
pub(crate) struct Memory {
    bytes: RefCell<Vec<u8>>,
}

impl Memory {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: RefCell::new(bytes),
        }
    }

    fn range(&self, offset: u32, len: usize) -> Result<Ref<'_, [u8]>> {
        let size = self.size();
        Ref::filter_map(self.bytes.borrow(), |bytes| {
            let start = offset as usize;
            bytes.get(start..start.checked_add(len)?)
        })
        .map_err(|_| Error::OutOfBounds { offset, len, size })
    }
}

impl Backend for Memory {
    fn size(&self) -> u32 {
        length(&self.bytes.borrow())
    }

    fn refresh(&self) -> Result<u32> {
        Ok(self.size())
    }

    fn read(&self, offset: u32, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self.range(offset, out.len())?);
        Ok(())
    }

    fn write(&self, offset: u32, data: &[u8]) -> Result<()> {
        drop(self.range(offset, data.len())?);
        let start = offset as usize;
        self.bytes.borrow_mut()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn grow(&self, new_size: u32) -> Result<()> {
        let mut bytes = self.bytes.borrow_mut();
        let new_size = new_size as usize;
        let more = new_size.saturating_sub(bytes.len());
        if bytes.try_reserve_exact(more).is_err() {
            return Err(Error::NoSpace {
                wanted: new_size as u64,
            });
        }
        bytes.resize(new_size, 0);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// Length of bytes that lie, or shall lie, inside a database.
pub(crate) fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len())
        .expect("parts of a database are below 4 GiB: checked where they enter")
}
