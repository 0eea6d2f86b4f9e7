//! What a crash leaves, as we and the C library see it.

use std::path::{Path, PathBuf};

use tdb::{Flags, OpenOptions, StoreMode};

use crate::common::disk::Records;
use crate::common::{assert_sound_for_c, dump_if_open, dump_of, records_of, tdbtool};

/// Opens what survived, and fails unless it is before or after the commit, and sound for good.
pub fn assert_survives(image: Vec<u8>, flags: Flags, allowed: &[Records; 2], context: &str) {
    let db = OpenOptions::new().flags(flags).open_memory(image).unwrap();
    let found = records_of(&db);
    assert!(allowed.contains(&found), "{context}: {:?}", found.keys());
    db.check()
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    db.transaction_start().unwrap();
    db.store(b"afterwards", &[1; 5000], StoreMode::Insert)
        .unwrap();
    db.transaction_commit().unwrap();
    // So long that the file grows by little.
    db.store(b"and plain", &vec![1; 110_000], StoreMode::Insert)
        .unwrap();
    db.check()
        .unwrap_or_else(|error| panic!("{context}, later: {error}"));
}

/// Whether the recovery area is marked as valid.
pub fn is_pending(image: &[u8], flags: Flags) -> bool {
    let word = |at: usize| {
        let mut bytes: [u8; 4] = image[at..at + 4].try_into().unwrap();
        if flags.contains(Flags::CONVERT) {
            bytes.reverse();
        }
        u32::from_le_bytes(bytes)
    };
    word(44) != 0 && word(word(44) as usize + 20) == 0xF53B_C0E7
}

/// What a crash leaves, in a file.
pub struct Remains {
    path: PathBuf,
    flags: Flags,
}

impl Remains {
    pub fn new(dir: &Path, flags: Flags) -> Self {
        let path = dir.join("remains.tdb");
        Self { path, flags }
    }

    /// Writes the file, and looks at it as those do who only read, we and `tdbdump`. They cannot
    /// roll back: where that is needed both refuse, and else both show the records. Returns whether
    /// they do.
    pub fn readers_agree(&self, image: &[u8], allowed: &[Records; 2], context: &str) -> bool {
        std::fs::write(&self.path, image).unwrap();
        let options = OpenOptions::new().flags(self.flags).read_only(true);
        let ours = options.open(&self.path).ok().map(|db| records_of(&db));
        let theirs = dump_if_open(&self.path);
        assert_eq!(ours, theirs, "{context}: tdbdump on the right");
        assert_eq!(ours.is_none(), is_pending(image, self.flags), "{context}");
        if let Some(records) = &ours {
            assert!(allowed.contains(records), "{context}: {:?}", records.keys());
        }
        ours.is_some()
    }

    /// Lets the C library roll back and go on with the file. Returns whether it is still sound for
    /// it after another transaction.
    ///
    /// It need not be where bytes at the end belong to nobody yet, after a crash or the C library's
    /// own rollback: it puts others behind them, and finds fault with that (`tdb.md` 6.5).
    pub fn stays_sound_for_c(&self, allowed: &[Records; 2], context: &str) -> bool {
        assert_sound_for_c(&self.path, context);
        let dumped = dump_of(&self.path);
        assert!(allowed.contains(&dumped), "{context}: {:?}", dumped.keys());
        let db = OpenOptions::new().read_only(true).open(&self.path);
        let unowned = db.unwrap().check().unwrap().unowned;
        let said = tdbtool(
            &self.path,
            "transaction_start\ninsert fresh value\ntransaction_commit\ncheck\n",
        );
        let dumped = dump_of(&self.path);
        let fresh = dumped.get(&b"fresh"[..]).map(Vec::as_slice);
        assert_eq!(fresh, Some(&b"value"[..]), "{context}: {said}");
        let sound = said.contains("Database integrity is OK");
        assert!(sound || unowned > 0, "{context}: {said}");
        sound
    }
}
