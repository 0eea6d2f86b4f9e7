//! What is said of a run that went wrong.

use std::fmt::Write as _;

use super::World;

impl World {
    /// What each node believes, and what happened last.
    pub fn report(&self) -> String {
        let mut text = self.trace.last_lines();
        let holder = self.lock.holder().map(|pnn| pnn.to_string());
        let holder = holder.as_deref().unwrap_or("nobody");
        let _ = writeln!(
            text,
            "at {:?}, cluster lock held by {holder}",
            self.elapsed()
        );
        for pnn in self.pnns() {
            let Some(node) = self.node(pnn) else {
                let _ = writeln!(text, "node {pnn}: down");
                continue;
            };
            let flags: Vec<_> = self.pnns().map(|p| node.flags_of(p).bits()).collect();
            let leader = node.leader().map(|leader| leader.to_string());
            let _ = writeln!(
                text,
                "node {pnn}{}: {}, flags of all {flags:x?}, leader {}, in recovery: {}, {:?}",
                if self.is_paused(pnn) { " (paused)" } else { "" },
                node.run_state(),
                leader.as_deref().unwrap_or("unknown"),
                node.is_in_recovery(),
                node.vnn_map(),
            );
        }
        text
    }
}
