//! Who waits for a piece of work that the shell does.

use std::time::Instant;

use ctdb_proto::{
    ClientId, ControlFlags, DbFlags, DbId, Generation, Header, Pnn, ReqControl, ReqId, Srvid,
};

use crate::effect::{Event, Ticket};
use crate::recoverd::Token;

/// What may go on when there is room for more records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RoomFor {
    /// The pull with this ticket reads another batch.
    Pull { ticket: Ticket, db: DbId },
    /// The recovery that this node leads.
    Recovery(Token),
}

/// Where the answer of a control goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Caller {
    /// Node that sent the control; this node for local clients and for the node itself.
    pub(crate) node: Pnn,
    pub(crate) reqid: ReqId,
    /// The client of *that* node that asked; [`ClientId::NONE`] if the daemon itself did.
    pub(crate) client: ClientId,
    pub(crate) wants_reply: bool,
    /// That of the vnn map of its sender: tells controls of before a recovery.
    pub(crate) generation: Generation,
}

impl Caller {
    /// Who sent this control.
    pub(crate) fn of(node: Pnn, header: &Header, control: &ReqControl) -> Self {
        Self {
            node,
            reqid: header.reqid,
            client: control.client_id,
            wants_reply: !control.flags.contains(ControlFlags::NOREPLY),
            generation: header.generation,
        }
    }
}

/// What a ticket stands for.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// Databases found at the start are attached, then frozen.
    StartAttach,
    Attach {
        callers: Vec<crate::serve::attach::Attacher>,
        db: DbId,
        name: String,
        flags: DbFlags,
    },
    Freeze {
        db: DbId,
        since: Instant,
    },
    /// The answer decides the status: 0 or -1, and nothing else happens.
    Status {
        caller: Caller,
    },
    TransactionStart {
        caller: Caller,
        db: DbId,
        transaction: Generation,
    },
    TransactionCommit {
        caller: Caller,
        db: DbId,
        transaction: Generation,
    },
    Pull {
        caller: Caller,
        db: DbId,
        srvid: Srvid,
    },
    /// Records on their way within this node: pushed to it, or to be merged by it.
    Records {
        bytes: usize,
        /// The recovery daemon's part wants to know.
        token: Option<Token>,
    },
    /// What the leader has merged of the database, batch by batch.
    MergeRead {
        token: Token,
    },
    /// Little is queued for a peer.
    PeerRoom(RoomFor),
    PushConfirm {
        caller: Caller,
        db: DbId,
    },
    /// `GET_DB_SEQNUM`: the answer is a number.
    Seqnum {
        caller: Caller,
    },
    /// `UPDATE_RECORD`: the answer is 0 or 1.
    Update {
        caller: Caller,
        db: DbId,
        started: Instant,
    },
    /// One node's share of a traverse.
    Traverse {
        origin: Pnn,
        traverse: ReqId,
        db: DbId,
        client_reqid: ReqId,
        srvid: Srvid,
    },
    /// `TRAVERSE_DATA`: answered when its client has read most of what it was sent.
    Room {
        caller: Caller,
        traverse: ReqId,
    },
    EnableSeqnum {
        caller: Caller,
        db: DbId,
    },
    FileSeqnum {
        db: DbId,
    },
    BumpSeqnum {
        db: DbId,
    },
    /// The result interests nobody; failures are logged.
    Background,
    SetRecmode {
        caller: Caller,
        /// That whose recovery ends.
        generation: Generation,
    },
    /// `START_RECOVERY`: which cluster lock the leader has.
    LeadersLock {
        caller: Caller,
    },
    Init,
    Setup,
    Startup,
    Monitor,
    StartRecovery {
        caller: Caller,
    },
    EndRecovery {
        caller: Caller,
    },
    StartIpReallocate {
        caller: Caller,
    },
    IpReallocated {
        caller: Caller,
    },
    Shutdown {
        code: i32,
        reason: String,
    },
}

impl Waiting {
    /// The event that runs, if that is what is waited for.
    pub(crate) fn event(&self) -> Option<Event> {
        Some(match self {
            Self::Init => Event::Init,
            Self::Setup => Event::Setup,
            Self::Startup => Event::Startup,
            Self::Monitor => Event::Monitor,
            Self::StartRecovery { .. } => Event::StartRecovery,
            Self::EndRecovery { .. } => Event::Recovered,
            Self::StartIpReallocate { .. } => Event::StartIpReallocate,
            Self::IpReallocated { .. } => Event::IpReallocated,
            Self::Shutdown { .. } => Event::Shutdown,
            _ => return None,
        })
    }
}
