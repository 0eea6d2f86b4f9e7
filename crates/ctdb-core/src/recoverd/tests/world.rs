//! A cluster in one thread: recovery daemons, fake daemons, links with a delay, virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_proto::{
    DbFlags, DbId, Dest, Generation, Message, NodeFlags, Opcode, Pnn, RecBuffer, RecMode,
    ReqControl, RunState, Srvid, VnnMap, Wire,
};

use super::fake::FakeDaemon;
use super::{FakeNode, epoch, pnn};
use crate::cluster_lock::ClusterLockEvent;
use crate::collate::Collate;
use crate::effect::DbOp;
use crate::recoverd::{
    ControlFailure, LockAttempt, Recoverd, RecoverdConfig, RecoverdEffect, RecoverdInput, Token,
};

/// How long a packet travels.
const DELAY: Duration = Duration::from_millis(1);
/// How often a node looks at the time at least.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// How long it takes to connect again.
const RECONNECT_TIME: Duration = Duration::from_millis(100);
/// How long the lock helper takes.
const LOCK_TIME: Duration = Duration::from_millis(5);
/// Where a tool wants its answers.
pub(super) const TOOL: Srvid = Srvid(Srvid::RANGE_TOOL.get() | 1);
/// More steps than this without time passing: a timer that is never satisfied.
const MAX_STEPS_AT_ONCE: u32 = 10_000;

/// One node, dead or alive.
pub(super) struct Sim {
    pub(super) daemon: FakeDaemon,
    /// `None`: killed.
    pub(super) recoverd: Option<Recoverd>,
    /// A node of the original never concedes an election.
    pub(super) concedes: bool,
    open: BTreeMap<Token, Pnn>,
    merges: BTreeMap<DbId, (Collate, DbFlags)>,
    listens: BTreeSet<Srvid>,
    /// Stopped by a signal: nothing happens in it, its timers pass.
    asleep: bool,
    /// Counts lives, so that packets for an earlier one are lost.
    life: u32,
}

enum Event {
    Control {
        from: Pnn,
        token: Token,
        request: ReqControl,
    },
    Input(RecoverdInput),
    /// The ban with this number, unless there was another one.
    BanEnds(u32),
    /// Records that are pushed into the daemon.
    Records {
        srvid: Srvid,
        data: Bytes,
    },
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) sims: Vec<Sim>,
    /// Pairs that cannot reach each other.
    cuts: BTreeSet<(Pnn, Pnn)>,
    queue: BTreeMap<(Instant, u64), (Pnn, u32, Event)>,
    sequence: u64,
    lock_file: bool,
    pub(super) lock_holder: Option<(Pnn, LockAttempt)>,
    /// What came for the tool, at [`TOOL`].
    pub(super) answers: Vec<(Pnn, i32)>,
    steps_now: u32,
}

impl World {
    /// Nodes that have just started and see each other; node 0 is the oldest.
    pub(super) fn new(count: u32, lock_file: bool) -> Self {
        let mut world = Self {
            now: epoch(),
            sims: Vec::new(),
            cuts: BTreeSet::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            lock_file,
            lock_holder: None,
            answers: Vec::new(),
            steps_now: 0,
        };
        for raw in 0..count {
            let node = new_born(raw, count);
            world.sims.push(Sim {
                daemon: FakeDaemon::new(node),
                recoverd: None,
                concedes: true,
                open: BTreeMap::new(),
                merges: BTreeMap::new(),
                listens: BTreeSet::new(),
                asleep: false,
                life: 0,
            });
            world.give_life(pnn(raw), Duration::from_millis(u64::from(raw)));
        }
        for node in world.alive() {
            world.wake(node);
        }
        world
    }

    fn give_life(&mut self, node: Pnn, younger_by: Duration) {
        let config = RecoverdConfig {
            cluster_lock: self.lock_file.then(|| "/cluster/lock".to_owned()),
            leader_timeout: Duration::from_secs(5),
            fast_start: false,
            failover_disabled: false,
        };
        let wall = Duration::from_secs(1_700_000_000) + (self.now - epoch()) + younger_by;
        let sim = &mut self.sims[node.index()];
        sim.recoverd = Some(Recoverd::new(config, u64::from(node.get()), self.now, wall));
        sim.life += 1;
    }

    pub(super) fn sim(&mut self, raw: u32) -> &mut Sim {
        &mut self.sims[raw as usize]
    }

    pub(super) fn daemon(&mut self, raw: u32) -> &mut FakeDaemon {
        &mut self.sim(raw).daemon
    }

    pub(super) fn recoverd(&self, raw: u32) -> &Recoverd {
        self.sims[raw as usize]
            .recoverd
            .as_ref()
            .expect("the node is alive")
    }

    fn alive(&self) -> Vec<Pnn> {
        let awake = |sim: &&Sim| sim.recoverd.is_some() && !sim.asleep;
        let sims = self.sims.iter().filter(awake);
        sims.map(|sim| sim.daemon.node.me).collect()
    }

    /// The process of a node dies: its connections and its lock are gone at once.
    pub(super) fn kill(&mut self, raw: u32) {
        let dead = pnn(raw);
        self.sim(raw).recoverd = None;
        self.sim(raw).open.clear();
        if self.lock_holder.is_some_and(|(holder, _)| holder == dead) {
            self.lock_holder = None;
        }
        for other in self.alive() {
            self.lose(other, dead);
        }
    }

    /// A killed node comes back, as young as can be, with its persistent databases.
    pub(super) fn restart(&mut self, raw: u32) {
        let count = u32::try_from(self.sims.len()).unwrap();
        let mut daemon = FakeDaemon::new(new_born(raw, count));
        let old = std::mem::take(&mut self.daemon(raw).dbs);
        daemon.dbs = old
            .into_iter()
            .filter(|(_, db)| !db.flags.is_volatile())
            .collect();
        self.sim(raw).daemon = daemon;
        self.give_life(pnn(raw), Duration::ZERO);
        for other in 0..count {
            if other != raw && self.sims[other as usize].recoverd.is_none() {
                let lost = NodeFlags::DISCONNECTED | NodeFlags::UNHEALTHY;
                self.daemon(raw).node.set_flags(pnn(other), lost);
            }
        }
        for other in self.alive() {
            self.find(other, pnn(raw));
        }
        self.wake(pnn(raw));
    }

    /// The process of a node is stopped by a signal. The others find it silent after a while.
    pub(super) fn put_to_sleep(&mut self, raw: u32) {
        self.sim(raw).asleep = true;
        for other in self.alive() {
            self.lose(other, pnn(raw));
        }
    }

    /// It is continued: finds its own timers first, then that its connections are gone, and is
    /// connected again after a while.
    pub(super) fn wake_up(&mut self, raw: u32) {
        self.sim(raw).asleep = false;
        self.wake(pnn(raw));
        for other in self.alive() {
            if other != pnn(raw) {
                self.lose(pnn(raw), other);
            }
        }
        self.run_for(RECONNECT_TIME);
        for other in self.alive() {
            self.find(pnn(raw), other);
            self.find(other, pnn(raw));
        }
    }

    /// Two nodes cannot reach each other any more, and notice it.
    pub(super) fn cut(&mut self, a: u32, b: u32) {
        self.cuts.insert((pnn(a), pnn(b)));
        self.cuts.insert((pnn(b), pnn(a)));
        self.lose(pnn(a), pnn(b));
        self.lose(pnn(b), pnn(a));
    }

    pub(super) fn heal(&mut self, a: u32, b: u32) {
        self.cuts.remove(&(pnn(a), pnn(b)));
        self.cuts.remove(&(pnn(b), pnn(a)));
        self.find(pnn(a), pnn(b));
        self.find(pnn(b), pnn(a));
    }

    fn lose(&mut self, node: Pnn, peer: Pnn) {
        let lost = NodeFlags::DISCONNECTED | NodeFlags::UNHEALTHY;
        let is_dead = self.sims[peer.index()].recoverd.is_none();
        let sim = &mut self.sims[node.index()];
        sim.daemon
            .node
            .set_flags(peer, sim.daemon.node.view().flags(peer) | lost);
        sim.daemon.node.nodes[peer.index()].closed = is_dead;
        let failed: Vec<_> = sim
            .open
            .iter()
            .filter(|(_, to)| **to == peer)
            .map(|(token, _)| *token)
            .collect();
        for token in failed {
            self.reply(
                node,
                token,
                Err(ControlFailure::Disconnected),
                Duration::ZERO,
            );
        }
        self.wake(node);
    }

    fn find(&mut self, node: Pnn, peer: Pnn) {
        if node == peer {
            return;
        }
        let daemon = &mut self.sims[node.index()].daemon;
        let flags = daemon.node.view().flags(peer) - NodeFlags::DISCONNECTED;
        daemon.node.set_flags(peer, flags);
        daemon.node.nodes[peer.index()].closed = false;
        self.wake(node);
    }

    /// Runs until the condition holds. How long it took; panics if it takes too long.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        what: &str,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Duration {
        let start = self.now;
        while !done(self) {
            let next = self.next_event();
            assert!(
                next <= start + limit,
                "not within {limit:?}: {what}\n{}",
                self.describe()
            );
            self.advance_to(next);
        }
        self.now - start
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next_event() <= end {
            let next = self.next_event();
            self.advance_to(next);
        }
        self.now = end;
    }

    fn next_event(&self) -> Instant {
        let packet = self.queue.keys().next().map(|(at, _)| *at);
        let timers = self
            .sims
            .iter()
            .filter(|sim| !sim.asleep)
            .filter_map(|sim| sim.recoverd.as_ref()?.poll_timeout(&sim.daemon.node.view()));
        let next = timers
            .chain(packet)
            .min()
            .expect("a recovery daemon always has a timer");
        next.max(self.now)
    }

    fn advance_to(&mut self, at: Instant) {
        self.steps_now = if at > self.now { 0 } else { self.steps_now + 1 };
        assert!(
            self.steps_now < MAX_STEPS_AT_ONCE,
            "no progress\n{}",
            self.describe()
        );
        self.now = at;
        let due = self.queue.first_entry().filter(|entry| entry.key().0 <= at);
        if let Some(entry) = due {
            let (to, life, event) = entry.remove();
            let sim = &self.sims[to.index()];
            if sim.asleep {
                // It comes with the next breath.
                self.post(to, LONGEST_SLEEP, event);
            } else if sim.life == life && sim.recoverd.is_some() {
                self.deliver(to, event);
            }
            return;
        }
        for node in self.alive() {
            self.wake(node);
        }
    }

    /// Lets a recovery daemon look at the time and at what has changed.
    fn wake(&mut self, node: Pnn) {
        let now = self.now;
        let sim = &mut self.sims[node.index()];
        if let Some(recoverd) = &mut sim.recoverd {
            recoverd.handle_timeout(&sim.daemon.node.view(), now);
        }
        self.carry_out(node);
    }

    fn deliver(&mut self, to: Pnn, event: Event) {
        match event {
            Event::Control {
                from,
                token,
                request,
            } => self.serve(to, from, token, &request),
            Event::Input(input) => self.input(to, input),
            Event::Records { srvid, data } => {
                self.sims[to.index()].daemon.records(srvid, data);
            }
            Event::BanEnds(number) => {
                let daemon = &mut self.sims[to.index()].daemon;
                if daemon.ban.0 == number {
                    daemon.end_ban();
                    self.wake(to);
                }
            }
        }
    }

    fn input(&mut self, to: Pnn, input: RecoverdInput) {
        let now = self.now;
        let sim = &mut self.sims[to.index()];
        if let RecoverdInput::Reply { token, .. } = &input
            && sim.open.remove(token).is_none()
        {
            return; // It has timed out, or was answered before.
        }
        let recoverd = sim.recoverd.as_mut().expect("the node is alive");
        recoverd.handle(input, &sim.daemon.node.view(), now);
        self.carry_out(to);
    }

    fn serve(&mut self, to: Pnn, from: Pnn, token: Token, request: &ReqControl) {
        if is_of_a_recovery(request.opcode) && from != to {
            self.input(to, RecoverdInput::RecoveryOf(from));
        }
        let answer = self.sims[to.index()].daemon.control(from, request);
        if request.opcode == Opcode::SET_BAN_STATE {
            let (number, time) = self.sims[to.index()].daemon.ban;
            self.post(to, time, Event::BanEnds(number));
        }
        if let Some(answer) = answer {
            for (srvid, data) in answer.messages {
                let input = RecoverdInput::Message {
                    srvid,
                    from: Some(to),
                    data,
                };
                self.send(to, from, Event::Input(input));
            }
            if self.reaches(to, from) {
                self.reply(from, token, Ok(answer.reply), DELAY);
            }
        }
        self.wake(to);
    }

    fn reply(
        &mut self,
        to: Pnn,
        token: Token,
        result: crate::recoverd::ControlResult,
        delay: Duration,
    ) {
        self.post(
            to,
            delay,
            Event::Input(RecoverdInput::Reply { token, result }),
        );
    }

    fn reaches(&self, a: Pnn, b: Pnn) -> bool {
        let is_awake = |pnn: Pnn| !self.sims[pnn.index()].asleep;
        !self.cuts.contains(&(a, b))
            && self.sims[b.index()].recoverd.is_some()
            && (is_awake(a) && is_awake(b))
    }

    fn send(&mut self, from: Pnn, to: Pnn, event: Event) {
        if self.reaches(from, to) {
            self.post(to, DELAY, event);
        }
    }

    fn post(&mut self, to: Pnn, delay: Duration, event: Event) {
        self.sequence += 1;
        let life = self.sims[to.index()].life;
        self.queue
            .insert((self.now + delay, self.sequence), (to, life, event));
    }

    fn carry_out(&mut self, node: Pnn) {
        while let Some(effect) = self.sims[node.index()]
            .recoverd
            .as_mut()
            .and_then(Recoverd::poll_effect)
        {
            match effect {
                RecoverdEffect::Control {
                    token,
                    to,
                    request,
                    timeout,
                } => {
                    self.sims[node.index()].open.insert(token, to);
                    self.reply(node, token, Err(ControlFailure::Timeout), timeout);
                    if self.sims[node.index()].daemon.node.view().is_connected(to) {
                        self.send(
                            node,
                            to,
                            Event::Control {
                                from: node,
                                token,
                                request,
                            },
                        );
                    } else {
                        self.reply(node, token, Err(ControlFailure::Disconnected), DELAY);
                    }
                }
                RecoverdEffect::Merge { token, db, op } => self.merge(node, token, db, op),
                RecoverdEffect::AwaitRoom { token, .. } => {
                    self.sims[node.index()].open.insert(token, node);
                    let done = ctdb_proto::ReplyControl::status(0);
                    self.reply(node, token, Ok(done), DELAY);
                }
                RecoverdEffect::ContinueMerge { .. } => {}
                RecoverdEffect::Message { to, srvid, data } => self.message(node, to, srvid, &data),
                RecoverdEffect::ListenTo(srvid) => {
                    self.sims[node.index()].listens.insert(srvid);
                }
                RecoverdEffect::Unlisten(srvid) => {
                    assert!(
                        self.sims[node.index()].listens.remove(&srvid),
                        "not listened to"
                    );
                }
                RecoverdEffect::TakeClusterLock(attempt) => self.take_lock(node, attempt),
                RecoverdEffect::ReleaseClusterLock(attempt) => {
                    if self.lock_holder == Some((node, attempt)) {
                        self.lock_holder = None;
                    }
                }
            }
        }
    }

    fn message(&mut self, from: Pnn, to: Dest, srvid: Srvid, data: &Bytes) {
        let view = self.sims[from.index()].daemon.node.view();
        let targets: Vec<Pnn> = match to {
            Dest::Node(pnn) => vec![pnn],
            Dest::Connected => view.connected().collect(),
            Dest::All => view.nodes.iter().map(|node| node.pnn).collect(),
            other => panic!("the recovery daemon does not send to {other:?}"),
        };
        let concession = srvid == Srvid::LEADER && !to.is_broadcast();
        if concession && !self.sims[from.index()].concedes {
            return;
        }
        for to in targets {
            let mut data = data.clone();
            if srvid == TOOL {
                self.answers.push((from, i32::decode(&mut data).unwrap()));
                continue;
            }
            let event = if srvid.is_recovery() {
                Event::Records { srvid, data }
            } else {
                Event::Input(RecoverdInput::Message {
                    srvid,
                    from: Some(from),
                    data,
                })
            };
            self.send(from, to, event);
        }
    }

    /// The shell's part: merges in memory, and reads without waiting for anybody.
    fn merge(&mut self, node: Pnn, token: Token, db: DbId, op: DbOp) {
        self.sims[node.index()].open.insert(token, node);
        let merges = &mut self.sims[node.index()].merges;
        match op {
            DbOp::MergeBegin { leader, flags, .. } => {
                merges.insert(db, (Collate::new(leader), flags));
            }
            DbOp::MergeAdd { from, mut records } => {
                let (collate, _) = merges.get_mut(&db).expect("the merge has begun");
                let batch = RecBuffer::decode(&mut records).unwrap();
                collate.add(from, &batch).unwrap();
            }
            DbOp::MergeRead => {
                let (collate, flags) = merges.remove(&db).expect("the merge has begun");
                for records in collate.into_batches(db, flags, 100).messages {
                    let input = RecoverdInput::Merged { token, records };
                    self.post(node, DELAY, Event::Input(input));
                }
            }
            DbOp::MergeEnd => drop(merges.remove(&db)),
            other => panic!("not about a merge: {other:?}"),
        }
        let done = ctdb_proto::ReplyControl::status(0);
        self.reply(node, token, Ok(done), DELAY);
    }

    /// A node sends a control of which its recovery daemon knows nothing.
    pub(super) fn stranger_controls(&mut self, from: u32, to: u32, request: ReqControl) {
        let event = Event::Control {
            from: pnn(from),
            token: Token::for_test(),
            request,
        };
        self.send(pnn(from), pnn(to), event);
    }

    /// A tool on node `raw` sends a message to a node.
    pub(super) fn tool_sends(&mut self, raw: u32, to: Dest, message: &Message) {
        let message = message.encode();
        self.message(pnn(raw), to, message.srvid, &message.data);
    }

    fn take_lock(&mut self, node: Pnn, attempt: LockAttempt) {
        assert!(self.lock_file, "no lock is configured");
        let event = if self.lock_holder.is_none() {
            self.lock_holder = Some((node, attempt));
            ClusterLockEvent::Taken
        } else {
            ClusterLockEvent::Contention
        };
        self.post(
            node,
            LOCK_TIME,
            Event::Input(RecoverdInput::ClusterLock { attempt, event }),
        );
    }

    /// The helper of the holder dies.
    pub(super) fn lose_lock(&mut self) {
        let (holder, attempt) = self.lock_holder.take().expect("somebody holds the lock");
        let event = ClusterLockEvent::Lost;
        let input = RecoverdInput::ClusterLock { attempt, event };
        self.post(holder, Duration::ZERO, Event::Input(input));
    }

    /// Whether these nodes form a healthy cluster under one leader: same vnn map of all of them,
    /// recovery over everywhere.
    pub(super) fn is_healthy(&self, members: &[u32]) -> bool {
        let members: Vec<Pnn> = members.iter().copied().map(pnn).collect();
        let first = &self.sims[members[0].index()];
        let Some(leader) = first.recoverd.as_ref().and_then(Recoverd::leader) else {
            return false;
        };
        let map = VnnMap {
            generation: first.daemon.node.vnn_map.generation,
            map: members.clone(),
        };
        map.generation != Generation::INVALID
            && members.contains(&leader)
            && members.iter().all(|node| {
                let sim = &self.sims[node.index()];
                let recoverd = sim.recoverd.as_ref();
                sim.daemon.node.vnn_map == map
                    && sim.daemon.node.rec_mode == RecMode::Normal
                    && sim.daemon.dbs.values().all(|db| !db.frozen)
                    && recoverd.is_some_and(|recoverd| {
                        recoverd.leader() == Some(leader) && recoverd.recovery().is_none()
                    })
            })
    }

    /// Number of recoveries that ended on any node, as their leaders remember.
    pub(super) fn recoveries(&self) -> usize {
        let recoverds = self.sims.iter().filter_map(|sim| sim.recoverd.as_ref());
        let decisions = recoverds.flat_map(|recoverd| recoverd.history().decisions());
        decisions
            .filter(|d| matches!(d.what, crate::explain::What::RecoveryEnded { .. }))
            .count()
    }

    /// Everything that was decided, for messages of failed tests.
    fn describe(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for sim in &self.sims {
            let node = &sim.daemon.node;
            let flags: Vec<_> = node.nodes.iter().map(|n| n.flags.bits()).collect();
            writeln!(
                text,
                "node {}: flags {flags:x?} {:?} {} {}",
                node.me, node.vnn_map, node.rec_mode, node.run_state
            )
            .unwrap();
            for decision in sim.recoverd.iter().flat_map(|r| r.history().decisions()) {
                writeln!(text, "  {:?} {decision}", decision.at - epoch()).unwrap();
            }
        }
        text
    }
}

/// What the node tells its recovery daemon of.
fn is_of_a_recovery(opcode: Opcode) -> bool {
    [
        Opcode::START_RECOVERY,
        Opcode::SETVNNMAP,
        Opcode::DB_TRANSACTION_START,
    ]
    .contains(&opcode)
}

/// A daemon that waits for its first recovery.
fn new_born(raw: u32, count: u32) -> FakeNode {
    let mut node = FakeNode::new(raw, count);
    node.vnn_map.generation = Generation::INVALID;
    node.rec_mode = RecMode::Active;
    node.run_state = RunState::FirstRecovery;
    node.all_frozen = true;
    node
}
