//! Decisions and reasons in words.

use std::fmt;

use super::{
    Banner, CreditReason, Decision, ElectionReason, FenceReason, LeaderReason, RecoveryReason,
    ScriptFailure, TakeoverReason, What, Why,
};
use crate::recovery::Failure;

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
            Self::PeerConnected(pnn) => write!(f, "node {pnn} is connected"),
            Self::PeerLost(pnn) => write!(f, "node {pnn} is lost"),
            Self::Listed {
                pnn,
                is_deleted: false,
            } => write!(f, "node {pnn} was added"),
            Self::Listed { pnn, .. } => write!(f, "node {pnn} was deleted"),
            Self::EventFailed { event } => write!(f, "event {event} fails"),
            Self::EventOk { event } => write!(f, "event {event} works again"),
            Self::Health(true) => f.write_str("this node is healthy"),
            Self::Health(false) => f.write_str("this node is unhealthy"),
            Self::Unbanned => f.write_str("this node is not banned any more"),
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
            Self::MayStillWrite { pnn, reason } => write!(
                f,
                "{reason}, but node {pnn} may still use its records without knowing"
            ),
            Self::Pacing(reason) => write!(f, "{reason}, too soon after the last recovery"),
            Self::HeardBy(pnn) => write!(f, "node {pnn} hears the leader"),
            Self::Fence(reason) => reason.fmt(f),
            Self::LinkBroken(a, b) => {
                write!(
                    f,
                    "nodes {a} and {b} do not reach each other, the leader reaches both"
                )
            }
            Self::LinksWhole => f.write_str("all nodes reach it again"),
            Self::Script(failure) => failure.fmt(f),
            Self::Banner(banner) => banner.fmt(f),
            Self::Told(text) => f.write_str(text),
            Self::Done => f.write_str("all is well"),
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
            Self::NoLeader => f.write_str("no leader is heard, and there may be one elsewhere"),
            Self::LeaderLost { leader } => {
                write!(f, "the connection to node {leader}, the leader, is gone")
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

impl fmt::Display for ScriptFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.script, self.how)?;
        let mut lines = self.output.lines().filter(|line| !line.trim().is_empty());
        lines.try_for_each(|line| write!(f, "\n{line}"))
    }
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader(pnn) => write!(f, "node {pnn}, the leader, decided it"),
            Self::Client(pnn) => write!(
                f,
                "a client on node {pnn} asked for it: an administrator, or the recovery daemon of \
                 an original ctdbd"
            ),
            Self::Itself => f.write_str("its databases were not frozen when the ban was over"),
        }
    }
}
