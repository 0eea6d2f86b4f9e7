//! The world around the nodes: time, links, clients, event scripts, the cluster lock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_conf::Tunables;
use ctdb_core::{
    ClusterLockEvent, ConfiguredNode, DbOp, Effect, EventOutcome, Input, LockAttempt, LockTest,
    Node, NodeConfig, RecordJob, Ticket,
};
use ctdb_proto::{Capabilities, ClientId, DbId, NodeFlags, Packet, Pnn, RunState, SambaVersion};

use crate::disk::Disk;

/// Time that a packet takes, at least; up to as much again is added.
const LATENCY: Duration = Duration::from_micros(200);
/// Between two tries to connect.
const CONNECT_RETRY: Duration = Duration::from_secs(1);
/// How far time jumps when no node runs.
const NOTHING_TO_DO: Duration = Duration::from_millis(100);
/// What an event script or work on a database takes.
const WORK: Duration = Duration::from_millis(2);

/// What a run is made of, besides its seed.
#[derive(Clone, Debug)]
pub struct Options {
    pub nodes: u32,
    pub cluster_lock: bool,
    /// Test mode of the daemon: no grace periods at the start.
    pub fast_start: bool,
    pub tunables: Tunables,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            cluster_lock: false,
            fast_start: true,
            tunables: Tunables::default(),
        }
    }
}

/// A cluster with everything around it.
pub struct World {
    options: Options,
    start: Instant,
    now: Instant,
    random: fastrand::Rng,
    hosts: Vec<Host>,
    /// What will happen, in its order.
    agenda: BTreeMap<(Instant, u64), Happening>,
    serial: u64,
    /// Connections that stand: from the one who made it.
    links: BTreeSet<(Pnn, Pnn)>,
    /// Pairs that cannot reach each other.
    cut: BTreeSet<(Pnn, Pnn)>,
    /// When the last packet on a link arrives: they stay in order.
    last_arrival: BTreeMap<(Pnn, Pnn), Instant>,
    lock_holder: Option<Pnn>,
    steps: u64,
}

/// One node with its surroundings. Without a daemon it is down.
struct Host {
    pnn: Pnn,
    daemon: Option<Daemon>,
    disk: Disk,
    /// Grows with each start of the daemon: what was meant for an earlier one is dropped.
    life: u64,
}

struct Daemon {
    node: Node,
    open: bool,
    /// Jobs that met a frozen database.
    held: Vec<RecordJob>,
    inbox: BTreeMap<ClientId, Vec<Packet>>,
    lost: Vec<String>,
}

enum Happening {
    Input {
        to: Pnn,
        life: u64,
        input: Input,
    },
    /// A packet on its way from one node to another.
    Arrival {
        from: Pnn,
        to: Pnn,
        packet: Packet,
    },
    Connect {
        from: Pnn,
        to: Pnn,
        life: u64,
    },
}

impl World {
    /// All nodes of the cluster are started.
    pub fn new(seed: u64, options: Options) -> Self {
        let start = Instant::now();
        let pnns = (0..options.nodes).map_while(Pnn::new);
        let host = |pnn| Host {
            pnn,
            daemon: None,
            disk: Disk::new(pnn),
            life: 0,
        };
        let mut world = Self {
            hosts: pnns.clone().map(host).collect(),
            options,
            start,
            now: start,
            random: fastrand::Rng::with_seed(seed),
            agenda: BTreeMap::new(),
            serial: 0,
            links: BTreeSet::new(),
            cut: BTreeSet::new(),
            last_arrival: BTreeMap::new(),
            lock_holder: None,
            steps: 0,
        };
        for pnn in pnns {
            world.start(pnn);
        }
        world
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// All nodes, also those that are down.
    pub fn pnns(&self) -> impl Iterator<Item = Pnn> + use<> {
        (0..self.options.nodes).map_while(Pnn::new)
    }

    /// The node, if its daemon runs.
    pub fn node(&self, pnn: Pnn) -> Option<&Node> {
        self.host(pnn).daemon.as_ref().map(|daemon| &daemon.node)
    }

    /// The databases of a node.
    pub fn disk(&mut self, pnn: Pnn) -> &mut Disk {
        &mut self.host_mut(pnn).disk
    }

    /// Starts the daemon of a node.
    pub fn start(&mut self, pnn: Pnn) {
        let config = self.config(pnn);
        let now = self.now;
        let host = self.host_mut(pnn);
        host.life += 1;
        host.daemon = Some(Daemon {
            node: Node::new(config, now),
            open: false,
            held: Vec::new(),
            inbox: BTreeMap::new(),
            lost: Vec::new(),
        });
        self.carry_out(pnn);
    }

    /// Ends the daemon of a node without warning.
    pub fn kill(&mut self, pnn: Pnn) {
        let host = self.host_mut(pnn);
        host.daemon = None;
        host.disk.crash();
        if self.lock_holder == Some(pnn) {
            self.lock_holder = None;
        }
        for other in self.pnns() {
            self.break_links(pnn, other, "connection closed");
        }
    }

    /// Cuts two nodes off from each other, silently: what is sent is lost.
    pub fn cut(&mut self, a: Pnn, b: Pnn) {
        self.cut.insert(pair(a, b));
    }

    /// Undoes [`Self::cut`]; connections that stood all the while must be made anew.
    pub fn heal(&mut self, a: Pnn, b: Pnn) {
        if self.cut.remove(&pair(a, b)) {
            self.break_links(a, b, "connection reset");
        }
    }

    /// A local process connects to the daemon of a node that runs.
    pub fn connect_client(&mut self, pnn: Pnn, pid: i32) -> Option<ClientId> {
        let now = self.now;
        let daemon = self.host_mut(pnn).daemon.as_mut()?;
        let client = daemon.node.accept_client(pid, now);
        daemon.inbox.insert(client, Vec::new());
        Some(client)
    }

    /// A client sends a packet.
    pub fn client_sends(&mut self, pnn: Pnn, client: ClientId, packet: Packet) {
        self.tell(pnn, Input::ClientPacket { client, packet });
    }

    /// What a client has received since the last look.
    pub fn inbox(&mut self, pnn: Pnn, client: ClientId) -> Vec<Packet> {
        let daemon = self.host_mut(pnn).daemon.as_mut();
        daemon
            .and_then(|d| d.inbox.get_mut(&client))
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// An input for a node, now.
    pub fn tell(&mut self, pnn: Pnn, input: Input) {
        let now = self.now;
        if let Some(daemon) = &mut self.host_mut(pnn).daemon {
            daemon.node.handle(input, now);
            self.carry_out(pnn);
        }
    }

    /// Lets time pass until something happens, and lets it happen.
    pub fn step(&mut self) {
        self.steps += 1;
        let sleeper = self.next_to_wake();
        let next = self.agenda.first_key_value().map(|(key, _)| *key);
        match (next, sleeper) {
            (Some(key), wake) if wake.is_none_or(|(at, _)| key.0 <= at) => {
                self.now = self.now.max(key.0);
                if let Some(happening) = self.agenda.remove(&key) {
                    self.happens(happening);
                }
            }
            (_, Some((at, pnn))) => {
                self.now = self.now.max(at);
                self.wake(pnn);
            }
            _ => self.now += NOTHING_TO_DO,
        }
    }

    /// Runs until the condition holds; false if it does not within `limit`.
    pub fn run_until(&mut self, limit: Duration, condition: impl Fn(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        while self.now < end {
            if condition(self) {
                return true;
            }
            self.step();
        }
        condition(self)
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(duration, |_| false);
    }

    /// Whether every running node is RUNNING and healthy, out of recovery, and of the same
    /// generation with exactly the running nodes in its vnn map.
    pub fn is_healthy(&self) -> bool {
        let running: Vec<_> = self
            .pnns()
            .filter(|pnn| self.node(*pnn).is_some())
            .collect();
        let nodes = || running.iter().filter_map(|pnn| self.node(*pnn));
        let generation = nodes().next().map(|node| node.vnn_map().generation);
        nodes().all(|node| {
            node.run_state() == RunState::Running
                && node.flags_of(node.pnn()).is_empty()
                && !node.is_in_recovery()
                && node.vnn_map().map == running
                && Some(node.vnn_map().generation) == generation
        })
    }

    /// What each node believes, and what it decided lately: for the report of a failed run.
    pub fn report(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!(
            "at {:?}, cluster lock: {:?}\n",
            self.elapsed(),
            self.lock_holder
        );
        for pnn in self.pnns() {
            let Some(node) = self.node(pnn) else {
                let _ = writeln!(text, "node {pnn}: down");
                continue;
            };
            let flags: Vec<_> = self.pnns().map(|p| node.flags_of(p).bits()).collect();
            let _ = writeln!(
                text,
                "node {pnn}: {}, flags of all {flags:x?}, in recovery: {}, {:?}",
                node.run_state(),
                node.is_in_recovery(),
                node.vnn_map(),
            );
            for decision in node
                .history()
                .into_iter()
                .flat_map(|h| h.decisions().rev().take(12))
            {
                let _ = writeln!(text, "    {:?}: {decision}", decision.at - self.start);
            }
        }
        text
    }

    /// Steps done so far: what a run has cost.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    fn host(&self, pnn: Pnn) -> &Host {
        &self.hosts[pnn.index()]
    }

    fn host_mut(&mut self, pnn: Pnn) -> &mut Host {
        &mut self.hosts[pnn.index()]
    }

    fn config(&mut self, pnn: Pnn) -> NodeConfig {
        let nodes = self.pnns().map(|pnn| ConfiguredNode {
            addr: addr(pnn),
            deleted: false,
        });
        NodeConfig {
            pnn,
            nodes: nodes.collect(),
            tunables: self.options.tunables,
            capabilities: Capabilities::DEFAULT,
            start_flags: NodeFlags::empty(),
            cluster_lock: self
                .options
                .cluster_lock
                .then(|| "/simulated/lock".to_owned()),
            leader_timeout: Duration::from_secs(5),
            keepalive_interval: None,
            failover_disabled: false,
            version: SambaVersion::new(4, 24),
            version_pinned: false,
            fast_start: self.options.fast_start,
            persistent_databases: self.host(pnn).disk.persistent(),
            pid: 1000 + pnn.get().cast_signed(),
            debug_level: 2,
            started: Duration::from_secs(1_800_000_000) + self.elapsed(),
            seed: self.random.u64(..),
        }
    }

    fn plan(&mut self, after: Duration, happening: Happening) {
        self.serial += 1;
        self.agenda
            .insert((self.now + after, self.serial), happening);
    }

    fn plan_input(&mut self, to: Pnn, after: Duration, input: Input) {
        let life = self.host(to).life;
        self.plan(after, Happening::Input { to, life, input });
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Input { to, life, input } => {
                if self.host(to).life == life {
                    self.tell(to, input);
                }
            }
            Happening::Arrival { from, to, packet } => {
                if self.links.contains(&(from, to)) {
                    self.tell(to, Input::PeerPacket { from, packet });
                }
            }
            Happening::Connect { from, to, life } => {
                if self.host(from).life == life {
                    self.connect(from, to);
                }
            }
        }
    }

    fn connect(&mut self, from: Pnn, to: Pnn) {
        let is_open = |host: &Host| host.daemon.as_ref().is_some_and(|d| d.open);
        if !is_open(self.host(from)) || self.links.contains(&(from, to)) {
            return;
        }
        let now = self.now;
        let reachable = !self.cut.contains(&pair(from, to)) && is_open(self.host(to));
        let taken = reachable
            && self
                .host_mut(to)
                .daemon
                .as_mut()
                .is_some_and(|daemon| daemon.node.accept_peer(addr(from).ip(), now).is_ok());
        if taken {
            self.links.insert((from, to));
            self.carry_out(to);
            self.tell(from, Input::OutgoingUp(to));
        } else {
            let life = self.host(from).life;
            self.plan(CONNECT_RETRY, Happening::Connect { from, to, life });
        }
    }

    /// Both connections between two nodes end, and both sides notice.
    fn break_links(&mut self, a: Pnn, b: Pnn, reason: &str) {
        for (from, to) in [(a, b), (b, a)] {
            self.links.remove(&(from, to));
            self.last_arrival.remove(&(from, to));
        }
        for (this, other) in [(a, b), (b, a)] {
            if this != other && self.node(this).is_some() {
                let reason = reason.to_owned();
                self.tell(this, Input::LinkLost { pnn: other, reason });
                let life = self.host(this).life;
                self.plan(
                    LATENCY * 2,
                    Happening::Connect {
                        from: this,
                        to: other,
                        life,
                    },
                );
            }
        }
    }

    fn next_to_wake(&self) -> Option<(Instant, Pnn)> {
        let wake = |host: &Host| {
            host.daemon
                .as_ref()
                .map(|d| (d.node.poll_timeout(self.now), host.pnn))
        };
        self.hosts.iter().filter_map(wake).min()
    }

    fn wake(&mut self, pnn: Pnn) {
        let now = self.now;
        if let Some(daemon) = &mut self.host_mut(pnn).daemon {
            daemon.node.handle_timeout(now);
            self.carry_out(pnn);
        }
    }

    fn carry_out(&mut self, pnn: Pnn) {
        while let Some(effect) = self
            .host_mut(pnn)
            .daemon
            .as_mut()
            .and_then(|d| d.node.poll_effect())
        {
            self.do_one(pnn, effect);
        }
    }

    fn do_one(&mut self, pnn: Pnn, effect: Effect) {
        match effect {
            Effect::OpenForBusiness => self.open(pnn),
            Effect::SendPeer { to, packet } => self.send(pnn, to, packet),
            Effect::DropPeer { pnn: peer, .. } => self.break_links(pnn, peer, "dropped"),
            Effect::SendClient { to, packet } => {
                if let Some(daemon) = &mut self.host_mut(pnn).daemon
                    && let Some(inbox) = daemon.inbox.get_mut(&to)
                {
                    inbox.push(packet);
                }
            }
            Effect::DropClient { client, .. } => {
                if let Some(daemon) = &mut self.host_mut(pnn).daemon {
                    daemon.inbox.remove(&client);
                }
            }
            Effect::AwaitRoom { ticket, .. } => {
                self.plan_input(pnn, WORK, Input::ClientHasRoom(ticket));
            }
            Effect::AwaitPeerRoom { ticket, .. } => {
                self.plan_input(pnn, WORK, Input::PeerHasRoom(ticket));
            }
            Effect::Record(job) => self.record(pnn, job),
            Effect::Db { ticket, db, op } => self.db(pnn, ticket, db, op),
            Effect::RunEvent { ticket, .. } => {
                let outcome = EventOutcome::Ok;
                self.plan_input(pnn, WORK, Input::EventDone { ticket, outcome });
            }
            Effect::TakeClusterLock(attempt) => self.take_lock(pnn, attempt),
            Effect::ReleaseClusterLock(_) => {
                if self.lock_holder == Some(pnn) {
                    self.lock_holder = None;
                }
            }
            Effect::TestClusterLock { ticket, .. } => {
                let outcome = match self.lock_holder {
                    Some(_) => LockTest::Contention { seconds: 0.001 },
                    None => LockTest::Taken,
                };
                self.plan_input(pnn, WORK, Input::ClusterLockTested { ticket, outcome });
            }
            Effect::Exit { reason, .. } => {
                if let Some(daemon) = &mut self.host_mut(pnn).daemon {
                    daemon.lost.push(reason);
                }
                self.kill(pnn);
            }
            // Nobody reloads the nodes list here.
            Effect::ReadNodesList { .. }
            | Effect::AddPeer { .. }
            | Effect::RemovePeer { .. }
            | Effect::CancelEvent { .. }
            | Effect::Notify(_)
            | Effect::SetDebugLevel(_) => {}
        }
    }

    fn open(&mut self, pnn: Pnn) {
        if let Some(daemon) = &mut self.host_mut(pnn).daemon {
            daemon.open = true;
        }
        let life = self.host(pnn).life;
        for other in self.pnns().filter(|other| *other != pnn) {
            self.plan(
                LATENCY,
                Happening::Connect {
                    from: pnn,
                    to: other,
                    life,
                },
            );
        }
    }

    fn send(&mut self, from: Pnn, to: Pnn, packet: Packet) {
        if !self.links.contains(&(from, to)) || self.cut.contains(&pair(from, to)) {
            return;
        }
        let jitter = LATENCY.mul_f64(self.random.f64());
        let earliest = self
            .last_arrival
            .get(&(from, to))
            .copied()
            .unwrap_or(self.now);
        let at = (self.now + LATENCY + jitter).max(earliest);
        self.last_arrival.insert((from, to), at);
        self.plan(at - self.now, Happening::Arrival { from, to, packet });
    }

    fn record(&mut self, pnn: Pnn, job: RecordJob) {
        let now = self.now;
        let host = self.host_mut(pnn);
        let Some(daemon) = &mut host.daemon else {
            return;
        };
        if host.disk.is_frozen(job.db) {
            return daemon.held.push(job);
        }
        let (db, key) = (job.db, job.key.clone());
        let record = host.disk.record(db, &key).cloned();
        let verdict = daemon.node.on_record(job, record, now);
        host.disk.write(db, &key, verdict.write.clone());
        daemon.node.conclude(verdict, now);
    }

    fn db(&mut self, pnn: Pnn, ticket: Ticket, db: DbId, op: DbOp) {
        let thaws = op == DbOp::Thaw;
        let answers = self.host_mut(pnn).disk.work(db, op);
        for answer in answers {
            self.plan_input(pnn, WORK, Input::Db { ticket, answer });
        }
        if thaws && let Some(daemon) = &mut self.host_mut(pnn).daemon {
            for job in std::mem::take(&mut daemon.held) {
                self.record(pnn, job);
            }
        }
    }

    fn take_lock(&mut self, pnn: Pnn, attempt: LockAttempt) {
        let event = match self.lock_holder {
            Some(holder) if holder != pnn => ClusterLockEvent::Contention,
            _ => {
                self.lock_holder = Some(pnn);
                ClusterLockEvent::Taken
            }
        };
        let took = WORK;
        self.plan_input(
            pnn,
            WORK,
            Input::ClusterLock {
                attempt,
                event,
                took,
            },
        );
    }
}

fn pair(a: Pnn, b: Pnn) -> (Pnn, Pnn) {
    (a.min(b), a.max(b))
}

fn addr(pnn: Pnn) -> SocketAddr {
    let [.., high, low] = pnn.get().to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), 4379)
}

/// Data for tests: a key or a value.
pub fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
