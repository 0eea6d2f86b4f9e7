//! Controls that were sent and are not answered yet.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use ctdb_conf::Tunable;
use ctdb_proto::{Body, ClientId, ControlFlags, DbId, Pnn, ReplyControl, ReqControl, ReqId};

use crate::cluster::Cluster;
use crate::effect::Ticket;

/// Who waits for the answer of a control.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Asker {
    /// A local client, which knows the control by its own reqid.
    Client { id: ClientId, reqid: ReqId },
    /// The recovery daemon's part of this node.
    Recoverd(crate::recoverd::Token),
    /// One `UPDATE_RECORD` of the commit that runs on this database.
    /// `is_member`: asked of a node of the vnn map, which must succeed.
    Commit {
        db: DbId,
        serial: Ticket,
        is_member: bool,
    },
    /// `START_RECOVERY`: which cluster lock the leader has.
    LeadersLock(Ticket),
    /// The record path: revokes and vacuuming.
    Records(Ticket),
    /// `GET_DBMAP` after a recovery: which flags databases have elsewhere.
    DbFlags,
    /// This node's share of a traverse: its client has room for more.
    Traverse(Ticket),
}

/// Why a control has no answer from the node it was sent to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NoAnswer {
    TimedOut,
    Disconnected,
    NeverSent,
}

impl NoAnswer {
    /// The answer that a client gets instead (wire.md 3.6).
    pub(crate) const fn reply(self) -> ReplyControl {
        ReplyControl::error(
            -1,
            match self {
                Self::TimedOut => "ctdb_control timed out",
                Self::Disconnected => "node is disconnected",
                Self::NeverSent => "ctdb_control to disconnected node",
            },
        )
    }
}

#[derive(Debug)]
struct Pending {
    asker: Asker,
    to: Pnn,
    deadline: Option<Instant>,
}

/// All of them, by the reqid under which they were sent.
#[derive(Debug, Default)]
pub(crate) struct Outstanding {
    pending: HashMap<ReqId, Pending>,
    deadlines: BTreeSet<(Instant, ReqId)>,
}

impl Outstanding {
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn remove(&mut self, reqid: ReqId) -> Option<Pending> {
        let pending = self.pending.remove(&reqid)?;
        if let Some(deadline) = pending.deadline {
            self.deadlines.remove(&(deadline, reqid));
        }
        Some(pending)
    }
}

impl Cluster {
    /// Sends a control and remembers who wants the answer. `limit` of `None` waits for ever.
    ///
    /// Returns why it cannot be sent, if it cannot; the asker is then told by the caller.
    pub(crate) fn ask(
        &mut self,
        asker: Asker,
        to: Pnn,
        control: ReqControl,
        limit: Option<Duration>,
        now: Instant,
    ) -> Result<(), NoAnswer> {
        if !self.is_connected(to) {
            return Err(NoAnswer::NeverSent);
        }
        let reqid = self.reqids.allocate();
        let deadline = limit.map(|limit| now + limit);
        if let Some(deadline) = deadline {
            self.outstanding.deadlines.insert((deadline, reqid));
        }
        self.outstanding.pending.insert(
            reqid,
            Pending {
                asker,
                to,
                deadline,
            },
        );
        self.send(to, reqid, Body::ReqControl(control));
        Ok(())
    }

    /// Sends a control to which no answer is wanted.
    pub(crate) fn tell(&mut self, to: Pnn, mut control: ReqControl) {
        control.flags |= ControlFlags::NOREPLY;
        let reqid = self.reqids.unanswered();
        self.send(to, reqid, Body::ReqControl(control));
    }

    /// `ControlTimeout`, where 0 means for ever.
    pub(crate) fn control_timeout(&self) -> Option<Duration> {
        match self.tunables.get(Tunable::ControlTimeout) {
            0 => None,
            seconds => Some(Duration::from_secs(seconds.into())),
        }
    }

    /// Whom an answer is for; `None` if nobody waits for it, or any more.
    pub(crate) fn answered(&mut self, reqid: ReqId) -> Option<Asker> {
        let pending = self.outstanding.remove(reqid)?;
        self.reqids.release(reqid);
        Some(pending.asker)
    }

    /// Controls whose time is up.
    pub(crate) fn expired_controls(&mut self, now: Instant) -> Vec<Asker> {
        let mut askers = Vec::new();
        while let Some((_, reqid)) = self
            .outstanding
            .deadlines
            .first()
            .filter(|(at, _)| *at <= now)
        {
            askers.extend(self.answered(*reqid));
        }
        askers
    }

    /// Controls that will not be answered since their node is gone.
    pub(crate) fn controls_lost_with(&mut self, pnn: Pnn) -> Vec<Asker> {
        let lost = |(reqid, p): (&ReqId, &Pending)| (p.to == pnn).then_some(*reqid);
        let mut reqids: Vec<_> = self.outstanding.pending.iter().filter_map(lost).collect();
        reqids.sort_unstable();
        reqids
            .into_iter()
            .filter_map(|reqid| self.answered(reqid))
            .collect()
    }

    /// Forgets the controls of a client that is gone; late answers are dropped.
    pub(crate) fn forget_controls_of(&mut self, client: ClientId) {
        let is_its = |(reqid, p): (&ReqId, &Pending)| {
            matches!(p.asker, Asker::Client { id, .. } if id == client).then_some(*reqid)
        };
        let reqids: Vec<_> = self.outstanding.pending.iter().filter_map(is_its).collect();
        for reqid in reqids {
            self.answered(reqid);
        }
    }
}
