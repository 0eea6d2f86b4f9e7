//! `backupdb` and `dumpdbbackup`: saving a database into a file, and showing it (`cli.md` 2.7).

use std::fs::File;
use std::io::{self, Seek, Write};
use std::ops::ControlFlow;
use std::time::{SystemTime, UNIX_EPOCH};

use ctdb_proto::{BackupError, BackupHeader, BackupWriter, FixedStr, RecBuffer, RecordHeader};
use tdb::Db;

use crate::arguments::Arguments;
use crate::backup_file::{BackupFile, ReadError, errno};
use crate::cmd_tdb_file::create;
use crate::context::Context;
use crate::database::{Database, attach_argument};
use crate::exit::{EINVAL, EIO, EMSGSIZE, Failure, Outcome};
use crate::output::print;
use crate::record_failure::record_failure;
use crate::records::dump;
use crate::usage;

/// Saves the records that the local node has.
pub(crate) async fn backupdb(context: &Context) -> Outcome {
    context.arguments.expect_count(2..=2)?;
    let (database, attached) = attach_argument(context, false).await?;
    let path = context.arguments.path(1).ok_or(Failure::Usage)?;
    let shown = path.display();
    let mut file = create(path).map_err(|error| {
        let line = format!("Failed to open file {shown} for writing");
        Failure::with_code(errno(&error), line)
    })?;
    let header_failure = |error: io::Error| {
        let line = format!("Failed to write header to file {shown}");
        Failure::with_code(errno(&error), line)
    };
    file.write_all(&[0; BackupHeader::LEN])
        .map_err(header_failure)?;
    let name = database.name.clone();
    let write = move |db: &Db| {
        let header = write_records(&database, db, &mut file);
        header.map(|header| (header, file))
    };
    let written = attached.with_file(write).await;
    let (header, mut file) = written.map_err(|error| record_failure(&name, error))??;
    file.rewind()
        .and_then(|()| file.write_all(&header.to_bytes()))
        .map_err(header_failure)?;
    print(&format!("Database backed up to {shown}\n")).map(|()| 0)
}

/// Writes all records of the local file, empty ones too.
fn write_records(database: &Database, db: &Db, file: &mut File) -> Result<BackupHeader, Failure> {
    let mut writer = BackupWriter::new(database.id);
    let mut written = Ok(());
    let visited = db.traverse_read(&mut |key, value| {
        written = add(&mut writer, key, value, file);
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    let collected = || format!("Failed to collect records from DB {}", database.name);
    written.map_err(|failure| match failure.code() {
        EINVAL => failure.and(collected()),
        _ => failure,
    })?;
    visited.map_err(|error| Failure::with_code(EIO, error.to_string()).and(collected()))?;
    let (last, header) = writer.finish(short_name(&database.name), database.flags, now());
    file.write_all(&last.unwrap_or_default())
        .map_err(|error| write_failure(&error))?;
    Ok(header)
}

/// Adds a record, and writes the buffer that it made full.
fn add(
    writer: &mut BackupWriter,
    key: &[u8],
    value: &[u8],
    file: &mut File,
) -> Result<(), Failure> {
    RecordHeader::split(value).map_err(|_| Failure::silent(EINVAL))?;
    let full = writer.push(key, value).map_err(|error| {
        let line = format!("cannot back up a record: {error}");
        Failure::with_code(EINVAL, line)
    })?;
    file.write_all(&full.unwrap_or_default())
        .map_err(|error| write_failure(&error))
}

fn write_failure(error: &io::Error) -> Failure {
    Failure::with_code(errno(error), "Failed to write records to backup file")
}

/// The name in the header; a longer one is cut, as in the original.
fn short_name(name: &str) -> FixedStr<64> {
    let fits = |end: &usize| name.is_char_boundary(*end);
    let end = (0..=name.len().min(63)).rev().find(fits).unwrap_or(0);
    let (short, _) = name.split_at(end);
    FixedStr::new(short).unwrap_or_default()
}

/// Seconds since 1970 UTC.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Shows a backup; needs no daemon.
pub(crate) fn dumpdbbackup(arguments: &Arguments) -> Outcome {
    let (1, Some(path)) = (arguments.count(), arguments.path(0)) else {
        print(&usage::full_usage())?;
        return Ok(1);
    };
    let mut backup = BackupFile::open(path)?;
    let (name, time) = (&backup.header().name, backup.time());
    print(&format!("Dumping database {name} from backup @ {time}\n"))?;
    let mut count = 0_u64;
    while let Some(buffer) = backup.next_buffer().map_err(dump_failure)? {
        print(&dump_buffer(&buffer)?)?;
        count += u64::from(buffer.count());
    }
    print(&format!("Dumped {count} record(s)\n")).map(|()| 0)
}

fn dump_buffer(buffer: &RecBuffer) -> Result<String, Failure> {
    let mut text = String::new();
    for record in buffer {
        let split = record.split().map_err(BackupError::from);
        let (header, data) = split.map_err(|error| dump_failure(ReadError::Damaged(error)))?;
        text.push_str(&dump(record.key, &header, data));
    }
    Ok(text)
}

/// The original tells records that it cannot read from those that it cannot show.
fn dump_failure(error: ReadError) -> Failure {
    match error {
        ReadError::Damaged(_) => Failure::with_code(EMSGSIZE, "Failed to dump records"),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_two_letters() {
        assert_eq!(&*short_name("per.tdb"), "per.tdb");
        assert_eq!(&*short_name(&"x".repeat(70)), "x".repeat(63));
        assert_eq!(&*short_name(&"ä".repeat(40)), "ä".repeat(31));
    }
}
