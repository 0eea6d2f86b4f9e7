//! A record of the input, split into CTDB's header and the data.

use std::fmt::Write;

use ctdb_proto::{RecordHeader, Wire};

use crate::arguments::{Arguments, HEADER_64};
use crate::{Failure, complain};

/// Where the bytes lie that no system sets, but the 64 bit ones have.
const PADDING: std::ops::Range<usize> = 20..24;

/// A header with nothing in it: the dmaster is nobody.
const NO_HEADER: [u8; HEADER_64] = {
    let mut header = [0; HEADER_64];
    (header[8], header[9], header[10], header[11]) = (0xff, 0xff, 0xff, 0xff);
    header
};

/// A record with its header in full length.
pub(crate) struct Record<'r> {
    pub(crate) header: [u8; HEADER_64],
    pub(crate) data: &'r [u8],
}

impl<'r> Record<'r> {
    /// `None` for an empty record that nobody wants. What the header in the file lacks is that of
    /// an empty one.
    pub(crate) fn split(
        key: &[u8],
        value: &'r [u8],
        arguments: &Arguments,
    ) -> Result<Option<Self>, Failure> {
        let Some((found, data)) = value.split_at_checked(arguments.input_header) else {
            return Err(Failure::new(format_args!(
                "Value too short to contain a ctdb header: \"{}\" = \"{}\"",
                quoted(key),
                quoted(value)
            )));
        };
        if data.is_empty() && !arguments.empty {
            return Ok(None);
        }
        let mut header = NO_HEADER;
        header[..found.len()].copy_from_slice(found);
        if header[PADDING] != [0; 4] {
            complain("Warning: header padding isn't zero! Wrong header size?\n");
        }
        Ok(Some(Self { header, data }))
    }

    /// The record as four or, with the header, seven lines.
    pub(crate) fn text(&self, key: &[u8], with_header: bool) -> String {
        let mut text = format!("{{\nkey({}) = \"{}\"\n", key.len(), quoted(key));
        if with_header {
            let header = RecordHeader::decode(&mut &self.header[..])
                .expect("any bytes of a header's length are a header");
            let dmaster = header.dmaster.cast_signed();
            let (rsn, flags) = (header.rsn.get(), header.flags.bits());
            let _ = writeln!(text, "dmaster: {dmaster}\nrsn: {rsn}\nflags: 0x{flags:X}");
        }
        let _ = writeln!(
            text,
            "data({}) = \"{}\"\n}}",
            self.data.len(),
            quoted(self.data)
        );
        text
    }
}

/// Printable ASCII as itself; the rest, quotes and backslashes as `\` and two hex digits.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\') {
            text.push(byte.into());
        } else {
            let _ = write!(text, "\\{byte:02X}");
        }
    }
    text
}
