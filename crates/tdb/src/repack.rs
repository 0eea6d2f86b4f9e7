//! Free space in many small pieces: how many there are, and making one of them (`tdb.md` 7.9 and
//! 7.10).
//!
//! A repack copies all live records, wipes the database and stores them again, in one transaction:
//! processes that have the file mapped see it before or after, and so does whoever opens it after
//! a crash. Records then lie in the order in which a traverse meets them.

use std::collections::HashSet;

use crate::db::{Db, content_len, unless_blocked};
use crate::error::{Error, Result};
use crate::layout::{FREELIST_HEAD, Magic, RECORD_SIZE, TAILER_SIZE, chain_head};
use crate::lock::{Rw, Wait};
use crate::open::Flags;
use crate::traverse::Copy;

/// What is known about the free list.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct FreeSpace {
    entries: u64,
    /// Sum of their lengths.
    bytes: u64,
    largest: u64,
}

impl Db {
    /// Number of entries of the free list: pieces of free space. Waits for its lock.
    ///
    /// Neighbours count as one, unless this handle cannot write now. They are joined on the way in
    /// a transaction, and with `NOSYNC`; else not, since a crash in the middle of that would leave a
    /// file that does not pass its check. (The C library joins them always, under a read lock, by
    /// which two callers can spoil the list.)
    pub fn freelist_size(&self) -> Result<u64> {
        self.freelist_size_for(Wait::Block)
    }

    /// Like [`Db::freelist_size`]; `None` if somebody else has a lock that is needed.
    pub fn try_freelist_size(&self) -> Result<Option<u64>> {
        unless_blocked(self.freelist_size_for(Wait::Try))
    }

    fn freelist_size_for(&self, wait: Wait) -> Result<u64> {
        self.seal()?;
        if self.check_writable().is_err() {
            return Ok(self.free_space()?.entries);
        }
        // Who has the whole database locked does not lock the free list: a chain keeps him out.
        let _chain = self.lock_chain(0, Rw::Write, wait)?;
        let _freelist = self.lock_freelist(wait)?;
        if self.in_transaction() || self.flags.get().contains(Flags::NOSYNC) {
            self.join_free()?;
            return Ok(self.free_space()?.entries);
        }
        let entries = self.free_space()?.entries;
        Ok(entries.saturating_sub(self.free_followers()?))
    }

    /// Puts all free space in one place, or two if the recovery area lies between, and drops dead
    /// records. What the records contain stays as it is. Waits until it has the database for
    /// itself; all others then wait until it is done.
    pub fn repack(&self) -> Result<()> {
        self.repack_for(Wait::Block)
    }

    /// Like [`Db::repack`]; false, with nothing done, if anybody else has a lock.
    pub fn try_repack(&self) -> Result<bool> {
        Ok(unless_blocked(self.repack_for(Wait::Try))?.is_some())
    }

    fn repack_for(&self, wait: Wait) -> Result<()> {
        // Not the upgradable lock of other transactions: its upgrade cannot be given up, and who
        // only reads would be no better off waiting for that.
        let _transaction = self.lock_transaction(wait)?;
        let _all = self.lock_all_for(Rw::Write, wait)?;
        self.transaction_start()?;
        match self.rewrite_records() {
            Ok(()) => self.commit().map(drop),
            Err(error) => {
                // The error that is reported is the first one.
                let _ = self.transaction_cancel();
                Err(error)
            }
        }
    }

    /// Wipes the database and stores its records anew, one behind the other. Room is taken from the
    /// end of the free space: so the last record comes first.
    fn rewrite_records(&self) -> Result<()> {
        let mut copy = Copy::default();
        for chain in 0..self.hash_size {
            self.add_chain(chain, Wait::Block, &mut copy)?;
            // In a damaged file many chains can lead to the same records.
            if copy.len() > self.image.size() as usize {
                return Err(Error::Corrupt {
                    offset: chain_head(chain),
                    what: "hash chains have more records than the file",
                });
            }
        }
        let mut seen = HashSet::new();
        // Of two records with one key, a crash's leftover, the first is the one that counts.
        let mut records: Vec<_> = copy.iter().filter(|&(key, _)| seen.insert(key)).collect();
        drop(seen);
        self.wipe_all()?;
        while let Some((key, data)) = records.pop() {
            let content = content_len([key, data])?;
            let room = self.take_free(content)?;
            self.link(
                key,
                self.hash.hash(key),
                room,
                &[data],
                content_len([data])?,
            )?;
        }
        Ok(())
    }

    /// Whether the free space is in so many pieces that the C library repacks on its own.
    pub(crate) fn is_fragmented(&self) -> Result<bool> {
        let free = self.free_space()?;
        Ok(free.bytes > 2 * free.largest)
    }

    /// Walks the free list, without its lock.
    fn free_space(&self) -> Result<FreeSpace> {
        let limit = u64::from(self.image.size() / (RECORD_SIZE + TAILER_SIZE));
        let mut free = FreeSpace::default();
        let mut walk = self.image.freelist()?;
        while let Some(item) = walk.step()? {
            free.entries += 1;
            if free.entries > limit || item.record.magic != Magic::FREE {
                return Err(Error::Corrupt {
                    offset: FREELIST_HEAD,
                    what: "free list has what is not free",
                });
            }
            let len = u64::from(item.record.rec_len);
            free.bytes += len;
            free.largest = free.largest.max(len);
        }
        Ok(free)
    }
}
