//! A walk through everything in memory, without files and other programs: what miri can run.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use tdb::{Db, Flags, OpenOptions, StoreMode};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Few steps where each takes a thousand times longer.
const STEPS: u32 = if cfg!(miri) { 60 } else { 1000 };

fn records_of(db: &Db) -> Records {
    let mut records = Records::new();
    db.traverse_read(&mut |key, data| {
        records.insert(key.to_vec(), data.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    records
}

fn rescued(db: &Db) -> Records {
    let mut records = Records::new();
    db.rescue(&mut |key, data| {
        records.insert(key.to_vec(), data.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    records
}

/// Stores, appends or deletes, in the database and in the model.
fn change(db: &Db, model: &mut Records, random: &mut fastrand::Rng) {
    let key = vec![random.u8(0..20); random.usize(1..5)];
    let data = vec![random.u8(..); random.usize(0..300)];
    match random.u8(0..4) {
        0 => {
            let existed = model.remove(&key).is_some();
            assert_eq!(db.delete(&key).unwrap(), existed);
        }
        1 => {
            db.append(&key, &data).unwrap();
            model.entry(key).or_default().extend(data);
        }
        _ => {
            db.store(&key, &data, StoreMode::Replace).unwrap();
            assert_eq!(db.fetch(&key).unwrap().as_ref(), Some(&data));
            model.insert(key, data);
        }
    }
}

#[test]
fn a_database_in_memory_does_what_a_map_does() {
    for (flags, max_dead) in [(Flags::empty(), 0), (Flags::CONVERT | Flags::SEQNUM, 5)] {
        let options = OpenOptions::new().flags(flags).hash_size(3);
        let db = options.max_dead(max_dead).open_memory(Vec::new()).unwrap();
        let (mut model, mut random) = (Records::new(), fastrand::Rng::with_seed(3));
        for step in 0..STEPS {
            match step % 20 {
                5 => db.transaction_start().unwrap(),
                15 => db.transaction_commit().unwrap(),
                _ => change(&db, &mut model, &mut random),
            }
            if step % 20 == 19 {
                assert_eq!(db.check().unwrap().records, model.len() as u64);
                assert!(records_of(&db) == model, "step {step}");
            }
        }
        // It may show leftovers of deleted records too.
        let mut rescued = rescued(&db);
        rescued.retain(|key, _| model.contains_key(key));
        assert!(rescued == model);
        db.repack().unwrap();
        assert!(db.freelist_size().unwrap() <= 3);
        assert!(records_of(&db) == model);
        assert_eq!(db.summary().unwrap().keys.count, model.len() as u64);
        db.wipe_all().unwrap();
        assert_eq!(db.count_records().unwrap(), 0);
    }
}
