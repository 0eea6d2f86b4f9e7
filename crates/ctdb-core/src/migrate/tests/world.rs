//! Clients on three nodes, in random order, with recoveries in between; then what must be true of
//! every record (data-plane.md 2.3), of every call, and of every counter.
//!
//! Each client does what smbd does (3.14): look at the local record under its lock, use it if it
//! is there to be used, else call the daemon and look again. Using it means to add one to the
//! number in it, so an update that gets lost is seen in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{
    Body, CallFlags, CallId, ClientId, DbFlags, Generation, KeyData, RecordFlags, ReqCall, ReqId,
};
use fastrand::Rng;

use super::fixture::{DB, NODES, call, pnn, show};
use super::net::Net;

const CLIENTS: u32 = 9;
const KEYS: usize = 4;

/// One process that works on records.
struct Client {
    node: u32,
    id: ClientId,
    wants: Option<Want>,
    /// The call it waits for.
    waiting: Option<ReqId>,
}

#[derive(Clone, Debug)]
struct Want {
    key: Bytes,
    kind: Kind,
    rounds: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Increment,
    Delete,
    /// A read-only copy will do.
    Read,
}

struct World {
    net: Net,
    rng: Rng,
    clients: Vec<Client>,
    keys: Vec<Bytes>,
    /// What the number in each record must be.
    expected: BTreeMap<Bytes, u64>,
    answered: BTreeSet<(u32, u32)>,
    next_reqid: u32,
    generation: u32,
    seed: u64,
    done: u32,
}

impl World {
    fn new(seed: u64, flags: DbFlags) -> Self {
        let mut net = Net::new(flags);
        let clients = (0..CLIENTS).map(|n| Client {
            node: n % NODES,
            id: ClientId(1000 + n),
            wants: None,
            waiting: None,
        });
        let keys: Vec<Bytes> = (0..KEYS).map(|n| Bytes::from(format!("hot{n}"))).collect();
        net.run();
        Self {
            net,
            rng: Rng::with_seed(seed),
            clients: clients.collect(),
            expected: keys.iter().map(|key| (key.clone(), 0)).collect(),
            keys,
            answered: BTreeSet::new(),
            next_reqid: 1,
            generation: 5,
            seed,
            done: 0,
        }
    }

    /// One random thing happens.
    fn step(&mut self, start_new: bool) {
        let steps = self.net.steps();
        match self.rng.u32(0..100) {
            0..=2 => self
                .net
                .advance(Duration::from_micros(self.rng.u64(1..400))),
            3 if self.rng.u32(0..20) == 0 => self.net.advance(Duration::from_secs(11)),
            4..=30 => {
                let client = self.rng.usize(0..self.clients.len());
                self.client_turn(client, start_new);
            }
            _ if !steps.is_empty() => {
                let step = &steps[self.rng.usize(0..steps.len())];
                self.net.step(step);
            }
            _ => {}
        }
        self.deliver_answers();
    }

    fn client_turn(&mut self, at: usize, start_new: bool) {
        if self.clients[at].waiting.is_some() {
            return;
        }
        if self.clients[at].wants.is_none() {
            if !start_new {
                return;
            }
            let key = self.keys[self.rng.usize(0..KEYS)].clone();
            let kind = match self.rng.u32(0..20) {
                0 => Kind::Delete,
                1..=8 => Kind::Read,
                _ => Kind::Increment,
            };
            self.clients[at].wants = Some(Want {
                key,
                kind,
                rounds: 0,
            });
        }
        let want = self.clients[at].wants.clone().expect("was just set");
        if self.use_record(at, &want) {
            self.clients[at].wants = None;
            self.done += 1;
        } else {
            self.ask(at, &want);
        }
    }

    /// What the client does under the chain lock. `false` if the record is not usable here.
    fn use_record(&mut self, at: usize, want: &Want) -> bool {
        let me = self.clients[at].node;
        let frozen = self.net.node(me).database().is_frozen();
        if frozen {
            return false; // The client would wait for the lock.
        }
        let node = self.net.node(me);
        let Some(record) = node.records.get_mut(&want.key) else {
            return false;
        };
        let flags = record.header.flags;
        let mine = record.header.dmaster == me;
        let number = number_in(&record.data);
        match want.kind {
            Kind::Read if mine || flags.contains(RecordFlags::RO_HAVE_READONLY) => {
                let (seed, key) = (self.seed, &want.key);
                assert_eq!(
                    number, self.expected[key],
                    "seed {seed}: {key:?} is stale on {me}"
                );
                true
            }
            Kind::Increment | Kind::Delete
                if mine && !flags.contains(RecordFlags::RO_HAVE_DELEGATIONS) =>
            {
                let deletes = want.kind == Kind::Delete;
                let next = if deletes { 0 } else { number + 1 };
                record.data = if deletes {
                    Bytes::new()
                } else {
                    next.to_string().into()
                };
                let (seed, key) = (self.seed, &want.key);
                assert_eq!(
                    number, self.expected[key],
                    "seed {seed}: lost update of {key:?}"
                );
                self.expected.insert(want.key.clone(), next);
                if deletes {
                    let header = record.header;
                    let data = KeyData {
                        db_id: DB,
                        header,
                        key: want.key.clone(),
                    };
                    node.migrator
                        .schedule_for_deletion(&data, &mut node.cluster);
                }
                true
            }
            _ => false,
        }
    }

    fn ask(&mut self, at: usize, want: &Want) {
        let reqid = self.next_reqid;
        self.next_reqid += 1;
        let client = &mut self.clients[at];
        client.waiting = Some(ReqId(reqid));
        let want_mut = client.wants.as_mut().expect("it wants something");
        want_mut.rounds += 1;
        assert!(
            want_mut.rounds < 500,
            "seed {}: {want:?} never comes to rest",
            self.seed
        );
        let flags = match want.kind {
            Kind::Read => CallFlags::WANT_READONLY,
            _ => CallFlags::IMMEDIATE_MIGRATION,
        };
        let asked = ReqCall {
            flags,
            ..call(&want.key, CallId::NULL)
        };
        let (node, id) = (client.node, client.id);
        self.net.node(node).client_call(id.get(), reqid, asked);
        self.net.collect(node);
    }

    fn deliver_answers(&mut self) {
        for (node, to, packet) in std::mem::take(&mut self.net.to_clients) {
            let seed = self.seed;
            let Some(client) = self
                .clients
                .iter_mut()
                .find(|c| c.id == to && c.node == node)
            else {
                continue; // It has left.
            };
            let reqid = packet.header.reqid;
            assert!(
                self.answered.insert((to.get(), reqid.get())),
                "seed {seed}: {reqid} of client {to} is answered twice"
            );
            assert_eq!(client.waiting, Some(reqid), "seed {seed}: nobody asked");
            assert!(
                matches!(packet.body, Body::ReplyCall(_)),
                "seed {seed}: {}",
                show(&packet)
            );
            client.waiting = None;
        }
    }

    /// A client goes away, perhaps with a call on its way, and another one comes.
    fn replace_client(&mut self) {
        let at = self.rng.usize(0..self.clients.len());
        let (node, gone) = (self.clients[at].node, self.clients[at].id);
        let node_state = self.net.node(node);
        node_state.gone.insert(gone);
        node_state
            .migrator
            .client_gone(gone, &mut node_state.cluster);
        self.net.collect(node);
        self.deliver_answers();
        let id = ClientId(gone.get() + 1000);
        self.clients[at] = Client {
            node,
            id,
            wants: None,
            waiting: None,
        };
    }

    /// The databases freeze, the newest copies win, and the nodes thaw one after the other while
    /// others go on; packets of before are still on their way.
    fn recovery(&mut self) {
        self.net.freeze();
        for _ in 0..self.rng.u32(0..40) {
            self.step(true);
        }
        self.generation += 1;
        let leader = self.rng.u32(0..NODES);
        let mut map: Vec<_> = (0..NODES).map(pnn).collect();
        self.rng.shuffle(&mut map);
        for node in &mut self.net.nodes {
            node.cluster.vnn_map.map.clone_from(&map);
        }
        self.net.recover(leader, Generation(self.generation));
        for me in 0..NODES {
            self.net.thaw(me);
            for _ in 0..self.rng.u32(0..10) {
                self.step(true);
            }
        }
    }

    /// No new work; all that is under way comes to its end.
    fn come_to_rest(&mut self) {
        for _ in 0..100_000 {
            self.step(false);
            let busy = self
                .clients
                .iter()
                .any(|c| c.waiting.is_some() || c.wants.is_some());
            if !busy && self.net.steps().is_empty() {
                break;
            }
            if self.net.steps().is_empty() {
                self.net.advance(Duration::from_millis(1100));
            }
        }
        let busy: Vec<_> = self
            .clients
            .iter()
            .filter_map(|c| c.wants.as_ref())
            .collect();
        assert!(
            busy.is_empty(),
            "seed {}: still waiting: {busy:?}",
            self.seed
        );
        self.net.run();
    }

    /// The invariants I1 to I3, and what the clients wrote.
    fn check(&mut self) {
        let seed = self.seed;
        for key in self.keys.clone() {
            let shown = self.net.record(&key);
            let lmaster = self.net.nodes[0].cluster.vnn_map.lmaster(&key).unwrap();
            let copies: Vec<_> = self
                .net
                .nodes
                .iter()
                .map(|node| node.records.get(&key).cloned())
                .collect();
            let owners: Vec<u32> = (0..NODES)
                .filter(|me| {
                    let copy = &copies[*me as usize];
                    copy.as_ref().is_some_and(|r| r.header.dmaster == *me)
                })
                .collect();
            let context = format!("seed {seed}: {key:?} lmaster {lmaster}: {shown:?}");
            let [owner] = owners[..] else {
                let nowhere = copies.iter().all(Option::is_none);
                assert!(nowhere && owners.is_empty(), "I1: {context}");
                assert_eq!(self.expected[&key], 0, "{context}");
                continue;
            };
            let Some(at_lmaster) = &copies[lmaster.index()] else {
                panic!("I2: {context}");
            };
            assert_eq!(at_lmaster.header.dmaster, owner, "I2: {context}");
            let newest = copies[owner as usize].clone().expect("it is the owner's");
            for (me, copy) in copies.iter().enumerate() {
                let older = |rsn| rsn < newest.header.rsn;
                let copy = copy.as_ref().filter(|_| me != owner as usize);
                assert!(copy.is_none_or(|c| older(c.header.rsn)), "I3: {context}");
            }
            assert_eq!(number_in(&newest.data), self.expected[&key], "{context}");
        }
        for node in &self.net.nodes {
            assert_eq!(node.cluster.statistics.pending_calls, 0, "seed {seed}");
        }
    }
}

fn number_in(data: &[u8]) -> u64 {
    std::str::from_utf8(data).unwrap().parse().unwrap_or(0)
}

fn live(seed: u64, flags: DbFlags, recoveries: bool) {
    let mut world = World::new(seed, flags);
    for round in 0..6 {
        for _ in 0..400 {
            world.step(true);
            if world.rng.u32(0..300) == 0 {
                world.replace_client();
            }
        }
        if recoveries && round % 2 == 1 {
            world.recovery();
        }
        if round == 2 {
            world.come_to_rest();
            world.check();
        }
    }
    world.come_to_rest();
    world.check();
    assert!(
        world.done > 100,
        "seed {seed}: only {} were done",
        world.done
    );
    // What is deleted at last leaves all nodes.
    world.net.idle_for(Duration::from_secs(60));
    world.check();
    for key in world.keys.clone() {
        let delegated = world.net.nodes.iter().any(|node| {
            let copy = node.records.get(&key);
            copy.is_some_and(|r| r.header.flags.intersects(RecordFlags::RO_FLAGS))
        });
        // An empty record with read-only copies stays until a call takes them back (4.5).
        if world.expected[&key] == 0 && !delegated {
            assert_eq!(
                world.net.record(&key),
                ["-", "-", "-"],
                "seed {seed}: {key:?}"
            );
        }
    }
}

const SEEDS: std::ops::Range<u64> = 0..60;

#[test]
fn calls_are_answered_and_nothing_is_lost() {
    SEEDS.for_each(|seed| live(seed, DbFlags::empty(), false));
}

#[test]
fn recoveries_lose_no_call_and_no_update() {
    SEEDS.for_each(|seed| live(seed, DbFlags::empty(), true));
}

#[test]
fn read_only_copies_are_never_stale() {
    SEEDS.for_each(|seed| live(seed, DbFlags::READONLY, true));
}

#[test]
fn sticky_records_come_to_rest_too() {
    SEEDS.for_each(|seed| live(seed, DbFlags::STICKY, true));
}
