//! An open database: its locks as a caller sees them, and its settings.

use std::cell::Cell;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use crate::error::{Error, OpenError, Result};
use crate::hash::HashKind;
use crate::image::Image;
use crate::layout::{Magic, RECOVERY_START, SEQUENCE_NUMBER};
use crate::lock::{LockByte, Locks, Range, Rw, Taken, Wait};
use crate::open::{Flags, OpenOptions};
use crate::transaction::Transaction;

/// A handle of a database.
///
/// It may move between threads, but is used by one at a time. Threads that wait for locks or hold
/// them for long use a handle of their own on the same file, see [`Db::reopen`]; all handles
/// exclude each other like processes do.
///
/// Every operation takes the lock it needs. A caller who takes it first (say with
/// [`Db::try_chainlock`]) makes several operations one: those then find the lock held and make no
/// system call for it.
pub struct Db {
    pub(crate) image: Image,
    pub(crate) locks: Locks,
    pub(crate) hash: HashKind,
    pub(crate) hash_size: u32,
    pub(crate) flags: Cell<Flags>,
    pub(crate) max_dead: Cell<u32>,
    /// What work on one record does about locks that others have.
    pub(crate) wait: Cell<Wait>,
    pub(crate) read_only: bool,
    /// Read traverses that are running: no writes meanwhile.
    pub(crate) read_traverses: Cell<u32>,
    pub(crate) transaction: Cell<Option<Transaction>>,
    pub(crate) opened: Opened,
}

/// An order of keys that puts those of a hash chain side by side. Few keys share a place.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct KeyPlace {
    /// Number of the hash chain.
    pub chain: u32,
    /// Hash of the key.
    pub hash: u32,
}

/// How a handle came to be.
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) options: OpenOptions,
    /// Device and inode, to notice that the path leads to another file now.
    pub(crate) identity: Option<(u64, u64)>,
    /// Where the database begins in the file: behind the mutexes, if it has some.
    pub(crate) base: u64,
    /// The features of the format that it uses.
    pub(crate) features: u32,
}

/// Settings and facts.
impl Db {
    /// Path the database was opened by; empty in memory.
    pub fn path(&self) -> &Path {
        &self.opened.path
    }

    /// The flags of this handle: those given at open, and those that follow from the file. CTDB
    /// tells them to its clients as a number ([`Flags::bits`]).
    pub fn flags(&self) -> Flags {
        self.flags.get()
    }

    /// Switches the counting of changes ([`Db::sequence_number`]) on or off for this handle.
    pub fn set_seqnum(&self, on: bool) {
        let mut flags = self.flags.get();
        flags.set(Flags::SEQNUM, on);
        self.flags.set(flags);
    }

    /// Number of hash chains, fixed at creation. Chains are numbered from 0.
    pub fn hash_size(&self) -> u32 {
        self.hash_size
    }

    /// Hash function of the file.
    pub fn hash_kind(&self) -> HashKind {
        self.hash
    }

    /// Number of the hash chain that `key` belongs to.
    pub fn chain_of(&self, key: &[u8]) -> u32 {
        self.bucket(self.hash.hash(key))
    }

    /// Where the record of `key` belongs among all records.
    pub fn place_of(&self, key: &[u8]) -> KeyPlace {
        let hash = self.hash.hash(key);
        let chain = self.bucket(hash);
        KeyPlace { chain, hash }
    }

    /// Bytes of the file, without its mutex area.
    pub fn size(&self) -> Result<u32> {
        self.image.refresh()
    }

    /// Deleted records that may stay in each chain, for reuse without the free list. 0 at first.
    pub fn set_max_dead(&self, max_dead: u32) {
        self.max_dead.set(max_dead);
    }

    /// Whether fetch, store, append and delete may wait for locks that others have; true at first,
    /// also for a handle from [`Db::reopen`]. If not, they fail with [`Error::WouldBlock`], and
    /// nothing has changed. A store that finds room without the free list does not fail for that
    /// lock, nor does a delete: what it cannot give back stays in its chain for the next one.
    pub fn set_may_wait(&self, may_wait: bool) {
        self.wait
            .set(if may_wait { Wait::Block } else { Wait::Try });
    }

    /// Whether the chains are locked by mutexes in the file, instead of locks of the kernel.
    pub fn uses_mutexes(&self) -> bool {
        self.locks.use_mutexes()
    }

    /// The counter of changes in the file. It moves only while the handles that write have
    /// `SEQNUM` set.
    pub fn sequence_number(&self) -> Result<u32> {
        self.image.word(SEQUENCE_NUMBER)
    }

    /// Another handle on the same file, with locks of its own: for a thread that waits for locks.
    /// It never clears the file. Fails if the path leads to another file by now.
    pub fn reopen(&self) -> Result<Self, OpenError> {
        let again = self
            .opened
            .options
            .clone()
            .create(false)
            .open(&self.opened.path)?;
        if again.opened.identity != self.opened.identity {
            return Err(OpenError::Invalid("path leads to another file now"));
        }
        again.max_dead.set(self.max_dead.get());
        again.flags.set(self.flags.get());
        Ok(again)
    }

    pub(crate) fn bucket(&self, hash: u32) -> u32 {
        hash % self.hash_size
    }

    /// Fails if this handle must not write now.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.read_only || self.read_traverses.get() > 0 {
            return Err(Error::ReadOnly);
        }
        match self.transaction.get() {
            Some(transaction) if transaction.is_prepared() => {
                Err(Error::Invalid("the transaction is about to commit"))
            }
            _ => Ok(()),
        }
    }

    /// Counts a change. Failing to count is no reason to fail the change.
    pub(crate) fn count_change(&self) {
        if self.flags.get().contains(Flags::SEQNUM) {
            let _ = self.increment_sequence_number();
        }
    }

    /// Adds 1 to [`Db::sequence_number`], whether or not this handle counts changes: CTDB does so
    /// when another node has changed its copy.
    pub fn increment_sequence_number(&self) -> Result<()> {
        if self.image.increment(SEQUENCE_NUMBER)? {
            return Ok(());
        }
        let _lock = self.lock_byte(LockByte::SEQNUM, Rw::Write, self.wait.get())?;
        let number = self.image.word(SEQUENCE_NUMBER)?;
        self.image.set_word(SEQUENCE_NUMBER, number.wrapping_add(1))
    }
}

/// Locks.
impl Db {
    /// Locks the hash chain of `key` for writing, as smbd does while it works on a record. Waits.
    pub fn chainlock(&self, key: &[u8]) -> Result<ChainLock<'_>> {
        self.lock_chain_for(key, Rw::Write, Wait::Block)
    }

    /// Like [`Db::chainlock`]; `None` if somebody else has the lock.
    pub fn try_chainlock(&self, key: &[u8]) -> Result<Option<ChainLock<'_>>> {
        unless_blocked(self.lock_chain_for(key, Rw::Write, Wait::Try))
    }

    /// Locks the hash chain of `key` for reading. Waits.
    pub fn chainlock_read(&self, key: &[u8]) -> Result<ChainLock<'_>> {
        self.lock_chain_for(key, Rw::Read, Wait::Block)
    }

    /// Like [`Db::chainlock_read`]; `None` if somebody else writes.
    pub fn try_chainlock_read(&self, key: &[u8]) -> Result<Option<ChainLock<'_>>> {
        unless_blocked(self.lock_chain_for(key, Rw::Read, Wait::Try))
    }

    /// Notes that another handle holds the write lock of this key's chain on behalf of this one,
    /// which then takes no lock for it. Undone by [`Db::chainlock_unmark`].
    pub fn chainlock_mark(&self, key: &[u8]) {
        self.locks.mark(LockByte::chain(self.chain_of(key)));
    }

    pub fn chainlock_unmark(&self, key: &[u8]) -> Result<()> {
        self.locks.unlock(LockByte::chain(self.chain_of(key)))
    }

    /// Locks the free list, which a store takes when it needs room and finds none in its chain.
    /// Waits. The C library, and this one, take it behind the lock of a chain: whoever has it must
    /// only try to lock a chain, not wait for one. It keeps nobody from locking the whole database.
    pub fn freelist_lock(&self) -> Result<FreelistLock<'_>> {
        self.lock_freelist(Wait::Block).map(FreelistLock)
    }

    /// Notes that another handle holds the lock of the free list on behalf of this one, which then
    /// takes no lock for it. Undone by [`Db::freelist_unmark`].
    pub fn freelist_mark(&self) {
        self.locks.mark(LockByte::FREELIST);
    }

    pub fn freelist_unmark(&self) -> Result<()> {
        self.locks.unlock(LockByte::FREELIST)
    }

    /// Locks the whole database for writing. Waits for everybody who is in a chain or stands on a
    /// record. This handle must not hold a chain lock.
    pub fn lockall(&self) -> Result<AllLock<'_>> {
        self.lock_all_for(Rw::Write, Wait::Block)
    }

    /// Like [`Db::lockall`]; `None` if somebody else is in the way.
    pub fn try_lockall(&self) -> Result<Option<AllLock<'_>>> {
        unless_blocked(self.lock_all_for(Rw::Write, Wait::Try))
    }

    /// Locks the whole database for reading: nobody writes meanwhile.
    pub fn lockall_read(&self) -> Result<AllLock<'_>> {
        self.lock_all_for(Rw::Read, Wait::Block)
    }

    /// Like [`Db::lockall_read`]; `None` if somebody else is in the way.
    pub fn try_lockall_read(&self) -> Result<Option<AllLock<'_>>> {
        unless_blocked(self.lock_all_for(Rw::Read, Wait::Try))
    }

    /// Notes that another handle holds the write lock of the whole database on behalf of this one,
    /// as when a lock thread keeps it frozen. Undone by [`Db::lockall_unmark`].
    pub fn lockall_mark(&self) -> Result<()> {
        self.locks.mark_all()
    }

    pub fn lockall_unmark(&self) -> Result<()> {
        self.locks.unlock_all()
    }

    /// Keeps other transactions, and traverses that write, from starting. Waits.
    pub fn transaction_lock(&self) -> Result<TransactionLock<'_>> {
        self.lock_transaction(Wait::Block).map(TransactionLock)
    }

    /// Like [`Db::transaction_lock`]; `None` if somebody else has the lock.
    pub fn try_transaction_lock(&self) -> Result<Option<TransactionLock<'_>>> {
        unless_blocked(self.lock_transaction(Wait::Try).map(TransactionLock))
    }

    pub(crate) fn lock_transaction(&self, wait: Wait) -> Result<ByteLock<'_>> {
        self.check_writable()?;
        self.lock_byte(LockByte::TRANSACTION, Rw::Write, wait)
    }

    fn lock_chain_for(&self, key: &[u8], rw: Rw, wait: Wait) -> Result<ChainLock<'_>> {
        let chain = self.chain_of(key);
        Ok(ChainLock {
            chain,
            _lock: self.lock_chain(chain, rw, wait)?,
        })
    }

    #[expect(clippy::inline_always, reason = "as below")]
    #[inline(always)]
    pub(crate) fn lock_chain(&self, chain: u32, rw: Rw, wait: Wait) -> Result<ByteLock<'_>> {
        self.lock_records(LockByte::chain(chain), rw, wait)
    }

    pub(crate) fn lock_freelist(&self, wait: Wait) -> Result<ByteLock<'_>> {
        self.lock_records(LockByte::FREELIST, Rw::Write, wait)
    }

    /// Locks a chain or the free list. If somebody died in a commit since this handle looked last,
    /// his transaction is rolled back first.
    #[expect(
        clippy::inline_always,
        reason = "a guard returned through memory stalls the caller"
    )]
    #[inline(always)]
    fn lock_records(&self, byte: LockByte, rw: Rw, wait: Wait) -> Result<ByteLock<'_>> {
        if rw == Rw::Write {
            self.check_writable()?;
        }
        let lock = self.lock_byte(byte, rw, wait)?;
        if lock.taken != Taken::First || !self.locks.are_real() || !self.recovery_pending() {
            return Ok(lock);
        }
        drop(lock);
        self.recover_and_lock(byte, rw, wait)
    }

    #[cold]
    fn recover_and_lock(&self, byte: LockByte, rw: Rw, wait: Wait) -> Result<ByteLock<'_>> {
        loop {
            self.recover_now(wait)?;
            let lock = self.lock_byte(byte, rw, wait)?;
            if !self.recovery_pending() {
                return Ok(lock);
            }
        }
    }

    #[expect(clippy::inline_always, reason = "as above")]
    #[inline(always)]
    pub(crate) fn lock_byte(&self, byte: LockByte, rw: Rw, wait: Wait) -> Result<ByteLock<'_>> {
        let taken = self.locks.lock(byte, rw, wait)?;
        Ok(ByteLock {
            locks: &self.locks,
            byte,
            taken,
            _not_send: PhantomData,
        })
    }

    pub(crate) fn lock_all_for(&self, rw: Rw, wait: Wait) -> Result<AllLock<'_>> {
        if rw == Rw::Write {
            self.check_writable()?;
        }

        loop {
            let taken = self.locks.lock_all(rw, wait, false)?;
            let lock = AllLock {
                locks: &self.locks,
                _not_send: PhantomData,
            };
            if taken != Taken::First || !self.locks.are_real() || !self.recovery_pending() {
                return Ok(lock);
            }
            drop(lock);
            self.recover_now(wait)?;
        }
    }

    /// Whether a commit was cut short. If that cannot be read it counts as yes.
    #[inline]
    pub(crate) fn recovery_pending(&self) -> bool {
        let pending = || -> Result<bool> {
            match self.image.word(RECOVERY_START)? {
                0 => Ok(false),
                start => Ok(self.image.record(start)?.magic == Magic::RECOVERY),
            }
        };
        pending().unwrap_or(true)
    }

    /// Rolls an unfinished commit back while others may be waiting for the data.
    pub(crate) fn recover_now(&self, wait: Wait) -> Result<()> {
        let locks = &self.locks;
        locks.lock_range(Range::DATA, Rw::Write, wait)?;
        let result = locks
            .lock_range(Range::OPEN, Rw::Write, wait)
            .and_then(|()| {
                let result = self.recover(!self.uses_mutexes());
                locks.unlock_range(Range::OPEN);
                result
            });
        locks.unlock_range(Range::DATA);
        result
    }
}

/// Holds one hash chain locked, until dropped. Not `Send`: a mutex belongs to its thread.
///
/// ```compile_fail,E0277
/// fn elsewhere(lock: impl Send) {}
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let db = tdb::OpenOptions::new().open("file.tdb")?;
/// elsewhere(db.chainlock(b"key")?);
/// # Ok(()) }
/// ```
#[must_use]
pub struct ChainLock<'db> {
    chain: u32,
    _lock: ByteLock<'db>,
}

impl ChainLock<'_> {
    /// Number of the chain.
    pub fn chain(&self) -> u32 {
        self.chain
    }
}

/// Holds the free list locked, until dropped. Not `Send`: a mutex belongs to its thread.
#[must_use]
pub struct FreelistLock<'db>(#[expect(dead_code, reason = "held for its drop")] ByteLock<'db>);

/// Holds the transaction lock, until dropped.
#[must_use]
pub struct TransactionLock<'db>(#[expect(dead_code, reason = "held for its drop")] ByteLock<'db>);

/// Holds the whole database locked, until dropped. Not `Send`: a mutex belongs to its thread.
#[must_use]
pub struct AllLock<'db> {
    locks: &'db Locks,
    _not_send: PhantomData<*const ()>,
}

impl Drop for AllLock<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.locks.unlock_all() {
            tracing::error!(%error, "cannot unlock the database");
        }
    }
}

/// Holds one counted lock, until dropped.
#[must_use]
pub(crate) struct ByteLock<'db> {
    locks: &'db Locks,
    byte: LockByte,
    taken: Taken,
    _not_send: PhantomData<*const ()>,
}

impl Drop for ByteLock<'_> {
    #[expect(clippy::inline_always, reason = "a guard that lives in registers only")]
    #[inline(always)]
    fn drop(&mut self) {
        if self.taken != Taken::Covered {
            self.locks.leave(self.byte);
        }
    }
}

/// Turns "somebody else has it" into `None`.
pub(crate) fn unless_blocked<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(lock) => Ok(Some(lock)),
        Err(Error::WouldBlock) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Length of the content of a record, if the format has room for it.
pub(crate) fn content_len<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Result<u32> {
    parts
        .into_iter()
        .try_fold(0_u32, |sum, part| {
            sum.checked_add(u32::try_from(part.len()).ok()?)
        })
        .ok_or(Error::TooLarge)
}
