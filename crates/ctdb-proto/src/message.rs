//! Operation `REQ_MESSAGE`: data for whoever registered a service id.

use bytes::{Buf, BufMut, Bytes};

use crate::wire::{take_bytes, to_u32};
use crate::{DecodeError, Srvid, Wire};

/// A message. Nobody answers it (`wire.md 3.4`).
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |     32 |    8 | `srvid`                |
/// |     40 |    4 | length of the data     |
/// |     44 |      | data                   |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReqMessage {
    pub srvid: Srvid,
    pub data: Bytes,
}

impl Wire for ReqMessage {
    const MIN_LEN: usize = 12;

    fn encode(&self, out: &mut impl BufMut) {
        self.srvid.encode(out);
        to_u32(self.data.len()).encode(out);
        out.put_slice(&self.data);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let srvid = Srvid::decode(src)?;
        let len = u32::decode(src)?;
        Ok(Self {
            srvid,
            data: take_bytes(src, len)?,
        })
    }
}
