//! This crate and Debian's libtdb at the same work on equal files, in one process, one after the
//! other: `cargo bench -p tdb [-- FILTER]`. At the end a table tells who was faster.
//!
//! Needs the package libtdb-dev. Files have CTDB's usual number of hash chains, keys of 16 bytes
//! and data of 100, and are reached in random order. A file is made when its first case runs.

#![expect(clippy::cast_precision_loss, reason = "no count comes near 2^52")]

mod c;
mod contender;
mod table;

use std::cell::OnceCell;
use std::hint::black_box;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use tdb::Flags;

use contender::{Contender, Libtdb, Ours};
use table::Table;

/// `DatabaseHashSize` of CTDB.
const HASH_SIZE: u32 = 100_001;
const SIZES: [u32; 3] = [1_000, 100_000, 2_000_000];
const DATA: [u8; 100] = [b'd'; 100];

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut table = Table::default();
    let mutexes = Flags::MUTEX_LOCKING | Flags::INCOMPATIBLE_HASH | Flags::CLEAR_IF_FIRST;
    for records in SIZES {
        for (locks, flags) in [("fcntl", Flags::INCOMPATIBLE_HASH), ("mutex", mutexes)] {
            let setting = Setting { flags, records };
            measure(&mut criterion, &mut table, locks, &setting);
        }
    }
    criterion.final_summary();
    table.print();
}

/// How a file is made.
struct Setting {
    flags: Flags,
    records: u32,
}

/// A file of one contender, made when it is needed.
struct File<C> {
    db: OnceCell<C>,
    dir: tempfile::TempDir,
}

impl<C: Contender> File<C> {
    fn new() -> Self {
        // Next to the build: a real file system, unlike some /tmp.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        Self {
            db: OnceCell::new(),
            dir: dir.expect("the build's folder is writable"),
        }
    }

    fn get(&self, setting: &Setting) -> &C {
        self.db.get_or_init(|| {
            let path: &Path = &self.dir.path().join("bench.tdb");
            let db = C::create(path, setting.flags);
            for n in 0..setting.records {
                db.insert(&key(n), &DATA);
            }
            db
        })
    }
}

/// All cases on one pair of files.
fn measure(criterion: &mut Criterion, table: &mut Table, locks: &str, setting: &Setting) {
    let (ours, theirs) = (Rc::new(File::<Ours>::new()), Rc::new(File::<Libtdb>::new()));
    for case in Case::ALL {
        if case == Case::Commit && setting.flags.contains(Flags::MUTEX_LOCKING) {
            // Its time is that of the disk: once is enough.
            continue;
        }
        let name = format!("{}/{locks}/{}", case.name(), setting.records);
        let mut group = criterion.benchmark_group(&name);
        run(&mut group, table, &name, case, &ours, setting);
        run(&mut group, table, &name, case, &theirs, setting);
        group.finish();
    }
}

fn run<C: Contender>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    table: &mut Table,
    name: &str,
    case: Case,
    file: &File<C>,
    setting: &Setting,
) {
    // One row of numbers for all samples: a few keys again and again would stay in the caches.
    let mut random = Random(0x9E37_79B9);
    group.bench_function(C::NAME, |bencher| {
        bencher.iter_custom(|count| {
            let db = file.get(setting);
            let time = case.run(db, setting.records, count, &mut random);
            table.note(name, C::NAME, time, count);
            time
        });
    });
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Case {
    Fetch,
    Replace,
    Insert,
    Delete,
    Traverse,
    Lock,
    Commit,
}

impl Case {
    const ALL: [Self; 7] = [
        Self::Fetch,
        Self::Replace,
        Self::Insert,
        Self::Delete,
        Self::Traverse,
        Self::Lock,
        Self::Commit,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Replace => "store-replace",
            Self::Insert => "insert",
            Self::Delete => "delete",
            Self::Traverse => "traverse a record",
            Self::Lock => "chain lock and unlock",
            Self::Commit => "transaction with fsync",
        }
    }

    /// Does it `count` times, and leaves the records as they were.
    fn run(self, db: &impl Contender, records: u32, count: u64, random: &mut Random) -> Duration {
        let mut some = || key(random.below(records));
        match self {
            Self::Fetch => timed(count, |_| {
                assert_eq!(db.fetch(&some()), DATA.len());
            }),
            Self::Replace => timed(count, |_| db.replace(&some(), &fresh_data())),
            Self::Insert => {
                let time = timed(count, |n| db.insert(&new_key(n), &DATA));
                (0..count).for_each(|n| db.delete(&new_key(n)));
                time
            }
            Self::Delete => {
                (0..count).for_each(|n| db.insert(&new_key(n), &DATA));
                timed(count, |n| db.delete(&new_key(n)))
            }
            Self::Traverse => {
                let passes = count.div_ceil(records.into());
                let time = timed(passes, |_| assert_eq!(db.traverse(), u64::from(records)));
                // For as many records as were asked for.
                time.mul_f64(count as f64 / (passes * u64::from(records)) as f64)
            }
            Self::Lock => timed(count, |_| db.lock_and_unlock(&some())),
            Self::Commit => timed(count, |_| db.commit(&some(), &fresh_data())),
        }
    }
}

fn timed(count: u64, mut work: impl FnMut(u64)) -> Duration {
    let start = Instant::now();
    for n in 0..count {
        work(black_box(n));
    }
    start.elapsed()
}

/// Never the same twice: writing what is there already would be no work.
fn fresh_data() -> [u8; DATA.len()] {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut data = DATA;
    data[..8].copy_from_slice(&COUNTER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    data
}

fn key(n: u32) -> [u8; 16] {
    let mut key = *b"record 000000000";
    key[12..].copy_from_slice(&n.to_le_bytes());
    key
}

fn new_key(n: u64) -> [u8; 16] {
    let mut key = *b"new rec 00000000";
    key[8..].copy_from_slice(&n.to_le_bytes());
    key
}

/// xorshift: the same numbers for both.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 11) % u64::from(limit)).expect("below a u32")
    }
}
