//! Runs events: the scripts of one folder, in order, within a time limit (events.md 1.4 to 1.8).
//!
//! Events run strictly one after another. `monitor` gives way: it is not started while another
//! event runs, and whatever is asked for while it runs takes its place.
//!
//! [`Scripts`] decides what runs when and belongs to the core task; [`run`] holds the task that
//! carries one event out; [`status`] knows what the end of a script means.

mod run;
mod status;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ctdb_core::{EventOutcome, Ticket};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::children::ChildEnvironment;
use crate::event::ShellEvent;
use crate::lanes::Lanes;
use crate::threads::InTurn;

/// The name of the event that gives way to all others.
const MONITOR: &str = "monitor";

/// Events that wait behind the running one. The node asks for one at a time, so more than a few
/// are a fault; what does not fit fails at once.
const QUEUE_LIMIT: usize = 64;

/// What stays the same for all events.
pub(crate) struct ScriptSetup {
    /// The folder of the scripts, `ETCDIR/events/legacy`.
    pub(crate) dir: PathBuf,
    pub(crate) environment: ChildEnvironment,
    /// Run before a hung script is ended, with its pid and the event.
    pub(crate) debug_script: Option<PathBuf>,
    /// For what takes as long as the file system of the scripts.
    pub(crate) starts: InTurn,
    /// The same for the debug script.
    pub(crate) debug_starts: InTurn,
}

/// One run of an event that was asked for.
#[derive(Clone, Debug)]
struct Request {
    ticket: Ticket,
    event: String,
    arguments: Vec<String>,
    deadline: Instant,
}

/// The running event. Dropping it kills its scripts.
struct Current {
    ticket: Ticket,
    is_monitor: bool,
    task: JoinHandle<()>,
}

impl Drop for Current {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All events of the daemon: the one that runs and those that wait.
pub(crate) struct Scripts {
    setup: Arc<ScriptSetup>,
    lanes: Lanes,
    current: Option<Current>,
    queue: VecDeque<Request>,
}

impl Scripts {
    /// The end of each event is reported as [`ShellEvent::EventDone`]; the core task then calls
    /// [`Self::finished`].
    pub(crate) fn new(setup: ScriptSetup, lanes: Lanes) -> Self {
        Self {
            setup: Arc::new(setup),
            lanes,
            current: None,
            queue: VecDeque::new(),
        }
    }

    /// Asks for an event. The time limit counts from now, for the wait in the queue too.
    pub(crate) fn run(
        &mut self,
        ticket: Ticket,
        event: &str,
        arguments: Vec<String>,
        limit: Duration,
    ) {
        match &self.current {
            Some(current) if current.is_monitor => self.cancel_current(),
            Some(_) if event == MONITOR => {
                report(&self.lanes, ticket, EventOutcome::Cancelled);
                return;
            }
            _ => {}
        }
        if self.queue.len() >= QUEUE_LIMIT {
            warn!(event, "too many events are waiting");
            report(
                &self.lanes,
                ticket,
                EventOutcome::Failed {
                    status: status::SOME_SCRIPT_FAILED,
                },
            );
            return;
        }
        let deadline = Instant::now() + limit;
        self.queue.push_back(Request {
            ticket,
            event: event.to_owned(),
            arguments,
            deadline,
        });
        self.start_next();
    }

    /// Takes back what was asked for with this ticket. A running script is killed.
    pub(crate) fn cancel(&mut self, ticket: Ticket) {
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.ticket == ticket)
        {
            self.cancel_current();
        } else if let Some(at) = self
            .queue
            .iter()
            .position(|request| request.ticket == ticket)
        {
            self.queue.remove(at);
            report(&self.lanes, ticket, EventOutcome::Cancelled);
        }
        self.start_next();
    }

    /// Notes that the report about this ticket has arrived, and starts the next event.
    pub(crate) fn finished(&mut self, ticket: Ticket) {
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.ticket == ticket)
        {
            self.current = None;
        }
        self.start_next();
    }

    fn cancel_current(&mut self) {
        if let Some(current) = self.current.take() {
            report(&self.lanes, current.ticket, EventOutcome::Cancelled);
        }
    }

    fn start_next(&mut self) {
        if self.current.is_some() {
            return;
        }
        let Some(request) = self.queue.pop_front() else {
            return;
        };
        let (ticket, is_monitor) = (request.ticket, request.event == MONITOR);
        let (setup, lanes) = (Arc::clone(&self.setup), self.lanes.clone());
        let task = tokio::spawn(async move {
            let (outcome, failure) = run::run_event(&setup, &request).await;
            match outcome {
                EventOutcome::TimedOut => info!("{} event timed out", request.event),
                EventOutcome::Failed { .. } => info!("{} event failed", request.event),
                EventOutcome::Ok | EventOutcome::Cancelled => {}
            }
            lanes.report(ShellEvent::EventDone {
                ticket,
                outcome,
                failure,
            });
        });
        self.current = Some(Current {
            ticket,
            is_monitor,
            task,
        });
    }
}

fn report(lanes: &Lanes, ticket: Ticket, outcome: EventOutcome) {
    lanes.report(ShellEvent::EventDone {
        ticket,
        outcome,
        failure: None,
    });
}

#[cfg(test)]
mod tests;
