//! A database whose writes are noted one by one.

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

pub type Diary = Arc<Mutex<Vec<Event>>>;

/// A disk in memory that keeps a diary.
pub struct Disk {
    bytes: RefCell<Vec<u8>>,
    diary: Diary,
}

impl Disk {
    /// A disk that holds `bytes`, and its diary.
    pub fn new(bytes: Vec<u8>) -> (Self, Diary) {
        let diary = Diary::default();
        let disk = Self {
            bytes: RefCell::new(bytes),
            diary: Arc::clone(&diary),
        };
        (disk, diary)
    }

    fn range(&self, offset: u32, len: usize) -> Result<std::ops::Range<usize>> {
        let (start, size) = (offset as usize, self.bytes.borrow().len());
        if start + len <= size {
            return Ok(start..start + len);
        }
        Err(Error::OutOfBounds {
            offset,
            len,
            size: u32::try_from(size).unwrap(),
        })
    }

    fn note(&self, event: Event) {
        apply(&mut self.bytes.borrow_mut(), &event);
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

/// Does to `bytes` what was done to the disk.
pub fn apply(bytes: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write(offset, data) => {
            let start = *offset as usize;
            bytes[start..start + data.len()].copy_from_slice(data);
        }
        Event::Grow(size) => bytes.resize(*size as usize, 0),
        Event::Sync | Event::Committed(_) => {}
    }
}
