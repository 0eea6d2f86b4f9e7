//! A process that works on a TDB file together with others; the counterpart of `member.c`,
//! operation by operation.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use tdb::{Db, Flags, OpenOptions, StoreMode};

pub const OWN_KEYS: usize = 64;
pub const SHARED_KEYS: usize = 16;

/// What a member intends to do and has done. 8 bytes in the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    pub intended: u32,
    pub done: u32,
}

/// Places in a ledger, in the order of `struct ledger`.
pub const SHARED_AT: usize = OWN_KEYS;
pub const COUNTER_AT: usize = OWN_KEYS + SHARED_KEYS;
pub const ENTRIES: usize = COUNTER_AT + 1;

/// A file that outlives its writer when he is killed.
pub struct Ledger(pub File);

impl Ledger {
    pub fn create(path: &Path) -> Self {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        file.write_all(&[0; ENTRIES * 8]).unwrap();
        Self(file)
    }

    pub fn get(&self, index: usize) -> Entry {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, index as u64 * 8).unwrap();
        let words = bytes.as_chunks::<4>().0;
        Entry {
            intended: u32::from_le_bytes(words[0]),
            done: u32::from_le_bytes(words[1]),
        }
    }

    fn set_intended(&self, index: usize, value: u32) {
        self.0
            .write_all_at(&value.to_le_bytes(), index as u64 * 8)
            .unwrap();
    }

    fn set_done(&self, index: usize, value: u32) {
        self.0
            .write_all_at(&value.to_le_bytes(), index as u64 * 8 + 4)
            .unwrap();
    }
}

pub fn own_key(id: u32, n: usize) -> Vec<u8> {
    format!("own-{id}-{n}").into_bytes()
}

pub fn shared_key(n: usize) -> Vec<u8> {
    format!("shared-0-{n}").into_bytes()
}

pub const COUNTER_KEY: &[u8] = b"counter-0-0";

/// Value of an own key in its n-th version.
pub fn version(id: u32, n: u32) -> Vec<u8> {
    let len = 8 + (n.wrapping_mul(37).wrapping_add(id * 11) % 700) as usize;
    let mut value = vec![(n.wrapping_add(id) & 0xff) as u8; len];
    value[..4].copy_from_slice(&n.to_le_bytes());
    value[4..8].copy_from_slice(&id.to_le_bytes());
    value
}

struct Member {
    id: u32,
    db: Db,
    ledger: Ledger,
    random: fastrand::Rng,
    next: u32,
    repacks: u32,
}

/// Runs a member as the arguments behind `member` say: path, flags, ledger, id, milliseconds, and
/// whether it works on shared records too.
pub fn main(args: &[String]) {
    let [path, flags, ledger, id, milliseconds, shares] = args else {
        panic!("wrong arguments: {args:?}");
    };
    let id = id.parse().unwrap();
    let flags = Flags::from_bits(u32::from_str_radix(flags, 16).unwrap()).unwrap();
    let options = OpenOptions::new().flags(flags).hash_size(131).create(true);
    let mut member = Member {
        id,
        db: options.open(path).unwrap(),
        ledger: Ledger(File::options().read(true).write(true).open(ledger).unwrap()),
        random: fastrand::Rng::with_seed(id.into()),
        next: 0,
        repacks: 0,
    };
    let end = Instant::now() + Duration::from_millis(milliseconds.parse().unwrap());
    while Instant::now() < end {
        for _ in 0..20 {
            match member.random.u32(0..100) {
                60..80 if shares == "1" => member.append_shared(),
                80.. if shares == "1" => member.count_up(),
                _ => member.change_own(),
            }
        }
        if member.random.u32(0..40) == 0 {
            member.db.repack().unwrap();
            member.repacks += 1;
        }
        if member.random.u32(0..20) == 0 {
            member
                .db
                .traverse_read(&mut |_, _| ControlFlow::Continue(()))
                .unwrap();
        }
    }
    assert!(member.repacks > 0, "a story without a repack");
}

impl Member {
    fn change_own(&mut self) {
        let n = self.random.usize(0..OWN_KEYS);
        let key = own_key(self.id, n);
        if self.ledger.get(n).done != 0 && self.random.u32(0..3) == 0 {
            self.ledger.set_intended(n, 0);
            assert!(self.db.delete(&key).unwrap(), "own record is gone");
            self.ledger.set_done(n, 0);
        } else {
            self.next += 1;
            self.ledger.set_intended(n, self.next);
            self.db
                .store(&key, &version(self.id, self.next), StoreMode::Replace)
                .unwrap();
            self.ledger.set_done(n, self.next);
        }
    }

    fn append_shared(&mut self) {
        let n = self.random.usize(0..SHARED_KEYS);
        let count = self.ledger.get(SHARED_AT + n).done + 1;
        let entry = [self.id.to_le_bytes(), count.to_le_bytes()].concat();
        self.ledger.set_intended(SHARED_AT + n, count);
        self.db.append(&shared_key(n), &entry).unwrap();
        self.ledger.set_done(SHARED_AT + n, count);
    }

    fn count_up(&mut self) {
        if self.random.u32(0..50) == 0 {
            let _all = self.db.lockall().unwrap();
            self.count_up_locked();
        } else {
            let _chain = self.db.chainlock(COUNTER_KEY).unwrap();
            self.count_up_locked();
        }
    }

    fn count_up_locked(&self) {
        let old = self.db.fetch(COUNTER_KEY).unwrap();
        let old = old.map_or(0, |old| u32::from_le_bytes(old.try_into().unwrap()));
        let count = self.ledger.get(COUNTER_AT).done + 1;
        self.ledger.set_intended(COUNTER_AT, count);
        self.db
            .store(COUNTER_KEY, &(old + 1).to_le_bytes(), StoreMode::Replace)
            .unwrap();
        self.ledger.set_done(COUNTER_AT, count);
    }
}
