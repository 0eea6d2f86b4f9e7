//! Looking at files, sound and broken ones, gives what the C library's functions give.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod common;

use std::ops::ControlFlow;

use common::{golden_file, golden_json, golden_names, records_of, tdbtool, unhex};
use serde_json::Value;
use tdb::{Db, OpenOptions, StoreMode};

/// The golden files that open for reading, with what the C library says about each.
fn readable_files() -> Vec<(String, Db, Value)> {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: String| {
        let path = dir.path().join(&name);
        let said = golden_json(&name)["open_readonly_nolock"].take();
        std::fs::write(&path, golden_file(&name)).unwrap();
        let db = OpenOptions::new().read_only(true).open(&path);
        (said["open"] == true).then(|| (name, db.unwrap(), said))
    };
    let files: Vec<_> = golden_names().into_iter().filter_map(open).collect();
    assert!(files.len() > 70, "{}", files.len());
    files
}

#[test]
fn summaries_are_those_of_the_c_library() {
    let mut refused = 0;
    for (name, db, said) in readable_files() {
        match (db.summary(), said["summary"].as_str()) {
            (Ok(summary), Some(expected)) => assert_eq!(summary.to_string(), expected, "{name}"),
            (Err(_), None) => refused += 1,
            (summary, expected) => panic!("{name}: {summary:?} {expected:?}"),
        }
    }
    assert!(refused >= 4, "{refused}");
}

#[test]
fn a_summary_of_a_live_database_is_what_tdbtool_prints() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("live.tdb");
    let db = OpenOptions::new().create(true).open(&path).unwrap();
    for n in 0..300_usize {
        let key = format!("key {n}").into_bytes();
        db.store(&key, &vec![1; n], StoreMode::Insert).unwrap();
        if n % 3 == 0 {
            assert!(db.delete(&key).unwrap());
        }
    }
    let said = tdbtool(&path, "info\n");
    let summary = db.summary().unwrap();
    assert!(said.contains(&summary.to_string()), "{said}\n{summary}");
}

type Shown = Vec<(Vec<u8>, Vec<u8>)>;

fn rescued(db: &Db) -> Shown {
    let mut shown = Vec::new();
    let count = db.rescue(&mut |key, data| {
        shown.push((key.to_vec(), data.to_vec()));
        ControlFlow::Continue(())
    });
    assert_eq!(count.unwrap(), shown.len() as u64);
    shown
}

#[test]
fn what_can_be_rescued_is_what_the_c_library_rescues() {
    let mut listed = 0;
    for (name, db, said) in readable_files() {
        let expected: Shown = if let Some(list) = said["rescue"].as_array() {
            listed += 1;
            let bytes = |value: &Value| unhex(value.as_str().unwrap());
            let pairs = list.iter().map(|pair| (bytes(&pair[0]), bytes(&pair[1])));
            pairs.collect()
        } else {
            let mut records: Shown = records_of(&db).into_iter().collect();
            records.sort_by_key(|(key, _)| (key.len(), key.clone()));
            records
        };
        assert_eq!(rescued(&db), expected, "{name}");
    }
    assert!(listed > 20, "{listed}");
}

#[test]
fn a_rescue_can_be_stopped() {
    let db = OpenOptions::new().open_memory(golden_file("few_old"));
    let mut shown = 0;
    let count = db.unwrap().rescue(&mut |_, _| {
        shown += 1;
        ControlFlow::Break(())
    });
    assert_eq!((count.unwrap(), shown), (1, 1));
}
