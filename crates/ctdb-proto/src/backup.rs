//! The file that `ctdb backupdb` writes: one database, as a node has it (`tdb.md` 9.7).
//!
//! | offset | size | field                                        |
//! |-------:|-----:|----------------------------------------------|
//! |      0 |  104 | [`BackupHeader`]                             |
//! |    104 |    4 | `db_id` of the first buffer                  |
//! |    108 |    4 | number of its records                        |
//! |    112 |    8 | length of its records                        |
//! |    120 |      | records, packed: see [`RecData`]             |
//!
//! Further buffers follow without padding. Whoever has the file pushes its bytes into a
//! [`BackupReader`] piece by piece and takes out the header, then one buffer after the other;
//! nothing is believed before the bytes for it are there. A [`BackupWriter`] goes the other way.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::wire::{require, to_u32};
use crate::{
    DbFlags, DbId, DecodeError, FixedStr, MAX_PACKET_LEN, RecBuffer, RecBufferBuilder, RecData,
    ReqId, Wire,
};

/// The only version there is.
pub const BACKUP_VERSION: u64 = 3;

/// A buffer is closed as soon as its wire form has so many bytes.
const CLOSE_AT: usize = 100_000;

/// Most bytes of records in one buffer: it is restored by one message, for whose headers something
/// is left.
const MAX_RECORDS_LEN: usize = MAX_PACKET_LEN - 64;

/// Why bytes are not a backup, or why a record cannot go into one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BackupError {
    /// Not a backup at all, one of another version, or of a host with another byte order.
    #[error("version {found} instead of {BACKUP_VERSION}")]
    Version { found: u64 },
    #[error("bad header or buffer")]
    Decode(#[from] DecodeError),
    #[error("buffer of {length} bytes is over the limit of {MAX_RECORDS_LEN}")]
    BufferTooLong { length: u64 },
    #[error("record of {length} bytes is too long for a backup")]
    RecordTooLong { length: usize },
    /// The file ends before its header does.
    #[error("no header, only {have} bytes")]
    NoHeader { have: usize },
    /// The file ends before its last buffer does.
    #[error("{missing} buffers are missing")]
    EndsEarly { missing: u64 },
    #[error("header says {stated} records, but there are {actual}")]
    RecordCount { stated: u64, actual: u64 },
}

/// What a backup says of itself. 104 bytes.
///
/// | offset | size | field                                        |
/// |-------:|-----:|----------------------------------------------|
/// |      0 |    8 | version: [`BACKUP_VERSION`]                  |
/// |      8 |    8 | `timestamp`                                  |
/// |     16 |    8 | `flags`                                      |
/// |     24 |    8 | `buffers`                                    |
/// |     32 |    8 | `records`                                    |
/// |     40 |   64 | `name`                                       |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackupHeader {
    /// When the backup was made, in seconds since 1970 UTC.
    pub timestamp: i64,
    /// Kind of the database.
    pub flags: DbFlags,
    /// Number of buffers behind the header.
    pub buffers: u64,
    /// Number of records in all of them.
    pub records: u64,
    /// Name of the database.
    pub name: FixedStr<64>,
}

impl BackupHeader {
    /// Size in the file.
    pub const LEN: usize = 104;

    /// The header as it stands in the file.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut out = bytes.as_mut_slice();
        BACKUP_VERSION.encode(&mut out);
        self.timestamp.encode(&mut out);
        u64::from(self.flags.bits()).encode(&mut out);
        self.buffers.encode(&mut out);
        self.records.encode(&mut out);
        self.name.encode(&mut out);
        bytes
    }

    /// Takes the header from the front of a file.
    fn decode(src: &mut impl Buf) -> Result<Self, BackupError> {
        require(src, Self::LEN)?;
        let found = u64::decode(src)?;
        if found != BACKUP_VERSION {
            return Err(BackupError::Version { found });
        }
        Ok(Self {
            timestamp: i64::decode(src)?,
            flags: decode_flags(u64::decode(src)?)?,
            buffers: u64::decode(src)?,
            records: u64::decode(src)?,
            name: FixedStr::decode(src)?,
        })
    }
}

fn decode_flags(raw: u64) -> Result<DbFlags, DecodeError> {
    let bits = u8::try_from(raw).map_err(|_| DecodeError::BadValue {
        field: "database flags",
        value: raw,
    })?;
    Ok(DbFlags::from_bits_retain(bits))
}

/// The fixed part of a buffer, its length checked against [`MAX_RECORDS_LEN`].
struct BufferHead {
    db_id: DbId,
    count: u32,
    length: usize,
}

impl BufferHead {
    const LEN: usize = 16;

    fn decode(mut src: &[u8]) -> Result<Self, BackupError> {
        let (db_id, count) = (DbId::decode(&mut src)?, u32::decode(&mut src)?);
        let length = u64::decode(&mut src)?;
        match usize::try_from(length) {
            Ok(known) if known <= MAX_RECORDS_LEN => Ok(Self {
                db_id,
                count,
                length: known,
            }),
            _ => Err(BackupError::BufferTooLong { length }),
        }
    }
}

/// What [`BackupReader::next_part`] found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BackupPart {
    /// Comes first, once.
    Header(BackupHeader),
    /// Records. Their database is that of the header: the original writes garbage for its id here.
    Buffer(RecBuffer),
}

/// Takes a backup apart while its bytes arrive.
///
/// Holds no more than what was pushed and not yet taken out. What follows the last buffer is
/// dropped: the original writes over a longer file without shortening it.
#[derive(Debug, Default)]
pub struct BackupReader {
    bytes: BytesMut,
    state: ReaderState,
}

#[derive(Clone, Copy, Debug, Default)]
enum ReaderState {
    #[default]
    Header,
    Buffers {
        missing: u64,
        stated: u64,
        records: u64,
    },
}

impl BackupReader {
    /// For a new file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the next bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next part, or `None` when more bytes are needed or all parts have been taken. After an
    /// error there is nothing more to be had.
    pub fn next_part(&mut self) -> Result<Option<BackupPart>, BackupError> {
        match &mut self.state {
            ReaderState::Header => self.next_header(),
            ReaderState::Buffers { missing: 0, .. } => {
                self.bytes.clear();
                Ok(None)
            }
            ReaderState::Buffers {
                missing, records, ..
            } => {
                let Some(buffer) = take_buffer(&mut self.bytes)? else {
                    return Ok(None);
                };
                *missing -= 1;
                *records = records.saturating_add(buffer.count().into());
                Ok(Some(BackupPart::Buffer(buffer)))
            }
        }
    }

    /// Fails unless the whole backup has been taken out; to be asked at the end of the file.
    pub fn finish(&self) -> Result<(), BackupError> {
        match self.state {
            ReaderState::Header => Err(BackupError::NoHeader {
                have: self.bytes.len(),
            }),
            ReaderState::Buffers {
                missing: 0,
                stated,
                records,
            } if stated == records => Ok(()),
            ReaderState::Buffers {
                missing: 0,
                stated,
                records,
            } => Err(BackupError::RecordCount {
                stated,
                actual: records,
            }),
            ReaderState::Buffers { missing, .. } => Err(BackupError::EndsEarly { missing }),
        }
    }

    fn next_header(&mut self) -> Result<Option<BackupPart>, BackupError> {
        if self.bytes.len() < BackupHeader::LEN {
            return Ok(None);
        }
        let header = BackupHeader::decode(&mut self.bytes)?;
        self.state = ReaderState::Buffers {
            missing: header.buffers,
            stated: header.records,
            records: 0,
        };
        Ok(Some(BackupPart::Header(header)))
    }
}

/// Takes a buffer off the front, once all of it is there.
fn take_buffer(bytes: &mut BytesMut) -> Result<Option<RecBuffer>, BackupError> {
    let Some(head) = bytes.get(..BufferHead::LEN) else {
        return Ok(None);
    };
    let head = BufferHead::decode(head)?;
    if bytes.len() - BufferHead::LEN < head.length {
        return Ok(None);
    }
    bytes.advance(BufferHead::LEN);
    let records = bytes.split_to(head.length).freeze();
    Ok(Some(RecBuffer::new(head.db_id, head.count, records)?))
}

/// Packs records into the buffers of a backup.
///
/// The header counts what was written, so it is known last. Its place in the file is kept by
/// [`BackupHeader::LEN`] zeros, which no reader takes for a backup.
#[derive(Debug)]
pub struct BackupWriter {
    db_id: DbId,
    buffer: RecBufferBuilder,
    buffers: u64,
    records: u64,
}

impl BackupWriter {
    /// For a database.
    pub fn new(db_id: DbId) -> Self {
        Self {
            db_id,
            buffer: RecBuffer::builder(db_id),
            buffers: 0,
            records: 0,
        }
    }

    /// Adds a record as the TDB file has it, header and all. Gives the bytes of a buffer that this
    /// record made full.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Bytes>, BackupError> {
        let length = key.len().saturating_add(value.len());
        if length > MAX_RECORDS_LEN - CLOSE_AT - RecData::MIN_LEN {
            return Err(BackupError::RecordTooLong { length });
        }
        self.buffer.push(ReqId::new(0), key, value);
        self.records += 1;
        Ok((self.buffer.wire_len() >= CLOSE_AT).then(|| self.close()))
    }

    /// The bytes of the last buffer, if any records wait, and the header of it all. The caller
    /// says what kind of database it is, and when this was (seconds since 1970 UTC).
    pub fn finish(
        mut self,
        name: FixedStr<64>,
        flags: DbFlags,
        timestamp: i64,
    ) -> (Option<Bytes>, BackupHeader) {
        let last = (self.buffer.count() > 0).then(|| self.close());
        let header = BackupHeader {
            timestamp,
            flags,
            buffers: self.buffers,
            records: self.records,
            name,
        };
        (last, header)
    }

    fn close(&mut self) -> Bytes {
        self.buffers += 1;
        let next = RecBuffer::builder(self.db_id);
        let buffer = std::mem::replace(&mut self.buffer, next).finish();
        let mut out = BytesMut::with_capacity(BufferHead::LEN + buffer.records().len());
        self.db_id.encode(&mut out);
        buffer.count().encode(&mut out);
        u64::from(to_u32(buffer.records().len())).encode(&mut out);
        out.put_slice(buffer.records());
        out.freeze()
    }
}

#[cfg(test)]
mod tests;
