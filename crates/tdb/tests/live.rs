//! Processes of ours and processes that use libtdb, all at work on one file.
//!
//! Each member notes in its ledger what it is about to do and what it has done. At the end every
//! record must be what the ledgers say, and both implementations must judge the file alike.
//!
//! This program is its own `main`, since it starts itself again as a member.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test program"
)]

mod common;
#[path = "live/member.rs"]
mod member;

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{compile, dump_of, records_of};
use member::{
    COUNTER_AT, COUNTER_KEY, Ledger, OWN_KEYS, SHARED_AT, SHARED_KEYS, own_key, shared_key, version,
};
use tdb::{Db, Flags, OpenOptions};

const MILLISECONDS: u64 = 2000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(args) = args.strip_prefix(&["member".to_owned()]) {
        return member::main(args);
    }
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let mutexes = Flags::MUTEX_LOCKING | Flags::INCOMPATIBLE_HASH;
    let stories = [
        ("kernel_locks", Flags::empty(), false),
        ("kernel_locks_without_mmap", Flags::NOMMAP, false),
        ("mutexes", mutexes, false),
        ("mutexes_and_killed_members", mutexes, true),
    ];
    for (name, flags, kill) in stories {
        if filter.is_none_or(|filter| name.contains(filter.as_str())) {
            Story::new(flags | Flags::CLEAR_IF_FIRST | Flags::NOSYNC).run(kill);
            println!("test {name} ... ok");
        }
    }
}

/// One of those at work.
struct Member {
    id: u32,
    process: Child,
    ours: bool,
    killed: bool,
    ledger: Ledger,
}

struct Story {
    dir: tempfile::TempDir,
    c_member: PathBuf,
    flags: Flags,
    /// Holds the file open, so that nobody clears it.
    db: Db,
    members: Vec<Member>,
}

impl Story {
    fn new(flags: Flags) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let c_member = compile("member", dir.path());
        let path = dir.path().join("live.tdb");
        let db = OpenOptions::new()
            .flags(flags)
            .hash_size(131)
            .create(true)
            .open(path)
            .unwrap();
        Self {
            dir,
            c_member,
            flags,
            db,
            members: Vec::new(),
        }
    }

    fn run(mut self, kill: bool) {
        for number in 0..6 {
            // Those who may be killed leave shared records alone: the C library loses a record
            // whose replacement is cut short.
            let may_die = kill && number < 4;
            self.start(number % 2 == 0, MILLISECONDS, !may_die);
        }
        if kill {
            self.kill_some();
        }
        for member in &mut self.members {
            let status = member.process.wait().unwrap();
            assert!(
                member.killed || status.success(),
                "member {}: {status}",
                member.id
            );
        }
        self.compare();
    }

    fn start(&mut self, ours: bool, milliseconds: u64, shares: bool) {
        let id = u32::try_from(self.members.len()).unwrap() + 1;
        let ledger_path = self.dir.path().join(format!("ledger-{id}"));
        let ledger = Ledger::create(&ledger_path);
        let mut command = if ours {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.arg("member");
            command
        } else {
            let mut command = Command::new(&self.c_member);
            command.arg("work");
            command
        };
        let process = command
            .arg(self.path())
            .arg(format!("{:x}", self.flags.bits()))
            .arg(ledger_path)
            .arg(id.to_string())
            .arg(milliseconds.to_string())
            .arg(if shares { "1" } else { "0" })
            .spawn()
            .unwrap();
        self.members.push(Member {
            id,
            process,
            ours,
            killed: false,
            ledger,
        });
    }

    /// Kills one of the first four members now and then, and starts another in its place.
    fn kill_some(&mut self) {
        let end = Instant::now() + Duration::from_millis(MILLISECONDS - 500);
        let mut victims: Vec<usize> = (0..4).collect();
        let mut random = fastrand::Rng::with_seed(7);
        while Instant::now() < end {
            // Any moment may be hit: the pause is the dice, not a wait for something.
            std::thread::sleep(Duration::from_millis(random.u64(20..60)));
            let choice = random.usize(0..victims.len());
            let victim = &mut self.members[victims[choice]];
            victim.process.kill().unwrap();
            victim.process.wait().unwrap();
            victim.killed = true;
            let ours = victim.ours;
            victims[choice] = self.members.len();
            let left = end.saturating_duration_since(Instant::now()).as_millis();
            self.start(ours, u64::try_from(left).unwrap() + 300, false);
        }
    }

    fn compare(&self) {
        let records = records_of(&self.db);
        assert_eq!(records, dump_of(&self.path()), "tdbdump sees other records");
        for member in &self.members {
            for n in 0..OWN_KEYS {
                let entry = member.ledger.get(n);
                let found = records.get(&own_key(member.id, n));
                let expected = |n: u32| (n != 0).then(|| version(member.id, n));
                let done = found == expected(entry.done).as_ref();
                let under_way = member.killed && entry.intended != entry.done;
                assert!(
                    done || under_way,
                    "member {}, key {n}: {entry:?}",
                    member.id
                );
            }
        }
        for n in 0..SHARED_KEYS {
            self.compare_shared(n, records.get(&shared_key(n)).map_or(&[], Vec::as_slice));
        }
        let counted: u32 = self
            .members
            .iter()
            .map(|m| m.ledger.get(COUNTER_AT).done)
            .sum();

        assert_eq!(
            records[COUNTER_KEY],
            counted.to_le_bytes(),
            "an increment was lost"
        );
        self.assert_work_was_done();
        self.compare_verdicts();
    }

    /// Both kinds of members have got their turns.
    fn assert_work_was_done(&self) {
        for ours in [true, false] {
            let members = self.members.iter().filter(|member| member.ours == ours);
            let counted: u32 = members
                .map(|member| member.ledger.get(COUNTER_AT).done)
                .sum();
            assert!(counted > 50, "ours: {ours}: only {counted}");
        }
    }

    /// Each member's entries are there, in order, and no others.
    fn compare_shared(&self, n: usize, data: &[u8]) {
        let mut counts = vec![0; self.members.len() + 1];
        for entry in data.chunks(8) {
            let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
            counts[word(0) as usize] += 1;
            assert_eq!(
                counts[word(0) as usize],
                word(4),
                "shared {n}: torn or lost"
            );
        }
        for member in &self.members {
            let done = member.ledger.get(SHARED_AT + n).done;
            assert_eq!(
                counts[member.id as usize], done,
                "shared {n}, member {}",
                member.id
            );
        }
    }

    /// A killed member may leave a record that belongs to nobody, which both must notice.
    fn compare_verdicts(&self) {
        let status = Command::new(&self.c_member)
            .arg("check")
            .arg(self.path())
            .status()
            .unwrap();
        let ours = self.db.check();
        assert_eq!(ours.is_ok(), status.success(), "verdicts differ: {ours:?}");
        if !self.members.iter().any(|member| member.killed) {
            ours.unwrap();
        }
    }

    fn path(&self) -> PathBuf {
        self.db.path().to_owned()
    }
}
