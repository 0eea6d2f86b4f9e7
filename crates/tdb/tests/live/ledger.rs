//! What the members of a story note, and what the records must therefore be. The same layout and
//! the same values as in `member.c`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const OWN_KEYS: usize = 64;
pub const SHARED_KEYS: usize = 16;
pub const SET_KEYS: usize = 8;
pub const ACCOUNTS: usize = 8;
/// Ids of members are below this.
pub const MEMBERS: usize = 16;
/// Length from which on a shared record is cut down to the last entry of each member.
pub const TRIM_AT: usize = 2048;

/// What a member intends to do and has done. 8 bytes in the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    pub intended: u32,
    pub done: u32,
}

/// Places in a ledger, in the order of `struct ledger`.
pub const SHARED_AT: usize = OWN_KEYS;
pub const TALLY_AT: usize = SHARED_AT + SHARED_KEYS;
pub const SET_AT: usize = TALLY_AT + 1;
const ENTRIES: usize = SET_AT + 1;

/// What is only counted.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    Transactions,
    Cancelled,
    Traverses,
    Locks,
}

/// A file that outlives its writer when he is killed.
pub struct Ledger(File);

impl Ledger {
    pub fn create(path: &Path) -> Self {
        std::fs::write(path, [0; ENTRIES * 8 + 4 * 4]).unwrap();
        Self::open(path)
    }

    pub fn open(path: &Path) -> Self {
        Self(File::options().read(true).write(true).open(path).unwrap())
    }

    pub fn get(&self, index: usize) -> Entry {
        Entry {
            intended: self.word(index * 8),
            done: self.word(index * 8 + 4),
        }
    }

    pub fn set_intended(&self, index: usize, value: u32) {
        self.set_word(index * 8, value);
    }

    pub fn set_done(&self, index: usize, value: u32) {
        self.set_word(index * 8 + 4, value);
    }

    /// After a death: what was under way has happened, or not, and is over.
    pub fn settle(&self, index: usize, value: u32) {
        self.set_intended(index, value);
        self.set_done(index, value);
    }

    pub fn count(&self, count: Count) -> u32 {
        self.word(ENTRIES * 8 + count as usize * 4)
    }

    pub fn count_up(&self, count: Count) {
        let more = self.count(count) + 1;
        self.set_word(ENTRIES * 8 + count as usize * 4, more);
    }

    fn word(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        self.0.read_exact_at(&mut bytes, at as u64).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn set_word(&self, at: usize, word: u32) {
        self.0.write_all_at(&word.to_le_bytes(), at as u64).unwrap();
    }
}

/// How a member works, and may die.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// With and without transactions. Is not killed.
    Steady,
    /// Changes records in transactions only.
    Careful,
    /// Changes records without transactions.
    Reckless,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Careful => "careful",
            Self::Reckless => "reckless",
        }
    }

    pub fn from_name(name: &str) -> Self {
        let roles = [Self::Steady, Self::Careful, Self::Reckless];
        roles.into_iter().find(|role| role.name() == name).unwrap()
    }

    /// Name of an own key. Those of the reckless are named otherwise: no traverse may rely on them.
    pub fn own_key(self, id: u32, n: usize) -> Vec<u8> {
        let kind = if self == Self::Reckless {
            "risky"
        } else {
            "own"
        };
        format!("{kind}-{id}-{n}").into_bytes()
    }
}

pub fn shared_key(n: usize) -> Vec<u8> {
    format!("shared-0-{n}").into_bytes()
}

pub fn set_key(id: u32, k: u32) -> Vec<u8> {
    format!("set-{id}-{k}").into_bytes()
}

pub fn account_key(account: usize) -> Vec<u8> {
    format!("account-0-{account}").into_bytes()
}

pub const TALLY_KEY: &[u8] = b"tally-0-0";

/// Value of an own key in its n-th version.
pub fn version(id: u32, n: u32) -> Vec<u8> {
    let len = 8 + (n.wrapping_mul(37).wrapping_add(id.wrapping_mul(11)) % 700) as usize;
    let mut value = vec![(n.wrapping_add(id) & 0xff) as u8; len];
    value[..4].copy_from_slice(&n.to_le_bytes());
    value[4..8].copy_from_slice(&id.to_le_bytes());
    value
}

/// A member of the set in its n-th version: a third of them are missing. None is there at first.
pub fn version_of_set(id: u32, k: u32, n: u32) -> Option<Vec<u8>> {
    (n != 0 && !(n + k).is_multiple_of(3)).then(|| version(id, n + k))
}

/// Member and number of each entry of a shared record. Fails if one is torn, lost or doubled.
pub fn entries(data: &[u8]) -> Vec<(u32, u32)> {
    let (entries, rest) = data.as_chunks::<8>();
    assert!(rest.is_empty(), "torn shared record");
    let mut last = [0; MEMBERS];
    let mut found = Vec::new();
    for entry in entries {
        let (member, number) = (word(entry, 0), word(entry, 4));
        let last = &mut last[member as usize];
        assert!(
            *last == 0 || number == *last + 1,
            "member {member}: entry {number} follows {last}"
        );
        *last = number;
        found.push((member, number));
    }
    found
}

/// The last entry of each member.
pub fn last_entries(data: &[u8]) -> [u32; MEMBERS] {
    let mut last = [0; MEMBERS];
    for (member, number) in entries(data) {
        last[member as usize] = number;
    }
    last
}

pub fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}
