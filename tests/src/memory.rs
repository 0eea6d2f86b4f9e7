//! How large daemons are.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ctdb_tools::local_cluster::Node;

/// Memory of the daemon that is not a mapped file, in bytes.
///
/// # Panics
///
/// When it does not run.
pub fn own_memory(node: &Node) -> u64 {
    let pid = node.process().expect("the daemon runs").pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1));
    let kib: u64 = kib.and_then(|text| text.parse().ok()).expect("a number");
    kib << 10
}

/// How much larger the largest daemon has become during something.
#[derive(Debug, Default)]
pub struct PeakMemory {
    growth: AtomicU64,
    ended: AtomicBool,
}

impl PeakMemory {
    /// Runs `work` and looks at the daemons meanwhile. Returns what it returned, and by how many
    /// bytes a daemon was larger at its largest than at the beginning.
    ///
    /// # Panics
    ///
    /// When a daemon does not run.
    pub fn during<T>(nodes: &[Node], work: impl FnOnce() -> T) -> (T, u64) {
        let peak = Self::default();
        let before: Vec<u64> = nodes.iter().map(own_memory).collect();
        let result = thread::scope(|scope| {
            scope.spawn(|| peak.watch(nodes, &before));
            let ends = Ends(&peak.ended);
            let result = work();
            drop(ends);
            result
        });
        (result, peak.growth.into_inner())
    }

    fn watch(&self, nodes: &[Node], before: &[u64]) {
        const PAUSE: Duration = Duration::from_millis(20);
        while !self.ended.load(Ordering::Relaxed) {
            for (node, before) in nodes.iter().zip(before) {
                let growth = own_memory(node).saturating_sub(*before);
                self.growth.fetch_max(growth, Ordering::Relaxed);
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Ends the watch, also when the work panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
