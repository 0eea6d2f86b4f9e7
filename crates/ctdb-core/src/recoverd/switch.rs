//! Takeover runs and recoveries can be switched off for some time by message (`cluster.md 5.1`).

use std::time::{Duration, Instant};

use ctdb_proto::Pnn;
use tracing::{info, warn};

use crate::recoverd::LOG;

/// Answer to a request to switch off while the operation runs: `-EAGAIN`.
pub(crate) const IN_PROGRESS: i32 = -11;

/// An operation that others can switch off for some time.
#[derive(Debug)]
pub(crate) struct Switch {
    /// Its name in the log: `takeover runs` or `recoveries`.
    name: &'static str,
    disabled_until: Option<Instant>,
    /// The node that is to switch it on again, as far as it is known.
    by: Option<Pnn>,
}

impl Switch {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            disabled_until: None,
            by: None,
        }
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled_until.is_some()
    }

    /// Switches off for `time`, or on again if it is 0. The error is the answer to who asked.
    pub(crate) fn disable(
        &mut self,
        by: Option<Pnn>,
        time: Duration,
        in_progress: bool,
        now: Instant,
    ) -> Result<(), i32> {
        let name = self.name;
        if time.is_zero() {
            info!(target: LOG, "Reenabling {name}");
            self.disabled_until = None;
            return Ok(());
        }
        if in_progress {
            warn!(target: LOG, "Unable to disable {name} - in progress");
            return Err(IN_PROGRESS);
        }
        info!(target: LOG, "Disabling {name} for {} seconds", time.as_secs());
        self.disabled_until = Some(now + time);
        self.by = by;
        Ok(())
    }

    /// Switches on again when the node that has switched off is gone: it will not do so. (The
    /// original waits for the time to pass.)
    pub(crate) fn on_lost_nodes(&mut self, is_connected: impl Fn(Pnn) -> bool) {
        if self.is_disabled()
            && let Some(gone) = self.by.filter(|by| !is_connected(*by))
        {
            info!(target: LOG, "Reenabling {}: node {gone} is gone", self.name);
            self.disabled_until = None;
        }
    }

    pub(crate) fn on_timeout(&mut self, now: Instant) {
        if self.disabled_until.is_some_and(|until| now >= until) {
            info!(target: LOG, "Reenabling {} after timeout", self.name);
            self.disabled_until = None;
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.disabled_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recoverd::tests::epoch;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn it_comes_back_after_its_time() {
        let mut switch = Switch::new("recoveries");
        assert_eq!(switch.disable(None, MINUTE, false, epoch()), Ok(()));
        switch.on_timeout(epoch() + MINUTE / 2);
        assert!(switch.is_disabled());
        switch.on_timeout(epoch() + MINUTE);
        assert!(!switch.is_disabled());
    }

    #[test]
    fn it_cannot_be_switched_off_while_it_runs_but_always_on() {
        let mut switch = Switch::new("takeover runs");
        let refused = switch.disable(None, MINUTE, true, epoch());
        assert_eq!(refused, Err(IN_PROGRESS));
        assert!(!switch.is_disabled());
        switch.disable(None, MINUTE, false, epoch()).unwrap();
        let done = switch.disable(None, Duration::ZERO, true, epoch());
        assert_eq!(done, Ok(()));
        assert!(!switch.is_disabled());
    }

    #[test]
    fn it_comes_back_when_who_switched_it_off_is_gone() {
        let by = Pnn::new(2);
        let mut switch = Switch::new("takeover runs");
        switch.disable(by, MINUTE, false, epoch()).unwrap();
        switch.on_lost_nodes(|_| true);
        assert!(switch.is_disabled());
        switch.on_lost_nodes(|pnn| Some(pnn) != by);
        assert!(!switch.is_disabled());
        switch.disable(None, MINUTE, false, epoch()).unwrap();
        switch.on_lost_nodes(|_| false);
        assert!(switch.is_disabled(), "nobody knows who it was");
    }
}
