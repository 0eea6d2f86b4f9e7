//! Locks as the `ctdb` tool and its library keep them in the database `g_lock.tdb`.

use bytes::{Buf, BufMut};

use crate::wire::wire_fields;
use crate::{DecodeError, Wire};

/// Name of the database.
pub const G_LOCK_DB: &str = "g_lock.tdb";

/// Name of a process in a Samba cluster. 24 bytes.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    8 | `pid`                  |
/// |      8 |    4 | `task_id`              |
/// |     12 |    4 | `vnn`                  |
/// |     16 |    8 | `unique_id`            |
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ServerId {
    pub pid: u64,
    pub task_id: u32,
    /// Number of the node the process runs on, under the name Samba has for it.
    pub vnn: u32,
    pub unique_id: u64,
}

wire_fields!(ServerId, 24 bytes { pid, task_id, vnn, unique_id });

/// What a holder of a lock may do.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum GLockType {
    Read = 0,
    Write = 1,
}

impl Wire for GLockType {
    const MIN_LEN: usize = 4;

    fn encode(&self, out: &mut impl BufMut) {
        (*self as u32).encode(out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        match u32::decode(src)? {
            0 => Ok(Self::Read),
            1 => Ok(Self::Write),
            raw => Err(DecodeError::BadValue {
                field: "lock type",
                value: raw.into(),
            }),
        }
    }
}

/// One holder of a lock. 32 bytes.
///
/// | offset | size | field                                |
/// |-------:|-----:|--------------------------------------|
/// |      0 |    4 | `kind`, then 4 bytes of padding      |
/// |      8 |   24 | `holder`                             |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GLockEntry {
    pub kind: GLockType,
    pub holder: ServerId,
}

wire_fields!(GLockEntry, 32 bytes { kind + 4, holder });

/// The data of a record: all holders of one lock, without a count.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GLock {
    pub entries: Vec<GLockEntry>,
}

impl GLock {
    /// Decodes the data of a record, its header taken off. No data: nobody holds the lock.
    pub fn decode(mut data: &[u8]) -> Result<Self, DecodeError> {
        let mut entries = Vec::with_capacity(data.len() / GLockEntry::LEN);
        while !data.is_empty() {
            entries.push(GLockEntry::decode(&mut data)?);
        }
        Ok(Self { entries })
    }

    /// The data of the record.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * GLockEntry::LEN);
        crate::wire::encode_list(&self.entries, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_lists_its_holders() {
        let holder = ServerId {
            pid: 7,
            task_id: 1,
            vnn: 2,
            unique_id: 9,
        };
        let entry = |kind| GLockEntry { kind, holder };
        let lock = GLock {
            entries: vec![entry(GLockType::Read), entry(GLockType::Write)],
        };
        assert_eq!(GLock::decode(&lock.to_bytes()), Ok(lock.clone()));
        assert_eq!(GLock::decode(b""), Ok(GLock::default()));
        assert!(GLock::decode(&lock.to_bytes()[..63]).is_err());
    }
}
