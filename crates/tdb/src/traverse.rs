//! Going through all records while others change them (`tdb.md` 7.5).
//!
//! A traverse locks one chain, copies its live records, unlocks it and shows them. So every record
//! that is there all the time is shown exactly once, whatever happens to others, and nothing is
//! locked while a callback runs.
//!
//! The C library locks each record it stands on instead (`tdb.md` 4.4). Waiting for the next chain
//! with such a lock, it can wait for one who has locked all chains and waits for the records. The
//! kernel notices that between classic locks; between others nobody would.

use std::cell::Cell;
use std::ops::ControlFlow;

use crate::db::Db;
use crate::error::{Error, Result};
use crate::image::{Item, Walk};
use crate::layout::{Magic, RECORD_SIZE, Record, chain_head};
use crate::lock::{Rw, Wait};

/// What a callback gets: key and data. It answers whether to go on.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

impl Db {
    /// Shows every record to `visit`, which may store and delete. Returns how many were shown.
    ///
    /// A record that is there all the time is shown once; those that come, go or move meanwhile
    /// may or may not be. No transaction of others runs meanwhile.
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
        self.traverse_chains(visit)
    }

    /// Like [`Db::traverse`], but this handle cannot write while it runs.
    pub fn traverse_read(&self, visit: &mut Visit<'_>) -> Result<u64> {
        let _reading = Reading::start(&self.read_traverses);
        self.traverse_chains(visit)
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
            while next_live(&mut walk)?.is_some() {
                count += 1;
            }
        }
        Ok(count)
    }

    /// Shows the records of one chain: a traverse in pieces, see [`Db::hash_size`]. Nothing is
    /// locked while `visit` runs, which may store and delete. Returns how many were shown.
    pub fn traverse_chain(&self, chain: u32, visit: &mut Visit<'_>) -> Result<u64> {
        let mut copy = Copy::default();
        self.copy_chain(chain, Wait::Block, &mut copy)?;
        Ok(copy.show(visit).0)
    }

    /// Like [`Db::traverse_chain`]; `None` if somebody else writes to the chain.
    pub fn try_traverse_chain(&self, chain: u32, visit: &mut Visit<'_>) -> Result<Option<u64>> {
        let mut copy = Copy::default();
        match self.copy_chain(chain, Wait::Try, &mut copy) {
            Ok(()) => Ok(Some(copy.show(visit).0)),
            Err(Error::WouldBlock) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a chain has no records, dead ones included. Looked up without a lock.
    pub fn chain_is_empty(&self, chain: u32) -> Result<bool> {
        if chain >= self.hash_size {
            return Err(Error::Invalid("no such hash chain"));
        }
        Ok(self.image.word(chain_head(chain))? == 0)
    }

    fn traverse_chains(&self, visit: &mut Visit<'_>) -> Result<u64> {
        let (mut copy, mut count) = (Copy::default(), 0);
        for chain in 0..self.hash_size {
            self.copy_chain(chain, Wait::Block, &mut copy)?;
            let (shown, flow) = copy.show(visit);
            count += shown;
            if flow.is_break() {
                break;
            }
        }
        Ok(count)
    }

    /// Copies the live records of a chain.
    fn copy_chain(&self, chain: u32, wait: Wait, copy: &mut Copy) -> Result<()> {
        copy.clear();
        self.add_chain(chain, wait, copy)
    }

    /// Adds the live records of a chain to a copy of others.
    pub(crate) fn add_chain(&self, chain: u32, wait: Wait, copy: &mut Copy) -> Result<()> {
        if self.chain_is_empty(chain)? {
            return Ok(());
        }
        let _chain = self.lock_chain(chain, Rw::Read, wait)?;
        let mut walk = self.image.chain(chain)?;
        while let Some(item) = next_live(&mut walk)? {
            let Record {
                key_len, data_len, ..
            } = item.record;
            let content = item.offset + RECORD_SIZE;
            self.image
                .append_to(content, key_len + data_len, &mut copy.bytes)?;
            copy.records.push((key_len as usize, data_len as usize));
        }
        Ok(())
    }
}

/// Records of one or more chains.
#[derive(Default)]
pub(crate) struct Copy {
    /// Key and data of each record, one behind the other.
    bytes: Vec<u8>,
    /// Lengths of key and data.
    records: Vec<(usize, usize)>,
}

impl Copy {
    fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
    }

    /// Keys and data.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.bytes[..];
        self.records.iter().map(move |&(key_len, data_len)| {
            let (key, tail) = rest.split_at(key_len);
            let (data, tail) = tail.split_at(data_len);
            rest = tail;
            (key, data)
        })
    }

    /// Shows the records until `visit` breaks off. Returns how many were shown.
    fn show(&self, visit: &mut Visit<'_>) -> (u64, ControlFlow<()>) {
        let mut count = 0;
        for (key, data) in self.iter() {
            count += 1;
            if visit(key, data).is_break() {
                return (count, ControlFlow::Break(()));
            }
        }
        (count, ControlFlow::Continue(()))
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

fn next_live(walk: &mut Walk<'_>) -> Result<Option<Item>> {
    while let Some(item) = walk.step_chain()? {
        if item.record.magic == Magic::USED {
            return Ok(Some(item));
        }
    }
    Ok(None)
}
