//! Who may touch what in a shared file: byte-range locks of the kernel, the mutexes of the file,
//! and what of it this handle holds already (`tdb.md` 4 and 5).
//!
//! The kernel's locks are open-file-description locks. They conflict with the classic ones of the C
//! library, and also between two handles of one process, so each handle opens the file for itself.
//!
//! | byte      | lock                                                                         |
//! |----------:|------------------------------------------------------------------------------|
//! |         0 | OPEN: while somebody opens, commits or recovers                              |
//! |         4 | ACTIVE: read lock for as long as the file is in use                          |
//! |         8 | TRANSACTION: a transaction or a write traverse                               |
//! |        48 | SEQNUM: change of the sequence number without mmap                           |
//! |       164 | the free list                                                                |
//! | 168 + 4 b | hash chain `b`                                                               |
//! |  168 to ∞ | allrecord: all chains and all records                                        |
//! |   offsets | a record that a traverse of the C library stands on: must not be freed       |

use std::cell::{Cell, RefCell, RefMut};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::error::{Error, Result};
use crate::mutex::{FREELIST, MutexArea};

/// A byte of the lock table above.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LockByte(u32);

impl LockByte {
    pub(crate) const TRANSACTION: Self = Self(8);
    pub(crate) const SEQNUM: Self = Self(48);
    pub(crate) const FREELIST: Self = Self(164);
    const FIRST_CHAIN: u32 = 168;

    pub(crate) fn chain(bucket: u32) -> Self {
        Self(Self::FIRST_CHAIN + 4 * bucket)
    }

    /// Whether the allrecord lock makes this one needless: true for the chains and the free list.
    fn is_of_records(self) -> bool {
        self.0 >= Self::FREELIST.0
    }

    /// The bucket, if this is the lock of a chain.
    fn bucket(self) -> Option<u32> {
        self.0
            .checked_sub(Self::FIRST_CHAIN)
            .map(|distance| distance / 4)
    }
}

/// A range of bytes in the file, for the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    start: u64,
    /// 0 reaches to infinity.
    len: u64,
}

impl Range {
    pub(crate) const OPEN: Self = Self { start: 0, len: 1 };
    pub(crate) const ACTIVE: Self = Self { start: 4, len: 1 };
    /// All chains and all records.
    pub(crate) const DATA: Self = Self { start: 168, len: 0 };

    fn byte(byte: u32) -> Self {
        Self {
            start: byte.into(),
            len: 1,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rw {
    Read,
    Write,
}

/// What to do when somebody else has the lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wait {
    /// Fail with [`Error::WouldBlock`].
    Try,
    Block,
}

/// What taking a lock has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Taken {
    /// The first lock on records by this handle: others may have died since it looked last.
    First,
    Nested,
    /// Nothing, the allrecord lock covers it. Must not be unlocked.
    Covered,
}

/// Time for readers to move on, before an upgrade of the allrecord lock is tried again.
const UPGRADE_PAUSE: Duration = Duration::from_millis(1);

/// The locks of one handle.
pub(crate) struct Locks {
    /// `None` if this handle does not lock: in memory, read-only, or asked not to.
    kernel: Option<Arc<File>>,
    mutexes: Option<MutexArea>,
    hash_size: u32,
    /// Set if one lock is held in the plainest way: for real, once, and alone. Nearly every
    /// operation takes and leaves just this one; whatever comes on top moves it to `held`.
    single: Cell<Option<Single>>,
    held: RefCell<Vec<Held>>,
    all: Cell<Option<AllRecord>>,
}

/// See [`Locks::single`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Single {
    byte: LockByte,
    rw: Rw,
}

/// A lock of one byte that this handle has, or believes to have.
#[derive(Clone, Copy)]
struct Held {
    byte: LockByte,
    rw: Rw,
    count: u32,
    /// False for a mark: another handle holds the lock for us.
    real: bool,
}

/// The allrecord lock of this handle.
#[derive(Clone, Copy)]
struct AllRecord {
    /// What the handle may do.
    rw: Rw,
    /// A read lock in truth, upgraded before the first write to the file. For transactions.
    upgradable: bool,
    count: u32,
    /// False for a mark: another handle holds the lock for us.
    real: bool,
}

impl Locks {
    pub(crate) fn new(
        kernel: Option<Arc<File>>,
        mutexes: Option<MutexArea>,
        hash_size: u32,
    ) -> Self {
        Self {
            kernel,
            mutexes,
            hash_size,
            single: Cell::new(None),
            held: RefCell::default(),
            all: Cell::new(None),
        }
    }

    /// Whether others are kept out at all.
    pub(crate) fn are_real(&self) -> bool {
        self.kernel.is_some()
    }

    /// Whether the chains are locked by the mutexes in the file.
    pub(crate) fn use_mutexes(&self) -> bool {
        self.mutexes.is_some()
    }

    /// Takes a lock, or counts one more use of it.
    #[inline]
    pub(crate) fn lock(&self, byte: LockByte, rw: Rw, wait: Wait) -> Result<Taken> {
        if self.holds_anything() {
            return self.lock_more(byte, rw, wait);
        }
        self.acquire(byte, rw, wait, false)?;
        self.single.set(Some(Single { byte, rw }));
        Ok(if byte.is_of_records() {
            Taken::First
        } else {
            Taken::Nested
        })
    }

    fn holds_anything(&self) -> bool {
        self.single.get().is_some() || self.all.get().is_some() || !self.held.borrow().is_empty()
    }

    /// What is held, to be changed; nothing is left in `single`.
    fn held(&self) -> RefMut<'_, Vec<Held>> {
        let mut held = self.held.borrow_mut();
        if let Some(Single { byte, rw }) = self.single.take() {
            held.push(Held {
                byte,
                rw,
                count: 1,
                real: true,
            });
        }
        held
    }

    /// The same as [`Self::lock`], for a handle that has some lock already.
    #[cold]
    fn lock_more(&self, byte: LockByte, rw: Rw, wait: Wait) -> Result<Taken> {
        if let Some(all) = self.all.get()
            && byte.is_of_records()
        {
            return if rw == Rw::Write && all.rw == Rw::Read {
                Err(Error::Lock("the allrecord lock is a read lock"))
            } else {
                Ok(Taken::Covered)
            };
        }
        let mut held = self.held();
        if let Some(entry) = held.iter_mut().find(|entry| entry.byte == byte) {
            if rw == Rw::Write && entry.rw == Rw::Read {
                if entry.real {
                    self.upgrade(byte, wait)?;
                }
                entry.rw = Rw::Write;
            }
            entry.count += 1;
            return Ok(Taken::Nested);
        }
        let holds_chain = held.iter().any(|entry| entry.byte.bucket().is_some());
        self.acquire(byte, rw, wait, holds_chain)?;
        let first = match byte.bucket() {
            // The lock of the free list alone does not keep commits, and so their ends, away.
            Some(_) => !holds_chain,
            None => byte.is_of_records() && !held.iter().any(|entry| entry.byte.is_of_records()),
        };
        held.push(Held {
            byte,
            rw,
            count: 1,
            real: true,
        });
        Ok(if first { Taken::First } else { Taken::Nested })
    }

    /// Undoes one [`Self::lock`] or [`Self::mark`].
    #[inline]
    pub(crate) fn unlock(&self, byte: LockByte) -> Result<()> {
        match self.single.get() {
            Some(single) if single.byte == byte => {
                self.single.set(None);
                self.release(byte)
            }
            _ => self.unlock_one_of_many(byte),
        }
    }

    /// Undoes one [`Self::lock`] at the end of a guard, which can only tell the log about an error.
    pub(crate) fn leave(&self, byte: LockByte) {
        if let Err(error) = self.unlock(byte) {
            tracing::error!(?byte, %error, "cannot unlock");
        }
    }

    #[cold]
    fn unlock_one_of_many(&self, byte: LockByte) -> Result<()> {
        let mut held = self.held();
        let index = held
            .iter()
            .rposition(|entry| entry.byte == byte)
            .ok_or(Error::Lock("unlock of what is not locked"))?;
        held[index].count -= 1;
        if held[index].count == 0 && held.swap_remove(index).real {
            self.release(byte)?;
        }
        Ok(())
    }

    /// Notes that another handle holds the write lock of `byte` for this one.
    pub(crate) fn mark(&self, byte: LockByte) {
        let mut held = self.held();
        match held.iter_mut().find(|entry| entry.byte == byte) {
            Some(entry) => entry.count += 1,
            None => held.push(Held {
                byte,
                rw: Rw::Write,
                count: 1,
                real: false,
            }),
        }
    }

    /// Whether the handle holds anything but the allrecord and the transaction lock.
    pub(crate) fn holds_records(&self) -> bool {
        self.held().iter().any(|entry| entry.byte.is_of_records())
    }

    /// Access that the allrecord lock gives, if it is held or marked.
    pub(crate) fn all_held(&self) -> Option<Rw> {
        self.all.get().map(|all| all.rw)
    }

    /// Whether another handle holds the allrecord lock for this one.
    pub(crate) fn all_is_marked(&self) -> bool {
        self.all.get().is_some_and(|all| !all.real)
    }

    /// Takes the allrecord lock, or counts one more use. `upgradable`: a read lock that the handle
    /// may use as a write lock, see [`Self::upgrade_all`].
    pub(crate) fn lock_all(&self, rw: Rw, wait: Wait, upgradable: bool) -> Result<Taken> {
        if self.nest_all(rw)? {
            return Ok(Taken::Nested);
        }
        let kernel_rw = if upgradable { Rw::Read } else { rw };
        self.acquire_all(kernel_rw, wait)?;
        self.all.set(Some(AllRecord {
            rw,
            upgradable,
            count: 1,
            real: true,
        }));
        Ok(Taken::First)
    }

    /// Notes that another handle holds the allrecord write lock for this one.
    pub(crate) fn mark_all(&self) -> Result<()> {
        if !self.nest_all(Rw::Write)? {
            let mark = AllRecord {
                rw: Rw::Write,
                upgradable: false,
                count: 1,
                real: false,
            };
            self.all.set(Some(mark));
        }
        Ok(())
    }

    /// Undoes one [`Self::lock_all`] or [`Self::mark_all`].
    pub(crate) fn unlock_all(&self) -> Result<()> {
        let all = self
            .all
            .get()
            .ok_or(Error::Lock("unlock of what is not locked"))?;
        if all.count > 1 {
            self.all.set(Some(AllRecord {
                count: all.count - 1,
                ..all
            }));
            return Ok(());
        }
        self.all.set(None);
        if !all.real {
            return Ok(());
        }
        let released = self.release_chains();
        self.unlock_range(self.records());
        released
    }

    /// Makes an upgradable allrecord lock a real write lock: waits until all readers have left.
    pub(crate) fn upgrade_all(&self) -> Result<()> {
        let all = self
            .all
            .get()
            .ok_or(Error::Lock("upgrade of what is not locked"))?;
        if !all.upgradable || !all.real {
            return Ok(());
        }
        match &self.mutexes {
            Some(mutexes) => self.upgrade_with(mutexes)?,
            None => self.lock_range(Range::DATA, Rw::Write, Wait::Block)?,
        }
        self.all.set(Some(AllRecord {
            upgradable: false,
            ..all
        }));
        Ok(())
    }

    /// A traverse of the C library waits for a chain while it has a record locked, and for a record
    /// while it has a chain locked. So the records come first, as long as readers may still enter
    /// the chains; and if one of them then waits for a record, he is let through.
    fn upgrade_with(&self, mutexes: &MutexArea) -> Result<()> {
        loop {
            self.lock_range(self.records(), Rw::Write, Wait::Block)?;
            if mutexes.try_upgrade_all(Wait::Block)? {
                return Ok(());
            }
            self.lock_range(self.records(), Rw::Read, Wait::Block)?;
            std::thread::sleep(UPGRADE_PAUSE);
        }
    }

    /// Whether no traverse of the C library stands on the record at `offset`.
    pub(crate) fn record_is_unused(&self, offset: u32) -> Result<bool> {
        if let Some(all) = self.all.get() {
            return Ok(all.rw == Rw::Write);
        }
        let range = Range::byte(offset);
        match self.lock_range(range, Rw::Write, Wait::Try) {
            Ok(()) => {
                self.unlock_range(range);
                Ok(true)
            }
            Err(Error::WouldBlock) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A lock that is not counted: OPEN, ACTIVE, or the whole data of a file.
    pub(crate) fn lock_range(&self, range: Range, rw: Rw, wait: Wait) -> Result<()> {
        match &self.kernel {
            Some(file) => set_lock(file, range, rw, wait),
            None => Ok(()),
        }
    }

    pub(crate) fn unlock_range(&self, range: Range) {
        if let Some(file) = &self.kernel {
            clear_lock(file, range);
        }
    }

    /// Counts one more use of the allrecord lock. False if it is not held yet, but can be taken.
    fn nest_all(&self, rw: Rw) -> Result<bool> {
        match self.all.get() {
            Some(all) if all.rw == rw => {
                self.all.set(Some(AllRecord {
                    count: all.count + 1,
                    ..all
                }));
                Ok(true)
            }
            Some(_) => Err(Error::Lock("the allrecord lock is held in the other mode")),
            None if self.holds_records() => Err(Error::Lock("other locks are held")),
            None => Ok(false),
        }
    }

    /// Takes the chains, then the records. A traverse of the C library waits for a chain while it
    /// has a record locked: so nobody here may wait for the records while he holds the chains.
    fn acquire_all(&self, rw: Rw, wait: Wait) -> Result<()> {
        loop {
            // With mutexes, a traverse that meets a writer waits for the next holder too, whoever
            // that is. So nobody is a writer before he has the records.
            let chains_rw = if self.use_mutexes() { Rw::Read } else { rw };
            self.acquire_chains(chains_rw, wait)?;
            let records = self.lock_range(self.records(), rw, Wait::Try);
            match records.and_then(|()| self.upgrade_chains(rw, wait)) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.unlock_range(self.records());
                    self.release_chains()?;
                    if wait == Wait::Try || !matches!(error, Error::WouldBlock) {
                        return Err(error);
                    }
                }
            }
            self.lock_range(self.records(), rw, Wait::Block)?;
            self.unlock_range(self.records());
        }
    }

    /// Second half of taking the chains for writing, which are held for reading if they are mutexes.
    fn upgrade_chains(&self, rw: Rw, wait: Wait) -> Result<()> {
        match &self.mutexes {
            Some(mutexes) if rw == Rw::Write && !mutexes.try_upgrade_all(wait)? => {
                Err(Error::WouldBlock)
            }
            _ => Ok(()),
        }
    }

    fn acquire_chains(&self, rw: Rw, wait: Wait) -> Result<()> {
        match &self.mutexes {
            Some(mutexes) => mutexes.lock_all(rw, wait),
            None => self.lock_gradually(self.chains(), rw, wait),
        }
    }

    fn release_chains(&self) -> Result<()> {
        if let Some(mutexes) = &self.mutexes {
            return mutexes.unlock_all();
        }
        self.unlock_range(self.chains());
        Ok(())
    }

    #[inline]
    fn acquire(&self, byte: LockByte, rw: Rw, wait: Wait, holds_chain: bool) -> Result<()> {
        match (&self.mutexes, byte.bucket()) {
            (Some(mutexes), Some(bucket)) => mutexes.lock_chain(bucket, rw, wait, holds_chain),
            (Some(mutexes), None) if byte == LockByte::FREELIST => mutexes.lock_freelist(wait),
            _ => self.lock_range(Range::byte(byte.0), rw, wait),
        }
    }

    /// Read to write. A mutex knows no difference.
    fn upgrade(&self, byte: LockByte, wait: Wait) -> Result<()> {
        if self.mutexes.is_some() && byte.is_of_records() {
            return Ok(());
        }
        self.lock_range(Range::byte(byte.0), Rw::Write, wait)
    }

    #[inline]
    fn release(&self, byte: LockByte) -> Result<()> {
        match (&self.mutexes, byte.bucket()) {
            (Some(mutexes), Some(bucket)) => mutexes.unlock_number(bucket + 1),
            (Some(mutexes), None) if byte == LockByte::FREELIST => mutexes.unlock_number(FREELIST),
            _ => {
                self.unlock_range(Range::byte(byte.0));
                Ok(())
            }
        }
    }

    /// First part of the allrecord range: the chains.
    fn chains(&self) -> Range {
        Range {
            start: LockByte::FIRST_CHAIN.into(),
            len: 4 * u64::from(self.hash_size),
        }
    }

    /// Second part of the allrecord range: the records.
    fn records(&self) -> Range {
        Range {
            start: u64::from(LockByte::FIRST_CHAIN) + 4 * u64::from(self.hash_size),
            len: 0,
        }
    }

    /// Locks a range piece by piece where it cannot be had at once, so that a stream of short
    /// locks by others does not keep this one waiting for ever.
    fn lock_gradually(&self, range: Range, rw: Rw, wait: Wait) -> Result<()> {
        match self.lock_range(range, rw, Wait::Try) {
            Err(Error::WouldBlock) if range.len > 4 => {}
            Err(Error::WouldBlock) => return self.lock_range(range, rw, wait),
            result => return result,
        }
        let half = range.len / 2;
        let left = Range { len: half, ..range };
        let right = Range {
            start: range.start + half,
            len: range.len - half,
        };
        self.lock_gradually(left, rw, wait)?;
        self.lock_gradually(right, rw, wait)
            .inspect_err(|_| self.unlock_range(left))
    }
}

fn set_lock(file: &File, range: Range, rw: Rw, wait: Wait) -> Result<()> {
    let kind = if rw == Rw::Read {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    };
    let lock = flock(range, kind);
    loop {
        let result = match wait {
            Wait::Try => fcntl(file, FcntlArg::F_OFD_SETLK(&lock)),
            Wait::Block => fcntl(file, FcntlArg::F_OFD_SETLKW(&lock)),
        };
        return match result {
            Ok(_) => Ok(()),
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN | Errno::EACCES) => Err(Error::WouldBlock),
            Err(errno) => Err(Error::Io {
                what: "fcntl lock",
                source: errno.into(),
            }),
        };
    }
}

fn clear_lock(file: &File, range: Range) {
    // Unlocking fails only for a bad descriptor, or when splitting a range needs memory that the
    // kernel does not have; the lock then goes when the file is closed.
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&flock(range, libc::F_UNLCK)));
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the constants are small, their type is not"
)]
fn flock(range: Range, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: i64::try_from(range.start).unwrap_or(i64::MAX),
        l_len: i64::try_from(range.len).unwrap_or(0),
        // Must be 0 for locks that belong to an open file description.
        l_pid: 0,
    }
}
