//! Loopback addresses for one cluster: `127.A.B.1`, `127.A.B.2` and so on.
//!
//! The nodes file has no port (`config.md` 2.1), so all daemons listen on 4379 and clusters side by
//! side must differ in their addresses. All of 127.0.0.0/8 belongs to this machine.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use super::error::{Error, Result};

/// The first three bytes of the addresses of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    a: u8,
    b: u8,
}

impl Prefix {
    /// The prefix that this address has; `None` outside of 127.0.0.0/8.
    pub fn of(address: Ipv4Addr) -> Option<Self> {
        let [net, a, b, _] = address.octets();
        (net == 127).then_some(Self { a, b })
    }

    /// Address of the node with this number.
    pub fn node(self, pnn: u8) -> Ipv4Addr {
        self.host(pnn + 1)
    }

    /// Any address of the cluster's network, for clients that are not in the nodes file.
    pub fn host(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.a, self.b, last)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "127.{}.{}", self.a, self.b)
    }
}

/// A random prefix on which all of `nodes` addresses are free.
///
/// The choice is not reserved: two clusters that start at the same moment differ because they
/// choose among 64,000, not because they know of each other.
pub fn free_prefix(nodes: u8) -> Result<Prefix> {
    let random = RandomState::new();
    (0..ATTEMPTS)
        .map(|attempt: u32| {
            let [a, b, ..] = random.hash_one(attempt).to_le_bytes();
            // Low numbers are left to what other programs put there by hand.
            Prefix {
                a: a.clamp(2, 254),
                b: b.clamp(1, 254),
            }
        })
        .find(|prefix| (0..nodes).all(|pnn| can_listen(prefix.node(pnn))))
        .ok_or(Error::NoFreeAddresses {
            nodes,
            attempts: ATTEMPTS,
        })
}

fn can_listen(address: Ipv4Addr) -> bool {
    TcpListener::bind((address, CTDB_PORT)).is_ok()
}

/// Port of the node-to-node transport when the services database names none.
pub(super) const CTDB_PORT: u16 = 4379;

const ATTEMPTS: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clusters_get_different_addresses() {
        let first = free_prefix(3).unwrap();
        let _held = TcpListener::bind((first.node(1), CTDB_PORT)).unwrap();
        assert!(!can_listen(first.node(1)));
        assert_ne!(free_prefix(3).unwrap(), first);
    }

    #[test]
    fn node_numbers_start_at_host_one() {
        let prefix = Prefix::of(Ipv4Addr::new(127, 3, 4, 9)).unwrap();
        assert_eq!(prefix.node(0), Ipv4Addr::new(127, 3, 4, 1));
        assert_eq!(prefix.to_string(), "127.3.4");
        assert_eq!(Prefix::of(Ipv4Addr::new(10, 0, 0, 1)), None);
    }
}
