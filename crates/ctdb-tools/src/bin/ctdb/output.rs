//! Writing to standard output and standard error. A closed pipe ends the run, it is no panic.

use std::io::{self, Write};

use crate::exit::Failure;

/// Writes text as it is, and flushes it, so that it stands before what goes to standard error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Writes bytes as they are; values of records need not be text.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|_| Failure::silent(1))
}

/// Writes one line to standard error. Nobody can be told when that fails.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A line of machine-readable output: each field between two separators.
pub(crate) fn machine_line(separator: &str, fields: &[&str]) -> String {
    format!("{separator}{}{separator}\n", fields.join(separator))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_lines_begin_and_end_with_the_separator() {
        assert_eq!(machine_line("|", &["a", "", "b"]), "|a||b|\n");
        assert_eq!(machine_line("", &["a", "b"]), "ab\n");
    }
}
