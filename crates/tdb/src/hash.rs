//! The two hash functions a TDB file can be built with (`tdb.md` 2).
//!
//! Which one a file uses is found out from the magic hashes in its header, not from what the opener
//! asks for. CTDB also uses [`hash_jenkins`] outside of TDB files: for database ids and for lmasters.

/// Hash function of a TDB file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HashKind {
    /// The first hash function of TDB, used unless `INCOMPATIBLE_HASH` is given at creation.
    Old,
    /// Bob Jenkins's lookup3.
    Jenkins,
}

impl HashKind {
    /// Hash of `key`.
    pub fn hash(self, key: &[u8]) -> u32 {
        match self {
            Self::Old => hash_old(key),
            Self::Jenkins => hash_jenkins(key),
        }
    }

    /// The function that an opener without knowledge of the file tries second.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Old => Self::Jenkins,
            Self::Jenkins => Self::Old,
        }
    }
}

/// The old hash of TDB: each byte is shifted by 0, 5, 10, 15, 20, 1, 6, ... bits and added.
pub fn hash_old(key: &[u8]) -> u32 {
    let mut sum = 0x238F_13AF_u32.wrapping_mul(length(key));
    let mut shift = 0;
    for &byte in key {
        sum = sum.wrapping_add(u32::from(byte) << shift);
        shift = (shift + 5) % 24;
    }
    1_103_515_243_u32.wrapping_mul(sum).wrapping_add(12345)
}

/// Bob Jenkins's lookup3 `hashlittle` with initial value 0.
pub fn hash_jenkins(key: &[u8]) -> u32 {
    let seed = 0xDEAD_BEEF_u32.wrapping_add(length(key));
    let mut state = [seed; 3];
    // The last block, of 1 to 12 bytes, is treated by `finish` even when it is complete.
    let mut rest = key;
    while let Some((block, tail)) = rest.split_first_chunk::<12>()
        && !tail.is_empty()
    {
        add(&mut state, block);
        mix(&mut state);
        rest = tail;
    }
    if !rest.is_empty() {
        add(&mut state, rest);
        finish(&mut state);
    }
    state[2]
}

/// Adds three little-endian words to the state. What `block` lacks counts as zeros.
#[inline]
fn add(state: &mut [u32; 3], block: &[u8]) {
    for (index, sum) in state.iter_mut().enumerate() {
        *sum = sum.wrapping_add(word_at(block, 4 * index));
    }
}

#[inline]
fn word_at(block: &[u8], at: usize) -> u32 {
    match block.get(at..) {
        Some(&[a, b, c, d, ..]) => u32::from_le_bytes([a, b, c, d]),
        Some(rest) => rest
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u32::from(byte)),
        None => 0,
    }
}

#[rustfmt::skip]
fn mix(state: &mut [u32; 3]) {
    let [mut a, mut b, mut c] = *state;
    a = a.wrapping_sub(c); a ^= c.rotate_left(4);  c = c.wrapping_add(b);
    b = b.wrapping_sub(a); b ^= a.rotate_left(6);  a = a.wrapping_add(c);
    c = c.wrapping_sub(b); c ^= b.rotate_left(8);  b = b.wrapping_add(a);
    a = a.wrapping_sub(c); a ^= c.rotate_left(16); c = c.wrapping_add(b);
    b = b.wrapping_sub(a); b ^= a.rotate_left(19); a = a.wrapping_add(c);
    c = c.wrapping_sub(b); c ^= b.rotate_left(4);  b = b.wrapping_add(a);
    *state = [a, b, c];
}

#[rustfmt::skip]
fn finish(state: &mut [u32; 3]) {
    let [mut a, mut b, mut c] = *state;
    c ^= b; c = c.wrapping_sub(b.rotate_left(14));
    a ^= c; a = a.wrapping_sub(c.rotate_left(11));
    b ^= a; b = b.wrapping_sub(a.rotate_left(25));
    c ^= b; c = c.wrapping_sub(b.rotate_left(16));
    a ^= c; a = a.wrapping_sub(c.rotate_left(4));
    b ^= a; b = b.wrapping_sub(a.rotate_left(14));
    c ^= b; c = c.wrapping_sub(b.rotate_left(24));
    *state = [a, b, c];
}

/// Length modulo 2^32, as the hash functions count.
#[expect(
    clippy::cast_possible_truncation,
    reason = "keys of 4 GiB do not fit into a TDB file"
)]
fn length(key: &[u8]) -> u32 {
    key.len() as u32
}
