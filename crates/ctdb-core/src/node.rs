//! One node of the cluster: owns every machine, and routes what happens to the one concerned.
//!
//! The shell tells it what happened ([`Node::handle`]) and when time has passed
//! ([`Node::handle_timeout`]), carries out what it wants done ([`Node::poll_effect`]) and wakes it
//! when it asks for that ([`Node::poll_timeout`]). Nothing here waits: work that takes time is an
//! effect with a [`Ticket`], and its answer comes back as an input.
//!
//! What the node sends to itself (a client's control for this node, a broadcast, a call that is
//! served locally) is put on a loopback queue and takes the same way as a packet of a peer, once
//! the handler that sent it has returned.

mod lifecycle;
mod packets;
mod recovery_side;
mod startup_wait;
mod timers;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ctdb_proto::{
    Capabilities, ClientId, DbId, Generation, NodeFlags, Packet, Pnn, RecMode, RunState, Srvid,
    VnnMap,
};

use crate::clients::Clients;
use crate::cluster::{Cluster, NodeEntry};
use crate::config::NodeConfig;
use crate::effect::{Effect, Ticket};
use crate::explain::memory::Memory;
use crate::explain::{Banner, History};
use crate::flow::RecordsOnWay;
use crate::freeze::Freezes;
use crate::input::{Input, LinkEnd, Record};
use crate::migrate::{Migrator, RecordJob, Verdict};
use crate::monitor::Monitor;
use crate::nodes_list::Readings;
use crate::peers::{PeerChange, Peers, Refusal};
use crate::recoverd::Recoverd;
use crate::serve::attach::DeferredAttach;
use crate::stat_history::StatHistory;
use crate::traverse::Traverses;
use crate::waiting::Waiting;

pub(crate) use lifecycle::Times;

/// One node of the cluster. See the module's documentation.
pub struct Node {
    pub(crate) config: NodeConfig,
    pub(crate) cluster: Cluster,
    pub(crate) peers: Peers,
    pub(crate) clients: Clients,
    pub(crate) migrator: Migrator,
    /// Runs from the end of the `setup` event on.
    pub(crate) recoverd: Option<Recoverd>,
    /// When it wants to look again.
    pub(crate) recoverd_wake: Option<Instant>,
    /// Addresses of record batches that a running recovery listens to.
    pub(crate) recovery_streams: BTreeSet<Srvid>,
    pub(crate) records_on_way: RecordsOnWay,
    pub(crate) freezes: Freezes,
    pub(crate) traverses: Traverses,
    pub(crate) monitor: Monitor,
    /// Databases whose attach is under way, with the packets that wait for it.
    pub(crate) attaching: HashMap<DbId, Vec<Packet>>,
    pub(crate) deferred_attaches: Vec<DeferredAttach>,
    /// Who waits for what the shell is doing.
    pub(crate) waiting: HashMap<Ticket, Waiting>,
    pub(crate) times: Times,
    pub(crate) stat_history: StatHistory,
    pub(crate) readings: Readings,
    /// Members of the cluster that were asked for the flags of their databases.
    pub(crate) told_db_flags: BTreeSet<Pnn>,
    /// What it can explain.
    pub(crate) memory: Memory,
    /// The ban that runs on this node.
    pub(crate) ban: Option<Ban>,
    pub(crate) debug_level: i32,
    /// Bytes on the heap, as the shell has told lately.
    pub(crate) memory_used: usize,
    pub(crate) stopped: bool,
}

/// A ban of this node (cluster.md 9.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ban {
    pub(crate) length: Duration,
    pub(crate) since: Instant,
    pub(crate) until: Instant,
    /// Who wanted it.
    pub(crate) by: Banner,
}

impl Node {
    /// A node that is about to run its `init` event.
    pub fn new(config: NodeConfig, now: Instant) -> Self {
        let nodes = config.nodes.iter().map(NodeEntry::from);
        let mut cluster = Cluster::new(
            config.pnn,
            nodes.collect(),
            config.capabilities,
            config.tunables,
        );
        if let Some(me) = cluster.node_mut(config.pnn) {
            me.flags = NodeFlags::UNHEALTHY | config.start_flags;
        }
        cluster.statistics.statistics_start_time = Times::to_wire(config.started);
        let peers = Peers::new(&config, now);
        let mut node = Self {
            cluster,
            peers,
            clients: Clients::default(),
            migrator: Migrator::new(),
            recoverd: None,
            recoverd_wake: None,
            recovery_streams: BTreeSet::new(),
            records_on_way: RecordsOnWay::default(),
            freezes: Freezes::default(),
            traverses: Traverses::default(),
            monitor: Monitor::default(),
            attaching: HashMap::new(),
            deferred_attaches: Vec::new(),
            waiting: HashMap::new(),
            times: Times::new(config.started, now),
            stat_history: StatHistory::new(Times::to_wire(config.started)),
            readings: Readings::default(),
            told_db_flags: BTreeSet::new(),
            memory: Memory::default(),
            ban: None,
            debug_level: config.debug_level,
            memory_used: 0,
            stopped: false,
            config,
        };
        node.begin(now);
        node
    }

    /// Something happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.catch_up(now);
        match input {
            Input::OutgoingUp(pnn) => {
                let change = self.peers.outgoing_up(pnn, &mut self.cluster);
                self.peer_changed(pnn, change, now);
            }
            Input::LinkLost { pnn, end } => {
                tracing::warn!(%pnn, reason = end.why, "link lost");
                tracing::info!("Tearing down connection to dead node :{pnn}");
                self.peer_lost(pnn, end, now);
            }
            Input::PeerPacket { from, packet } => self.peer_packet(from, packet, now),
            Input::ClientPacket { client, packet } => self.client_packet(client, packet, now),
            Input::ClientGone(client) => self.client_gone(client),
            Input::ClientHasRoom(ticket) => self.client_has_room(ticket, now),
            Input::PeerHasRoom(ticket) => self.peer_has_room(ticket, now),
            Input::Db { ticket, answer } => self.db_answered(ticket, answer, now),
            Input::FreezeLost(db) => self.freeze_lost(db, now),
            Input::ScriptFailed { ticket, failure } => self.memory.script_failed(ticket, failure),
            Input::EventDone { ticket, outcome } => self.event_done(ticket, outcome, now),
            Input::ClusterLock {
                attempt,
                event,
                took,
            } => {
                self.cluster_lock(attempt, event, took, now);
            }
            Input::ClusterLockTested { ticket, outcome } => {
                self.cluster_lock_tested(ticket, outcome, now);
            }
            Input::NodesList { ticket, result } => self.nodes_list_read(ticket, &result, now),
            Input::Shutdown { code, reason } => self.shut_down(code, reason, now),
        }
        self.settle(now);
    }

    /// What the recovery daemon's part should have done by now comes before the input: the process
    /// may have been stopped, and a node that must not use its records any more must not answer
    /// old packets with them.
    fn catch_up(&mut self, now: Instant) {
        if self.recoverd_wake.is_some_and(|at| at < now) {
            self.wake_recoverd(now);
            self.settle(now);
        }
    }

    /// The time asked for by [`Self::poll_timeout`] has come; an early call is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.run_timers(now);
        self.settle(now);
    }

    /// What to do next; call until `None`.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.cluster.effects.pop_front()
    }

    /// Whether the node has asked to exit.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Somebody connects from this address: which peer it is, if it may.
    pub fn accept_peer(&mut self, from: IpAddr, now: Instant) -> Result<Pnn, Refusal> {
        let (pnn, change) = self.peers.accept(from, &mut self.cluster)?;
        self.peer_changed(pnn, change, now);
        self.settle(now);
        Ok(pnn)
    }

    /// A local process connects. The number that it gets is never 0.
    pub fn accept_client(&mut self, pid: i32, _now: Instant) -> ClientId {
        let id = ClientId(self.cluster.reqids.allocate_nonzero().get());
        self.clients.add(id, pid);
        id
    }

    /// The record of a job was read under the lock of its chain.
    pub fn on_record(&self, job: RecordJob, record: Option<Record>, now: Instant) -> Verdict {
        let clients = &self.clients;
        let exists = |id: ClientId| clients.exists(id);
        self.migrator
            .on_record(job, record, &self.cluster, &exists, now)
    }

    /// The record of a job cannot be locked or read.
    pub fn on_record_failed(&mut self, job: RecordJob, reason: &str, now: Instant) {
        self.migrator
            .on_record_failed(job, reason, &mut self.cluster, now);
        self.settle(now);
    }

    /// What the verdict wanted written is in the file, and the lock is released.
    pub fn conclude(&mut self, verdict: Verdict, now: Instant) {
        self.migrator.conclude(verdict, &mut self.cluster, now);
        self.settle(now);
    }

    /// What the verdict wanted written could not be written.
    pub fn abandon(&mut self, verdict: Verdict, reason: &str, now: Instant) {
        self.migrator
            .abandon(verdict, reason, &mut self.cluster, now);
        self.settle(now);
    }

    /// How much memory the process uses now; it shows in the statistics.
    pub fn note_memory_used(&mut self, bytes: usize) {
        self.memory_used = bytes;
    }

    /// What the clock of the machine shows, in time since 1970: somebody may have set it. It counts
    /// for what is told to people; all waiting goes by the other clock.
    pub fn note_wall_clock(&mut self, wall: Duration, now: Instant) {
        self.times.clock_shows(wall, now);
    }

    /// The number of this node.
    pub fn pnn(&self) -> Pnn {
        self.cluster.me
    }

    /// Its way through the start, up to RUNNING.
    pub fn run_state(&self) -> RunState {
        self.cluster.run_state
    }

    /// Who is lmaster, in which generation.
    pub fn vnn_map(&self) -> &VnnMap {
        &self.cluster.vnn_map
    }

    /// What this node believes of another one, or knows of itself.
    pub fn flags_of(&self, pnn: Pnn) -> NodeFlags {
        self.cluster
            .node(pnn)
            .map_or(NodeFlags::DELETED, |node| node.flags)
    }

    /// Whether the recovery mode is ACTIVE.
    pub fn is_in_recovery(&self) -> bool {
        self.cluster.rec_mode == RecMode::Active
    }

    /// The node that leads, as far as this one knows; itself also while it stands for election.
    pub fn leader(&self) -> Option<Pnn> {
        self.recoverd.as_ref().and_then(Recoverd::leader)
    }

    /// Whether this node believes that it leads, and no election is under way.
    pub fn leads(&self) -> bool {
        self.recoverd
            .as_ref()
            .is_some_and(|recoverd| recoverd.is_leader(self.cluster.me))
    }

    /// In which generation the records of a database are, if it is attached.
    pub fn database_generation(&self, db: DbId) -> Option<Generation> {
        self.cluster.databases.get(&db).map(|db| db.generation)
    }

    /// The generation of the recovery that has a transaction open on a database.
    pub fn recovering_in(&self, db: DbId) -> Option<Generation> {
        self.cluster.databases.get(&db)?.transaction
    }

    /// The tunables as they are now.
    pub fn tunables(&self) -> &ctdb_conf::Tunables {
        &self.cluster.tunables
    }

    /// What was decided lately, and why.
    pub fn history(&self) -> Option<&History> {
        self.recoverd.as_ref().map(Recoverd::history)
    }

    /// Handles what this step made the node send to itself, until it is quiet.
    fn settle(&mut self, now: Instant) {
        loop {
            if let Some(packet) = self.cluster.loopback.pop_front() {
                self.packet_from_self(packet, now);
            } else if !self.drive_recoverd(now) {
                break;
            }
        }
        self.start_up_when_recovered(now);
    }

    fn peer_changed(&mut self, pnn: Pnn, change: PeerChange, now: Instant) {
        match change {
            PeerChange::None => {}
            PeerChange::Connected => {
                self.memory.peer_connected(pnn, now);
                self.repair_what_was_lost(pnn);
                self.tell_of_recovery(pnn);
                self.wake_recoverd(now);
            }
            PeerChange::Disconnected => {
                self.told_db_flags.remove(&pnn);
                for asker in self.cluster.controls_lost_with(pnn) {
                    self.give_no_answer(asker, crate::outstanding::NoAnswer::Disconnected, now);
                }
                self.stop_pulls(|caller, _| caller.node == pnn);
                self.share_of_traverses_is_lost(pnn);
                self.wake_recoverd(now);
            }
        }
    }

    /// The node will send no more records to traverses: it is gone, or its databases are frozen.
    pub(crate) fn share_of_traverses_is_lost(&mut self, pnn: Pnn) {
        self.traverses
            .node_gone(pnn, &self.clients, &mut self.cluster);
    }

    /// A member of the cluster could not be reached for a part of this generation: the leader
    /// still had its link to both. What was meant for it is lost, and a record may belong to
    /// nobody now.
    fn repair_what_was_lost(&mut self, pnn: Pnn) {
        let map = &self.cluster.vnn_map;
        if map.generation != Generation::INVALID && map.map.contains(&pnn) {
            let why = format!("node {pnn} could not be reached, packets may be lost");
            self.cluster.force_recovery(&why);
        }
    }

    pub(crate) fn peer_lost(&mut self, pnn: Pnn, end: LinkEnd, now: Instant) {
        let change = self.peers.lost(pnn, end.by_peer, &mut self.cluster);
        if change == PeerChange::Disconnected {
            self.memory.peer_lost(pnn, end.why, now);
        }
        self.peer_changed(pnn, change, now);
    }

    /// Takes this node out of the cluster's work: banned or stopped (cluster.md 2.3).
    pub(crate) fn become_inactive(&mut self, now: Instant) {
        tracing::warn!("Making node INACTIVE");
        self.cluster.vnn_map.generation = Generation::INVALID;
        for db in self.cluster.databases.values_mut() {
            db.generation = Generation::INVALID;
        }
        self.cluster.force_recovery("node became inactive");
        self.freeze_all(None, now);
        self.share_of_traverses_is_lost(self.cluster.me);
        self.wake_recoverd(now);
    }

    pub(crate) fn set_my_flag(&mut self, flag: NodeFlags, on: bool) {
        let me = self.cluster.me;
        if let Some(node) = self.cluster.node_mut(me) {
            node.flags.set(flag, on);
        }
    }

    pub(crate) fn set_capability(&mut self, capability: Capabilities, on: bool) {
        self.cluster.capabilities.set(capability, on);
    }
}

#[cfg(test)]
pub(crate) mod tests;
