//! Batches of records: transactions, recovery, vacuuming and traverses send them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::wire::{expect_end, require, take_bytes, to_u32, to_usize};
use crate::{DbId, DecodeError, RecordHeader, ReqId, Wire};

/// One record of a batch or of a traverse (`rec_data` in `wire.md 4.2`).
///
/// | offset | size | field                                      |
/// |-------:|-----:|--------------------------------------------|
/// |      0 |    4 | length of all this                         |
/// |      4 |    4 | `reqid`                                    |
/// |      8 |    4 | length of the key                          |
/// |     12 |    4 | length of the data                         |
/// |     16 |      | key, then data                             |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecData {
    /// Of the traverse; elsewhere without a meaning, and not always 0.
    pub reqid: ReqId,
    pub key: Bytes,
    /// Most often the value of a TDB: a [`RecordHeader`], then the data of the record.
    pub data: Bytes,
}

impl RecData {
    /// The end of a traverse: a record with neither key nor data.
    pub const fn end(reqid: ReqId) -> Self {
        Self {
            reqid,
            key: Bytes::new(),
            data: Bytes::new(),
        }
    }

    /// Whether this is the end of a traverse.
    pub fn is_end(&self) -> bool {
        self.key.is_empty() && self.data.is_empty()
    }

    /// Header and data of the record, where `data` has both.
    pub fn split(&self) -> Result<(RecordHeader, &[u8]), DecodeError> {
        RecordHeader::split(&self.data)
    }
}

impl Wire for RecData {
    const MIN_LEN: usize = 16;

    fn encode(&self, out: &mut impl BufMut) {
        put_record(out, self.reqid, &self.key, &[&self.data]);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let lengths = Lengths::decode(src)?;
        let key = take_bytes(src, lengths.key)?;
        let data = take_bytes(src, lengths.data)?;
        Ok(Self {
            reqid: lengths.reqid,
            key,
            data,
        })
    }
}

/// A record inside of a [`RecBuffer`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecordRef<'a> {
    /// See [`RecData::reqid`].
    pub reqid: ReqId,
    pub key: &'a [u8],
    /// See [`RecData::data`].
    pub data: &'a [u8],
}

impl<'a> RecordRef<'a> {
    /// Header and data of the record, where `data` has both.
    pub fn split(&self) -> Result<(RecordHeader, &'a [u8]), DecodeError> {
        RecordHeader::split(self.data)
    }
}

/// A batch of records of one database, checked and still in its wire form (`rec_buffer` in
/// `wire.md 4.2`).
///
/// | offset | size | field                                        |
/// |-------:|-----:|----------------------------------------------|
/// |      0 |    4 | `db_id`                                      |
/// |      4 |    4 | number of records                            |
/// |      8 |      | records, packed: see [`RecData`]             |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecBuffer {
    db_id: DbId,
    count: u32,
    /// Exactly `count` records: nothing that follows has to check again.
    records: Bytes,
}

impl RecBuffer {
    /// A batch without records.
    pub const fn empty(db_id: DbId) -> Self {
        Self {
            db_id,
            count: 0,
            records: Bytes::new(),
        }
    }

    /// A batch whose records fill `records` to the last byte.
    pub(crate) fn new(db_id: DbId, count: u32, records: Bytes) -> Result<Self, DecodeError> {
        let used = length_of_records(count, &records)?;
        expect_end(&records.slice(used..))?;
        Ok(Self {
            db_id,
            count,
            records,
        })
    }

    /// The same records for another database.
    #[must_use]
    pub fn for_db(self, db_id: DbId) -> Self {
        Self { db_id, ..self }
    }

    /// Starts a batch.
    pub fn builder(db_id: DbId) -> RecBufferBuilder {
        RecBufferBuilder {
            db_id,
            count: 0,
            records: BytesMut::new(),
        }
    }

    /// The database all records belong to.
    pub const fn db_id(&self) -> DbId {
        self.db_id
    }

    /// Number of records.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether there are no records.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size on the wire, in bytes.
    pub fn wire_len(&self) -> usize {
        Self::MIN_LEN + self.records.len()
    }

    /// The records in their order.
    pub fn iter(&self) -> RecBufferIter<'_> {
        RecBufferIter {
            rest: &self.records,
        }
    }

    /// The records in their wire form, without what stands before them in a batch.
    pub(crate) fn records(&self) -> &[u8] {
        &self.records
    }

    /// The batch as the payload of a message or a control.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.wire_len());
        self.encode(&mut out);
        out.freeze()
    }

    /// Fails unless the data of every record has room for a [`RecordHeader`].
    pub fn check_headers(&self) -> Result<(), DecodeError> {
        self.iter()
            .try_for_each(|record| require(&record.data, RecordHeader::LEN))
    }
}

impl<'a> IntoIterator for &'a RecBuffer {
    type Item = RecordRef<'a>;
    type IntoIter = RecBufferIter<'a>;

    fn into_iter(self) -> RecBufferIter<'a> {
        self.iter()
    }
}

impl Wire for RecBuffer {
    const MIN_LEN: usize = 8;

    fn encode(&self, out: &mut impl BufMut) {
        self.db_id.encode(out);
        self.count.encode(out);
        out.put_slice(&self.records);
    }

    /// Takes everything that is left, and drops what follows the last record.
    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let db_id = DbId::decode(src)?;
        let count = u32::decode(src)?;
        let mut records = src.copy_to_bytes(src.remaining());
        records.truncate(length_of_records(count, &records)?);
        Ok(Self {
            db_id,
            count,
            records,
        })
    }
}

/// How many of the bytes `count` records take, each of them checked.
fn length_of_records(count: u32, bytes: &[u8]) -> Result<usize, DecodeError> {
    require(&bytes, to_usize(count).saturating_mul(RecData::MIN_LEN))?;
    let mut rest = bytes;
    for _ in 0..count {
        let lengths = Lengths::decode(&mut rest)?;
        rest.advance(to_usize(lengths.key) + to_usize(lengths.data));
    }
    Ok(bytes.len() - rest.len())
}

/// Walks through the records of a [`RecBuffer`].
#[derive(Clone, Debug)]
pub struct RecBufferIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for RecBufferIter<'a> {
    type Item = RecordRef<'a>;

    fn next(&mut self) -> Option<RecordRef<'a>> {
        let lengths = Lengths::decode(&mut self.rest).ok()?;
        let (key, rest) = self.rest.split_at_checked(to_usize(lengths.key))?;
        let (data, rest) = rest.split_at_checked(to_usize(lengths.data))?;
        self.rest = rest;
        Some(RecordRef {
            reqid: lengths.reqid,
            key,
            data,
        })
    }
}

/// What the 4 GiB of a packet leave for a batch: there is some header and padding as well.
const MAX_WIRE_LEN: usize = to_usize(u32::MAX) - 256;

/// Puts a batch together.
#[derive(Clone, Debug)]
pub struct RecBufferBuilder {
    db_id: DbId,
    count: u32,
    records: BytesMut,
}

impl RecBufferBuilder {
    /// Adds a record whose data is as a TDB holds it: header and all, or nothing.
    pub fn push(&mut self, reqid: ReqId, key: &[u8], value: &[u8]) {
        self.count += 1;
        put_record(&mut self.records, reqid, key, &[value]);
    }

    /// Adds a record with its header.
    pub fn push_record(&mut self, reqid: ReqId, key: &[u8], header: &RecordHeader, data: &[u8]) {
        self.count += 1;
        put_record(&mut self.records, reqid, key, &[&header.to_bytes(), data]);
    }

    /// Whether a packet can carry the batch with one more record of this size. One alone can always
    /// be carried: a TDB file, too, ends at 4 GiB.
    pub fn has_room_for(&self, key_len: usize, value_len: usize) -> bool {
        let with_it = [RecData::MIN_LEN, key_len, value_len];
        let len = with_it
            .iter()
            .fold(self.wire_len(), |sum, part| sum.saturating_add(*part));
        self.count == 0 || len <= MAX_WIRE_LEN
    }

    /// Number of records so far.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Size on the wire so far, in bytes: compared with `RecBufferSizeLimit`.
    pub fn wire_len(&self) -> usize {
        RecBuffer::MIN_LEN + self.records.len()
    }

    /// The batch.
    pub fn finish(self) -> RecBuffer {
        RecBuffer {
            db_id: self.db_id,
            count: self.count,
            records: self.records.freeze(),
        }
    }
}

/// The fixed part of a record, checked against the bytes that follow it.
struct Lengths {
    reqid: ReqId,
    key: u32,
    data: u32,
}

impl Lengths {
    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        require(src, RecData::MIN_LEN)?;
        let stated = to_usize(u32::decode(src)?);
        let reqid = ReqId::decode(src)?;
        let (key, data) = (u32::decode(src)?, u32::decode(src)?);
        let actual = [to_usize(key), to_usize(data)]
            .iter()
            .fold(RecData::MIN_LEN, |sum, len| sum.saturating_add(*len));
        if stated != actual {
            return Err(DecodeError::LengthMismatch {
                what: "record length",
                stated,
                actual,
            });
        }
        require(src, actual - RecData::MIN_LEN)?;
        Ok(Self { reqid, key, data })
    }
}

fn put_record(out: &mut impl BufMut, reqid: ReqId, key: &[u8], data: &[&[u8]]) {
    let data_len: usize = data.iter().map(|part| part.len()).sum();
    to_u32(RecData::MIN_LEN + key.len() + data_len).encode(out);
    reqid.encode(out);
    to_u32(key.len()).encode(out);
    to_u32(data_len).encode(out);
    out.put_slice(key);
    for part in data {
        out.put_slice(part);
    }
}

/// Key, with its NUL, of the record that holds the sequence number of a database; its data is a
/// `u64`.
pub const DB_SEQNUM_KEY: &[u8] = b"__db_sequence_number__\0";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Rsn, decode_exact};

    fn batch() -> RecBuffer {
        let mut builder = RecBuffer::builder(DbId(7));
        builder.push(ReqId(1), b"key", b"");
        let header = RecordHeader {
            rsn: Rsn(9),
            ..RecordHeader::default()
        };
        builder.push_record(ReqId(2), b"k", &header, b"data");
        builder.finish()
    }

    #[test]
    fn a_batch_is_closed_before_no_packet_can_carry_it() {
        let whole_file = to_usize(u32::MAX) - 200;
        let mut batch = RecBuffer::builder(DbId(7));
        assert!(batch.has_room_for(4, whole_file), "one alone");
        batch.push(ReqId(0), b"key", &[0; 1000]);
        assert!(batch.has_room_for(4, 1000));
        assert!(batch.has_room_for(4, whole_file - 1200));
        assert!(!batch.has_room_for(4, whole_file - 1000));
        assert!(!batch.has_room_for(4, whole_file));
        assert!(!batch.has_room_for(usize::MAX, usize::MAX));
    }

    #[test]
    fn a_batch_gives_back_its_records() {
        let bytes = batch().to_bytes();
        assert_eq!(bytes.len(), 8 + 19 + 16 + 1 + 24 + 4);
        let batch: RecBuffer = decode_exact(bytes).unwrap();
        assert_eq!((batch.db_id(), batch.count()), (DbId(7), 2));
        let records: Vec<_> = batch.iter().collect();
        assert_eq!(
            records[0],
            RecordRef {
                reqid: ReqId(1),
                key: b"key",
                data: b""
            }
        );
        let (header, data) = records[1].split().unwrap();
        assert_eq!((header.rsn, data), (Rsn(9), &b"data"[..]));
    }

    #[test]
    fn more_records_than_bytes_are_refused_before_the_walk() {
        let mut bytes = batch().to_bytes().to_vec();
        bytes[4..8].copy_from_slice(&[0xFF; 4]);
        let error = RecBuffer::decode(&mut bytes.as_slice()).unwrap_err();
        assert!(
            matches!(
                error,
                DecodeError::TooShort {
                    need: 0xF_FFFF_FFF0,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_record_cannot_claim_more_or_less_than_it_has() {
        for (offset, value) in [(8, 18), (8, 20), (8, 0), (16, 2), (16, 4), (20, 200)] {
            let mut bytes = batch().to_bytes().to_vec();
            bytes[offset] = value;
            assert!(
                RecBuffer::decode(&mut bytes.as_slice()).is_err(),
                "{offset}: {value}"
            );
        }
    }

    #[test]
    fn bytes_behind_the_last_record_are_dropped() {
        let mut bytes = batch().to_bytes().to_vec();
        bytes.extend_from_slice(&[1, 2, 3]);
        assert_eq!(RecBuffer::decode(&mut bytes.as_slice()), Ok(batch()));
    }

    #[test]
    fn headers_are_looked_for_in_every_record() {
        assert!(batch().check_headers().is_err());
        assert!(RecBuffer::empty(DbId(1)).check_headers().is_ok());
    }

    #[test]
    fn the_end_of_a_traverse_has_16_bytes() {
        let mut bytes = Vec::new();
        RecData::end(ReqId(3)).encode(&mut bytes);
        assert_eq!(bytes, [16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(decode_exact::<RecData>(bytes.as_slice()).unwrap().is_end());
    }
}
