//! A simulated cluster does what a cluster is for: it comes up, serves records, survives.

mod support;

use ctdb_proto::control::{Request, SetTunable};
use ctdb_proto::{
    Body, CURRENT_NODE, ControlFlags, DbId, Generation, Header, Packet, RecBuffer, RecordFlags,
    RecordHeader, ReqId, Rsn,
};
use ctdb_sim::{Options, World};
use support::{Client, SECOND, healthy_world, pnn};

#[test]
fn three_nodes_are_healthy_within_five_seconds() {
    for seed in 0..20 {
        let world = healthy_world(seed, Options::default());
        assert!(
            world.elapsed() < SECOND * 5,
            "seed {seed}: {:?}",
            world.elapsed()
        );
    }
}

#[test]
fn a_cluster_lock_chooses_the_leader() {
    for seed in 0..20 {
        let world = healthy_world(
            seed,
            Options {
                cluster_lock: true,
                ..Options::default()
            },
        );
        assert!(
            world.elapsed() < SECOND * 8,
            "seed {seed}: {:?}",
            world.elapsed()
        );
    }
}

#[test]
fn a_record_follows_those_who_write_it() {
    for seed in 0..10 {
        let mut world = healthy_world(seed, Options::default());
        let mut clients: Vec<_> = world
            .pnns()
            .map(|pnn| Client::connect(&mut world, pnn))
            .collect();
        let db = clients[0].attach(&mut world, "test.tdb");
        for client in &mut clients {
            client.attach(&mut world, "test.tdb");
        }
        for round in 0..30 {
            let count = clients[round % 3].increment(&mut world, db, b"counter");
            assert_eq!(count, round as u64 + 1, "seed {seed}");
        }
    }
}

#[test]
fn the_cluster_goes_on_without_any_one_node() {
    for victim in 0..3 {
        let mut world = healthy_world(7, Options::default());
        let rest: Vec<_> = world.pnns().filter(|p| *p != pnn(victim)).collect();
        let mut clients: Vec<_> = rest
            .iter()
            .map(|p| Client::connect(&mut world, *p))
            .collect();
        let db = clients[0].attach(&mut world, "test.tdb");
        clients[1].attach(&mut world, "test.tdb");
        let before = clients[0].increment(&mut world, db, b"counter");

        let killed_at = world.elapsed();
        world.kill(pnn(victim));
        assert!(
            world.run_until(SECOND * 10, |w| w.is_healthy()),
            "without node {victim}"
        );
        let took = world.elapsed().checked_sub(killed_at).unwrap();
        assert!(took < SECOND * 2, "{took:?} without node {victim}");

        assert_eq!(clients[1].increment(&mut world, db, b"counter"), before + 1);
        world.start(pnn(victim));
        assert!(
            world.run_until(SECOND * 10, |w| w.is_healthy()),
            "with node {victim} again"
        );
        assert_eq!(clients[0].increment(&mut world, db, b"counter"), before + 2);
    }
}

#[test]
fn a_commit_is_on_all_nodes_and_survives_them() {
    let mut world = healthy_world(3, Options::default());
    let mut client = Client::connect(&mut world, pnn(1));
    let attach = Request::DbAttachPersistent("secrets.tdb".into());
    assert_eq!(client.control(&mut world, &attach).status, 0);
    world.run_for(SECOND);
    let db = DbId::of_name("secrets.tdb");
    let mut records = RecBuffer::builder(db);
    let header = RecordHeader::new(Rsn(1), pnn(1), RecordFlags::empty());
    records.push_record(ReqId(0), b"key", &header, b"value");
    let seqnum = 1_u64.to_le_bytes();
    records.push_record(ReqId(0), ctdb_proto::DB_SEQNUM_KEY, &header, &seqnum);
    let reply = client.control(&mut world, &Request::Trans3Commit(records.finish()));
    assert_eq!(reply.status, 0);
    for node in 0..3 {
        let record = world
            .disk(pnn(node))
            .record(db, b"key")
            .expect("written everywhere");
        assert_eq!(&record.data[..], b"value");
    }
    for node in 0..3 {
        world.kill(pnn(node));
        world.start(pnn(node));
        assert!(
            world.run_until(SECOND * 20, |w| w.is_healthy()),
            "after restart of {node}"
        );
    }
    for node in 0..3 {
        let record = world
            .disk(pnn(node))
            .record(db, b"key")
            .expect("still everywhere");
        assert_eq!(&record.data[..], b"value");
    }
}

#[test]
fn counters_lose_nothing_while_nodes_are_restarted() {
    // Persistent loss is not the point here: the counter lives on the node that wrote it last,
    // and that node is never the one that is restarted.
    for seed in 0..5 {
        let mut world = healthy_world(seed, Options::default());
        let mut client = Client::connect(&mut world, pnn(0));
        let db = client.attach(&mut world, "test.tdb");
        let mut expected = 0;
        for round in 0..4 {
            let victim = pnn(1 + round % 2);
            for _ in 0..5 {
                expected += 1;
                assert_eq!(client.increment(&mut world, db, b"counter"), expected);
            }
            world.kill(victim);
            expected += 1;
            assert_eq!(
                client.increment(&mut world, db, b"counter"),
                expected,
                "seed {seed}"
            );
            world.start(victim);
            assert!(
                world.run_until(SECOND * 20, |w| w.is_healthy()),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn an_attach_at_any_moment_of_a_start_is_answered() {
    // Also between the end of the first recovery and the run state that follows it.
    let mut world = healthy_world(4, Options::default());
    let node = pnn(2);
    world.kill(node);
    world.start(node);
    let mut asking = Vec::new();
    while !world.is_healthy() {
        let client = world.connect_client(node, 4711).expect("the node runs");
        let attach = Request::DbAttach("test.tdb".to_owned());
        world.client_sends(node, client, control_packet(&attach, CURRENT_NODE));
        asking.push(client);
        world.step();
    }
    world.run_for(SECOND * 5);
    let mut answered = |client: &_| !world.inbox(node, *client).is_empty();
    let (count, answers) = (asking.len(), asking.iter().filter(|c| answered(c)).count());
    assert_eq!(answers, count, "attaches that were answered");
}

#[test]
fn a_client_of_another_node_detaches_nothing() {
    let mut world = healthy_world(5, Options::default());
    let mut clients = [0, 1].map(|node| Client::connect(&mut world, pnn(node)));
    let db = clients[0].attach(&mut world, "test.tdb");
    clients[1].attach(&mut world, "test.tdb");
    let closed = Request::SetTunable(SetTunable {
        value: 0,
        name: "AllowClientDBAttach".to_owned(),
    });
    for client in &mut clients {
        assert_eq!(client.control(&mut world, &closed).status, 0);
    }
    let stranger = world.connect_client(pnn(0), 4711).expect("the node runs");
    let detach = control_packet(&Request::DbDetach(db), 1);
    world.client_sends(pnn(0), stranger, detach);
    world.run_for(SECOND);
    let answers = world.inbox(pnn(0), stranger);
    let [answer] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    assert!(
        matches!(&answer.body, Body::ReplyControl(reply) if reply.status == -1),
        "{answer:?}"
    );
    for client in &mut clients {
        let name = client.control(&mut world, &Request::GetDbName(db));
        assert_eq!(name.status, 0, "node {} has detached", client.pnn);
    }
}

// Two nodes that do not reach each other, while both are connected with the leader.

const SECRETS: &str = "secrets.tdb";

/// A cluster that node 0 leads, with a persistent database and a client of node 1.
fn led_by_node_0(seed: u64) -> (World, Client) {
    let mut world = healthy_world(seed, Options::default());
    for node in [1, 2] {
        let mut client = Client::connect(&mut world, pnn(node));
        let resign = Request::SetRecmasterRole(false);
        assert_eq!(client.control(&mut world, &resign).status, 0);
    }
    assert!(world.run_until(SECOND * 20, |w| w.is_healthy()));
    let mut client = Client::connect(&mut world, pnn(1));
    let attach = Request::DbAttachPersistent(SECRETS.into());
    assert_eq!(client.control(&mut world, &attach).status, 0);
    world.run_for(SECOND);
    (world, client)
}

/// The members that the leader sees; node 0 in these stories.
fn members(world: &World) -> Vec<u32> {
    let leader = world.node(pnn(0)).expect("it runs");
    leader.vnn_map().map.iter().map(|pnn| pnn.get()).collect()
}

#[test]
fn a_node_becomes_a_member_when_all_members_reach_it() {
    for seed in 0..20 {
        let (mut world, _client) = led_by_node_0(seed);
        world.kill(pnn(2));
        assert!(world.run_until(SECOND * 10, |w| w.is_healthy()));
        world.cut(pnn(1), pnn(2));
        world.start(pnn(2));
        world.run_for(SECOND * 3 / 2);
        assert_eq!(members(&world), [0, 1], "seed {seed}");
        world.heal(pnn(1), pnn(2));
        assert!(
            world.run_until(SECOND * 5, |w| w.is_healthy()),
            "seed {seed}: {}",
            world.report()
        );
    }
}

fn control_packet(request: &Request, dest: u32) -> Packet {
    let header = Header {
        generation: Generation(0),
        dest,
        src: 0,
        reqid: ReqId(1),
    };
    let body = Body::ReqControl(request.to_control(ControlFlags::empty()));
    Packet { header, body }
}
