//! What the recovery daemon wants done, and the controls it waits for.
//!
//! Each control that goes out has a [`Token`] of its own, never used again. A reply finds its way
//! back by the token only, so an answer to a question of an older attempt, of an aborted recovery
//! or of a lost election reaches nobody.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_proto::{
    ControlFlags, DbId, DecodeError, Dest, Message, Opcode, Pnn, ReplyControl, ReqControl, Request,
    Srvid, Wire,
};

use crate::effect::DbOp;

/// Names one control that was sent; its reply carries it back.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Token(u64);

/// Names one try to take the cluster lock, and the helper process that makes it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LockAttempt(pub u64);

#[cfg(test)]
impl Token {
    /// One that no control has.
    pub(crate) fn for_test() -> Self {
        Self(u64::MAX)
    }
}

/// Something the daemon is to do for its recovery daemon.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RecoverdEffect {
    /// Send a control, also to the own node, and hand in the reply as
    /// [`RecoverdInput::Reply`](crate::recoverd::RecoverdInput::Reply) on a later turn. Not later
    /// than `timeout` from now, and at once when the node's connection is lost.
    Control {
        token: Token,
        to: Pnn,
        request: ReqControl,
        timeout: Duration,
    },
    /// Send a message; a copy for the own node comes back as an input, on a later turn.
    Message { to: Dest, srvid: Srvid, data: Bytes },
    /// Work on the merge of a database: one of the `Merge` operations of
    /// [`DbOp`]. What it reads is handed in as
    /// [`RecoverdInput::Merged`](crate::recoverd::RecoverdInput::Merged), its end as a reply.
    Merge { token: Token, db: DbId, op: DbOp },
    /// Let the merge whose reading has this token read one more batch.
    ContinueMerge { token: Token, db: DbId },
    /// Wait until few of the records sent to a node are still on their way out of this one, or in
    /// the case of the own node, not stored; then reply.
    AwaitRoom { token: Token, to: Pnn },
    /// Hand in messages to this service id.
    ListenTo(Srvid),
    /// No more of them.
    Unlisten(Srvid),
    /// Start a helper that takes the cluster lock. Its reports, one
    /// [`ClusterLockEvent`](crate::cluster_lock::ClusterLockEvent) and perhaps `Lost` after
    /// `Taken`, carry the number of the attempt.
    TakeClusterLock(LockAttempt),
    /// Stop that helper, whether it holds the lock or still tries to get it.
    ReleaseClusterLock(LockAttempt),
}

/// Which machine asked, so that the reply goes to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Asker {
    Election,
    ColdStart,
    Check,
    PushFlags,
    Recovery,
    Takeover,
    /// Bans and orders to the own node: only a failure is of interest, for the log.
    Order(Opcode, Pnn),
}

/// Effects that wait to be carried out, and the open questions.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    last: u64,
    asked: BTreeMap<Token, Asker>,
    effects: VecDeque<RecoverdEffect>,
}

impl Outbox {
    /// Sends a control.
    pub(crate) fn ask(
        &mut self,
        asker: Asker,
        to: Pnn,
        request: &Request,
        timeout: Duration,
    ) -> Token {
        self.control(
            asker,
            to,
            request.to_control(ControlFlags::empty()),
            timeout,
        )
    }

    /// Sends a control with flags of its own.
    pub(crate) fn control(
        &mut self,
        asker: Asker,
        to: Pnn,
        request: ReqControl,
        timeout: Duration,
    ) -> Token {
        let token = self.new_token(asker);
        self.effects.push_back(RecoverdEffect::Control {
            token,
            to,
            request,
            timeout,
        });
        token
    }

    /// Sends a control of which only the failure is of interest, for the log.
    pub(crate) fn order(&mut self, to: Pnn, request: &Request, timeout: Duration) {
        self.ask(Asker::Order(request.opcode(), to), to, request, timeout);
    }

    /// Who waits for this reply; nobody waits for it from now on.
    pub(crate) fn answered(&mut self, token: Token) -> Option<Asker> {
        self.asked.remove(&token)
    }

    /// Has something done with the merge of a database.
    pub(crate) fn merge(&mut self, db: DbId, op: DbOp) -> Token {
        let token = self.new_token(Asker::Recovery);
        self.push(RecoverdEffect::Merge { token, db, op });
        token
    }

    /// Waits until there is room for more records on the way to a node.
    pub(crate) fn await_room(&mut self, to: Pnn) -> Token {
        let token = self.new_token(Asker::Recovery);
        self.push(RecoverdEffect::AwaitRoom { token, to });
        token
    }

    fn new_token(&mut self, asker: Asker) -> Token {
        self.last += 1;
        let token = Token(self.last);
        self.asked.insert(token, asker);
        token
    }

    /// Sends a message.
    pub(crate) fn message(&mut self, to: impl Into<Dest>, message: &Message) {
        let message = message.encode();
        self.send(to, message.srvid, message.data);
    }

    /// Sends bytes to any service id.
    pub(crate) fn send(&mut self, to: impl Into<Dest>, srvid: Srvid, data: Bytes) {
        self.push(RecoverdEffect::Message {
            to: to.into(),
            srvid,
            data,
        });
    }

    pub(crate) fn push(&mut self, effect: RecoverdEffect) {
        self.effects.push_back(effect);
    }

    pub(crate) fn pop(&mut self) -> Option<RecoverdEffect> {
        self.effects.pop_front()
    }
}

/// Why a control was not done.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ControlFailure {
    /// No reply in time.
    #[error("no reply in time")]
    Timeout,
    /// The node is disconnected, or became so while we waited.
    #[error("node is disconnected")]
    Disconnected,
    /// The node said no.
    #[error("status {status}{}", Text(error))]
    Refused { status: i32, error: Bytes },
    /// The node's reply is not what such a reply should be.
    #[error("bad reply: {0}")]
    BadReply(#[from] DecodeError),
    /// The reply is well-formed and says something that cannot be accepted.
    #[error("{0}")]
    Unacceptable(String),
}

/// Begins the text with which a node refuses a step of a recovery because it takes part in another
/// one since. Only our own kind says so.
pub(crate) const ANOTHER_RECOVERY: &str = "another recovery";

impl ControlFailure {
    /// Whether the node itself is to blame, rather than its connection.
    pub fn blames_node(&self) -> bool {
        !matches!(self, Self::Disconnected) && !self.is_another_recovery()
    }

    /// Whether the node follows another recovery.
    pub(crate) fn is_another_recovery(&self) -> bool {
        matches!(self, Self::Refused { error, .. } if error.starts_with(ANOTHER_RECOVERY.as_bytes()))
    }

    /// The number that the log lines of the original give (`ret=%d`).
    pub fn ret(&self) -> i32 {
        const ETIMEDOUT: i32 = 110;
        const EPROTO: i32 = 71;
        match self {
            Self::Timeout => ETIMEDOUT,
            Self::Disconnected => -1,
            Self::Refused { status, .. } => *status,
            Self::BadReply(_) | Self::Unacceptable(_) => EPROTO,
        }
    }
}

/// The error text of a reply, if it has one.
struct Text<'a>(&'a Bytes);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, ", {}", String::from_utf8_lossy(self.0))
    }
}

/// What came back for one control.
pub type ControlResult = Result<ReplyControl, ControlFailure>;

/// Turns a status other than 0 into a failure.
pub(crate) fn require_ok(result: ControlResult) -> ControlResult {
    match result {
        Ok(reply) if reply.status != 0 => Err(ControlFailure::Refused {
            status: reply.status,
            error: reply.error,
        }),
        other => other,
    }
}

/// The payload of a reply. Bytes after it are allowed: 4.17 may send some.
pub(crate) fn payload<T: Wire>(reply: &ReplyControl) -> Result<T, ControlFailure> {
    Ok(T::decode(&mut reply.data.clone())?)
}

/// How long the others may still answer after the first failure in a batch.
const FAILURE_GRACE: Duration = Duration::from_secs(1);

/// Controls sent at the same time, often one to each of some nodes. Settled when each was answered
/// or has failed, or a while after the first failure: all failures are known then, not only the
/// first, and yet a slow node does not hold up what has failed anyway.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    waiting: BTreeMap<Token, Pnn>,
    failed_at: Option<Instant>,
    pub(crate) replies: Vec<(Pnn, ReplyControl)>,
    pub(crate) failures: Vec<(Pnn, ControlFailure)>,
}

impl Batch {
    /// Sends the same control to all these nodes. Complete at once if there are none.
    pub(crate) fn send(
        out: &mut Outbox,
        asker: Asker,
        nodes: impl IntoIterator<Item = Pnn>,
        request: &Request,
        timeout: Duration,
    ) -> Self {
        let mut batch = Self::default();
        for pnn in nodes {
            batch.add(pnn, out.ask(asker, pnn, request, timeout));
        }
        batch
    }

    /// Waits for one more control, which has been sent.
    pub(crate) fn add(&mut self, to: Pnn, token: Token) {
        self.waiting.insert(token, to);
    }

    /// Whether the control with this token is one of the open ones here.
    pub(crate) fn awaits(&self, token: Token) -> bool {
        self.waiting.contains_key(&token)
    }

    /// Takes the reply to one of the controls; a status other than 0 is a failure. `false`: it
    /// was not one of ours.
    pub(crate) fn on_reply(&mut self, token: Token, result: ControlResult, now: Instant) -> bool {
        let Some(pnn) = self.waiting.remove(&token) else {
            return false;
        };
        match require_ok(result) {
            Ok(reply) => self.replies.push((pnn, reply)),
            Err(failure) => {
                self.failed_at.get_or_insert(now);
                self.failures.push((pnn, failure));
            }
        }
        true
    }

    /// Whether every control was answered or has failed.
    pub(crate) fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether there is nothing left to wait for.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        self.is_complete() || self.failed_at.is_some_and(|at| now >= at + FAILURE_GRACE)
    }

    /// Waits no longer: who has not answered has failed.
    pub(crate) fn give_up(&mut self, now: Instant) {
        for (_, pnn) in std::mem::take(&mut self.waiting) {
            self.failed_at.get_or_insert(now);
            self.failures.push((pnn, ControlFailure::Timeout));
        }
    }

    /// When the batch is settled although some node has not answered.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.failed_at
            .filter(|_| !self.is_complete())
            .map(|at| at + FAILURE_GRACE)
    }

    /// The replies decoded, in pnn order. What cannot be decoded becomes a failure.
    pub(crate) fn decode<T: Wire>(&mut self) -> BTreeMap<Pnn, T> {
        let mut values = BTreeMap::new();
        for (pnn, reply) in std::mem::take(&mut self.replies) {
            match payload(&reply) {
                Ok(value) => {
                    values.insert(pnn, value);
                }
                Err(failure) => self.failures.push((pnn, failure)),
            }
        }
        values
    }
}
