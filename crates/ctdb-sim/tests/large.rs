//! Large clusters that lose their leader: what a recovery costs there.

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

fn lose_the_leader(nodes: u32) {
    let wall = Instant::now();
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
    let (packets, up) = (world.cost().packets, world.elapsed());
    let leader = leader(&world);
    world.kill(leader);
    wait(&mut world, "recover");
    let took = world.elapsed().saturating_sub(up);
    let cost = world.cost().packets - packets;
    let _ = writeln!(
        std::io::stderr(),
        "{nodes} nodes: up after {:.3} s and {packets} packets; leader lost: recovered after \
         {:.3} s and {cost} packets ({} for each node); {:.1} s of real time",
        up.as_secs_f64(),
        took.as_secs_f64(),
        cost / u64::from(nodes),
        wall.elapsed().as_secs_f64(),
    );
    assert!(took < Duration::from_secs(30), "recovered after {took:?}");
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
