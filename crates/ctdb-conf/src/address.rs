//! IP addresses as CTDB writes them in files and on command lines (`cli.md` 1.9).

use std::net::{IpAddr, Ipv6Addr};

/// Longest text of an address, address and port or address and mask; longer ones are invalid.
pub const MAX_ADDRESS_TEXT: usize = 63;

/// Reads a bare IPv4 dotted quad or IPv6 address. `::ffff:a.b.c.d` becomes IPv4; the same bits
/// written in hexadecimal are no address to the original, nor to us.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.len() > MAX_ADDRESS_TEXT {
        return None;
    }
    if !text.contains(':') {
        return text.parse().ok().map(IpAddr::V4);
    }
    let v6: Ipv6Addr = text.parse().ok()?;
    match v6.to_ipv4_mapped() {
        Some(v4) if text.contains('.') => Some(IpAddr::V4(v4)),
        Some(_) => None,
        None => Some(IpAddr::V6(v6)),
    }
}

/// Like [`parse_ip`]; IPv6 may also stand in square brackets.
pub fn parse_ip_or_bracketed(text: &str) -> Option<IpAddr> {
    if text.len() > MAX_ADDRESS_TEXT {
        return None;
    }
    match text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inner) if inner.contains(':') => parse_ip(inner),
        Some(_) => None,
        None => parse_ip(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_become_ipv4_only_in_dotted_form() {
        assert_eq!(
            parse_ip("::ffff:10.0.0.1"),
            Some("10.0.0.1".parse().unwrap())
        );
        assert_eq!(parse_ip("::ffff:a09:1"), None);
    }

    #[test]
    fn brackets_are_for_ipv6_only() {
        assert_eq!(
            parse_ip_or_bracketed("[fd00::1]"),
            Some("fd00::1".parse().unwrap())
        );
        assert_eq!(parse_ip_or_bracketed("[10.0.0.1]"), None);
        assert_eq!(parse_ip("[fd00::1]"), None);
    }

    #[test]
    fn names_ports_and_long_texts_are_refused() {
        for text in ["localhost", "10.0.0.1:4379", "10.0.0", "", "10.0.0.1 "] {
            assert_eq!(parse_ip(text), None, "{text}");
        }
        assert_eq!(parse_ip(&"0".repeat(64)), None);
    }
}
