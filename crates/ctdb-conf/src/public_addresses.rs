//! The `public_addresses` file: which addresses this node may host, and on which interfaces
//! (`ip-takeover.md` 2.1).

use std::net::IpAddr;

use crate::Diagnostic;
use crate::address::{MAX_ADDRESS_TEXT, parse_ip_or_bracketed};
use crate::number::c_decimal;

/// Longest name of a network interface that the protocol can carry.
pub const MAX_INTERFACE_NAME: usize = 16;

/// One line of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicAddress {
    pub address: IpAddr,
    /// Bits of the network mask. Eight bits of what the file says, unchecked, as in the original.
    pub mask: u8,
    /// Interfaces in the order of the file; a name may stand there twice, the list may be empty.
    pub interfaces: Vec<String>,
}

/// The file as read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PublicAddresses {
    /// Addresses in the order of the file.
    pub addresses: Vec<PublicAddress>,
    /// Things the original accepts in silence, such as a mask of 300 bits.
    pub warnings: Vec<Diagnostic>,
}

/// What is wrong with a line. The original refuses the whole file then.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PublicAddressesError {
    #[error("No interface specified at line {line} of public addresses file")]
    NoInterface { line: usize },
    #[error("Badly formed line {line} in public address list")]
    BadAddress { line: usize },
    #[error("Duplicate public IP address '{address}'")]
    Duplicate { line: usize, address: IpAddr },
    #[error("Unknown interface {interface} for public address {address}")]
    UnknownInterface {
        line: usize,
        interface: String,
        address: IpAddr,
    },
    #[error("Interface name {interface} for public address {address} is too long")]
    InterfaceNameTooLong {
        line: usize,
        interface: String,
        address: IpAddr,
    },
}

impl PublicAddressesError {
    /// Line of the file, counted from 1.
    pub fn line(&self) -> usize {
        match self {
            Self::NoInterface { line }
            | Self::BadAddress { line }
            | Self::Duplicate { line, .. }
            | Self::UnknownInterface { line, .. }
            | Self::InterfaceNameTooLong { line, .. } => *line,
        }
    }

    /// The second line that the original logs when a well-formed line could not be added.
    pub fn summary(&self) -> Option<String> {
        match self {
            Self::NoInterface { .. } | Self::BadAddress { .. } => None,
            other => Some(format!(
                "Failed to add line {} to the public address list",
                other.line()
            )),
        }
    }
}

impl PublicAddresses {
    /// Reads the file. `has_interface` says whether the kernel knows an interface of that name now.
    pub fn parse(
        text: &str,
        has_interface: impl Fn(&str) -> bool,
    ) -> Result<Self, PublicAddressesError> {
        let mut found = Self::default();
        for (index, line) in text.split('\n').enumerate() {
            let content = line.trim_end_matches('\r').trim_start_matches([' ', '\t']);
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            found.add_line(index + 1, content, &has_interface)?;
        }
        Ok(found)
    }

    fn add_line(
        &mut self,
        line: usize,
        content: &str,
        has_interface: &impl Fn(&str) -> bool,
    ) -> Result<(), PublicAddressesError> {
        let mut words = content.split([' ', '\t']).filter(|word| !word.is_empty());
        let (Some(target), Some(interfaces)) = (words.next(), words.next()) else {
            return Err(PublicAddressesError::NoInterface { line });
        };
        let (address, mask) =
            parse_masked(target).ok_or(PublicAddressesError::BadAddress { line })?;
        if self.addresses.iter().any(|known| known.address == address) {
            return Err(PublicAddressesError::Duplicate { line, address });
        }
        let interfaces: Vec<String> = interfaces
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        for interface in &interfaces {
            check_interface(line, interface, address, has_interface)?;
        }
        self.warn_about(line, address, mask, &interfaces);
        // The original stores the mask in eight bits without a check, so `/300` becomes 44.
        let mask = (mask & 0xff) as u8;
        self.addresses.push(PublicAddress {
            address,
            mask,
            interfaces,
        });
        Ok(())
    }

    fn warn_about(&mut self, line: usize, address: IpAddr, mask: u64, interfaces: &[String]) {
        let widest = if address.is_ipv4() { 32 } else { 128 };
        if mask > widest {
            let text = format!("mask {mask} of public address {address} is wider than {widest}");
            self.warnings.push(Diagnostic::warning(line, text));
        }
        if interfaces.is_empty() {
            let text = format!("no interface for public address {address}");
            self.warnings.push(Diagnostic::warning(line, text));
        }
    }
}

fn check_interface(
    line: usize,
    interface: &str,
    address: IpAddr,
    has_interface: &impl Fn(&str) -> bool,
) -> Result<(), PublicAddressesError> {
    let interface = interface.to_owned();
    if interface.len() > MAX_INTERFACE_NAME {
        return Err(PublicAddressesError::InterfaceNameTooLong {
            line,
            interface,
            address,
        });
    }
    if !has_interface(&interface) {
        return Err(PublicAddressesError::UnknownInterface {
            line,
            interface,
            address,
        });
    }
    Ok(())
}

/// Reads `ADDRESS/MASK`, split at the last `/`. The mask is a whole decimal number of any size.
pub fn parse_masked(text: &str) -> Option<(IpAddr, u64)> {
    if text.len() > MAX_ADDRESS_TEXT {
        return None;
    }
    let (address, mask) = text.rsplit_once('/')?;
    let mask = c_decimal(mask);
    if !mask.has_digits || mask.negative || !mask.rest.is_empty() {
        return None;
    }
    Some((parse_ip_or_bracketed(address)?, mask.magnitude?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PublicAddresses, PublicAddressesError> {
        PublicAddresses::parse(text, |name| name == "lo" || name == "eth0")
    }

    #[test]
    fn lines_give_address_mask_and_interfaces() {
        let text = "# x\r\n 10.0.0.1/24\teth0,,lo extra\r\n[fd00::1]/64 lo\n::ffff:10.0.0.2/8 lo\n";
        let found = parse(text).unwrap();
        let shown: Vec<_> = found
            .addresses
            .iter()
            .map(|a| format!("{}/{} {}", a.address, a.mask, a.interfaces.join(",")))
            .collect();
        assert_eq!(
            shown,
            ["10.0.0.1/24 eth0,lo", "fd00::1/64 lo", "10.0.0.2/8 lo"]
        );
        assert_eq!(found.warnings, []);
    }

    #[test]
    fn bad_lines_fail_with_their_number_and_the_known_text() {
        for (line, text) in [
            (
                "10.0.0.1/24",
                "No interface specified at line 2 of public addresses file",
            ),
            ("10.0.0.1 lo", "Badly formed line 2 in public address list"),
            (
                "10.0.0.1/-1 lo",
                "Badly formed line 2 in public address list",
            ),
            (
                "10.0.0.1/0x8 lo",
                "Badly formed line 2 in public address list",
            ),
            (
                "::ffff:a09:1/8 lo",
                "Badly formed line 2 in public address list",
            ),
            ("10.0.0.9/24 lo", "Duplicate public IP address '10.0.0.9'"),
            (
                "10.0.0.1/24 eth9",
                "Unknown interface eth9 for public address 10.0.0.1",
            ),
        ] {
            let error = parse(&format!("10.0.0.9/+24 lo\n{line}\n")).unwrap_err();
            assert_eq!(
                (error.line(), error.to_string().as_str()),
                (2, text),
                "{line}"
            );
        }
    }

    #[test]
    fn errors_of_well_formed_lines_have_a_second_line() {
        let error = parse("10.0.0.1/24 eth9").unwrap_err();
        let summary = "Failed to add line 1 to the public address list";
        assert_eq!(error.summary().as_deref(), Some(summary));
        assert_eq!(parse("10.0.0.1").unwrap_err().summary(), None);
    }

    #[test]
    fn wide_masks_and_missing_interfaces_are_kept_with_a_warning() {
        let found = parse("10.0.0.1/300 lo\n10.0.0.2/8 ,").unwrap();
        assert_eq!(found.addresses[0].mask, 44);
        assert!(found.addresses[1].interfaces.is_empty());
        assert_eq!(
            found.warnings.iter().map(|w| w.line).collect::<Vec<_>>(),
            [1, 2]
        );
    }
}
