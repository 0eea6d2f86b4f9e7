//! Files of ours through Debian's tools and back, and files of the C library through ours: the
//! records stay what they are.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{assert_sound_for_c, dump_of, golden_file, golden_names, records_of, tdbtool};
use tdb::{Db, Flags, OpenOptions, StoreMode};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Records of all kinds: every byte value, empty ones, long ones, keys with a NUL.
fn fill(db: &Db) -> Records {
    let all_bytes: Vec<u8> = (0..=255).collect();
    let long: Vec<u8> = all_bytes.iter().copied().cycle().take(70_000).collect();
    let mut records: Records = [
        (b"key\0".to_vec(), all_bytes.clone()),
        (all_bytes, b"a \"quoted\" one\\".to_vec()),
        (Vec::new(), b"empty key".to_vec()),
        (b"empty data".to_vec(), Vec::new()),
        (b"long".to_vec(), long),
    ]
    .into();
    for n in 0..200_u8 {
        records.insert(vec![n; 1 + usize::from(n) % 7], vec![n; usize::from(n) * 9]);
    }
    for (key, data) in &records {
        db.store(key, data, StoreMode::Insert).unwrap();
    }
    // Not only what was stored at once: holes, dead records and a recovery area too.
    db.set_max_dead(5);
    for n in (0..200_u8).step_by(3) {
        let key = vec![n; 1 + usize::from(n) % 7];
        assert!(db.delete(&key).unwrap());
        records.remove(&key);
    }
    db.transaction_start().unwrap();
    db.append(b"long", b" and longer").unwrap();
    db.transaction_commit().unwrap();
    records
        .get_mut(&b"long"[..])
        .unwrap()
        .extend(b" and longer");
    records
}

/// What must be true of any copy.
fn assert_same(path: &Path, records: &Records, context: &str) {
    let db = OpenOptions::new().open(path).unwrap();
    assert_eq!(records_of(&db), *records, "{context}");
    assert_eq!(
        db.check().unwrap().records,
        records.len() as u64,
        "{context}"
    );
    drop(db);
    assert_eq!(dump_of(path), *records, "{context}, by tdbdump");
    assert_sound_for_c(path, context);
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// `tdbbackup` leaves a copy beside the file.
fn backup(path: &Path) -> PathBuf {
    let output = Command::new("tdbbackup").arg(path).output();
    let output = output.expect("this test needs tdbbackup: install the package tdb-tools");
    assert!(output.status.success(), "{output:?}");
    beside(path, ".bak")
}

/// `tdbdump | tdbrestore`.
fn restored(path: &Path) -> PathBuf {
    let (dump, target) = (beside(path, ".dump"), beside(path, ".restored"));
    let tool = |name: &str| {
        let mut tool = Command::new(name);
        tool.stdin(Stdio::null());
        tool
    };
    let status = tool("tdbdump")
        .arg(path)
        .stdout(File::create(&dump).unwrap())
        .status();
    assert!(status.expect("install the package tdb-tools").success());
    let status = tool("tdbrestore")
        .arg(&target)
        .stdin(File::open(&dump).unwrap())
        .status();
    assert!(status.expect("install the package tdb-tools").success());
    target
}

/// Both ways, and then on with our library and both ways again.
fn assert_survives_the_tools(path: &Path, records: &Records, context: &str) {
    assert_same(path, records, context);
    for copy in [backup(path), restored(path)] {
        let context = format!("{context}, {}", copy.display());
        assert_same(&copy, records, &context);
        let db = OpenOptions::new().open(&copy).unwrap();
        let mut records = records.clone();
        db.store(b"more", b"of ours", StoreMode::Insert).unwrap();
        records.insert(b"more".to_vec(), b"of ours".to_vec());
        drop(db);
        for again in [backup(&copy), restored(&copy)] {
            assert_same(&again, &records, &format!("{context}, again"));
        }
    }
}

#[test]
fn what_we_write_survives_debians_tools() {
    for flags in [
        Flags::empty(),
        Flags::NOMMAP | Flags::INCOMPATIBLE_HASH,
        Flags::CONVERT | Flags::SEQNUM,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ours.tdb");
        let options = OpenOptions::new().flags(flags).hash_size(31);
        let db = options.create(true).open(&path).unwrap();
        let records = fill(&db);
        assert!(db.check().unwrap().dead > 0);
        drop(db);
        assert_survives_the_tools(&path, &records, &format!("{flags:?}"));
    }
}

/// Neither `tdbbackup` nor `tdbtool` opens a file with mutexes; `tdbdump` does.
#[test]
fn what_we_write_with_mutexes_survives_a_dump() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mutexes.tdb");
    let flags = Flags::MUTEX_LOCKING | Flags::CLEAR_IF_FIRST;
    let options = OpenOptions::new().flags(flags).create(true);
    let records = fill(&options.open(&path).unwrap());
    assert_survives_the_tools(&restored(&path), &records, "with mutexes");
}

#[test]
fn what_the_c_library_writes_survives_debians_tools_and_us() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("theirs.tdb");
    let mut commands = vec![format!("create {}", path.display())];
    let mut records = Records::new();
    for n in 0..300_usize {
        let data = "value".repeat(n % 50);
        commands.push(format!("insert key{n} {data}x"));
        records.insert(format!("key{n}").into(), format!("{data}x").into());
        if n % 4 == 3 {
            commands.push(format!("delete key{}", n - 2));
            records.remove(format!("key{}", n - 2).as_bytes());
        }
    }
    commands.push("transaction_start\ninsert last one\ntransaction_commit\n".into());
    records.insert(b"last".to_vec(), b"one".to_vec());
    tdbtool(Path::new(""), &commands.join("\n"));
    assert_survives_the_tools(&path, &records, "written by tdbtool");
}

/// The sound ones of the golden files, which the C library wrote.
#[test]
fn golden_files_survive_debians_tools_and_us() {
    let dir = tempfile::tempdir().unwrap();
    let mut survived = 0;
    for name in golden_names() {
        let path = dir.path().join(format!("{name}.tdb"));
        std::fs::write(&path, golden_file(&name)).unwrap();
        // With mutexes, unsound, waiting for a rollback, or with two records of one key.
        let Ok(db) = OpenOptions::new().open(&path) else {
            continue;
        };
        let Ok(report) = db.check() else {
            continue;
        };
        let records = records_of(&db);
        drop(db);
        if report.records == records.len() as u64 {
            assert_survives_the_tools(&path, &records, &name);
            survived += 1;
        }
    }
    assert!(survived > 30, "{survived}");
}
