//! What can still be read of a broken file (`tdb.md` 7.7).
//!
//! Every place of the file is tried as a record, whether a list leads there or not. Those that are
//! in no chain are shown only if the key has no better one.
//!
//! A file can be made so that its records overlap, or its chains run together, many times over. The
//! work grows with the size of the file all the same: a place is walked through once, whichever
//! chain comes there, and no more bytes are looked at as contents than [`OVERLAP`] times its size.

use std::ops::{ControlFlow, Range};

use crate::db::Db;
use crate::error::Result;
use crate::image::{Image, Walk};
use crate::layout::{ALIGNMENT, Magic, RECORD_SIZE, RECOVERY_START, Record};
use crate::traverse::Visit;

/// How many times each byte may on average be part of what looks like a record. Copies in the
/// recovery area, leftovers in free space, and databases that are stored as data in databases
/// add one or two.
const OVERLAP: u64 = 8;

/// What looks like a record.
struct Candidate {
    offset: u32,
    key_len: u32,
    data_len: u32,
    /// Where its key is in [`Found::keys`].
    key_at: usize,
    /// A hash chain leads to it.
    in_chain: bool,
    /// Free space, or the recovery area, begins between the candidate before this one and this
    /// one, and ends here.
    free_until: u64,
}

/// All candidates, in the order of the file.
struct Found {
    candidates: Vec<Candidate>,
    /// Their keys, one behind the other. A copy, since others may write to the file while they are
    /// sorted.
    keys: Vec<u8>,
    /// Bytes that may still be looked at as keys and data.
    allowance: u64,
}

impl Db {
    /// Shows what looks like a record, ordered by key: shorter ones first. Of one key several may
    /// be shown, if that is what the file has. Returns how many were shown.
    pub fn rescue(&self, visit: &mut Visit<'_>) -> Result<u64> {
        let _all = self.lock_to_look()?;
        let mut found = self.candidates()?;
        self.mark_free(&mut found);
        self.mark_chains(&mut found);
        self.mark_recovery_area(&mut found);
        let mut count = 0;
        for candidate in found.wanted() {
            count += 1;
            if self.show(candidate, visit)?.is_break() {
                break;
            }
        }
        Ok(count)
    }

    fn candidates(&self) -> Result<Found> {
        let size = self.image.refresh()?;
        let mut found = Found::new(size);
        let mut at = self.image.data_start();
        while at.checked_add(RECORD_SIZE).is_some_and(|end| end <= size) {
            let record = self.image.record(at)?;
            if self.may_be_a_record(at, &record) {
                self.add_if_key_fits(at, &record, &mut found);
            }
            at += ALIGNMENT;
        }
        Ok(found)
    }

    /// Judges by the header alone.
    fn may_be_a_record(&self, at: u32, record: &Record) -> bool {
        let next_is_possible = record.next == 0
            || (record.next >= self.image.data_start() && record.next < self.image.size());
        let content = record.key_len.checked_add(record.data_len);
        record.magic == Magic::USED
            && record.rec_len.is_multiple_of(ALIGNMENT)
            && next_is_possible
            // Data that is cut off is of no use.
            && content.is_some_and(|content| {
                content <= record.rec_len
                    && self.image.check_inside(at + RECORD_SIZE, content).is_ok()
            })
    }

    /// Adds a record if its key has the hash that the header says.
    fn add_if_key_fits(&self, at: u32, record: &Record, found: &mut Found) {
        let Record {
            key_len, data_len, ..
        } = *record;
        if !found.afford(key_len) {
            return;
        }
        let key_at = found.keys.len();
        let read = self
            .image
            .append_to(at + RECORD_SIZE, key_len, &mut found.keys);
        let fits = read.is_ok() && self.hash.hash(&found.keys[key_at..]) == record.full_hash;
        if fits && found.afford(data_len) {
            found.candidates.push(Candidate {
                offset: at,
                key_len,
                data_len,
                key_at,
                in_chain: false,
                free_until: 0,
            });
        } else {
            found.keys.truncate(key_at);
        }
    }

    /// Follows the free list as far as it leads.
    fn mark_free(&self, found: &mut Found) {
        let Ok(mut walk) = self.image.freelist() else {
            return;
        };
        while let Ok(Some(item)) = walk.step() {
            if item.record.magic != Magic::FREE {
                return;
            }
            found.mark_free(item.offset, item.record.rec_len);
        }
    }

    fn mark_chains(&self, found: &mut Found) {
        let mut seen = Places::of(&self.image);
        for chain in 0..self.hash_size {
            if let Ok(walk) = self.image.chain(chain) {
                found.mark_chain(walk, &mut seen);
            }
        }
    }

    fn mark_recovery_area(&self, found: &mut Found) {
        if let Ok(start) = self.image.word(RECOVERY_START)
            && start != 0
            && let Ok(area) = self.image.record(start)
        {
            found.mark_free(start, area.rec_len);
        }
    }

    fn show(&self, candidate: &Candidate, visit: &mut Visit<'_>) -> Result<ControlFlow<()>> {
        let mut bytes = Vec::new();
        let len = candidate.key_len + candidate.data_len;
        self.image
            .append_to(candidate.offset + RECORD_SIZE, len, &mut bytes)?;
        let (key, data) = bytes.split_at(candidate.key_len as usize);
        Ok(visit(key, data))
    }
}

impl Found {
    fn new(size: u32) -> Self {
        Self {
            candidates: Vec::new(),
            keys: Vec::new(),
            allowance: OVERLAP * u64::from(size),
        }
    }

    /// Takes bytes from the allowance. False if there are not as many left.
    fn afford(&mut self, len: u32) -> bool {
        match self.allowance.checked_sub(len.into()) {
            Some(left) => {
                self.allowance = left;
                true
            }
            None => false,
        }
    }

    /// Notes a record that is not in use. What begins in it is a leftover.
    fn mark_free(&mut self, start: u32, rec_len: u32) {
        let end = u64::from(start) + u64::from(RECORD_SIZE) + u64::from(rec_len);
        let first = self.candidates.partition_point(|c| c.offset < start);
        if let Some(first) = self.candidates.get_mut(first) {
            first.free_until = first.free_until.max(end);
        }
    }

    /// Follows a chain as far as it leads, or to where another chain has been.
    fn mark_chain(&mut self, mut walk: Walk<'_>, seen: &mut Places) {
        while let Ok(Some(item)) = walk.step() {
            if !seen.insert(item.offset) {
                return;
            }
            let found = self
                .candidates
                .binary_search_by_key(&item.offset, |c| c.offset);
            if let Ok(index) = found {
                self.candidates[index].in_chain = true;
            }
        }
    }

    /// The candidates to show, by length of the key, then by its bytes.
    fn wanted(&self) -> Vec<&Candidate> {
        let in_free = self.in_free();
        let mut sorted: Vec<_> = self.candidates.iter().zip(in_free).collect();
        sorted.sort_by_key(|(candidate, _)| (candidate.key_len, self.key(candidate)));
        let same_key = |a: &(&Candidate, _), b: &(&Candidate, _)| self.key(a.0) == self.key(b.0);
        let mut wanted = Vec::new();
        for of_one_key in sorted.chunk_by(same_key) {
            let chained = of_one_key.iter().any(|(candidate, _)| candidate.in_chain);
            let of_one_key = of_one_key.iter().filter(|(candidate, in_free)| {
                if chained {
                    candidate.in_chain
                } else {
                    !in_free
                }
            });
            wanted.extend(of_one_key.map(|&(candidate, _)| candidate));
        }
        wanted
    }

    /// For each candidate, whether it begins in free space, or in the recovery area.
    fn in_free(&self) -> impl Iterator<Item = bool> {
        self.candidates.iter().scan(0, |free_until, candidate| {
            *free_until = candidate.free_until.max(*free_until);
            Some(u64::from(candidate.offset) < *free_until)
        })
    }

    fn key(&self, candidate: &Candidate) -> &[u8] {
        let range: Range<usize> = candidate.key_at..candidate.key_at + candidate.key_len as usize;
        &self.keys[range]
    }
}

/// Places of a file, one bit for each that a record can begin at.
struct Places(Vec<u64>);

impl Places {
    fn of(image: &Image) -> Self {
        let places = image.size() / ALIGNMENT;
        Self(vec![0; places as usize / 64 + 1])
    }

    /// False if the place was in already.
    fn insert(&mut self, offset: u32) -> bool {
        let place = (offset / ALIGNMENT) as usize;
        let (word, bit) = (place / 64, 1 << (place % 64));
        // Behind what was the end when this began there is nothing that was found.
        let Some(word) = self.0.get_mut(word) else {
            return false;
        };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}
