//! Processes of ours and processes that use libtdb, all at work on one file for half a minute, while
//! some of them are killed at any moment.
//!
//! Each member notes in its ledger what it is about to do and what it has done. Whenever one has been
//! killed, and at the end, its records must be what its ledger says: what was done is there, and what
//! was under way has happened or not. At the end `tdbtool`, `tdbdump` and we judge the file alike.
//!
//! What can be asked of a file depends on what its writers were doing when they died:
//!
//! | who                                  | killed  | afterwards                                     |
//! |--------------------------------------|---------|------------------------------------------------|
//! | steady: changes with and without     | never   |                                                |
//! | transactions                         |         |                                                |
//! | careful: changes in transactions;    | at any  | the file is sound, nothing is lost or torn; a  |
//! | reads, traverses, locks              | moment  | transaction has happened as a whole or not     |
//! | reckless: changes without            | at any  | the one record it was about to change may be   |
//! | transactions                         | moment  | torn; every other one is whole. Space may      |
//! |                                      |         | belong to nobody until the next repack         |
//!
//! More cannot be asked of the reckless, ours or not: a new record takes effect by one word in its
//! list, and is counted as one of the list by another word in its header, elsewhere. The format has
//! no way to write both at once, other than a transaction. What each word of ours may leave behind is
//! shown by `killed.rs`. Those of libtdb, besides, delete a record that grows before they write it
//! anew: they change records of their own only, ours append to shared ones too. They are killed less
//! often, since a free record that one of them leaves out of the list at the end of the file would
//! make the others grow it without end.
//!
//! The file is made large beforehand. What libtdb leaves behind when it rolls back a commit of its own
//! that made the file grow does not pass its own check (`tdb.md` 6.5, W2 and W3). Nobody repacks in
//! the last third, so that nothing is mended then.
//!
//! `TDB_LIVE_SECONDS` asks for another time than 30 seconds. This program is its own `main`, since it
//! starts itself again as a member.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test program"
)]

mod common;
#[path = "live/crew.rs"]
mod crew;
#[path = "live/ledger.rs"]
mod ledger;
#[path = "live/member.rs"]
mod member;

use std::time::{Duration, Instant};

use common::{dump_of, records_of, tdbtool_check};
use crew::Crew;
use ledger::{ACCOUNTS, Count, Role, account_key};
use tdb::{Flags, StoreMode};

const SECONDS: u64 = 30;
/// What each account begins with. Transfers leave the sum as it is.
const BALANCE: i32 = 1000;
/// Of each kind: two that may be killed, and two that are not.
const MEMBERS_OF_A_KIND: u32 = 4;

/// One file, and what happens to it.
#[derive(Clone, Copy)]
struct Story {
    name: &'static str,
    flags: Flags,
    /// Role of those who are killed.
    mortals: Role,
}

const MUTEXES: Flags = Flags::MUTEX_LOCKING.union(Flags::INCOMPATIBLE_HASH);

const STORIES: [Story; 5] = [
    Story {
        name: "kernel_locks",
        flags: Flags::empty(),
        mortals: Role::Careful,
    },
    Story {
        name: "kernel_locks_without_mmap",
        flags: Flags::NOMMAP,
        mortals: Role::Careful,
    },
    Story {
        name: "mutexes",
        flags: MUTEXES,
        mortals: Role::Careful,
    },
    Story {
        name: "reckless_with_kernel_locks",
        flags: Flags::empty(),
        mortals: Role::Reckless,
    },
    Story {
        name: "reckless_with_mutexes",
        flags: MUTEXES,
        mortals: Role::Reckless,
    },
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(args) = args.strip_prefix(&["member".to_owned()]) {
        return member::main(args);
    }
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let wanted = |story: &Story| filter.is_none_or(|filter| story.name.contains(filter.as_str()));
    let stories = STORIES.into_iter().filter(wanted);
    // Side by side: that is more to wait for each other, and less for whoever runs this.
    let running: Vec<_> = stories
        .map(|story| (story.name, std::thread::spawn(move || story.run())))
        .collect();
    let mut failed = false;
    for (name, thread) in running {
        if let Ok(told) = thread.join() {
            println!("test {name} ... ok ({told})");
        } else {
            println!("test {name} ... FAILED");
            failed = true;
        }
    }
    std::process::exit(i32::from(failed));
}

impl Story {
    /// Returns what has happened, in a few words.
    fn run(self) -> String {
        let seconds = std::env::var("TDB_LIVE_SECONDS");
        let seconds = seconds.map_or(SECONDS, |seconds| seconds.parse().unwrap());
        let mut crew = Crew::new(self.flags | Flags::CLEAR_IF_FIRST | Flags::NOSYNC);
        prepare(&crew);
        let size = file_size(&crew);
        let end = Instant::now() + Duration::from_secs(seconds);
        for number in 0..2 * MEMBERS_OF_A_KIND {
            let role = if number < MEMBERS_OF_A_KIND {
                self.mortals
            } else {
                Role::Steady
            };
            crew.start(number % 2 == 0, role, end);
        }
        crew.kill_some_until(end);
        crew.wait_for_all();
        if self.mortals == Role::Careful {
            assert_eq!(
                file_size(&crew),
                size,
                "the file was meant to be large enough"
            );
        }
        compare(&crew);
        assert_work_was_done(&crew);
        let verdict = self.judge(&crew);
        format!("{}, {verdict}", tell(&crew))
    }

    /// All must find the same, and the file must be sound: at once, or when it has been repacked.
    fn judge(self, crew: &Crew) -> &'static str {
        if compare_verdicts(crew) {
            return "sound";
        }
        let name = self.name;
        assert!(self.mortals == Role::Reckless, "{name}: not sound");
        let before = records_of(&crew.db);
        crew.db.repack().unwrap();
        assert!(compare_verdicts(crew), "{name}: not sound when repacked");
        let after = records_of(&crew.db);
        assert!(before == after, "{name}: repacked to other records");
        "sound when repacked"
    }
}

/// Makes the accounts, and a file that is large enough for all that follows, as its recovery area is.
fn prepare(crew: &Crew) {
    let db = &crew.db;
    db.store(b"large", &vec![0; 4 << 20], StoreMode::Insert)
        .unwrap();
    db.transaction_start().unwrap();
    db.store(b"large", &vec![1; 1 << 20], StoreMode::Modify)
        .unwrap();
    db.transaction_commit().unwrap();
    db.delete(b"large").unwrap();
    for account in 0..ACCOUNTS {
        let (key, balance) = (account_key(account), BALANCE.to_le_bytes());
        db.store(&key, &balance, StoreMode::Insert).unwrap();
    }
}

fn file_size(crew: &Crew) -> u64 {
    std::fs::metadata(crew.db.path()).unwrap().len()
}

/// Compares what `tdbdump` and we see with the ledgers.
fn compare(crew: &Crew) {
    let records = records_of(&crew.db);
    assert!(
        records == dump_of(crew.db.path()),
        "tdbdump sees other records"
    );
    crew.compare(&records);
    let balances = (0..ACCOUNTS).map(|account| {
        let balance = records[&account_key(account)].as_slice();
        i32::from_le_bytes(balance.try_into().expect("torn account"))
    });
    let sum: i32 = balances.sum();
    assert_eq!(sum, BALANCE * 8, "half a transfer");
}

/// Whether the file is sound. Fails if `tdbtool` and we are not of one mind.
fn compare_verdicts(crew: &Crew) -> bool {
    let ours = crew.db.check();
    let theirs = tdbtool_check(crew.db.path());
    let records = ours.as_ref().ok().map(|report| report.records);
    assert_eq!(records, theirs, "verdicts differ: {ours:?}");
    ours.is_ok()
}

/// Both kinds of members have got their turns, at everything.
fn assert_work_was_done(crew: &Crew) {
    for ours in [true, false] {
        for count in [
            Count::Transactions,
            Count::Cancelled,
            Count::Traverses,
            Count::Locks,
        ] {
            let sum = crew.sum(ours, count);
            assert!(sum > 10, "ours: {ours}: {count:?}: {sum}");
        }
        let kills = crew.kills(ours);
        assert!(kills > 5, "ours: {ours}: {kills} killed");
    }
}

fn tell(crew: &Crew) -> String {
    let both = |count| format!("{} + {}", crew.sum(true, count), crew.sum(false, count));
    format!(
        "transactions {}, traverses {}, killed {} + {}",
        both(Count::Transactions),
        both(Count::Traverses),
        crew.kills(true),
        crew.kills(false),
    )
}
