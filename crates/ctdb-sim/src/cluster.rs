//! A world with clients at work, in which every rule is checked after every step.

use std::time::Duration;

use crate::invariants::Invariants;
use crate::workload::Workload;
use crate::world::{Options, World};

/// A cluster that is watched.
pub struct Cluster {
    pub world: World,
    pub workload: Workload,
    invariants: Invariants,
}

impl Cluster {
    /// All nodes are started.
    pub fn new(seed: u64, options: Options) -> Self {
        let world = World::new(seed, options);
        Self {
            workload: Workload::new(seed ^ 1, &world),
            invariants: Invariants::new(&world),
            world,
        }
    }

    /// Lets time pass until then; the rule that was broken, if one was.
    pub fn pass_until(&mut self, until: Duration) -> Result<(), String> {
        loop {
            let client = self.workload.next_at().filter(|at| *at <= until);
            let node = self.world.next_in();
            match client {
                Some(at) if at <= node => {
                    self.world.wait_until(at);
                    self.workload.act(&mut self.world);
                }
                _ if node <= until => self.world.step(),
                _ => {
                    self.world.wait_until(until);
                    return Ok(());
                }
            }
            self.check()?;
        }
    }

    /// Lets the clients take their answers, and checks all rules.
    pub fn check(&mut self) -> Result<(), String> {
        let touched = self.world.take_touched();
        for node in &touched {
            self.workload.take_answers(*node, &mut self.world);
        }
        let events = self.world.take_observed();
        self.invariants.check(&events, &touched, &self.world)
    }

    /// Waits until nothing is wrong any more; what is, if that takes longer than `limit`. How
    /// long it took.
    pub fn pass_while_wrong(
        &mut self,
        limit: Duration,
        wrong: impl Fn(&World) -> Result<(), String>,
    ) -> Result<Duration, String> {
        const PAUSE: Duration = Duration::from_millis(20);
        let begin = self.world.elapsed();
        while let Err(what) = wrong(&self.world) {
            if self.world.elapsed() >= begin + limit {
                return Err(format!("still after {limit:?}: {what}"));
            }
            self.pass_until(self.world.elapsed() + PAUSE)?;
        }
        Ok(self.world.elapsed().saturating_sub(begin))
    }
}
