//! A disk that keeps a diary.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tdb::{Backend, Error, Result};

pub type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// What reached the "disk", in order.
#[derive(Clone, Debug)]
pub enum Event {
    Write(u32, Vec<u8>),
    Grow(u32),
    Sync,
    /// Not of the disk: from here on the records are either these or those of the next mark.
    Committed(Records),
}

impl Event {
    /// Applies those pieces, each in one sector, that `random` chooses.
    pub fn apply_some(&self, bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
        let &Self::Write(mut at, ref data) = self else {
            // The size of a file is never lost while writes behind its old end are kept.
            return self.apply(bytes);
        };
        let mut rest = &data[..];
        while !rest.is_empty() {
            let len = (SECTOR - at % SECTOR).min(u32::try_from(rest.len()).unwrap());
            let (piece, behind) = rest.split_at(len as usize);
            if random.bool() {
                bytes[at as usize..][..piece.len()].copy_from_slice(piece);
            }
            (at, rest) = (at + len, behind);
        }
    }

    /// Does to `bytes` what was done to the disk.
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let start = *offset as usize;
                bytes[start..start + data.len()].copy_from_slice(data);
            }
            // Much faster than `resize` where nothing is optimised.
            Self::Grow(size) => bytes.extend(vec![0; *size as usize - bytes.len()]),
            Self::Sync | Self::Committed(_) => {}
        }
    }
}

/// What a disk writes as a whole or not at all.
const SECTOR: u32 = 512;

pub type Diary = Arc<Mutex<Vec<Event>>>;

/// A disk in memory that keeps a diary.
pub struct Disk {
    bytes: RefCell<Vec<u8>>,
    diary: Diary,
}

impl Disk {
    pub fn new(bytes: Vec<u8>) -> (Self, Diary) {
        let diary = Diary::default();
        let bytes = RefCell::new(bytes);
        (
            Self {
                bytes,
                diary: Arc::clone(&diary),
            },
            diary,
        )
    }

    fn range(&self, offset: u32, len: usize) -> Result<std::ops::Range<usize>> {
        let (start, size) = (offset as usize, self.size());
        if start + len <= size as usize {
            return Ok(start..start + len);
        }
        Err(Error::OutOfBounds { offset, len, size })
    }

    fn note(&self, event: Event) {
        event.apply(&mut self.bytes.borrow_mut());
        self.diary.lock().unwrap().push(event);
    }
}

impl Backend for Disk {
    fn size(&self) -> u32 {
        u32::try_from(self.bytes.borrow().len()).unwrap()
    }

    fn refresh(&self) -> Result<u32> {
        Ok(self.size())
    }

    fn read(&self, offset: u32, out: &mut [u8]) -> Result<()> {
        let range = self.range(offset, out.len())?;
        out.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }

    fn write(&self, offset: u32, data: &[u8]) -> Result<()> {
        self.range(offset, data.len())?;
        self.note(Event::Write(offset, data.to_vec()));
        Ok(())
    }

    fn grow(&self, new_size: u32) -> Result<()> {
        if new_size > self.size() {
            self.note(Event::Grow(new_size));
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.note(Event::Sync);
        Ok(())
    }
}
