//! Log lines about a cluster that lacks nodes (`cluster.md 11`).
//!
//! Without a cluster lock, an incomplete cluster may be one half of a split one.

use std::time::{Duration, Instant};

use ctdb_proto::NodeFlags;
use tracing::warn;

use crate::recoverd::LOG;
use crate::recoverd::view::View;

const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// What the leader of a cluster without a lock has said about missing nodes.
#[derive(Debug, Default)]
pub(crate) struct Completeness {
    check_at: Option<Instant>,
    incomplete_since: Option<Instant>,
}

impl Completeness {
    /// Another node leads: it says so from now on.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Looks once a minute.
    pub(crate) fn on_timeout(&mut self, view: &View<'_>, now: Instant) {
        let check_at = *self.check_at.get_or_insert(now + CHECK_INTERVAL);
        if now < check_at {
            return;
        }
        self.check_at = Some(now + CHECK_INTERVAL);
        let me = view.me;
        if view.is_complete() {
            if self.incomplete_since.take().is_some() {
                warn!(target: LOG, "Cluster complete with leader={me}");
            }
            return;
        }
        let since = *self.incomplete_since.get_or_insert(now);
        let elapsed = now.duration_since(since).as_secs() / 60;
        if is_worth_a_line(elapsed) {
            let away = NodeFlags::DELETED | NodeFlags::DISCONNECTED;
            let connected = view
                .nodes
                .iter()
                .filter(|node| !node.flags.intersects(away))
                .count();
            warn!(
                target: LOG,
                "Cluster incomplete with leader={me}, elapsed={elapsed} minutes, \
                 connected={connected}"
            );
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.check_at
    }
}

/// Each minute at first, then each ten minutes, then each hour.
fn is_worth_a_line(minutes: u64) -> bool {
    match minutes {
        0..10 => true,
        10..60 => minutes.is_multiple_of(10),
        _ => minutes.is_multiple_of(60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_rare() {
        let lines: Vec<_> = (0..200)
            .filter(|minutes| is_worth_a_line(*minutes))
            .collect();
        assert_eq!(lines[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(lines[10..], [10, 20, 30, 40, 50, 60, 120, 180]);
    }
}
