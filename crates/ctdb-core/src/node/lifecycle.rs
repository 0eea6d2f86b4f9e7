//! From the `init` event to the exit: run states, startup, monitoring, shutdown
//! (cluster.md 1 and 8).

use std::time::{Duration, Instant};

use ctdb_conf::Tunable;
use ctdb_proto::control::Request;
use ctdb_proto::{
    ControlFlags, DbFlags, DbId, Dest, Generation, NodeFlagChange, NodeFlags, RunState, Srvid,
    SrvidMessage, TimeVal,
};

use super::Node;
use crate::effect::{DbOp, Effect, Event, EventOutcome, Notification, Ticket};
use crate::monitor::Health;
use crate::recoverd::Recoverd;
use crate::serve::encoded;
use crate::waiting::{Caller, Waiting};

/// How long the node watches for a second recovery before it runs the `startup` event, on top
/// of `RerecoveryTimeout`.
const SETTLING_MARGIN: Duration = Duration::from_secs(3);
/// Between two tries of the `startup` event.
const STARTUP_RETRY: Duration = Duration::from_secs(5);

/// When things happened, as UPTIME reports it.
#[derive(Debug)]
pub(crate) struct Times {
    started: Duration,
    /// What the wall clock showed when the shell told it last, and when that was.
    shown: Duration,
    shown_at: Instant,
    pub(crate) recovery_started: Duration,
    pub(crate) recovery_finished: Duration,
    /// End of the last recovery on the clock that cannot be set.
    pub(crate) last_recovery: Option<Instant>,
    /// Earliest next try of the `startup` event, after a failed one.
    pub(crate) startup_retry: Option<Instant>,
    pub(crate) startup_running: bool,
    /// Generation whose persistent databases were found healthy.
    pub(crate) health_checked: Option<Generation>,
    /// When all addresses are given up, if the recovery has not ended by then.
    pub(crate) drop_addresses: Option<Instant>,
    pub(crate) seqnum_tick: Option<Instant>,
}

impl Times {
    pub(crate) fn new(started: Duration, now: Instant) -> Self {
        Self {
            started,
            shown: started,
            shown_at: now,
            recovery_started: started,
            recovery_finished: started,
            last_recovery: None,
            startup_retry: None,
            startup_running: false,
            health_checked: None,
            drop_addresses: None,
            seqnum_tick: None,
        }
    }

    /// Time since 1970 as the clock of the machine counts now, also for a moment in the past.
    pub(crate) fn wall(&self, at: Instant) -> Duration {
        match at.checked_duration_since(self.shown_at) {
            Some(since) => self.shown.saturating_add(since),
            None => self.shown.saturating_sub(self.shown_at.duration_since(at)),
        }
    }

    pub(crate) fn clock_shows(&mut self, wall: Duration, now: Instant) {
        (self.shown, self.shown_at) = (wall, now);
    }

    pub(crate) fn started(&self) -> Duration {
        self.started
    }

    pub(crate) fn to_wire(since_1970: Duration) -> TimeVal {
        TimeVal {
            sec: i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX),
            usec: since_1970.subsec_micros().into(),
        }
    }
}

impl Node {
    /// First effects of a new node.
    pub(super) fn begin(&mut self, now: Instant) {
        let me = self.cluster.me;
        for pnn in self.cluster.broadcast_targets(Dest::All) {
            if pnn != me {
                self.memory.peer_expected(pnn, now);
            }
        }
        tracing::warn!(
            "Set runstate to {} ({})",
            RunState::Init,
            RunState::Init.raw()
        );
        self.run_event(Event::Init, Waiting::Init);
    }

    fn set_run_state(&mut self, state: RunState) {
        if state.raw() > self.cluster.run_state.raw() {
            tracing::warn!("Set runstate to {state} ({})", state.raw());
            self.cluster.run_state = state;
        }
    }

    pub(crate) fn run_event(&mut self, event: Event, waiting: Waiting) {
        let ticket = self.cluster.ticket();
        self.waiting.insert(ticket, waiting);
        let timeout = self.cluster.tunables.seconds(Tunable::EventScriptTimeout);
        self.cluster.effect(Effect::RunEvent {
            ticket,
            event,
            timeout,
        });
    }

    pub(super) fn event_done(&mut self, ticket: Ticket, outcome: EventOutcome, now: Instant) {
        let Some(waiting) = self.waiting.remove(&ticket) else {
            return;
        };
        if let Some(event) = waiting.event() {
            self.remember_event(ticket, &event, outcome, now);
        }
        match waiting {
            Waiting::Init => self.init_done(outcome),
            Waiting::Setup => self.setup_done(outcome, now),
            Waiting::Startup => self.startup_done(outcome, now),
            Waiting::Monitor => self.monitor_done(outcome, now),
            Waiting::Shutdown { code, reason } => self.exit(code, reason),
            Waiting::StartRecovery { caller } => {
                let status = hung_is_fine(outcome, "startrecovery");
                self.answer_status(caller, status);
            }
            Waiting::EndRecovery { caller } => {
                let status = hung_is_fine(outcome, "recovered");
                self.recovery_ended(caller, status, now);
            }
            Waiting::StartIpReallocate { caller } => {
                self.tell_clients(Srvid::START_IPREALLOCATE);
                self.answer_status(caller, status_of(outcome));
            }
            Waiting::IpReallocated { caller } => {
                self.tell_clients(Srvid::IPREALLOCATED);
                self.answer_status(caller, status_of(outcome));
            }
            other => tracing::error!(?other, "an event ended that was none"),
        }
    }

    fn remember_event(
        &mut self,
        ticket: Ticket,
        event: &Event,
        outcome: EventOutcome,
        now: Instant,
    ) {
        let name = event.name();
        match outcome {
            EventOutcome::Ok => self.memory.event_ok(name, now),
            EventOutcome::Failed { status } => {
                let otherwise = format!("status {status}");
                self.memory.event_failed(name, ticket, &otherwise, now);
            }
            EventOutcome::TimedOut => {
                self.memory
                    .event_failed(name, ticket, "it ran out of time", now);
            }
            EventOutcome::Cancelled => {}
        }
    }

    fn tell_clients(&mut self, srvid: Srvid) {
        let me = self.cluster.me;
        self.cluster
            .send_message(Dest::Node(me), srvid, &bytes::Bytes::new());
    }

    fn init_done(&mut self, outcome: EventOutcome) {
        if outcome != EventOutcome::Ok {
            return self.fail("Failed to run init event");
        }
        self.cluster.effect(Effect::Notify(Notification::Init));
        for name in self.config.persistent_databases.clone() {
            let ticket = self.cluster.ticket();
            let db = DbId::of_name(&name);
            self.waiting.insert(ticket, Waiting::StartAttach);
            let op = self.attach_op(name, DbFlags::PERSISTENT);
            self.cluster.effect(Effect::Db { ticket, db, op });
        }
        self.open_when_frozen();
    }

    pub(crate) fn attach_op(&self, name: String, flags: DbFlags) -> DbOp {
        DbOp::Attach {
            name,
            flags,
            hash_size: self.cluster.tunables.get(Tunable::DatabaseHashSize),
            max_dead: self.cluster.tunables.get(Tunable::DatabaseMaxDead),
        }
    }

    /// Clients and peers are served as soon as all databases found at the start are attached and
    /// frozen (cluster.md 1.1, steps 23 and 24).
    pub(crate) fn open_when_frozen(&mut self) {
        let attaching = self
            .waiting
            .values()
            .any(|w| matches!(w, Waiting::StartAttach));
        let freezing = self
            .waiting
            .values()
            .any(|w| matches!(w, Waiting::Freeze { .. }));
        if self.cluster.run_state != RunState::Init || attaching || freezing {
            return;
        }
        self.cluster.effect(Effect::OpenForBusiness);
        self.set_run_state(RunState::Setup);
        self.run_event(Event::Setup, Waiting::Setup);
    }

    fn setup_done(&mut self, outcome: EventOutcome, now: Instant) {
        if outcome != EventOutcome::Ok {
            return self.fail("Failed to run setup event");
        }
        self.cluster.effect(Effect::Notify(Notification::Setup));
        self.peers.start_keepalives(&self.cluster, now);
        self.recoverd = Some(Recoverd::new(
            self.recoverd_config(),
            self.config.seed,
            now,
            self.times.wall(now),
        ));
        self.set_run_state(RunState::FirstRecovery);
        self.wake_recoverd(now);
    }

    /// Runs the `startup` event once the cluster has settled after the first recovery.
    pub(super) fn start_up_when_recovered(&mut self, now: Instant) {
        if self.cluster.run_state != RunState::Startup
            || self.is_in_recovery()
            || self.cluster.vnn_map.generation == Generation::INVALID
            || self.times.startup_running
            || self.startup_due().is_none_or(|due| now < due)
        {
            return;
        }
        if !self.persistent_databases_are_healthy() {
            return self.shut_down(11, "a persistent database is unhealthy".into(), now);
        }
        tracing::warn!("Running the \"startup\" event.");
        self.times.startup_running = true;
        self.run_event(Event::Startup, Waiting::Startup);
    }

    /// When the `startup` event may run, if nothing else stands in its way.
    pub(super) fn startup_due(&self) -> Option<Instant> {
        let settled = if self.config.fast_start {
            self.times.last_recovery?
        } else {
            self.times.last_recovery?
                + self.cluster.tunables.seconds(Tunable::RerecoveryTimeout)
                + SETTLING_MARGIN
        };
        Some(
            self.times
                .startup_retry
                .map_or(settled, |retry| retry.max(settled)),
        )
    }

    /// Checked once for each generation.
    fn persistent_databases_are_healthy(&mut self) -> bool {
        let generation = self.cluster.vnn_map.generation;
        if self.times.health_checked == Some(generation) {
            return true;
        }
        let persistent = self
            .cluster
            .databases
            .values()
            .filter(|db| !db.is_volatile());
        let (bad, good): (Vec<_>, Vec<_>) = persistent.partition(|db| db.health.is_some());
        tracing::warn!(
            "ctdb_recheck_persistent_health: OK[{}] FAIL[{}]",
            good.len(),
            bad.len()
        );
        let healthy = bad.is_empty();
        if healthy {
            self.times.health_checked = Some(generation);
        }
        healthy
    }

    fn startup_done(&mut self, outcome: EventOutcome, now: Instant) {
        self.times.startup_running = false;
        if outcome != EventOutcome::Ok {
            tracing::error!("startup event failed");
            self.times.startup_retry = Some(now + STARTUP_RETRY);
            return;
        }
        tracing::warn!("startup event OK - enabling monitoring");
        self.set_run_state(RunState::Running);
        self.cluster.effect(Effect::Notify(Notification::Startup));
        self.announce_startup();
        self.monitor.start(now);
    }

    /// STARTUP: the others send us the connections that they track.
    fn announce_startup(&mut self) {
        for pnn in self.cluster.broadcast_targets(Dest::Connected) {
            self.cluster
                .tell(pnn, Request::Startup.to_control(ControlFlags::NOREPLY));
        }
    }

    pub(super) fn monitor_when_due(&mut self, now: Instant) {
        if !self.monitor.is_due(now) {
            return;
        }
        let all_frozen = self.cluster.everything_is_frozen();
        if all_frozen {
            tracing::warn!("Skip monitoring since databases are frozen");
        }
        let running = self.cluster.run_state == RunState::Running;
        if all_frozen || self.is_in_recovery() || self.cluster.is_inactive() || !running {
            self.monitor.skipped(now);
        } else {
            self.run_event(Event::Monitor, Waiting::Monitor);
        }
    }

    fn monitor_done(&mut self, outcome: EventOutcome, now: Instant) {
        if self.cluster.run_state == RunState::Shutdown {
            return;
        }
        let healthy = !self.cluster.my_flags().contains(NodeFlags::UNHEALTHY);
        let limits = (
            Duration::from_secs(
                self.cluster
                    .tunables
                    .get(Tunable::MonitorInterval)
                    .max(1)
                    .into(),
            ),
            self.cluster.tunables.get(Tunable::MonitorTimeoutCount),
        );
        let old = self.cluster.my_flags();
        let (notification, word) = match self.monitor.finished(outcome, healthy, limits, now) {
            Health::Unchanged => return,
            Health::Healthy => {
                tracing::warn!("monitor event OK - node re-enabled");
                self.set_my_flag(NodeFlags::UNHEALTHY, false);
                self.memory.health(true, now);
                (Notification::Healthy, "HEALTHY")
            }
            Health::Unhealthy => {
                tracing::warn!("monitor event failed - disabling node");
                self.set_my_flag(NodeFlags::UNHEALTHY, true);
                self.memory.health(false, now);
                (Notification::Unhealthy, "UNHEALTHY")
            }
        };
        self.cluster.effect(Effect::Notify(notification));
        self.health_changed(old, word);
    }

    /// Lets the leader know at once, and asks for the addresses to be placed anew.
    fn health_changed(&mut self, old: NodeFlags, word: &str) {
        let me = self.cluster.me;
        let change = NodeFlagChange {
            pnn: me,
            new_flags: self.cluster.my_flags(),
            old_flags: old,
        };
        self.cluster
            .send_message(Dest::Node(me), Srvid::PUSH_NODE_FLAGS, &encoded(&change));
        tracing::error!("Node became {word}. Ask recovery master to reallocate IPs");
        let request = encoded(&SrvidMessage {
            pnn: Some(me),
            srvid: Srvid(0),
        });
        // Others than the leader would not heed it.
        let leader = self
            .leader()
            .filter(|leader| self.cluster.is_connected(*leader));
        let to = leader.map_or(Dest::Connected, Dest::Node);
        self.cluster.send_message(to, Srvid::TAKEOVER_RUN, &request);
    }

    /// The orderly way out (cluster.md 1.5).
    pub(crate) fn shut_down(&mut self, code: i32, reason: String, now: Instant) {
        if self.cluster.run_state == RunState::Shutdown {
            tracing::warn!("Already shutting down so will not proceed.");
            return;
        }
        tracing::error!(reason, "Shutdown sequence commencing.");
        self.set_run_state(RunState::Shutdown);
        self.resign(now);
        self.monitor.stop();
        tracing::warn!("Monitoring has been stopped");
        self.run_event(Event::Shutdown, Waiting::Shutdown { code, reason });
    }

    fn exit(&mut self, code: i32, reason: String) {
        tracing::error!("Shutdown sequence complete, exiting.");
        self.stopped = true;
        self.cluster.effect(Effect::Exit { code, reason });
    }

    /// The start cannot go on.
    pub(crate) fn fail(&mut self, why: &str) {
        tracing::error!("ctdb exiting with error: {why}");
        self.stopped = true;
        self.cluster.effect(Effect::Exit {
            code: 1,
            reason: why.to_owned(),
        });
    }

    /// `START_RECOVERY` and `END_RECOVERY` share this: note the time, run the event, answer later.
    pub(crate) fn run_recovery_event(&mut self, caller: Caller, start: bool, now: Instant) {
        let wall = self.times.wall(now);
        if start {
            tracing::error!("Recovery has started");
            self.times.recovery_started = wall;
            self.run_event(Event::StartRecovery, Waiting::StartRecovery { caller });
        } else {
            tracing::error!("Recovery has finished");
            self.end_open_commits();
            self.ask_for_db_flags(now);
            self.run_event(Event::Recovered, Waiting::EndRecovery { caller });
        }
    }

    fn recovery_ended(&mut self, caller: Caller, status: i32, now: Instant) {
        if status == 0 {
            self.times.recovery_finished = self.times.wall(now);
            self.times.last_recovery = Some(now);
            let statistics = &mut self.cluster.statistics;
            statistics.num_recoveries = statistics.num_recoveries.wrapping_add(1);
            if self.cluster.run_state == RunState::FirstRecovery {
                self.set_run_state(RunState::Startup);
                self.release_deferred_attaches(now);
            }
        }
        self.answer_status(caller, status);
    }
}

/// Status of a control whose event ended like this: 0, or a positive number.
fn status_of(outcome: EventOutcome) -> i32 {
    match outcome {
        EventOutcome::Ok => 0,
        EventOutcome::Failed { status } => status,
        EventOutcome::TimedOut => 110,
        EventOutcome::Cancelled => 125,
    }
}

/// As [`status_of`], for events where a hung script must not stop the cluster.
fn hung_is_fine(outcome: EventOutcome, name: &str) -> i32 {
    if outcome == EventOutcome::TimedOut {
        tracing::error!("Ignoring hung script for {name} event");
        return 0;
    }
    status_of(outcome)
}
