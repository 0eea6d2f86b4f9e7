//! The nodes list while the daemon runs, printed by a program (config.md 2.1): one that fails or
//! hangs disturbs nobody.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]
#![allow(dead_code, reason = "another test uses the rest of the fixture")]

mod fixture;

use std::time::{Duration, Instant};

use ctdb_proto::control::{NodeMap, Reply};
use ctdb_proto::{Body, NodeFlags, Opcode};

use fixture::{Client, Node, control};

/// A daemon whose nodes list is printed by a script that begins with this line.
fn started(script: &str) -> (Node, u32) {
    let node = Node::new();
    let path = node.path("list.sh").display().to_string();
    let conf = node.read("ctdb.conf");
    let option = format!("[cluster]\nnodes list = !/bin/sh {path}\n");
    node.write("ctdb.conf", &conf.replace("[cluster]\n", &option));
    list(&node, script);
    let started = node.start_in_background();
    assert_eq!((started.code, started.stderr.as_str()), (Some(0), ""));
    let pid = node.pid();
    (node, pid)
}

fn list(node: &Node, script: &str) {
    let text = format!("echo {}\n{script}\n", node.address());
    node.write("list.sh", &text);
}

fn nodes(client: &mut Client, opcode: Opcode) -> NodeMap {
    let reply = client.control(control(opcode, &[]));
    match Reply::from_control(opcode, &reply).unwrap() {
        Reply::NodeMap(map) => map,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_program_is_asked_again_and_believed_if_it_ends_well() {
    let (node, pid) = started("");
    let mut client = Client::connect(&node);
    list(&node, "echo 127.66.66.66; echo '# gone'");
    let shown = nodes(&mut client, Opcode::GET_NODES_FILE);
    assert_eq!(shown.nodes.len(), 3);
    assert_eq!(shown.nodes[2].flags, NodeFlags::DELETED);
    assert_eq!(nodes(&mut client, Opcode::GET_NODEMAP).nodes.len(), 1);

    for broken in [
        "exit 3",
        "echo not-an-address",
        "echo 127.66.66.66 > nowhere/x",
    ] {
        list(&node, broken);
        for opcode in [Opcode::GET_NODES_FILE, Opcode::RELOAD_NODES_FILE] {
            let reply = client.control(control(opcode, &[]));
            assert_eq!(reply.status, -1, "{opcode} after {broken}");
        }
    }
    assert!(node.log().contains("stays in force"), "{}", node.log());

    list(&node, "echo 127.66.66.66");
    let reply = client.control(control(Opcode::RELOAD_NODES_FILE, &[]));
    assert_eq!(reply.status, 0);
    let known = nodes(&mut client, Opcode::GET_NODEMAP);
    assert_eq!(known.nodes.len(), 2);
    assert!(known.nodes[1].flags.contains(NodeFlags::DISCONNECTED));
    assert_eq!(node.pid(), pid, "it is the same daemon");
    Node::stop(pid);
}

#[test]
fn a_program_that_hangs_keeps_nobody_else_waiting() {
    let (node, pid) = started("");
    let mut client = Client::connect(&node);
    list(&node, "exec sleep 1000");
    let started = Instant::now();
    let asked = client.send(Body::ReqControl(control(Opcode::RELOAD_NODES_FILE, &[])));
    let mut other = Client::connect(&node);
    assert!(other.control(control(Opcode::PING, &[])).status > 0);
    assert!(!client.has_packet(), "the list is still being read");
    let answer = client.receive();
    assert_eq!(answer.header.reqid, asked);
    let Body::ReplyControl(reply) = answer.body else {
        panic!("{answer:?}");
    };
    assert_eq!(reply.status, -1);
    assert!(started.elapsed() >= Duration::from_secs(5));
    assert!(node.log().contains("has not ended within 10 s"));
    Node::stop(pid);
}
