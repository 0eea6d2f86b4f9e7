//! Going into the background, and telling the one who waits in the foreground how it went.
//!
//! The original's foreground process ends as soon as it has forked, and later failures show in
//! the log only. Ours waits until the daemon serves: what goes wrong before that is told on
//! standard error, and by the exit code.

use std::fs::OpenOptions;
use std::io::{self, PipeWriter, Read, Write, pipe};

use ctdb_sys::process::{Fork, fork};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

/// Whom to tell that the daemon serves.
pub(crate) struct Ready {
    foreground: Option<PipeWriter>,
}

/// Which process goes on after [`into_background`].
pub(crate) enum Side {
    /// The foreground: everything is said and done; exit with this code.
    Foreground(u8),
    /// The daemon.
    Daemon(Ready),
}

impl Ready {
    /// For a daemon that stays in the foreground.
    pub(crate) fn nobody() -> Self {
        Self { foreground: None }
    }

    /// The daemon serves: the foreground process may end. From now on errors go to the log only.
    pub(crate) fn tell(&mut self) {
        if let Some(mut foreground) = self.foreground.take() {
            // The foreground may have been killed; that is no reason not to serve.
            let _ = foreground.write_all(&[SERVES]);
            let _ = close_stderr();
        }
    }
}

/// What is written to the pipe between the two processes.
const SERVES: u8 = 1;

/// Splits into a foreground process that waits, and the daemon.
///
/// In test mode the daemon stays in the session, and keeps its standard input: the end of that
/// pipe ends the daemon.
pub(crate) fn into_background(test_mode: bool) -> io::Result<Side> {
    let (reader, writer) = pipe()?;
    match fork()? {
        Fork::Parent { child } => {
            drop(writer);
            wait_for_daemon(reader, child).map(Side::Foreground)
        }
        Fork::Child => {
            drop(reader);
            let null = OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/null")?;
            if !test_mode {
                setsid()?;
                dup2_stdin(&null)?;
            }
            dup2_stdout(&null)?;
            Ok(Side::Daemon(Ready {
                foreground: Some(writer),
            }))
        }
    }
}

/// Waits until the daemon serves, or has failed; returns the exit code of the foreground.
fn wait_for_daemon(mut reader: impl Read, child: Pid) -> io::Result<u8> {
    const KILLED: u8 = 1;
    let mut byte = [0];
    if reader.read(&mut byte)? == 1 && byte == [SERVES] {
        return Ok(0);
    }
    match waitpid(child, None)? {
        WaitStatus::Exited(_, code) => Ok(u8::try_from(code).unwrap_or(KILLED)),
        status => {
            eprintln!("ctdbd died while it started: {status:?}");
            Ok(KILLED)
        }
    }
}

fn close_stderr() -> io::Result<()> {
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    dup2_stderr(&null).map_err(io::Error::from)
}
