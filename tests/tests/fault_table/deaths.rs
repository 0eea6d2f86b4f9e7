//! Daemons that are killed, and daemons that stand still.

use std::fs;
use std::io::Write;
use std::time::Instant;

use ctdb_e2e::{Network, TestCluster, TestResult, View, Watch, agree};
use ctdb_tools::local_cluster::Signal;

use crate::stage::{LIMIT, Stage, Table};

pub(crate) fn leader_killed(table: &Table) -> TestResult {
    kill_leader(table, false, "leader killed", [8.0, 8.06])
}

pub(crate) fn leader_killed_with_lock(table: &Table) -> TestResult {
    kill_leader(table, true, "leader killed, cluster lock", [4.7, 5.2])
}

fn kill_leader(table: &Table, lock: bool, fault: &'static str, times: [f64; 2]) -> TestResult {
    let mut stage = Stage::healthy(lock)?;
    let (leader, rest) = stage.roles();
    let begin = Instant::now();
    stage.at_mut(leader).kill();
    table.note(fault, "new leader", times[0], stage.one_leads(&rest, begin));
    table.note(fault, "recovered", times[1], stage.recovered(&rest, begin));
    come_back(table, stage, leader)
}

pub(crate) fn follower_killed(table: &Table) -> TestResult {
    let mut stage = Stage::healthy(false)?;
    let (leader, followers) = stage.roles();
    let rest = sorted([leader, followers[0]]);
    let begin = Instant::now();
    stage.at_mut(followers[1]).kill();
    let took = stage.recovered(&rest, begin);
    table.note("follower killed", "recovered", 0.65, took);
    come_back(table, stage, followers[1])
}

fn come_back(table: &Table, mut stage: Stage, pnn: usize) -> TestResult {
    let begin = Instant::now();
    stage.at_mut(pnn).start()?;
    table.note(
        "killed node started again",
        "all OK",
        3.0,
        stage.whole(begin),
    );
    Ok(())
}

pub(crate) fn leader_stands_still(table: &Table) -> TestResult {
    let stage = Stage::healthy(false)?;
    let (leader, rest) = stage.roles();
    let fault = "leader stopped by SIGSTOP";
    let begin = Instant::now();
    stage.signal(leader, Signal::SIGSTOP);
    table.note(fault, "new leader", 37.4, stage.one_leads(&rest, begin));
    table.note(fault, "recovered", 37.5, stage.recovered(&rest, begin));
    go_on(table, &stage, leader, "old leader continued");
    Ok(())
}

/// The time limits are those of a cluster whose network never stalls for half a second.
pub(crate) fn leader_stands_still_shorter_limits(table: &Table) -> TestResult {
    let mut options = TestCluster::options();
    options.tunables.push(("KeepaliveLimit", 3));
    let stage = Stage::healthy_with(&options, |cluster| {
        for node in cluster.nodes() {
            let conf = node.base().join("ctdb.conf");
            let mut file = fs::OpenOptions::new().append(true).open(conf)?;
            file.write_all(SHORTER_LIMITS)?;
        }
        Ok(())
    })?;
    let (leader, rest) = stage.roles();
    let fault = "leader stopped by SIGSTOP, limits below a second";
    let begin = Instant::now();
    stage.signal(leader, Signal::SIGSTOP);
    table.note(fault, "recovered", 1.0, stage.recovered(&rest, begin));
    go_on(
        table,
        &stage,
        leader,
        "leader continued, limits below a second",
    );
    Ok(())
}

const SHORTER_LIMITS: &[u8] =
    b"[cluster]\n\tleader timeout ms = 800\n\tkeepalive interval ms = 200\n";

pub(crate) fn follower_stands_still(table: &Table) -> TestResult {
    let stage = Stage::healthy(false)?;
    let (leader, followers) = stage.roles();
    let rest = sorted([leader, followers[0]]);
    let begin = Instant::now();
    stage.signal(followers[1], Signal::SIGSTOP);
    let took = stage.recovered(&rest, begin);
    table.note("follower stopped by SIGSTOP", "recovered", 29.1, took);
    go_on(table, &stage, followers[1], "follower continued");
    Ok(())
}

fn go_on(table: &Table, stage: &Stage, pnn: usize, fault: &'static str) {
    let begin = Instant::now();
    stage.signal(pnn, Signal::SIGCONT);
    table.note(fault, "all OK", 3.0, stage.whole(begin));
}

pub(crate) fn one_node_missing_at_start(table: &Table) -> TestResult {
    let network = Network::new(3)?;
    let mut cluster = TestCluster::create_in(&network, &TestCluster::options())?;
    let watch = Watch::new(&cluster);
    let until_ok = |members: &[usize], begin| {
        watch.until(members, begin, LIMIT, |views| {
            agree(views) && views.iter().all(|view: &View| view.is_healthy(members))
        })
    };
    let begin = Instant::now();
    cluster.at_mut(0).start()?;
    cluster.at_mut(1).start()?;
    let took = until_ok(&[0, 1], begin);
    table.note("start with one node missing", "the others OK", 11.0, took);
    let begin = Instant::now();
    cluster.at_mut(2).start()?;
    let took = until_ok(&[0, 1, 2], begin);
    table.note("the missing node is started", "all OK", 3.0, took);
    Ok(())
}

pub(crate) fn sorted<const N: usize>(mut nodes: [usize; N]) -> [usize; N] {
    nodes.sort_unstable();
    nodes
}
