//! Any sequence of operations leaves the records that a `BTreeMap` has after the same sequence, and
//! a file that both implementations find sound.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{assert_sound_for_c, dump_of, records_of};
use proptest::prelude::*;
use tdb::{Db, Error, Flags, OpenOptions, StoreMode};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    Store(u8, usize, StoreMode),
    Append(u8, usize),
    Delete(u8),
    Wipe,
    Repack,
    TransactionStart,
    TransactionCommit,
    TransactionCancel,
    Reopen,
    Check,
}

#[derive(Clone, Debug)]
struct Setting {
    flags: Flags,
    hash_size: u32,
    max_dead: u32,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![4 => 0..64_usize, 2 => 0..600_usize, 1 => 0..10_000_usize];
    let mode = prop_oneof![
        4 => Just(StoreMode::Replace),
        1 => Just(StoreMode::Insert),
        1 => Just(StoreMode::Modify)
    ];
    let key = 0..24_u8;
    prop_oneof![
        30 => (key.clone(), len.clone(), mode).prop_map(|(k, l, m)| Op::Store(k, l, m)),
        8 => (key.clone(), len).prop_map(|(k, l)| Op::Append(k, l)),
        15 => key.prop_map(Op::Delete),
        1 => Just(Op::Wipe),
        1 => Just(Op::Repack),
        3 => Just(Op::TransactionStart),
        2 => Just(Op::TransactionCommit),
        1 => Just(Op::TransactionCancel),
        1 => Just(Op::Reopen),
        1 => Just(Op::Check),
    ]
}

fn setting() -> impl Strategy<Value = Setting> {
    let flags = prop_oneof![
        Just(Flags::empty()),
        Just(Flags::NOMMAP | Flags::INCOMPATIBLE_HASH),
        Just(Flags::SEQNUM),
        Just(Flags::CONVERT),
        Just(Flags::MUTEX_LOCKING | Flags::CLEAR_IF_FIRST),
    ];
    let hash_size = prop_oneof![Just(1), Just(2), Just(7), Just(131)];
    (flags, hash_size, prop_oneof![Just(0), Just(1), Just(5)]).prop_map(
        |(flags, hash_size, max_dead)| Setting {
            flags: flags | Flags::NOSYNC,
            hash_size,
            max_dead,
        },
    )
}

/// A database and what it should contain.
struct Pair {
    db: Db,
    model: Records,
    /// The model as it was when the running transaction began.
    before: Option<Records>,
    fill: u8,
}

impl Pair {
    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Store(key, len, mode) => self.store(key, len, mode),
            Op::Append(key, len) => {
                let data = self.data(len);
                self.db.append(&key_of(key), &data).unwrap();
                self.model.entry(key_of(key)).or_default().extend(data);
            }
            Op::Delete(key) => {
                let existed = self.model.remove(&key_of(key)).is_some();
                assert_eq!(self.db.delete(&key_of(key)).unwrap(), existed);
            }
            Op::Wipe => {
                self.db.wipe_all().unwrap();
                self.model.clear();
            }
            Op::Repack => {
                self.db.repack().unwrap();
                if self.before.is_none() {
                    assert!(self.db.freelist_size().unwrap() <= 3);
                }
            }
            Op::TransactionStart if self.before.is_none() => {
                self.db.transaction_start().unwrap();
                self.before = Some(self.model.clone());
            }
            Op::TransactionCommit if self.before.take().is_some() => {
                self.db.transaction_commit().unwrap();
            }
            Op::TransactionCancel | Op::Reopen => {
                if let Some(before) = self.before.take() {
                    self.db.transaction_cancel().unwrap();
                    self.model = before;
                }
                if matches!(op, Op::Reopen) {
                    self.db = self.db.reopen().unwrap();
                }
            }
            Op::Check => {
                assert_eq!(self.db.check().unwrap().records, self.model.len() as u64);
            }
            Op::TransactionStart | Op::TransactionCommit => {}
        }
        if let Op::Store(key, ..) | Op::Append(key, _) | Op::Delete(key) = *op {
            let found = self.db.fetch(&key_of(key)).unwrap();
            assert_eq!(found.as_ref(), self.model.get(&key_of(key)));
            assert_eq!(self.db.exists(&key_of(key)).unwrap(), found.is_some());
        }
    }

    fn store(&mut self, key: u8, len: usize, mode: StoreMode) {
        let (key, data) = (key_of(key), self.data(len));
        let result = self.db.store(&key, &data, mode);
        match (mode, self.model.contains_key(&key)) {
            (StoreMode::Insert, true) => assert!(matches!(result, Err(Error::Exists))),
            (StoreMode::Modify, false) => assert!(matches!(result, Err(Error::NotFound))),
            _ => {
                result.unwrap();
                self.model.insert(key, data);
            }
        }
    }

    fn data(&mut self, len: usize) -> Vec<u8> {
        self.fill = self.fill.wrapping_add(1);
        vec![self.fill; len]
    }
}

/// Keys of different lengths; the first is empty.
fn key_of(key: u8) -> Vec<u8> {
    vec![key; key as usize]
}

fn run(path: &Path, setting: &Setting, ops: &[Op]) {
    let Setting {
        flags,
        hash_size,
        max_dead,
    } = *setting;
    let options = OpenOptions::new()
        .flags(flags)
        .hash_size(hash_size)
        .max_dead(max_dead);
    let db = options.create(true).open(path).unwrap();
    let mut pair = Pair {
        db,
        model: Records::new(),
        before: None,
        fill: 0,
    };
    for op in ops {
        pair.apply(op);
    }
    assert_eq!(records_of(&pair.db), pair.model);
    let Pair {
        db, model, before, ..
    } = pair;
    db.check().unwrap();
    drop(db);
    // A transaction that was not committed has been cancelled by that.
    let left = before.unwrap_or(model);
    assert_eq!(dump_of(path), left);
    if !flags.contains(Flags::MUTEX_LOCKING) {
        assert_sound_for_c(path, &format!("{setting:?}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_database_does_what_a_map_does(
        setting in setting(),
        ops in proptest::collection::vec(op(), 1..150),
    ) {
        let dir = tempfile::tempdir().unwrap();
        run(&dir.path().join("model.tdb"), &setting, &ops);
    }
}
