//! Controls on databases: the list of them, freezing, transactions of the recovery, vacuuming.

use bytes::{Buf, BufMut, Bytes};

use crate::wire::{take_bytes, to_u32, wire_fields, wire_list};
use crate::{DbFlags, DbId, DecodeError, Generation, RecordHeader, Srvid, Wire};

/// One database. 8 bytes.
///
/// | offset | size | field                               |
/// |-------:|-----:|-------------------------------------|
/// |      0 |    4 | `db_id`                             |
/// |      4 |    1 | `flags`, then 3 bytes of padding    |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DbidEntry {
    pub db_id: DbId,
    pub flags: DbFlags,
}

wire_fields!(DbidEntry, 8 bytes { db_id, flags + 3 });

/// All attached databases, the one attached last first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DbidMap {
    pub dbs: Vec<DbidEntry>,
}

wire_list!(DbidMap { num: u32, dbs });

/// Where the records of a database are to be sent, or will come from. 16 bytes.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    4 | `db_id`                |
/// |      4 |    4 | `lmaster`              |
/// |      8 |    8 | `srvid`                |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PullDbExt {
    pub db_id: DbId,
    /// Without a meaning; some senders leave garbage here. 0xFFFFFFFF: any.
    pub lmaster: u32,
    /// Address of the messages with the records.
    pub srvid: Srvid,
}

wire_fields!(PullDbExt, 16 bytes { db_id, lmaster, srvid });

/// A database and the transaction on it that a recovery runs. 8 bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TransDb {
    pub db_id: DbId,
    /// The generation that the recovery will set.
    pub tid: Generation,
}

wire_fields!(TransDb, 8 bytes { db_id, tid });

/// Vacuum a database now. 5 bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DbVacuum {
    pub db_id: DbId,
    /// Look at all records instead of those that were marked.
    pub full: bool,
}

impl Wire for DbVacuum {
    const MIN_LEN: usize = 5;

    fn encode(&self, out: &mut impl BufMut) {
        self.db_id.encode(out);
        self.full.encode(out);
    }

    /// Stricter than other flags: only 0 and 1 are accepted.
    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let db_id = DbId::decode(src)?;
        match u8::decode(src)? {
            flag @ (0 | 1) => Ok(Self {
                db_id,
                full: flag == 1,
            }),
            flag => Err(DecodeError::BadValue {
                field: "full vacuum flag",
                value: flag.into(),
            }),
        }
    }
}

/// A record without data that is to be deleted (`key_data` in `wire.md 4.2`).
///
/// | offset | size | field                               |
/// |-------:|-----:|-------------------------------------|
/// |      0 |    4 | `db_id`, then 4 bytes of padding    |
/// |      8 |   24 | `header`                            |
/// |     32 |    4 | length of the key                   |
/// |     36 |      | key                                 |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyData {
    pub db_id: DbId,
    pub header: RecordHeader,
    pub key: Bytes,
}

impl Wire for KeyData {
    const MIN_LEN: usize = 36;

    fn encode(&self, out: &mut impl BufMut) {
        self.db_id.encode(out);
        crate::wire::put_padding(out, 4);
        self.header.encode(out);
        to_u32(self.key.len()).encode(out);
        out.put_slice(&self.key);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let db_id = DbId::decode(src)?;
        crate::wire::skip_padding(src, 4)?;
        let header = RecordHeader::decode(src)?;
        let len = u32::decode(src)?;
        Ok(Self {
            db_id,
            header,
            key: take_bytes(src, len)?,
        })
    }
}

/// Argument of `GET_DB_SEQNUM`: a database id in 8 bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SeqnumDb {
    pub db_id: DbId,
}

wire_fields!(SeqnumDb, 8 bytes { db_id + 4 });
