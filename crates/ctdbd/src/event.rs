//! What the tasks and threads of the shell tell the core task.

use std::net::IpAddr;

use ctdb_core::explain::ScriptFailure;
use ctdb_core::{ConfiguredNode, DbAnswer, DbFailure, EventOutcome, LinkEnd, Ticket};
use ctdb_proto::{ClientId, DbId, Packet, Pnn};
use tokio::net::{TcpStream, UnixStream};

use crate::cluster_lock::LockReport;
use crate::database::attach::Attached;
use crate::database::locks::{ChainHeld, WaitId};
use crate::lanes::InWorkLane;
use crate::peer::LinkId;
use crate::socket::Socket;

/// Something that happened outside of the core task.
pub(crate) enum ShellEvent {
    /// Our connection to a peer stands.
    PeerConnected {
        pnn: Pnn,
        link: LinkId,
        socket: Socket,
    },
    /// Somebody connected to our TCP port.
    PeerAccepted {
        socket: TcpStream,
        from: IpAddr,
    },
    PeerPacket {
        from: Pnn,
        link: LinkId,
        packet: Packet,
    },
    /// One of the two connections to a peer ended.
    PeerLost {
        pnn: Pnn,
        link: LinkId,
        end: LinkEnd,
    },

    /// Somebody connected to our Unix socket.
    ClientAccepted {
        socket: UnixStream,
        pid: i32,
    },
    ClientPacket {
        client: ClientId,
        packet: Packet,
        place: Option<InWorkLane>,
    },
    /// The connection of a client ended.
    ClientLost {
        client: ClientId,
    },

    /// Little is queued for a client, or it is gone.
    ClientRoom {
        ticket: Ticket,
    },

    /// Little is queued for a peer, or it is gone.
    PeerRoom {
        ticket: Ticket,
    },

    /// A database was opened, or was not.
    Attached {
        ticket: Ticket,
        result: Result<Box<Attached>, DbFailure>,
    },
    /// A thread has carried out a piece of work on a database.
    Db {
        ticket: Ticket,
        answer: Result<DbAnswer, DbFailure>,
    },
    /// The thread of this freeze has failed, and its lock is gone.
    FreezeLost {
        ticket: Ticket,
        db: DbId,
    },
    /// A frozen database can be used again.
    Thawed {
        ticket: Ticket,
        db: DbId,
    },
    /// A lock thread holds a chain for us, or never will.
    ChainLock {
        wait: WaitId,
        result: Result<ChainHeld, DbFailure>,
    },

    EventDone {
        ticket: Ticket,
        outcome: EventOutcome,
        /// The script that made it fail.
        failure: Option<ScriptFailure>,
    },
    ClusterLock(LockReport),
    /// The nodes list was read again, or why it could not be.
    NodesList {
        ticket: Ticket,
        result: Result<Vec<ConfiguredNode>, String>,
    },

    Signal(Signal),
    /// Some seconds have passed: look who waits for too long.
    Tick,
}

/// What the daemon is asked from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Signal {
    /// SIGTERM or SIGINT.
    Terminate,
    /// SIGHUP.
    ReopenLog,
    /// In test mode: nobody holds the other end of our standard input any more.
    StdinClosed,
}
