use ctdb_proto::{Rsn, Wire, decode_exact};

use super::*;
use crate::recoverd::tests::pnn;

const DB: DbId = DbId(7);
const LEADER: u32 = 1;

fn header(rsn: u64, dmaster: u32) -> RecordHeader {
    RecordHeader::new(Rsn(rsn), pnn(dmaster), RecordFlags::empty())
}

fn batch(key: &str, header: &RecordHeader, data: &str) -> RecBuffer {
    let mut builder = RecBuffer::builder(DB);
    builder.push_record(ReqId(0), key.as_bytes(), header, data.as_bytes());
    builder.finish()
}

/// A copy of the record: the node that has it, its rsn, its dmaster.
type Held = (u32, u64, u32);

/// The node whose copy survives, when they come in this order.
fn survivor(copies: &[Held]) -> String {
    let mut collate = Collate::new(pnn(LEADER));
    for (node, rsn, dmaster) in copies {
        let batch = batch("key", &header(*rsn, *dmaster), &node.to_string());
        collate.add(pnn(*node), &batch).unwrap();
    }
    let copy = collate.records.into_values().next().unwrap();
    String::from_utf8(copy.data.into()).unwrap()
}

/// The rule as the original applies it: one copy after the other, in pnn order.
fn survivor_in_turn(copies: &[Held]) -> String {
    let mut kept = copies[0];
    for new in &copies[1..] {
        let keeps = new.1 < kept.1 || (new.1 == kept.1 && kept.2 != LEADER);
        if !keeps {
            kept = *new;
        }
    }
    kept.0.to_string()
}

#[test]
fn the_merge_rule() {
    let table: [(&[Held], &str); 7] = [
        (&[(0, 5, 0), (1, 7, 0), (2, 6, 0)], "1"),
        (&[(0, 7, 0), (1, 7, 2), (2, 7, 2)], "0"),
        (&[(0, 7, LEADER), (1, 7, 2), (2, 7, 0)], "1"),
        (&[(0, 7, LEADER), (1, 7, LEADER), (2, 7, 2)], "2"),
        (&[(0, 7, LEADER), (1, 7, LEADER), (2, 7, LEADER)], "2"),
        (&[(0, 7, 2), (1, 7, LEADER), (2, 7, LEADER)], "0"),
        (&[(0, 6, LEADER), (1, 7, LEADER), (2, 5, 2)], "1"),
    ];
    for (copies, expected) in table {
        assert_eq!(survivor(copies), expected, "{copies:?}");
        assert_eq!(survivor_in_turn(copies), expected, "{copies:?}");
    }
}

#[test]
fn the_order_in_which_copies_come_does_not_matter() {
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..2000 {
        let mut copies: Vec<_> = (0..4)
            .map(|node| (node, rng.u64(0..3), rng.u32(0..3)))
            .collect();
        let expected = survivor_in_turn(&copies);
        rng.shuffle(&mut copies);
        assert_eq!(survivor(&copies), expected, "{copies:?}");
    }
}

#[test]
fn volatile_records_become_the_leaders_and_persistent_ones_stay() {
    for (flags, dmaster, record_flags) in [
        (DbFlags::empty(), LEADER, RecordFlags::MIGRATED_WITH_DATA),
        (DbFlags::REPLICATED, LEADER, RecordFlags::MIGRATED_WITH_DATA),
        (DbFlags::PERSISTENT, 2, RecordFlags::empty()),
    ] {
        let mut collate = Collate::new(pnn(LEADER));
        collate
            .add(pnn(0), &batch("key", &header(7, 2), "data"))
            .unwrap();
        let batches = collate.into_batches(DB, flags, 1000);
        let sent: RecBuffer = decode_exact(batches.messages[0].clone()).unwrap();
        let record = sent.iter().next().unwrap();
        let (header, data) = record.split().unwrap();
        assert_eq!(
            header,
            RecordHeader::new(Rsn(7), pnn(dmaster), record_flags)
        );
        assert_eq!((record.key, data), (&b"key"[..], &b"data"[..]));
    }
}

#[test]
fn empty_records_are_left_out_and_an_empty_batch_is_sent_all_the_same() {
    let mut collate = Collate::new(pnn(LEADER));
    collate
        .add(pnn(0), &batch("key", &header(7, 2), ""))
        .unwrap();
    let batches = collate.into_batches(DB, DbFlags::empty(), 1000);
    assert_eq!(batches.records, 0);
    assert_eq!(batches.messages, [RecBuffer::empty(DB).to_bytes()]);
}

#[test]
fn an_empty_copy_with_a_higher_rsn_wins_and_hides_the_record() {
    let mut collate = Collate::new(pnn(LEADER));
    collate
        .add(pnn(0), &batch("key", &header(6, 0), "data"))
        .unwrap();
    collate
        .add(pnn(2), &batch("key", &header(7, 2), ""))
        .unwrap();
    assert_eq!(collate.into_batches(DB, DbFlags::empty(), 1000).records, 0);
}

#[test]
fn a_batch_is_closed_when_it_exceeds_the_limit() {
    let mut collate = Collate::new(pnn(LEADER));
    for key in ["a", "b", "c", "d", "e"] {
        collate
            .add(pnn(0), &batch(key, &header(1, 0), "0123456789"))
            .unwrap();
    }
    let one = 16 + 1 + RecordHeader::LEN + 10;
    let batches = collate.into_batches(DB, DbFlags::empty(), RecBuffer::MIN_LEN + one);
    let counts = batches
        .messages
        .iter()
        .map(|message| decode_exact::<RecBuffer>(message.clone()).unwrap().count());
    assert_eq!(counts.collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(batches.records, 5);
}

#[test]
fn a_record_without_a_header_is_refused() {
    let mut builder = RecBuffer::builder(DB);
    builder.push(ReqId(0), b"key", b"too short for a header");
    let mut collate = Collate::new(pnn(LEADER));
    assert!(collate.add(pnn(0), &builder.finish()).is_err());
}
