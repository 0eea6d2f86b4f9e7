//! Why things are as they are: a bounded history of decisions, each with its reason as data.
//!
//! The log tells a story to who was watching; this answers who asks afterwards ("why is node 1
//! leader", "why was there a recovery"). A tool prints the entries by their `Display` (`texts`).
//!
//! [`History`] keeps everything for a while; `memory` keeps the latest of each kind for as long as
//! it matters; `report` makes of both what `ctdb explain` asks for.

pub(crate) mod memory;
mod report;
mod texts;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ctdb_proto::{Generation, Pnn};

use crate::recovery::Failure;

/// One decision, when it was made, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub at: Instant,
    pub what: What,
    pub why: Why,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// This node asks for an election.
    ElectionStarted,
    /// Whom this node follows from now on.
    Leader(Option<Pnn>),
    RecoveryStarted {
        generation: Generation,
    },
    /// A recovery is needed, but not before this time.
    RecoveryPutOff {
        until: Instant,
    },
    RecoveryEnded {
        generation: Generation,
        took: Duration,
    },
    RecoveryFailed {
        generation: Generation,
    },
    /// A node came closer to a ban.
    Credited {
        pnn: Pnn,
        count: u32,
        total: u32,
    },
    Banned {
        pnn: Pnn,
        until: Instant,
    },
    TakeoverRunStarted,
    TakeoverRunEnded,
    TakeoverRunFailed,
    PeerConnected(Pnn),
    PeerLost(Pnn),
    /// The nodes list has this node now, or not any more.
    Listed {
        pnn: Pnn,
        is_deleted: bool,
    },
    /// An event failed that did not fail before, or not in this way.
    EventFailed {
        event: &'static str,
    },
    /// An event that failed before has ended well.
    EventOk {
        event: &'static str,
    },
    /// This node became healthy, or not.
    Health(bool),
    /// The ban of this node is over.
    Unbanned,
    /// This node does not hear the leader that others hear: it calls no election.
    CutOff {
        leader: Pnn,
    },
    /// This node does not let records be used until it hears a leader.
    Fenced,
    /// A node may take part again before its ban ends.
    Readmitted {
        pnn: Pnn,
    },
}

/// Why it was decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    Election(ElectionReason),
    Leader(LeaderReason),
    Recovery(RecoveryReason),
    Credit(CreditReason),
    Takeover(TakeoverReason),
    /// What failed, in which step, at which node.
    Failures(Vec<Failure>),
    /// The recovery met that of another node, and gave way to it.
    AnotherRecovery(Pnn),
    /// Too soon after the last recovery.
    Pacing(RecoveryReason),
    /// A node that is not heard may not know yet that it must not use its records any more.
    MayStillWrite {
        pnn: Pnn,
        reason: RecoveryReason,
    },
    /// A script failed.
    Script(ScriptFailure),
    /// Somebody asked for it.
    Banner(Banner),
    /// In words of whoever saw it.
    Told(String),
    /// Everything went well.
    Done,
    /// This node said that it hears the leader.
    HeardBy(Pnn),
    Fence(FenceReason),
    /// These two nodes do not reach each other, and the leader reaches both.
    LinkBroken(Pnn, Pnn),
    /// All nodes reach the node again.
    LinksWhole,
}

/// Why a node does not let records be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FenceReason {
    /// Others hear a leader to which this node has no connection: they go on without it.
    LeftOut { leader: Pnn },
    /// Somebody else holds the cluster lock and is not heard: he may go on without this node.
    ClusterLockElsewhere,
    /// No leader was heard for so long that one on the other side of a cut may go on without this
    /// node.
    NoLeader,
    /// The connection to the leader is gone: if it lives, it may go on without this node.
    LeaderLost { leader: Pnn },
}

/// Which script made an event fail, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScriptFailure {
    /// Its name without the `.script`.
    pub script: String,
    /// How it ended: `exit status: 1`.
    pub how: String,
    /// The end of what it said, on any number of lines.
    pub output: String,
}

/// Who asked for the ban of this node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Banner {
    /// The recovery daemon's part of a node: the leader.
    Leader(Pnn),
    /// A client of a node's daemon: a tool, or the recovery daemon of the original.
    Client(Pnn),
    /// This node, whose ban was over before its databases were frozen.
    Itself,
}

/// Why a node asks for an election.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ElectionReason {
    /// No leader was heard for the leader timeout.
    LeaderSilent,
    /// The connection to the leader is gone.
    LeaderDisconnected(Pnn),
    /// All nodes are connected and none was ever led.
    ColdStart,
    /// Another node said that there is no leader, and then nobody stood for election.
    NobodyStood,
    /// This node lost the cluster lock that it held.
    ClusterLockLost,
    /// Another node also believes to lead, and no cluster lock says who is right.
    RivalLeader(Pnn),
    /// Every try to get the lock found it taken, and yet no leader was heard.
    ClusterLockContended,
    /// This node was away, and then heard of no leader.
    WasAway,
}

/// Why a node follows this leader, or none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LeaderReason {
    /// It said so, and nothing speaks against it.
    Broadcast,
    /// This node asks to be elected and nobody has objected yet.
    Standing,
    /// It runs for longer than this node, or this node cannot lead.
    LostTo(Pnn),
    /// Nobody objected until the election ended.
    Elected,
    /// Holding the cluster lock is what makes a leader.
    ClusterLockTaken,
    /// An election has begun.
    ElectionBegan,
    /// This node led, and must not any more: it is inactive or lost the capability.
    Resigned,
    Disconnected,
    Silent,
    /// This node was away for so long that another one may lead.
    WasAway,
}

/// Why the leader recovers the cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RecoveryReason {
    /// The last try failed.
    PreviousFailed,
    /// A node is in recovery mode: its databases cannot be used.
    NodeInRecovery(Pnn),
    /// A member of the vnn map takes no part any more: records it was lmaster of are unreachable.
    MemberLost(Pnn),
    /// An active node with the lmaster capability is not in the vnn map.
    MemberMissing(Pnn),
    /// A member of the vnn map gave up the lmaster capability.
    MemberResigned(Pnn),
    /// The leader does not hold the cluster lock.
    ClusterLockNotHeld,
    NodeCount {
        node: Pnn,
        theirs: usize,
        ours: usize,
    },
    NodemapPnn {
        node: Pnn,
        index: usize,
    },
    MapGeneration {
        node: Pnn,
        theirs: Generation,
        ours: Generation,
    },
    MapSize {
        node: Pnn,
        theirs: usize,
        ours: usize,
    },
    MapContent {
        node: Pnn,
    },
}

/// Why a node came closer to a ban (`cluster.md 9.2`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CreditReason {
    /// It did not say how it sees the cluster.
    NoAnswer,
    /// It disagrees with the leader, or the leader is itself the problem.
    Disagrees(RecoveryReason),
    /// It failed most often in a takeover run.
    TakeoverRun,
}

/// Why the leader carries out a takeover run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TakeoverReason {
    AfterRecovery,
    PreviousFailed,
    /// This many nodes or tools asked for it; the first is named.
    Requested {
        first: Option<Pnn>,
        requests: usize,
    },
}

/// The last [`History::LIMIT`] decisions. When full, the oldest is forgotten.
#[derive(Debug, Default)]
pub struct History {
    decisions: VecDeque<Decision>,
    /// How many there ever were.
    count: u64,
}

impl History {
    /// How many decisions are kept.
    pub const LIMIT: usize = 256;

    pub(crate) fn add(&mut self, at: Instant, what: What, why: Why) {
        if self.decisions.len() == Self::LIMIT {
            self.decisions.pop_front();
        }
        self.decisions.push_back(Decision { at, what, why });
        self.count += 1;
    }

    /// How many decisions there ever were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Those that were added when there had been `known`, as far as they are remembered.
    pub fn after(&self, known: u64) -> impl Iterator<Item = &Decision> {
        let new = usize::try_from(self.count.saturating_sub(known)).unwrap_or(usize::MAX);
        let skipped = self.decisions.len().saturating_sub(new);
        self.decisions.iter().skip(skipped)
    }

    /// All that is remembered, the oldest first.
    pub fn decisions(&self) -> impl DoubleEndedIterator<Item = &Decision> {
        self.decisions.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recoverd::tests::epoch;

    #[test]
    fn the_oldest_decision_is_forgotten_first() {
        let mut history = History::default();
        for raw in 0..=History::LIMIT {
            let pnn = Pnn::new(u32::try_from(raw).unwrap());
            history.add(
                epoch(),
                What::Leader(pnn),
                Why::Leader(LeaderReason::Broadcast),
            );
        }
        assert_eq!(history.decisions().count(), History::LIMIT);
        assert_eq!(
            history.decisions().next().unwrap().what,
            What::Leader(Pnn::new(1))
        );
    }

    #[test]
    fn a_decision_reads_as_a_sentence() {
        let pnn = Pnn::new(2).unwrap();
        let decision = Decision {
            at: epoch(),
            what: What::RecoveryStarted {
                generation: Generation(77),
            },
            why: Why::Recovery(RecoveryReason::MemberLost(pnn)),
        };
        assert_eq!(
            decision.to_string(),
            "recovery 77 started: node 2 of the vnn map is lost"
        );
    }
}
