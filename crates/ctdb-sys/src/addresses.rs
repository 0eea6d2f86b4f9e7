//! The IP addresses of this host.

use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

/// Whether an interface of this host has the address. Being able to bind to it is no proof: with
/// the sysctl `ip_nonlocal_bind` that works for any address.
pub fn is_local(address: IpAddr) -> io::Result<bool> {
    // All of 127.0.0.0/8 is local although the loopback interface shows one address only.
    if matches!(address, IpAddr::V4(v4) if v4.is_loopback()) {
        return Ok(true);
    }
    Ok(local_addresses()?.contains(&address))
}

/// The addresses of all interfaces, in the order of the system.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = getifaddrs().map_err(io::Error::from)?;
    Ok(interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            if let Some(v4) = address.as_sockaddr_in() {
                return Some(IpAddr::V4(v4.ip()));
            }
            address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_local_and_a_documentation_address_is_not() {
        assert!(is_local("127.0.0.1".parse().unwrap()).unwrap());
        assert!(is_local("127.9.8.7".parse().unwrap()).unwrap());
        assert!(!is_local("192.0.2.77".parse().unwrap()).unwrap());
    }
}
