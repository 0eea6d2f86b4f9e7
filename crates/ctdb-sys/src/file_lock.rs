//! Classic POSIX write locks on one byte of a file: those of pid files and of the cluster lock.
//!
//! Such a lock belongs to the *process*: it ends when the process ends, or closes any descriptor
//! of the file. It excludes other processes, never another thread. The files of databases are
//! locked by the `tdb` crate, in another way.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Whether a lock that was tried is ours now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TryLock {
    Taken,
    /// Another process holds it.
    Contended,
}

/// Tries to lock byte `offset` of the file.
pub fn try_lock_byte(file: &File, offset: i64) -> io::Result<TryLock> {
    match fcntl(file, FcntlArg::F_SETLK(&write_lock(offset))) {
        Ok(_) => Ok(TryLock::Taken),
        Err(Errno::EACCES | Errno::EAGAIN) => Ok(TryLock::Contended),
        Err(errno) => Err(errno.into()),
    }
}

/// Locks byte `offset` of the file, however long that takes.
pub fn lock_byte(file: &File, offset: i64) -> io::Result<()> {
    loop {
        match fcntl(file, FcntlArg::F_SETLKW(&write_lock(offset))) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "both constants are below 4"
)]
fn write_lock(offset: i64) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_in_the_way_of_open_file_description_locks_only() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(try_lock_byte(&file, 0).unwrap(), TryLock::Taken);
        // Within the process the lock excludes nobody, so the second try succeeds ...
        let again = file.try_clone().unwrap();
        assert_eq!(try_lock_byte(&again, 0).unwrap(), TryLock::Taken);
        // ... but the other kind of lock sees it.
        let conflict = fcntl(&again, FcntlArg::F_OFD_SETLK(&write_lock(0)));
        assert_eq!(conflict, Err(Errno::EAGAIN));
        lock_byte(&file, 1).unwrap();
    }
}
