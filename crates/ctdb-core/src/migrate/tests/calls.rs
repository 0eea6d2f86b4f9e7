//! Every row of the tables in data-plane.md 3.3 and 3.6 to 3.13, one node at a time.

use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{
    Body, CallFlags, CallId, ClientId, DbFlags, DbId, Generation, NodeFlags, RecMode, RecordFlags,
    ReplyCall, ReplyDmaster, ReplyError, ReqCall, ReqDmaster, Rsn,
};

use super::fixture::{DB, Fixture, GENERATION, call, from, header, pnn};
use crate::database::Freeze;
use crate::effect::Effect;
use crate::migrate::Work;
use crate::vacuum::VacuumWork;

const NONE: RecordFlags = RecordFlags::empty();
const WITH_DATA: RecordFlags = RecordFlags::MIGRATED_WITH_DATA;
/// The first reqid that a daemon gives out.
const FIRST: &str = "#2147483448";

fn req_call(src: u32, reqid: u32, call: ReqCall) -> ctdb_proto::Packet {
    from(src, reqid, Body::ReqCall(call))
}

fn null(key: &Bytes) -> ReqCall {
    call(key, CallId::NULL)
}

// Calls of local clients (3.3, 3.4).

#[test]
fn a_call_for_an_unknown_database_is_answered_with_an_error() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    let asked = ReqCall {
        db_id: DbId(0x99),
        ..null(&key)
    };
    let said = node.client_says(7, 3, asked);
    let text = "Unknown database in request. db_id==0x00000099";
    assert_eq!(said, [format!("client 7 REPLY_ERROR -1 {text} #3")]);
    assert_eq!(node.cluster.statistics.pending_calls, 0);
}

#[test]
fn a_call_for_a_persistent_database_is_answered_with_an_error() {
    for flag in [DbFlags::PERSISTENT, DbFlags::REPLICATED] {
        let mut node = Fixture::new(0).with_flag(flag);
        let key = node.key(0);
        let text = "REPLY_ERROR -1 records of database test.tdb do not migrate";
        assert_eq!(
            node.client_says(7, 3, null(&key)),
            [format!("client 7 {text} #3")]
        );
        assert_eq!(
            node.peer_says(req_call(1, 4, null(&key))),
            [format!("1 {text} #4")]
        );
    }
}

#[test]
fn the_dmaster_answers_its_clients_and_raises_the_rsn() {
    for (id, answer) in [
        (CallId::NULL, ""),
        (CallId::FETCH, "data"),
        (CallId::FETCH_WITH_HEADER, "7@0 10000 data"),
    ] {
        let mut node = Fixture::new(0);
        let key = node.key(1);
        node.put(&key, header(7, 0, WITH_DATA), b"data");
        let said = node.client_says(7, 3, call(&key, id));
        assert_eq!(said, [format!("client 7 REPLY_CALL 0 {answer} #3")]);
        assert_eq!(node.record(&key), "8@0 10000 data");
        assert_eq!(node.cluster.statistics.call_latency.num, 1);
        assert_eq!(node.cluster.statistics.total_calls, 1);
        assert_eq!(node.cluster.statistics.pending_calls, 0);
    }
}

#[test]
fn an_unknown_call_is_answered_without_data_and_stores_nothing() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    node.put(&key, header(7, 0, NONE), b"data");
    assert_eq!(
        node.client_says(7, 3, call(&key, CallId(9))),
        ["client 7 REPLY_CALL 0  #3"]
    );
    assert_eq!(node.record(&key), "7@0 0 data");
    let said = node.peer_says(req_call(0, 4, call(&key, CallId(9))));
    assert_eq!(said, ["self REPLY_CALL -1  #4"]);
}

#[test]
fn the_lmaster_creates_an_absent_record_for_its_client() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    assert_eq!(
        node.client_says(7, 3, null(&key)),
        ["client 7 REPLY_CALL 0  #3"]
    );
    assert_eq!(node.record(&key), "2@0 0 ");
}

#[test]
fn a_client_call_goes_to_the_dmaster_that_the_copy_names_or_to_the_lmaster() {
    let mut node = Fixture::new(0);
    let (known, unknown) = (node.key(1), Bytes::from_static(b"unknown"));
    node.put(&known, header(7, 2, NONE), b"data");
    let said = node.client_says(7, 3, null(&known));
    assert_eq!(
        said,
        [format!("2 REQ_CALL 1 flags 1 hops 0 from 0 {FIRST}")]
    );
    assert_eq!(node.record(&known), "7@2 0 data", "asking changes nothing");

    let lmaster = node.cluster.vnn_map.lmaster(&unknown).unwrap();
    assert_ne!(lmaster.get(), 0, "the key is one of another lmaster");
    let said = node.client_says(7, 4, null(&unknown));
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with(&format!("{lmaster} REQ_CALL")),
        "{said:?}"
    );
    assert_eq!(node.record(&unknown), "-");
}

#[test]
fn a_copy_that_names_no_node_leads_to_the_lmaster() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    node.put(&key, header(7, 55, NONE), b"data");
    let said = node.client_says(7, 3, null(&key));
    assert_eq!(
        said,
        [format!("1 REQ_CALL 1 flags 1 hops 0 from 0 {FIRST}")]
    );
}

#[test]
fn an_lmaster_whose_record_names_no_node_wants_a_recovery() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.put(&key, header(7, 55, NONE), b"data");
    assert!(node.peer_says(req_call(1, 4, null(&key))).is_empty());
    assert_eq!(node.cluster.rec_mode, RecMode::Active);
}

#[test]
fn client_calls_for_one_key_are_collapsed_into_one_fetch() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    assert_eq!(node.client_says(7, 3, null(&key)).len(), 1);
    assert!(node.client_says(8, 4, call(&key, CallId::FETCH)).is_empty());
    assert!(node.client_says(9, 5, null(&key)).is_empty());
    assert_eq!(node.cluster.statistics.pending_calls, 3);

    let reply = ReplyDmaster {
        db_id: DB,
        rsn: Rsn(4),
        key: key.clone(),
        data: Bytes::from_static(b"data"),
        record_flags: Some(WITH_DATA),
    };
    let said = node.peer_says(from(1, 0x7fff_ff38, Body::ReplyDmaster(reply)));
    let expected = [
        "client 7 REPLY_CALL 0  #3",
        "client 8 REPLY_CALL 0 data #4",
        "client 9 REPLY_CALL 0  #5",
    ];
    assert_eq!(said, expected, "all are answered, in order");
    assert_eq!(node.record(&key), "8@0 10000 data");
    assert_eq!(node.cluster.statistics.pending_calls, 0);
}

#[test]
fn keys_that_differ_in_a_nul_at_their_end_are_two_keys() {
    let mut node = Fixture::new(0);
    let keys = [&b"key"[..], b"key\0", b"key\0\0"].map(Bytes::from_static);
    for (reqid, key) in (3..).zip(&keys) {
        node.put(key, header(7, 1, NONE), b"");
        let said = node.client_says(7, reqid, null(key));
        assert_eq!(said.len(), 1, "{key:?} waits for another one: {said:?}");
    }
}

#[test]
fn without_fetch_collapse_each_call_is_sent() {
    let mut node = Fixture::new(0);
    node.cluster
        .tunables
        .set(ctdb_conf::Tunable::FetchCollapse, 0);
    let key = node.key(1);
    assert_eq!(node.client_says(7, 3, null(&key)).len(), 1);
    assert_eq!(node.client_says(8, 4, null(&key)).len(), 1);
}

#[test]
fn collapsed_calls_ask_again_after_half_a_minute() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    node.client_says(7, 3, null(&key));
    node.client_says(8, 4, null(&key));
    let due = node.migrator.poll_timeout().expect("a fetch is under way");
    assert_eq!(due, node.now + Duration::from_secs(30));
    node.now = due.checked_sub(Duration::from_millis(1)).unwrap();
    node.migrator.handle_timeout(&mut node.cluster, node.now);
    assert!(node.run().is_empty());
    node.now = due;
    node.migrator.handle_timeout(&mut node.cluster, node.now);
    assert_eq!(
        node.run(),
        ["1 REQ_CALL 1 flags 1 hops 0 from 0 #2147483449"]
    );
}

#[test]
fn an_error_from_a_peer_reaches_the_client_and_lets_the_others_go_on() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    node.client_says(7, 3, null(&key));
    node.client_says(8, 4, null(&key));
    let error = Body::ReplyError(ReplyError::new(-1, "no"));
    let said = node.peer_says(from(1, 0x7fff_ff38, error));
    let again = "1 REQ_CALL 1 flags 1 hops 0 from 0 #2147483449";
    assert_eq!(said, ["client 7 REPLY_ERROR -1 no #3", again]);
}

#[test]
fn a_client_that_goes_takes_its_calls_along_and_not_those_of_others() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    node.client_says(7, 3, null(&key));
    node.client_says(8, 4, null(&key));
    node.gone.insert(ClientId(7));
    node.migrator.client_gone(ClientId(7), &mut node.cluster);
    assert_eq!(
        node.run(),
        ["1 REQ_CALL 1 flags 1 hops 0 from 0 #2147483449"]
    );
    assert_eq!(node.cluster.statistics.pending_calls, 1);
}

#[test]
fn the_call_of_a_client_that_is_gone_is_dropped() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.client_call(7, 3, null(&key));
    node.gone.insert(ClientId(7));
    assert!(node.run().is_empty());
    assert_eq!(node.record(&key), "-");
    assert_eq!(node.cluster.statistics.pending_calls, 0);
}

#[test]
fn a_record_that_cannot_be_read_is_an_error_for_who_asked() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.client_call(7, 3, null(&key));
    node.peer_packet(req_call(1, 4, null(&key)));
    for asker in ["client 7", "1"] {
        let Some(Effect::Record(job)) = node.cluster.effects.pop_front() else {
            panic!("a job is asked for")
        };
        let mut effects = std::mem::take(&mut node.cluster.effects);
        node.migrator
            .on_record_failed(job, "disk on fire", &mut node.cluster, node.now);
        let [said] = &node.run()[..] else {
            panic!("one answer")
        };
        let text = "REPLY_ERROR -1 ltdb fetch failed in ctdb_request_call";
        assert!(said.starts_with(&format!("{asker} {text}")), "{said}");
        node.cluster.effects.append(&mut effects);
    }
    assert_eq!(node.cluster.statistics.pending_calls, 0);
}

// Calls of peers (3.6 to 3.8).

#[test]
fn a_call_for_a_database_that_is_unknown_here_goes_back_with_an_error() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    let asked = ReqCall {
        db_id: DbId(0x99),
        ..null(&key)
    };
    let text = "Unknown database in request. db_id==0x00000099";
    assert_eq!(
        node.peer_says(req_call(2, 4, asked)),
        [format!("2 REPLY_ERROR -1 {text} #4")]
    );
}

#[test]
fn calls_are_redirected_to_who_knows_more() {
    // This node is not lmaster: to the lmaster, whatever the copy says.
    let mut node = Fixture::new(0);
    let key = node.key(1);
    let to_lmaster = ["1 REQ_CALL 1 flags 1 hops 1 from 2 #4"];
    assert_eq!(node.peer_says(req_call(2, 4, null(&key))), to_lmaster);
    node.put(&key, header(7, 2, NONE), b"data");
    assert_eq!(node.peer_says(req_call(2, 4, null(&key))), to_lmaster);
    // This node is lmaster: to the dmaster.
    let key = node.key(0);
    node.put(&key, header(7, 1, NONE), b"data");
    let hopped = ReqCall {
        hopcount: 5,
        ..null(&key)
    };
    let said = node.peer_says(req_call(2, 4, hopped));
    assert_eq!(said, ["1 REQ_CALL 1 flags 1 hops 6 from 2 #4"]);
    assert_eq!(node.record(&key), "7@1 0 data");
    assert_eq!(
        node.cluster.statistics.hop_count_bucket, [0; 16],
        "only served calls count"
    );
}

#[test]
fn a_call_that_hops_for_ever_brings_a_recovery() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    let asked = ReqCall {
        hopcount: 9_999,
        ..null(&key)
    };
    assert!(node.peer_says(req_call(2, 4, asked)).is_empty());
    assert_eq!(node.cluster.rec_mode, RecMode::Active);
}

#[test]
fn the_lmaster_that_is_dmaster_grants_at_once() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    // Absent: created, then granted, and kept although it is empty.
    assert_eq!(
        node.peer_says(req_call(2, 4, null(&key))),
        ["2 REPLY_DMASTER 1 0  #4"]
    );
    assert_eq!(node.record(&key), "1@2 0 ");
    // With data.
    node.put(&key, header(7, 0, NONE), b"data");
    let said = node.peer_says(req_call(2, 4, null(&key)));
    assert_eq!(said, ["2 REPLY_DMASTER 7 10000 data #4"]);
    assert_eq!(node.record(&key), "7@2 10000 data");
}

#[test]
fn another_dmaster_gives_the_record_away_through_the_lmaster() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    node.put(&key, header(7, 0, NONE), b"data");
    let said = node.peer_says(req_call(2, 4, null(&key)));
    assert_eq!(said, ["1 REQ_DMASTER 7@2 10000 data #4"]);
    assert_eq!(node.record(&key), "7@2 10000 data", "a stale copy stays");

    node.put(&key, header(7, 0, NONE), b"");
    assert_eq!(
        node.peer_says(req_call(2, 4, null(&key))),
        ["1 REQ_DMASTER 7@2 0  #4"]
    );
    assert_eq!(node.record(&key), "-", "an empty record leaves no copy");

    node.put(&key, header(7, 0, WITH_DATA), b"");
    assert_eq!(
        node.peer_says(req_call(2, 4, null(&key))),
        ["1 REQ_DMASTER 7@2 10000  #4"]
    );
    assert_eq!(node.record(&key), "7@2 10000 ", "unless it once had data");
}

#[test]
fn calls_served_here_are_counted_by_their_hops() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    for (hopcount, bucket) in [(0, 0), (1, 1), (3, 2), (4, 3), (u32::MAX, 15)] {
        node.put(&key, header(7, 0, NONE), b"data");
        node.peer_says(req_call(
            2,
            4,
            ReqCall {
                hopcount,
                ..null(&key)
            },
        ));
        assert_eq!(node.cluster.statistics.hop_count_bucket[bucket], 1);
        assert_eq!(node.database().statistics.hop_count_bucket[bucket], 1);
        assert_eq!(node.cluster.statistics.max_hop_count, hopcount);
    }
}

#[test]
fn a_record_is_not_sent_where_no_connection_is() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.put(&key, header(7, 0, NONE), b"data");
    node.cluster.node_mut(pnn(2)).unwrap().flags = NodeFlags::DISCONNECTED;
    for src in [2, 55] {
        assert!(node.peer_says(req_call(src, 4, null(&key))).is_empty());
        assert_eq!(node.record(&key), "7@0 0 data");
    }
}

#[test]
fn a_call_of_this_node_to_itself_is_served_here() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.put(&key, header(7, 0, NONE), b"data");
    let said = node.peer_says(req_call(0, 4, call(&key, CallId::FETCH)));
    assert_eq!(said, ["self REPLY_CALL 0 data #4"]);
    assert_eq!(node.record(&key), "8@0 0 data");
}

// Records on their way (3.9, 3.10).

fn req_dmaster(key: &Bytes, rsn: u64, to: u32, data: &'static [u8]) -> Body {
    Body::ReqDmaster(ReqDmaster {
        db_id: DB,
        rsn: Rsn(rsn),
        dmaster: pnn(to),
        key: key.clone(),
        data: Bytes::from_static(data),
        record_flags: Some(WITH_DATA),
    })
}

#[test]
fn the_lmaster_passes_a_record_on() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.put(&key, header(3, 1, NONE), b"old");
    let said = node.peer_says(from(1, 4, req_dmaster(&key, 7, 2, b"new")));
    assert_eq!(said, ["2 REPLY_DMASTER 7 10000 new #4"]);
    assert_eq!(node.record(&key), "7@2 10000 new");
    // An empty one too, and an older one with a complaint only.
    let said = node.peer_says(from(2, 5, req_dmaster(&key, 6, 1, b"")));
    assert_eq!(said, ["1 REPLY_DMASTER 6 10000  #5"]);
    assert_eq!(node.record(&key), "6@1 10000 ");
}

#[test]
fn the_lmaster_that_wants_the_record_itself_keeps_it() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.put(&key, header(3, 1, NONE), b"old");
    assert_eq!(node.client_says(7, 3, call(&key, CallId::FETCH)).len(), 1);
    let said = node.peer_says(from(1, 0x7fff_ff38, req_dmaster(&key, 7, 0, b"new")));
    assert_eq!(said, ["client 7 REPLY_CALL 0 new #3"]);
    assert_eq!(node.record(&key), "9@0 10000 new");
}

#[test]
fn a_record_that_cannot_come_from_there_brings_a_recovery() {
    // (the lmaster of the key, the dmaster in the record here, who gives it, to whom)
    for (lmaster, dmaster, giver, taker) in
        [(1, 1, 1, 2), (0, 2, 1, 2), (0, 0, 1, 2), (0, 1, 1, 55)]
    {
        let mut node = Fixture::new(0);
        let key = node.key(lmaster);
        node.put(&key, header(3, dmaster, NONE), b"old");
        let before = node.record(&key);
        assert!(
            node.peer_says(from(giver, 4, req_dmaster(&key, 7, taker, b"new")))
                .is_empty()
        );
        assert_eq!(node.record(&key), before);
        assert_eq!(node.cluster.rec_mode, RecMode::Active);
    }
    // A record that the lmaster has never seen cannot have another dmaster either.
    let mut node = Fixture::new(0);
    let key = node.key(0);
    assert!(
        node.peer_says(from(1, 4, req_dmaster(&key, 7, 2, b"new")))
            .is_empty()
    );
    assert_eq!(node.cluster.rec_mode, RecMode::Active);
}

fn reply_dmaster(key: &Bytes, rsn: u64, data: &'static [u8]) -> Body {
    Body::ReplyDmaster(ReplyDmaster {
        db_id: DB,
        rsn: Rsn(rsn),
        key: key.clone(),
        data: Bytes::from_static(data),
        record_flags: Some(WITH_DATA),
    })
}

#[test]
fn a_record_that_nobody_waits_for_stays_here() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    node.put(&key, header(3, 1, NONE), b"old");
    assert!(
        node.peer_says(from(1, 99, reply_dmaster(&key, 7, b"new")))
            .is_empty()
    );
    assert_eq!(node.record(&key), "8@0 10000 new", "one store only");
    assert!(node.migrator.hot_keys(DB).is_empty());
}

#[test]
fn a_record_with_another_key_does_not_end_the_call() {
    let mut node = Fixture::new(0);
    let (key, other) = (node.key(1), node.key(2));
    assert_eq!(node.client_says(7, 3, null(&key)).len(), 1);
    assert!(
        node.peer_says(from(1, 0x7fff_ff38, reply_dmaster(&other, 7, b"x")))
            .is_empty()
    );
    assert_eq!(node.record(&other), "8@0 10000 x");
    let said = node.peer_says(from(1, 0x7fff_ff38, reply_dmaster(&key, 7, b"y")));
    assert_eq!(said, ["client 7 REPLY_CALL 0  #3"]);
    assert_eq!(node.migrator.hot_keys(DB).len(), 1);
}

#[test]
fn packets_without_an_addressee_are_dropped() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    let reply = ReplyCall {
        status: 0,
        data: Bytes::new(),
    };
    assert!(
        node.peer_says(from(1, 99, Body::ReplyCall(reply)))
            .is_empty()
    );
    assert!(
        node.peer_says(from(1, 99, Body::ReplyError(ReplyError::new(-1, ""))))
            .is_empty()
    );
    let Body::ReplyDmaster(reply) = reply_dmaster(&key, 1, b"") else {
        unreachable!()
    };
    let unknown = ReplyDmaster {
        db_id: DbId(0x99),
        ..reply
    };
    assert!(
        node.peer_says(from(1, 99, Body::ReplyDmaster(unknown)))
            .is_empty()
    );
    let Body::ReqDmaster(request) = req_dmaster(&key, 1, 0, b"") else {
        unreachable!()
    };
    let unknown = ReqDmaster {
        db_id: DbId(0x99),
        ..request
    };
    assert!(
        node.peer_says(from(1, 99, Body::ReqDmaster(unknown)))
            .is_empty()
    );
    assert_eq!(node.cluster.rec_mode, RecMode::Normal);
}

#[test]
fn what_vacuuming_brings_home_is_deleted_if_it_never_had_data() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.put(&key, header(3, 1, NONE), b"");
    // A client that sets the flag gets what the original does: deleted, then stored by its call.
    let flags = CallFlags::IMMEDIATE_MIGRATION | CallFlags::VACUUM_MIGRATION;
    node.client_says(
        7,
        3,
        ReqCall {
            flags,
            ..null(&key)
        },
    );
    let Body::ReqDmaster(request) = req_dmaster(&key, 4, 0, b"") else {
        unreachable!()
    };
    let request = ReqDmaster {
        record_flags: None,
        ..request
    };
    let said = node.peer_says(from(1, 0x7fff_ff38, Body::ReqDmaster(request)));
    assert_eq!(said, ["client 7 REPLY_CALL 0  #3"]);
    assert_eq!(node.record(&key), "5@0 0 ");
}

// Pinned records (5.1, 14).

#[test]
fn a_record_that_is_not_sticky_is_not_pinned() {
    let mut node = Fixture::new(0);
    let key = node.key(1);
    node.peer_says(from(1, 99, reply_dmaster(&key, 7, b"x")));
    assert_eq!(
        node.peer_says(req_call(2, 4, null(&key))),
        ["1 REQ_DMASTER 8@2 10000 x #4"]
    );
}

#[test]
fn a_chased_record_becomes_sticky_and_is_pinned_down() {
    let mut node = Fixture::new(0).with_flag(DbFlags::STICKY);
    let key = node.key(1);
    node.put(&key, header(7, 0, NONE), b"x");
    node.peer_says(req_call(
        2,
        4,
        ReqCall {
            hopcount: 50,
            ..null(&key)
        },
    ));
    assert_eq!(node.record(&key), "7@2 10000 x", "it goes all the same");
    node.peer_says(from(1, 99, reply_dmaster(&key, 9, b"x")));
    assert!(node.peer_says(req_call(2, 4, null(&key))).is_empty());
    assert_eq!(
        node.migrator.poll_timeout(),
        Some(node.now + Duration::from_millis(200))
    );
    node.now += Duration::from_millis(200);
    node.migrator.handle_timeout(&mut node.cluster, node.now);
    assert_eq!(node.run(), ["1 REQ_DMASTER 10@2 10000 x #4"]);

    node.now += Duration::from_secs(600);
    node.peer_says(from(1, 99, reply_dmaster(&key, 12, b"x")));
    assert_eq!(
        node.peer_says(req_call(2, 4, null(&key))).len(),
        1,
        "not sticky any more"
    );
}

// Freeze and recovery (3.13).

#[test]
fn a_frozen_database_holds_jobs_until_the_thaw() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    // One job is on its way to the shell when the freeze comes, the others are not.
    node.client_call(7, 3, null(&key));
    node.database().freeze = Freeze::Frozen;
    node.migrator.freezing(DB);
    node.client_call(8, 4, null(&key));
    node.peer_packet(req_call(1, 5, null(&key)));
    assert!(node.run().is_empty());
    assert_eq!(node.record(&key), "-");

    node.database().freeze = Freeze::None;
    node.migrator.thawed(DB, &mut node.cluster, node.now);
    let said = node.run();
    let expected = ["client 8 REPLY_CALL 0  #4", "1 REPLY_DMASTER 2 0  #5"];
    assert_eq!(said[..2], expected[..]);
    assert_eq!(
        said[2],
        format!("1 REQ_CALL 1 flags 1 hops 0 from 0 {FIRST}"),
        "7 came last"
    );
}

/// The record may well exist, and the lmaster by the old map knows where.
#[test]
fn a_lmaster_by_a_new_map_makes_no_record_up_before_the_database_is_recovered() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    // One job is on its way to the shell when the map comes, the other is not.
    node.client_call(7, 3, null(&key));
    let new = Generation(6);
    node.cluster.vnn_map.generation = new;
    node.client_call(8, 4, null(&key));
    assert!(node.run().is_empty());
    assert_eq!(node.record(&key), "-");

    node.database().freeze = Freeze::Frozen;
    node.database().generation = new;
    node.database().freeze = Freeze::None;
    node.migrator.thawed(DB, &mut node.cluster, node.now);
    let mut said = node.run();
    said.sort();
    assert_eq!(
        said,
        ["client 7 REPLY_CALL 0  #3", "client 8 REPLY_CALL 0  #4"]
    );
}

#[test]
fn after_a_recovery_calls_are_sent_again_and_old_packets_dropped() {
    let mut node = Fixture::new(0);
    let (key, local) = (node.key(1), node.key(0));
    node.client_says(7, 3, null(&key));
    node.client_says(8, 4, null(&key));
    node.database().freeze = Freeze::Frozen;
    node.peer_packet(req_call(1, 5, null(&local)));
    node.peer_packet(from(1, 0x7fff_ff38, reply_dmaster(&key, 7, b"old")));
    assert!(node.run().is_empty());

    let new = Generation(6);
    node.cluster.vnn_map.generation = new;
    node.database().generation = new;
    node.database().freeze = Freeze::None;
    node.migrator.thawed(DB, &mut node.cluster, node.now);
    let resent = node
        .cluster
        .loopback
        .front()
        .cloned()
        .expect("the call is sent to this node");
    assert_eq!(resent.header.generation, new);
    assert_eq!(
        node.run(),
        ["self REQ_CALL 1 flags 1 hops 0 from 0 #2147483449"]
    );
    assert_eq!(node.record(&key), "-");

    // An answer to the old id finds nobody; the new one ends both calls.
    node.peer_packet(resent);
    assert_eq!(
        node.run(),
        ["1 REQ_CALL 1 flags 1 hops 1 from 0 #2147483449"]
    );
    let mut answer = from(1, 0x7fff_ff39, reply_dmaster(&key, 2, b""));
    answer.header.generation = new;
    let said = node.peer_says(answer);
    assert_eq!(
        said,
        ["client 7 REPLY_CALL 0  #3", "client 8 REPLY_CALL 0  #4"]
    );
}

#[test]
fn a_job_of_an_old_generation_is_dropped_even_under_the_lock() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.peer_packet(req_call(1, 5, null(&key)));
    node.database().generation = Generation(6);
    assert!(node.run().is_empty());
    assert_eq!(node.record(&key), "-");
    assert_ne!(GENERATION, Generation(6));
}

#[test]
fn a_write_that_fails_announces_nothing_and_keeps_the_clients_call() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.client_call(7, 3, null(&key));
    let Some(Effect::Record(job)) = node.cluster.effects.pop_front() else {
        panic!("a job is asked for")
    };
    let verdict = node
        .migrator
        .on_record(job, None, &node.cluster, &|_| true, node.now);
    node.migrator
        .abandon(verdict, "disk full", &mut node.cluster, node.now);
    assert!(node.run().is_empty());
    assert_eq!(node.cluster.rec_mode, RecMode::Active);
    node.migrator.thawed(DB, &mut node.cluster, node.now);
    assert_eq!(node.run(), ["client 7 REPLY_CALL 0  #3"]);
}

#[test]
fn who_waits_for_a_detached_database_is_told() {
    let mut node = Fixture::new(0);
    let (key, local) = (node.key(1), node.key(0));
    node.client_says(7, 3, null(&key));
    node.client_says(8, 4, null(&key));
    node.client_call(9, 5, null(&local));
    node.cluster.databases.remove(&DB);
    node.migrator
        .database_detached(DB, &mut node.cluster, node.now);
    let said = node.run();
    assert_eq!(said.len(), 3);
    for (client, reqid) in [(7, 3), (8, 4), (9, 5)] {
        let about = |line: &&String| {
            line.starts_with(&format!("client {client} REPLY_ERROR"))
                && line.ends_with(&format!("#{reqid}"))
        };
        assert_eq!(said.iter().filter(about).count(), 1, "{said:?}");
    }
    assert_eq!(node.cluster.statistics.pending_calls, 0);
}

#[test]
fn vacuuming_never_waits_for_a_lock_of_others() {
    let run = 1;
    let queued = header(1, 0, NONE);
    assert!(!VacuumWork::Fetch { run }.waits());
    assert!(!VacuumWork::Check { run, queued }.waits());
    assert!(
        !VacuumWork::TryDelete {
            batch: 1,
            sent: queued
        }
        .waits()
    );
    assert!(VacuumWork::Delete { run, queued }.waits());
    let job = |work| crate::migrate::RecordJob {
        db: DB,
        key: Bytes::new(),
        work,
    };
    assert!(!job(Work::Vacuum(VacuumWork::Fetch { run })).waits());
    assert!(
        job(Work::FinishRevoke {
            number: 1,
            all: true
        })
        .waits()
    );
}
