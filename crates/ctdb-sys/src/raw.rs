//! The calls into the C library that no safe crate offers. Each is wrapped so that no argument
//! can make it unsound; what they mean is said in the modules that re-export them.
#![expect(
    unsafe_code,
    reason = "the calls of this file have no safe counterpart"
)]

use std::io;
use std::mem::MaybeUninit;

use nix::unistd::ForkResult;

/// Forks, after making sure that this is the only thread.
pub(crate) fn fork_single_threaded() -> io::Result<ForkResult> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("other threads are running"));
    }
    // SAFETY: the child of a process with a single thread may do anything: no lock can be held by
    // a thread that does not exist in it. Only this thread could have started another one since
    // the check, and it did not.
    unsafe { nix::unistd::fork() }.map_err(io::Error::from)
}

/// Gives this thread a real-time priority that its children and later threads do not inherit.
pub(crate) fn set_fifo(priority: i32) -> io::Result<()> {
    let param = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: `param` is a valid structure that the call only reads; 0 means the calling thread.
    let status = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const param,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Broken-down local time, `None` for times beyond what a year number can hold.
pub(crate) fn localtime(unix_seconds: i64) -> Option<libc::tm> {
    let mut tm = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call. The C library reads the environment variable
    // TZ here; no code of the project changes the environment of its own process.
    let filled = unsafe { libc::localtime_r(&raw const unix_seconds, tm.as_mut_ptr()) };
    if filled.is_null() {
        return None;
    }
    // SAFETY: the call filled the structure, and all zeros were valid for it before.
    Some(unsafe { tm.assume_init() })
}

/// Sets the number of heaps that the threads of this process share.
pub(crate) fn set_malloc_arenas(count: i32) {
    // SAFETY: changes a number inside the allocator. It may be refused, which changes nothing.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, count) };
}

/// Bytes that the allocator has handed out.
pub(crate) fn malloc_in_use() -> usize {
    // SAFETY: no preconditions.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks.saturating_add(info.hblkhd)
}

/// Gives unused heap memory back to the system.
pub(crate) fn trim_malloc() {
    // SAFETY: no preconditions.
    unsafe { libc::malloc_trim(0) };
}
