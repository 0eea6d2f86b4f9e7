//! Controls on public addresses, network interfaces and tracked TCP connections.

use bytes::{Buf, BufMut};

use crate::text::{FixedStr, decode_cstr, encode_strn};
use crate::wire::{decode_list, encode_list, require, take_bytes, to_u32, wire_fields, wire_list};
use crate::{DecodeError, Pnn, SockAddr, Wire};

/// A public address and its host. 32 bytes.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    4 | `pnn`                  |
/// |      4 |   28 | `addr`                 |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PublicIp {
    /// `None`: hosted by no node.
    pub pnn: Option<Pnn>,
    pub addr: SockAddr,
}

wire_fields!(PublicIp, 32 bytes { pnn, addr });

/// Public addresses, the one added last first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PublicIpList {
    pub ips: Vec<PublicIp>,
}

wire_list!(PublicIpList { num: u32, ips });

/// A network interface. 24 bytes.
///
/// | offset | size | field                              |
/// |-------:|-----:|------------------------------------|
/// |      0 |   18 | `name`, filled up with NULs        |
/// |     18 |    2 | link state: 0 down, 1 up           |
/// |     20 |    4 | `references`                       |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Iface {
    /// The kernel allows 15 bytes.
    pub name: FixedStr<18>,
    pub link_up: bool,
    /// Number of public addresses on it.
    pub references: u32,
}

impl Wire for Iface {
    const MIN_LEN: usize = 24;

    fn encode(&self, out: &mut impl BufMut) {
        self.name.encode(out);
        u16::from(self.link_up).encode(out);
        self.references.encode(out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        require(src, Self::MIN_LEN)?;
        let name = FixedStr::decode(src)?;
        let link_up = match u16::decode(src)? {
            state @ (0 | 1) => state == 1,
            state => {
                return Err(DecodeError::BadValue {
                    field: "link state",
                    value: state.into(),
                });
            }
        };
        Ok(Self {
            name,
            link_up,
            references: u32::decode(src)?,
        })
    }
}

/// Network interfaces.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct IfaceList {
    pub ifaces: Vec<Iface>,
}

wire_list!(IfaceList { num: u32, ifaces });

/// Everything a node knows of a public address.
///
/// | offset | size | field                                    |
/// |-------:|-----:|------------------------------------------|
/// |      0 |   32 | `ip`                                     |
/// |     32 |    4 | `active_idx`, 0xFFFFFFFF for none        |
/// |     36 |    4 | number of interfaces                     |
/// |     40 | 24 n | interfaces                               |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicIpInfo {
    pub ip: PublicIp,
    /// Which of the interfaces has the address now. See [`Self::active`].
    pub active_idx: Option<u32>,
    /// The interfaces that can have the address.
    pub ifaces: Vec<Iface>,
}

impl PublicIpInfo {
    /// The interface that has the address now.
    pub fn active(&self) -> Option<&Iface> {
        self.ifaces.get(self.active_idx? as usize)
    }
}

impl Wire for PublicIpInfo {
    const MIN_LEN: usize = 40;

    fn encode(&self, out: &mut impl BufMut) {
        self.ip.encode(out);
        self.active_idx.unwrap_or(NO_IFACE).encode(out);
        to_u32(self.ifaces.len()).encode(out);
        encode_list(&self.ifaces, out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        require(src, Self::MIN_LEN)?;
        let ip = PublicIp::decode(src)?;
        let active_idx = u32::decode(src)?;
        let num = u32::decode(src)?;
        let ifaces = decode_list(num, src)?;
        Ok(Self {
            ip,
            active_idx: (active_idx != NO_IFACE).then_some(active_idx),
            ifaces,
        })
    }
}

const NO_IFACE: u32 = u32::MAX;

/// A TCP connection of a client to a public address. 56 bytes.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |   28 | `src`                  |
/// |     28 |   28 | `dst`                  |
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Connection {
    /// The client.
    pub src: SockAddr,
    /// The server, at a public address.
    pub dst: SockAddr,
}

wire_fields!(Connection, 56 bytes { src, dst });

impl Connection {
    /// Both ends as IPv4 where they are IPv4 in IPv6 clothes.
    #[must_use]
    pub fn unmapped(self) -> Self {
        Self {
            src: self.src.unmapped(),
            dst: self.dst.unmapped(),
        }
    }
}

/// TCP connections.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConnectionList {
    pub connections: Vec<Connection>,
}

wire_list!(ConnectionList {
    num: u32,
    connections
});

/// The connections to one public address: each gets a tickle when the address moves.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |   28 | `addr`                 |
/// |     28 |    4 | number of connections  |
/// |     32 | 56 n | connections            |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TickleList {
    pub addr: SockAddr,
    pub connections: Vec<Connection>,
}

impl Wire for TickleList {
    const MIN_LEN: usize = 32;

    fn encode(&self, out: &mut impl BufMut) {
        self.addr.encode(out);
        to_u32(self.connections.len()).encode(out);
        encode_list(&self.connections, out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let addr = SockAddr::decode(src)?;
        let num = u32::decode(src)?;
        Ok(Self {
            addr,
            connections: decode_list(num, src)?,
        })
    }
}

/// A public address to be announced, added or removed.
///
/// | offset | size | field                                        |
/// |-------:|-----:|----------------------------------------------|
/// |      0 |   28 | `addr`                                       |
/// |     28 |    4 | `mask_bits`                                  |
/// |     32 |    4 | length of the interfaces, NUL included       |
/// |     36 |      | interfaces                                   |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AddrInfo {
    pub addr: SockAddr,
    /// Length of the network prefix.
    pub mask_bits: u32,
    /// Names, separated by commas. Empty where it does not matter.
    pub ifaces: String,
}

impl Wire for AddrInfo {
    const MIN_LEN: usize = 36;

    fn encode(&self, out: &mut impl BufMut) {
        self.addr.encode(out);
        self.mask_bits.encode(out);
        encode_strn(&self.ifaces, out);
    }

    /// Unlike in other strings with a length, the NUL must be there.
    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        require(src, Self::MIN_LEN)?;
        let addr = SockAddr::decode(src)?;
        let mask_bits = u32::decode(src)?;
        let len = u32::decode(src)?;
        let ifaces = match take_bytes(src, len)? {
            none if none.is_empty() => String::new(),
            some => decode_cstr(&some, "interfaces")?,
        };
        Ok(Self {
            addr,
            mask_bits,
            ifaces,
        })
    }
}
