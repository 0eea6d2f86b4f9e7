//! Whether the cluster is only starting, so that nobody needs to wait for a leader.
//!
//! The original always waits for the leader timeout (5 s). Here, as soon as all nodes of the
//! nodes list are connected, each is asked for its run state and its vnn map: if all run a
//! recovery daemon and none was ever part of a recovered cluster, there is no leader to wait for.

use std::time::{Duration, Instant};

use ctdb_proto::{Generation, Request, RunState, VnnMap};

use crate::election::RANK_DELAY;
use crate::recoverd::outbox::{Asker, Batch, ControlResult, Outbox, Token};
use crate::recoverd::view::View;

/// Pause between two tries while some node is not that far yet.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Time limit of the questions.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The answer, as far as it is known.
#[derive(Debug)]
pub(crate) enum ColdStart {
    /// Until all nodes are connected.
    Waiting,
    /// Asked at this time: at once by the first active node, later by the others, if it does not.
    AskAt(Instant),
    Asking {
        run_states: Batch,
        vnn_maps: Batch,
    },
    /// It does not matter any more: there was a leader, or the question was settled.
    Settled,
}

impl ColdStart {
    pub(crate) fn new() -> Self {
        Self::Waiting
    }

    /// There is a leader, or an election.
    pub(crate) fn settle(&mut self) {
        *self = Self::Settled;
    }

    /// Asks, if it is time and all nodes are connected. `true`: an election is due.
    pub(crate) fn on_timeout(&mut self, view: &View<'_>, out: &mut Outbox, now: Instant) -> bool {
        if !view.is_complete() {
            return false;
        }
        if matches!(self, Self::Waiting) {
            *self = Self::AskAt(now + RANK_DELAY.saturating_mul(view.rank()));
        }
        if !matches!(self, Self::AskAt(at) if now >= *at) {
            return false;
        }
        let mut ask = |request| {
            Batch::send(
                out,
                Asker::ColdStart,
                view.connected_peers(),
                &request,
                TIMEOUT,
            )
        };
        let (run_states, vnn_maps) = (ask(Request::GetRunState), ask(Request::GetVnnMap));
        *self = Self::Asking {
            run_states,
            vnn_maps,
        };
        self.judge(now)
    }

    /// Takes a reply. `true`: an election is due.
    pub(crate) fn on_reply(&mut self, token: Token, result: ControlResult, now: Instant) -> bool {
        let Self::Asking {
            run_states,
            vnn_maps,
        } = self
        else {
            return false;
        };
        let batch = if run_states.awaits(token) {
            run_states
        } else {
            vnn_maps
        };
        batch.on_reply(token, result, now) && self.judge(now)
    }

    fn judge(&mut self, now: Instant) -> bool {
        let Self::Asking {
            run_states,
            vnn_maps,
        } = self
        else {
            return false;
        };
        if !run_states.is_complete() || !vnn_maps.is_complete() {
            return false;
        }
        let states = run_states.decode::<RunState>();
        let maps = vnn_maps.decode::<VnnMap>();
        if maps
            .values()
            .any(|map| map.generation != Generation::INVALID)
        {
            *self = Self::Settled;
            return false;
        }
        let failed = !run_states.failures.is_empty() || !vnn_maps.failures.is_empty();
        if failed
            || states
                .values()
                .any(|state| *state < RunState::FirstRecovery)
        {
            *self = Self::AskAt(now + ASK_AGAIN);
            return false;
        }
        *self = Self::Settled;
        true
    }

    /// When to look again. While nodes are missing, their arrival is the event to wait for.
    pub(crate) fn poll_timeout(&self, complete: bool) -> Option<Instant> {
        match self {
            Self::AskAt(at) if complete => Some(*at),
            Self::Waiting | Self::AskAt(_) | Self::Asking { .. } | Self::Settled => None,
        }
    }
}
