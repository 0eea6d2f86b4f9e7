//! Records by key: fetch, store, append, delete (`tdb.md` 7.3 to 7.5).

use crate::backend::length;
use crate::db::{Db, content_len};
use crate::error::{Error, Result};
use crate::freelist::Room;
use crate::image::Item;
use crate::layout::{DATA_LEN_AT, Magic, RECORD_SIZE, Record, TAILER_SIZE, chain_head};
use crate::lock::Rw;

/// What [`Db::store`] does about a record that exists, or not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum StoreMode {
    /// Create or replace.
    #[default]
    Replace,
    /// Create; a record that exists is [`Error::Exists`].
    Insert,
    /// Replace; a record that does not exist is [`Error::NotFound`].
    Modify,
    /// Create, without looking for a record: the caller knows that there is none, since it holds all
    /// records locked and has seen what was stored. (A second record would be found first, and the
    /// other one when it is deleted.)
    New,
}

impl Db {
    /// The data of `key`, or `None` if there is no such record.
    #[inline]
    pub fn fetch(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut data = Vec::new();
        Ok(self.fetch_into(key, &mut data)?.then_some(data))
    }

    /// Puts the data of `key` into `data`, whose memory is reused. False, with `data` empty, if
    /// there is no such record.
    pub fn fetch_into(&self, key: &[u8], data: &mut Vec<u8>) -> Result<bool> {
        data.clear();
        let hash = self.hash.hash(key);
        let chain = self.bucket(hash);
        let _chain = self.lock_chain(chain, Rw::Read, self.wait.get())?;
        let Some(item) = self.find(key, hash, chain)? else {
            return Ok(false);
        };
        self.image
            .append_to(data_offset(&item), item.record.data_len, data)?;
        Ok(true)
    }

    pub fn exists(&self, key: &[u8]) -> Result<bool> {
        let hash = self.hash.hash(key);
        let chain = self.bucket(hash);
        let _chain = self.lock_chain(chain, Rw::Read, self.wait.get())?;
        Ok(self.find(key, hash, chain)?.is_some())
    }

    /// Stores `data` under `key`. On an error the record is what it was before.
    pub fn store(&self, key: &[u8], data: &[u8], mode: StoreMode) -> Result<()> {
        self.store_parts(key, &[data], mode)
    }

    /// Like [`Db::store`], with the data in pieces that are written one behind the other.
    pub fn store_parts(&self, key: &[u8], parts: &[&[u8]], mode: StoreMode) -> Result<()> {
        self.check_writable()?;
        let data_len = content_len(parts.iter().copied())?;
        let hash = self.hash.hash(key);
        let chain = self.bucket(hash);
        let _chain = self.lock_chain(chain, Rw::Write, self.wait.get())?;
        let found = match mode {
            StoreMode::New => None,
            _ => self.find(key, hash, chain)?,
        };
        match (&found, mode) {
            (Some(_), StoreMode::Insert) => return Err(Error::Exists),
            (None, StoreMode::Modify) => return Err(Error::NotFound),
            _ => {}
        }
        self.put(key, hash, found, parts, data_len)
    }

    /// Adds `data` behind what is stored under `key`; creates the record if there is none.
    pub fn append(&self, key: &[u8], data: &[u8]) -> Result<()> {
        self.check_writable()?;
        let more = content_len([data])?;
        let hash = self.hash.hash(key);
        let chain = self.bucket(hash);
        let _chain = self.lock_chain(chain, Rw::Write, self.wait.get())?;
        let Some(found) = self.find(key, hash, chain)? else {
            return self.put(key, hash, None, &[data], more);
        };
        let old_len = found.record.data_len;
        let new_len = old_len.checked_add(more).ok_or(Error::TooLarge)?;
        if fits(&found.record, new_len) {
            self.image.write(data_offset(&found) + old_len, data)?;
            self.set_data_len(&found, new_len)?;
            self.count_change();
            return Ok(());
        }
        let mut old = Vec::new();
        self.image
            .append_to(data_offset(&found), old_len, &mut old)?;
        self.put(key, hash, Some(found), &[&old, data], new_len)
    }

    /// Deletes the record of `key`. False if there is none.
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        self.check_writable()?;
        let hash = self.hash.hash(key);
        let chain = self.bucket(hash);
        let _chain = self.lock_chain(chain, Rw::Write, self.wait.get())?;
        // A crash may have left an older record of the key behind the newest: it goes too.
        let mut deleted = false;
        while let Some(item) = self.find(key, hash, chain)? {
            self.image.set_magic(item.offset, Magic::DEAD)?;
            deleted = true;
        }
        if deleted {
            self.count_change();
            self.free_dead(chain, self.max_dead.get())?;
        }
        Ok(deleted)
    }

    /// The first live record of `key` in its chain, which is held.
    #[expect(
        clippy::inline_always,
        reason = "a record returned through memory stalls the reader"
    )]
    #[inline(always)]
    fn find(&self, key: &[u8], hash: u32, chain: u32) -> Result<Option<Item>> {
        let mut walk = self.image.chain(chain)?;
        while let Some(item) = walk.step_chain()? {
            let record = &item.record;
            if record.magic == Magic::USED
                && record.full_hash == hash
                && record.key_len as usize == key.len()
                && self.image.matches(item.offset + RECORD_SIZE, key)?
            {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    /// Gives `key` new data: in the place of the `old` record if it fits, else in a new one.
    fn put(
        &self,
        key: &[u8],
        hash: u32,
        old: Option<Item>,
        parts: &[&[u8]],
        data_len: u32,
    ) -> Result<()> {
        if let Some(old) = &old
            && fits(&old.record, data_len)
        {
            self.overwrite(old, parts, data_len)?;
            self.count_change();
            return Ok(());
        }
        let content = content_len([key])?
            .checked_add(data_len)
            .ok_or(Error::TooLarge)?;
        if !self.write_anew(key, hash, parts, data_len)? {
            let room = self.allocate(hash, content)?;
            self.link(key, hash, room, parts, data_len)?;
        }
        // Only now, with the new record in place, the old one goes: neither a full disk nor a
        // crash in between may lose the value. (The C library deletes first.)
        if let Some(old) = old {
            self.image.set_magic(old.offset, Magic::DEAD)?;
            self.count_change();
            self.free_dead(self.bucket(hash), self.max_dead.get())?;
        }
        self.count_change();
        Ok(())
    }

    /// Writes the data of a record in place, or nothing if it is the same already.
    fn overwrite(&self, old: &Item, parts: &[&[u8]], data_len: u32) -> Result<()> {
        let same_len = old.record.data_len == data_len;
        if same_len && self.holds(old, parts)? {
            return Ok(());
        }
        self.write_parts(data_offset(old), parts)?;
        if same_len {
            Ok(())
        } else {
            self.set_data_len(old, data_len)
        }
    }

    /// Whether the data of a record begins with `parts`.
    fn holds(&self, item: &Item, parts: &[&[u8]]) -> Result<bool> {
        let mut at = data_offset(item);
        for part in parts {
            if !self.image.matches(at, part)? {
                return Ok(false);
            }
            at += length(part);
        }
        Ok(true)
    }

    fn set_data_len(&self, item: &Item, data_len: u32) -> Result<()> {
        self.image.set_word(item.offset + DATA_LEN_AT, data_len)
    }

    /// Fills new room and makes it the head of its chain, which is the moment it exists.
    pub(crate) fn link(
        &self,
        key: &[u8],
        hash: u32,
        room: Room,
        parts: &[&[u8]],
        data_len: u32,
    ) -> Result<()> {
        let head = chain_head(self.bucket(hash));
        let record = Record {
            next: self.image.word(head)?,
            rec_len: room.rec_len,
            key_len: length(key),
            data_len,
            full_hash: hash,
            magic: Magic::USED,
        };
        self.image.write(room.offset + RECORD_SIZE, key)?;
        self.write_parts(room.offset + RECORD_SIZE + record.key_len, parts)?;
        self.image.set_record(room.offset, &record)?;
        self.image.set_word(head, room.offset)
    }

    fn write_parts(&self, mut at: u32, parts: &[&[u8]]) -> Result<()> {
        for part in parts {
            self.image.write(at, part)?;
            at += length(part);
        }
        Ok(())
    }
}

/// Offset of the data of a record whose header has been checked.
pub(crate) fn data_offset(item: &Item) -> u32 {
    item.offset + RECORD_SIZE + item.record.key_len
}

/// Whether `data_len` bytes of data fit into a record, with its key and tailer.
fn fits(record: &Record, data_len: u32) -> bool {
    record
        .key_len
        .checked_add(data_len)
        .and_then(|len| len.checked_add(TAILER_SIZE))
        .is_some_and(|len| len <= record.rec_len)
}
