//! What happens to single nodes of a [`World`] and to what they rely on.

use std::time::Duration;

use ctdb_core::{ClusterLockEvent, Event, Input, Node};
use ctdb_proto::Pnn;

use super::World;
use super::host::Daemon;
use crate::cluster_lock::LockService;
use crate::observed::Observed;
use crate::scripts::Script;

impl World {
    /// Starts the daemon of a node that is down.
    pub fn start(&mut self, pnn: Pnn) {
        if self.host(pnn).daemon.is_some() {
            return;
        }
        self.trace.line(Some(pnn), "started".to_owned(), self.now);
        let config = self.config(pnn);
        let now = self.now;
        let host = self.host_mut(pnn);
        host.life += 1;
        host.daemon = Some(Daemon {
            node: Node::new(config, now),
            open: false,
            held: Vec::new(),
            inbox: std::collections::BTreeMap::new(),
        });
        self.observe(Observed::Life {
            node: pnn,
            runs: true,
        });
        self.carry_out(pnn);
    }

    /// Ends the daemon of a node without warning.
    pub fn kill(&mut self, pnn: Pnn) {
        if self.host(pnn).daemon.is_some() {
            self.trace.line(Some(pnn), "killed".to_owned(), self.now);
            self.end(pnn);
        }
    }

    pub(super) fn end(&mut self, pnn: Pnn) {
        let host = self.host_mut(pnn);
        host.daemon = None;
        host.paused = false;
        host.backlog.clear();
        host.disk.crash();
        self.lock.forget(pnn, self.now);
        self.trace.forget(pnn);
        self.set_wake(pnn);
        for other in self.pnns().filter(|other| *other != pnn) {
            self.close(pnn, other);
        }
        self.touched.insert(pnn);
        self.observe(Observed::Life {
            node: pnn,
            runs: false,
        });
    }

    /// All of a node stands still, its clients too (SIGSTOP, a paused virtual machine). Only the
    /// helper that holds the cluster lock goes on.
    pub fn pause(&mut self, pnn: Pnn) {
        if self.host(pnn).daemon.is_some() && !self.host(pnn).paused {
            self.trace.line(Some(pnn), "paused".to_owned(), self.now);
            self.host_mut(pnn).paused = true;
            self.set_wake(pnn);
        }
    }

    /// A paused node goes on: its timers are due, and much has come meanwhile. Which of them it
    /// sees first is left to chance.
    pub fn resume(&mut self, pnn: Pnn) {
        if !std::mem::take(&mut self.host_mut(pnn).paused) {
            return;
        }
        self.trace.line(Some(pnn), "goes on".to_owned(), self.now);
        let timers_first = self.random.bool();
        if timers_first {
            self.wake(pnn);
        }
        for input in std::mem::take(&mut self.host_mut(pnn).backlog) {
            self.tell(pnn, input);
        }
        self.wake(pnn);
    }

    /// The wall clock of a node jumps, ahead or back. A daemon does not see it while it runs: all
    /// its timers are monotonic. The next start of the daemon does.
    pub fn jump_clock(&mut self, pnn: Pnn, seconds: f64) {
        let what = format!("clock jumps by {seconds} s");
        self.trace.line(Some(pnn), what, self.now);
        self.host_mut(pnn).clock_ahead += seconds;
    }

    /// How the scripts of an event behave on a node from now on.
    pub fn script(&mut self, pnn: Pnn, event: &Event, script: Script) {
        let what = format!("script {}: {script:?}", event.name());
        self.trace.line(Some(pnn), what, self.now);
        self.scripts.set(pnn, event, script);
    }

    /// No transaction of a persistent database can be committed on a node whose disk is full.
    pub fn fill_disk(&mut self, pnn: Pnn, full: bool) {
        let what = if full {
            "disk is full"
        } else {
            "disk has room"
        };
        self.trace.line(Some(pnn), what.to_owned(), self.now);
        self.host_mut(pnn).disk.set_full(full);
    }

    /// Work on the databases of a node takes longer by this.
    pub fn slow_disk(&mut self, pnn: Pnn, delay: Duration) {
        let what = format!("disk is slower by {delay:?}");
        self.trace.line(Some(pnn), what, self.now);
        self.host_mut(pnn).disk_delay = delay;
    }

    /// From its next start on, a node is configured with another cluster lock than the others.
    pub fn other_lock(&mut self, pnn: Pnn, name: &str) {
        self.host_mut(pnn).lock_name = Some(name.to_owned());
    }

    /// How tries to get the cluster lock fare from now on.
    pub fn lock_service(&mut self, service: LockService) {
        self.note(format!("cluster lock: {service:?}"));
        self.lock.service = service;
    }

    /// Takes the cluster lock away from its holder, which learns of it after `notice`.
    pub fn lose_lock(&mut self, notice: Duration) {
        let Some((pnn, attempt)) = self.lock.lose() else {
            return;
        };
        self.note(format!("cluster lock of node {pnn} lost"));
        let (event, took) = (ClusterLockEvent::Lost, Duration::ZERO);
        let input = Input::ClusterLock {
            attempt,
            event,
            took,
        };
        self.plan_input(pnn, notice, input);
    }
}
