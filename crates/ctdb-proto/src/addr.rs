//! Socket addresses of nodes, public addresses and tracked TCP connections.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use bytes::{Buf, BufMut};

use crate::wire::{put_padding, skip_padding, take_array};
use crate::{DecodeError, Wire};

/// An IPv4 or IPv6 address with a port. 28 bytes (`wire.md 4.1`).
///
/// | offset | size | IPv4                      | IPv6                          |
/// |-------:|-----:|---------------------------|-------------------------------|
/// |      0 |    2 | family, 2                 | family, 10                    |
/// |      2 |    2 | port, network order       | port, network order           |
/// |      4 |    4 | address                   | `flowinfo`, network order     |
/// |      8 |   16 | zeros, ignored on reading | address                       |
/// |     24 |    4 | zeros, ignored on reading | `scope_id`                    |
///
/// Equality, order and hash look at family, port and address only: smbd leaves garbage in the
/// rest.
#[derive(Clone, Copy, Debug)]
pub struct SockAddr(pub SocketAddr);

impl SockAddr {
    /// Size on the wire.
    pub const LEN: usize = 28;

    /// The address without its port.
    pub fn ip(&self) -> IpAddr {
        self.0.ip()
    }

    /// The port, 0 where there is none.
    pub fn port(&self) -> u16 {
        self.0.port()
    }

    /// The same address with another port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.0.set_port(port);
        self
    }

    /// An IPv4 address that is wrapped into IPv6 (`::ffff:a.b.c.d`) as IPv4, all others as they
    /// are. Connections are reported wrapped, public addresses are not.
    #[must_use]
    pub fn unmapped(self) -> Self {
        match self.ip() {
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => Self::from((IpAddr::V4(ip), self.port())),
                None => self,
            },
            IpAddr::V4(_) => self,
        }
    }

    /// What two addresses are compared by.
    fn key(&self) -> (IpAddr, u16) {
        (self.ip(), self.port())
    }
}

impl From<SocketAddr> for SockAddr {
    fn from(addr: SocketAddr) -> Self {
        Self(addr)
    }
}

impl From<IpAddr> for SockAddr {
    fn from(ip: IpAddr) -> Self {
        Self(SocketAddr::new(ip, 0))
    }
}

impl From<(IpAddr, u16)> for SockAddr {
    fn from(addr: (IpAddr, u16)) -> Self {
        Self(addr.into())
    }
}

impl PartialEq for SockAddr {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for SockAddr {}

impl PartialOrd for SockAddr {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SockAddr {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl Hash for SockAddr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl fmt::Display for SockAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Wire for SockAddr {
    const MIN_LEN: usize = Self::LEN;

    fn encode(&self, out: &mut impl BufMut) {
        match self.0 {
            SocketAddr::V4(addr) => {
                FAMILY_INET.encode(out);
                out.put_u16(addr.port());
                out.put_slice(&addr.ip().octets());
                put_padding(out, 20);
            }
            SocketAddr::V6(addr) => {
                FAMILY_INET6.encode(out);
                out.put_u16(addr.port());
                out.put_u32(addr.flowinfo());
                out.put_slice(&addr.ip().octets());
                addr.scope_id().encode(out);
            }
        }
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let family = u16::decode(src)?;
        let port = src.try_get_u16()?;
        match family {
            FAMILY_INET => {
                let ip = Ipv4Addr::from(take_array::<4>(src)?);
                skip_padding(src, 20)?;
                Ok(Self(SocketAddrV4::new(ip, port).into()))
            }
            FAMILY_INET6 => {
                let flowinfo = src.try_get_u32()?;
                let ip = Ipv6Addr::from(take_array::<16>(src)?);
                let scope_id = u32::decode(src)?;
                Ok(Self(SocketAddrV6::new(ip, port, flowinfo, scope_id).into()))
            }
            found => Err(DecodeError::BadFamily { found }),
        }
    }
}

const FAMILY_INET: u16 = 2;
const FAMILY_INET6: u16 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SockAddr {
        SockAddr(text.parse().unwrap())
    }

    #[test]
    fn flowinfo_and_scope_do_not_make_addresses_differ() {
        let plain = addr("[fe80::1]:445");
        let scoped = SockAddr(SocketAddrV6::new("fe80::1".parse().unwrap(), 445, 7, 3).into());
        assert_eq!(plain, scoped);
        assert_ne!(plain, addr("[fe80::1]:139"));
    }

    #[test]
    fn a_wrapped_ipv4_address_is_unwrapped() {
        assert_eq!(
            addr("[::ffff:10.0.0.1]:445").unmapped(),
            addr("10.0.0.1:445")
        );
        assert_eq!(addr("[::1]:445").unmapped(), addr("[::1]:445"));
    }

    #[test]
    fn both_families_take_28_bytes() {
        for text in ["10.21.0.2:4379", "[fd00:21::3]:0"] {
            let mut bytes = Vec::new();
            addr(text).encode(&mut bytes);
            assert_eq!(bytes.len(), SockAddr::LEN);
            assert_eq!(SockAddr::decode(&mut bytes.as_slice()), Ok(addr(text)));
        }
    }

    #[test]
    fn an_unknown_family_is_an_error() {
        let error = SockAddr::decode(&mut &[1; 28][..]).unwrap_err();
        assert_eq!(error, DecodeError::BadFamily { found: 0x0101 });
    }
}
