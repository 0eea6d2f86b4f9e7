//! Why things are as they are: a bounded history of decisions, each with its reason as data.
//!
//! The log tells a story to who was watching; this answers who asks afterwards ("why is node 1
//! leader", "why was there a recovery"). A tool prints the entries by their `Display`.

use std::collections::VecDeque;
use std::fmt;
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
}

impl History {
    /// How many decisions are kept.
    pub const LIMIT: usize = 256;

    pub(crate) fn add(&mut self, at: Instant, what: What, why: Why) {
        if self.decisions.len() == Self::LIMIT {
            self.decisions.pop_front();
        }
        self.decisions.push_back(Decision { at, what, why });
    }

    /// All that is remembered, the oldest first.
    pub fn decisions(&self) -> impl DoubleEndedIterator<Item = &Decision> {
        self.decisions.iter()
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ElectionStarted => f.write_str("election started"),
            Self::Leader(Some(pnn)) => write!(f, "leader is node {pnn}"),
            Self::Leader(None) => f.write_str("no leader"),
            Self::RecoveryStarted { generation } => write!(f, "recovery {generation} started"),
            Self::RecoveryPutOff { .. } => f.write_str("recovery put off"),
            Self::RecoveryEnded { generation, took } => {
                write!(
                    f,
                    "recovery {generation} complete after {:.3} s",
                    took.as_secs_f64()
                )
            }
            Self::RecoveryFailed { generation } => write!(f, "recovery {generation} failed"),
            Self::Credited { pnn, count, total } => {
                write!(f, "node {pnn} got {count} banning credits, has {total}")
            }
            Self::Banned { pnn, .. } => write!(f, "node {pnn} banned"),
            Self::TakeoverRunStarted => f.write_str("takeover run started"),
            Self::TakeoverRunEnded => f.write_str("takeover run complete"),
            Self::TakeoverRunFailed => f.write_str("takeover run failed"),
            Self::CutOff { leader } => {
                write!(f, "no election although node {leader} is not heard")
            }
            Self::Fenced => f.write_str("records are blocked"),
            Self::Readmitted { pnn } => write!(f, "ban of node {pnn} lifted"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Election(reason) => reason.fmt(f),
            Self::Leader(reason) => reason.fmt(f),
            Self::Recovery(reason) => reason.fmt(f),
            Self::Credit(reason) => reason.fmt(f),
            Self::Takeover(reason) => reason.fmt(f),
            Self::Failures(failures) => write_list(f, failures),
            Self::AnotherRecovery(pnn) => write!(f, "node {pnn} runs another recovery"),
            Self::Pacing(reason) => write!(f, "{reason}, too soon after the last recovery"),
            Self::Done => f.write_str("all steps done"),
            Self::HeardBy(pnn) => write!(f, "node {pnn} hears the leader"),
            Self::Fence(reason) => reason.fmt(f),
            Self::LinkBroken(a, b) => {
                write!(
                    f,
                    "nodes {a} and {b} do not reach each other, the leader reaches both"
                )
            }
            Self::LinksWhole => f.write_str("all nodes reach it again"),
        }
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, failures: &[Failure]) -> fmt::Result {
    for (index, failure) in failures.iter().enumerate() {
        if index > 0 {
            f.write_str("; ")?;
        }
        write!(f, "{failure}")?;
    }
    Ok(())
}

impl fmt::Display for ElectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaderSilent => f.write_str("no leader was heard in time"),
            Self::LeaderDisconnected(pnn) => write!(f, "the leader, node {pnn}, is disconnected"),
            Self::ColdStart => f.write_str("all nodes are connected and there never was a leader"),
            Self::NobodyStood => f.write_str("an election was announced, but nobody stood"),
            Self::ClusterLockLost => f.write_str("the cluster lock was lost"),
            Self::RivalLeader(pnn) => write!(f, "node {pnn} also believes to be leader"),
            Self::ClusterLockContended => {
                f.write_str("the cluster lock is taken, but its holder does not lead")
            }
            Self::WasAway => f.write_str("this node was away, and heard of no leader then"),
        }
    }
}

impl fmt::Display for LeaderReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broadcast => f.write_str("it broadcasts that it leads"),
            Self::Standing => f.write_str("this node stands for election"),
            Self::LostTo(pnn) => write!(f, "this node lost the election to node {pnn}"),
            Self::Elected => f.write_str("nobody objected in the election"),
            Self::ClusterLockTaken => f.write_str("it took the cluster lock"),
            Self::ElectionBegan => f.write_str("an election began"),
            Self::Resigned => f.write_str("this node must not lead any more"),
            Self::Disconnected => f.write_str("the leader is disconnected"),
            Self::Silent => f.write_str("the leader is silent"),
            Self::WasAway => f.write_str("this node was away"),
        }
    }
}

impl fmt::Display for RecoveryReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PreviousFailed => f.write_str("the previous recovery failed"),
            Self::NodeInRecovery(pnn) => write!(f, "node {pnn} was in recovery mode"),
            Self::MemberLost(pnn) => write!(f, "node {pnn} of the vnn map is lost"),
            Self::MemberMissing(pnn) => write!(f, "active node {pnn} is not in the vnn map"),
            Self::MemberResigned(pnn) => write!(f, "node {pnn} gave up the lmaster role"),
            Self::ClusterLockNotHeld => f.write_str("the leader does not hold the cluster lock"),
            Self::NodeCount { node, theirs, ours } => {
                write!(f, "node {node} knows {theirs} nodes, the leader {ours}")
            }
            Self::NodemapPnn { node, index } => {
                write!(
                    f,
                    "node {node} has another pnn at place {index} of its node map"
                )
            }
            Self::MapGeneration { node, theirs, ours } => {
                write!(
                    f,
                    "node {node} has vnn map generation {theirs}, the leader {ours}"
                )
            }
            Self::MapSize { node, theirs, ours } => {
                write!(
                    f,
                    "node {node} has a vnn map of {theirs} nodes, the leader of {ours}"
                )
            }
            Self::MapContent { node } => write!(f, "node {node} has a different vnn map"),
        }
    }
}

impl fmt::Display for CreditReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer => f.write_str("it did not answer"),
            Self::Disagrees(reason) => reason.fmt(f),
            Self::TakeoverRun => f.write_str("it failed most often in a takeover run"),
        }
    }
}

impl fmt::Display for FenceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftOut { leader } => write!(
                f,
                "the others follow node {leader}, to which this node has no connection"
            ),
            Self::ClusterLockElsewhere => {
                f.write_str("somebody who is not heard here holds the cluster lock")
            }
        }
    }
}

impl fmt::Display for TakeoverReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AfterRecovery => f.write_str("a recovery has ended"),
            Self::PreviousFailed => f.write_str("the previous takeover run failed"),
            Self::Requested {
                first: Some(pnn),
                requests: 1,
            } => write!(f, "node {pnn} asked"),
            Self::Requested {
                first: Some(pnn),
                requests,
            } => {
                write!(f, "node {pnn} and {} others asked", requests - 1)
            }
            Self::Requested {
                first: None,
                requests,
            } => write!(f, "{requests} requests"),
        }
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
