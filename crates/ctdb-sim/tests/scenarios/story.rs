//! How a story is told: a cluster that is up, what happens to it, and what must come of it.

use std::time::Duration;

use ctdb_core::explain::What;
use ctdb_proto::Pnn;
use ctdb_sim::{Cluster, Options, World, liveness};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// In which a silent peer is found dead (`cluster.md` 3.2), with something to spare.
pub(crate) const SILENCE: Duration = Duration::from_secs(31);

/// A cluster at work, and where in the story we are.
pub(crate) struct Story {
    pub(crate) cluster: Cluster,
}

impl Story {
    /// Three healthy nodes with a cluster lock, and clients that have worked for a while.
    pub(crate) fn begin() -> Self {
        Self::of(Options {
            cluster_lock: true,
            ..Options::default()
        })
    }

    /// The same without the lock.
    pub(crate) fn begin_without_lock() -> Self {
        Self::of(Options::default())
    }

    pub(crate) fn of(options: Options) -> Self {
        let cluster = Cluster::new(7, options);
        let mut story = Self { cluster };
        story.becomes_whole_within(SECOND * 15);
        story.pass(SECOND * 5);
        assert!(story.cluster.workload.counted > 0, "no client works");
        story
    }

    pub(crate) fn world(&mut self) -> &mut World {
        &mut self.cluster.world
    }

    pub(crate) fn now(&self) -> Duration {
        self.cluster.world.elapsed()
    }

    /// The one node that leads by its own belief and is not paused.
    #[track_caller]
    pub(crate) fn leader(&self) -> Pnn {
        let world = &self.cluster.world;
        let leads = |pnn: &Pnn| world.node(*pnn).is_some_and(ctdb_core::Node::leads);
        let leaders: Vec<_> = world.pnns().filter(leads).collect();
        let [leader] = leaders.as_slice() else {
            panic!("leaders are {leaders:?}; {}", world.report());
        };
        *leader
    }

    /// The nodes that do not lead.
    #[track_caller]
    pub(crate) fn members(&self) -> Vec<Pnn> {
        let leader = self.leader();
        self.cluster
            .world
            .pnns()
            .filter(|pnn| *pnn != leader)
            .collect()
    }

    /// Time passes; no rule may be broken.
    #[track_caller]
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now() + time;
        if let Err(broken) = self.cluster.pass_until(until) {
            panic!("{}\n{broken}", self.cluster.world.report());
        }
    }

    /// Waits until the condition holds: how long that took.
    #[track_caller]
    pub(crate) fn within(
        &mut self,
        limit: Duration,
        what: &str,
        holds: impl Fn(&World) -> bool,
    ) -> Duration {
        let wrong = |world: &World| {
            if holds(world) {
                Ok(())
            } else {
                Err(what.to_owned())
            }
        };
        self.wait(limit, wrong)
    }

    /// Waits until one leader leads all nodes, healthy and in one generation.
    #[track_caller]
    pub(crate) fn becomes_whole_within(&mut self, limit: Duration) -> Duration {
        self.wait(limit, liveness::is_whole)
    }

    /// Waits until these nodes are a healthy cluster.
    #[track_caller]
    pub(crate) fn goes_on_with(&mut self, nodes: &[Pnn], limit: Duration) -> Duration {
        let nodes = nodes.to_vec();
        self.within(limit, "not healthy", move |world| world.are_healthy(&nodes))
    }

    #[track_caller]
    fn wait(&mut self, limit: Duration, wrong: impl Fn(&World) -> Result<(), String>) -> Duration {
        match self.cluster.pass_while_wrong(limit, wrong) {
            Ok(took) => took,
            Err(what) => panic!("{}\n{what}", self.cluster.world.report()),
        }
    }

    /// How many recoveries all nodes have begun since then.
    pub(crate) fn recoveries_since(&self, since: Duration) -> usize {
        let world = &self.cluster.world;
        let is_start = |what: &What| matches!(what, What::RecoveryStarted { .. });
        let count = |pnn| {
            world
                .decisions(pnn, since)
                .filter(|d| is_start(&d.what))
                .count()
        };
        world.pnns().map(count).sum()
    }

    /// How many counts and commits the clients do in that time.
    #[track_caller]
    pub(crate) fn work_done_in(&mut self, time: Duration) -> u64 {
        let done = |story: &Self| {
            let workload = &story.cluster.workload;
            workload.counted + workload.committed
        };
        let before = done(self);
        self.pass(time);
        done(self) - before
    }
}
