//! Vacuuming, one node at a time: every row of data-plane.md 8.2 to 8.4.

use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{
    Body, CallId, ClientId, DbFlags, DbId, DbVacuum, KeyData, RecBuffer, RecMode, RecordFlags,
    RecordHeader, ReplyControl, ReqDmaster, ReqId, Rsn, Wire,
};

use super::fixture::{DB, Fixture, GENERATION, call, from, header, pnn};
use crate::database::Freeze;
use crate::effect::{DbAnswer, Effect};
use crate::outstanding::Asker;
use crate::waiting::Caller;

const NONE: RecordFlags = RecordFlags::empty();
const WITH_DATA: RecordFlags = RecordFlags::MIGRATED_WITH_DATA;
const FIRST: u32 = 0x7fff_ff38;
/// The answer to the run itself, which node 1 asks for.
const RUN_OK: &str = "1 REPLY_CONTROL 0 #77";
const RUN_FAILED: &str = "1 REPLY_CONTROL -1 #77";

fn caller() -> Caller {
    Caller {
        node: pnn(1),
        reqid: ReqId(77),
        client: ClientId::NONE,
        wants_reply: true,
        generation: GENERATION,
    }
}

fn vacuum(node: &mut Fixture) -> Vec<String> {
    let request = DbVacuum {
        db_id: DB,
        full: false,
    };
    node.migrator
        .vacuum_now(caller(), request, &mut node.cluster, node.now);
    go_on(node)
}

/// Lets the pauses pass until the run waits for something else, or is over.
fn go_on(node: &mut Fixture) -> Vec<String> {
    let mut said = node.run();
    for _ in 0..20 {
        node.now += Duration::from_millis(1);
        node.migrator.handle_timeout(&mut node.cluster, node.now);
        said.extend(node.run());
    }
    said
}

fn schedule(node: &mut Fixture, key: &Bytes, queued: RecordHeader) -> i32 {
    let record = KeyData {
        db_id: DB,
        header: queued,
        key: key.clone(),
    };
    node.migrator
        .schedule_for_deletion(&record, &mut node.cluster)
}

/// Answers a control of the run.
fn answer(node: &mut Fixture, reqid: u32, reply: Option<ReplyControl>) -> Vec<String> {
    let Some(Asker::Records(ticket)) = node.cluster.answered(ReqId(reqid)) else {
        panic!("no control with reqid {reqid}")
    };
    node.migrator
        .control_answered(ticket, reply, &mut node.cluster, node.now);
    go_on(node)
}

fn batch(records: &[(&Bytes, RecordHeader)]) -> RecBuffer {
    let mut batch = RecBuffer::builder(DB);
    for (key, header) in records {
        batch.push_record(ReqId(DB.get()), key, header, b"");
    }
    batch.finish()
}

// The delete queue (8.3 step 2).

#[test]
fn an_own_empty_record_that_never_left_with_data_is_deleted_at_once() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.put(&key, header(7, 0, NONE), b"");
    assert_eq!(schedule(&mut node, &key, header(7, 0, NONE)), 0);
    let said = vacuum(&mut node);
    assert_eq!(said[0], RUN_OK);
    assert!(said[1].contains("Repack { min_free: 10000 }"), "{said:?}");
    assert_eq!(node.record(&key), "-");
    assert_eq!(node.database().statistics.vacuum_latency.num, 1);
}

#[test]
fn records_in_use_are_left_alone() {
    let queued = header(7, 0, NONE);
    let cases: [(RecordHeader, &[u8]); 5] = [
        (queued, b"data"),
        (header(8, 0, NONE), b""),
        (header(6, 0, NONE), b""),
        (header(7, 1, NONE), b""),
        (header(7, 0, RecordFlags::RO_HAVE_DELEGATIONS), b""),
    ];
    for (stored, data) in cases {
        for lmaster in [0, 1] {
            let mut node = Fixture::new(0);
            let key = node.key(lmaster);
            let data = if data.is_empty() { &b""[..] } else { b"data" };
            node.put(&key, stored, data);
            let before = node.record(&key);
            schedule(&mut node, &key, queued);
            assert_eq!(vacuum(&mut node), [RUN_OK]);
            assert_eq!(node.record(&key), before);
        }
    }
    let mut node = Fixture::new(0);
    let key = node.key(0);
    schedule(&mut node, &key, queued);
    assert_eq!(vacuum(&mut node), [RUN_OK], "a record that is gone");
}

#[test]
fn the_lmaster_of_an_empty_record_is_told_and_told_again_if_it_fails() {
    for flags in [NONE, WITH_DATA] {
        let mut node = Fixture::new(0);
        let key = node.key(1);
        node.put(&key, header(7, 0, flags), b"");
        schedule(&mut node, &key, header(7, 0, flags));
        assert_eq!(vacuum(&mut node), [format!("1 VACUUM_FETCH #{FIRST}")]);
        assert_eq!(answer(&mut node, FIRST, None), [RUN_OK]);
        let again = FIRST + 1;
        assert_eq!(vacuum(&mut node), [format!("1 VACUUM_FETCH #{again}")]);
        let done = Some(ReplyControl::status(0));
        assert_eq!(answer(&mut node, again, done), [RUN_OK]);
        assert_eq!(vacuum(&mut node), [RUN_OK], "nothing is left to do");
        assert_eq!(
            node.record(&key),
            "7@0 ".to_owned() + &format!("{:x} ", flags.bits())
        );
    }
}

// TRY_DELETE_RECORDS (8.3 step 4).

#[test]
fn a_record_that_left_with_data_is_deleted_after_all_other_nodes_have() {
    let mut node = Fixture::new(0);
    let (kept, gone) = (node.key(0), other_key(&node, 0));
    for key in [&kept, &gone] {
        node.put(key, header(7, 0, WITH_DATA), b"");
        schedule(&mut node, key, header(7, 0, WITH_DATA));
    }
    let (one, two) = (FIRST, FIRST + 1);
    let asked = [
        format!("1 TRY_DELETE_RECORDS #{one}"),
        format!("2 TRY_DELETE_RECORDS #{two}"),
    ];
    assert_eq!(vacuum(&mut node), asked);
    let none = ReplyControl::ok(RecBuffer::empty(DB).to_bytes());
    assert!(answer(&mut node, one, Some(none.clone())).is_empty());
    let refused = batch(&[(&kept, header(7, 0, WITH_DATA))]).to_bytes();
    let said = answer(&mut node, two, Some(ReplyControl::ok(refused)));
    assert_eq!(said[0], RUN_OK);
    assert_eq!(node.record(&gone), "-");
    assert_eq!(node.record(&kept), "7@0 10000 ", "one node still has it");

    // What was refused is tried again, and nothing is deleted if a node does not answer.
    let (one, two) = (FIRST + 2, FIRST + 3);
    assert_eq!(vacuum(&mut node).len(), 2);
    answer(&mut node, one, Some(none));
    assert_eq!(answer(&mut node, two, None), [RUN_OK]);
    assert_eq!(node.record(&kept), "7@0 10000 ");
    assert_eq!(vacuum(&mut node).len(), 2, "and tried again");
}

/// Another key with the lmaster of `Fixture::key`.
fn other_key(node: &Fixture, lmaster: u32) -> Bytes {
    let mut keys = (0..).map(|n| Bytes::from(format!("other{n}")));
    keys.find(|key| node.cluster.vnn_map.lmaster(key) == Some(pnn(lmaster)))
        .unwrap()
}

#[test]
fn a_record_that_is_used_meanwhile_is_not_deleted() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.put(&key, header(7, 0, WITH_DATA), b"");
    schedule(&mut node, &key, header(7, 0, WITH_DATA));
    assert_eq!(vacuum(&mut node).len(), 2);
    node.put(&key, header(7, 0, WITH_DATA), b"new");
    let none = ReplyControl::ok(RecBuffer::empty(DB).to_bytes());
    answer(&mut node, FIRST, Some(none.clone()));
    assert_eq!(answer(&mut node, FIRST + 1, Some(none)), [RUN_OK]);
    assert_eq!(node.record(&key), "7@0 10000 new");
}

/// The reply to `TRY_DELETE_RECORDS`: the keys that stay.
fn try_delete(node: &mut Fixture, records: &RecBuffer) -> Vec<Bytes> {
    node.migrator
        .try_delete_records(caller(), records, &mut node.cluster);
    for _ in 0..5 {
        while let Some(effect) = node.cluster.effects.pop_front() {
            match effect {
                Effect::Record(job) => node.carry_out(job),
                Effect::SendPeer { packet, .. } => {
                    let Body::ReplyControl(mut reply) = packet.body else {
                        panic!("{packet:?}")
                    };
                    assert_eq!(reply.status, 0);
                    let kept = RecBuffer::decode(&mut reply.data).unwrap();
                    return kept
                        .iter()
                        .map(|record| Bytes::copy_from_slice(record.key))
                        .collect();
                }
                other => panic!("{other:?}"),
            }
        }
        node.now += Duration::from_millis(1);
        node.migrator.handle_timeout(&mut node.cluster, node.now);
    }
    panic!("no answer")
}

#[test]
fn a_copy_is_deleted_for_its_lmaster_if_it_is_older_and_not_in_use() {
    let delegated = RecordFlags::RO_HAVE_DELEGATIONS;
    let copy = RecordFlags::RO_HAVE_READONLY;
    // (lmaster, the record here, as sent, whether it goes)
    let cases = [
        (1, header(7, 1, NONE), header(7, 1, NONE), true),
        (1, header(6, 2, WITH_DATA), header(7, 1, NONE), true),
        (1, header(8, 1, NONE), header(7, 1, NONE), false),
        (1, header(6, 0, NONE), header(7, 1, NONE), false),
        (1, header(6, 1, copy), header(7, 1, NONE), false),
        (1, header(6, 1, NONE), header(7, 1, delegated), false),
        (0, header(6, 1, NONE), header(7, 1, NONE), false),
    ];
    for (lmaster, here, sent, goes) in cases {
        for data in [&b""[..], b"stale"] {
            let mut node = Fixture::new(0);
            let key = node.key(lmaster);
            node.put(&key, here, data);
            let kept = try_delete(&mut node, &batch(&[(&key, sent)]));
            let context = format!("{lmaster} {here:?} {sent:?}");
            assert_eq!(node.records.contains_key(&key), !goes, "{context}");
            assert_eq!(kept, if goes { vec![] } else { vec![key] }, "{context}");
        }
    }
    let mut node = Fixture::new(0);
    let key = node.key(1);
    let absent = batch(&[(&key, header(7, 1, NONE))]);
    assert!(
        try_delete(&mut node, &absent).is_empty(),
        "absent is deleted"
    );
}

#[test]
fn a_copy_that_is_locked_stays() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    node.put(&key, header(6, 1, NONE), b"");
    let records = batch(&[(&key, header(7, 1, NONE))]);
    node.migrator
        .try_delete_records(caller(), &records, &mut node.cluster);
    let Some(Effect::Record(job)) = node.cluster.effects.pop_front() else {
        panic!("a job is asked for")
    };
    assert!(!job.waits());
    node.migrator
        .on_record_failed(job, "busy", &mut node.cluster, node.now);
    assert_eq!(go_on(&mut node), ["1 REPLY_CONTROL 0 #77"]);
    assert_eq!(node.record(&key), "6@1 0 ");
}

#[test]
fn a_batch_larger_than_one_turn_is_done_to_its_end() {
    let mut node = Fixture::new(0);
    let keys: Vec<Bytes> = (0..1000).map(|n| Bytes::from(format!("k{n}"))).collect();
    let mine = |key: &&Bytes| node.cluster.vnn_map.lmaster(key) == Some(pnn(0));
    let stay: Vec<Bytes> = keys.iter().filter(mine).cloned().collect();
    let records: Vec<_> = keys.iter().map(|key| (key, header(7, 1, NONE))).collect();
    for key in &keys {
        node.put(key, header(6, 1, NONE), b"x");
    }
    node.migrator
        .try_delete_records(caller(), &batch(&records), &mut node.cluster);
    assert_eq!(go_on(&mut node), ["1 REPLY_CONTROL 0 #77"]);
    assert_eq!(node.records.keys().len(), stay.len());
    assert!(stay.iter().all(|key| node.records.contains_key(key)));
}

#[test]
fn records_without_a_whole_header_fail_the_control() {
    let mut node = Fixture::new(0);
    let mut short = RecBuffer::builder(DB);
    short.push(ReqId(1), b"key", b"short");
    let short = short.finish();
    node.migrator
        .try_delete_records(caller(), &short, &mut node.cluster);
    assert_eq!(node.run(), ["1 REPLY_CONTROL -1 #77"]);
}

// The fetch queue (8.3 step 1).

fn vacuum_fetch(node: &mut Fixture, key: &Bytes) {
    let mut keys = RecBuffer::builder(DB);
    keys.push(ReqId(1), key, b"");
    let keys = keys.finish();
    assert_eq!(node.migrator.vacuum_fetch(&keys, &mut node.cluster), 0);
}

#[test]
fn an_empty_record_is_fetched_by_its_lmaster_and_deleted() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.put(&key, header(3, 1, NONE), b"");
    vacuum_fetch(&mut node, &key);
    let asked = format!("1 REQ_CALL 1 flags 3 hops 0 from 0 #{FIRST}");
    assert_eq!(vacuum(&mut node), [asked]);
    let request = ReqDmaster {
        db_id: DB,
        rsn: Rsn(5),
        dmaster: pnn(0),
        key: key.clone(),
        data: Bytes::new(),
        record_flags: Some(NONE),
    };
    let mut said = node.peer_says(from(1, FIRST, Body::ReqDmaster(request)));
    assert_eq!(
        node.record(&key),
        "-",
        "deleted by the very store that brings it home"
    );
    said.extend(go_on(&mut node));
    assert_eq!(said, [RUN_OK]);
}

#[test]
fn what_is_here_or_wanted_here_is_not_fetched() {
    let mut node = Fixture::new(0);
    let (mine, absent) = (node.key(0), Bytes::from_static(b"absent"));
    node.put(&mine, header(3, 0, NONE), b"");
    vacuum_fetch(&mut node, &mine);
    vacuum_fetch(&mut node, &absent);
    assert_eq!(vacuum(&mut node), [RUN_OK]);

    let mut node = Fixture::new(0);
    let wanted = node.key(0);
    node.put(&wanted, header(3, 1, NONE), b"");
    node.client_says(7, 3, call(&wanted, CallId::NULL));
    vacuum_fetch(&mut node, &wanted);
    assert_eq!(vacuum(&mut node), [RUN_OK]);
}

#[test]
fn a_fetch_that_never_ends_ends_with_the_run() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.put(&key, header(3, 1, NONE), b"");
    vacuum_fetch(&mut node, &key);
    assert_eq!(vacuum(&mut node).len(), 1);
    let due = node.migrator.poll_timeout().expect("the run is limited");
    node.now = due;
    node.migrator.handle_timeout(&mut node.cluster, due);
    assert_eq!(node.run(), [RUN_FAILED]);
    assert!(node.cluster.answered(ReqId(FIRST)).is_none());
}

// When runs begin and end (8.1).

#[test]
fn only_volatile_databases_are_vacuumed() {
    for flag in [DbFlags::PERSISTENT, DbFlags::REPLICATED] {
        let mut node = Fixture::new(0).with_flag(flag);
        let key = node.key(0);
        assert_eq!(schedule(&mut node, &key, header(1, 0, NONE)), -1);
        assert_eq!(vacuum(&mut node), [RUN_FAILED]);
        let records = batch(&[]);
        assert_eq!(node.migrator.vacuum_fetch(&records, &mut node.cluster), -1);
        node.migrator
            .try_delete_records(caller(), &records, &mut node.cluster);
        assert_eq!(node.run(), [RUN_FAILED]);
    }
    let mut node = Fixture::new(0);
    let unknown = RecBuffer::empty(DbId(0x99));
    assert_eq!(node.migrator.vacuum_fetch(&unknown, &mut node.cluster), -1);
}

#[test]
fn no_run_begins_in_a_recovery_a_freeze_or_another_run() {
    let mut node = Fixture::new(0);
    node.cluster.rec_mode = RecMode::Active;
    assert_eq!(vacuum(&mut node), [RUN_FAILED]);
    node.cluster.rec_mode = RecMode::Normal;
    node.database().freeze = Freeze::Frozen;
    assert_eq!(vacuum(&mut node), [RUN_FAILED]);
    node.database().freeze = Freeze::None;
    let key = node.key(1);
    node.put(&key, header(7, 0, NONE), b"");
    schedule(&mut node, &key, header(7, 0, NONE));
    assert_eq!(vacuum(&mut node).len(), 1);
    assert_eq!(vacuum(&mut node), [RUN_FAILED], "the first one goes on");
    let done = Some(ReplyControl::status(0));
    assert_eq!(answer(&mut node, FIRST, done), [RUN_OK]);
}

#[test]
fn a_freeze_ends_the_run_and_nothing_gets_lost() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    node.put(&key, header(7, 0, NONE), b"");
    schedule(&mut node, &key, header(7, 0, NONE));
    assert_eq!(vacuum(&mut node).len(), 1);
    node.database().freeze = Freeze::Frozen;
    node.migrator.freezing(DB);
    assert!(
        node.migrator
            .poll_timeout()
            .is_some_and(|at| at <= node.now)
    );
    assert_eq!(go_on(&mut node), [RUN_FAILED]);
    node.database().freeze = Freeze::None;
    node.migrator.thawed(DB, &mut node.cluster, node.now);
    assert_eq!(vacuum(&mut node).len(), 1, "the lmaster is told again");
}

#[test]
fn what_a_stopped_run_has_not_looked_at_is_left_for_the_next() {
    let mut node = Fixture::new(0);
    let keys = (0..1000).map(|n| Bytes::from(format!("k{n}")));
    let mine = |key: &Bytes| node.cluster.vnn_map.lmaster(key) == Some(pnn(0));
    let keys: Vec<Bytes> = keys.filter(mine).take(250).collect();
    for key in &keys {
        node.put(key, header(7, 0, NONE), b"");
        schedule(&mut node, key, header(7, 0, NONE));
    }
    let request = DbVacuum {
        db_id: DB,
        full: false,
    };
    let (cluster, now) = (&mut node.cluster, node.now);
    node.migrator.vacuum_now(caller(), request, cluster, now);
    assert!(node.run().is_empty(), "a pause after the first turn");
    assert_eq!(node.records.len(), 150);
    node.database().freeze = Freeze::Frozen;
    node.migrator.freezing(DB);
    assert_eq!(go_on(&mut node), [RUN_FAILED]);
    node.database().freeze = Freeze::None;
    assert_eq!(vacuum(&mut node)[0], RUN_OK);
    assert!(node.records.is_empty());
}

#[test]
fn runs_begin_by_themselves_and_every_sixtieth_or_so_is_full() {
    let mut node = Fixture::new(0);
    node.migrator.handle_timeout(&mut node.cluster, node.now);
    let began = node.now;
    let ticket = loop {
        let due = node
            .migrator
            .poll_timeout()
            .expect("there is always a next run");
        node.now = due;
        node.migrator.handle_timeout(&mut node.cluster, due);
        match node.cluster.effects.pop_front() {
            None => {}
            Some(Effect::Db { ticket, .. }) => break ticket,
            Some(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(node.now - began, Duration::from_secs(610));
    assert_eq!(node.database().statistics.vacuum_latency.num, 60);

    let key = node.key(0);
    node.put(&key, header(7, 0, NONE), b"");
    let listed = DbAnswer::Batch(batch(&[(&key, header(7, 0, NONE))]).to_bytes());
    for listed in [listed, DbAnswer::Done] {
        let (cluster, now) = (&mut node.cluster, node.now);
        assert!(node.migrator.db_answered(ticket, &Ok(listed), cluster, now));
    }
    go_on(&mut node);
    assert_eq!(node.record(&key), "-");
    let (cluster, now) = (&mut node.cluster, node.now);
    let late = Ok(DbAnswer::Done);
    assert!(!node.migrator.db_answered(ticket, &late, cluster, now));
}

#[test]
fn a_recovery_empties_the_queues() {
    let mut node = Fixture::new(0);
    let (key, other) = (node.key(0), node.key(1));
    node.put(&key, header(7, 0, NONE), b"");
    node.put(&other, header(7, 1, NONE), b"");
    schedule(&mut node, &key, header(7, 0, NONE));
    vacuum_fetch(&mut node, &other);
    node.migrator.database_wiped(DB);
    assert_eq!(vacuum(&mut node), [RUN_OK]);
    assert_eq!(node.record(&key), "7@0 0 ");
}
