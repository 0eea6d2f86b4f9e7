//! The run of transactions that is written onto a disk with a diary.

use std::path::Path;

use tdb::{Db, Flags, OpenOptions, StoreMode};

use crate::common::disk::{Disk, Event, Records};
use crate::common::records_of;

/// Where the recovery area is when the run begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Area {
    None,
    /// Small, behind free space: it is made larger in its place.
    AtEnd,
    /// Small, in front of free space: another one is made.
    InMiddle,
    /// At the end, with its header in two sectors: the file grows behind it.
    AcrossSectors,
}

/// What a run begins with.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub flags: Flags,
    pub area: Area,
}

impl Area {
    /// Bytes of the area, without its header: room for the log of a block, or two. (Those that are
    /// made have room for a hundred times more.)
    fn capacity(self) -> u32 {
        if self == Self::AcrossSectors {
            // The C library insists on whole pages.
            3 * 4096 - 492 - 24
        } else {
            4300
        }
    }

    /// With 80 chains the first record begins at 492.
    fn hash_size(self) -> u32 {
        if self == Self::AcrossSectors { 80 } else { 3 }
    }
}

impl Start {
    /// A database with some records and some free space, as a file.
    fn image(self, path: &Path) -> Vec<u8> {
        let options = OpenOptions::new()
            .flags(self.flags)
            .hash_size(self.area.hash_size());
        let fill = |db: Db| {
            for (key, len) in [(&b"one"[..], 100), (b"start", 300), (b"space", 12_000)] {
                db.store(key, &vec![b's'; len], StoreMode::Replace).unwrap();
            }
            assert!(db.delete(b"space").unwrap());
        };
        let db = options.clone().create(true).open(path).unwrap();
        match self.area {
            Area::None => {}
            Area::AtEnd => {
                fill(db);
                self.add_area(path);
            }
            Area::AcrossSectors => {
                drop(db);
                self.add_area(path);
            }
            Area::InMiddle => {
                drop(db);
                self.add_area(path);
                fill(options.open(path).unwrap());
            }
        }
        std::fs::read(path).unwrap()
    }

    /// Adds a small recovery area at the end of the file, as an early commit would have left it.
    fn add_area(self, path: &Path) {
        let mut bytes = std::fs::read(path).unwrap();
        let (start, capacity) = (bytes.len(), self.area.capacity() as usize);
        let word = |word: usize| {
            let word = u32::try_from(word).unwrap();
            if self.flags.contains(Flags::CONVERT) {
                word.to_be_bytes()
            } else {
                word.to_le_bytes()
            }
        };
        bytes.resize(start + 24 + capacity, 0);
        bytes[start + 4..start + 8].copy_from_slice(&word(capacity));
        bytes[44..48].copy_from_slice(&word(start));
        std::fs::write(path, bytes).unwrap();
    }
}

/// One transaction: what is stored, and what is deleted.
type Changes = (&'static [(&'static [u8], usize)], &'static [&'static [u8]]);

/// Within what the file has, and beyond it; with few changed blocks, and many.
const TRANSACTIONS: [Changes; 7] = [
    (&[(b"one", 10), (b"two", 20)], &[]),
    (&[(b"one", 12)], &[b"two"]),
    (&[(b"big", 9000), (b"three", 5)], &[]),
    (&[(b"huge", 50_000)], &[b"one"]),
    (&[(b"four", 4)], &[b"big"]),
    (&[(b"more", 60_000), (b"five", 4)], &[b"huge"]),
    (&[(b"six", 6)], &[b"five"]),
];

/// One rewrite of the database: what is stored, and whether it is committed.
type Rewrite = (&'static [(&'static [u8], usize)], bool);

/// Into what is free in the file, and beyond it.
const REWRITES: [Rewrite; 6] = [
    (&[(b"one", 10), (b"big", 30_000), (b"six", 90)], true),
    (&[(b"two", 20), (b"big", 60_000), (b"three", 9000)], false),
    (&[(b"two", 20), (b"big", 9000), (b"two", 7000)], true),
    (&[], true),
    (&[(b"large", 100_000), (b"larger", 120_000)], true),
    (&[(b"five", 4), (b"five", 3)], true),
];

/// What happened, from the first content of the disk on.
pub struct Run {
    pub first: Vec<u8>,
    pub diary: Vec<Event>,
}

impl Run {
    /// Runs the transactions, the rewrites, and a repack.
    pub fn new(start: Start) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let first = start.image(&dir.path().join("start.tdb"));
        let (disk, diary) = Disk::new(first.clone());
        let options = OpenOptions::new().flags(start.flags);
        let db = options.open_backend(Box::new(disk)).unwrap();
        let commit_point = || {
            let event = Event::Committed(records_of(&db));
            diary.lock().unwrap().push(event);
        };
        commit_point();
        for (number, changes) in TRANSACTIONS.iter().enumerate() {
            transact(&db, b'a' + u8::try_from(number).unwrap(), changes);
            commit_point();
            db.check()
                .unwrap_or_else(|error| panic!("transaction {number}: {error}"));
        }
        for (number, (lengths, commits)) in REWRITES.iter().enumerate() {
            rewrite(&db, b'k' + u8::try_from(number).unwrap(), lengths, *commits);
            commit_point();
            db.check()
                .unwrap_or_else(|error| panic!("rewrite {number}: {error}"));
        }
        // Not by `freelist_size`, which changes the list without a transaction.
        let pieces = db.check().unwrap().free;
        db.repack().unwrap();
        assert!(db.check().unwrap().free < pieces, "of {pieces} pieces");
        commit_point();
        let diary = diary.lock().unwrap().clone();
        Self { first, diary }
    }

    /// What is done to an unfinished commit.
    pub fn of_rollback(image: &[u8], flags: Flags) -> Self {
        let (disk, diary) = Disk::new(image.to_vec());
        let options = OpenOptions::new().flags(flags);
        drop(options.open_backend(Box::new(disk)).unwrap());
        let diary = diary.lock().unwrap().clone();
        assert!(!diary.is_empty(), "nothing was rolled back");
        Self {
            first: image.to_vec(),
            diary,
        }
    }

    /// The records before and after the commit that is under way at `position` of the diary.
    pub fn allowed(&self, position: usize) -> [Records; 2] {
        let committed = |event: &Event| match event {
            Event::Committed(records) => Some(records.clone()),
            _ => None,
        };
        let (past, future) = self.diary.split_at(position);
        let after = future.iter().find_map(committed);
        let before = past.iter().rev().find_map(committed);
        let before = before.unwrap_or_else(|| after.clone().unwrap());
        [before.clone(), after.unwrap_or(before)]
    }

    /// Calls `look` with each position, and the content that the disk has when it stops there.
    /// Where a sync is the only difference the content is that of the position before.
    pub fn each_prefix(&self, mut look: impl FnMut(usize, &[u8])) {
        let mut image = self.first.clone();
        for (position, event) in self.diary.iter().enumerate() {
            let last = position.checked_sub(1).map(|last| &self.diary[last]);
            if !matches!(last, Some(Event::Sync)) {
                look(position, &image);
            }
            event.apply(&mut image);
        }
        look(self.diary.len(), &image);
    }

    /// Calls `look` with each position, the number of a choice, and the content of the disk if of
    /// the writes since the last sync those have been done that were chosen. Where there are more
    /// than one, that many `choices`.
    pub fn each_choice(
        &self,
        choices: u32,
        random: &mut fastrand::Rng,
        mut look: impl FnMut(usize, u32, Vec<u8>),
    ) {
        let mut synced = self.first.clone();
        let mut since_sync: Vec<&Event> = Vec::new();
        for (position, event) in self.diary.iter().enumerate() {
            let choices = if since_sync.len() > 1 { choices } else { 1 };
            for choice in 0..choices {
                let mut image = synced.clone();
                for event in &since_sync {
                    event.apply_some(&mut image, random);
                }
                look(position, choice, image);
            }
            since_sync.push(event);
            if matches!(event, Event::Sync) {
                since_sync
                    .drain(..)
                    .for_each(|event| event.apply(&mut synced));
            }
        }
    }

    /// Whether there is a commit point at `position`.
    pub fn commits_at(&self, position: usize) -> bool {
        matches!(self.diary.get(position), Some(Event::Committed(_)))
    }

    /// Offset and capacity of the recovery area at each commit, 0 without one.
    pub fn areas(&self, flags: Flags) -> Vec<(u32, u32)> {
        let word = |image: &[u8], at: usize| {
            let bytes: [u8; 4] = image[at..at + 4].try_into().unwrap();
            if flags.contains(Flags::CONVERT) {
                u32::from_be_bytes(bytes)
            } else {
                u32::from_le_bytes(bytes)
            }
        };
        let (mut image, mut areas) = (self.first.clone(), Vec::new());
        for event in &self.diary {
            event.apply(&mut image);
            if matches!(event, Event::Committed(_)) {
                let start = word(&image, 44);
                let capacity = if start == 0 {
                    0
                } else {
                    word(&image, start as usize + 4)
                };
                areas.push((start, capacity));
            }
        }
        areas
    }
}

fn transact(db: &Db, fill: u8, (stores, deletes): &Changes) {
    db.transaction_start().unwrap();
    for (key, len) in *stores {
        db.store(key, &vec![fill; *len], StoreMode::Replace)
            .unwrap();
    }
    for key in *deletes {
        assert!(db.delete(key).unwrap());
    }
    db.transaction_commit().unwrap();
}

fn rewrite(db: &Db, fill: u8, stores: &[(&[u8], usize)], commits: bool) {
    db.transaction_start().unwrap();
    db.store(b"forgotten", b"soon", StoreMode::Replace).unwrap();
    db.wipe_to_rewrite().unwrap();
    for (key, len) in stores {
        db.store(key, &vec![fill; *len], StoreMode::Replace)
            .unwrap();
    }
    db.store(b"deleted", b"soon", StoreMode::Replace).unwrap();
    assert!(db.delete(b"deleted").unwrap());
    if commits {
        db.transaction_commit().unwrap();
    } else {
        db.transaction_cancel().unwrap();
    }
}
