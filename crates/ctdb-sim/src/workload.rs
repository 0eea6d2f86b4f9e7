//! The clients of a run: like `smbd`, they count in volatile records and commit to a persistent
//! database, on every node that runs, all the while.
//!
//! A counter is written only by who finds its own node to be the dmaster, under the lock of the
//! record: nobody else may write meanwhile, so no count can be lost but with the node that has it.
//! Commits are serialised, as the `g_lock` of Samba does.

use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::control::Request;
use ctdb_proto::{
    Body, CURRENT_NODE, CallFlags, CallId, ClientId, ControlFlags, DB_SEQNUM_KEY, DbId, Generation,
    Header, Packet, Pnn, RecBuffer, RecordFlags, RecordHeader, ReqCall, ReqId, Rsn,
};

use crate::observed::Observed;
use crate::world::World;

/// The volatile database of the counters.
pub const COUNTERS: &str = "counters.tdb";
/// The persistent database.
pub const COMMITS: &str = "commits.tdb";
/// The counters: few, so that the nodes contend for them.
pub const KEYS: [&[u8]; 5] = [b"hot", b"warm", b"cool", b"cold", b"frozen"];

/// Clients of each node.
const CLIENTS: u32 = 2;
/// Bounds of the pause between two operations of a client, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 5..400;
/// After an attach or a call that failed.
const RETRY: Duration = Duration::from_millis(500);
/// One of so many operations is a commit.
const COMMIT_EVERY: u32 = 8;

/// All clients of the cluster.
pub struct Workload {
    random: fastrand::Rng,
    clients: Vec<Client>,
    /// The client that holds the right to commit.
    committing: Option<usize>,
    commits: u64,
    /// Counts that were written.
    pub counted: u64,
    /// Commits that were acknowledged.
    pub committed: u64,
    resting: bool,
}

struct Client {
    node: Pnn,
    /// Of its node: a client ends with the daemon.
    life: u64,
    id: Option<ClientId>,
    state: State,
    /// When it does the next thing, unless it waits for an answer.
    next: Duration,
    last_reqid: u32,
}

#[derive(Clone, Debug)]
enum State {
    /// Not connected, or not attached to both databases.
    Outside,
    Attaching {
        persistent: bool,
        since: Duration,
    },
    Idle,
    Fetching {
        key: &'static [u8],
        since: Duration,
    },
    Committing {
        key: Bytes,
        since: Duration,
    },
}

impl Workload {
    /// Clients on all nodes.
    pub fn new(seed: u64, world: &World) -> Self {
        let client = |node| Client {
            node,
            life: 0,
            id: None,
            state: State::Outside,
            next: Duration::ZERO,
            last_reqid: 0,
        };
        let nodes = world.pnns();
        Self {
            random: fastrand::Rng::with_seed(seed),
            clients: nodes
                .flat_map(|node| (0..CLIENTS).map(move |_| client(node)))
                .collect(),
            committing: None,
            commits: 0,
            counted: 0,
            committed: 0,
            resting: false,
        }
    }

    /// No client begins anything new.
    pub fn rest(&mut self) {
        self.resting = true;
    }

    /// When a client wants to do something.
    pub fn next_at(&self) -> Option<Duration> {
        let ready = |c: &&Client| matches!(c.state, State::Outside | State::Idle);
        let clients = self.clients.iter().filter(|_| !self.resting);
        clients.filter(ready).map(|client| client.next).min()
    }

    /// Who waits for an answer, since when, for what.
    pub fn waiting(&self, world: &World) -> Vec<(Pnn, Duration, String)> {
        let alive = |c: &&Client| world.node(c.node).is_some() && world.life(c.node) == c.life;
        let waits = |c: &Client| match &c.state {
            State::Outside | State::Idle => None,
            State::Attaching { since, .. } => Some((c.node, *since, "to attach".to_owned())),
            State::Fetching { key, since } => {
                Some((c.node, *since, format!("for {}", key.escape_ascii())))
            }
            State::Committing { since, .. } => Some((c.node, *since, "for a commit".to_owned())),
        };
        self.clients
            .iter()
            .filter(alive)
            .filter_map(waits)
            .collect()
    }

    /// Lets the clients act whose time has come.
    pub fn act(&mut self, world: &mut World) {
        let now = world.elapsed();
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if client.next <= now && matches!(client.state, State::Outside | State::Idle) {
                self.act_one(index, world);
            }
        }
    }

    /// Lets the clients of a node take what has come for them.
    pub fn take_answers(&mut self, node: Pnn, world: &mut World) {
        let per_node = CLIENTS as usize;
        for index in node.index() * per_node..(node.index() + 1) * per_node {
            if self.clients[index].life != world.life(node) || world.node(node).is_none() {
                self.end(index);
                continue;
            }
            let client = &self.clients[index];
            let (Some(id), reqid) = (client.id, client.last_reqid) else {
                continue;
            };
            let answers = world.inbox(node, id);
            if let Some(answer) = answers.into_iter().find(|p| p.header.reqid.0 == reqid) {
                self.answered(index, &answer.body, world);
            }
        }
    }

    /// The client has ended with its node.
    fn end(&mut self, index: usize) {
        let client = &mut self.clients[index];
        (client.id, client.state) = (None, State::Outside);
        self.committing.take_if(|holder| *holder == index);
    }

    fn act_one(&mut self, index: usize, world: &mut World) {
        let client = &mut self.clients[index];
        client.next = world.elapsed() + RETRY;
        if world.is_paused(client.node) || world.node(client.node).is_none() {
            return;
        }
        if matches!(client.state, State::Outside) {
            return self.connect(index, world);
        }
        if self.random.u32(..COMMIT_EVERY) == 0 && self.committing.is_none() {
            self.commit(index, world);
        } else {
            let key = KEYS[self.random.usize(..KEYS.len())];
            self.count(index, key, world);
        }
    }

    fn connect(&mut self, index: usize, world: &mut World) {
        let client = &mut self.clients[index];
        client.life = world.life(client.node);
        client.id = client
            .id
            .or_else(|| world.connect_client(client.node, 4711));
        self.attach(index, false, world);
    }

    fn attach(&mut self, index: usize, persistent: bool, world: &mut World) {
        let request = if persistent {
            Request::DbAttachPersistent(COMMITS.to_owned())
        } else {
            Request::DbAttach(COUNTERS.to_owned())
        };
        let since = world.elapsed();
        self.clients[index].state = State::Attaching { persistent, since };
        self.control(index, &request, world);
    }

    fn control(&mut self, index: usize, request: &Request, world: &mut World) {
        let control = request.to_control(ControlFlags::empty());
        self.send(index, Body::ReqControl(control), world);
    }

    fn send(&mut self, index: usize, body: Body, world: &mut World) {
        let client = &mut self.clients[index];
        client.last_reqid += 1;
        let header = Header {
            generation: Generation(0),
            dest: CURRENT_NODE,
            src: 0,
            reqid: ReqId(client.last_reqid),
        };
        if let Some(id) = client.id {
            world.client_sends(client.node, id, Packet { header, body });
        }
    }

    /// Counts, if this node has the record; else asks for it.
    fn count(&mut self, index: usize, key: &'static [u8], world: &mut World) {
        let node = self.clients[index].node;
        let db = DbId::of_name(COUNTERS);
        if world.disk(node).is_frozen(db) {
            // The client waits in the lock: it tries again later.
            self.pause(index, world);
        } else if let Some(number) = count_here(node, db, key, world) {
            self.counted += 1;
            let generation = world.node(node).and_then(|n| n.database_generation(db));
            world.observe(Observed::Counted {
                node,
                db,
                key: Bytes::from_static(key),
                generation: generation.unwrap_or(Generation::INVALID),
                number,
            });
            self.pause(index, world);
        } else {
            let since = world.elapsed();
            self.clients[index].state = State::Fetching { key, since };
            self.send(index, migrating_call(db, key), world);
        }
    }

    fn pause(&mut self, index: usize, world: &World) {
        let pause = Duration::from_millis(self.random.u64(PAUSE_MS));
        let client = &mut self.clients[index];
        (client.state, client.next) = (State::Idle, world.elapsed() + pause);
    }

    /// Commits one new record with the next sequence number.
    fn commit(&mut self, index: usize, world: &mut World) {
        let node = self.clients[index].node;
        let db = DbId::of_name(COMMITS);
        if world.disk(node).is_frozen(db) {
            return self.pause(index, world);
        }
        self.commits += 1;
        let key = Bytes::from(format!("commit {}", self.commits));
        let old = world.disk(node).record(db, DB_SEQNUM_KEY);
        let rsn = old.map_or(0, |record| record.header.rsn.get()) + 1;
        let seqnum = old.map_or(0, |record| number_in(&record.data)) + 1;
        let header = RecordHeader::new(Rsn(rsn), node, RecordFlags::empty());
        let what = format!(
            "{} begins on node {node}, number {seqnum}",
            key.escape_ascii()
        );
        world.note(what);
        let mut records = RecBuffer::builder(db);
        let first = RecordHeader::new(Rsn(1), node, RecordFlags::empty());
        records.push_record(ReqId(0), &key, &first, b"done");
        records.push_record(ReqId(0), DB_SEQNUM_KEY, &header, &seqnum.to_le_bytes());
        let since = world.elapsed();
        self.clients[index].state = State::Committing { key, since };
        self.committing = Some(index);
        self.control(index, &Request::Trans3Commit(records.finish()), world);
    }

    fn answered(&mut self, index: usize, body: &Body, world: &mut World) {
        let status = match body {
            Body::ReplyControl(reply) => reply.status,
            Body::ReplyCall(reply) => reply.status,
            _ => -1,
        };
        match self.clients[index].state.clone() {
            State::Outside | State::Idle => {}
            State::Attaching { .. } if status != 0 => {
                let client = &mut self.clients[index];
                (client.state, client.next) = (State::Outside, world.elapsed() + RETRY);
            }
            State::Attaching { persistent, .. } if !persistent => self.attach(index, true, world),
            State::Fetching { key, .. } if status == 0 => self.count(index, key, world),
            State::Attaching { .. } | State::Fetching { .. } => self.pause(index, world),
            State::Committing { key, .. } => {
                self.committing = None;
                if status == 0 {
                    self.committed += 1;
                    let node = self.clients[index].node;
                    let db = DbId::of_name(COMMITS);
                    world.note(format!(
                        "{} acknowledged by node {node}",
                        key.escape_ascii()
                    ));
                    world.observe(Observed::Committed { node, db, key });
                }
                self.pause(index, world);
            }
        }
    }
}

/// Adds one to a counter if this node is its dmaster.
fn count_here(node: Pnn, db: DbId, key: &[u8], world: &mut World) -> Option<u64> {
    let record = world.disk(node).record(db, key)?;
    let number = number_in(&record.data) + 1;
    let data = Bytes::copy_from_slice(&number.to_le_bytes());
    let written = world.disk_mut(node).client_write(db, key, data);
    written.then_some(number)
}

/// The number in a record; 0 in an empty one.
pub(crate) fn number_in(data: &[u8]) -> u64 {
    data.try_into().map_or(0, u64::from_le_bytes)
}

/// The call with which a node becomes dmaster of a record.
pub fn migrating_call(db: DbId, key: &[u8]) -> Body {
    Body::ReqCall(ReqCall {
        flags: CallFlags::IMMEDIATE_MIGRATION,
        db_id: db,
        call_id: CallId::NULL,
        hopcount: 0,
        key: Bytes::copy_from_slice(key),
        data: Bytes::new(),
    })
}
