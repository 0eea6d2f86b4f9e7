//! The mutexes in front of a database that was created with `MUTEX_LOCKING` (`tdb.md` 5).
//!
//! One of the two files with `unsafe` code. The mutexes are those of the C library, process-shared
//! and robust: when their owner dies, the next one to lock gets them. An owner is a *thread*.
//!
//! | offset in the file | content                                                             |
//! |-------------------:|---------------------------------------------------------------------|
//! |                  0 | the file header, 168 bytes                                          |
//! |                168 | the allrecord mutex                                                 |
//! |        behind that | `i16` state of the allrecord lock: 0 read, 1 write, 2 free; padding |
//! |        behind that | a mutex for the free list, then one for each hash chain             |
//! |       up to a page | zeros                                                               |
//!
//! The C library keeps pointers in a locked mutex, in the shared memory. Whoever can write to such
//! a file is therefore trusted, as with every program that uses these files.
#![expect(
    unsafe_code,
    reason = "robust mutexes in shared memory exist in the C library only"
)]

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI16, Ordering};
use std::time::{Duration, Instant};

use libc::pthread_mutex_t;
use memmap2::{MmapOptions, MmapRaw};

use crate::error::{Error, Result};
use crate::layout::HEADER_SIZE;
use crate::lock::{Rw, Wait};

const MUTEX: usize = size_of::<pthread_mutex_t>();
const ALLRECORD: usize = HEADER_SIZE as usize;
const STATE: usize = ALLRECORD + MUTEX;
/// The state word is padded to the alignment of a mutex.
const FIRST_MUTEX: usize =
    (STATE + size_of::<i16>()).next_multiple_of(align_of::<pthread_mutex_t>());

const STATE_READ: i16 = 0;
const STATE_WRITE: i16 = 1;
const STATE_FREE: i16 = 2;

/// How long others may stay in a chain before they seem to wait for something themselves.
const CHAIN_PATIENCE: Duration = Duration::from_millis(10);

/// Number of the free list's mutex. Chain `b` has number `b + 1`.
pub(crate) const FREELIST: u32 = 0;

/// Size of a page of this machine.
pub(crate) fn page_size() -> u32 {
    static SIZE: OnceLock<u32> = OnceLock::new();
    *SIZE.get_or_init(|| {
        // SAFETY: no memory is passed.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u32::try_from(size).unwrap_or(4096)
    })
}

/// Bytes in front of the database, the header included: what `mutex_size` in the header must be.
pub(crate) fn area_size(hash_size: u32) -> u64 {
    let mutexes = MUTEX as u64 * (u64::from(hash_size) + 1);
    (FIRST_MUTEX as u64 + mutexes).next_multiple_of(page_size().into())
}

/// Writes the bytes from the allrecord mutex to the end of the area: everything unlocked.
pub(crate) fn write_unlocked(out: &mut impl Write, hash_size: u32) -> io::Result<()> {
    const STATE: usize = size_of::<i16>();
    let mutex = new_mutex()?;
    out.write_all(&mutex)?;
    out.write_all(&if cfg!(target_endian = "little") {
        STATE_FREE.to_le_bytes()
    } else {
        STATE_FREE.to_be_bytes()
    })?;
    write_zeros(out, FIRST_MUTEX - ALLRECORD - MUTEX - STATE)?;
    for _ in 0..=hash_size {
        out.write_all(&mutex)?;
    }
    let used = FIRST_MUTEX as u64 + MUTEX as u64 * (u64::from(hash_size) + 1);
    let rest = area_size(hash_size) - used;
    write_zeros(out, usize::try_from(rest).expect("it is less than a page"))
}

/// Writes `count` zeros.
pub(crate) fn write_zeros(out: &mut impl Write, mut count: usize) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    while count > 0 {
        let part = count.min(ZEROS.len());
        out.write_all(&ZEROS[..part])?;
        count -= part;
    }
    Ok(())
}

/// Whether `MUTEX_LOCKING` works on this machine: whether the death of an owner is noticed. Tried once, with a thread that ends
/// while it holds a mutex.
pub fn mutexes_work() -> bool {
    static WORK: OnceLock<bool> = OnceLock::new();
    *WORK.get_or_init(|| probe_owner_death().unwrap_or(false))
}

/// Mutexes of an open database.
pub(crate) struct MutexArea {
    /// Not unmapped while a mutex is locked: the C library has it in a list of its thread.
    map: ManuallyDrop<MmapRaw>,
    hash_size: u32,
    locked: Cell<u32>,
}

impl MutexArea {
    /// Maps the mutexes of a database whose header has been checked.
    pub(crate) fn open(file: &File, hash_size: u32) -> Result<Self> {
        let size = area_size(hash_size);
        let metadata = file.metadata().map_err(Error::io("fstat"))?;
        if metadata.len() < size {
            return Err(Error::Corrupt {
                offset: 0,
                what: "mutex area is cut off",
            });
        }
        let len = usize::try_from(size).map_err(|_| Error::TooLarge)?;
        let map = MmapOptions::new()
            .len(len)
            .map_raw(file)
            .map_err(Error::io("mmap"))?;
        Ok(Self {
            map: ManuallyDrop::new(map),
            hash_size,
            locked: Cell::new(0),
        })
    }

    /// Locks the free list.
    pub(crate) fn lock_freelist(&self, wait: Wait) -> Result<()> {
        self.lock(self.mutex(FREELIST), wait).map(drop)
    }

    /// Locks chain `bucket`, whose mutex knows no read mode. Waits for the holder of the allrecord
    /// lock too, unless another chain is held: he would wait for us (`tdb.md` 5.3).
    pub(crate) fn lock_chain(
        &self,
        bucket: u32,
        rw: Rw,
        wait: Wait,
        holds_other: bool,
    ) -> Result<()> {
        loop {
            self.lock(self.mutex(bucket + 1), wait)?;
            let state = self.state().load(Ordering::SeqCst);
            if holds_other || state == STATE_FREE || (state == STATE_READ && rw == Rw::Read) {
                return Ok(());
            }
            self.unlock(self.mutex(bucket + 1))?;
            self.lock_allrecord(wait)?;
            self.unlock(self.allrecord())?;
        }
    }

    /// Unlocks mutex [`FREELIST`], or `b + 1` for chain `b`.
    pub(crate) fn unlock_number(&self, number: u32) -> Result<()> {
        self.unlock(self.mutex(number))
    }

    /// Takes the allrecord lock and waits until everybody has left the chains.
    pub(crate) fn lock_all(&self, rw: Rw, wait: Wait) -> Result<()> {
        self.lock_allrecord(wait)?;
        let state = self.state();
        if state.load(Ordering::SeqCst) != STATE_FREE {
            self.unlock(self.allrecord())?;
            return Err(Error::Lock("allrecord lock is in an unknown state"));
        }
        state.store(
            if rw == Rw::Read {
                STATE_READ
            } else {
                STATE_WRITE
            },
            Ordering::SeqCst,
        );
        self.drain_chains(wait).inspect_err(|_| {
            // The error that is reported is the first one.
            let _ = self.unlock_all();
        })
    }

    /// Turns the allrecord read lock into a write lock. False, with nothing changed, if somebody
    /// stays in a chain: for a while, or at all if this must not wait.
    pub(crate) fn try_upgrade_all(&self, wait: Wait) -> Result<bool> {
        if self.state().swap(STATE_WRITE, Ordering::SeqCst) != STATE_READ {
            return Err(Error::Lock("allrecord lock is not a read lock"));
        }
        let patience = match wait {
            Wait::Try => Duration::ZERO,
            Wait::Block => CHAIN_PATIENCE,
        };
        let deadline = Instant::now() + patience;
        for bucket in 0..self.hash_size {
            if let Err(error) = self.drain_until(bucket, deadline) {
                self.state().store(STATE_READ, Ordering::SeqCst);
                return match error {
                    Error::WouldBlock => Ok(false),
                    error => Err(error),
                };
            }
        }
        Ok(true)
    }

    pub(crate) fn unlock_all(&self) -> Result<()> {
        self.state().store(STATE_FREE, Ordering::SeqCst);
        self.unlock(self.allrecord())
    }

    /// Everybody who locked a chain before the allrecord lock was taken has left when this returns.
    fn drain_chains(&self, wait: Wait) -> Result<()> {
        (0..self.hash_size).try_for_each(|bucket| self.drain(bucket, wait))
    }

    fn drain(&self, bucket: u32, wait: Wait) -> Result<()> {
        let mutex = self.mutex(bucket + 1);
        self.lock(mutex, wait)?;
        self.unlock(mutex)
    }

    fn drain_until(&self, bucket: u32, deadline: Instant) -> Result<()> {
        loop {
            match self.drain(bucket, Wait::Try) {
                Err(Error::WouldBlock) if Instant::now() < deadline => std::thread::yield_now(),
                result => return result,
            }
        }
    }

    /// Locks the allrecord mutex. If its owner died, his lock is taken back.
    fn lock_allrecord(&self, wait: Wait) -> Result<()> {
        if self.lock(self.allrecord(), wait)? == Owner::Died {
            self.state().store(STATE_FREE, Ordering::SeqCst);
        }
        Ok(())
    }

    fn lock(&self, mutex: *mut pthread_mutex_t, wait: Wait) -> Result<Owner> {
        // SAFETY: `mutex` is one of ours: aligned, mapped writable until `self` is dropped, and
        // initialised by whoever created the database.
        let result = unsafe {
            match wait {
                Wait::Block => libc::pthread_mutex_lock(mutex),
                Wait::Try => libc::pthread_mutex_trylock(mutex),
            }
        };
        let owner = match (result, wait) {
            (0, _) => Owner::Left,
            (libc::EOWNERDEAD, _) => {
                // SAFETY: as above, and this thread has just locked it.
                check(unsafe { libc::pthread_mutex_consistent(mutex) })?;
                Owner::Died
            }
            (libc::EBUSY | libc::EDEADLK, Wait::Try) => return Err(Error::WouldBlock),
            (libc::EDEADLK, Wait::Block) => {
                return Err(Error::Lock(
                    "this thread holds the lock through another handle",
                ));
            }
            (errno, _) => return check(errno).map(|()| Owner::Left),
        };
        self.locked.set(self.locked.get() + 1);
        Ok(owner)
    }

    fn unlock(&self, mutex: *mut pthread_mutex_t) -> Result<()> {
        // SAFETY: as in `lock`. A thread that does not own the mutex gets an error.
        check(unsafe { libc::pthread_mutex_unlock(mutex) })?;
        self.locked.set(self.locked.get() - 1);
        Ok(())
    }

    fn allrecord(&self) -> *mut pthread_mutex_t {
        self.at(ALLRECORD).cast()
    }

    fn state(&self) -> &AtomicI16 {
        // SAFETY: aligned, mapped as long as `self` lives, accessed as an atomic only.
        unsafe { AtomicI16::from_ptr(self.at(STATE).cast()) }
    }

    fn mutex(&self, number: u32) -> *mut pthread_mutex_t {
        assert!(
            number <= self.hash_size,
            "chain numbers are below the hash size"
        );
        self.at(FIRST_MUTEX + MUTEX * number as usize).cast()
    }

    fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: `open` mapped `area_size` bytes, which cover all mutexes.
        unsafe { self.map.as_mut_ptr().add(offset) }
    }
}

impl Drop for MutexArea {
    fn drop(&mut self) {
        if self.locked.get() == 0 {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.map) };
        }
    }
}

/// What became of the one who had a mutex before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Owner {
    Left,
    /// Without unlocking. The state it protects may be half changed.
    Died,
}

/// For the return value of a `pthread` function.
fn check(errno: i32) -> Result<()> {
    match os_result(errno) {
        Ok(()) => Ok(()),
        Err(source) => Err(Error::Io {
            what: "mutex in the database",
            source,
        }),
    }
}

fn os_result(errno: i32) -> io::Result<()> {
    if errno == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(errno))
    }
}

/// An unlocked mutex as bytes. They hold no address, so copies of it are unlocked mutexes too.
fn new_mutex() -> io::Result<[u8; MUTEX]> {
    // Zeroed first, since initialisation need not touch padding.
    let mut mutex = MaybeUninit::<pthread_mutex_t>::zeroed();
    init_mutex(mutex.as_mut_ptr())?;
    // SAFETY: every byte was initialised by `zeroed`.
    Ok(unsafe { mutex.as_ptr().cast::<[u8; MUTEX]>().read() })
}

/// Initialises a mutex that processes share and that survives its owner.
fn init_mutex(mutex: *mut pthread_mutex_t) -> io::Result<()> {
    let mut attributes = MaybeUninit::uninit();
    let attributes = attributes.as_mut_ptr();
    // SAFETY: `attributes` is initialised by the first call and destroyed by the last; `mutex`
    // comes from this file and leads to room for a mutex that nobody uses yet.
    unsafe {
        os_result(libc::pthread_mutexattr_init(attributes))?;
        let result = os_result(libc::pthread_mutexattr_settype(
            attributes,
            libc::PTHREAD_MUTEX_ERRORCHECK,
        ))
        .and_then(|()| {
            let shared = libc::PTHREAD_PROCESS_SHARED;
            os_result(libc::pthread_mutexattr_setpshared(attributes, shared))
        })
        .and_then(|()| {
            let robust = libc::PTHREAD_MUTEX_ROBUST;
            os_result(libc::pthread_mutexattr_setrobust(attributes, robust))
        })
        .and_then(|()| os_result(libc::pthread_mutex_init(mutex, attributes)));
        libc::pthread_mutexattr_destroy(attributes);
        result
    }
}

/// Lets a thread end with a mutex locked and looks whether the next owner is told.
fn probe_owner_death() -> io::Result<bool> {
    let map = MmapOptions::new().len(MUTEX).map_anon()?;
    let address = map.as_ptr() as usize;
    let mutex = ptr::with_exposed_provenance_mut::<pthread_mutex_t>(address);
    init_mutex(mutex)?;
    let dying = std::thread::spawn(move || {
        let mutex = ptr::with_exposed_provenance_mut::<pthread_mutex_t>(address);
        // SAFETY: initialised above; the mapping outlives this thread, which is joined below.
        unsafe { libc::pthread_mutex_lock(mutex) }
    });
    let locked = dying
        .join()
        .map_err(|_| io::Error::other("thread for the probe panicked"))?;
    os_result(locked)?;
    // SAFETY: initialised and mapped; made usable again and unlocked, so that the list of this
    // thread does not keep it.
    unsafe {
        let noticed = libc::pthread_mutex_lock(mutex) == libc::EOWNERDEAD;
        libc::pthread_mutex_consistent(mutex);
        libc::pthread_mutex_unlock(mutex);
        Ok(noticed)
    }
}
