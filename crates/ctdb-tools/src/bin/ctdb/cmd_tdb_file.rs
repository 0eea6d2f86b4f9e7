//! `tfetch` and `tstore`: records of a TDB file, whoever has it open (`cli.md` 2.7).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ctdb_conf::number::c_decimal;
use ctdb_proto::{RecordFlags, RecordHeader, Rsn};
use tdb::{Db, StoreMode};

use crate::arguments::number_64;
use crate::context::Context;
use crate::exit::{EINVAL, Failure, Outcome};
use crate::output::{complain, print};
use crate::records::dump_value;

pub(crate) fn tfetch(context: &Context) -> Outcome {
    let arguments = &context.arguments;
    arguments.expect_count(2..=3)?;
    let db = open(context)?;
    let key = arguments.data(1, "key")?;
    let shown = arguments.text(1).unwrap_or_default();
    let value = db.fetch(&key).ok().flatten();
    let value = value.ok_or_else(|| Failure::new(format!("No record for key {shown}")))?;
    let (header, data) = RecordHeader::split(&value)
        .map_err(|_| Failure::new(format!("Invalid record for key {shown}")))?;
    if let Some(path) = arguments.path(2) {
        save(path, &value);
    }
    print(&dump_value(&header, data)).map(|()| 0)
}

pub(crate) fn tstore(context: &Context) -> Outcome {
    let arguments = &context.arguments;
    // The usage has flags, too, but the original refuses them.
    arguments.expect_count(3..=5)?;
    let db = open(context)?;
    let key = arguments.data(1, "key")?;
    let data = arguments.data(2, "value")?;
    let rsn = match arguments.text(3) {
        Some(text) => number_64(&text)?,
        None => 0,
    };
    let header = RecordHeader {
        rsn: Rsn::new(rsn),
        dmaster: arguments.text(4).map_or(0, |text| low_word(&text)),
        reserved: 0,
        flags: RecordFlags::empty(),
    };
    let parts = [&header.to_bytes()[..], &data];
    db.store_parts(&key, &parts, StoreMode::Replace)
        .map_err(|_| {
            let [file, key] = [0, 1].map(|index| arguments.text(index).unwrap_or_default());
            let line = format!("Failed to write record {key} to file {file}");
            Failure::with_code(EINVAL, line)
        })?;
    Ok(0)
}

/// Opens the file of the first argument, which must exist.
fn open(context: &Context) -> Result<Db, Failure> {
    let path = context.arguments.path(0).ok_or(Failure::Usage)?;
    tdb::OpenOptions::new()
        .open(path)
        .map_err(|_| Failure::new(format!("Failed to open TDB file {}", path.display())))
}

/// Writes a record, header and all, into a file. Whether or not that succeeds, it is shown.
fn save(path: &Path, value: &[u8]) {
    let Ok(mut file) = create(path) else {
        return complain(&format!("Failed to open output file {}", path.display()));
    };
    if file.write_all(value).is_err() {
        complain("Failed to write record to file");
    }
}

/// An empty file that only its owner may read.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// The low 32 bits of a decimal number, as C's `atol` has them for a `uint32_t`.
fn low_word(text: &str) -> u32 {
    const LIMIT: u64 = i64::MAX as u64;
    let number = c_decimal(text);
    let magnitude = number.magnitude.unwrap_or(LIMIT).min(LIMIT);
    let low = u32::try_from(magnitude & u64::from(u32::MAX)).expect("the upper half was masked");
    if number.negative {
        low.wrapping_neg()
    } else {
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dmaster_is_cut_to_32_bits() {
        let words = ["7x", "x", "-1", "99999999999"].map(low_word);
        assert_eq!(words, [7, 0, u32::MAX, 1_215_752_191]);
    }
}
