//! Nodes die, links are cut, administrators interfere, all at random and all the while clients
//! want records. No two nodes may ever both own a record; and when the faults end, the cluster
//! must come back.

mod support;

use std::time::Duration;

use ctdb_proto::control::Request;
use ctdb_proto::{
    BanState, Body, CURRENT_NODE, ClientId, ControlFlags, DbId, Generation, Header, Packet, Pnn,
    ReqId,
};
use ctdb_sim::{Options, World};
use support::{Client, SECOND, healthy_world, migrating_call, pnn};

const SEEDS: std::ops::Range<u64> = 0..60;
const KEYS: [&[u8]; 4] = [b"hot", b"warm", b"cool", b"cold"];

/// What a run of one seed goes through.
struct Chaos {
    seed: u64,
    world: World,
    random: fastrand::Rng,
    db: DbId,
    clients: Vec<Option<ClientId>>,
}

#[test]
fn a_record_never_has_two_owners_and_the_cluster_comes_back() {
    for seed in SEEDS {
        let mut chaos = Chaos::begin(seed);
        for _ in 0..300 {
            chaos.act();
            chaos.pass_time();
        }
        chaos.calm();
    }
}

impl Chaos {
    fn begin(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        // With a cluster lock: without one a partition makes two clusters, which both write.
        let options = Options {
            nodes: random.u32(3..6),
            cluster_lock: true,
            ..Options::default()
        };
        let mut world = healthy_world(seed, options);
        let mut client = Client::connect(&mut world, pnn(0));
        let db = client.attach(&mut world, "chaos.tdb");
        world.run_for(SECOND);
        let clients = world.pnns().map(|_| None).collect();
        Self {
            seed,
            world,
            random,
            db,
            clients,
        }
    }

    fn any(&mut self) -> Pnn {
        let nodes: Vec<_> = self.world.pnns().collect();
        nodes[self.random.usize(..nodes.len())]
    }

    /// One random thing happens.
    fn act(&mut self) {
        let (node, other) = (self.any(), self.any());
        match self.random.u32(..100) {
            0..2 => self.kill(node),
            2..8 => self.start(node),
            8..10 => self.world.cut(node, other),
            10..18 => self.world.heal(node, other),
            18..20 => self.order(node, &Request::StopNode),
            20..24 => self.order(node, &Request::ContinueNode),
            24 => {
                let time = Duration::from_secs(self.random.u64(1..5));
                self.order(node, &Request::SetBanState(BanState { pnn: node, time }));
            }
            25 => self.order(node, &Request::SetRecMode(ctdb_proto::RecMode::Active)),
            _ => self.call(node),
        }
    }

    fn kill(&mut self, node: Pnn) {
        self.clients[node.index()] = None;
        self.world.kill(node);
    }

    fn start(&mut self, node: Pnn) {
        if self.world.node(node).is_none() {
            self.world.start(node);
        }
    }

    fn client(&mut self, node: Pnn) -> Option<ClientId> {
        let slot = &mut self.clients[node.index()];
        if slot.is_none() {
            *slot = self.world.connect_client(node, 4711);
        }
        *slot
    }

    fn send(&mut self, node: Pnn, body: Body) {
        if let Some(client) = self.client(node) {
            let header = Header {
                generation: Generation(0),
                dest: CURRENT_NODE,
                src: 0,
                reqid: ReqId(1),
            };
            self.world
                .client_sends(node, client, Packet { header, body });
        }
    }

    fn order(&mut self, node: Pnn, request: &Request) {
        self.send(
            node,
            Body::ReqControl(request.to_control(ControlFlags::empty())),
        );
    }

    fn call(&mut self, node: Pnn) {
        let key = KEYS[self.random.usize(..KEYS.len())];
        if self.random.bool() {
            let data = vec![self.random.u8(..); 4].into();
            self.world.disk(node).client_write(self.db, key, data);
        } else {
            self.send(node, migrating_call(self.db, key));
        }
    }

    fn pass_time(&mut self) {
        let span = Duration::from_millis(self.random.u64(1..400));
        let end = self.world.elapsed() + span;
        while self.world.elapsed() < end {
            self.world.step();
            self.check();
        }
    }

    /// Between recoveries at most one node of a generation owns a record.
    fn check(&mut self) {
        for key in KEYS {
            let mut owner: Option<(Pnn, Generation)> = None;
            for node in self.world.pnns() {
                let Some(running) = self.world.node(node) else {
                    continue;
                };
                let generation = running.vnn_map().generation;
                if running.is_in_recovery() || generation == Generation::INVALID {
                    continue;
                }
                let record = self.world.disk(node).record(self.db, key);
                if record.is_none_or(|r| r.header.dmaster != node.get()) {
                    continue;
                }
                match owner {
                    Some((first, same)) if same == generation => panic!(
                        "seed {} at {:?}: nodes {first} and {node} both own {key:?}",
                        self.seed,
                        self.world.elapsed(),
                    ),
                    _ => owner = Some((node, generation)),
                }
            }
        }
    }

    /// The faults end: the cluster must become healthy, and serve every record to every node.
    fn calm(mut self) {
        let nodes: Vec<_> = self.world.pnns().collect();
        for (index, node) in nodes.iter().enumerate() {
            self.start(*node);
            for other in &nodes[index + 1..] {
                self.world.heal(*node, *other);
            }
        }
        self.world.run_for(SECOND * 2);
        for node in &nodes {
            self.order(*node, &Request::ContinueNode);
            let unban = BanState {
                pnn: *node,
                time: Duration::ZERO,
            };
            self.order(*node, &Request::SetBanState(unban));
        }
        let healthy = self.world.run_until(SECOND * 120, |w| w.is_healthy());
        assert!(
            healthy,
            "seed {}: not healthy again; {}",
            self.seed,
            self.world.report()
        );
        for node in nodes {
            let mut client = Client::connect(&mut self.world, node);
            client.attach(&mut self.world, "chaos.tdb");
            for key in KEYS {
                client.increment(&mut self.world, self.db, key);
            }
        }
    }
}
