//! Going through all records while others change them (`tdb.md` 4.4 and 7.5).
//!
//! A traverse never holds a chain while its callback runs. It holds a lock on the record it stands
//! on instead: whoever deletes that record leaves it linked, as a dead one, so that the way on is
//! not lost.

use std::cell::Cell;
use std::ops::ControlFlow;

use crate::db::Db;
use crate::error::{Error, Result};
use crate::image::{Item, LoopGuard, Walk};
use crate::layout::{Magic, RECORD_SIZE, Record, chain_head};
use crate::lock::{Rw, Wait};
use crate::store::data_offset;

/// What a callback gets: key and data. It answers whether to go on.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

impl Db {
    /// Shows every record to `visit`, which may store and delete. Returns how many were shown.
    ///
    /// A record that is there all the time is shown once; those that come, go or move meanwhile
    /// may or may not be. No transaction runs meanwhile.
    pub fn traverse(&self, visit: &mut Visit<'_>) -> Result<u64> {
        if self.check_writable().is_err() {
            return self.traverse_read(visit);
        }
        let _transaction = match self.locks.all_held() {
            None => Some(self.lock_transaction(Wait::Block)?),
            // The holder of the whole database must not wait for one who may wait for him. Under
            // a mark nobody else gets at the records anyway.
            Some(_) if self.locks.all_is_marked() => None,
            Some(_) => Some(self.lock_transaction(Wait::Try)?),
        };
        self.traverse_chains(Rw::Write, visit)
    }

    /// Like [`Db::traverse`], but this handle cannot write while it runs.
    pub fn traverse_read(&self, visit: &mut Visit<'_>) -> Result<u64> {
        let _reading = Reading::start(&self.read_traverses);
        self.traverse_chains(Rw::Read, visit)
    }

    /// Number of live records.
    pub fn count_records(&self) -> Result<u64> {
        let mut count = 0;
        for chain in 0..self.hash_size {
            if self.chain_is_empty(chain)? {
                continue;
            }
            let _chain = self.lock_chain(chain, Rw::Read, Wait::Block)?;
            let mut walk = self.image.chain(chain)?;
            while let Some(item) = walk.step_chain()? {
                count += u64::from(item.record.magic == Magic::USED);
            }
        }
        Ok(count)
    }

    /// Shows the records of one chain, which stays locked for reading meanwhile: the piece of a
    /// traverse that can be interrupted, see [`Db::hash_size`]. Returns how many were shown.
    pub fn traverse_chain(&self, chain: u32, visit: &mut Visit<'_>) -> Result<u64> {
        self.traverse_one(chain, Wait::Block, visit)
    }

    /// Like [`Db::traverse_chain`]; `None` if somebody else writes to the chain.
    pub fn try_traverse_chain(&self, chain: u32, visit: &mut Visit<'_>) -> Result<Option<u64>> {
        match self.traverse_one(chain, Wait::Try, visit) {
            Ok(count) => Ok(Some(count)),
            Err(Error::WouldBlock) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a chain has no records, dead ones included. Looked up without a lock.
    pub fn chain_is_empty(&self, chain: u32) -> Result<bool> {
        self.check_chain(chain)?;
        Ok(self.image.word(chain_head(chain))? == 0)
    }

    fn check_chain(&self, chain: u32) -> Result<()> {
        if chain < self.hash_size {
            Ok(())
        } else {
            Err(Error::Invalid("no such hash chain"))
        }
    }

    fn traverse_one(&self, chain: u32, wait: Wait, visit: &mut Visit<'_>) -> Result<u64> {
        if self.chain_is_empty(chain)? {
            return Ok(0);
        }
        let _chain = self.lock_chain(chain, Rw::Read, wait)?;
        let (mut content, mut count) = (Vec::new(), 0);
        let mut walk = self.image.chain(chain)?;
        while let Some(item) = next_live(&mut walk)? {
            let (key, data) = self.content(&item, &mut content)?;
            count += 1;
            if visit(key, data).is_break() {
                break;
            }
        }
        Ok(count)
    }

    fn traverse_chains(&self, rw: Rw, visit: &mut Visit<'_>) -> Result<u64> {
        let (mut content, mut count) = (Vec::new(), 0);
        for chain in 0..self.hash_size {
            if self.chain_is_empty(chain)? {
                continue;
            }
            let mut cursor = Cursor::new(self, chain, rw);
            while let Some(item) = cursor.advance(&mut content)? {
                count += 1;
                let (key, data) = content.split_at(item.record.key_len as usize);
                if visit(key, data).is_break() {
                    return Ok(count);
                }
            }
        }
        Ok(count)
    }

    /// Reads key and data of a record whose chain is held.
    fn content<'c>(&self, item: &Item, content: &'c mut Vec<u8>) -> Result<(&'c [u8], &'c [u8])> {
        let Record {
            key_len, data_len, ..
        } = item.record;
        content.clear();
        self.image
            .append_to(item.offset + RECORD_SIZE, key_len + data_len, content)?;
        debug_assert_eq!(data_offset(item), item.offset + RECORD_SIZE + key_len);
        Ok(content.split_at(key_len as usize))
    }
}

/// Counts a read traverse while it runs.
struct Reading<'db>(&'db Cell<u32>);

impl<'db> Reading<'db> {
    fn start(running: &'db Cell<u32>) -> Self {
        running.set(running.get() + 1);
        Self(running)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A place in a chain that a traverse stands on, kept from being freed.
struct Cursor<'db> {
    db: &'db Db,
    chain: u32,
    rw: Rw,
    at: Option<u32>,
    loops: LoopGuard,
}

impl<'db> Cursor<'db> {
    fn new(db: &'db Db, chain: u32, rw: Rw) -> Self {
        Self {
            db,
            chain,
            rw,
            at: None,
            loops: LoopGuard::default(),
        }
    }

    /// Goes to the next live record and reads its content.
    fn advance(&mut self, content: &mut Vec<u8>) -> Result<Option<Item>> {
        let db = self.db;
        let _chain = db.lock_chain(self.chain, self.rw, Wait::Block)?;
        let mut walk = match self.at {
            Some(at) if self.is_in_chain(at)? => db.image.walk_on(at)?,
            _ => db.image.chain(self.chain)?,
        };
        let next = next_live(&mut walk);
        self.leave();
        let Some(item) = next? else {
            return Ok(None);
        };
        if self.loops.passed_before(item.offset) {
            // A real loop, or a place that was freed and used again in this chain meanwhile.
            let mut walk = db.image.chain(self.chain)?;
            while walk.step_chain()?.is_some() {}
        }
        db.locks.lock_record(item.offset)?;
        db.positions.borrow_mut().push(item.offset);
        self.at = Some(item.offset);
        db.content(&item, content)?;
        Ok(Some(item))
    }

    /// The C library may reuse a dead record in spite of the lock on it (`tdb.md` 3.3). If it is
    /// in another chain now, the traverse starts its own chain again.
    fn is_in_chain(&self, at: u32) -> Result<bool> {
        let record = self.db.image.record(at)?;
        let chained = record.magic == Magic::USED || record.magic == Magic::DEAD;
        Ok(chained && self.db.bucket(record.full_hash) == self.chain)
    }

    /// Leaves the record, unless another traverse of this handle stands on it too.
    fn leave(&mut self) {
        let Some(at) = self.at.take() else {
            return;
        };
        let mut positions = self.db.positions.borrow_mut();
        if let Some(index) = positions.iter().position(|&position| position == at) {
            positions.swap_remove(index);
        }
        if !positions.contains(&at) {
            self.db.locks.unlock_record(at);
        }
    }
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

fn next_live(walk: &mut Walk<'_>) -> Result<Option<Item>> {
    while let Some(item) = walk.step_chain()? {
        if item.record.magic == Magic::USED {
            return Ok(Some(item));
        }
    }
    Ok(None)
}
