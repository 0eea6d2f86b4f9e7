//! How the space of a file is used (`tdb.md` 7.11).

use std::fmt;

use crate::check::corrupt;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::hash::HashKind;
use crate::image::{Item, LOOP};
use crate::layout::{FEATURE_MUTEX, Magic, RECORD_SIZE, RECOVERY_START, Record, TAILER_SIZE};

/// Numbers about a database. `Display` gives the text that the C library's tools print.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Bytes in front of the database: the mutexes.
    pub base: u64,
    /// Bytes of the database itself.
    pub size: u64,
    pub jenkins_hash: bool,
    /// Feature flags of the format; 1 stands for mutexes.
    pub features: u32,
    /// Key lengths of the live records.
    pub keys: Tally,
    /// Data lengths of the live records.
    pub data: Tally,
    /// Bytes in live records that are neither key nor data.
    pub padding: Tally,
    /// Lengths of what is neither live nor free: deleted records, the recovery area, and space that
    /// a crash has left to nobody.
    pub dead: Tally,
    pub free: Tally,
    /// Lengths of the hash chains. A broken one counts as 0, one that is a loop as [`u64::MAX`].
    pub chains: Tally,
    /// Free neighbours that could be one: for each run of them, one less than their number.
    pub uncoalesced: Tally,
}

/// Some numbers, of which these remain.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    pub count: u64,
    /// 0 if there are none.
    pub smallest: u64,
    pub largest: u64,
    /// Wraps around.
    pub total: u64,
}

impl Tally {
    fn add(&mut self, value: u64) {
        self.smallest = if self.count == 0 {
            value
        } else {
            self.smallest.min(value)
        };
        self.largest = self.largest.max(value);
        self.total = self.total.wrapping_add(value);
        self.count += 1;
    }

    /// Rounded down; 0 if there are none.
    pub fn average(&self) -> u64 {
        self.total.checked_div(self.count).unwrap_or(0)
    }
}

/// Smallest, average, largest.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.smallest, self.average(), self.largest)
    }
}

/// Whether the C library counts a record of a chain. It would read some that end behind the end of
/// the file, where [`Walk::step_chain`](crate::image::Walk::step_chain) gives up.
fn is_countable(item: &Item, size: u32) -> bool {
    let Item { offset, record, .. } = item;
    let inside = |start: u32, len: u32| start.checked_add(len).is_some_and(|end| end <= size);
    let content = record.key_len.checked_add(record.data_len);
    [Magic::USED, Magic::DEAD].contains(&record.magic)
        && content.is_some_and(|content| content <= record.rec_len)
        && inside(*offset, record.rec_len)
        && inside(record.next, RECORD_SIZE)
}

/// Free records that follow each other, dead ones between them not counted.
#[derive(Default)]
struct Run(u64);

impl Run {
    fn end(&mut self, tally: &mut Tally) {
        if self.0 > 1 {
            tally.add(self.0 - 1);
        }
        self.0 = 0;
    }
}

impl Db {
    /// Reads the whole file. Nobody writes meanwhile. Fails where something is no record; whether
    /// the lists are sound is left to [`Db::check`].
    pub fn summary(&self) -> Result<Summary> {
        let _all = self.lock_to_look()?;
        let size = self.image.refresh()?;
        let mut summary = Summary {
            base: self.opened.base,
            size: size.into(),
            jenkins_hash: self.hash == HashKind::Jenkins,
            features: self.opened.features,
            ..Summary::default()
        };
        let (mut at, mut run) = (self.image.data_start(), Run::default());
        while at < size {
            let record = self.image.record(at)?;
            let rec_len = summary.add(self, at, &record, &mut run)?;
            at = at
                .checked_add(RECORD_SIZE)
                .and_then(|at| at.checked_add(rec_len))
                .ok_or(Error::Corrupt {
                    offset: at,
                    what: "record reaches beyond the file",
                })?;
        }
        run.end(&mut summary.uncoalesced);
        for chain in 0..self.hash_size {
            summary.chains.add(self.chain_len(chain));
        }
        Ok(summary)
    }

    fn chain_len(&self, chain: u32) -> u64 {
        let count = || -> Result<u64> {
            let mut walk = self.image.chain(chain)?;
            let mut count = 0;
            while let Some(item) = walk.step()? {
                if !is_countable(&item, self.image.size()) {
                    return Ok(0);
                }
                count += 1;
            }
            Ok(count)
        };
        match count() {
            Ok(count) => count,
            Err(Error::Corrupt { what: LOOP, .. }) => u64::MAX,
            Err(_) => 0,
        }
    }
}

impl Summary {
    /// Counts what lies at `at`. Returns its length.
    fn add(&mut self, db: &Db, at: u32, record: &Record, run: &mut Run) -> Result<u32> {
        let mut rec_len = record.rec_len;
        match record.magic {
            Magic::USED => {
                run.end(&mut self.uncoalesced);
                self.add_used(record);
            }
            Magic::FREE => {
                run.0 += 1;
                self.free.add(rec_len.into());
            }
            Magic::DEAD => self.dead.add(rec_len.into()),
            Magic::IDLE | Magic::FILLER => {
                run.0 += 1;
                if at != db.image.word(RECOVERY_START)? {
                    if !db.is_unowned(at)? {
                        return corrupt(at, "record of unknown kind");
                    }
                    rec_len = db.image.size() - at - RECORD_SIZE;
                }
                self.dead.add(rec_len.into());
            }
            _ => return corrupt(at, "record of unknown kind"),
        }
        Ok(rec_len)
    }

    fn add_used(&mut self, record: &Record) {
        self.keys.add(record.key_len.into());
        self.data.add(record.data_len.into());
        // A damaged record has any lengths: this wraps around as it does in the C library.
        let content = record.key_len.wrapping_add(record.data_len);
        self.padding
            .add(record.rec_len.wrapping_sub(content).into());
    }

    /// Part of the file in percent, as `printf` rounds it.
    #[expect(
        clippy::cast_precision_loss,
        reason = "the C library reckons in double precision"
    )]
    fn percent(&self, bytes: u64) -> String {
        let file = self.base + self.size;
        format!("{:.0}", bytes as f64 * 100.0 / file as f64)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes_no = |yes| if yes { "yes" } else { "no" };
        let content = self.keys.total.wrapping_add(self.data.total);
        writeln!(f, "Size of file/data: {}/{content}", self.base + self.size)?;
        writeln!(f, "Header offset/logical size: {}/{}", self.base, self.size)?;
        writeln!(f, "Number of records: {}", self.keys.count)?;
        writeln!(f, "Incompatible hash: {}", yes_no(self.jenkins_hash))?;
        let features = self.features;
        writeln!(
            f,
            "Active/supported feature flags: {features:#010x}/{FEATURE_MUTEX:#010x}"
        )?;
        let mutexes = yes_no(self.features & FEATURE_MUTEX != 0);
        writeln!(f, "Robust mutexes locking: {mutexes}")?;
        writeln!(f, "Smallest/average/largest keys: {}", self.keys)?;
        writeln!(f, "Smallest/average/largest data: {}", self.data)?;
        writeln!(f, "Smallest/average/largest padding: {}", self.padding)?;
        writeln!(f, "Number of dead records: {}", self.dead.count)?;
        writeln!(f, "Smallest/average/largest dead records: {}", self.dead)?;
        writeln!(f, "Number of free records: {}", self.free.count)?;
        writeln!(f, "Smallest/average/largest free records: {}", self.free)?;
        writeln!(f, "Number of hash chains: {}", self.chains.count)?;
        writeln!(f, "Smallest/average/largest hash chains: {}", self.chains)?;
        let runs = &self.uncoalesced;
        writeln!(f, "Number of uncoalesced records: {}", runs.total)?;
        writeln!(f, "Smallest/average/largest uncoalesced runs: {runs}")?;
        let records = self.keys.count + self.free.count + self.dead.count;
        let parts = [
            self.keys.total,
            self.data.total,
            self.padding.total,
            self.free.total,
            self.dead.total,
            records * u64::from(RECORD_SIZE + TAILER_SIZE),
            self.chains.count * 4,
        ];
        let parts = parts.map(|bytes| self.percent(bytes)).join("/");
        writeln!(
            f,
            "Percentage keys/data/padding/free/dead/rechdrs&tailers/hashes: {parts}"
        )
    }
}
