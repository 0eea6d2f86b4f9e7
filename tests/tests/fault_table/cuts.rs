//! Networks that are cut: one node from two, two of three from each other, one way only.

use std::time::{Duration, Instant};

use ctdb_e2e::TestResult;

use crate::deaths::sorted;
use crate::stage::{STABLE, Stage, Table, stays};

pub(crate) fn follower_cut_off(table: &Table) -> TestResult {
    let stage = Stage::healthy(false)?;
    let (leader, followers) = stage.roles();
    let (alone, rest) = (followers[1], sorted([leader, followers[0]]));
    let fault = "one node cut off";
    let begin = Instant::now();
    stage.network.isolate(alone)?;
    table.note(
        fault,
        "the others recovered",
        25.5,
        stage.recovered(&rest, begin),
    );
    table.note(
        fault,
        "a cluster of its own",
        37.5,
        stage.recovered(&[alone], begin),
    );
    heal(table, &stage, "one node cut off, healed")
}

/// With a cluster lock, a node alone without the lock does not become a cluster.
pub(crate) fn follower_cut_off_with_lock(table: &Table) -> TestResult {
    let stage = Stage::healthy(true)?;
    let (leader, followers) = stage.roles();
    let (alone, rest) = (followers[1], sorted([leader, followers[0]]));
    let fault = "one node cut off, cluster lock elsewhere";
    let begin = Instant::now();
    stage.network.isolate(alone)?;
    table.note(
        fault,
        "the others recovered",
        25.5,
        stage.recovered(&rest, begin),
    );
    stays_in_recovery(&stage, &[alone]);
    heal(
        table,
        &stage,
        "one node cut off, cluster lock elsewhere, healed",
    )
}

/// The holder of the cluster lock goes on alone.
pub(crate) fn lock_holder_cut_off(table: &Table) -> TestResult {
    let stage = Stage::healthy(true)?;
    let (leader, followers) = stage.roles();
    let fault = "holder of the cluster lock cut off";
    let begin = Instant::now();
    stage.network.isolate(leader)?;
    table.note(
        fault,
        "it has recovered",
        30.0,
        stage.recovered(&[leader], begin),
    );
    stays_in_recovery(&stage, &followers);
    heal(table, &stage, "holder of the cluster lock cut off, healed")
}

/// None of these nodes takes itself for a cluster that works.
fn stays_in_recovery(stage: &Stage, nodes: &[usize]) {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        for &pnn in nodes {
            let view = stage.watch.views()[pnn].clone();
            assert!(
                view.as_ref().is_none_or(|view| !view.normal),
                "node {pnn} works without the cluster lock: {view:#?}"
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn followers_cut_apart(table: &Table) -> TestResult {
    let stage = Stage::healthy(false)?;
    let (_, followers) = stage.roles();
    let fault = "two followers cut from each other";
    let begin = Instant::now();
    stage.network.cut(followers[0], followers[1])?;
    becomes_stable(table, &stage, fault, begin);
    heal(table, &stage, "two followers cut from each other, healed")
}

pub(crate) fn leader_and_follower_cut_apart(table: &Table) -> TestResult {
    let stage = Stage::healthy(false)?;
    let (leader, followers) = stage.roles();
    let fault = "leader and one follower cut from each other";
    let begin = Instant::now();
    stage.network.cut(leader, followers[1])?;
    becomes_stable(table, &stage, fault, begin);
    heal(
        table,
        &stage,
        "leader and one follower cut from each other, healed",
    )
}

pub(crate) fn one_way_cut(table: &Table) -> TestResult {
    let stage = Stage::healthy(false)?;
    let (leader, followers) = stage.roles();
    let fault = "one way from a follower to the leader cut";
    let begin = Instant::now();
    stage.network.cut_way(followers[1], leader)?;
    becomes_stable(table, &stage, fault, begin);
    heal(
        table,
        &stage,
        "one way from a follower to the leader cut, healed",
    )
}

/// Two of the nodes are a cluster, and stay one, in the same generation.
fn becomes_stable(table: &Table, stage: &Stage, fault: &'static str, begin: Instant) {
    let pairs = [vec![0, 1], vec![0, 2], vec![1, 2]];
    let took = stays(stage, &pairs, begin, STABLE);
    table.note(fault, "two recovered, and stable for 15 s", None, took);
}

fn heal(table: &Table, stage: &Stage, fault: &'static str) -> TestResult {
    let begin = Instant::now();
    stage.network.heal()?;
    table.note(fault, "all OK", 10.0, stage.whole(begin));
    Ok(())
}
