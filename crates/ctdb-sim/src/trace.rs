//! What happened in a run: a hash of everything, and a timeline for people.
//!
//! The hash tells whether two runs were the same. The timeline has a line for each fault and for
//! each change that an operator would see on a node: its run state, flags, leader, recovery mode,
//! generation; and the node's own decisions with their reasons.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use ctdb_core::Node;
use ctdb_core::explain::Decision;
use ctdb_proto::{Generation, NodeFlags, Pnn, RunState};

/// Lines kept of a run that is not shown while it goes on.
const KEPT: usize = 400;

/// The record of one run.
pub struct Trace {
    hash: u64,
    start: Instant,
    lines: VecDeque<Line>,
    /// Called with each line at once.
    shown: Option<Show>,
    seen: Vec<Option<Seen>>,
}

/// What shows a line.
type Show = Box<dyn FnMut(&Line)>;

/// One line of the timeline.
pub struct Line {
    /// Virtual time since the beginning.
    pub at: Duration,
    /// The node that it is about; `None`: the world around.
    pub node: Option<Pnn>,
    pub what: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.as_secs_f64();
        match self.node {
            Some(pnn) => write!(f, "{at:>11.4}  node {pnn:<4} {}", self.what),
            None => write!(f, "{at:>11.4}  ---  {}", self.what),
        }
    }
}

/// What was last seen of a node.
#[derive(PartialEq)]
struct Seen {
    run_state: RunState,
    flags: NodeFlags,
    in_recovery: bool,
    generation: Generation,
    map: Vec<Pnn>,
    last_decision: Option<Decision>,
}

impl Trace {
    pub(crate) fn new(nodes: usize, start: Instant) -> Self {
        Self {
            hash: FNV_OFFSET,
            start,
            lines: VecDeque::new(),
            shown: None,
            seen: std::iter::repeat_with(|| None).take(nodes).collect(),
        }
    }

    /// Shows each line from now on, as it comes.
    pub fn show(&mut self, show: impl FnMut(&Line) + 'static) {
        self.shown = Some(Box::new(show));
    }

    /// Equal for equal runs.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn last_lines(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// Takes a number into the hash (FNV-1a).
    pub(crate) fn mix(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
    }

    pub(crate) fn line(&mut self, node: Option<Pnn>, what: String, now: Instant) {
        let at = now - self.start;
        for byte in what.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
        let line = Line { at, node, what };
        if let Some(show) = &mut self.shown {
            show(&line);
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The daemon of a node is not there any more.
    pub(crate) fn forget(&mut self, pnn: Pnn) {
        self.seen[pnn.index()] = None;
    }

    /// Compares a node with what was last seen of it.
    pub(crate) fn look_at(&mut self, node: &Node, now: Instant) {
        let me = node.pnn();
        let before = self.seen[me.index()].take();
        let history = node.history();
        let last = history.and_then(|history| history.decisions().next_back());
        let unchanged = |seen: &Seen| {
            seen.run_state == node.run_state()
                && seen.flags == node.flags_of(me)
                && seen.in_recovery == node.is_in_recovery()
                && seen.generation == node.vnn_map().generation
                && seen.last_decision.as_ref() == last
        };
        if before.as_ref().is_some_and(unchanged) {
            self.seen[me.index()] = before;
            return;
        }
        let after = Seen {
            run_state: node.run_state(),
            flags: node.flags_of(me),
            in_recovery: node.is_in_recovery(),
            generation: node.vnn_map().generation,
            map: node.vnn_map().map.clone(),
            last_decision: last.cloned(),
        };
        let known = before.as_ref().and_then(|seen| seen.last_decision.as_ref());
        let decisions = history.into_iter().flat_map(|h| h.decisions().rev());
        let mut new: Vec<_> = decisions
            .take_while(|decision| Some(*decision) != known)
            .map(ToString::to_string)
            .collect();
        new.reverse();
        for what in new.into_iter().chain(changes(before.as_ref(), &after)) {
            self.line(Some(me), what, now);
        }
        self.seen[me.index()] = Some(after);
    }
}

fn changes(before: Option<&Seen>, after: &Seen) -> Vec<String> {
    let mut lines = Vec::new();
    if before.is_none_or(|b| b.run_state != after.run_state) {
        lines.push(format!("run state {}", after.run_state));
    }
    if before.is_none_or(|b| b.flags != after.flags) {
        lines.push(format!("is {}", describe(after.flags)));
    }
    if before.is_none_or(|b| b.in_recovery != after.in_recovery) {
        let mode = if after.in_recovery {
            "ACTIVE"
        } else {
            "NORMAL"
        };
        lines.push(format!("recovery mode {mode}"));
    }
    if before.is_some_and(|b| b.generation != after.generation) {
        let map: Vec<_> = after.map.iter().map(ToString::to_string).collect();
        lines.push(format!(
            "generation {}, nodes {}",
            after.generation,
            map.join(" ")
        ));
    }
    lines
}

/// Flags in the words of `ctdb status`.
fn describe(flags: NodeFlags) -> String {
    let words: Vec<_> = [
        (NodeFlags::BANNED, "BANNED"),
        (NodeFlags::STOPPED, "STOPPED"),
        (NodeFlags::PERMANENTLY_DISABLED, "DISABLED"),
        (NodeFlags::UNHEALTHY, "UNHEALTHY"),
    ]
    .into_iter()
    .filter(|(flag, _)| flags.contains(*flag))
    .map(|(_, word)| word)
    .collect();
    if words.is_empty() {
        "OK".to_owned()
    } else {
        words.join("|")
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;
