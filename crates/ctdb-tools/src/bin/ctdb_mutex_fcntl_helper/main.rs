//! Takes the cluster lock, a POSIX lock on one byte of a file, and holds it until it is asked to
//! end (cluster.md 4.6).
//!
//! Started by `ctdbd`. One byte on standard output tells how it went: `0` the lock is held, `1`
//! somebody else holds it, `3` something is wrong. While it holds the lock the helper makes sure
//! that it is worth something: a child ([`watch`]) keeps looking whether the file is still the one
//! that is locked, and whether the file system still answers.
#![forbid(unsafe_code)]

mod watch;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ctdb_sys::file_lock::{TryLock, try_lock_byte};
use nix::unistd::{Pid, getppid};

/// Name in messages.
const PROGRAM: &str = "ctdb_mutex_fcntl_helper";

/// The byte of the file that is the lock. Byte 1 is for testing that locks work at all.
const LOCK_BYTE: i64 = 0;

/// What the command line asks for.
#[derive(Debug, Eq, PartialEq)]
struct Arguments {
    file: PathBuf,
    /// Time between two looks at the file; zero: never look.
    recheck_interval: Duration,
    /// Longest silence of the child that looks; zero: any.
    ping_timeout: Duration,
}

impl Arguments {
    const DEFAULT_RECHECK: Duration = Duration::from_secs(5);

    /// `None` for a wrong number of arguments, or a number that is none.
    fn parse(words: &[String]) -> Option<Self> {
        let (file, numbers) = words.split_first()?;
        if numbers.len() > 2 {
            return None;
        }
        let mut seconds = Vec::new();
        for number in numbers {
            seconds.push(Duration::from_secs(number.parse::<u32>().ok()?.into()));
        }
        let mut seconds = seconds.into_iter();
        Some(Self {
            file: file.into(),
            recheck_interval: seconds.next().unwrap_or(Self::DEFAULT_RECHECK),
            ping_timeout: seconds.next().unwrap_or_default(),
        })
    }
}

/// The byte on standard output.
#[derive(Clone, Copy)]
enum Answer {
    Held = b'0' as isize,
    Contended = b'1' as isize,
    Failed = b'3' as isize,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let Some(arguments) = Arguments::parse(&words) else {
        eprintln!("Usage: {PROGRAM} <file> [recheck_interval [ping_timeout]]");
        return ExitCode::FAILURE;
    };
    let parent = getppid();
    if parent == Pid::from_raw(1) {
        // The daemon died before it could be remembered: nobody would ever end this process.
        eprintln!("{PROGRAM}: parent == 1");
        return ExitCode::SUCCESS;
    }
    match take_lock(&arguments) {
        Ok(Some(file)) => {
            if answer(Answer::Held).is_ok() {
                watch::hold(&file, &arguments, parent);
            }
        }
        Ok(None) => {
            let _ = answer(Answer::Contended);
        }
        Err(complaint) => {
            eprintln!("{PROGRAM}: {complaint}");
            let _ = answer(Answer::Failed);
        }
    }
    ExitCode::SUCCESS
}

/// The locked file, or `None` if another process has the lock.
fn take_lock(arguments: &Arguments) -> Result<Option<File>, String> {
    let path = arguments.file.display();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&arguments.file)
        .map_err(|error| format!("Unable to open {path} - ({})", text_of(&error)))?;
    match try_lock_byte(&file, LOCK_BYTE) {
        Ok(TryLock::Taken) => Ok(Some(file)),
        Ok(TryLock::Contended) => Ok(None),
        Err(error) => Err(format!(
            "Failed to get lock on '{path}' - ({})",
            text_of(&error)
        )),
    }
}

fn answer(answer: Answer) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(&[answer as u8])?;
    out.flush()
}

/// The text of the C library for an error, without Rust's additions.
fn text_of(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |number| nix::errno::Errno::from_raw(number).desc().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Option<Arguments> {
        Arguments::parse(
            &words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn one_to_three_arguments_are_right() {
        let arguments = parse(&["/lock"]).unwrap();
        assert_eq!(arguments.recheck_interval, Duration::from_secs(5));
        assert_eq!(arguments.ping_timeout, Duration::ZERO);
        let arguments = parse(&["/lock", "0", "7"]).unwrap();
        assert_eq!(arguments.recheck_interval, Duration::ZERO);
        assert_eq!(arguments.ping_timeout, Duration::from_secs(7));
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&["/lock", "x"]), None);
        assert_eq!(parse(&["/lock", "1", "2", "3"]), None);
    }
}
