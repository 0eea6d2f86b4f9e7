//! The two, behind one interface. Whatever fails ends the program: a time for it means nothing.

use std::ops::ControlFlow;
use std::path::Path;

use tdb::{Db, Flags, OpenOptions, StoreMode};

use crate::HASH_SIZE;
pub(crate) use crate::c::Libtdb;

pub(crate) trait Contender {
    const NAME: &'static str;
    fn create(path: &Path, flags: Flags) -> Self;
    /// Returns the length of the data.
    fn fetch(&self, key: &[u8]) -> usize;
    fn replace(&self, key: &[u8], data: &[u8]);
    fn insert(&self, key: &[u8], data: &[u8]);
    fn delete(&self, key: &[u8]);
    /// Returns the number of records.
    fn traverse(&self) -> u64;
    fn lock_and_unlock(&self, key: &[u8]);
    /// Replaces a record in a transaction.
    fn commit(&self, key: &[u8], data: &[u8]);
}

pub(crate) struct Ours(Db);

impl Contender for Ours {
    const NAME: &'static str = "tdb";

    fn create(path: &Path, flags: Flags) -> Self {
        let options = OpenOptions::new().flags(flags).hash_size(HASH_SIZE);
        Self(options.create(true).open(path).expect("open"))
    }

    fn fetch(&self, key: &[u8]) -> usize {
        self.0.fetch(key).expect("fetch").expect("exists").len()
    }

    fn replace(&self, key: &[u8], data: &[u8]) {
        self.0.store(key, data, StoreMode::Replace).expect("store");
    }

    fn insert(&self, key: &[u8], data: &[u8]) {
        self.0.store(key, data, StoreMode::Insert).expect("insert");
    }

    fn delete(&self, key: &[u8]) {
        assert!(self.0.delete(key).expect("delete"));
    }

    fn traverse(&self) -> u64 {
        let visit = &mut |_: &[u8], _: &[u8]| ControlFlow::Continue(());
        self.0.traverse_read(visit).expect("traverse")
    }

    fn lock_and_unlock(&self, key: &[u8]) {
        drop(self.0.chainlock(key).expect("lock"));
    }

    fn commit(&self, key: &[u8], data: &[u8]) {
        self.0.transaction_start().expect("start");
        self.replace(key, data);
        self.0.transaction_commit().expect("commit");
    }
}
