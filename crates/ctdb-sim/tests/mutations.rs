//! The simulator finds what it is made to find: each of these mistakes is made on purpose, in all
//! nodes, and some seed of CI must break a rule by it.

use std::io::Write;
use std::time::Duration;

use ctdb_core::mutation::{self, Mutation};
use ctdb_sim::{Plan, Run};

/// Those of `seeds.rs`.
const SEEDS: u64 = 2_000;
const FAULTS: Duration = Duration::from_secs(60);

#[test]
fn a_recovery_that_keeps_the_lower_rsn_is_found() {
    is_found(Mutation::CollateKeepsLowerRsn, "keeps the newest copy");
}

#[test]
fn packets_of_another_generation_are_found() {
    is_found(Mutation::NoGenerationCheck, "packet of an old generation");
}

#[test]
fn two_leaders_are_found() {
    is_found(Mutation::TwoLeaders, "at most one node leads");
}

#[test]
fn a_forgotten_ban_is_found() {
    is_found(Mutation::BanForgotten, "a banned node stays banned");
}

#[test]
fn a_lost_commit_is_found() {
    is_found(Mutation::LostCommit, "no acknowledged commit is lost");
}

#[test]
fn a_node_that_goes_on_without_a_leader_is_found() {
    is_found(Mutation::NoFence, "nobody writes in the generation before");
}

/// Plays the seeds of CI until one breaks the rule; the same seed breaks none without the mistake.
#[track_caller]
fn is_found(mistake: Mutation, rule: &str) {
    mutation::set(Some(mistake));
    let broken = (0..SEEDS).find_map(|seed| {
        let failure = Run::new(Plan::of_seed(seed, FAULTS)).go().err()?;
        failure.what.contains(rule).then_some(failure)
    });
    mutation::set(None);
    let failure = broken.unwrap_or_else(|| panic!("{mistake:?} was not found"));
    let (seed, what) = (failure.plan.seed, &failure.what);
    let _ = writeln!(
        std::io::stderr(),
        "{mistake:?} found by seed {seed}: {what}"
    );
    let without = Run::new(failure.plan.clone()).go();
    assert!(without.is_ok(), "seed {seed} fails without the mistake");
}
