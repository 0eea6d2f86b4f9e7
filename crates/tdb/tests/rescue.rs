//! Files made to keep a rescue busy: what it reads, and what it shows, grows with the file and not
//! with its square. Each of these files would keep it for minutes or hours otherwise.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

use tdb::{Backend, Error, OpenOptions, Result, hash_old};

const USED: u32 = 0x2601_1999;
const FREE: u32 = 0xD9FE_E666;
const HEADER: u32 = 24;
const FREELIST_HEAD: u32 = 168;

/// Times its size that a file may be read: each of its words as the begin of a record, which is
/// six times the file, and what is found there.
const READS: u64 = 24;

/// A file in memory that can be read for so long only.
struct Patience {
    bytes: RefCell<Vec<u8>>,
    left: Cell<u64>,
}

impl Backend for Patience {
    fn size(&self) -> u32 {
        u32::try_from(self.bytes.borrow().len()).unwrap()
    }

    fn refresh(&self) -> Result<u32> {
        Ok(self.size())
    }

    fn read(&self, offset: u32, out: &mut [u8]) -> Result<()> {
        let (start, len, size) = (offset as usize, out.len(), self.size());
        let bytes = self.bytes.borrow();
        let found = bytes.get(start..start + len);
        out.copy_from_slice(found.ok_or(Error::OutOfBounds { offset, len, size })?);
        let left = self.left.get().checked_sub(len as u64);
        self.left.set(left.expect("read too often"));
        Ok(())
    }

    fn write(&self, _: u32, _: &[u8]) -> Result<()> {
        panic!("a rescue writes")
    }

    fn grow(&self, _: u32) -> Result<()> {
        panic!("a rescue makes the file larger")
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// A file under construction.
struct Hostile {
    bytes: Vec<u8>,
}

impl Hostile {
    fn new(hash_size: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hostile.tdb");
        let options = OpenOptions::new().hash_size(hash_size);
        drop(options.create(true).open(&path).unwrap());
        Self {
            bytes: std::fs::read(&path).unwrap(),
        }
    }

    fn end(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap()
    }

    fn set_word(&mut self, at: u32, word: u32) {
        self.bytes[at as usize..at as usize + 4].copy_from_slice(&word.to_le_bytes());
    }

    fn words(&mut self, words: &[u32]) {
        self.bytes
            .extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    /// A record of 28 bytes: its key of 4 bytes is `number`, its data all that follows, or nothing.
    fn record(&mut self, next: u32, number: u32, data_len: u32) {
        let hash = hash_old(&number.to_le_bytes());
        let rec_len = (data_len + 8).next_multiple_of(4);
        self.words(&[next, rec_len, 4, data_len, hash, USED, number]);
    }

    /// Rescues what is there. Returns the number of records shown, and of bytes.
    fn rescued(self) -> (u64, u64) {
        let size = u64::from(self.end());
        let patience = Patience {
            left: Cell::new(READS * size),
            bytes: RefCell::new(self.bytes),
        };
        let options = OpenOptions::new().read_only(true);
        let db = options.open_backend(Box::new(patience)).unwrap();
        let mut bytes = 0;
        let count = db.rescue(&mut |key, data| {
            bytes += (key.len() + data.len()) as u64;
            ControlFlow::Continue(())
        });
        (count.unwrap(), bytes)
    }
}

#[test]
fn free_records_that_all_reach_to_the_end() {
    const FREE_RECORDS: u32 = 100_000;
    const RECORDS: u32 = 100_000;
    let mut file = Hostile::new(1);
    let (start, len) = (file.end(), FREE_RECORDS * HEADER + RECORDS * 28);
    file.set_word(FREELIST_HEAD, start);
    for number in 1..=FREE_RECORDS {
        let at = file.end();
        let next = if number == FREE_RECORDS {
            0
        } else {
            at + HEADER
        };
        file.words(&[next, start + len - at - HEADER, 0, 0, 0, FREE]);
    }
    for number in 0..RECORDS {
        // The last one is in the chain, and so worth showing.
        if number == RECORDS - 1 {
            let at = file.end();
            file.set_word(FREELIST_HEAD + 4, at);
        }
        file.record(0, number, 0);
    }
    assert_eq!(file.rescued(), (1, 4));
}

#[test]
fn chains_that_all_run_together() {
    const CHAINS: u32 = 200_000;
    const RECORDS: u32 = 100_000;
    let mut file = Hostile::new(CHAINS);
    let start = file.end();
    for chain in 0..CHAINS {
        file.set_word(FREELIST_HEAD + 4 + 4 * chain, start);
    }
    for number in 1..=RECORDS {
        let next = file.end() + 28;
        file.record(if number == RECORDS { 0 } else { next }, number, 0);
    }
    assert_eq!(file.rescued(), (u64::from(RECORDS), 4 * u64::from(RECORDS)));
}

/// Each of them has to be hashed to see that it is none.
#[test]
fn keys_that_all_reach_to_the_end() {
    const RECORDS: u32 = 40_000;
    let mut file = Hostile::new(1);
    file.record(0, 7, 0);
    let len = RECORDS * HEADER;
    for number in 0..RECORDS {
        let key_len = len - (number + 1) * HEADER;
        file.words(&[0, key_len, key_len, 0, 1, USED]);
    }
    assert_eq!(file.rescued(), (1, 4));
}

#[test]
fn data_that_all_reach_to_the_end() {
    const RECORDS: u32 = 40_000;
    let mut file = Hostile::new(1);
    let len = RECORDS * 28;
    for number in 0..RECORDS {
        // Without the last few bytes, which would be those of the tailer.
        file.record(0, number, (len - (number + 1) * 28).saturating_sub(8));
    }
    let size = u64::from(file.end());
    let (shown, bytes) = file.rescued();
    assert!(shown > 2, "{shown}");
    assert!(bytes <= 8 * size, "{bytes} bytes of {size}");
}
