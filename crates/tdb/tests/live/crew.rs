//! The members of a story, their lives and deaths, and what their records must be.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tdb::{Db, Flags, OpenOptions};

use crate::common::compile;
use crate::ledger::{
    Count, Entry, Ledger, OWN_KEYS, Role, SET_AT, SET_KEYS, SHARED_AT, SHARED_KEYS, TALLY_AT,
    TALLY_KEY, last_entries, set_key, shared_key, version, version_of_set, word,
};

/// Until when all must have come to their ends, at the latest, when their time is over.
const PATIENCE: Duration = Duration::from_secs(120);

/// A place in the crew. When its process is killed, another one takes it over, with its ledger.
struct Member {
    id: u32,
    ours: bool,
    role: Role,
    ledger: Ledger,
    process: Child,
    kills: u32,
}

impl Drop for Member {
    fn drop(&mut self) {
        // A story that fails leaves nobody behind. The process may have ended before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub struct Crew {
    dir: tempfile::TempDir,
    c_member: PathBuf,
    flags: Flags,
    /// Holds the file open, so that nobody clears it.
    pub db: Db,
    members: Vec<Member>,
}

impl Crew {
    pub fn new(flags: Flags) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let c_member = compile("member", dir.path());
        let options = OpenOptions::new().flags(flags).hash_size(131).create(true);
        let db = options.open(dir.path().join("live.tdb")).unwrap();
        Self {
            dir,
            c_member,
            flags,
            db,
            members: Vec::new(),
        }
    }

    pub fn start(&mut self, ours: bool, role: Role, end: Instant) {
        let id = u32::try_from(self.members.len()).unwrap() + 1;
        let ledger_path = self.dir.path().join(format!("ledger-{id}"));
        let ledger = Ledger::create(&ledger_path);
        let process = self.command(ours, role, id, end).spawn().unwrap();
        self.members.push(Member {
            id,
            ours,
            role,
            ledger,
            process,
            kills: 0,
        });
    }

    fn command(&self, ours: bool, role: Role, id: u32, end: Instant) -> Command {
        let mut command = if ours {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.arg("member");
            command
        } else {
            Command::new(&self.c_member)
        };
        let left = end.saturating_duration_since(Instant::now());
        command
            .arg(self.db.path())
            .arg(format!("{:x}", self.flags.bits()))
            .arg(self.dir.path().join(format!("ledger-{id}")))
            .arg(id.to_string())
            .arg(left.as_millis().to_string())
            .arg(role.name());
        command
    }

    /// Kills a mortal member now and then, looks at what it leaves, and puts another in its place.
    pub fn kill_some_until(&mut self, end: Instant) {
        let mortals: Vec<usize> = (0..self.members.len())
            .filter(|&place| self.members[place].role != Role::Steady)
            .collect();
        while Instant::now() < end {
            // Any moment may be hit: the pause is the dice, not a wait for something.
            std::thread::sleep(Duration::from_millis(fastrand::u64(10..120)));
            let place = mortals[fastrand::usize(0..mortals.len())];
            let victim = &mut self.members[place];
            let spared = victim.role == Role::Reckless && !victim.ours;
            if spared && fastrand::u32(0..4) != 0 {
                continue;
            }
            assert_eq!(victim.failure(), None);
            victim.process.kill().unwrap();
            victim.process.wait().unwrap();
            victim.kills += 1;
            self.members[place].settle(&self.db);
            let victim = &self.members[place];
            let mut command = self.command(victim.ours, victim.role, victim.id, end);
            self.members[place].process = command.spawn().unwrap();
        }
    }

    pub fn wait_for_all(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        for member in &mut self.members {
            let status = loop {
                match member.process.try_wait().unwrap() {
                    Some(status) => break status,
                    None => std::thread::sleep(Duration::from_millis(20)),
                }
                assert!(
                    Instant::now() < deadline,
                    "{} does not come to an end",
                    member.who()
                );
            };
            assert!(status.success(), "{}: {status}", member.who());
        }
    }

    /// Compares records with the ledgers, of members that have come to their ends.
    pub fn compare(&self, records: &BTreeMap<Vec<u8>, Vec<u8>>) {
        let shared: Vec<_> = (0..SHARED_KEYS)
            .map(|n| last_entries(records.get(&shared_key(n)).map_or(&[], Vec::as_slice)))
            .collect();
        for member in &self.members {
            let who = member.who();
            for n in 0..OWN_KEYS {
                let expected = own_version(member.id, member.ledger.get(n).done);
                let found = records.get(&member.role.own_key(member.id, n));
                assert!(found == expected.as_ref(), "{who}: own record {n}");
            }
            for (n, last) in shared.iter().enumerate() {
                let done = member.ledger.get(SHARED_AT + n).done;
                assert_eq!(last[member.id as usize], done, "{who}: shared record {n}");
            }
            let tally = word(&records[TALLY_KEY], member.id as usize * 4);
            assert_eq!(tally, member.ledger.get(TALLY_AT).done, "{who}: tally");
            let set = member.ledger.get(SET_AT).done;
            let fetch = |key: &[u8]| records.get(key).cloned();
            assert!(member.has_set(set, &fetch), "{who}: set");
        }
    }

    /// Sum of one of the counts, of our members or of the others.
    pub fn sum(&self, ours: bool, count: Count) -> u32 {
        let members = self.members.iter().filter(|member| member.ours == ours);
        members.map(|member| member.ledger.count(count)).sum()
    }

    pub fn kills(&self, ours: bool) -> u32 {
        let members = self.members.iter().filter(|member| member.ours == ours);
        members.map(|member| member.kills).sum()
    }
}

/// What an own record is in its n-th version. In version 0 there is none.
fn own_version(id: u32, n: u32) -> Option<Vec<u8>> {
    (n != 0).then(|| version(id, n))
}

impl Member {
    fn who(&self) -> String {
        let kind = if self.ours { "our" } else { "C" };
        format!("{kind} {} member {}", self.role.name(), self.id)
    }

    /// How the process has failed, if it has come to its end before it was killed.
    fn failure(&mut self) -> Option<String> {
        let status = self.process.try_wait().unwrap()?;
        (!status.success()).then(|| format!("{}: {status}", self.who()))
    }

    /// After a death: what was under way has happened or not, and the ledger is told which.
    fn settle(&self, db: &Db) {
        for n in 0..OWN_KEYS {
            self.settle_own(n, db);
        }
        for n in 0..SHARED_KEYS {
            let data = db.fetch(&shared_key(n)).unwrap().unwrap_or_default();
            self.settle_number(SHARED_AT + n, last_entries(&data)[self.id as usize]);
        }
        let tally = db.fetch(TALLY_KEY).unwrap();
        let count = tally.map_or(0, |tally| word(&tally, self.id as usize * 4));
        self.settle_number(TALLY_AT, count);
        self.settle_set(db);
    }

    fn settle_own(&self, n: usize, db: &Db) {
        let entry = self.ledger.get(n);
        let key = self.role.own_key(self.id, n);
        let found = db.fetch(&key).unwrap();
        let is = |n| found == own_version(self.id, n);
        if is(entry.done) {
            self.ledger.settle(n, entry.done);
        } else if is(entry.intended) {
            self.ledger.settle(n, entry.intended);
        } else {
            // Of the one record that was being written, without a transaction, nothing is known.
            let torn = self.role == Role::Reckless && entry.intended != entry.done;
            assert!(torn, "{}: own record {n}: {entry:?}: {found:?}", self.who());
            db.delete(&key).unwrap();
            self.ledger.settle(n, 0);
        }
    }

    fn settle_number(&self, index: usize, found: u32) {
        let Entry { intended, done } = self.ledger.get(index);
        assert!(
            found == done || found == intended,
            "{}: entry {index}: {found}, not {done} or {intended}",
            self.who()
        );
        self.ledger.settle(index, found);
    }

    fn settle_set(&self, db: &Db) {
        let Entry { intended, done } = self.ledger.get(SET_AT);
        let fetch = |key: &[u8]| db.fetch(key).unwrap();
        let found = [done, intended]
            .into_iter()
            .find(|&n| self.has_set(n, &fetch));
        let found = found.unwrap_or_else(|| panic!("{}: half a set", self.who()));
        self.ledger.settle(SET_AT, found);
    }

    /// Whether all of the set are in the n-th version.
    fn has_set(&self, n: u32, fetch: &dyn Fn(&[u8]) -> Option<Vec<u8>>) -> bool {
        (0..u32::try_from(SET_KEYS).unwrap())
            .all(|k| fetch(&set_key(self.id, k)) == version_of_set(self.id, k, n))
    }
}
