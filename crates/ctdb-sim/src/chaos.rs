//! Faults at random, all the while: each begins at some time and is repaired at some later time.

use std::time::Duration;

use ctdb_core::Event;
use ctdb_proto::control::Request;
use ctdb_proto::{NodeFlags, Pnn, RecMode};

use crate::admin;
use crate::cluster_lock::LockService;
use crate::scripts::Script;
use crate::world::World;

/// Bounds of the pause between the beginnings of two faults, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 200..9_000;
/// Bounds of how long a short fault lasts.
const SHORT_MS: std::ops::Range<u64> = 20..4_000;
/// Bounds of how long a long one lasts: beyond the 25 to 30 s after which a silent peer is dead.
const LONG_MS: std::ops::Range<u64> = 4_000..45_000;
/// Most faults at the same time.
const MOST: usize = 4;

/// Something that goes wrong.
#[derive(Clone, Debug)]
enum Fault {
    Killed(Pnn),
    Paused(Pnn),
    Cut(Pnn, Pnn),
    CutOneWay(Pnn, Pnn),
    Partition(Vec<Pnn>, Vec<Pnn>),
    SlowLink(Pnn, Pnn, Duration),
    Reset(Pnn, Pnn),
    LockLost(Duration),
    LockFails(LockService),
    ScriptFails(Pnn, Event, Script),
    ClockJumps(Pnn, f64),
    DiskFull(Pnn),
    DiskSlow(Pnn, Duration),
    Banned(Pnn, Duration),
    Stopped(Pnn),
    RecoveryAsked(Pnn),
}

/// Makes things go wrong, and mends them.
pub struct Chaos {
    random: fastrand::Rng,
    nodes: Vec<Pnn>,
    /// What is broken, and until when.
    going_on: Vec<(Duration, Fault)>,
    next: Duration,
}

impl Chaos {
    /// For that cluster, beginning after `begin`.
    pub fn new(seed: u64, world: &World, begin: Duration) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            nodes: world.pnns().collect(),
            going_on: Vec::new(),
            next: begin,
        }
    }

    /// When the next fault begins or ends.
    pub fn next_at(&self) -> Duration {
        let ends = self.going_on.iter().map(|(end, _)| *end);
        ends.fold(self.next, Duration::min)
    }

    /// Lets faults begin and end whose time has come.
    pub fn act(&mut self, world: &mut World) {
        let now = world.elapsed();
        let (over, going_on) = std::mem::take(&mut self.going_on)
            .into_iter()
            .partition(|(end, _)| *end <= now);
        self.going_on = going_on;
        let over: Vec<(Duration, Fault)> = over;
        for (_, fault) in over {
            repair(&fault, world);
        }
        if now < self.next {
            return;
        }
        self.next = now + Duration::from_millis(self.random.u64(PAUSE_MS));
        if self.going_on.len() < MOST {
            let fault = self.invent();
            begin(&fault, world);
            let lasts = if self.random.bool() {
                SHORT_MS
            } else {
                LONG_MS
            };
            let lasts = Duration::from_millis(self.random.u64(lasts));
            self.going_on.push((now + lasts, fault));
        }
    }

    /// Repairs all that is broken.
    pub fn end(&mut self, world: &mut World) {
        for (_, fault) in std::mem::take(&mut self.going_on) {
            repair(&fault, world);
        }
        world.note("all faults have ended");
        world.heal_all();
        for node in &self.nodes {
            world.resume(*node);
            world.start(*node);
            repair(&Fault::Stopped(*node), world);
        }
        self.unban(world);
    }

    /// Ends all bans, also those that leaders imposed.
    pub fn unban(&self, world: &mut World) {
        for node in &self.nodes {
            let flags = world.node(*node).map(|n| n.flags_of(*node));
            if flags.is_some_and(|flags| flags.contains(NodeFlags::BANNED)) {
                admin::ban(*node, Duration::ZERO, world);
            }
        }
    }

    fn invent(&mut self) -> Fault {
        let (node, other) = self.two_nodes();
        let seconds =
            |random: &mut fastrand::Rng, most| Duration::from_secs_f64(random.f64() * most);
        match self.random.u32(..24) {
            0..4 => Fault::Killed(node),
            4..6 => Fault::Paused(node),
            6 | 7 => Fault::Cut(node, other),
            8 => Fault::CutOneWay(node, other),
            9 | 10 => self.partition(),
            11 => Fault::SlowLink(node, other, seconds(&mut self.random, 2.0)),
            12 => Fault::Reset(node, other),
            13 => Fault::LockLost(seconds(&mut self.random, 5.0)),
            14 => Fault::LockFails(self.lock_failure()),
            15 | 16 => self.script(node),
            17 => Fault::ClockJumps(node, (self.random.f64() - 0.5) * 600.0),
            18 => Fault::DiskFull(node),
            19 => Fault::DiskSlow(node, seconds(&mut self.random, 3.0)),
            20 | 21 => Fault::Banned(node, seconds(&mut self.random, 20.0)),
            22 => Fault::Stopped(node),
            _ => Fault::RecoveryAsked(node),
        }
    }

    fn two_nodes(&mut self) -> (Pnn, Pnn) {
        let first = self.random.usize(..self.nodes.len());
        let step = self.random.usize(1..self.nodes.len());
        (
            self.nodes[first],
            self.nodes[(first + step) % self.nodes.len()],
        )
    }

    fn partition(&mut self) -> Fault {
        let mut nodes = self.nodes.clone();
        self.random.shuffle(&mut nodes);
        let other = nodes.split_off(self.random.usize(1..nodes.len()));
        Fault::Partition(nodes, other)
    }

    fn lock_failure(&mut self) -> LockService {
        if self.random.bool() {
            LockService::Refuses
        } else {
            LockService::Slow(Duration::from_millis(self.random.u64(100..8_000)))
        }
    }

    fn script(&mut self, node: Pnn) -> Fault {
        let events = [
            Event::StartRecovery,
            Event::Recovered,
            Event::Monitor,
            Event::IpReallocated,
            Event::Startup,
        ];
        let event = events[self.random.usize(..events.len())].clone();
        let script = match self.random.u32(..3) {
            0 => Script::Hangs,
            1 => Script::Fails,
            _ => Script::Takes(Duration::from_millis(self.random.u64(100..10_000))),
        };
        Fault::ScriptFails(node, event, script)
    }
}

fn begin(fault: &Fault, world: &mut World) {
    match fault {
        Fault::Killed(node) => world.kill(*node),
        Fault::Paused(node) => world.pause(*node),
        Fault::Cut(a, b) => world.cut(*a, *b),
        Fault::CutOneWay(a, b) => world.cut_one_way(*a, *b),
        Fault::Partition(one, other) => world.partition(one, other),
        Fault::SlowLink(a, b, delay) => world.delay(*a, *b, *delay),
        Fault::Reset(a, b) => world.reset(*a, *b),
        Fault::LockLost(notice) => world.lose_lock(*notice),
        Fault::LockFails(service) => world.lock_service(*service),
        Fault::ScriptFails(node, event, script) => world.script(*node, event, *script),
        Fault::ClockJumps(node, seconds) => world.jump_clock(*node, *seconds),
        Fault::DiskFull(node) => world.fill_disk(*node, true),
        Fault::DiskSlow(node, delay) => world.slow_disk(*node, *delay),
        Fault::Banned(node, time) => admin::ban(*node, *time, world),
        Fault::Stopped(node) => admin::order(*node, &Request::StopNode, world),
        Fault::RecoveryAsked(node) => {
            admin::order(*node, &Request::SetRecMode(RecMode::Active), world);
        }
    }
}

fn repair(fault: &Fault, world: &mut World) {
    match fault {
        Fault::Killed(node) => world.start(*node),
        Fault::Paused(node) => world.resume(*node),
        Fault::Cut(a, b) | Fault::CutOneWay(a, b) => world.heal(*a, *b),
        Fault::Partition(one, other) => {
            for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
                world.heal(a, b);
            }
        }
        Fault::SlowLink(a, b, _) => world.delay(*a, *b, Duration::ZERO),
        Fault::LockFails(_) => world.lock_service(LockService::Works),
        Fault::ScriptFails(node, event, _) => world.script(*node, event, Script::Succeeds),
        Fault::DiskFull(node) => world.fill_disk(*node, false),
        Fault::DiskSlow(node, _) => world.slow_disk(*node, Duration::ZERO),
        Fault::Banned(node, _) => admin::ban(*node, Duration::ZERO, world),
        Fault::Stopped(node) => admin::order(*node, &Request::ContinueNode, world),
        Fault::Reset(..) | Fault::LockLost(_) | Fault::ClockJumps(..) | Fault::RecoveryAsked(_) => {
        }
    }
}
