//! The process itself: going into the background, scheduling, memory.

use std::io;

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{ForkResult, Pid};

use crate::raw;

/// Which of the two processes goes on after [`fork`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fork {
    /// The one that called, with the process id of the other.
    Parent { child: Pid },
    /// The new one.
    Child,
}

/// Splits this process in two. Refused when it already has a second thread: whatever that thread
/// held would stay held in the child for ever.
pub fn fork() -> io::Result<Fork> {
    raw::fork_single_threaded().map(|result| match result {
        ForkResult::Parent { child } => Fork::Parent { child },
        ForkResult::Child => Fork::Child,
    })
}

/// Gives the calling thread the lowest real-time priority (`SCHED_FIFO` 1), so that a busy host
/// does not make the node look dead. Children and threads started later run as usual.
pub fn set_realtime() -> io::Result<()> {
    const LOWEST_PRIORITY: i32 = 1;
    raw::set_fifo(LOWEST_PRIORITY)
}

/// Keeps what is in memory now from being paged out.
pub fn lock_memory() -> io::Result<()> {
    mlockall(MlockAllFlags::MCL_CURRENT).map_err(io::Error::from)
}

/// Lets this process, and those it starts, open as many files as may be allowed to them, up to
/// `wanted`. Returns how many that is. Each client takes one.
pub fn allow_open_files(wanted: u64) -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = wanted.min(hard).max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard)?;
    Ok(limit)
}

/// Lets all threads share `count` heaps. A daemon whose threads mostly wait needs no heap for
/// each of them. To be called before the first thread is started.
pub fn limit_heaps(count: u16) {
    raw::set_malloc_arenas(count.into());
}

/// Gives the memory back that a burst of work has left unused.
pub fn release_unused_memory() {
    raw::trim_malloc();
}

/// Bytes on the heap that are in use. Files that are mapped do not count.
pub fn memory_used() -> usize {
    raw::malloc_in_use()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_taken_counts_as_used() {
        const MUCH: usize = 64 * 1024 * 1024;
        let before = memory_used();
        let taken = std::hint::black_box(vec![1_u8; MUCH]);
        let grown = memory_used().saturating_sub(before);
        assert!(grown > MUCH / 2, "{grown} of {}", taken.len());
        drop(taken);
        let kept = memory_used().saturating_sub(before);
        assert!(kept < MUCH / 2, "{kept}");
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        // The test harness runs each test in a thread of its own, so there are at least two.
        assert!(fork().unwrap_err().to_string().contains("other threads"));
    }
}
