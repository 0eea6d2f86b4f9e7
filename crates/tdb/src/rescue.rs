//! What can still be read of a broken file (`tdb.md` 7.7).
//!
//! Every place of the file is tried as a record, whether a list leads there or not. Those that are
//! in no chain are shown only if the key has no better one.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use crate::db::Db;
use crate::error::Result;
use crate::image::Walk;
use crate::layout::{ALIGNMENT, Magic, RECORD_SIZE, RECOVERY_START, Record};
use crate::traverse::Visit;

/// What looks like a record.
struct Candidate {
    offset: u32,
    key_len: u32,
    data_len: u32,
    /// A hash chain leads to it.
    in_chain: bool,
    /// It lies in free space, or in the recovery area: a leftover.
    in_free: bool,
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
        found.sort_by(|a, b| self.compare_keys(a, b));
        let mut count = 0;
        let same_key = |a: &Candidate, b: &Candidate| self.compare_keys(a, b).is_eq();
        for of_one_key in found.chunk_by(same_key) {
            let chained = of_one_key.iter().any(|candidate| candidate.in_chain);
            for candidate in of_one_key {
                let wanted = if chained {
                    candidate.in_chain
                } else {
                    !candidate.in_free
                };
                if !wanted {
                    continue;
                }
                count += 1;
                if self.show(candidate, visit)?.is_break() {
                    return Ok(count);
                }
            }
        }
        Ok(count)
    }

    fn candidates(&self) -> Result<Vec<Candidate>> {
        let size = self.image.refresh()?;
        let (mut found, mut key) = (Vec::new(), Vec::new());
        let mut at = self.image.data_start();
        while at.checked_add(RECORD_SIZE).is_some_and(|end| end <= size) {
            let record = self.image.record(at)?;
            if self.looks_like_a_record(at, &record, &mut key) {
                found.push(Candidate {
                    offset: at,
                    key_len: record.key_len,
                    data_len: record.data_len,
                    in_chain: false,
                    in_free: false,
                });
            }
            at += ALIGNMENT;
        }
        Ok(found)
    }

    fn looks_like_a_record(&self, at: u32, record: &Record, key: &mut Vec<u8>) -> bool {
        let fits = record
            .key_len
            .checked_add(record.data_len)
            .is_some_and(|content| content <= record.rec_len);
        let next_is_possible = record.next == 0
            || (record.next >= self.image.data_start() && record.next < self.image.size());
        if record.magic != Magic::USED
            || !fits
            || !record.rec_len.is_multiple_of(ALIGNMENT)
            || !next_is_possible
        {
            return false;
        }
        key.clear();
        let content = at + RECORD_SIZE;
        // Data that is cut off is of no use.
        self.image
            .check_inside(content, record.key_len + record.data_len)
            .and_then(|()| self.image.append_to(content, record.key_len, key))
            .is_ok_and(|()| self.hash.hash(key) == record.full_hash)
    }

    /// Follows the free list as far as it leads.
    fn mark_free(&self, found: &mut [Candidate]) {
        let Ok(mut walk) = self.image.freelist() else {
            return;
        };
        while let Ok(Some(item)) = walk.step() {
            if item.record.magic != Magic::FREE {
                return;
            }
            mark_range(found, item.offset, item.record.rec_len);
        }
    }

    fn mark_chains(&self, found: &mut [Candidate]) {
        for chain in 0..self.hash_size {
            if let Ok(walk) = self.image.chain(chain) {
                mark_chain(walk, found);
            }
        }
    }

    fn mark_recovery_area(&self, found: &mut [Candidate]) {
        if let Ok(start) = self.image.word(RECOVERY_START)
            && start != 0
            && let Ok(area) = self.image.record(start)
        {
            mark_range(found, start, area.rec_len);
        }
    }

    /// By length, then by bytes. What cannot be read any more compares as equal.
    fn compare_keys(&self, a: &Candidate, b: &Candidate) -> Ordering {
        let key = |candidate: &Candidate| {
            let mut key = Vec::new();
            let read =
                self.image
                    .append_to(candidate.offset + RECORD_SIZE, candidate.key_len, &mut key);
            read.map(|()| key).unwrap_or_default()
        };
        a.key_len.cmp(&b.key_len).then_with(|| key(a).cmp(&key(b)))
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

/// Follows a chain as far as it leads.
fn mark_chain(mut walk: Walk<'_>, found: &mut [Candidate]) {
    while let Ok(Some(item)) = walk.step() {
        if let Ok(index) = found.binary_search_by_key(&item.offset, |c| c.offset) {
            found[index].in_chain = true;
        }
    }
}

/// Marks what begins in a record that is not in use. The candidates are in the order of the file.
fn mark_range(found: &mut [Candidate], start: u32, rec_len: u32) {
    let end = u64::from(start) + u64::from(RECORD_SIZE) + u64::from(rec_len);
    let first = found.partition_point(|candidate| candidate.offset < start);
    for candidate in &mut found[first..] {
        if u64::from(candidate.offset) >= end {
            return;
        }
        candidate.in_free = true;
    }
}
