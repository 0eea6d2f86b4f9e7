//! Operation `REQ_TUNNEL`: packets of another protocol between two clients.

use bitflags::bitflags;
use bytes::{Buf, BufMut, Bytes};

use crate::flags::wire_flags;
use crate::types::number;
use crate::wire::{take_bytes, to_u32};
use crate::{DecodeError, Wire};

number! {
    /// Address of a tunnel; one client of a node can register it.
    TunnelId(u64), "{:#018x}"
}

bitflags! {
    /// Meant for the clients; the daemon hands them on.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub struct TunnelFlags: u32 {
        const REQUEST = 0x01;
        const REPLY = 0x02;
        const NOREPLY = 0x10;

        const _ = !0;
    }
}

wire_flags! {
    TunnelFlags: u32;
}

/// Data for the client that registered a tunnel (`wire.md 3.8`).
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |     32 |    8 | `tunnel_id`            |
/// |     40 |    4 | `flags`                |
/// |     44 |    4 | length of the data     |
/// |     48 |      | data                   |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReqTunnel {
    pub tunnel_id: TunnelId,
    pub flags: TunnelFlags,
    pub data: Bytes,
}

impl Wire for ReqTunnel {
    const MIN_LEN: usize = 16;

    fn encode(&self, out: &mut impl BufMut) {
        self.tunnel_id.encode(out);
        self.flags.encode(out);
        to_u32(self.data.len()).encode(out);
        out.put_slice(&self.data);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let tunnel_id = TunnelId::decode(src)?;
        let flags = TunnelFlags::decode(src)?;
        let len = u32::decode(src)?;
        Ok(Self {
            tunnel_id,
            flags,
            data: take_bytes(src, len)?,
        })
    }
}
