//! Random faults, then none: whatever happened, the nodes become one cluster again.

use std::time::Duration;

use ctdb_proto::{NodeFlags, RecMode};

use super::pnn;
use super::world::World;

/// Faults in one life of a cluster.
const FAULTS: usize = 12;
/// Clusters for each kind of cluster lock.
const SEEDS: u64 = 40;
const ALL: [u32; 4] = [0, 1, 2, 3];

/// One cluster and what is wrong with it.
struct Chaos {
    world: World,
    rng: fastrand::Rng,
    dead: Vec<u32>,
    cuts: Vec<(u32, u32)>,
    stopped: Vec<u32>,
}

impl Chaos {
    fn fault(&mut self) {
        let node = self.rng.u32(0..4);
        let other = (node + self.rng.u32(1..4)) % 4;
        let is_alive = !self.dead.contains(&node);
        match self.rng.u32(0..7) {
            0 | 1 if is_alive && self.dead.len() < 3 => {
                self.world.kill(node);
                self.dead.push(node);
                self.stopped.retain(|stopped| *stopped != node);
            }
            2 => self.restart_one(),
            3 if !self.cuts.contains(&(node, other)) && !self.cuts.contains(&(other, node)) => {
                self.world.cut(node, other);
                self.cuts.push((node, other));
            }
            4 => self.heal_one(),
            5 if is_alive && !self.stopped.contains(&node) => {
                self.world.daemon(node).become_inactive(NodeFlags::STOPPED);
                self.stopped.push(node);
            }
            6 if is_alive => self.world.daemon(node).node.rec_mode = RecMode::Active,
            _ => {}
        }
    }

    fn restart_one(&mut self) {
        if let Some(node) = self.dead.pop() {
            self.world.restart(node);
        }
    }

    fn heal_one(&mut self) {
        if let Some((a, b)) = self.cuts.pop() {
            self.world.heal(a, b);
        }
    }

    fn continue_one(&mut self) {
        if let Some(node) = self.stopped.pop() {
            let flags = self.world.daemon(node).node.view().my_flags() - NodeFlags::STOPPED;
            self.world.daemon(node).node.set_flags(pnn(node), flags);
        }
    }
}

#[test]
fn after_the_last_fault_there_is_one_healthy_cluster() {
    for (seed, lock_file) in (0..SEEDS).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut chaos = Chaos {
            world: World::new(4, lock_file),
            rng: fastrand::Rng::with_seed(seed),
            dead: Vec::new(),
            cuts: Vec::new(),
            stopped: Vec::new(),
        };
        for _ in 0..FAULTS {
            chaos.fault();
            let pause = Duration::from_millis(chaos.rng.u64(0..3000));
            chaos.world.run_for(pause);
        }
        for _ in 0..FAULTS {
            chaos.heal_one();
            chaos.restart_one();
            chaos.continue_one();
        }
        let story = format!("seed {seed}, lock {lock_file}");
        let world = &mut chaos.world;
        world.run_until(Duration::from_secs(40), &story, |w| w.is_healthy(&ALL));
        world.run_for(Duration::from_secs(15));
        assert!(world.is_healthy(&ALL), "{story}: it falls apart again");
        let before = world.recoveries();
        world.run_for(Duration::from_secs(60));
        assert_eq!(
            world.recoveries(),
            before,
            "{story}: it does not come to rest"
        );
    }
}
