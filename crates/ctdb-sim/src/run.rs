//! One run: a cluster with clients and faults, watched by all rules, until it is whole again.

use std::fmt;
use std::time::Duration;

use crate::chaos::Chaos;
use crate::cluster::Cluster;
use crate::liveness::{self, ANSWERED_WITHIN, HEALTHY_WITHIN};
use crate::trace::Trace;
use crate::world::{Cost, Options};

/// Without faults, for the cluster to come up and the clients to attach.
const QUIET_START: Duration = Duration::from_secs(8);
/// When the administrator looks after banned nodes, once the faults have ended.
const UNBAN_AFTER: Duration = Duration::from_secs(10);
/// How long clients work after the faults have ended.
const QUIET_END: Duration = Duration::from_secs(5);

/// Everything that a run needs; a run depends on nothing else.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub nodes: u32,
    pub cluster_lock: bool,
    /// How long faults happen.
    pub faults: Duration,
}

impl Plan {
    /// The plan of a seed: 3 to 9 nodes, three times out of four with a cluster lock.
    pub fn of_seed(seed: u64, faults: Duration) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed);
        Self {
            seed,
            nodes: random.u32(3..=9),
            cluster_lock: random.u32(..4) != 0,
            faults,
        }
    }
}

/// A run that goes on.
pub struct Run {
    plan: Plan,
    cluster: Cluster,
    chaos: Chaos,
}

/// What came of a run without complaints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Summary {
    /// Equal for equal runs.
    pub hash: u64,
    pub cost: Cost,
    pub counted: u64,
    pub committed: u64,
    /// How long it took to be whole once the faults had ended; 10 s at least.
    pub healed_after: Duration,
}

/// What was wrong, and the story that led to it.
#[derive(Debug)]
pub struct Failure {
    pub plan: Plan,
    pub at: Duration,
    pub what: String,
    pub report: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            seed,
            nodes,
            cluster_lock,
            faults,
        } = &self.plan;
        writeln!(f, "{}", self.report)?;
        writeln!(f, "seed {seed} at {:?}: {}", self.at, self.what)?;
        let minutes = faults.as_secs_f64() / 60.0;
        write!(
            f,
            "again: cargo run -p ctdb-sim -- --seed {seed} --nodes {nodes} --minutes {minutes} --lock {cluster_lock} --trace"
        )
    }
}

impl Run {
    /// A cluster that begins.
    pub fn new(plan: Plan) -> Self {
        let options = Options {
            nodes: plan.nodes,
            cluster_lock: plan.cluster_lock,
            ..Options::default()
        };
        let cluster = Cluster::new(plan.seed, options);
        Self {
            chaos: Chaos::new(plan.seed ^ 2, &cluster.world, QUIET_START),
            plan,
            cluster,
        }
    }

    /// The record of what happens.
    pub fn trace(&mut self) -> &mut Trace {
        self.cluster.world.trace()
    }

    /// Faults and clients, then calm.
    pub fn go(mut self) -> Result<Summary, Box<Failure>> {
        let mut result = self.disturb();
        if result.is_ok() {
            result = self.calm_down();
        }
        let world = &mut self.cluster.world;
        match result {
            Ok(healed_after) => Ok(Summary {
                hash: world.trace().hash(),
                cost: world.cost(),
                counted: self.cluster.workload.counted,
                committed: self.cluster.workload.committed,
                healed_after,
            }),
            Err(what) => Err(Box::new(Failure {
                plan: self.plan,
                at: world.elapsed(),
                what,
                report: world.report(),
            })),
        }
    }

    fn disturb(&mut self) -> Result<Duration, String> {
        let end = QUIET_START + self.plan.faults;
        while self.cluster.world.elapsed() < end {
            let next = self.chaos.next_at().min(end);
            self.cluster.pass_until(next)?;
            if self.cluster.world.elapsed() < end {
                self.chaos.act(&mut self.cluster.world);
                self.cluster.check()?;
            }
        }
        Ok(end)
    }

    /// The faults end: how long it takes until the cluster is whole, and everybody is answered.
    fn calm_down(&mut self) -> Result<Duration, String> {
        let cluster = &mut self.cluster;
        self.chaos.end(&mut cluster.world);
        cluster.check()?;
        let end = cluster.world.elapsed();
        // What was begun before may still lead to a ban: the administrator ends it.
        cluster.pass_until(end + UNBAN_AFTER)?;
        self.chaos.unban(&mut cluster.world);
        cluster.pass_while_wrong(HEALTHY_WITHIN, liveness::is_whole)?;
        let healed_after = cluster.world.elapsed().saturating_sub(end);
        cluster.pass_until(end + healed_after + QUIET_END)?;
        cluster.workload.rest();
        let asked_until = cluster.world.elapsed();
        cluster.pass_until(asked_until + ANSWERED_WITHIN)?;
        liveness::all_answered(asked_until, &cluster.workload, &cluster.world)?;
        liveness::is_whole(&cluster.world)?;
        Ok(healed_after)
    }
}
