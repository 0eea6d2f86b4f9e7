//! Shows a local copy of a CTDB database, or copies its records into another file, with or without
//! the header that CTDB puts in front of each record (tdb.md 9.9).
#![forbid(unsafe_code)]

mod arguments;
mod convert;
mod dump;
mod progress;
mod record;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use tdb::{Db, OpenError, OpenOptions};

use arguments::{Arguments, Command, Mistake};

/// Exit code of everything that goes wrong: -1 as the shell sees it.
const FAILED: u8 = 255;

/// Why a command ended early.
pub(crate) enum Failure {
    /// To be told to the user.
    Told(String),
    /// Nobody reads our output any more.
    NobodyListens,
}

impl Failure {
    pub(crate) fn new(text: impl fmt::Display) -> Self {
        Self::Told(text.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::NobodyListens
        } else {
            Self::Told(format!("write: {}", strerror(&error)))
        }
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_else(|| OsString::from("ltdbtool"));
    let program = program.to_string_lossy();
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(mistake) => {
            complain(&refusal(&program, &mistake));
            return ExitCode::from(FAILED);
        }
    };
    match run(&program, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told(text)) => {
            complain(&format!("{text}\n"));
            ExitCode::from(FAILED)
        }
        Err(Failure::NobodyListens) => ExitCode::from(FAILED),
    }
}

fn run(program: &str, arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Help => Ok(io::stdout().write_all(help(program).as_bytes())?),
        Command::Dump { db } => dump::dump(&open(db)?, arguments),
        Command::Convert { input, output } => {
            let input = open(input)?;
            let output = OpenOptions::new()
                .create_new(true)
                .open(output)
                .map_err(|error| Failure::Told(open_failure("out", &error)))?;
            convert::convert(&input, &output, arguments)
        }
    }
}

/// Opens a file for reading, without any lock: it may be in use.
fn open(path: &Path) -> Result<Db, Failure> {
    OpenOptions::new()
        .read_only(true)
        .open(path)
        .map_err(|error| Failure::Told(open_failure("in", &error)))
}

/// What cannot be put as an error of the operating system gets its own text.
fn open_failure(which: &str, error: &OpenError) -> String {
    let reason = match error.errno() {
        Some(errno) => strerror(&io::Error::from_raw_os_error(errno)),
        None => error.to_string(),
    };
    format!("tdbopen {which}: {reason}")
}

/// The text of the C library for an error, without Rust's number behind it.
fn strerror(error: &io::Error) -> String {
    let text = error.to_string();
    let (text, _) = text.split_once(" (os error").unwrap_or((&text, ""));
    text.to_owned()
}

/// To standard error. If that is closed, nobody wants to know.
pub(crate) fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn refusal(program: &str, mistake: &Mistake) -> String {
    let usage = usage(program);
    match mistake {
        Mistake::Usage => usage,
        Mistake::UnknownOption(option) => {
            format!("{program}: invalid option -- '{option}'\n{usage}")
        }
        Mistake::NoValue(option) => {
            format!("{program}: option requires an argument -- '{option}'\n{usage}")
        }
    }
}

fn usage(program: &str) -> String {
    format!(
        "Usage: {program} dump [-e] [-p] [-s{{0|32|64}}] <idb>\n       \
         {program} convert [-e] [-s{{0|32|64}}] [-o{{0|32|64}}] <idb> <odb>\n       \
         {program} {{help|-h}}\n"
    )
}

fn help(program: &str) -> String {
    format!(
        "\
Usage: {program} [options] <command>

Options:
   -s {{0|32|64}}    header of the records in the input database:
                   0: none
                   32: as written by a 32 bit system (20 bytes)
                   64: as written by a 64 bit system (24 bytes), the default

   -S <num>        length of that header in bytes, at most 24

   -o {{0|32|64}}    header of the records in the output database, as for -s

   -O <num>        length of that header in bytes, at most 24

   -e              records that consist of a header only, too

   -p              with dump: show the header of each record

   -h              print this help

Commands:
  help                         print this help
  dump <db>                    print the records of a database
  convert <in_db> <out_db>     copy them into a new database
"
    )
}
