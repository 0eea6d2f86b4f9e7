//! The message flows and rsn traces of data-plane.md 3.12, 4.4 and 8.3, packet by packet.

use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{CallId, DbFlags, RecordFlags};

use super::fixture::{call, copy_call, header};
use super::net::Net;

const NONE: RecordFlags = RecordFlags::empty();
const WITH_DATA: RecordFlags = RecordFlags::MIGRATED_WITH_DATA;

fn net() -> Net {
    Net::new(DbFlags::empty())
}

/// Lets a client of the node call, and returns what went over the links, as `kind from->to`.
fn fetch(net: &mut Net, me: u32, key: &Bytes) -> Vec<String> {
    ask(net, me, call(key, CallId::NULL))
}

fn ask(net: &mut Net, me: u32, call: ctdb_proto::ReqCall) -> Vec<String> {
    net.log.clear();
    let answered = net.to_clients.len();
    net.node(me).client_call(7, 3, call);
    net.run();
    assert_eq!(
        net.to_clients.len(),
        answered + 1,
        "the client is answered once"
    );
    let short = |line: &String| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    net.log.iter().map(short).collect()
}

#[test]
fn a_record_that_never_existed() {
    let mut net = net();
    let key = net.node(0).key(0);
    assert_eq!(
        fetch(&mut net, 1, &key),
        ["1->0 REQ_CALL", "0->1 REPLY_DMASTER"]
    );
    assert_eq!(net.record(&key), ["1@1 0 ", "3@1 0 ", "-"]);
    // D = 1 is not lmaster and the record is empty: its copy goes.
    let flow = [
        "2->0 REQ_CALL",
        "0->1 REQ_CALL",
        "1->0 REQ_DMASTER",
        "0->2 REPLY_DMASTER",
    ];
    assert_eq!(fetch(&mut net, 2, &key), flow);
    assert_eq!(net.record(&key), ["3@2 0 ", "-", "5@2 0 "]);
}

#[test]
fn with_data_the_old_dmaster_keeps_a_stale_copy() {
    let mut net = net();
    let key = net.node(0).key(0);
    fetch(&mut net, 1, &key);
    net.node(1).put(&key, header(3, 1, NONE), b"data");
    fetch(&mut net, 2, &key);
    assert_eq!(
        net.record(&key),
        ["3@2 10000 data", "3@2 10000 data", "5@2 10000 data"]
    );
}

#[test]
fn the_requester_is_dmaster() {
    let mut net = net();
    let key = net.node(0).key(0);
    net.node(1).put(&key, header(5, 1, NONE), b"data");
    assert!(fetch(&mut net, 1, &key).is_empty());
    assert_eq!(net.node(1).record(&key), "6@1 0 data");
}

#[test]
fn the_requester_knows_the_dmaster() {
    let mut net = net();
    let key = net.node(0).key(0);
    for (me, rsn) in [(0, 4), (1, 5), (2, 4)] {
        net.node(me).put(&key, header(rsn, 1, WITH_DATA), b"data");
    }
    let flow = ["2->1 REQ_CALL", "1->0 REQ_DMASTER", "0->2 REPLY_DMASTER"];
    assert_eq!(fetch(&mut net, 2, &key), flow);
    assert_eq!(
        net.record(&key),
        ["5@2 10000 data", "5@2 10000 data", "7@2 10000 data"]
    );
}

#[test]
fn the_requester_is_lmaster() {
    let mut net = net();
    let key = net.node(0).key(0);
    net.node(0).put(&key, header(4, 1, WITH_DATA), b"data");
    net.node(1).put(&key, header(5, 1, WITH_DATA), b"data");
    assert_eq!(
        fetch(&mut net, 0, &key),
        ["0->1 REQ_CALL", "1->0 REQ_DMASTER"]
    );
    assert_eq!(net.record(&key), ["7@0 10000 data", "5@0 10000 data", "-"]);
}

#[test]
fn the_requesters_copy_is_stale() {
    let mut net = net();
    let key = net.node(1).key(1);
    // 2 believes 0 to be dmaster; the lmaster 1 knows that it is 1 itself.
    net.node(2).put(&key, header(4, 0, WITH_DATA), b"old");
    net.node(0).put(&key, header(5, 1, WITH_DATA), b"old");
    net.node(1).put(&key, header(8, 1, WITH_DATA), b"new");
    let flow = ["2->0 REQ_CALL", "0->1 REQ_CALL", "1->2 REPLY_DMASTER"];
    assert_eq!(fetch(&mut net, 2, &key), flow);
    assert!(net.log[1].contains("hops 1"), "{:?}", net.log);
    assert_eq!(
        net.record(&key),
        ["5@1 10000 old", "8@2 10000 new", "10@2 10000 new"]
    );
}

#[test]
fn read_only_copies_are_given_and_taken_back() {
    let mut net = Net::new(DbFlags::READONLY);
    let key = net.node(0).key(0);
    net.node(0).put(&key, header(17, 1, WITH_DATA), b"data");
    net.node(1).put(&key, header(18, 1, WITH_DATA), b"data");
    net.node(2).put(&key, header(16, 1, WITH_DATA), b"old");

    // Delegation: the owner goes from 18 to 21, the copy gets 19.
    let flow = ask(&mut net, 2, copy_call(&key, CallId::FETCH));
    assert_eq!(flow, ["2->1 REQ_CALL", "1->2 REPLY_CALL"]);
    assert_eq!(
        net.record(&key),
        ["17@1 10000 data", "21@1 1010000 data", "19@1 2010000 data"]
    );
    // Another one changes the owner no more.
    ask(&mut net, 0, copy_call(&key, CallId::FETCH));
    assert_eq!(
        net.record(&key),
        [
            "19@1 2010000 data",
            "21@1 1010000 data",
            "19@1 2010000 data"
        ]
    );

    // A call of the owner's client that may write: copies 20 without the flag, owner 22, 23, 24.
    let flow = ask(&mut net, 1, call(&key, CallId::NULL));
    let (mut asked, mut answered) = (flow[..2].to_vec(), flow[2..].to_vec());
    asked.sort();
    answered.sort();
    assert_eq!(asked, ["1->0 UPDATE_RECORD", "1->2 UPDATE_RECORD"]);
    assert_eq!(answered, ["0->1 REPLY_CONTROL", "2->1 REPLY_CONTROL"]);
    assert_eq!(
        net.record(&key),
        ["20@1 10000 data", "24@1 10000 data", "20@1 10000 data"]
    );
    assert_eq!(net.node(1).cluster.statistics.total_ro_delegations, 2);
    assert_eq!(net.node(1).cluster.statistics.total_ro_revokes, 1);

    // Once more from 24 (copies 25, owner 27), and a client of another node takes the record:
    // revoked at 28, cleared and given away at 29, 31 with its taker.
    ask(&mut net, 2, copy_call(&key, CallId::FETCH));
    assert_eq!(net.node(1).record(&key), "27@1 1010000 data");
    assert_eq!(net.node(2).record(&key), "25@1 2010000 data");
    ask(&mut net, 2, call(&key, CallId::NULL));
    assert_eq!(
        net.record(&key),
        ["29@2 10000 data", "29@2 10000 data", "31@2 10000 data"]
    );
}

#[test]
fn a_deleted_record_that_never_left_with_data_is_vacuumed() {
    let mut net = net();
    let key = net.node(0).key(0);
    fetch(&mut net, 1, &key);
    fetch(&mut net, 2, &key);
    assert_eq!(net.record(&key), ["3@2 0 ", "-", "5@2 0 "]);
    net.log.clear();
    net.idle_for(Duration::from_secs(30));
    assert_eq!(net.record(&key), ["-", "-", "-"]);
    let kinds: Vec<_> = net
        .log
        .iter()
        .map(|l| l.split(' ').nth(1).unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["VACUUM_FETCH", "REPLY_CONTROL", "REQ_CALL", "REQ_DMASTER"]
    );
}

#[test]
fn a_deleted_record_that_left_with_data_is_vacuumed_everywhere() {
    let mut net = net();
    let key = net.node(0).key(0);
    net.node(0).put(&key, header(6, 2, WITH_DATA), b"stale");
    net.node(1).put(&key, header(4, 2, WITH_DATA), b"stale");
    net.node(2).put(&key, header(7, 2, WITH_DATA), b"");
    let deleted = ctdb_proto::KeyData {
        db_id: super::fixture::DB,
        header: header(7, 2, WITH_DATA),
        key: key.clone(),
    };
    let node = net.node(2);
    assert_eq!(
        node.migrator
            .schedule_for_deletion(&deleted, &mut node.cluster),
        0
    );
    net.idle_for(Duration::from_secs(30));
    assert_eq!(net.record(&key), ["-", "-", "-"]);
}

#[test]
fn a_full_run_finds_what_no_queue_has() {
    let mut net = net();
    let key = net.node(1).key(1);
    net.node(1).put(&key, header(7, 1, WITH_DATA), b"");
    net.node(0).put(&key, header(5, 1, WITH_DATA), b"stale");
    net.idle_for(Duration::from_secs(120));
    assert_eq!(
        net.node(1).record(&key),
        "7@1 10000 ",
        "fast runs do not look"
    );
    net.idle_for(Duration::from_secs(600));
    assert_eq!(net.record(&key), ["-", "-", "-"]);
}
