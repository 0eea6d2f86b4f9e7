//! Records as text, as `catdb` and its kin show them (`cli.md` 2.7).

use std::fmt::Write;

use ctdb_proto::{RecordFlags, RecordHeader};

/// One record, with an empty line behind it. `data` is without the header.
pub(crate) fn dump(key: &[u8], header: &RecordHeader, data: &[u8]) -> String {
    let value = dump_value(header, data);
    format!("key({}) = \"{}\"\n{value}\n", key.len(), quoted(key))
}

/// The lines of a record behind that of its key.
pub(crate) fn dump_value(header: &RecordHeader, data: &[u8]) -> String {
    format!(
        "dmaster: {}\nrsn: {}\nflags: 0x{:08x}{}\ndata({}) = \"{}\"\n",
        header.dmaster,
        header.rsn.get(),
        header.flags.bits(),
        flag_names(header.flags),
        data.len(),
        quoted(data)
    )
}

/// Printable ASCII as itself, the rest, quotes and backslashes as `\` and two hex digits.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'"' | b'\\' => {
                let _ = write!(text, "\\{byte:02X}");
            }
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
    text
}

/// Names of the flags that are set, each behind a blank.
fn flag_names(flags: RecordFlags) -> String {
    const NAMES: [(RecordFlags, &str); 7] = [
        (RecordFlags::MIGRATED_WITH_DATA, " MIGRATED_WITH_DATA"),
        (RecordFlags::VACUUM_MIGRATED, " VACUUM_MIGRATED"),
        (RecordFlags::AUTOMATIC, " AUTOMATIC"),
        (RecordFlags::RO_HAVE_DELEGATIONS, " RO_HAVE_DELEGATIONS"),
        (RecordFlags::RO_HAVE_READONLY, " RO_HAVE_READONLY"),
        (RecordFlags::RO_REVOKING_READONLY, " RO_REVOKING_READONLY"),
        (RecordFlags::RO_REVOKE_COMPLETE, " RO_REVOKE_COMPLETE"),
    ];
    NAMES
        .iter()
        .filter(|(flag, _)| flags.contains(*flag))
        .map(|(_, name)| *name)
        .collect()
}

#[cfg(test)]
mod tests {
    use ctdb_proto::Rsn;

    use super::*;

    #[test]
    fn a_record_is_shown_with_header_and_escaped_bytes() {
        let flags = RecordFlags::MIGRATED_WITH_DATA | RecordFlags::RO_HAVE_READONLY;
        let header = RecordHeader {
            rsn: Rsn::new(7),
            dmaster: 2,
            reserved: 0,
            flags,
        };
        assert_eq!(
            dump(b"k\0\"\\ ~", &header, b"\x7f\xff"),
            "key(6) = \"k\\00\\22\\5C ~\"\ndmaster: 2\nrsn: 7\n\
             flags: 0x02010000 MIGRATED_WITH_DATA RO_HAVE_READONLY\n\
             data(2) = \"\\7F\\FF\"\n\n"
        );
    }
}
