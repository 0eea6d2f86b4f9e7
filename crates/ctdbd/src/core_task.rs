//! The core task: owns the node and the databases, and is the only one that touches them.
//!
//! ```text
//! forever:  wait for the next event or the next deadline of the node
//!           tell the node, carry out what it wants done      } as often as there are events,
//!           tell the node, carry out what it wants done      } up to a limit
//!           write everything that was queued for sockets
//! ```
//!
//! Nothing here waits: no lock, no socket, no child. What takes time is handed to a task or a
//! thread, which reports back through the [lanes](crate::lanes).

use std::path::PathBuf;
use std::time::Instant;

use ctdb_conf::{LogLevel, Tunable};
use ctdb_core::{ClusterLockEvent, Effect, Input, LinkEnd, Node, Notification};
use ctdb_proto::{ClientId, Packet, Pnn};
use ctdb_sys::process::memory_used;
use tokio::net::{TcpListener, UnixListener};
use tracing::{debug, error, info, warn};

use crate::background::Ready;
use crate::children::{Errand, Unattended};
use crate::client::{Clients, accept_clients};
use crate::cluster_lock::{ClusterLock, LockReport};
use crate::database::{LockKind, LongWait};
use crate::databases::Databases;
use crate::event::{ShellEvent, Signal};
use crate::lanes::{Inbox, Lanes};
use crate::log::Log;
use crate::nodes_list::NodesReader;
use crate::peer::{LinkId, Peers, accept_peers};
use crate::scripts::Scripts;
use crate::stalls::Stalls;
use crate::start::since_1970;

/// Events handled before the sockets are written to. More make larger writes and later answers.
const TURN_LIMIT: usize = 128;

/// With fewer events than this between two ticks the daemon has little to do.
const QUIET_LIMIT: u32 = 2000;

/// Exit code when nobody holds the other end of standard input any more (test mode): EPIPE.
const STDIN_CLOSED: i32 = 32;

/// Everything around the node. Built by the start sequence.
pub(crate) struct CoreTask {
    pub(crate) node: Node,
    pub(crate) inbox: Inbox,
    pub(crate) lanes: Lanes,
    pub(crate) peers: Peers,
    pub(crate) clients: Clients,
    pub(crate) databases: Databases,
    pub(crate) scripts: Scripts,
    pub(crate) cluster_lock: ClusterLock,
    pub(crate) surroundings: Surroundings,
    pub(crate) load: Load,
    /// Set once the node wants to leave.
    pub(crate) exit: Option<Exit>,
}

/// How much there was to do lately.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Events since the last tick.
    events: u32,
    /// There was a time of work since memory was given back.
    was_busy: bool,
}

/// What the core task needs of the outside only now and then.
pub(crate) struct Surroundings {
    /// The sockets, until they are served.
    pub(crate) listeners: Option<(TcpListener, UnixListener)>,
    /// Reads the nodes list again.
    pub(crate) nodes_list: NodesReader,
    /// Peers to connect to.
    pub(crate) peer_addresses: Vec<(Pnn, std::net::SocketAddr)>,
    /// Whom to tell that the daemon serves.
    pub(crate) ready: Ready,
    pub(crate) log: Log,
    pub(crate) notify_script: PathBuf,
    pub(crate) lock_debug_script: PathBuf,
    /// Runs those two.
    pub(crate) unattended: Unattended,
    /// Keeps the daemon in memory, if that is wanted.
    pub(crate) lock_memory: Option<fn() -> std::io::Result<()>>,
}

/// How the daemon ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) reason: String,
}

impl CoreTask {
    /// Serves until the node wants to leave.
    pub(crate) async fn run(mut self) -> Exit {
        let sleep = tokio::time::sleep_until(self.node.poll_timeout(Instant::now()).into());
        tokio::pin!(sleep);
        self.carry_out_effects();
        let mut stalls = Stalls::new(Instant::now());
        loop {
            self.flush();
            if let Some(exit) = self.exit {
                return exit;
            }
            // Waking the node too early is harmless, and cheaper than moving the timer each turn.
            let now = Instant::now();
            stalls.turn_ended(now);
            let wake = self.node.poll_timeout(now).into();
            if wake < sleep.deadline() || sleep.is_elapsed() {
                sleep.as_mut().reset(wake);
            }
            let event = tokio::select! {
                biased;
                () = &mut sleep => None,
                event = self.inbox.next() => Some(event),
            };
            stalls.turn_began(Instant::now());
            match event {
                Some(event) => self.handle(event),
                None => self.node.handle_timeout(Instant::now()),
            }
            self.carry_out_effects();
            for _ in 1..TURN_LIMIT {
                let Some(event) = self.inbox.try_next() else {
                    break;
                };
                self.handle(event);
                self.carry_out_effects();
            }
        }
    }

    /// Something happened: keeps the shell's own state, and tells the node.
    fn handle(&mut self, event: ShellEvent) {
        let now = Instant::now();
        self.node.note_wall_clock(since_1970(), now);
        self.load.events = self.load.events.saturating_add(1);
        match event {
            ShellEvent::PeerPacket { from, link, packet } => {
                if self.peers.is_current(from, link) {
                    self.node.handle(Input::PeerPacket { from, packet }, now);
                }
            }
            ShellEvent::ClientPacket {
                client,
                packet,
                place,
            } => {
                drop(place);
                self.node
                    .handle(Input::ClientPacket { client, packet }, now);
            }
            ShellEvent::ClientAccepted { socket, pid } => {
                let client = self.node.accept_client(pid, now);
                if !self.clients.add(client, socket) {
                    self.node.handle(Input::ClientGone(client), now);
                }
            }
            ShellEvent::ClientLost { client } => self.client_lost(client, now),
            ShellEvent::ClientRoom { ticket } => {
                self.node.handle(Input::ClientHasRoom(ticket), now);
            }
            ShellEvent::PeerRoom { ticket } => {
                self.node.handle(Input::PeerHasRoom(ticket), now);
            }
            ShellEvent::PeerConnected { pnn, link, socket } => {
                if self.peers.connected(pnn, link, socket) {
                    self.node.handle(Input::OutgoingUp(pnn), now);
                }
            }
            ShellEvent::PeerAccepted { socket, from } => match self.node.accept_peer(from, now) {
                Ok(pnn) => self.peers.accepted(pnn, socket),
                Err(refusal) => warn!("{refusal}"),
            },
            ShellEvent::PeerLost { pnn, link, end } => self.peer_lost(pnn, link, end, now),
            ShellEvent::Attached { ticket, result } => {
                self.load.was_busy = true;
                let answer = self.databases.attached(result);
                self.node.handle(Input::Db { ticket, answer }, now);
            }
            ShellEvent::Db { ticket, answer } => {
                self.databases.note_answer(ticket, &answer);
                self.node.handle(Input::Db { ticket, answer }, now);
            }
            ShellEvent::FreezeLost { ticket, db } => {
                if self.databases.freeze_lost(ticket, db) {
                    self.node.handle(Input::FreezeLost(db), now);
                }
            }
            ShellEvent::Thawed { ticket, db } => {
                self.load.was_busy = true;
                self.databases.thawed(&mut self.node, db, now);
                let answer = Ok(ctdb_core::DbAnswer::Done);
                self.node.handle(Input::Db { ticket, answer }, now);
            }
            ShellEvent::RecordLock { wait, result } => {
                self.databases
                    .record_lock(&mut self.node, wait, result, now);
            }
            ShellEvent::EventDone {
                ticket,
                outcome,
                failure,
            } => {
                self.scripts.finished(ticket);
                if let Some(failure) = failure {
                    self.node
                        .handle(Input::ScriptFailed { ticket, failure }, now);
                }
                self.node.handle(Input::EventDone { ticket, outcome }, now);
            }
            ShellEvent::ClusterLock(report) => self.lock_report(report, now),
            ShellEvent::NodesList { ticket, result } => {
                self.node.handle(Input::NodesList { ticket, result }, now);
            }
            ShellEvent::Signal(signal) => self.signal(signal, now),
            ShellEvent::Tick => self.tick(now),
        }
    }

    /// Every few seconds. The memory that a time of work has left is given back in a quiet moment:
    /// the allocator is slow while that goes on.
    fn tick(&mut self, now: Instant) {
        for wait in self.databases.report_long_waits(now) {
            self.debug_locks(&wait);
        }
        self.node.note_memory_used(memory_used());
        let is_quiet = std::mem::take(&mut self.load.events) < QUIET_LIMIT;
        if !is_quiet {
            self.load.was_busy = true;
        } else if std::mem::take(&mut self.load.was_busy) {
            self.databases.release_memory();
        }
    }

    fn client_lost(&mut self, client: ClientId, now: Instant) {
        if self.clients.remove(client) {
            self.node.handle(Input::ClientGone(client), now);
        }
    }

    fn peer_lost(&mut self, pnn: Pnn, link: LinkId, end: LinkEnd, now: Instant) {
        if self.peers.is_current(pnn, link) {
            self.peers.reconnect(pnn);
            self.node.handle(Input::LinkLost { pnn, end }, now);
        }
    }

    fn lock_report(&mut self, report: LockReport, now: Instant) {
        match report {
            LockReport::Event {
                attempt,
                event,
                took,
            } => {
                if !self.cluster_lock.is_current(attempt) {
                    return;
                }
                if event == ClusterLockEvent::Lost {
                    error!("Cluster lock helper terminated");
                }
                self.node.handle(
                    Input::ClusterLock {
                        attempt,
                        event,
                        took,
                    },
                    now,
                );
            }
            LockReport::Tested(ticket, outcome) => {
                self.node
                    .handle(Input::ClusterLockTested { ticket, outcome }, now);
            }
        }
    }

    fn signal(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::Terminate => {
                let reason = "asked to end by a signal".to_owned();
                self.node.handle(Input::Shutdown { code: 0, reason }, now);
            }
            Signal::StdinClosed => {
                let reason = "stdin closed, exiting".to_owned();
                error!("{reason}");
                self.node.handle(
                    Input::Shutdown {
                        code: STDIN_CLOSED,
                        reason,
                    },
                    now,
                );
            }
            Signal::ReopenLog => self.surroundings.log.reopen(),
        }
    }

    fn carry_out_effects(&mut self) {
        while let Some(effect) = self.node.poll_effect() {
            self.carry_out(effect);
        }
    }

    /// Does what the node wants done, or hands it to whom it concerns.
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::SendPeer { to, packet } => self.peers.send(to, &packet),
            Effect::SendClient { to, packet } => self.send_client(to, &packet),
            Effect::AwaitRoom { client, ticket } => self.clients.await_room(client, ticket),
            Effect::AwaitPeerRoom { pnn, limit, ticket } => {
                self.peers.await_room(pnn, limit, ticket);
            }
            Effect::Record(job) => {
                self.databases.record(&mut self.node, job, Instant::now());
            }
            Effect::Db { ticket, db, op } => {
                self.databases
                    .carry_out(&mut self.node, ticket, db, op, Instant::now());
            }
            Effect::DropPeer { pnn, reason } => {
                info!("Tearing down connection to dead node :{pnn}");
                debug!(?reason, "why it is dead");
                self.peers.reconnect(pnn);
            }
            Effect::AddPeer { pnn, addr } => self.peers.connect(pnn, addr),
            Effect::RemovePeer { pnn } => self.peers.remove(pnn),
            Effect::ReadNodesList { ticket } => {
                self.surroundings.nodes_list.read(ticket, &self.lanes);
            }
            Effect::DropClient { client, reason } => {
                info!(%client, ?reason, "closing the connection of a client");
                self.clients.remove(client);
            }
            Effect::RunEvent {
                ticket,
                event,
                timeout,
            } => {
                self.scripts.run(ticket, event.name(), Vec::new(), timeout);
            }
            Effect::CancelEvent { ticket } => self.scripts.cancel(ticket),
            Effect::Notify(notification) => self.notify(notification),
            Effect::TakeClusterLock(attempt) => self.cluster_lock.take(attempt),
            Effect::ReleaseClusterLock(attempt) => self.cluster_lock.release(attempt),
            Effect::TestClusterLock { ticket, limit } => self.cluster_lock.test(ticket, limit),
            Effect::SetDebugLevel(level) => {
                if let Some(level) = LogLevel::from_number(level) {
                    self.surroundings.log.set_level(level);
                }
            }
            Effect::OpenForBusiness => self.open_for_business(),
            Effect::Exit { code, reason } => {
                self.exit.get_or_insert(Exit { code, reason });
            }
        }
    }

    fn send_client(&mut self, to: ClientId, packet: &Packet) {
        let limit = self.node.tunables().get(Tunable::MaxQueueDropMsg);
        if let Some(gone) = self.clients.send(to, packet, limit) {
            self.client_lost(gone, Instant::now());
        }
    }

    fn notify(&self, notification: Notification) {
        let Surroundings {
            notify_script,
            unattended,
            ..
        } = &self.surroundings;
        unattended.notify(notify_script, notification.name());
    }

    /// Has a script, if there is one, tell who holds a lock that does not come (data-plane.md 6.4).
    /// Who waits is a thread of this process.
    fn debug_locks(&self, wait: &LongWait) {
        let inactive = self.node.flags_of(self.node.pnn()).is_inactive();
        if inactive && wait.kind == LockKind::Record {
            return;
        }
        let pid = std::process::id().to_string();
        let arguments = vec![
            pid.into(),
            wait.kind.name().into(),
            wait.path.clone().into(),
            if wait.uses_mutexes { "MUTEX" } else { "FCNTL" }.into(),
        ];
        self.surroundings.unattended.run(Errand {
            what: "lock debug script",
            script: self.surroundings.lock_debug_script.clone(),
            arguments,
            if_missing: None,
        });
    }

    fn open_for_business(&mut self) {
        let Some((tcp, unix)) = self.surroundings.listeners.take() else {
            return;
        };
        for (pnn, address) in self.surroundings.peer_addresses.drain(..) {
            self.peers.connect(pnn, address);
        }
        tokio::spawn(accept_peers(tcp, self.lanes.clone()));
        tokio::spawn(accept_clients(unix, self.lanes.clone()));
        if let Some(Err(error)) = self.surroundings.lock_memory.map(|lock| lock()) {
            warn!("cannot lock the memory of the daemon: {error}");
        }
        self.surroundings.ready.tell();
    }

    /// Writes what was queued for sockets in this turn. A connection that turns out to be broken
    /// is news for the node, which may queue more.
    fn flush(&mut self) {
        loop {
            let now = Instant::now();
            let (peers, clients) = (self.peers.flush(), self.clients.flush());
            if peers.is_empty() && clients.is_empty() {
                return;
            }
            for (pnn, end) in peers {
                self.peers.reconnect(pnn);
                self.node.handle(Input::LinkLost { pnn, end }, now);
            }
            for client in clients {
                self.client_lost(client, now);
            }
            self.carry_out_effects();
        }
    }
}
