//! A run depends on its plan alone: the same seed does the same things in the same order.

use std::time::Duration;

use ctdb_sim::{Plan, Run};

const FAULTS: Duration = Duration::from_secs(60);

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..10 {
        let play = || Run::new(Plan::of_seed(seed, FAULTS)).go().map(|s| s.hash);
        let (first, second) = (play().unwrap_or(0), play().unwrap_or(0));
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn another_seed_gives_another_run() {
    let hash = |seed| Run::new(Plan::of_seed(seed, FAULTS)).go().map(|s| s.hash);
    assert_ne!(hash(1).unwrap(), hash(2).unwrap());
}
