//! Read-only copies, one node at a time (data-plane.md 4).

use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{
    Body, CallFlags, CallId, ClientId, DbFlags, Generation, RecBuffer, RecordFlags, RecordHeader,
    ReplyCall, ReplyControl, ReqCall, ReqId,
};

use super::fixture::{DB, Fixture, GENERATION, call, copy_call, from, header, pnn};
use crate::outstanding::Asker;
use crate::waiting::Caller;

const NONE: RecordFlags = RecordFlags::empty();
const DELEGATED: RecordFlags = RecordFlags::RO_HAVE_DELEGATIONS;
const COPY: RecordFlags = RecordFlags::RO_HAVE_READONLY;
const FIRST: u32 = 0x7fff_ff38;

fn node(me: u32) -> Fixture {
    Fixture::new(me).with_flag(DbFlags::READONLY)
}

fn wants_copy(key: &Bytes) -> Body {
    Body::ReqCall(copy_call(key, CallId::FETCH_WITH_HEADER))
}

/// The answer of a node that was asked to give its copy back.
fn revoked(node: &mut Fixture, reqid: u32, reply: Option<ReplyControl>) -> Vec<String> {
    let Some(Asker::Records(ticket)) = node.cluster.answered(ReqId(reqid)) else {
        panic!("no control with reqid {reqid}")
    };
    node.migrator
        .control_answered(ticket, reply, &mut node.cluster, node.now);
    node.run()
}

#[test]
fn a_database_without_the_flag_gives_the_record_itself() {
    let mut node = Fixture::new(0);
    let key = node.key(0);
    node.put(&key, header(7, 0, NONE), b"data");
    let said = node.peer_says(from(2, 4, wants_copy(&key)));
    assert_eq!(said, ["2 REPLY_DMASTER 7 10000 data #4"]);
    // And asks others without wanting a copy, in the words of its client.
    let key = node.key(1);
    let said = node.client_says(7, 3, copy_call(&key, CallId::FETCH));
    assert_eq!(
        said,
        [format!("1 REQ_CALL 2 flags 0 hops 0 from 0 #{FIRST}")]
    );
    // A redirected call loses its wish, too.
    let said = node.peer_says(from(2, 4, wants_copy(&key)));
    assert_eq!(said, ["1 REQ_CALL 3 flags 0 hops 1 from 2 #4"]);
}

#[test]
fn a_copy_goes_out_with_the_header_of_a_copy() {
    let mut node = node(0);
    let key = node.key(1);
    node.put(&key, header(18, 0, NONE), b"data");
    let said = node.peer_says(from(2, 4, wants_copy(&key)));
    assert_eq!(said, ["2 REPLY_CALL 0 19@0 2000000 data #4"]);
    assert_eq!(node.record(&key), "21@0 1000000 data");
    let said = node.peer_says(from(1, 5, wants_copy(&key)));
    assert_eq!(said, ["1 REPLY_CALL 0 19@0 2000000 data #5"]);
    assert_eq!(node.record(&key), "21@0 1000000 data");
    assert_eq!(node.database().statistics.db_ro_delegations, 2);
}

#[test]
fn an_absent_record_is_delegated_as_empty() {
    let mut node = node(0);
    let key = node.key(0);
    let said = node.peer_says(from(2, 4, wants_copy(&key)));
    assert_eq!(said, ["2 REPLY_CALL 0 2@0 2000000  #4"]);
    assert_eq!(node.record(&key), "4@0 1000000 ");
}

#[test]
fn a_client_is_answered_as_it_asked() {
    for (id, answer) in [(CallId::FETCH, "data"), (CallId::NULL, "19@1 2000000 data")] {
        let mut node = node(0);
        let key = node.key(1);
        let said = node.client_says(7, 3, copy_call(&key, id));
        assert_eq!(
            said,
            [format!("1 REQ_CALL 3 flags 4 hops 0 from 0 #{FIRST}")]
        );
        let copy = super::super::store::join(&header(19, 1, COPY), b"data");
        let reply = Body::ReplyCall(ReplyCall {
            status: 0,
            data: copy,
        });
        let said = node.peer_says(from(1, FIRST, reply));
        assert_eq!(said, [format!("client 7 REPLY_CALL 0 {answer} #3")]);
        assert_eq!(node.record(&key), "19@1 2000000 data");
    }
}

#[test]
fn a_copy_never_replaces_what_is_newer() {
    let mut node = node(0);
    let key = node.key(1);
    node.put(&key, header(19, 1, NONE), b"here");
    node.client_says(7, 3, copy_call(&key, CallId::FETCH));
    let copy = super::super::store::join(&header(19, 1, COPY), b"data");
    let reply = Body::ReplyCall(ReplyCall {
        status: 0,
        data: copy,
    });
    assert_eq!(
        node.peer_says(from(1, FIRST, reply)),
        ["client 7 REPLY_CALL 0 data #3"]
    );
    assert_eq!(node.record(&key), "19@1 0 here");
}

#[test]
fn a_short_reply_is_no_copy() {
    let mut node = node(0);
    let key = node.key(1);
    node.client_says(7, 3, copy_call(&key, CallId::NULL));
    let reply = ReplyCall {
        status: 0,
        data: Bytes::from_static(b"short"),
    };
    let said = node.peer_says(from(1, FIRST, Body::ReplyCall(reply)));
    assert_eq!(said, ["client 7 REPLY_CALL 0 short #3"]);
    assert_eq!(node.record(&key), "-");
}

#[test]
fn a_reader_at_the_owner_does_not_take_copies_back() {
    let mut node = node(0);
    let key = node.key(0);
    node.put(&key, header(21, 0, DELEGATED), b"data");
    let said = node.client_says(7, 3, copy_call(&key, CallId::FETCH));
    assert_eq!(said, ["client 7 REPLY_CALL 0 data #3"]);
    assert_eq!(node.record(&key), "21@0 1000000 data");
}

#[test]
fn whoever_may_write_waits_until_all_copies_are_back() {
    let mut node = node(0);
    let key = node.key(0);
    node.put(&key, header(18, 0, NONE), b"data");
    node.peer_says(from(1, 4, wants_copy(&key)));
    node.peer_says(from(2, 5, wants_copy(&key)));
    let said = node.client_says(7, 3, call(&key, CallId::NULL));
    let (one, two) = (FIRST, FIRST + 1);
    assert_eq!(
        said,
        [
            format!("1 UPDATE_RECORD #{one}"),
            format!("2 UPDATE_RECORD #{two}")
        ]
    );
    assert_eq!(node.record(&key), "21@0 5000000 data");
    // Others wait as well, readers too.
    assert!(
        node.client_says(8, 6, copy_call(&key, CallId::FETCH))
            .is_empty()
    );
    assert!(
        node.peer_says(from(1, 7, Body::ReqCall(call(&key, CallId::NULL))))
            .is_empty()
    );

    assert!(revoked(&mut node, one, Some(ReplyControl::status(0))).is_empty());
    let said = revoked(&mut node, two, Some(ReplyControl::status(0)));
    assert_eq!(
        said,
        [
            "client 7 REPLY_CALL 0  #3",
            "1 REPLY_DMASTER 24 10000 data #7"
        ]
    );
    assert_eq!(node.database().statistics.db_ro_revokes, 1);
    // The reader's turn comes a second later; the record is elsewhere by then.
    node.now += Duration::from_secs(1);
    node.migrator.handle_timeout(&mut node.cluster, node.now);
    assert_eq!(
        node.run(),
        [format!("1 REQ_CALL 3 flags 4 hops 0 from 0 #{}", FIRST + 2)]
    );
}

#[test]
fn a_revoke_that_fails_is_tried_again_after_a_second() {
    for reply in [Some(ReplyControl::status(1)), None] {
        let mut node = node(0);
        let key = node.key(0);
        node.put(&key, header(18, 0, NONE), b"data");
        node.peer_says(from(1, 4, wants_copy(&key)));
        node.client_says(7, 3, call(&key, CallId::NULL));
        assert!(revoked(&mut node, FIRST, reply).is_empty());
        assert_eq!(node.record(&key), "21@0 1000000 data", "still delegated");
        node.now += Duration::from_secs(1);
        node.migrator.handle_timeout(&mut node.cluster, node.now);
        assert_eq!(node.run(), [format!("1 UPDATE_RECORD #{}", FIRST + 1)]);
        let said = revoked(&mut node, FIRST + 1, Some(ReplyControl::status(0)));
        assert_eq!(said, ["client 7 REPLY_CALL 0  #3"]);
    }
}

#[test]
fn a_revoke_without_any_copy_is_over_at_once() {
    let mut node = node(0);
    let key = node.key(0);
    node.put(&key, header(21, 0, DELEGATED), b"data");
    let said = node.client_says(7, 3, call(&key, CallId::NULL));
    assert_eq!(said, ["client 7 REPLY_CALL 0  #3"]);
    assert_eq!(node.record(&key), "24@0 10000 data");
}

#[test]
fn a_revoke_that_nobody_remembers_starts_over() {
    let mut node = node(0);
    let key = node.key(0);
    let flags = DELEGATED | RecordFlags::RO_REVOKING_READONLY;
    node.put(&key, header(21, 0, flags), b"data");
    let said = node.client_says(7, 3, call(&key, CallId::NULL));
    assert_eq!(said, ["client 7 REPLY_CALL 0  #3"]);
    assert_eq!(node.record(&key), "24@0 10000 data");
}

#[test]
fn a_recovery_ends_all_revokes() {
    let mut node = node(0);
    let key = node.key(0);
    node.put(&key, header(18, 0, NONE), b"data");
    node.peer_says(from(1, 4, wants_copy(&key)));
    node.client_says(7, 3, call(&key, CallId::NULL));
    node.put(&key, header(30, 0, NONE), b"data");
    node.migrator.push_confirmed(DB, &mut node.cluster);
    assert_eq!(node.run(), ["client 7 REPLY_CALL 0  #3"]);
    assert!(revoked(&mut node, FIRST, Some(ReplyControl::status(0))).is_empty());
    assert_eq!(node.record(&key), "31@0 0 data");
}

#[test]
fn a_late_answer_does_not_end_the_next_revoke() {
    let mut node = node(0);
    let key = node.key(0);
    for reqid in [FIRST, FIRST + 1] {
        node.put(&key, header(18, 0, NONE), b"data");
        node.peer_says(from(1, 4, wants_copy(&key)));
        let said = node.client_says(7, reqid, call(&key, CallId::NULL));
        assert_eq!(said, [format!("1 UPDATE_RECORD #{reqid}")]);
        if reqid == FIRST {
            node.put(&key, header(30, 0, NONE), b"data");
            node.migrator.push_confirmed(DB, &mut node.cluster);
            assert_eq!(node.run().len(), 1);
        }
    }
    let done = || Some(ReplyControl::status(0));
    assert!(revoked(&mut node, FIRST, done()).is_empty());
    assert_eq!(node.record(&key), "21@0 5000000 data");
    assert_eq!(revoked(&mut node, FIRST + 1, done()).len(), 1);
    assert_eq!(node.record(&key), "24@0 10000 data");
}

#[test]
fn the_lmaster_passes_a_readers_call_on_as_it_is() {
    let mut node = node(0);
    let key = node.key(0);
    node.put(&key, header(18, 1, NONE), b"data");
    let said = node.peer_says(from(2, 4, wants_copy(&key)));
    assert_eq!(said, ["1 REQ_CALL 3 flags 4 hops 1 from 2 #4"]);
}

#[test]
fn a_copy_is_never_delegated_to_the_owner_itself() {
    let mut node = node(0);
    let key = node.key(0);
    node.put(&key, header(18, 0, NONE), b"data");
    let asked = ReqCall {
        flags: CallFlags::WANT_READONLY,
        ..call(&key, CallId::FETCH_WITH_HEADER)
    };
    let said = node.peer_says(from(0, 4, Body::ReqCall(asked)));
    assert_eq!(said, ["self REPLY_CALL 0 18@0 0 data #4"]);
    assert_eq!(node.record(&key), "19@0 0 data");
}

/// `UPDATE_RECORD` from node 1, and the status of its answer.
fn update(node: &mut Fixture, key: &Bytes, new: RecordHeader, old: bool) -> String {
    let mut records = RecBuffer::builder(DB);
    records.push_record(ReqId(0), key, &new, b"data");
    let generation = if old { Generation(4) } else { GENERATION };
    let caller = Caller {
        node: pnn(1),
        reqid: ReqId(77),
        client: ClientId::NONE,
        wants_reply: true,
        generation,
    };
    node.migrator
        .update_records(caller, &records.finish(), &mut node.cluster);
    let [said] = &node.run()[..] else {
        panic!("one answer")
    };
    said.clone()
}

#[test]
fn a_copy_is_taken_back_by_its_owner_only_and_in_its_time() {
    let (done, refused) = ("1 REPLY_CONTROL 0 #77", "1 REPLY_CONTROL 1 #77");
    let revoked = header(20, 1, RecordFlags::MIGRATED_WITH_DATA);
    // (the record here, before a recovery, the answer, the record afterwards)
    let cases = [
        (header(19, 1, COPY), false, done, "20@1 10000 data"),
        (header(19, 1, COPY), true, refused, "19@1 2000000 data"),
        (header(7, 0, NONE), false, done, "7@0 0 data"),
        (header(7, 0, NONE), true, refused, "7@0 0 data"),
        (header(21, 1, NONE), false, done, "21@1 0 data"),
    ];
    for (here, old, answer, after) in cases {
        let mut node = node(0);
        let key = node.key(1);
        node.put(&key, here, b"data");
        assert_eq!(update(&mut node, &key, revoked, old), answer);
        assert_eq!(node.record(&key), after);
    }
    let mut node = node(0);
    let key = node.key(1);
    assert_eq!(update(&mut node, &key, revoked, false), done);
    assert_eq!(
        node.record(&key),
        "-",
        "what is not here need not be revoked"
    );
    node.put(&key, header(21, 1, NONE), b"newer");
    assert_eq!(update(&mut node, &key, revoked, false), refused);
}
