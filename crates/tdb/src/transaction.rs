//! Transactions: many changes that survive a crash together or not at all (`tdb.md` 6).
//!
//! Changes are collected in memory, and many of them in a file without a name. The commit saves what it is going to overwrite in the recovery
//! area of the file, marks the area as valid, overwrites, and unmarks the area, waiting for the
//! disk after each of these. Whoever finds a marked area rolls back.
//!
//! Where a commit needs a new recovery area it goes beyond the C library: at no moment is there
//! space in the file that belongs to nobody, other than at its very end.

use std::ops::Range;
use std::path::Path;

use crate::backend::{Backend, length};
use crate::db::Db;
use crate::error::{Error, Result};
use crate::layout::{
    ByteOrder, FREELIST_HEAD, MAGIC_AT, Magic, REC_LEN_AT, RECORD_SIZE, RECOVERY_START, Record,
    TAILER_SIZE, growth,
};
use crate::lock::{LockByte, Range as LockRange, Rw, Taken, Wait};
use crate::map::FileBackend;
use crate::mutex::page_size;
use crate::open::Flags;
use crate::overlay::{OpenSpill, Overlay};
use crate::recovery::{idle_area, recovery_start_word, write_around};

/// A running transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transaction {
    /// Transactions inside this one.
    nested: u32,
    /// An inner transaction was cancelled: this one cannot commit.
    broken: bool,
    /// Holds the locks itself. False under a mark: another handle holds them.
    locked: bool,
    /// The recovery area, once the commit is prepared.
    prepared: Option<Area>,
}

impl Transaction {
    /// Whether no more changes may be added.
    pub(crate) fn is_prepared(&self) -> bool {
        self.prepared.is_some()
    }
}

/// What would be good to do after a commit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum After {
    Nothing,
    Repack,
}

/// The recovery area that a commit uses.
#[derive(Clone, Copy, Debug)]
struct Area {
    start: u32,
    capacity: u32,
}

impl Area {
    fn range(self) -> Range<u32> {
        self.start
            ..self
                .start
                .saturating_add(RECORD_SIZE)
                .saturating_add(self.capacity)
    }
}

impl Db {
    /// Begins a transaction: all changes through this handle are seen by it only, until
    /// [`Db::transaction_commit`]. Waits for other transactions and for all writers.
    ///
    /// Under [`Db::lockall_mark`] no lock is taken. In a database with mutexes the thread that
    /// begins must be the one that ends it.
    pub fn transaction_start(&self) -> Result<()> {
        self.start_transaction(Wait::Block)
    }

    /// Like [`Db::transaction_start`]; false if another transaction runs.
    pub fn try_transaction_start(&self) -> Result<bool> {
        match self.start_transaction(Wait::Try) {
            Ok(()) => Ok(true),
            Err(Error::WouldBlock) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub fn in_transaction(&self) -> bool {
        self.transaction.get().is_some()
    }

    /// First half of a commit: when it returns, nothing is changed yet, but everything that can
    /// fail for lack of space has been done. Only commit or cancel may follow.
    pub fn transaction_prepare(&self) -> Result<()> {
        let transaction = self.current()?;
        if transaction.nested > 0 {
            return Err(Error::Nesting);
        }
        if transaction.prepared.is_some() {
            return Err(Error::Invalid("transaction is prepared already"));
        }
        let broken = transaction.broken || self.overlay(Overlay::is_broken);
        let result = if broken {
            Err(Error::BrokenTransaction)
        } else {
            self.prepare()
        };
        result.inspect_err(|_| self.finish_transaction())
    }

    /// Makes the changes of the transaction permanent. On an error the transaction is cancelled.
    ///
    /// If the file grew although there is free space, in too many pieces, it is repacked then,
    /// unless somebody else is at work in it already.
    pub fn transaction_commit(&self) -> Result<()> {
        if self.commit()? == After::Repack
            && let Err(error) = self.try_repack()
        {
            // The commit is done: this is only for the next ones.
            let path = self.path().display();
            tracing::warn!(%path, %error, "cannot repack after a transaction");
        }
        Ok(())
    }

    /// The commit alone.
    pub(crate) fn commit(&self) -> Result<After> {
        let transaction = self.current()?;
        if let Some(nested) = transaction.nested.checked_sub(1) {
            self.transaction.set(Some(Transaction {
                nested,
                ..transaction
            }));
            return Ok(After::Nothing);
        }
        if transaction.prepared.is_none() {
            self.transaction_prepare()?;
        }
        let prepared = self.current()?.prepared;
        let grew = self.overlay(|overlay| overlay.size() > overlay.old_size());
        let result = prepared.map_or(Ok(()), |area| self.write_back(area));
        let fragmented = grew && transaction.locked && self.is_fragmented().unwrap_or(false);
        self.finish_transaction();
        result.map(|()| {
            if fragmented {
                After::Repack
            } else {
                After::Nothing
            }
        })
    }

    /// Forgets the changes. Cancelling a nested transaction dooms the outer one too.
    pub fn transaction_cancel(&self) -> Result<()> {
        let transaction = self.current()?;
        if let Some(nested) = transaction.nested.checked_sub(1) {
            self.transaction.set(Some(Transaction {
                nested,
                broken: true,
                ..transaction
            }));
            return Ok(());
        }
        let _changes = self.image.end();
        let rolled_back = if transaction.is_prepared() {
            self.recover(true)
        } else {
            Ok(())
        };
        self.finish_transaction();
        rolled_back
    }

    fn current(&self) -> Result<Transaction> {
        self.transaction
            .get()
            .ok_or(Error::Invalid("no transaction is running"))
    }

    fn start_transaction(&self, wait: Wait) -> Result<()> {
        self.check_writable()?;
        if let Some(transaction) = self.transaction.get() {
            return self.nest(transaction);
        }
        if self.locks.holds_records() {
            return Err(Error::Lock("other locks are held"));
        }
        // Under a mark nobody else gets at the records, and waiting for a transaction that waits
        // for the holder of the lock would be for ever.
        let locked = !self.locks.all_is_marked();
        if locked {
            self.lock_for_transaction(wait)?;
        }
        let transaction = Transaction {
            nested: 0,
            broken: false,
            locked,
            prepared: None,
        };
        self.transaction.set(Some(transaction));
        self.area_from_tail()
            .and_then(|()| self.image.begin(self.spill()))
            .inspect_err(|_| self.finish_transaction())
    }

    /// Whether there are transactions inside of the running one.
    pub(crate) fn is_nested(&self) -> bool {
        self.transaction
            .get()
            .is_some_and(|running| running.nested > 0)
    }

    /// A whole commit of what is changed at the moment, in the middle of a transaction whose own
    /// changes are kept elsewhere.
    pub(crate) fn commit_apart(&self) -> Result<()> {
        let committed = self
            .prepare()
            .and_then(|()| match self.current()?.prepared {
                Some(area) => self.write_back(area),
                None => Ok(()),
            });
        drop(self.image.end());
        if let Some(running) = self.transaction.get() {
            let prepared = None;
            self.transaction.set(Some(Transaction {
                prepared,
                ..running
            }));
        }
        self.locks.unlock_range(LockRange::OPEN);
        committed
    }

    /// How to make a file for what a large transaction changes: beside the database, where there
    /// must be room for as much anyway.
    pub(crate) fn spill(&self) -> Option<OpenSpill> {
        let dir = self.path().parent()?;
        let is_here = dir.as_os_str().is_empty();
        let dir = if is_here { Path::new(".") } else { dir }.to_owned();
        self.image.is_file().then(|| -> OpenSpill {
            Box::new(move || match FileBackend::nameless(&dir) {
                Ok(file) => Some(file),
                Err(error) => {
                    let dir = dir.display();
                    tracing::warn!(%dir, %error, "a large transaction stays in memory");
                    None
                }
            })
        })
    }

    fn nest(&self, transaction: Transaction) -> Result<()> {
        if self.flags.get().contains(Flags::DISALLOW_NESTING) {
            return Err(Error::Nesting);
        }
        self.seal()?;
        let nested = transaction.nested + 1;
        self.transaction.set(Some(Transaction {
            nested,
            ..transaction
        }));
        Ok(())
    }

    fn lock_for_transaction(&self, wait: Wait) -> Result<()> {
        let locks = &self.locks;
        locks.lock(LockByte::TRANSACTION, Rw::Write, wait)?;
        let all = loop {
            match locks.lock_all(Rw::Write, Wait::Block, true) {
                Ok(Taken::First) if locks.are_real() && self.recovery_pending() => {
                    if let Err(error) = locks
                        .unlock_all()
                        .and_then(|()| self.recover_now(Wait::Block))
                    {
                        break Err(error);
                    }
                }
                Ok(_) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        all.inspect_err(|_| {
            // The error that is reported is the first one.
            let _ = locks.unlock(LockByte::TRANSACTION);
        })
    }

    /// Drops what is left of the transaction and its locks.
    fn finish_transaction(&self) {
        let _changes = self.image.end();
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        if transaction.locked {
            let unlocked = self
                .locks
                .unlock_all()
                .and_then(|()| self.locks.unlock(LockByte::TRANSACTION));
            if let Err(error) = unlocked {
                tracing::error!(%error, "cannot unlock after a transaction");
            }
        }
        self.locks.unlock_range(LockRange::OPEN);
    }

    fn overlay<R: Default>(&self, look: impl FnOnce(&Overlay) -> R) -> R {
        self.image.overlay().as_ref().map(look).unwrap_or_default()
    }

    fn no_changes(&self) -> bool {
        self.image.overlay().as_ref().is_none_or(Overlay::is_empty)
    }

    /// Gets everything ready that the changes need, up to the mark that makes the log valid.
    fn prepare(&self) -> Result<()> {
        self.seal()?;
        if self.no_changes() {
            return Ok(());
        }
        if self.locks.holds_records() {
            return Err(Error::Lock("other locks are held"));
        }
        self.locks.upgrade_all()?;
        // For real, even if the other locks are marks: an opener would roll us back.
        self.locks
            .lock_range(LockRange::OPEN, Rw::Write, Wait::Block)?;
        let area = self.reserve_area()?;
        let transaction = self.current()?;
        self.transaction.set(Some(Transaction {
            prepared: Some(area),
            ..transaction
        }));
        Ok(())
    }

    /// Finds or makes a recovery area for the log, and writes the log.
    fn reserve_area(&self) -> Result<Area> {
        self.adopt_tail()?;
        let old_size = self.overlay(Overlay::old_size);
        match self.usable_area(old_size)? {
            Some(area) if self.fits(area)? => self.reuse_area(area),
            Some(area) if area.range().end == self.image.size() => {
                self.reuse_area(self.enlarge_area(area)?)
            }
            Some(former) => {
                self.free_area(former, old_size)?;
                self.new_area(old_size, Some(former))
            }
            None => self.new_area(old_size, None),
        }
    }

    /// The recovery area of the file, if it has one.
    fn usable_area(&self, old_size: u32) -> Result<Option<Area>> {
        let start = self.image.word(RECOVERY_START)?;
        if start == 0 {
            return Ok(None);
        }
        if start < self.image.data_start() {
            return Err(Error::Corrupt {
                offset: start,
                what: "recovery area lies in the header",
            });
        }
        let record = self.image.record(start)?;
        if record.magic != Magic::IDLE && record.magic != Magic::RECOVERY {
            return Err(Error::Corrupt {
                offset: start,
                what: "not a recovery area",
            });
        }
        let rest = old_size.saturating_sub(start).saturating_sub(RECORD_SIZE);
        let capacity = record.rec_len;
        let area = Area { start, capacity };
        Ok((capacity <= rest).then_some(area))
    }

    fn fits(&self, area: Area) -> Result<bool> {
        Ok(self.log_len()? <= area.capacity)
    }

    /// Length of a log of all changes, or a little more.
    fn log_len(&self) -> Result<u32> {
        let blocks: u64 =
            self.overlay(|overlay| overlay.changed().map(|(_, len)| 8 + len as u64).sum());
        // A block can be cut in three; the old end of the file, and a former area, add some.
        let extra = 2 * 8 + 2 * (8 + RECORD_SIZE) + 2 * (8 + 4) + TAILER_SIZE;
        u32::try_from(blocks + u64::from(extra)).map_err(|_| Error::TooLarge)
    }

    /// An area at `start` with room for the log, and for bigger ones to come.
    fn larger_area(&self, start: u32) -> Result<Area> {
        let log_len = self.log_len()?;
        let capacity = growth(start, log_len, page_size()).checked_sub(RECORD_SIZE);
        let capacity = capacity
            .filter(|&capacity| capacity >= log_len)
            .ok_or(Error::TooLarge)?;
        let end = start
            .checked_add(RECORD_SIZE)
            .and_then(|start| start.checked_add(capacity));
        end.map(|_| Area { start, capacity }).ok_or(Error::TooLarge)
    }

    /// Lets the area, which is the last thing in the file, reach further. What is written there next
    /// is no longer behind the end of all records then, however much of it gets to the disk.
    fn enlarge_area(&self, area: Area) -> Result<Area> {
        let larger = self.larger_area(area.start)?;
        self.image.backend().grow(larger.range().end)?;
        self.image.sync()?;
        let capacity = self.image.order().bytes(larger.capacity);
        self.write_through(area.start + REC_LEN_AT, &capacity)?;
        self.image.sync()?;
        Ok(larger)
    }

    /// Gives an area that is too small to the free list, as part of the transaction.
    fn free_area(&self, area: Area, old_size: u32) -> Result<()> {
        if area.capacity < TAILER_SIZE {
            return Err(Error::Corrupt {
                offset: area.start,
                what: "recovery area is too short to be a free record",
            });
        }
        self.free(area.start, Record::free(0, area.capacity))?;
        if self.image.size() == old_size {
            // The new area must not follow the old end directly: if the commit is cut short, the
            // bytes there have to look as if they were never written.
            let more = page_size();
            let new_size = old_size.checked_add(more).ok_or(Error::TooLarge)?;
            self.image.grow(new_size)?;
            self.free(old_size, Record::free(0, more - RECORD_SIZE))?;
        }
        Ok(())
    }

    /// The area is in its place and stays there.
    fn reuse_area(&self, area: Area) -> Result<Area> {
        let end = area.range().end.max(self.image.size());
        self.image.backend().grow(end)?;
        self.write_log(area, None)?;
        self.mark(area)?;
        Ok(area)
    }

    /// Makes an area behind everything that the transaction adds. The former one, if any, has been
    /// freed as part of the transaction.
    fn new_area(&self, old_size: u32, former: Option<Area>) -> Result<Area> {
        let area = self.larger_area(self.image.size())?;
        self.image.backend().grow(area.range().end)?;
        if former.is_none() {
            // Until the log is there, all that is new is one idle area.
            let idle = idle_area(area.range().end - old_size - RECORD_SIZE);
            self.write_through(old_size, &idle.encode(self.image.order()))?;
            self.image.sync()?;
            self.set_recovery_start(old_size)?;
            self.image.sync()?;
        }
        self.write_log(area, former)?;
        self.mark(area)?;
        if area.start > old_size {
            self.set_recovery_start(area.start)?;
            self.image.sync()?;
        }
        Ok(area)
    }

    /// Writes the area with its log, not yet valid, and waits for the disk.
    fn write_log(&self, area: Area, former: Option<Area>) -> Result<()> {
        let below = self.image.backend();
        let mut log = Log::new(below, self.image.order(), area);
        let old_size = self.overlay(Overlay::old_size);
        let block = vec![0; page_size() as usize];
        if let Some(overlay) = &*self.image.overlay() {
            for (offset, len) in overlay.changed().filter(|&(offset, _)| offset < old_size) {
                write_around(&[area.range()], offset, &block[..len], |offset, bytes| {
                    below.read(offset, log.add(offset, bytes.len())?)
                })?;
            }
            if overlay.size() > old_size {
                // For the C library, which leaves alone what was added: it begins like space that
                // nobody has used yet.
                log.add(old_size, RECORD_SIZE as usize)?;
            }
        }
        if let Some(former) = former {
            self.log_as_free(&mut log, former)?;
        }
        log.finish(old_size)?;
        self.image.sync()
    }

    /// A rollback cannot bring back the former area, since only one can be found through the
    /// header. It makes a free record of it, by some more blocks in the log.
    fn log_as_free(&self, log: &mut Log<'_>, former: Area) -> Result<()> {
        let order = log.order;
        let head = order.word(self.image.backend().word(FREELIST_HEAD)?);
        let free = Record::free(head, former.capacity);
        log.add(former.start, RECORD_SIZE as usize)?
            .copy_from_slice(&free.encode(order));
        let tailer = order.bytes(free.tailer());
        log.add(former.range().end - TAILER_SIZE, tailer.len())?
            .copy_from_slice(&tailer);
        log.add(FREELIST_HEAD, 4)?
            .copy_from_slice(&order.bytes(former.start));
        Ok(())
    }

    fn mark(&self, area: Area) -> Result<()> {
        self.set_magic_through(area, Magic::RECOVERY)
    }

    fn unmark(&self, area: Area) -> Result<()> {
        self.set_magic_through(area, Magic::IDLE)
    }

    fn set_magic_through(&self, area: Area, magic: Magic) -> Result<()> {
        let bytes = self.image.order().bytes(magic.0);
        self.write_through(area.start + MAGIC_AT, &bytes)?;
        self.image.sync()
    }

    fn set_recovery_start(&self, start: u32) -> Result<()> {
        self.write_through(RECOVERY_START, &self.image.order().bytes(start))
    }

    /// Writes to the database itself, past the transaction.
    fn write_through(&self, offset: u32, bytes: &[u8]) -> Result<()> {
        self.image.backend().write(offset, bytes)
    }

    /// Second half of a commit. If it fails, everything is put back.
    fn write_back(&self, area: Area) -> Result<()> {
        let written = self.write_blocks(area);
        let changes = self.image.end();
        if written.is_err() {
            drop(changes);
            self.recover(true)?;
            return written;
        }
        self.image.backend().touch();
        self.unmark(area)
    }

    fn write_blocks(&self, area: Area) -> Result<()> {
        let kept = [recovery_start_word(), area.range()];
        let below = self.image.backend();
        let mut block = vec![0; page_size() as usize];
        if let Some(overlay) = &*self.image.overlay() {
            for (offset, len) in overlay.changed() {
                let bytes = &mut block[..len];
                overlay.read(below, offset, bytes)?;
                write_around(&kept, offset, bytes, |offset, part| {
                    below.write_long(offset, part)
                })?;
            }
        }
        self.image.sync()
    }
}

/// Bytes of a log that are collected before they are written.
const LOG_PART: usize = 256 * 1024;

/// A log under construction: everything behind the header of its area.
struct Log<'a> {
    below: &'a dyn Backend,
    order: ByteOrder,
    area: Area,
    /// What is not written yet.
    bytes: Vec<u8>,
    /// Bytes that are written.
    written: u32,
}

impl<'a> Log<'a> {
    fn new(below: &'a dyn Backend, order: ByteOrder, area: Area) -> Self {
        Self {
            below,
            order,
            area,
            bytes: Vec::new(),
            written: 0,
        }
    }

    /// Adds a block for `len` bytes at `offset`. Returns the place for what a rollback writes
    /// there, zeros at first.
    fn add(&mut self, offset: u32, len: usize) -> Result<&mut [u8]> {
        if self.bytes.len() >= LOG_PART {
            self.flush()?;
        }
        let count = u32::try_from(len).expect("a block is no longer than a page");
        self.bytes.extend_from_slice(&self.order.bytes(offset));
        self.bytes.extend_from_slice(&self.order.bytes(count));
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        Ok(&mut self.bytes[start..])
    }

    fn flush(&mut self) -> Result<()> {
        let offset = self.area.start + RECORD_SIZE + self.written;
        self.below.write_long(offset, &self.bytes)?;
        self.written += length(&self.bytes);
        self.bytes.clear();
        Ok(())
    }

    /// Writes the rest, and the header, which does not make the log valid yet.
    fn finish(mut self, old_size: u32) -> Result<()> {
        let data_len = self.written + length(&self.bytes) + TAILER_SIZE;
        let header = Record {
            key_len: old_size,
            data_len,
            ..idle_area(self.area.capacity)
        };
        self.bytes
            .extend_from_slice(&self.order.bytes(header.tailer()));
        self.flush()?;
        self.below
            .write(self.area.start, &header.encode(self.order))
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if self.in_transaction() {
            // Closing a handle cancels. An error cannot be told to anybody, and does no harm: the
            // next one to open the file rolls back.
            self.transaction.set(
                self.transaction
                    .get()
                    .map(|t| Transaction { nested: 0, ..t }),
            );
            let _ = self.transaction_cancel();
        }
    }
}
