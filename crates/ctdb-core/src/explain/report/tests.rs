use std::time::Duration;

use bytes::BytesMut;
use ctdb_proto::control::BanState;
use ctdb_proto::{Body, ClientId, ControlFlags, Packet, ReqControl, ReqId, Request, Wire};

use super::*;
use crate::effect::{Effect, Event, EventOutcome};
use crate::explain::ScriptFailure;
use crate::input::{Input, LinkEnd};
use crate::node::tests::{node, pnn};
use crate::recoverd::tests::epoch;
use crate::waiting::Waiting;

const S: Duration = Duration::from_secs(1);

/// The statements about a topic, as they come out of a packet.
fn said(node: &Node, topic: Topic, now: Instant) -> Vec<Statement> {
    let mut bytes = BytesMut::new();
    node.explanation(now).encode(&mut bytes);
    let explanation = Explanation::decode(&mut bytes.freeze()).unwrap();
    explanation.about(topic).cloned().collect()
}

fn texts(statements: &[Statement]) -> Vec<&str> {
    statements.iter().map(|says| says.text.as_str()).collect()
}

fn control_of(node: &mut Node, from: u32, client: ClientId, request: &Request) {
    let header = ctdb_proto::Header {
        generation: ctdb_proto::Generation(1),
        dest: node.pnn().get(),
        src: from,
        reqid: ReqId(5),
    };
    let control = ReqControl {
        client_id: client,
        ..request.to_control(ControlFlags::empty())
    };
    let packet = Packet {
        header,
        body: Body::ReqControl(control),
    };
    let from = pnn(from);
    node.handle(Input::PeerPacket { from, packet }, epoch() + S);
}

fn connect(node: &mut Node, peer: u32) {
    let addr = node.cluster.nodes[pnn(peer).index()].addr;
    node.accept_peer(addr.ip(), epoch()).unwrap();
    node.handle(Input::OutgoingUp(pnn(peer)), epoch());
}

fn closed(why: &str) -> LinkEnd {
    LinkEnd {
        why: why.to_owned(),
        by_peer: true,
    }
}

#[test]
fn peers_are_unreachable_until_they_connect_and_when_they_are_lost() {
    let mut node = node(0, &[1, 2, 3]);
    let unreachable = said(&node, Topic::UNREACHABLE, epoch());
    assert_eq!(texts(&unreachable), ["it has not connected yet"; 2]);
    connect(&mut node, 1);
    connect(&mut node, 2);
    assert_eq!(said(&node, Topic::UNREACHABLE, epoch()), []);
    let end = closed("connection closed");
    let pnn = pnn(2);
    node.handle(Input::LinkLost { pnn, end }, epoch() + S * 7);
    let [lost] = &said(&node, Topic::UNREACHABLE, epoch() + S * 60)[..] else {
        panic!("one peer is lost");
    };
    assert_eq!(
        (lost.about, lost.text.as_str()),
        (Some(pnn), "connection closed")
    );
    let now = node.explanation(epoch() + S * 60).now;
    assert_eq!(now.sec - lost.since.sec, 53);
    let decisions = said(&node, Topic::DECISION, epoch() + S * 60);
    let last = decisions.iter().rfind(|says| says.about == Some(pnn));
    assert_eq!(last.unwrap().text, "node 2 is lost: connection closed");
}

#[test]
fn a_failing_script_is_shown_with_what_it_said() {
    let mut node = node(0, &[1]);
    node.run_event(Event::Monitor, Waiting::Monitor);
    let mut effects = std::iter::from_fn(|| node.poll_effect());
    let ticket = effects.find_map(|effect| match effect {
        Effect::RunEvent { ticket, .. } => Some(ticket),
        _ => None,
    });
    let ticket = ticket.expect("the event is run");
    let failure = ScriptFailure {
        script: "50.samba".into(),
        how: "exit status: 1".into(),
        output: "smbd is gone\n\nnmbd too\n".into(),
    };
    node.handle(Input::ScriptFailed { ticket, failure }, epoch());
    let outcome = EventOutcome::Failed { status: 8 };
    node.handle(Input::EventDone { ticket, outcome }, epoch());
    let events = said(&node, Topic::EVENT, epoch());
    let text = "monitor: 50.samba: exit status: 1\nsmbd is gone\nnmbd too";
    assert_eq!(texts(&events), [text]);
}

#[test]
fn a_banned_node_knows_who_asked_and_until_when() {
    let mut node = node(0, &[1, 2]);
    connect(&mut node, 1);
    let ban = |time| Request::SetBanState(BanState { pnn: pnn(0), time });
    control_of(&mut node, 1, ClientId::NONE, &ban(S * 300));
    let [says] = &said(&node, Topic::BAN, epoch() + S)[..] else {
        panic!("one ban");
    };
    assert_eq!(says.until.sec - says.since.sec, 300);
    assert_eq!(says.text, "node 1, the leader, decided it");
    control_of(&mut node, 1, ClientId(9), &ban(S * 10));
    let says = said(&node, Topic::BAN, epoch() + S);
    assert!(says[0].text.contains("an administrator"), "{says:?}");
    control_of(&mut node, 1, ClientId(9), &ban(Duration::ZERO));
    assert_eq!(said(&node, Topic::BAN, epoch() + S), []);
}

#[test]
fn a_ban_that_this_node_did_not_decide_is_told_as_such() {
    let mut node = node(0, &[1, 2]);
    connect(&mut node, 1);
    node.cluster.nodes[1].flags |= NodeFlags::BANNED;
    let bans = said(&node, Topic::BAN, epoch());
    assert_eq!(texts(&bans), ["not by a decision of this node"]);
}

#[test]
fn a_long_life_still_fits_into_one_answer() {
    let mut node = node(0, &[1, 2]);
    let long = "x".repeat(100_000);
    for time in 0..2000 {
        connect(&mut node, 1);
        let (pnn, end) = (pnn(1), closed(&long));
        node.handle(Input::LinkLost { pnn, end }, epoch() + S * time);
    }
    let mut bytes = BytesMut::new();
    node.explanation(epoch() + S * 2000).encode(&mut bytes);
    assert!(bytes.len() < 1024 * 1024, "{} bytes", bytes.len());
    let explanation = Explanation::decode(&mut bytes.freeze()).unwrap();
    let decisions: Vec<_> = explanation.about(Topic::DECISION).collect();
    assert!(decisions.len() <= 2 * MOST_DECISIONS);
    assert!(decisions.is_sorted_by_key(|says| says.since));
}
