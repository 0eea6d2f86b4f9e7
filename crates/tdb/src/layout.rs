//! Where things lie in a TDB file, and what their values mean (`tdb.md` 1 and 3).
//!
//! Offsets are logical: in a database with mutexes they count from the end of the mutex area.
//!
//! | offset      | size | content                                                            |
//! |------------:|-----:|--------------------------------------------------------------------|
//! |           0 |  168 | [`FileHeader`]                                                     |
//! |         168 |    4 | head of the free list                                              |
//! |   172 + 4 b |    4 | head of hash chain `b`                                             |
//! |   172 + 4 H |      | records without gaps, each a [`Record`], its content and a tailer  |

use crate::hash::HashKind;

/// First bytes of the file, with the terminating NUL.
pub(crate) const MAGIC_FOOD: &[u8; 10] = b"TDB file\n\0";
pub(crate) const VERSION: u32 = 0x2601_196D;

/// Format marker: features are not used, Jenkins hash asked for at creation.
const MARKER_JENKINS: u32 = 0x0BAD_1A51;
/// Format marker: `feature_flags` is valid.
const MARKER_FEATURES: u32 = 0x0BAD_1A52;
/// Feature: chain locks are mutexes in the file.
pub(crate) const FEATURE_MUTEX: u32 = 1;

pub(crate) const HEADER_SIZE: u32 = 168;
/// Offsets of the two header words that change during the life of a file.
pub(crate) const RECOVERY_START: u32 = 44;
pub(crate) const SEQUENCE_NUMBER: u32 = 48;

pub(crate) const FREELIST_HEAD: u32 = HEADER_SIZE;
const FIRST_HEAD: u32 = FREELIST_HEAD + 4;
/// Most buckets that a file can have.
pub(crate) const MAX_HASH_SIZE: u32 = 0x3FFF_FFFF;

/// Offset of the list head of hash chain `bucket`.
pub(crate) fn chain_head(bucket: u32) -> u32 {
    FIRST_HEAD + 4 * bucket
}

/// Offset of the first record.
pub(crate) fn data_start(hash_size: u32) -> u32 {
    FIRST_HEAD + 4 * hash_size
}

/// Byte order of the numbers in a file. Keys and data are never swapped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    pub(crate) const NATIVE: Self = if cfg!(target_endian = "little") {
        Self::Little
    } else {
        Self::Big
    };

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Little => Self::Big,
            Self::Big => Self::Little,
        }
    }

    pub(crate) fn word(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    pub(crate) fn bytes(self, word: u32) -> [u8; 4] {
        match self {
            Self::Little => word.to_le_bytes(),
            Self::Big => word.to_be_bytes(),
        }
    }
}

/// The words of the file header behind the magic text.
///
/// | offset | size | field                                                                      |
/// |-------:|-----:|----------------------------------------------------------------------------|
/// |      0 |   32 | magic text, then zeros                                                     |
/// |     32 |    4 | `version`: fixed number, shows the byte order                              |
/// |     36 |    4 | `hash_size`: number of hash chains                                         |
/// |     40 |    4 | `marker`: 0, or one of two numbers for newer formats                       |
/// |     44 |    4 | `recovery_start`: offset of the recovery area, or 0                        |
/// |     48 |    4 | `sequence_number`: counts changes, if asked to                             |
/// |     52 |    4 | `magic1_hash`: hash of the magic text                                      |
/// |     56 |    4 | `magic2_hash`: hash of the magic of a used record as it lies in the file   |
/// |     60 |    4 | `feature_flags`                                                            |
/// |     64 |    4 | `mutex_size`: bytes of the mutex area in front of the database             |
/// |     68 |  100 | reserved, zero                                                             |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FileHeader {
    pub(crate) version: u32,
    pub(crate) hash_size: u32,
    pub(crate) marker: u32,
    pub(crate) recovery_start: u32,
    pub(crate) sequence_number: u32,
    pub(crate) magic1_hash: u32,
    pub(crate) magic2_hash: u32,
    pub(crate) feature_flags: u32,
    pub(crate) mutex_size: u32,
}

/// The header as raw bytes.
pub(crate) type HeaderBytes = [u8; HEADER_SIZE as usize];

impl FileHeader {
    /// Header of a new file. `mutex_size` is 0 for a database without mutexes.
    pub(crate) fn new(hash_size: u32, hash: HashKind, order: ByteOrder, mutex_size: u32) -> Self {
        let (magic1_hash, magic2_hash) = magic_hashes(hash, order);
        let (marker, feature_flags) = match (mutex_size, hash) {
            (1.., _) => (MARKER_FEATURES, FEATURE_MUTEX),
            (0, HashKind::Jenkins) => (MARKER_JENKINS, 0),
            (0, HashKind::Old) => (0, 0),
        };
        Self {
            version: VERSION,
            hash_size,
            marker,
            recovery_start: 0,
            sequence_number: 0,
            magic1_hash,
            magic2_hash,
            feature_flags,
            mutex_size,
        }
    }

    pub(crate) fn encode(&self, order: ByteOrder) -> HeaderBytes {
        let mut bytes = [0; HEADER_SIZE as usize];
        bytes[..MAGIC_FOOD.len()].copy_from_slice(MAGIC_FOOD);
        let words = [
            self.version,
            self.hash_size,
            self.marker,
            self.recovery_start,
            self.sequence_number,
            self.magic1_hash,
            self.magic2_hash,
            self.feature_flags,
            self.mutex_size,
        ];
        for (place, word) in bytes[32..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&order.bytes(word));
        }
        bytes
    }

    /// `None` if the magic text is missing. The version tells whether `order` was right.
    pub(crate) fn decode(bytes: &HeaderBytes, order: ByteOrder) -> Option<Self> {
        if !bytes.starts_with(MAGIC_FOOD) {
            return None;
        }
        let (words, _) = bytes[32..].as_chunks::<4>();
        let word = |index: usize| order.word(words[index]);
        Some(Self {
            version: word(0),
            hash_size: word(1),
            marker: word(2),
            recovery_start: word(3),
            sequence_number: word(4),
            magic1_hash: word(5),
            magic2_hash: word(6),
            feature_flags: word(7),
            mutex_size: word(8),
        })
    }

    /// Whether the format marker is one of the known ones.
    pub(crate) fn marker_is_known(&self) -> bool {
        [0, MARKER_JENKINS, MARKER_FEATURES].contains(&self.marker)
    }

    /// The feature flags, which count only together with their marker.
    pub(crate) fn features(&self) -> u32 {
        if self.marker == MARKER_FEATURES {
            self.feature_flags
        } else {
            0
        }
    }

    /// The hash function of the file: `suggested` or the other, whichever fits the magic hashes.
    /// Files of the first versions of TDB have zeros there and use the old function.
    pub(crate) fn hash_kind(&self, suggested: HashKind, order: ByteOrder) -> Option<HashKind> {
        let stored = (self.magic1_hash, self.magic2_hash);
        if stored == (0, 0) {
            return Some(HashKind::Old);
        }
        [suggested, suggested.other()]
            .into_iter()
            .find(|&kind| magic_hashes(kind, order) == stored)
    }
}

/// What `magic1_hash` and `magic2_hash` must be.
pub(crate) fn magic_hashes(hash: HashKind, order: ByteOrder) -> (u32, u32) {
    (
        hash.hash(MAGIC_FOOD),
        hash.hash(&order.bytes(Magic::USED.0)),
    )
}

/// What a record is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Magic(pub(crate) u32);

impl Magic {
    pub(crate) const USED: Self = Self(0x2601_1999);
    /// Deleted, still linked in its hash chain.
    pub(crate) const DEAD: Self = Self(0xFEE1_DEAD);
    pub(crate) const FREE: Self = Self(0xD9FE_E666);
    /// The recovery area, holding the log of a commit that is not finished.
    pub(crate) const RECOVERY: Self = Self(0xF53B_C0E7);
    /// The recovery area, idle. Also bytes that were never written.
    pub(crate) const IDLE: Self = Self(0);
    /// Filler that the C library writes where a file system cannot preallocate.
    pub(crate) const FILLER: Self = Self(0x4242_4242);
}

pub(crate) const RECORD_SIZE: u32 = 24;
pub(crate) const TAILER_SIZE: u32 = 4;
pub(crate) const ALIGNMENT: u32 = 4;
/// Offset of the length in a record.
pub(crate) const REC_LEN_AT: u32 = 4;
/// Offset of the magic in a record: the one word that changes when a record dies.
pub(crate) const MAGIC_AT: u32 = 20;
/// Offset of the data length in a record.
pub(crate) const DATA_LEN_AT: u32 = 12;

/// Header in front of each record, in use or not. 24 bytes.
///
/// | offset | size | field                                                                      |
/// |-------:|-----:|----------------------------------------------------------------------------|
/// |      0 |    4 | `next`: offset of the next record of the same list, 0 = last               |
/// |      4 |    4 | `rec_len`: bytes up to the next record, this header not counted            |
/// |      8 |    4 | `key_len`                                                                  |
/// |     12 |    4 | `data_len`                                                                 |
/// |     16 |    4 | `full_hash` of the key                                                     |
/// |     20 |    4 | `magic`                                                                    |
///
/// Then the key, the data, unused bytes, and in the last four bytes the tailer: `rec_len` + 24, by
/// which the record to the right finds this one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    pub(crate) next: u32,
    pub(crate) rec_len: u32,
    pub(crate) key_len: u32,
    pub(crate) data_len: u32,
    pub(crate) full_hash: u32,
    pub(crate) magic: Magic,
}

impl Record {
    pub(crate) fn free(next: u32, rec_len: u32) -> Self {
        Self {
            next,
            rec_len,
            key_len: 0,
            data_len: 0,
            full_hash: 0,
            magic: Magic::FREE,
        }
    }

    pub(crate) fn encode(&self, order: ByteOrder) -> [u8; RECORD_SIZE as usize] {
        let words = [
            self.next,
            self.rec_len,
            self.key_len,
            self.data_len,
            self.full_hash,
            self.magic.0,
        ];
        let mut bytes = [0; RECORD_SIZE as usize];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&order.bytes(word));
        }
        bytes
    }

    #[inline]
    pub(crate) fn decode(words: &[[u8; 4]; 6], order: ByteOrder) -> Self {
        let [next, rec_len, key_len, data_len, full_hash, magic] =
            words.map(|word| order.word(word));
        Self {
            next,
            rec_len,
            key_len,
            data_len,
            full_hash,
            magic: Magic(magic),
        }
    }

    /// What the tailer of this record must hold.
    pub(crate) fn tailer(&self) -> u32 {
        self.rec_len.wrapping_add(RECORD_SIZE)
    }

    /// Bytes of key and data together, if they fit into the record at all.
    #[inline]
    pub(crate) fn content_len(&self) -> Option<u32> {
        self.key_len
            .checked_add(self.data_len)
            .filter(|&len| len <= self.rec_len)
    }
}

/// Length to ask the free list for, for `content` bytes of key and data: a quarter more, so that
/// the record can grow, the tailer, and the rounding (`tdb.md` 3.4). `None` beyond 4 GiB.
pub(crate) fn padded_len(content: u32) -> Option<u32> {
    let padded = content.checked_add(content / 4)?;
    padded
        .checked_add(TAILER_SIZE)?
        .checked_next_multiple_of(ALIGNMENT)
}

/// By how many bytes a file of `size` bytes grows when `wanted` more are needed: enough for a
/// hundred such requests, at least a quarter (a tenth for big files), in pages (`tdb.md` 3.8).
/// At the 4 GiB limit: all that is left. The caller checks that the sum fits.
pub(crate) fn growth(size: u32, wanted: u32, page: u32) -> u32 {
    let left = u32::MAX - size;
    if wanted > left {
        return wanted;
    }
    let requests = if wanted > 100 * 1024 { 2 } else { 100 };
    let share = if size > 100 * 1024 * 1024 {
        size / 10
    } else {
        size / 4
    };
    wanted
        .checked_mul(requests)
        .and_then(|increment| size.checked_add(increment.max(share)))
        .and_then(|new| new.checked_next_multiple_of(page))
        .map_or(left, |new| new - size)
}
