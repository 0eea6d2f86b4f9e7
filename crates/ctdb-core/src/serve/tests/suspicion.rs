//! A node that froze its databases because others may go on without it gives its records to the
//! next recovery, unless they did.

use super::*;

/// Freezes everything as the node itself asks for it.
fn freeze(f: &mut Fixture) {
    f.peer_asks(0, &Request::Freeze, ControlFlags::empty());
    let work = f.db_work();
    assert_eq!(work.len(), 2, "both databases");
    for (ticket, _) in work {
        f.db_answers(ticket, Ok(DbAnswer::Done));
    }
    assert!(f.database(VOLATILE).is_frozen());
}

fn is_told_of(f: &mut Fixture, generation: Generation) {
    let data = encoded(&generation);
    let srvid = Srvid::RECOVERED;
    f.peer_sends(1, Body::ReqMessage(ReqMessage { srvid, data }));
}

fn is_left_out(f: &mut Fixture) -> [bool; 2] {
    [VOLATILE, PERSISTENT].map(|name| f.database(name).invalid_records)
}

#[test]
fn records_blocked_on_suspicion_stay_good() {
    let mut f = Fixture::new();
    freeze(&mut f);
    assert_eq!(is_left_out(&mut f), [false, false]);
    is_told_of(&mut f, GENERATION);
    assert_eq!(is_left_out(&mut f), [false, false], "it took part in that");
}

#[test]
fn records_are_outdated_when_others_have_recovered() {
    let mut f = Fixture::new();
    freeze(&mut f);
    is_told_of(&mut f, Generation(GENERATION.0 + 1));
    assert_eq!(is_left_out(&mut f), [true, false]);
}

#[test]
fn a_node_that_has_not_frozen_its_records_keeps_them() {
    let mut f = Fixture::new();
    is_told_of(&mut f, Generation(GENERATION.0 + 1));
    assert_eq!(is_left_out(&mut f), [false, false]);
}

#[test]
fn an_inactive_node_takes_no_records_along() {
    let mut f = Fixture::new();
    f.node.set_my_flag(NodeFlags::STOPPED, true);
    freeze(&mut f);
    assert_eq!(is_left_out(&mut f), [true, false]);
}

#[test]
fn whoever_was_left_out_is_told_when_it_comes_back() {
    let mut f = Fixture::new();
    let told = |f: &mut Fixture| {
        f.effects
            .extract_if(.., |effect| matches!(effect, Effect::SendPeer { packet, .. } if matches!(&packet.body, Body::ReqMessage(m) if m.srvid == Srvid::RECOVERED)))
            .filter_map(|effect| match effect {
                Effect::SendPeer { to, .. } => Some(to.get()),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    f.node.cluster.vnn_map.map = vec![pnn(0), pnn(1)];
    f.peer_asks(0, &Request::EndRecovery, ControlFlags::empty());
    assert_eq!(told(&mut f), [2], "it is connected, and no member");
    f.node.cluster.rec_mode = RecMode::Active;
    f.peer_asks(0, &Request::EndRecovery, ControlFlags::empty());
    assert_eq!(told(&mut f), [0; 0], "another recovery has begun");
}
