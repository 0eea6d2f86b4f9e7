use std::net::SocketAddr;

use ctdb_proto::control::{Reply, Request};
use ctdb_proto::{Body, ClientId, ControlFlags, Header, Opcode, Packet, ReqId};

use super::*;
use crate::input::Input;
use crate::node::tests::{node, pnn};
use crate::recoverd::tests::epoch;

/// A list by the last bytes of its addresses; 0 is a line that is commented out.
fn list(hosts: &[u8]) -> Vec<ConfiguredNode> {
    let line = |host: &u8| ConfiguredNode {
        addr: SocketAddr::from(([10, 0, 0, *host], 4379)),
        deleted: *host == 0,
    };
    hosts.iter().map(line).collect()
}

/// Has a client ask, and gives what the node then wants done.
fn ask(node: &mut Node, client: ClientId, request: &Request) -> Vec<Effect> {
    let header = Header {
        generation: ctdb_proto::Generation(0),
        dest: ctdb_proto::CURRENT_NODE,
        src: 0,
        reqid: ReqId(7),
    };
    let body = Body::ReqControl(request.to_control(ControlFlags::empty()));
    let packet = Packet { header, body };
    node.handle(Input::ClientPacket { client, packet }, epoch());
    effects(node)
}

fn effects(node: &mut Node) -> Vec<Effect> {
    std::iter::from_fn(|| node.poll_effect()).collect()
}

/// Answers the one reading that is wanted.
fn read(
    node: &mut Node,
    wanted: &[Effect],
    result: Result<Vec<ConfiguredNode>, String>,
) -> Vec<Effect> {
    let mut readings = wanted.iter().filter_map(|effect| match effect {
        Effect::ReadNodesList { ticket } => Some(*ticket),
        _ => None,
    });
    let ticket = readings.next().expect("a reading");
    assert_eq!(readings.next(), None);
    node.handle(Input::NodesList { ticket, result }, epoch());
    effects(node)
}

/// The answer that a client got.
fn reply(opcode: Opcode, effects: &[Effect]) -> Reply {
    let replies = effects.iter().filter_map(|effect| match effect {
        Effect::SendClient { packet, .. } => match &packet.body {
            Body::ReplyControl(reply) => Some(reply),
            _ => None,
        },
        _ => None,
    });
    Reply::from_control(opcode, replies.last().expect("an answer")).unwrap()
}

fn reload(node: &mut Node, client: ClientId, hosts: &[u8]) -> (Reply, Vec<Effect>) {
    let wanted = ask(node, client, &Request::ReloadNodesFile);
    let effects = read(node, &wanted, Ok(list(hosts)));
    (reply(Opcode::RELOAD_NODES_FILE, &effects), effects)
}

#[test]
fn the_list_is_shown_as_it_is_now() {
    let mut node = node(0, &[1, 2, 3]);
    let client = node.accept_client(1, epoch());
    let wanted = ask(&mut node, client, &Request::GetNodesFile);
    let effects = read(&mut node, &wanted, Ok(list(&[1, 0, 3, 4])));
    let Reply::NodeMap(map) = reply(Opcode::GET_NODES_FILE, &effects) else {
        panic!("a node map");
    };
    let flags: Vec<u32> = map.nodes.iter().map(|node| node.flags.bits()).collect();
    assert_eq!(flags, [0, NodeFlags::DELETED.bits(), 0, 0]);
    assert_eq!(node.cluster.nodes.len(), 3, "it was only shown");
}

#[test]
fn a_new_node_is_connected_to_and_may_connect() {
    let mut node = node(0, &[1, 2]);
    let client = node.accept_client(1, epoch());
    let (answer, effects) = reload(&mut node, client, &[1, 2, 3]);
    assert_eq!(answer, Reply::DONE);
    let addr = list(&[3])[0].addr;
    let added = |effect: &Effect| matches!(effect, Effect::AddPeer { pnn, addr: to } if *pnn == self::pnn(2) && *to == addr);
    assert!(effects.iter().any(added), "{effects:?}");
    assert_eq!(node.flags_of(pnn(2)), crate::nodes_list::EXPECTED);
    assert_eq!(node.accept_peer(addr.ip(), epoch()), Ok(pnn(2)));
    node.handle(Input::OutgoingUp(pnn(2)), epoch());
    assert!(node.cluster.is_connected(pnn(2)));
}

#[test]
fn a_node_that_goes_is_dropped_and_refused_until_it_comes_back() {
    let mut node = node(0, &[1, 2]);
    let client = node.accept_client(1, epoch());
    let addr = list(&[2])[0].addr;
    node.accept_peer(addr.ip(), epoch()).unwrap();
    node.handle(Input::OutgoingUp(pnn(1)), epoch());
    let (answer, effects) = reload(&mut node, client, &[1, 0]);
    assert_eq!(answer, Reply::DONE);
    let removed = |effect: &Effect| matches!(effect, Effect::RemovePeer { pnn } if pnn.get() == 1);
    assert!(effects.iter().any(removed), "{effects:?}");
    assert_eq!(node.flags_of(pnn(1)), GONE);
    assert!(node.accept_peer(addr.ip(), epoch()).is_err());

    reload(&mut node, client, &[1, 2]);
    assert_eq!(node.accept_peer(addr.ip(), epoch()), Ok(pnn(1)));
}

#[test]
fn a_list_that_cannot_be_used_changes_nothing() {
    let mut node = node(0, &[1, 2]);
    let client = node.accept_client(1, epoch());
    for hosts in [&[1][..], &[2, 1], &[0, 2], &[1, 9, 3]] {
        let (answer, _) = reload(&mut node, client, hosts);
        assert_eq!(answer, Reply::FAILED, "{hosts:?}");
    }
    let wanted = ask(&mut node, client, &Request::ReloadNodesFile);
    let effects = read(&mut node, &wanted, Err("no such file".into()));
    assert_eq!(reply(Opcode::RELOAD_NODES_FILE, &effects), Reply::FAILED);
    let addresses: Vec<_> = node.cluster.nodes.iter().map(|node| node.addr).collect();
    assert_eq!(addresses, [list(&[1])[0].addr, list(&[2])[0].addr]);
    assert!(!node.is_stopped());
}

#[test]
fn there_is_one_reading_for_all_who_ask_during_another() {
    let mut node = node(0, &[1]);
    let client = node.accept_client(1, epoch());
    let first = ask(&mut node, client, &Request::GetNodesFile);
    for _ in 0..3 {
        let wanted = ask(&mut node, client, &Request::GetNodesFile);
        assert!(wanted.is_empty(), "{wanted:?}");
    }
    let effects = read(&mut node, &first, Ok(list(&[1])));
    let readings = effects.iter();
    let readings = readings.filter(|effect| matches!(effect, Effect::ReadNodesList { .. }));
    assert_eq!(readings.count(), 1);
    assert_eq!(reply(Opcode::GET_NODES_FILE, &effects).encode().0, 0);
}
