//! What a follower may do, and what its leader knows of it.

use super::*;
use crate::recoverd::outbox::RecoverdEffect;
use crate::recoverd::tests::{FakeNode, epoch, pnn};

const S: Duration = Duration::from_secs(1);

/// The times in the requests and grants that were sent.
fn times(out: &mut Outbox) -> Vec<u64> {
    let mut times = Vec::new();
    while let Some(RecoverdEffect::Message { srvid, data, .. }) = out.pop() {
        match Message::decode(srvid, data).unwrap() {
            Message::LeaseRequest(time) | Message::LeaseGrant(time) => times.push(time),
            other => panic!("{other:?}"),
        }
    }
    times
}

fn lease() -> Lease {
    Lease::new(S * 5, epoch())
}

/// Node 1 of four, which node 0 leads.
fn follower() -> (Lease, FakeNode, Outbox) {
    (lease(), FakeNode::new(1, 4), Outbox::default())
}

/// Node 0 of four, which holds the lock since the beginning.
fn leader() -> (Lease, FakeNode) {
    let (mut lease, node) = (lease(), FakeNode::new(0, 4));
    lease.look(true, &node.view(), epoch());
    (lease, node)
}

fn lose(node: &mut FakeNode, raw: u32, closed: bool) {
    node.set_flags(pnn(raw), NodeFlags::DISCONNECTED);
    node.nodes[pnn(raw).index()].closed = closed;
}

#[test]
fn a_lease_counts_from_the_request_not_from_the_grant() {
    let (mut lease, _, mut out) = follower();
    lease.on_grant(pnn(0), 0, Some(pnn(0)), epoch());
    lease.on_leader(pnn(0), &mut out, epoch() + S * 3);
    let [time] = times(&mut out)[..] else {
        panic!("one request")
    };
    lease.on_grant(pnn(0), time, Some(pnn(0)), epoch() + S * 9);
    assert_eq!(lease.until(), epoch() + S * 13);
}

#[test]
fn a_broadcast_alone_renews_only_the_lease_of_a_leader_that_grants_none() {
    let (mut lease, _, mut out) = follower();
    lease.on_leader(pnn(0), &mut out, epoch() + S);
    assert_eq!(lease.until(), epoch() + S * 11, "of the original");
    lease.on_grant(pnn(0), 0, Some(pnn(0)), epoch() + S);
    lease.on_leader(pnn(0), &mut out, epoch() + S * 2);
    assert_eq!(lease.until(), epoch() + S * 11, "one of ours");
}

#[test]
fn a_grant_of_who_does_not_lead_or_from_the_future_is_worth_nothing_more() {
    let (mut lease, ..) = follower();
    lease.on_grant(pnn(2), 9_000_000, Some(pnn(0)), epoch() + S);
    assert_eq!(lease.until(), epoch() + S * 10);
    lease.on_grant(pnn(0), u64::MAX, Some(pnn(0)), epoch() + S);
    assert!(lease.until() <= epoch() + S * 11);
}

#[test]
fn requests_are_not_sent_at_each_broadcast() {
    let (mut lease, _, mut out) = follower();
    for tenth in 0..20 {
        lease.on_leader(pnn(0), &mut out, epoch() + S * tenth / 10);
    }
    assert_eq!(times(&mut out).len(), 2);
    lease.on_leader(pnn(2), &mut out, epoch() + S * 2);
    assert_eq!(times(&mut out).len(), 1, "another leader is asked at once");
}

#[test]
fn the_leader_waits_for_whom_it_granted_as_long_as_that_one_may_go_on() {
    let (mut lease, mut node) = leader();
    let s = |seconds| epoch() + S * seconds;
    lease.grant(pnn(2), 1, &mut Outbox::default(), s(20));
    lease.grant(pnn(3), 1, &mut Outbox::default(), s(15));
    lose(&mut node, 2, false);
    lose(&mut node, 3, false);
    assert_eq!(
        lease.outstanding(&node.view(), s(22)),
        Some((pnn(2), s(30)))
    );
    assert_eq!(lease.outstanding(&node.view(), s(30)), None);
}

#[test]
fn who_closed_the_connection_is_not_waited_for() {
    let (mut lease, mut node) = leader();
    lease.grant(pnn(2), 1, &mut Outbox::default(), epoch() + S);
    lose(&mut node, 2, true);
    assert_eq!(lease.outstanding(&node.view(), epoch() + S), None);
}

#[test]
fn a_new_holder_of_the_lock_waits_for_members_that_it_does_not_reach() {
    let mut lease = lease();
    let mut node = FakeNode::new(0, 4);
    node.vnn_map.map.retain(|member| *member != pnn(3));
    lose(&mut node, 2, false);
    lose(&mut node, 3, false);
    assert_eq!(lease.outstanding(&node.view(), epoch()), None, "no lock");
    let begin = epoch() + S * 8;
    lease.look(true, &node.view(), begin);
    let waits = lease.outstanding(&node.view(), begin);
    assert_eq!(waits, Some((pnn(2), begin + S * 10)));
    assert_eq!(lease.outstanding(&node.view(), begin + S * 10), None);
}

#[test]
fn a_holder_of_the_lock_that_was_left_out_or_is_new_waits_for_everybody() {
    for is_new in [true, false] {
        let mut lease = lease();
        let mut node = FakeNode::new(0, 4);
        node.vnn_map.map = vec![pnn(0)];
        if is_new {
            node.vnn_map.generation = Generation::INVALID;
        }
        lose(&mut node, 3, false);
        let begin = epoch() + S * 11;
        lease.look(false, &node.view(), begin);
        lease.look(true, &node.view(), begin);
        let waits = lease.outstanding(&node.view(), begin);
        assert_eq!(waits, Some((pnn(3), begin + S * 10)), "new: {is_new}");
    }
}
