//! Operations on records: calls, their replies, and the packets that move a record.

use bitflags::bitflags;
use bytes::{Buf, BufMut, Bytes};
use std::borrow::Cow;

use crate::flags::wire_flags;
use crate::types::number;
use crate::wire::{put_padding, skip_padding, take_bytes, to_u32};
use crate::{DbId, DecodeError, Pnn, RecordFlags, Rsn, Wire};

number! {
    /// What a call does with its record (`wire.md 7.1`).
    CallId(u32), "{:#010x}"
}

impl CallId {
    /// Nothing: used to migrate a record here.
    pub const NULL: Self = Self(0xFF00_0001);
    /// Replies with the data of the record.
    pub const FETCH: Self = Self(0xFF00_0002);
    /// Replies with header and data of the record.
    pub const FETCH_WITH_HEADER: Self = Self(0xFF00_0003);
}

bitflags! {
    /// How a call is to be done (`wire.md 7.2`).
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub struct CallFlags: u32 {
        /// Move the record here. Not looked at: a remote call always does.
        const IMMEDIATE_MIGRATION = 0x1;
        /// The record comes to be deleted.
        const VACUUM_MIGRATION = 0x2;
        /// A read-only copy will do.
        const WANT_READONLY = 0x4;

        const _ = !0;
    }
}

wire_flags! {
    CallFlags: u32;
}

/// A call of a client, or its way through the nodes (`wire.md 3.1`).
///
/// | offset | size | field                     |
/// |-------:|-----:|---------------------------|
/// |     32 |    4 | `flags`                   |
/// |     36 |    4 | `db_id`                   |
/// |     40 |    4 | `call_id`                 |
/// |     44 |    4 | `hopcount`                |
/// |     48 |    4 | length of the key, not 0  |
/// |     52 |    4 | length of the call data   |
/// |     56 |      | key, then call data       |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReqCall {
    pub flags: CallFlags,
    pub db_id: DbId,
    pub call_id: CallId,
    /// 0 from the originator, one more for each redirect.
    pub hopcount: u32,
    pub key: Bytes,
    pub data: Bytes,
}

impl Wire for ReqCall {
    const MIN_LEN: usize = 24;

    fn encode(&self, out: &mut impl BufMut) {
        self.flags.encode(out);
        self.db_id.encode(out);
        self.call_id.encode(out);
        self.hopcount.encode(out);
        to_u32(self.key.len()).encode(out);
        to_u32(self.data.len()).encode(out);
        out.put_slice(&self.key);
        out.put_slice(&self.data);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let flags = CallFlags::decode(src)?;
        let db_id = DbId::decode(src)?;
        let call_id = CallId::decode(src)?;
        let hopcount = u32::decode(src)?;
        let (key_len, data_len) = (u32::decode(src)?, u32::decode(src)?);
        if key_len == 0 {
            return Err(DecodeError::Empty { field: "key" });
        }
        let key = take_bytes(src, key_len)?;
        let data = take_bytes(src, data_len)?;
        Ok(Self {
            flags,
            db_id,
            call_id,
            hopcount,
            key,
            data,
        })
    }
}

/// The result of a call (`wire.md 3.2`).
///
/// | offset | size | field              |
/// |-------:|-----:|--------------------|
/// |     32 |    4 | `status`           |
/// |     36 |    4 | length of the data |
/// |     40 |      | data               |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplyCall {
    pub status: i32,
    pub data: Bytes,
}

impl Wire for ReplyCall {
    const MIN_LEN: usize = 8;

    fn encode(&self, out: &mut impl BufMut) {
        self.status.encode(out);
        to_u32(self.data.len()).encode(out);
        out.put_slice(&self.data);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let status = i32::decode(src)?;
        let len = u32::decode(src)?;
        Ok(Self {
            status,
            data: take_bytes(src, len)?,
        })
    }
}

/// A call or a migration cannot be done (`wire.md 3.2`). Laid out as [`ReplyCall`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplyError {
    pub status: i32,
    /// Text, with its NUL if the sender behaves.
    pub message: Bytes,
}

impl ReplyError {
    /// An error with this text; the NUL is added.
    pub fn new(status: i32, text: &str) -> Self {
        let mut message = Vec::with_capacity(text.len() + 1);
        message.extend_from_slice(text.as_bytes());
        message.push(0);
        Self {
            status,
            message: message.into(),
        }
    }

    /// The text up to the first NUL.
    pub fn text(&self) -> Cow<'_, str> {
        let text = self
            .message
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        String::from_utf8_lossy(text)
    }
}

impl Wire for ReplyError {
    const MIN_LEN: usize = 8;

    fn encode(&self, out: &mut impl BufMut) {
        self.status.encode(out);
        to_u32(self.message.len()).encode(out);
        out.put_slice(&self.message);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let status = i32::decode(src)?;
        let len = u32::decode(src)?;
        Ok(Self {
            status,
            message: take_bytes(src, len)?,
        })
    }
}

/// The dmaster gives a record away, by way of its lmaster (`wire.md 3.3`).
///
/// | offset | size | field                                            |
/// |-------:|-----:|--------------------------------------------------|
/// |     32 |    4 | `db_id`, then 4 bytes of padding                 |
/// |     40 |    8 | `rsn`                                            |
/// |     48 |    4 | `dmaster`                                        |
/// |     52 |    4 | length of the key                                |
/// |     56 |    4 | length of the data                               |
/// |     60 |      | key, data, then 4 bytes `record_flags`, unaligned |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReqDmaster {
    pub db_id: DbId,
    pub rsn: Rsn,
    /// The new dmaster: the node that asked for the record.
    pub dmaster: Pnn,
    pub key: Bytes,
    /// Data of the record, without its header.
    pub data: Bytes,
    /// Daemons always send them; where they are missing they count as 0.
    pub record_flags: Option<RecordFlags>,
}

impl Wire for ReqDmaster {
    const MIN_LEN: usize = 28;

    fn encode(&self, out: &mut impl BufMut) {
        self.db_id.encode(out);
        put_padding(out, 4);
        self.rsn.encode(out);
        self.dmaster.encode(out);
        encode_moved_record(&self.key, &self.data, self.record_flags, out);
    }

    /// Takes everything that is left: what follows the data decides about the record flags.
    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let db_id = DbId::decode(src)?;
        skip_padding(src, 4)?;
        let rsn = Rsn::decode(src)?;
        let dmaster = Pnn::decode(src)?;
        let (key, data, record_flags) = decode_moved_record(src)?;
        Ok(Self {
            db_id,
            rsn,
            dmaster,
            key,
            data,
            record_flags,
        })
    }
}

/// The lmaster hands a record to its new dmaster (`wire.md 3.3`).
///
/// | offset | size | field                                            |
/// |-------:|-----:|--------------------------------------------------|
/// |     32 |    4 | `db_id`, then 4 bytes of padding                 |
/// |     40 |    8 | `rsn`                                            |
/// |     48 |    4 | length of the key                                |
/// |     52 |    4 | length of the data                               |
/// |     56 |      | key, data, then 4 bytes `record_flags`, unaligned |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplyDmaster {
    pub db_id: DbId,
    pub rsn: Rsn,
    pub key: Bytes,
    /// Data of the record, without its header.
    pub data: Bytes,
    /// Daemons always send them; where they are missing they count as 0.
    pub record_flags: Option<RecordFlags>,
}

impl Wire for ReplyDmaster {
    const MIN_LEN: usize = 24;

    fn encode(&self, out: &mut impl BufMut) {
        self.db_id.encode(out);
        put_padding(out, 4);
        self.rsn.encode(out);
        encode_moved_record(&self.key, &self.data, self.record_flags, out);
    }

    /// Takes everything that is left: what follows the data decides about the record flags.
    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let db_id = DbId::decode(src)?;
        skip_padding(src, 4)?;
        let rsn = Rsn::decode(src)?;
        let (key, data, record_flags) = decode_moved_record(src)?;
        Ok(Self {
            db_id,
            rsn,
            key,
            data,
            record_flags,
        })
    }
}

fn encode_moved_record(key: &[u8], data: &[u8], flags: Option<RecordFlags>, out: &mut impl BufMut) {
    to_u32(key.len()).encode(out);
    to_u32(data.len()).encode(out);
    out.put_slice(key);
    out.put_slice(data);
    if let Some(flags) = flags {
        flags.encode(out);
    }
}

fn decode_moved_record(
    src: &mut impl Buf,
) -> Result<(Bytes, Bytes, Option<RecordFlags>), DecodeError> {
    let (key_len, data_len) = (u32::decode(src)?, u32::decode(src)?);
    let key = take_bytes(src, key_len)?;
    let data = take_bytes(src, data_len)?;
    let has_flags = src.remaining() >= RecordFlags::MIN_LEN;
    let flags = has_flags.then(|| RecordFlags::decode(src)).transpose()?;
    Ok((key, data, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_flags_may_be_missing() {
        let reply = ReplyDmaster {
            db_id: DbId(1),
            rsn: Rsn(2),
            key: Bytes::from_static(b"key"),
            data: Bytes::from_static(b"data"),
            record_flags: Some(RecordFlags::AUTOMATIC),
        };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        assert_eq!(
            ReplyDmaster::decode(&mut bytes.as_slice()),
            Ok(reply.clone())
        );
        bytes.truncate(bytes.len() - 4);
        let expected = ReplyDmaster {
            record_flags: None,
            ..reply
        };
        assert_eq!(ReplyDmaster::decode(&mut bytes.as_slice()), Ok(expected));
    }

    #[test]
    fn an_error_text_does_not_need_its_nul() {
        assert_eq!(ReplyError::new(-1, "no such db").message.len(), 11);
        assert_eq!(ReplyError::new(-1, "no such db").text(), "no such db");
        let message = Bytes::from_static(b"no end");
        assert_eq!(
            ReplyError {
                status: -1,
                message
            }
            .text(),
            "no end"
        );
    }
}
