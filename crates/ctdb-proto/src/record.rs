//! Records as databases and batches hold them.

use bytes::{Buf, BufMut};

use crate::wire::{put_padding, skip_padding};
use crate::{DecodeError, Pnn, RecordFlags, Rsn, Wire};

/// Header in front of each record in a local TDB. 24 bytes (`ltdb_header` in `wire.md 4.1`).
///
/// | offset | size | field                                              |
/// |-------:|-----:|----------------------------------------------------|
/// |      0 |    8 | `rsn`                                              |
/// |      8 |    4 | `dmaster`                                          |
/// |     12 |    4 | `reserved`, 0, kept as read                        |
/// |     16 |    4 | `flags`                                            |
/// |     20 |    4 | padding, written as 0                              |
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RecordHeader {
    pub rsn: Rsn,
    /// Raw, because a damaged or half-written record may hold anything: see [`Self::dmaster`].
    pub dmaster: u32,
    pub reserved: u32,
    pub flags: RecordFlags,
}

impl RecordHeader {
    /// Size in a database and on the wire.
    pub const LEN: usize = 24;

    /// The header of a record that `dmaster` holds.
    pub fn new(rsn: Rsn, dmaster: Pnn, flags: RecordFlags) -> Self {
        Self {
            rsn,
            dmaster: dmaster.get(),
            reserved: 0,
            flags,
        }
    }

    /// The data master, if the field names a node.
    pub const fn dmaster(&self) -> Option<Pnn> {
        Pnn::new(self.dmaster)
    }

    /// The header as it stands in front of the record's data.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        self.encode(&mut bytes.as_mut_slice());
        bytes
    }

    /// Splits the value that a database holds into header and data.
    pub fn split(value: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut rest = value;
        let header = Self::decode(&mut rest)?;
        Ok((header, rest))
    }
}

impl Wire for RecordHeader {
    const MIN_LEN: usize = Self::LEN;

    fn encode(&self, out: &mut impl BufMut) {
        self.rsn.encode(out);
        self.dmaster.encode(out);
        self.reserved.encode(out);
        self.flags.encode(out);
        put_padding(out, 4);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let header = Self {
            rsn: Rsn::decode(src)?,
            dmaster: u32::decode(src)?,
            reserved: u32::decode(src)?,
            flags: RecordFlags::decode(src)?,
        };
        skip_padding(src, 4)?;
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_split_into_header_and_data() {
        let header = RecordHeader::new(
            Rsn(4),
            Pnn::new(2).unwrap(),
            RecordFlags::MIGRATED_WITH_DATA,
        );
        let mut value = header.to_bytes().to_vec();
        value.extend_from_slice(b"data");
        assert_eq!(RecordHeader::split(&value), Ok((header, &b"data"[..])));
    }

    #[test]
    fn a_short_value_has_no_header() {
        assert!(RecordHeader::split(&[0; 23]).is_err());
    }
}
