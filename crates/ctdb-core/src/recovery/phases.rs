//! The phases of a recovery: what is asked of the nodes, in which order, for how long.

use std::time::Duration;

use ctdb_conf::Tunable;
use ctdb_proto::{Opcode, RecMode, Request, VnnMap};

use crate::recoverd::view::View;

/// What a recovery is doing. All but `PushFlags` and `Databases` are one control to each node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// Each connected node says what its own flags are: who is inactive takes no part.
    ReadFlags,
    /// Each connected node is told the flags of all others.
    PushFlags,
    ReadCapabilities,
    ReadDatabases,
    /// From here on attaching and persistent transactions wait.
    EnterRecovery,
    /// Event `startrecovery`; each node compares its cluster lock with the leader's.
    StartRecovery,
    /// From here on packets of the generation before are dropped.
    SetVnnMap,
    /// All databases at the same time.
    Databases,
    LeaveRecovery,
    /// Event `recovered`.
    EndRecovery,
}

impl Phase {
    /// The phase after this one; `None`: the recovery is complete.
    pub(crate) fn next(self) -> Option<Self> {
        Some(match self {
            Self::ReadFlags => Self::PushFlags,
            Self::PushFlags => Self::ReadCapabilities,
            Self::ReadCapabilities => Self::ReadDatabases,
            Self::ReadDatabases => Self::EnterRecovery,
            Self::EnterRecovery => Self::StartRecovery,
            Self::StartRecovery => Self::SetVnnMap,
            Self::SetVnnMap => Self::Databases,
            Self::Databases => Self::LeaveRecovery,
            Self::LeaveRecovery => Self::EndRecovery,
            Self::EndRecovery => return None,
        })
    }

    /// The control that the phase consists of; of `PushFlags` and `Databases`, none.
    pub(crate) fn request(self, map: &VnnMap) -> Option<Request> {
        Some(match self {
            Self::ReadFlags => Request::GetNodeMap,
            Self::ReadCapabilities => Request::GetCapabilities,
            Self::ReadDatabases => Request::GetDbMap,
            Self::EnterRecovery => Request::SetRecMode(RecMode::Active),
            Self::StartRecovery => Request::StartRecovery,
            Self::SetVnnMap => Request::SetVnnMap(map.clone()),
            Self::LeaveRecovery => Request::SetRecMode(RecMode::Normal),
            Self::EndRecovery => Request::EndRecovery,
            Self::PushFlags | Self::Databases => return None,
        })
    }

    /// The opcode of that control, for messages.
    pub(crate) fn opcode(self, map: &VnnMap) -> Opcode {
        self.request(map)
            .map_or(Opcode::MODIFY_FLAGS, |request| request.opcode())
    }

    /// How long the nodes may take. With the defaults, the original allows an event script as long
    /// as the control that runs it, so that a hung script repeats the recovery for ever
    /// (`cluster.md 8.2`): here the control waits for longer.
    pub(crate) fn timeout(self, view: &View<'_>) -> Duration {
        let normal = view.recover_timeout();
        match self {
            Self::StartRecovery | Self::EndRecovery => {
                normal.max(view.tunables.seconds(Tunable::EventScriptTimeout) + SCRIPT_MARGIN)
            }
            _ => normal,
        }
    }
}

/// How much longer a control may take than the scripts that it runs.
const SCRIPT_MARGIN: Duration = Duration::from_secs(5);
