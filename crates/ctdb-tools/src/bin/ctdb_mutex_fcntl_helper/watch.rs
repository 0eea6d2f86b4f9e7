//! Holding the lock: ends when the daemon is gone, when the lock file is no longer the one that is
//! locked, or when its file system does not answer in time.
//!
//! The looking is done by a child process. It may hang in the file system without harm, and it may
//! open and close the file: both would cost this process its lock.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ctdb_sys::file_lock::lock_byte;
use ctdb_sys::process::{Fork, fork};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

use crate::{Arguments, PROGRAM};

/// Time between two looks at whether the daemon is still there.
const PARENT_INTERVAL: Duration = Duration::from_secs(5);

/// Time between two signs of life of the child.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// The byte whose lock nobody holds: to see that locks can be taken at all.
const TEST_BYTE: i64 = 1;

/// Holds the lock on `file` until there is a reason to let it go.
pub(crate) fn hold(file: &File, arguments: &Arguments, parent: Pid) {
    let tester = match start_tester(file, arguments) {
        Ok(tester) => tester,
        Err(error) => {
            eprintln!("{PROGRAM}: cannot test the lock: {error}");
            return;
        }
    };
    let tester = tester.as_ref();
    let mut next_parent_check = Instant::now() + PARENT_INTERVAL;
    let mut silent_since = Instant::now();
    loop {
        let mut wake = next_parent_check;
        if tester.is_some() && !arguments.ping_timeout.is_zero() {
            wake = wake.min(silent_since + arguments.ping_timeout);
        }
        match wait(tester, wake) {
            Sign::Alive => silent_since = Instant::now(),
            Sign::Nothing => {}
            Sign::TesterGone => return,
            Sign::NobodyListens => return parent_gone(),
        }
        let now = Instant::now();
        if now >= next_parent_check {
            if getppid() != parent {
                return parent_gone();
            }
            next_parent_check = now + PARENT_INTERVAL;
        }
        let timeout = arguments.ping_timeout;
        if tester.is_some() && !timeout.is_zero() && now >= silent_since + timeout {
            eprintln!("{PROGRAM}: ping timeout from lock test child");
            return;
        }
    }
}

fn parent_gone() {
    eprintln!("{PROGRAM}: parent gone");
}

/// What happened while the lock was held.
enum Sign {
    /// The child that looks at the file has said so.
    Alive,
    Nothing,
    TesterGone,
    /// The daemon's end of our standard output is closed: it has died. The other nodes wait for
    /// the lock, so this is not left to the next look at the parent.
    NobodyListens,
}

/// Waits for a sign until that time.
fn wait(tester: Option<&Tester>, wake: Instant) -> Sign {
    let left = wake.saturating_duration_since(Instant::now());
    // Rounded up, so as not to spin in the last millisecond.
    let milliseconds = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
    let output = io::stdout();
    // An error is reported whatever is asked for.
    let mut fds = vec![PollFd::new(output.as_fd(), PollFlags::empty())];
    fds.extend(tester.map(|tester| PollFd::new(tester.pings.as_fd(), PollFlags::POLLIN)));
    if matches!(
        poll(&mut fds, PollTimeout::from(milliseconds)),
        Ok(0) | Err(_)
    ) {
        return Sign::Nothing;
    }
    if fds.first().and_then(PollFd::any) == Some(true) {
        return Sign::NobodyListens;
    }
    tester.map_or(Sign::Nothing, Tester::hear)
}

/// The child that looks at the file. Killed when dropped.
struct Tester {
    child: Pid,
    pings: PipeReader,
}

/// Starts the child, unless the command line does not want it.
fn start_tester(file: &File, arguments: &Arguments) -> io::Result<Option<Tester>> {
    if arguments.recheck_interval.is_zero() {
        return Ok(None);
    }
    let inode = file.metadata()?.ino();
    let holder = Pid::this();
    let (pings, writer) = pipe()?;
    match fork()? {
        Fork::Parent { child } => Ok(Some(Tester { child, pings })),
        Fork::Child => {
            drop(pings);
            // Without its holder the test means nothing; and a daemon waits for the output of
            // both processes to be closed.
            let _ = set_pdeathsig(Signal::SIGKILL);
            if getppid() == holder {
                keep_testing(arguments, inode, writer);
            }
            std::process::exit(1);
        }
    }
}

impl Tester {
    /// Reads the sign that has come.
    fn hear(&self) -> Sign {
        match (&self.pings).read(&mut [0; 64]) {
            Ok(0) | Err(_) => Sign::TesterGone,
            Ok(_) => Sign::Alive,
        }
    }
}

impl Drop for Tester {
    fn drop(&mut self) {
        let _ = kill(self.child, Signal::SIGKILL);
    }
}

/// The child: returns when the file is not what it should be.
fn keep_testing(arguments: &Arguments, inode: u64, mut pings: PipeWriter) {
    let mut next_test = Instant::now() + arguments.recheck_interval;
    loop {
        if pings.write_all(b".").is_err() {
            return;
        }
        let now = Instant::now();
        if now >= next_test {
            if let Err(complaint) = test_lock(&arguments.file, inode) {
                eprintln!("{PROGRAM}: {complaint}");
                return;
            }
            next_test = now + arguments.recheck_interval;
        }
        std::thread::sleep(PING_INTERVAL.min(next_test.saturating_duration_since(now)));
    }
}

/// Whether the lock file is still there, still the same, and can still be locked.
fn test_lock(path: &Path, inode: u64) -> Result<(), String> {
    let number = |error: io::Error| error.raw_os_error().unwrap_or_default();
    let lost = format!("lock lost - lock file \"{}\"", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| format!("{lost} open failed (ret={})", number(error)))?;
    let found = file
        .metadata()
        .map_err(|error| format!("{lost} check failed (ret={})", number(error)))?;
    if found.ino() != inode {
        return Err(format!("{lost} inode changed"));
    }
    lock_byte(&file, TEST_BYTE).map_err(|error| {
        let path = path.display();
        format!(
            "lock fail - lock file \"{path}\" test lock error ({})",
            number(error)
        )
    })
}
