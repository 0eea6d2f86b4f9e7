//! A process that works on a TDB file together with others; the counterpart of `member.c`,
//! operation by operation.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use tdb::{Db, Flags, OpenOptions, StoreMode};

use crate::ledger::{
    ACCOUNTS, Count, Ledger, MEMBERS, OWN_KEYS, Role, SET_AT, SET_KEYS, SHARED_AT, SHARED_KEYS,
    TALLY_AT, TALLY_KEY, TRIM_AT, account_key, last_entries, set_key, shared_key, version,
    version_of_set, word,
};

struct Member {
    id: u32,
    role: Role,
    db: Db,
    ledger: Ledger,
    random: fastrand::Rng,
    /// Last version that any own key has got.
    next: u32,
}

/// Runs a member as the arguments behind `member` say: path, flags, ledger, id, milliseconds, role.
pub fn main(args: &[String]) {
    let [path, flags, ledger, id, milliseconds, role] = args else {
        panic!("wrong arguments: {args:?}");
    };
    let time = Duration::from_millis(milliseconds.parse().unwrap());
    let end = Instant::now() + time;
    let mut member = Member::open(path, flags, ledger, id, role);
    while Instant::now() < end {
        for _ in 0..20 {
            member.step();
        }
        // In the last third nobody mends what another has spoiled.
        let may_repack = member.role == Role::Steady && Instant::now() + time / 3 < end;
        member.now_and_then(may_repack);
        // Others are to get their turns: a file lock knows no queue.
        std::thread::sleep(Duration::from_micros(member.random.u64(0..1000)));
    }
}

impl Member {
    fn open(path: &str, flags: &str, ledger: &str, id: &str, role: &str) -> Self {
        let flags = Flags::from_bits(u32::from_str_radix(flags, 16).unwrap()).unwrap();
        let options = OpenOptions::new().flags(flags).hash_size(131).create(true);
        let ledger = Ledger::open(Path::new(ledger));
        let next = (0..OWN_KEYS).map(|n| ledger.get(n).intended).max();
        Self {
            id: id.parse().unwrap(),
            role: Role::from_name(role),
            db: options.open(path).unwrap(),
            ledger,
            random: fastrand::Rng::new(),
            next: next.unwrap(),
        }
    }

    fn step(&mut self) {
        match (self.random.u32(0..100), self.role) {
            (0..50, _) | (70.., Role::Reckless) => self.change_own(),
            (50..70, _) => self.append_shared(),
            (70..90, _) => self.count_up(),
            (90..95, _) => self.change_set(),
            _ => self.transfer(),
        }
    }

    fn now_and_then(&mut self, may_repack: bool) {
        if self.random.u32(0..20) == 0 {
            self.traverse();
        }
        if self.random.u32(0..20) == 0 {
            self.hold();
        }
        if may_repack && self.random.u32(0..200) == 0 {
            self.db.repack().unwrap();
        }
    }

    /// Does what changes records, in a transaction if the role asks for that.
    fn change(&mut self, change: impl FnOnce(&mut Self)) {
        if self.role != Role::Careful {
            return change(self);
        }
        self.db.transaction_start().unwrap();
        change(self);
        self.commit();
    }

    fn commit(&self) {
        self.db.transaction_commit().unwrap();
        self.ledger.count_up(Count::Transactions);
    }

    fn change_own(&mut self) {
        let n = self.random.usize(0..OWN_KEYS);
        let key = self.role.own_key(self.id, n);
        let deletes = self.ledger.get(n).done != 0 && self.random.u32(0..3) == 0;
        self.change(|member| {
            if deletes {
                member.ledger.set_intended(n, 0);
                assert!(member.db.delete(&key).unwrap(), "own record is gone");
            } else {
                member.next += 1;
                member.ledger.set_intended(n, member.next);
                let value = version(member.id, member.next);
                member.db.store(&key, &value, StoreMode::Replace).unwrap();
            }
        });
        self.ledger.set_done(n, self.ledger.get(n).intended);
    }

    fn append_shared(&mut self) {
        let n = self.random.usize(0..SHARED_KEYS);
        let number = self.ledger.get(SHARED_AT + n).done + 1;
        self.change(|member| {
            let key = shared_key(n);
            let _chain = member.db.chainlock(&key).unwrap();
            // Overwriting is torn by a death.
            if member.role != Role::Reckless && member.random.u32(0..8) == 0 {
                member.trim(&key);
            }
            let entry = [member.id.to_le_bytes(), number.to_le_bytes()].concat();
            member.ledger.set_intended(SHARED_AT + n, number);
            member.db.append(&key, &entry).unwrap();
        });
        self.ledger.set_done(SHARED_AT + n, number);
    }

    /// Keeps the last entry of each member.
    fn trim(&self, key: &[u8]) {
        let old = self.db.fetch(key).unwrap().unwrap_or_default();
        let last = last_entries(&old);
        if old.len() <= TRIM_AT {
            return;
        }
        let mut kept = Vec::new();
        for (member, number) in (0_u32..).zip(last).filter(|&(_, number)| number != 0) {
            kept.extend(member.to_le_bytes());
            kept.extend(number.to_le_bytes());
        }
        self.db.store(key, &kept, StoreMode::Replace).unwrap();
    }

    /// Under a lock of its chain, or of all.
    fn count_up(&mut self) {
        let all = self.role == Role::Steady && self.random.u32(0..50) == 0;
        self.change(|member| {
            if all {
                let _all = member.db.lockall().unwrap();
                member.count_up_locked();
            } else {
                let _chain = member.db.chainlock(TALLY_KEY).unwrap();
                member.count_up_locked();
            }
        });
        let count = self.ledger.get(TALLY_AT).intended;
        self.ledger.set_done(TALLY_AT, count);
        self.ledger.count_up(Count::Locks);
    }

    fn count_up_locked(&self) {
        let old = self.db.fetch(TALLY_KEY).unwrap();
        let mut tally = old.unwrap_or_else(|| vec![0; MEMBERS * 4]);
        let at = self.id as usize * 4;
        let count = word(&tally, at);
        assert_eq!(
            count,
            self.ledger.get(TALLY_AT).done,
            "an increment was lost"
        );
        self.ledger.set_intended(TALLY_AT, count + 1);
        tally[at..at + 4].copy_from_slice(&(count + 1).to_le_bytes());
        self.db
            .store(TALLY_KEY, &tally, StoreMode::Replace)
            .unwrap();
    }

    /// All of the set together, or nothing; prepared or not.
    fn change_set(&mut self) {
        let n = self.ledger.get(SET_AT).done + 1;
        self.db.transaction_start().unwrap();
        for k in 0..u32::try_from(SET_KEYS).unwrap() {
            self.store_of_set(k, n);
        }
        if self.random.bool() {
            self.db.transaction_prepare().unwrap();
        }
        if self.random.u32(0..3) == 0 {
            self.db.transaction_cancel().unwrap();
            self.ledger.count_up(Count::Cancelled);
            return;
        }
        self.ledger.set_intended(SET_AT, n);
        self.commit();
        self.ledger.set_done(SET_AT, n);
    }

    fn store_of_set(&self, k: u32, n: u32) {
        let key = set_key(self.id, k);
        match version_of_set(self.id, k, n) {
            Some(value) => self.db.store(&key, &value, StoreMode::Replace).unwrap(),
            None => drop(self.db.delete(&key).unwrap()),
        }
    }

    fn transfer(&mut self) {
        let (from, to) = (
            self.random.usize(0..ACCOUNTS),
            self.random.usize(0..ACCOUNTS),
        );
        self.db.transaction_start().unwrap();
        self.add_to_account(from, -5);
        self.add_to_account(to, 5);
        self.commit();
    }

    fn add_to_account(&self, account: usize, amount: i32) {
        let key = account_key(account);
        let old = self.db.fetch(&key).unwrap().unwrap();
        let balance = i32::from_le_bytes(old.try_into().unwrap()) + amount;
        self.db
            .store(&key, &balance.to_le_bytes(), StoreMode::Modify)
            .unwrap();
    }

    fn traverse(&mut self) {
        let mut look = |key: &[u8], data: &[u8]| {
            if key.starts_with(b"own-") {
                let whole = version(word(data, 4), word(data, 0));
                assert!(whole == data, "torn record");
            }
            ControlFlow::Continue(())
        };
        let shown = if self.random.bool() {
            self.db.traverse(&mut look)
        } else {
            self.db.traverse_read(&mut look)
        };
        shown.unwrap();
        self.ledger.count_up(Count::Traverses);
    }

    /// A lock with nothing done under it: a good moment to be killed.
    fn hold(&mut self) {
        let _chain;
        let _all;
        match self.random.u32(0..8) {
            0 => _all = self.db.lockall().unwrap(),
            1 => _all = self.db.lockall_read().unwrap(),
            2 => _chain = self.db.chainlock_read(TALLY_KEY).unwrap(),
            _ => _chain = self.db.chainlock(TALLY_KEY).unwrap(),
        }
        std::thread::sleep(Duration::from_micros(self.random.u64(0..500)));
        self.ledger.count_up(Count::Locks);
    }
}
