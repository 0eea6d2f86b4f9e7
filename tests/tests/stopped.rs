//! Story: the daemon of the leader is stopped by a signal, for longer than the keepalives allow. The
//! others go on without it. Then it is continued, with all that it believed before: it hears the
//! others first, takes part again, and nobody is banned. The same with a follower. There is no
//! cluster lock that could tell who leads.

use std::fs;
use std::time::Duration;

use ctdb_e2e::{HEALTHY_LIMIT, Status, TestCluster, TestResult, step};
use ctdb_tools::local_cluster::Signal;

/// With an interval of 1 s: the others give the node up 4 s after it was stopped.
const KEEPALIVE_LIMIT: u32 = 3;

#[test]
fn a_daemon_that_was_stopped_takes_part_again_and_nobody_is_banned() -> TestResult {
    let mut options = TestCluster::options();
    options.tunables = vec![
        ("KeepaliveInterval", 1),
        ("KeepaliveLimit", KEEPALIVE_LIMIT),
        // The original waits for 10 s after a recovery before the next one.
        ("RerecoveryTimeout", 1),
    ];
    let cluster = TestCluster::started(&options)?;
    let leader = leader(&cluster);
    stop_and_continue(&cluster, leader)?;
    let follower = (self::leader(&cluster) + 1) % 3;
    stop_and_continue(&cluster, follower)?;
    for node in cluster.nodes() {
        let log = fs::read_to_string(node.log())?;
        let bans = log.lines().filter(|line| line.contains("Banning "));
        assert_eq!(bans.count(), 0, "node {} tells of a ban", node.pnn());
    }
    Ok(())
}

fn leader(cluster: &TestCluster) -> usize {
    let leader = Status::of(cluster.at(0)).and_then(|status| status.leader);
    leader.expect("a healthy cluster has a leader")
}

fn stop_and_continue(cluster: &TestCluster, victim: usize) -> TestResult {
    let daemon = cluster.at(victim).process().ok_or("the daemon runs")?;
    let others: Vec<usize> = (0..3).filter(|&pnn| pnn != victim).collect();
    step(&format!("node {victim} is stopped"));
    daemon.signal(Signal::SIGSTOP);
    let limit = Duration::from_secs(60);
    cluster.wait_status(&others, limit, "two nodes go on", |status| {
        status.vnn_map == others && status.normal && status.leader.is_some()
    });
    step(&format!("node {victim} is continued"));
    daemon.signal(Signal::SIGCONT);
    cluster.wait_status(&[0, 1, 2], HEALTHY_LIMIT, "all take part", |status| {
        status.is_healthy(3)
    });
    Ok(())
}
