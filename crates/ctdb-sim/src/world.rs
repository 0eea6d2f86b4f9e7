//! The world around the nodes: time, hosts, links, disks, event scripts, the cluster lock.
//!
//! A node is driven as in the daemon: it is told what happens, asked what it wants done, and woken
//! when it wants to be. Everything that takes time is put on the agenda; [`World::step`] takes the
//! next thing from there. The faults that can happen are the public calls of this module.

mod clients;
mod effects;
mod faults;
mod host;
mod links;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ctdb_conf::Tunables;
use ctdb_core::explain::{Decision, History};
use ctdb_core::{ClusterLockEvent, Input, LockAttempt, Node};
use ctdb_proto::{Body, Pnn, RunState};

use crate::cluster_lock::ClusterLock;
use crate::disk::Disk;
use crate::net::{Net, Parcel};
use crate::observed::Observed;
use crate::scripts::Scripts;
use crate::trace::Trace;
use host::Host;

/// How far time jumps when no node runs.
const NOTHING_TO_DO: Duration = Duration::from_millis(100);
/// What work on a database takes.
const WORK: Duration = Duration::from_millis(2);

/// `[cluster] leader timeout` of all nodes.
const LEADER_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// When the nodes want to be woken.
    wakes: BTreeSet<(Instant, Pnn)>,
    net: Net,
    lock: ClusterLock,
    scripts: Scripts,
    trace: Trace,
    observed: Vec<Observed>,
    /// The members of each generation that a node has seen.
    maps: BTreeMap<u32, Vec<Pnn>>,
    /// Nodes that something happened to in the last step.
    touched: BTreeSet<Pnn>,
    cost: Cost,
    /// Packets from one node to another, by what they are.
    sent: BTreeMap<String, u64>,
}

/// What a run has cost so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cost {
    pub steps: u64,
    /// Packets from one node to another.
    pub packets: u64,
}

enum Happening {
    Input {
        to: Pnn,
        life: u64,
        input: Input,
    },
    Arrival {
        from: Pnn,
        to: Pnn,
        parcel: Parcel,
    },
    Connect {
        from: Pnn,
        to: Pnn,
        life: u64,
    },
    /// The lock helper of a node gets its answer.
    LockAnswers {
        pnn: Pnn,
        life: u64,
        attempt: LockAttempt,
        took: Duration,
    },
}

impl World {
    /// All nodes of the cluster are started.
    pub fn new(seed: u64, options: Options) -> Self {
        let start = Instant::now();
        let pnns = (0..options.nodes).map_while(Pnn::new);
        let count = options.nodes as usize;
        let mut world = Self {
            hosts: pnns.clone().map(Host::new).collect(),
            options,
            start,
            now: start,
            random: fastrand::Rng::with_seed(seed),
            agenda: BTreeMap::new(),
            serial: 0,
            wakes: BTreeSet::new(),
            net: Net::new(count),
            lock: ClusterLock::default(),
            scripts: Scripts::default(),
            trace: Trace::new(count, start),
            observed: Vec::new(),
            maps: BTreeMap::new(),
            touched: BTreeSet::new(),
            cost: Cost::default(),
            sent: BTreeMap::new(),
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

    /// Nodes whose daemon runs.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.hosts
            .iter()
            .filter_map(|host| host.daemon.as_ref().map(|daemon| &daemon.node))
    }

    /// The node, if its daemon runs.
    pub fn node(&self, pnn: Pnn) -> Option<&Node> {
        self.host(pnn).daemon.as_ref().map(|daemon| &daemon.node)
    }

    /// What a node has decided since a time, with its reasons.
    pub fn decisions(&self, pnn: Pnn, since: Duration) -> impl Iterator<Item = &Decision> {
        let since = self.start + since;
        let history = self.node(pnn).and_then(Node::history);
        let decisions = history.into_iter().flat_map(History::decisions);
        decisions.filter(move |decision| decision.at >= since)
    }

    /// Whether the cluster has a cluster lock.
    pub fn has_cluster_lock(&self) -> bool {
        self.options.cluster_lock
    }

    /// How often the daemon of a node was started.
    pub fn life(&self, pnn: Pnn) -> u64 {
        self.host(pnn).life
    }

    /// Whether the node stands still.
    pub fn is_paused(&self, pnn: Pnn) -> bool {
        self.host(pnn).paused
    }

    /// The databases of a node.
    pub fn disk(&self, pnn: Pnn) -> &Disk {
        &self.host(pnn).disk
    }

    /// The databases of a node, to change something in them.
    pub fn disk_mut(&mut self, pnn: Pnn) -> &mut Disk {
        &mut self.host_mut(pnn).disk
    }

    /// Whether a node may well believe that it holds the cluster lock: it does, or it cannot know
    /// yet that it was taken away.
    pub fn may_hold_lock(&self, pnn: Pnn) -> bool {
        self.lock.may_believe_to_hold(pnn)
    }

    /// Whether the lock was taken away from its holder so lately that it, or who follows it, may
    /// not know.
    pub fn is_lock_in_doubt(&self) -> bool {
        self.lock.is_in_doubt(LEADER_TIMEOUT * 2, self.now)
    }

    /// The record of what happened.
    pub fn trace(&mut self) -> &mut Trace {
        &mut self.trace
    }

    /// A line for the timeline about the world around the nodes.
    pub fn note(&mut self, what: impl Into<String>) {
        self.trace.line(None, what.into(), self.now);
    }

    /// What happened to records since the last call.
    pub fn take_observed(&mut self) -> Vec<Observed> {
        std::mem::take(&mut self.observed)
    }

    /// Something happened to a record that the world does not see by itself.
    pub fn observe(&mut self, observed: Observed) {
        self.observed.push(observed);
    }

    /// Nodes that something happened to since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<Pnn> {
        std::mem::take(&mut self.touched)
    }

    /// What the run has cost so far.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// How many packets of each kind went from one node to another since the last call.
    pub fn take_sent(&mut self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.sent)
    }

    /// An input for a node, now; or later, if the node stands still.
    pub fn tell(&mut self, pnn: Pnn, input: Input) {
        let now = self.now;
        let host = self.host_mut(pnn);
        if host.paused {
            host.backlog.push_back(input);
        } else if let Some(daemon) = &mut host.daemon {
            let tells_of_loss = is_lock_loss(&input);
            daemon.node.handle(input, now);
            if tells_of_loss {
                self.lock.is_aware(pnn, now);
            }
            self.carry_out(pnn);
        }
    }

    /// When something happens next.
    pub fn next_in(&self) -> Duration {
        self.next_at() - self.start
    }

    fn next_at(&self) -> Instant {
        let agenda = self.agenda.first_key_value().map(|(key, _)| key.0);
        let wake = self.wakes.first().map(|(at, _)| *at);
        let next = agenda.into_iter().chain(wake).min();
        next.map_or(self.now + NOTHING_TO_DO, |at| at.max(self.now))
    }

    /// Lets time pass although nothing happens.
    pub fn wait_until(&mut self, at: Duration) {
        self.now = self.now.max(self.start + at);
    }

    /// Lets time pass until something happens, and lets it happen.
    pub fn step(&mut self) {
        self.cost.steps += 1;
        self.now = self.next_at();
        let agenda = self.agenda.first_key_value().map(|(key, _)| *key);
        let wake = self.wakes.first().copied();
        match (agenda, wake) {
            (Some(key), wake) if wake.is_none_or(|(at, _)| key.0 <= at) => {
                if let Some(happening) = self.agenda.remove(&key) {
                    self.happens(happening);
                }
            }
            (_, Some((_, pnn))) => self.wake(pnn),
            _ => {}
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
        let running: Vec<_> = self.running().map(Node::pnn).collect();
        self.are_healthy(&running)
    }

    /// The same of some nodes, which are the cluster.
    pub fn are_healthy(&self, members: &[Pnn]) -> bool {
        let nodes = || members.iter().filter_map(|pnn| self.node(*pnn));
        let generation = nodes().next().map(|node| node.vnn_map().generation);
        nodes().count() == members.len()
            && nodes().all(|node| {
                node.run_state() == RunState::Running
                    && node.flags_of(node.pnn()).is_empty()
                    && !node.is_in_recovery()
                    && node.vnn_map().map == members
                    && Some(node.vnn_map().generation) == generation
            })
    }

    fn host(&self, pnn: Pnn) -> &Host {
        &self.hosts[pnn.index()]
    }

    fn host_mut(&mut self, pnn: Pnn) -> &mut Host {
        &mut self.hosts[pnn.index()]
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
        let (kind, who) = happening.summary();
        let at = self.elapsed();
        self.trace.mix(at.as_secs());
        self.trace.mix(at.subsec_nanos().into());
        self.trace.mix(kind << 32 | u64::from(who.get()));
        match happening {
            Happening::Input { to, life, input } => {
                if self.host(to).life == life {
                    self.tell(to, input);
                }
            }
            Happening::Arrival { from, to, parcel } => self.arrives(from, to, parcel),
            Happening::Connect { from, to, life } => {
                if self.host(from).life == life {
                    self.connect(from, to);
                }
            }
            Happening::LockAnswers {
                pnn,
                life,
                attempt,
                took,
            } => {
                if self.host(pnn).life == life {
                    self.lock_answers(pnn, attempt, took);
                }
            }
        }
    }

    fn wake(&mut self, pnn: Pnn) {
        let now = self.now;
        let host = self.host_mut(pnn);
        if let Some(daemon) = &mut host.daemon {
            daemon.node.handle_timeout(now);
        }
        self.carry_out(pnn);
    }

    /// Notes when the node wants to be woken.
    fn set_wake(&mut self, pnn: Pnn) {
        let now = self.now;
        let host = self.host_mut(pnn);
        let daemon = host.daemon.as_ref().filter(|_| !host.paused);
        let wake = daemon.map(|daemon| daemon.node.poll_timeout(now));
        let old = std::mem::replace(&mut host.wake, wake);
        if let Some(old) = old {
            self.wakes.remove(&(old, pnn));
        }
        if let Some(wake) = wake {
            self.wakes.insert((wake, pnn));
        }
    }
}

impl Happening {
    /// What it is and whom it concerns, for the hash of the run.
    fn summary(&self) -> (u64, Pnn) {
        match self {
            Self::Input { to, .. } => (1, *to),
            Self::Arrival { to, parcel, .. } => (2 + packet_summary(parcel), *to),
            Self::Connect { to, .. } => (3, *to),
            Self::LockAnswers { pnn, .. } => (4, *pnn),
        }
    }
}

fn is_lock_loss(input: &Input) -> bool {
    let lost = ClusterLockEvent::Lost;
    matches!(input, Input::ClusterLock { event, .. } if *event == lost)
}

fn packet_summary(parcel: &Parcel) -> u64 {
    let Parcel::Packet { packet, .. } = parcel else {
        return 0;
    };
    let opcode = match &packet.body {
        Body::ReqControl(control) => u64::from(control.opcode.0),
        body => u64::from(body.operation().raw()),
    };
    opcode << 4 ^ u64::from(packet.header.reqid.0) << 8
}
