//! A power failure at any moment of a run of transactions, with a repack at their end: afterwards the
//! database holds what it held before the commit, or after it, and is sound. So say we and the C
//! library, of every prefix of the writes.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a failing helper fails the test"
)]

mod common;
#[path = "crash/remains.rs"]
mod remains;
#[path = "crash/run.rs"]
mod run;

use common::disk::Disk;
use common::golden_file;
use remains::{Remains, assert_survives, is_pending};
use run::{Area, Run, Start};
use tdb::{Flags, OpenOptions};

const NEW: Start = Start {
    flags: Flags::empty(),
    area: Area::None,
};
const AREA_AT_END: Start = Start {
    flags: Flags::empty(),
    area: Area::AtEnd,
};
const AREA_IN_MIDDLE: Start = Start {
    flags: Flags::INCOMPATIBLE_HASH.union(Flags::CONVERT),
    area: Area::InMiddle,
};
const AREA_ACROSS_SECTORS: Start = Start {
    flags: Flags::empty(),
    area: Area::AcrossSectors,
};
const STARTS: [Start; 4] = [NEW, AREA_AT_END, AREA_IN_MIDDLE, AREA_ACROSS_SECTORS];

/// Every prefix of the writes of a run, seen by us and by Debian's tools.
fn assert_survives_every_prefix(start: Start) {
    let dir = tempfile::tempdir().unwrap();
    let remains = Remains::new(dir.path(), start.flags);
    let run = Run::new(start);
    let [mut looks, mut pending, mut spoiled] = [0; 3];
    run.each_prefix(|position, image| {
        let allowed = run.allowed(position);
        let context = format!("{start:?}, position {position}");
        assert_survives(image.to_vec(), start.flags, &allowed, &context);
        pending += i32::from(!remains.readers_agree(image, &allowed, &context));
        spoiled += i32::from(!remains.stays_sound_for_c(&allowed, &context));
        looks += 1;
    });
    assert!(looks > 100, "{looks}");
    assert!(pending > 50, "{pending} of {looks}");
    assert!(spoiled < looks / 8, "{spoiled} of {looks}");
}

#[test]
fn every_prefix_is_before_or_after_a_commit_for_us_and_for_debian() {
    assert_survives_every_prefix(NEW);
}

#[test]
fn every_prefix_is_before_or_after_a_commit_where_the_area_grows() {
    assert_survives_every_prefix(AREA_AT_END);
}

#[test]
fn every_prefix_is_before_or_after_a_commit_where_the_area_moves() {
    assert_survives_every_prefix(AREA_IN_MIDDLE);
}

#[test]
fn every_prefix_is_before_or_after_a_commit_where_the_area_lies_across_sectors() {
    assert_survives_every_prefix(AREA_ACROSS_SECTORS);
}

/// What the tests above are about does happen in the runs.
#[test]
fn the_recovery_area_is_made_used_again_made_larger_and_moved() {
    let [mut made, mut used_again, mut larger, mut moved] = [0; 4];
    for start in STARTS {
        for pair in Run::new(start).areas(start.flags).windows(2) {
            let ((old_start, old_capacity), (new_start, new_capacity)) = (pair[0], pair[1]);
            match () {
                () if old_start == 0 => made += 1,
                () if pair[0] == pair[1] => used_again += 1,
                () if old_start == new_start && old_capacity < new_capacity => larger += 1,
                () if old_start != new_start => moved += 1,
                () => panic!("{pair:?}"),
            }
        }
    }
    assert!(made >= 1 && used_again >= 5, "{made} {used_again}");
    assert!(larger >= 1 && moved >= 1, "{larger} {moved}");
}

/// Of the writes since the last sync any may have reached the disk, and of a long one any of its
/// sectors.
#[test]
fn any_choice_of_unsynced_writes_is_before_or_after_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    for start in STARTS {
        let remains = Remains::new(dir.path(), start.flags);
        let run = Run::new(start);
        let mut random = fastrand::Rng::with_seed(1);
        run.each_choice(3, &mut random, |position, choice, image| {
            let allowed = run.allowed(position);
            let context = format!("{start:?}, position {position}, choice {choice}");
            if choice == 0 {
                remains.readers_agree(&image, &allowed, &context);
                remains.stays_sound_for_c(&allowed, &context);
            }
            assert_survives(image, start.flags, &allowed, &context);
        });
    }
}

/// The power fails again while the database is rolled back: at every write of that, and with any
/// choice of those that were not synced.
#[test]
fn a_rollback_that_is_cut_short_is_done_again() {
    for start in STARTS {
        let run = Run::new(start);
        let mut random = fastrand::Rng::with_seed(2);
        let mut rollbacks = 0;
        run.each_prefix(|position, image| {
            // The same is written back at each position of a commit, over more or less.
            let is_turn = position.is_multiple_of(8) || run.commits_at(position + 3);
            if !is_turn || !is_pending(image, start.flags) {
                return;
            }
            rollbacks += 1;
            let [before, _] = run.allowed(position);
            let allowed = [before.clone(), before];
            let rollback = Run::of_rollback(image, start.flags);
            let context = format!("{start:?}, position {position}, rollback");
            rollback.each_prefix(|step, image| {
                let context = format!("{context} {step}");
                assert_survives(image.to_vec(), start.flags, &allowed, &context);
            });
            rollback.each_choice(1, &mut random, |step, choice, image| {
                let context = format!("{context} {step}, choice {choice}");
                assert_survives(image, start.flags, &allowed, &context);
            });
        });
        assert!(rollbacks > 12, "{rollbacks}");
    }
}

/// The C library too finishes our rollback. For the last moment of each commit, where the most is
/// to be written back.
#[test]
fn the_c_library_finishes_a_rollback_that_is_cut_short() {
    let dir = tempfile::tempdir().unwrap();
    for start in STARTS {
        let remains = Remains::new(dir.path(), start.flags);
        let run = Run::new(start);
        let mut rollbacks = 0;
        run.each_prefix(|position, image| {
            if !run.commits_at(position + 3) || !is_pending(image, start.flags) {
                return;
            }
            rollbacks += 1;
            let [before, _] = run.allowed(position);
            let allowed = [before.clone(), before];
            Run::of_rollback(image, start.flags).each_prefix(|step, image| {
                let context = format!("{start:?}, position {position}, rollback {step}");
                remains.readers_agree(image, &allowed, &context);
                remains.stays_sound_for_c(&allowed, &context);
            });
        });
        assert!(rollbacks > 5, "{rollbacks}");
    }
}

/// Where a crash must do no harm, free space is measured without a write, with the same result.
#[test]
fn measuring_free_space_leaves_a_file_alone_that_must_survive() {
    for (flags, writes) in [(Flags::empty(), false), (Flags::NOSYNC, true)] {
        let (disk, diary) = Disk::new(golden_file("free_adjacent"));
        let options = OpenOptions::new().flags(flags);
        let db = options.open_backend(Box::new(disk)).unwrap();
        assert_eq!(db.freelist_size().unwrap(), 2, "{flags:?}");
        assert_eq!(!diary.lock().unwrap().is_empty(), writes, "{flags:?}");
        db.check().unwrap();
    }
}
