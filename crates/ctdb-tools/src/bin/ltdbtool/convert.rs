//! The command `convert`.

use tdb::{Db, StoreMode};

use crate::Failure;
use crate::arguments::Arguments;
use crate::dump::for_each;
use crate::progress::Progress;

/// Copies all records, with headers of the length that is asked for.
pub(crate) fn convert(input: &Db, output: &Db, arguments: &Arguments) -> Result<(), Failure> {
    let mut progress = Progress::new(true);
    for_each(input, arguments, |key, record| {
        progress.step();
        let header = &record.header[..arguments.output_header];
        output
            .store_parts(key, &[header, record.data], StoreMode::Replace)
            .map_err(|error| Failure::new(format_args!("tdb_store: {}", error.code().text())))
    })
}
