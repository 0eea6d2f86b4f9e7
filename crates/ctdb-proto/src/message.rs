//! Operation `REQ_MESSAGE`: data for whoever registered a service id.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use crate::wire::{take_bytes, to_u32, wire_fields};
use crate::{DecodeError, NodeFlags, Pnn, Srvid, TimeVal, Wire};

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

/// A node wants to lead. 32 bytes.
///
/// | offset | size | field                                  |
/// |-------:|-----:|----------------------------------------|
/// |      0 |    4 | `num_connected`, 4 bytes of padding    |
/// |      8 |   16 | `priority_time`                        |
/// |     24 |    4 | `pnn`                                  |
/// |     28 |    4 | `node_flags`                           |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ElectionMessage {
    /// How many nodes the sender is connected to, itself included.
    pub num_connected: u32,
    /// Since when the sender runs.
    pub priority_time: TimeVal,
    pub pnn: Pnn,
    pub node_flags: NodeFlags,
}

wire_fields!(ElectionMessage, 32 bytes { num_connected + 4, priority_time, pnn, node_flags });

/// A question, and where the answer is to be sent. 16 bytes.
///
/// | offset | size | field                               |
/// |-------:|-----:|-------------------------------------|
/// |      0 |    4 | `pnn`, then 4 bytes of padding      |
/// |      8 |    8 | `srvid`                             |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SrvidMessage {
    pub pnn: Option<Pnn>,
    /// 0: no answer is wanted.
    pub srvid: Srvid,
}

wire_fields!(SrvidMessage, 16 bytes { pnn + 4, srvid });

/// Something is not to be done for some time. 24 bytes.
///
/// | offset | size | field                                           |
/// |-------:|-----:|-------------------------------------------------|
/// |      0 |    4 | `pnn`, then 4 bytes of padding                  |
/// |      8 |    8 | `srvid`                                         |
/// |     16 |    4 | `timeout` in seconds, then 4 bytes of padding   |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DisableMessage {
    pub pnn: Option<Pnn>,
    /// 0: no answer is wanted.
    pub srvid: Srvid,
    /// Zero: it may be done again.
    pub timeout: Duration,
}

wire_fields!(DisableMessage, 24 bytes { pnn + 4, srvid, timeout + 4 });
