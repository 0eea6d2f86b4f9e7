//! The event scripts of all nodes: each event succeeds at once unless a script was told otherwise.

use std::collections::BTreeMap;
use std::time::Duration;

use ctdb_core::{Event, EventOutcome};
use ctdb_proto::Pnn;

/// What a script that does nothing takes.
const QUICK: Duration = Duration::from_millis(2);

/// How the scripts of one event behave on one node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Script {
    #[default]
    Succeeds,
    /// After this time.
    Takes(Duration),
    /// With status 1.
    Fails,
    /// Never ends by itself.
    Hangs,
}

/// All scripts that do not just succeed.
#[derive(Default)]
pub(crate) struct Scripts {
    changed: BTreeMap<(Pnn, &'static str), Script>,
}

impl Scripts {
    pub(crate) fn set(&mut self, pnn: Pnn, event: &Event, script: Script) {
        self.changed.insert((pnn, event.name()), script);
    }

    /// When a run that begins now ends, and how.
    pub(crate) fn run(
        &self,
        pnn: Pnn,
        event: &Event,
        timeout: Duration,
    ) -> (Duration, EventOutcome) {
        let script = self.changed.get(&(pnn, event.name())).copied();
        match script.unwrap_or_default() {
            Script::Succeeds => (QUICK, EventOutcome::Ok),
            Script::Takes(time) if time < timeout => (time, EventOutcome::Ok),
            Script::Fails => (QUICK, EventOutcome::Failed { status: 1 }),
            Script::Takes(_) | Script::Hangs => (timeout, EventOutcome::TimedOut),
        }
    }
}
