//! Large clusters that lose their leader: what a recovery costs there.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use ctdb_core::Node;
use ctdb_proto::Pnn;
use ctdb_proto::control::Request;
use ctdb_sim::{Options, World, admin};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_hundred_nodes_lose_their_leader() {
    lose_the_leader(100);
}

#[test]
fn five_hundred_nodes_lose_their_leader() {
    lose_the_leader(500);
}

/// Most packets for each node to replace the leader: they grow with the nodes, not with their
/// square.
const MOST_EACH: u64 = 120;

fn lose_the_leader(nodes: u32) {
    let wall = Instant::now();
    let mut world = with_databases(nodes);
    let (up, took_up) = (world.take_sent(), world.elapsed());
    let leader = leader(&world);
    world.kill(leader);
    wait(&mut world, "recover");
    let took = world.elapsed().saturating_sub(took_up);
    let lost = world.take_sent();
    let each = lost.values().sum::<u64>() / u64::from(nodes);
    let _ = writeln!(
        std::io::stderr(),
        "{nodes} nodes: up after {:.3} s: {}\n{nodes} nodes: leader lost: recovered after {:.3} s, \
         {each} packets for each node: {}\n{nodes} nodes: {:.1} s of real time",
        took_up.as_secs_f64(),
        listed(&up),
        took.as_secs_f64(),
        listed(&lost),
        wall.elapsed().as_secs_f64(),
    );
    assert!(took < Duration::from_secs(30), "recovered after {took:?}");
    assert!(each < MOST_EACH, "{each} packets for each node");
}

/// A healthy cluster with a volatile and a persistent database.
fn with_databases(nodes: u32) -> World {
    let options = Options {
        nodes,
        cluster_lock: true,
        ..Options::default()
    };
    let mut world = World::new(u64::from(nodes), options);
    wait(&mut world, "come up");
    let first = Pnn::new(0).expect("the first node");
    admin::order(first, &Request::DbAttach("locks.tdb".into()), &mut world);
    admin::order(
        first,
        &Request::DbAttachPersistent("secrets.tdb".into()),
        &mut world,
    );
    world.run_for(Duration::from_secs(1));
    world
}

/// How many packets there were, and of the most frequent kinds.
fn listed(sent: &BTreeMap<String, u64>) -> String {
    let all: u64 = sent.values().sum();
    let mut kinds: Vec<_> = sent.iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let kinds = kinds.iter().take(6);
    let kinds: Vec<_> = kinds
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    format!("{all} packets ({}, ...)", kinds.join(", "))
}

#[track_caller]
fn wait(world: &mut World, what: &str) {
    let end = world.elapsed() + MINUTE * 2;
    while !world.is_healthy() {
        assert!(world.elapsed() < end, "did not {what}: {}", world.report());
        world.run_for(Duration::from_millis(50));
    }
}

fn leader(world: &World) -> Pnn {
    world
        .running()
        .find(|node| node.leads())
        .map(Node::pnn)
        .expect("a healthy cluster is led")
}
