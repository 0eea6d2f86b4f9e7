//! Files written by the C library: read as it reads them, recovered as it recovers them, and
//! written again byte by byte.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{
    assert_sound_for_c, dump_of, golden_dir, golden_file, golden_json, golden_names, records_of,
    tdbtool, unhex,
};
use serde_json::Value;
use tdb::{Db, Flags, HashKind, OpenOptions, StoreMode, hash_jenkins, hash_old};

/// Fails unless the database has exactly the records of a JSON description: key in hex, and data in
/// hex or, if it is long, `length N sha256 ...`.
fn assert_records(db: &Db, expected: &Value, context: &str) {
    let found = records_of(db);
    let expected: BTreeMap<Vec<u8>, &str> = expected
        .as_object()
        .unwrap_or_else(|| panic!("{context}: no records"))
        .iter()
        .map(|(key, data)| (unhex(key), data.as_str().unwrap()))
        .collect();
    assert!(
        found.keys().eq(expected.keys()),
        "{context}: {:?}",
        found.keys()
    );
    for (key, data) in expected {
        match data
            .strip_prefix("length ")
            .map(|rest| rest.split(' ').next().unwrap())
        {
            Some(len) => assert_eq!(found[&key].len().to_string(), len, "{context}: {key:02x?}"),
            None => assert_eq!(found[&key], unhex(data), "{context}: {key:02x?}"),
        }
    }
}

fn errno_name(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::EIO) => "EIO",
        Some(libc::EINVAL) => "EINVAL",
        Some(libc::ENOSYS) => "ENOSYS",
        None => "0",
        _ => "another errno",
    }
}

fn flags_of(json: &Value) -> Flags {
    let text = json.as_str().unwrap().trim_start_matches("0x");
    Flags::from_bits(u32::from_str_radix(text, 16).unwrap()).unwrap()
}

#[test]
fn hashes_are_those_of_the_c_library() {
    let vectors = std::fs::read_to_string(golden_dir().join("hash_vectors.json")).unwrap();
    let vectors: Value = serde_json::from_str(&vectors).unwrap();
    for vector in vectors.as_array().unwrap() {
        let key = unhex(vector["key"].as_str().unwrap());
        assert_eq!(vector["old"], format!("{:#010x}", hash_old(&key)));
        assert_eq!(vector["jenkins"], format!("{:#010x}", hash_jenkins(&key)));
    }
}

#[test]
fn files_are_opened_read_and_judged_as_by_the_c_library() {
    let dir = tempfile::tempdir().unwrap();
    for name in golden_names() {
        let json = golden_json(&name);
        let path = dir.path().join(&name);
        std::fs::write(&path, golden_file(&name)).unwrap();
        let expected = &json["open_readonly_nolock"];
        let db = OpenOptions::new().read_only(true).open(&path);
        let db = match (db, expected["open"].as_bool().unwrap()) {
            (Ok(db), true) => db,
            (Err(error), false) => {
                assert_eq!(
                    expected["errno"],
                    errno_name(error.errno()),
                    "{name}: {error}"
                );
                continue;
            }
            (Ok(_), false) => panic!("{name} opens"),
            (Err(error), true) => panic!("{name}: {error}"),
        };
        let hash = if db.hash_kind() == HashKind::Old {
            "old"
        } else {
            "jenkins"
        };
        if json["hash_function"].is_string() {
            assert_eq!(json["hash_function"], hash, "{name}");
        }
        if expected["traverse"] == "same as records" && json["records"].is_object() {
            assert_records(&db, &json["records"], &name);
        }
        let check = db.check();
        let passes = json["tdb_check"]["result"] == 0;
        assert_eq!(check.is_ok(), passes, "{name}: {check:?}");
        if let Ok(report) = check {
            assert_eq!(
                json["tdb_check"]["live_records_seen"], report.records,
                "{name}"
            );
        }
    }
}

/// After our rollback both implementations find the file sound, and still do after a transaction
/// of the C library, which is more than its own rollback achieves.
#[test]
fn unfinished_transactions_are_rolled_back_on_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut rolled_back = 0;
    for name in golden_names() {
        let json = golden_json(&name);
        let expected = &json["open_readwrite"];
        if expected.is_null() {
            continue;
        }
        let path = dir.path().join(&name);
        std::fs::write(&path, golden_file(&name)).unwrap();
        let flags = flags_of(&expected["tdb_flags"]);
        let db = OpenOptions::new().flags(flags).open(&path);
        if expected["open"] == false {
            let error = db.err().expect("must not open");
            assert_eq!(
                expected["errno"],
                errno_name(error.errno()),
                "{name}: {error}"
            );
            continue;
        }
        let db = db.unwrap_or_else(|error| panic!("{name}: {error}"));
        if !name.starts_with("bad_") {
            // Where the C library changes nothing, they are those from before.
            let after = &expected["after"]["records"];
            let records = if after.is_object() {
                after
            } else {
                &json["records"]
            };
            assert_records(&db, records, &name);
            db.check().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        drop(db);
        if name.starts_with("recover") && !flags.contains(Flags::MUTEX_LOCKING) {
            assert_stays_sound(&path, &name);
            rolled_back += 1;
        }
    }
    assert!(
        rolled_back >= 9,
        "only {rolled_back} files needed a rollback"
    );
}

/// A process that dies in a commit does not make others wait until the next open.
#[test]
fn a_handle_that_is_open_rolls_back_the_commit_of_a_dead_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shared.tdb");
    std::fs::write(&path, golden_file("recover_done")).unwrap();
    let db = OpenOptions::new().open(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for name in ["recover_after_magic", "recover_all_written"] {
        // What the other process leaves, in the same file.
        file.write_all_at(&golden_file(name), 0).unwrap();
        db.fetch(b"any key").unwrap();
        db.check().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_records(&db, &golden_json("recover_after_magic")["records"], name);
    }
}

fn assert_stays_sound(path: &Path, name: &str) {
    assert_sound_for_c(path, name);
    tdbtool(
        path,
        "transaction_start\ninsert fresh value\ntransaction_commit\n",
    );
    assert_sound_for_c(
        path,
        &format!("{name}, after a transaction of the C library"),
    );
    let db = OpenOptions::new().open(path).unwrap();
    assert_eq!(
        db.fetch(b"fresh").unwrap().as_deref(),
        Some(&b"value"[..]),
        "{name}"
    );
    db.transaction_start().unwrap();
    db.store(b"ours", &[7; 9000], StoreMode::Insert).unwrap();
    db.transaction_commit().unwrap();
    db.check()
        .unwrap_or_else(|error| panic!("{name}, after our transaction: {error}"));
    drop(db);
    assert_sound_for_c(path, &format!("{name}, after our transaction"));
}

/// The operations that made a file, or `None` if they cannot be repeated by these tests.
fn operations(name: &str, json: &Value) -> Option<Vec<String>> {
    let listed_in_file = std::fs::read_to_string(golden_dir().join(format!("{name}.tdb.ops")));
    let listed: Vec<String> = if let Ok(text) = listed_in_file {
        text.lines().map(str::to_owned).collect()
    } else {
        let ops = json.get("ops")?.as_array()?.iter();
        ops.map(|op| op.as_str().unwrap().to_owned()).collect()
    };
    let known = [
        "open", "store", "delete", "append", "close", "wipe_all", "repack",
    ];
    let transactions = [
        "transaction_start",
        "transaction_commit",
        "transaction_cancel",
        "transaction_prepare_commit",
    ];
    let repeatable = |op: &String| {
        let word = op.split(' ').next().unwrap();
        !op.contains('(') && (known.contains(&word) || transactions.contains(&word))
    };
    listed.iter().all(repeatable).then_some(listed)
}

/// Repeats operations on a new file.
fn replay(path: &Path, operations: &[String]) {
    let bytes = |text: &str| if text == "-" { Vec::new() } else { unhex(text) };
    let mut db: Option<Db> = None;
    for op in operations {
        let words: Vec<&str> = op.split(' ').collect();
        if let ["open", hash_size, flags, ..] = words[..] {
            let hash_size = hash_size
                .strip_prefix("hash_size=")
                .unwrap()
                .parse()
                .unwrap();
            let flags = flags.strip_prefix("tdb_flags=").unwrap().into();
            let options = OpenOptions::new()
                .hash_size(hash_size)
                .flags(flags_of(&flags));
            db = Some(options.create(true).open(path).unwrap());
            continue;
        }
        let db = db.as_ref().unwrap();
        match words[..] {
            ["store", mode, key, data] => {
                let mode = if mode == "insert" {
                    StoreMode::Insert
                } else {
                    StoreMode::Replace
                };
                db.store(&bytes(key), &bytes(data), mode).unwrap();
            }
            ["delete", key] => assert!(db.delete(&bytes(key)).unwrap()),
            ["append", key, data] => db.append(&bytes(key), &bytes(data)).unwrap(),
            ["transaction_start"] => db.transaction_start().unwrap(),
            ["transaction_commit"] => db.transaction_commit().unwrap(),
            ["transaction_cancel"] => db.transaction_cancel().unwrap(),
            ["transaction_prepare_commit"] => db.transaction_prepare().unwrap(),
            ["wipe_all"] => db.wipe_all().unwrap(),
            ["repack"] => db.repack().unwrap(),
            ["close"] => {}
            _ => panic!("unknown operation {op}"),
        }
    }
}

/// Transactions leave another log in the recovery area, and a repack another order of the records:
/// such files have the same records only.
#[test]
fn the_same_operations_make_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut identical, mut alike) = (Vec::new(), Vec::new());
    for name in golden_names() {
        let json = golden_json(&name);
        let Some(operations) = operations(&name, &json) else {
            continue;
        };
        let path = dir.path().join(&name);
        replay(&path, &operations);
        let (found, expected) = (std::fs::read(&path).unwrap(), golden_file(&name));
        if found == expected {
            identical.push(name);
            continue;
        }
        let original = dir.path().join("original");
        std::fs::write(&original, expected).unwrap();
        assert_eq!(dump_of(&path), dump_of(&original), "{name}");
        if !operations[0].contains("0x10") {
            assert_sound_for_c(&path, &name);
        }
        alike.push(name);
    }
    assert!(
        identical.len() >= 23,
        "only {identical:?} are identical, not {alike:?}"
    );
    assert!(
        alike.iter().all(|name| ["trans", "recovery", "repack"]
            .iter()
            .any(|word| name.contains(word))),
        "{alike:?}"
    );
}
