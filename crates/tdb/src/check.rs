//! Is the file sound? (`tdb.md` 7.6)
//!
//! The verdict is that of the C library, file by file: every byte behind the list heads belongs to
//! a record, and every list holds exactly the records that belong to it.

use crate::db::{AllLock, Db};
use crate::error::{Error, Result};
use crate::layout::{
    ALIGNMENT, FREELIST_HEAD, FileHeader, HEADER_SIZE, HeaderBytes, Magic, RECORD_SIZE, Record,
    TAILER_SIZE, VERSION, chain_head, magic_hashes,
};

/// What a sound database contains.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CheckReport {
    /// Live records.
    pub records: u64,
    pub dead: u64,
    pub free: u64,
    /// Bytes at the end that belong to no record, left by a crash while the file grew. Harmless
    /// until it grows again.
    pub unowned: u32,
}

/// A pointer or a record, and the list it belongs to: 0 is the free list, `b + 1` chain `b`.
type Listed = (u32, u32);

/// What the walk through the file has found so far.
#[derive(Default)]
struct Findings {
    report: CheckReport,
    records: Vec<Listed>,
    pointers: Vec<Listed>,
    found_recovery: bool,
    key: Vec<u8>,
}

impl Db {
    /// Reads the whole file and fails at the first contradiction. Nobody writes meanwhile.
    pub fn check(&self) -> Result<CheckReport> {
        let _all = self.lock_to_look()?;
        self.image.refresh()?;
        let recovery_start = self.check_header()?;
        let mut findings = Findings::default();
        self.check_heads(&mut findings)?;
        self.check_records(recovery_start, &mut findings)?;
        if recovery_start != 0 && !findings.found_recovery {
            return corrupt(recovery_start, "expected a recovery area");
        }
        check_lists(&mut findings)?;
        Ok(findings.report)
    }

    /// Keeps others from writing while the whole file is read. Nothing for a handle that takes no
    /// locks, or has the whole database locked already.
    pub(crate) fn lock_to_look(&self) -> Result<Option<AllLock<'_>>> {
        self.seal()?;
        match (self.read_only, self.locks.all_held()) {
            (false, None) => self.lockall_read().map(Some),
            _ => Ok(None),
        }
    }

    /// Returns `recovery_start`.
    fn check_header(&self) -> Result<u32> {
        let mut bytes: HeaderBytes = [0; HEADER_SIZE as usize];
        self.image.read(0, &mut bytes)?;
        let order = self.image.order();
        let Some(header) = FileHeader::decode(&bytes, order) else {
            return corrupt(0, "magic text is missing");
        };
        let hashes = (header.magic1_hash, header.magic2_hash);
        let hashes_fit = hashes == (0, 0) || hashes == magic_hashes(self.hash, order);
        let start = header.recovery_start;
        let sound = header.version == VERSION
            && header.marker_is_known()
            && hashes_fit
            && header.hash_size == self.hash_size
            && (start == 0 || start >= self.image.data_start());
        if sound {
            Ok(start)
        } else {
            corrupt(0, "header is corrupt")
        }
    }

    fn check_heads(&self, findings: &mut Findings) -> Result<()> {
        if self.image.size() < self.image.data_start() {
            return corrupt(0, "file is too short for its hash chains");
        }
        let chains = (0..self.hash_size).map(|chain| (chain + 1, chain_head(chain)));
        for (list, head) in [(0, FREELIST_HEAD)].into_iter().chain(chains) {
            let first = self.image.word(head)?;
            findings.point(list, first);
        }
        Ok(())
    }

    /// Walks the file from the first record to the end.
    fn check_records(&self, recovery_start: u32, findings: &mut Findings) -> Result<()> {
        let (mut at, size) = (self.image.data_start(), self.image.size());
        while at < size {
            let record = self.image.record(at)?;
            match record.magic {
                Magic::USED | Magic::DEAD => self.check_used(at, &record, findings)?,
                Magic::FREE => self.check_free_record(at, &record, findings)?,
                Magic::IDLE | Magic::FILLER | Magic::RECOVERY if at == recovery_start => {
                    findings.found_recovery = true;
                }
                Magic::IDLE | Magic::FILLER if self.is_unowned(at)? => {
                    findings.report.unowned = size - at;
                    tracing::warn!(from = at, to = size, "dead space");
                    return Ok(());
                }
                _ => return corrupt(at, "record of unknown kind"),
            }
            at = at
                .checked_add(RECORD_SIZE)
                .and_then(|at| at.checked_add(record.rec_len))
                .filter(|&next| next <= size || at == recovery_start)
                .ok_or(Error::Corrupt {
                    offset: at,
                    what: "record reaches beyond the file",
                })?;
        }
        Ok(())
    }

    /// Whether all from here to the end was never written. Decided by the first byte, as the C
    /// library does.
    pub(crate) fn is_unowned(&self, at: u32) -> Result<bool> {
        let mut first = [0];
        self.image.read(at, &mut first)?;
        Ok(matches!(first, [0x00 | 0x42]))
    }

    fn check_used(&self, at: u32, record: &Record, findings: &mut Findings) -> Result<()> {
        self.check_shape(at, record)?;
        let content = record.key_len.checked_add(record.data_len);
        let needed = content.and_then(|content| content.checked_add(TAILER_SIZE));
        if needed.is_none_or(|needed| needed > record.rec_len) {
            return corrupt(at, "record is too short for its contents");
        }
        let key = &mut findings.key;
        key.clear();
        self.image
            .append_to(at + RECORD_SIZE, record.key_len, key)?;
        if self.hash.hash(key) != record.full_hash {
            return corrupt(at, "record has an incorrect hash");
        }
        if record.magic == Magic::USED {
            findings.report.records += 1;
        } else {
            findings.report.dead += 1;
        }
        findings.list(self.bucket(record.full_hash) + 1, at, record);
        Ok(())
    }

    fn check_free_record(&self, at: u32, record: &Record, findings: &mut Findings) -> Result<()> {
        self.check_shape(at, record)?;
        findings.report.free += 1;
        findings.list(0, at, record);
        Ok(())
    }

    /// What holds for records in use and for free ones.
    fn check_shape(&self, at: u32, record: &Record) -> Result<()> {
        let size = self.image.size();
        if record.next != 0 && record.next < self.image.data_start() {
            return corrupt(at, "next record lies in the header");
        }
        if record
            .next
            .checked_add(RECORD_SIZE)
            .is_none_or(|end| end > size)
        {
            return corrupt(at, "next record lies beyond the file");
        }
        if !record.next.is_multiple_of(ALIGNMENT) {
            return corrupt(at, "next record is misaligned");
        }
        if !record.rec_len.is_multiple_of(ALIGNMENT) || record.rec_len < TAILER_SIZE {
            return corrupt(at, "length is misaligned or too short");
        }
        self.image.check_inside(at + RECORD_SIZE, record.rec_len)?;
        let tailer_at = at + record.tailer() - TAILER_SIZE;
        if self.image.word(tailer_at)? != record.tailer() {
            return corrupt(at, "tailer does not match");
        }
        Ok(())
    }
}

impl Findings {
    fn point(&mut self, list: u32, target: u32) {
        if target != 0 {
            self.pointers.push((list, target));
        }
    }

    fn list(&mut self, list: u32, at: u32, record: &Record) {
        self.records.push((list, at));
        self.point(list, record.next);
    }
}

/// In each list, everything must be pointed to exactly once: by the head, or by another one.
fn check_lists(findings: &mut Findings) -> Result<()> {
    findings.records.sort_unstable();
    findings.pointers.sort_unstable();
    if findings.records == findings.pointers {
        return Ok(());
    }
    let mut both = findings.records.iter().zip(&findings.pointers);
    let offset = both
        .find(|(record, pointer)| record != pointer)
        .map_or(0, |(_, &(_, at))| at);
    corrupt(offset, "lists and records do not match")
}

pub(crate) fn corrupt<T>(offset: u32, what: &'static str) -> Result<T> {
    Err(Error::Corrupt { offset, what })
}
