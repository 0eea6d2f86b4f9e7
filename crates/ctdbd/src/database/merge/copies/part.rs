//! The copies of the records of some hash chains.

use std::cmp::Ordering;

use ctdb_core::collate::wins;
use ctdb_proto::{Pnn, RecordHeader};
use tdb::KeyPlace;

/// Copies as bytes, in memory and in a file.
#[derive(Default)]
pub(super) struct Part {
    pub(super) kept: Vec<u8>,
    pub(super) written: Vec<Extent>,
}

/// Where some of the bytes are in the file.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) len: usize,
}

/// One copy of a record, in the bytes of a part:
///
/// | offset | size | field |
/// |-------:|-----:|-------|
/// |      0 |    4 | hash chain |
/// |      4 |    4 | hash of the key |
/// |      8 |    4 | node that it is from |
/// |     12 |    4 | length of the key |
/// |     16 |    4 | length of the value |
/// |     20 |      | the key, then the value: header and data |
#[derive(Clone, Copy)]
pub(super) struct Copy<'a> {
    pub(super) place: KeyPlace,
    pub(super) from: Pnn,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl Part {
    /// Keeps of each record in memory only the copy that wins. Returns how many bytes less it is.
    pub(super) fn merge(&mut self, leader: Pnn) -> usize {
        let before = self.kept.len();
        let mut merged = Vec::new();
        for copy in survivors(&self.kept, leader) {
            copy.append_to(&mut merged);
        }
        self.kept = merged;
        before - self.kept.len()
    }
}

/// Of each record in the bytes of a part the copy that wins, in the order of their places.
pub(super) fn survivors(bytes: &[u8], leader: Pnn) -> Vec<Copy<'_>> {
    let mut copies: Vec<Copy<'_>> = CopyIter { rest: bytes }.collect();
    copies.sort_unstable_by(Copy::by_record);
    copies.dedup_by(|copy, kept| {
        let is_same = Copy::by_record(copy, kept) == Ordering::Equal;
        if is_same && copy.wins_over(kept, leader) {
            *kept = *copy;
        }
        is_same
    });
    copies
}

impl Copy<'_> {
    /// Order in which copies of the same record are side by side.
    fn by_record(a: &Self, b: &Self) -> Ordering {
        (a.place, a.key).cmp(&(b.place, b.key))
    }

    fn wins_over(&self, kept: &Self, leader: Pnn) -> bool {
        let header = |copy: &Self| RecordHeader::split(copy.value).map(|(header, _)| header);
        match (header(self), header(kept)) {
            (Ok(new), Ok(old)) => wins((&new, self.from), (&old, kept.from), leader),
            (new, _) => new.is_ok(),
        }
    }

    /// Returns how many bytes were added.
    pub(super) fn append_to(&self, bytes: &mut Vec<u8>) -> usize {
        let before = bytes.len();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let words = [
            self.place.chain,
            self.place.hash,
            self.from.get(),
            length(self.key),
            length(self.value),
        ];
        make_room(
            bytes,
            size_of_val(&words) + self.key.len() + self.value.len(),
        );
        for word in words {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(self.key);
        bytes.extend_from_slice(self.value);
        bytes.len() - before
    }
}

/// Room for `more` bytes, and for a quarter of what there is: twice as much would be a lot of memory.
fn make_room(bytes: &mut Vec<u8>, more: usize) {
    if bytes.capacity() - bytes.len() < more {
        bytes.reserve_exact(more.max(bytes.len() / 4).max(4096));
    }
}

/// The copies in the bytes of a part.
struct CopyIter<'a> {
    rest: &'a [u8],
}

impl CopyIter<'_> {
    fn word(&mut self) -> Option<u32> {
        let (word, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u32::from_le_bytes(*word))
    }
}

impl<'a> Iterator for CopyIter<'a> {
    type Item = Copy<'a>;

    fn next(&mut self) -> Option<Copy<'a>> {
        let (chain, hash) = (self.word()?, self.word()?);
        let from = Pnn::new(self.word()?)?;
        let (key_len, value_len) = (self.word()?, self.word()?);
        let (key, rest) = self.rest.split_at_checked(usize::try_from(key_len).ok()?)?;
        let (value, rest) = rest.split_at_checked(usize::try_from(value_len).ok()?)?;
        self.rest = rest;
        Some(Copy {
            place: KeyPlace { chain, hash },
            from,
            key,
            value,
        })
    }
}
