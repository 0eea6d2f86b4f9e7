//! The command `dump`.

use std::io::{self, BufWriter, IsTerminal, Write};

use tdb::Db;

use crate::Failure;
use crate::arguments::Arguments;
use crate::progress::Progress;
use crate::record::Record;

/// Prints all records, in the order of the file's hash chains.
pub(crate) fn dump(db: &Db, arguments: &Arguments) -> Result<(), Failure> {
    let stdout = io::stdout();
    // On one terminal, the records are progress enough.
    let mut progress = Progress::new(!stdout.is_terminal());
    let mut out = BufWriter::new(stdout.lock());
    let done = for_each(db, arguments, |key, record| {
        progress.step();
        let text = record.text(key, arguments.print_header);
        Ok(out.write_all(text.as_bytes())?)
    });
    // What was read before a failure is shown.
    out.flush()?;
    done
}

/// Shows all records that are asked for to `visit`, up to its first failure.
pub(crate) fn for_each(
    db: &Db,
    arguments: &Arguments,
    mut visit: impl FnMut(&[u8], &Record<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut done = Ok(());
    db.traverse_read(&mut |key, value| {
        let record = Record::split(key, value, arguments);
        done = record.and_then(|record| record.map_or(Ok(()), |record| visit(key, &record)));
        if done.is_ok() {
            std::ops::ControlFlow::Continue(())
        } else {
            std::ops::ControlFlow::Break(())
        }
    })
    .map_err(|error| Failure::new(format_args!("tdb_traverse: {error}")))?;
    done
}
