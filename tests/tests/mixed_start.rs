//! Stories: a cluster of Debian's daemon and two of ours starts in every order, with
//! `AllowMixedVersions` at its default, so that a daemon leaves a cluster of another version
//! (`wire.md` 1.2). Ours finds out which version to present before anybody has to leave.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use ctdb_e2e::{
    HEALTHY_LIMIT, Status, TestCluster, TestResult, is_ours, reference_daemon, step, tool,
};
use ctdb_tools::local_cluster::{Node, Process, wait_until};

/// The node that runs Debian's daemon.
const DEBIAN: usize = 2;
const OURS: [usize; 2] = [0, 1];
/// For the keepalives that the stories wait for: one comes every 5 s.
const KEEPALIVES_LIMIT: Duration = Duration::from_secs(90);
/// Keepalives that a node must have had from both others together. Three of each show that a
/// second version would have been noticed by all.
const KEEPALIVES: u64 = 6;

#[test]
fn ours_join_debian_s() -> TestResult {
    let mut cluster = cluster()?;
    cluster.at_mut(DEBIAN).start()?;
    wait_leader(&cluster, &[DEBIAN]);
    step("Debian's daemon runs alone");
    for pnn in OURS {
        cluster.at_mut(pnn).start()?;
    }
    stays_together(&cluster)
}

#[test]
fn debian_s_joins_ours() -> TestResult {
    let mut cluster = cluster()?;
    for pnn in OURS {
        cluster.at_mut(pnn).start()?;
    }
    wait_leader(&cluster, &OURS);
    // By now they present their own version to each other.
    wait_keepalives(&cluster, &OURS, KEEPALIVES / 2);
    step("ours run without Debian's daemon");
    cluster.at_mut(DEBIAN).start()?;
    stays_together(&cluster)
}

/// Until its `setup` event has run Debian's daemon sends no keepalives, but gets those of others,
/// whose daemons are older.
#[test]
fn debian_s_joins_ours_and_takes_its_time() -> TestResult {
    let mut cluster = cluster()?;
    let slow = cluster
        .at(DEBIAN)
        .base()
        .join("events/legacy/10.slow.script");
    fs::write(&slow, "#!/bin/sh\n[ \"$1\" != setup ] || sleep 20\n")?;
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755))?;
    for pnn in OURS {
        cluster.at_mut(pnn).start()?;
    }
    wait_leader(&cluster, &OURS);
    cluster.at_mut(DEBIAN).start()?;
    stays_together(&cluster)
}

/// Nobody knows a version then.
#[test]
fn all_start_at_once() -> TestResult {
    let mut cluster = cluster()?;
    cluster.start()?;
    stays_together(&cluster)
}

/// One of ours has forgotten the version, the other tells it, while Debian's daemon is away; then
/// both have, and have to find out anew when it comes back.
#[test]
fn ours_and_debian_s_come_back() -> TestResult {
    let mut cluster = cluster()?;
    cluster.start_healthy()?;
    cluster.at_mut(DEBIAN).stop();
    cluster.at_mut(OURS[0]).stop();
    cluster.at_mut(OURS[0]).start()?;
    wait_leader(&cluster, &OURS);
    step("one of ours has come back while Debian's daemon is away");
    cluster.at_mut(DEBIAN).start()?;
    stays_together(&cluster)?;
    cluster.at_mut(DEBIAN).stop();
    for pnn in OURS {
        cluster.at_mut(pnn).stop();
    }
    for pnn in OURS {
        cluster.at_mut(pnn).start()?;
    }
    wait_keepalives(&cluster, &OURS, KEEPALIVES / 2);
    step("both of ours have");
    cluster.at_mut(DEBIAN).start()?;
    stays_together(&cluster)
}

fn cluster() -> TestResult<TestCluster> {
    assert!(is_ours(), "this is about our daemon");
    let mut options = TestCluster::options();
    options.node_ctdbd.insert(DEBIAN, reference_daemon());
    options.tunables.push(("RerecoveryTimeout", 1));
    TestCluster::create(&options)
}

fn wait_leader(cluster: &TestCluster, nodes: &[usize]) {
    let led = |status: &Status| status.normal && status.leader.is_some();
    cluster.wait_status(nodes, HEALTHY_LIMIT, "a leader, and recovered", led);
}

/// The nodes become healthy, hear each other's version often enough, and none has left or was
/// started again.
fn stays_together(cluster: &TestCluster) -> TestResult {
    let daemons =
        || -> Vec<Option<Process>> { cluster.nodes().iter().map(Node::process).collect() };
    let before = daemons();
    // A panic shows the logs.
    let healthy = cluster.wait_healthy(HEALTHY_LIMIT);
    healthy.unwrap_or_else(|error| panic!("{error}"));
    step("all are healthy");
    let pnns: Vec<usize> = cluster.nodes().iter().map(Node::pnn).collect();
    wait_keepalives(cluster, &pnns, KEEPALIVES);
    assert_eq!(daemons(), before, "a daemon has left");
    cluster.wait_healthy(HEALTHY_LIMIT)?;
    for pnn in pnns {
        let allowed = cluster.ctdb(pnn, &["getvar", "AllowMixedVersions"]);
        assert_eq!(allowed.split_whitespace().last(), Some("0"), "{allowed}");
    }
    step("all are still there");
    Ok(())
}

/// Waits until each of these nodes has had so many keepalives more.
fn wait_keepalives(cluster: &TestCluster, pnns: &[usize], count: u64) {
    thread::scope(|scope| {
        for &pnn in pnns {
            scope.spawn(move || {
                let had = keepalives(cluster, pnn);
                let reached =
                    wait_until(KEEPALIVES_LIMIT, || keepalives(cluster, pnn) >= had + count);
                assert!(reached, "node {pnn} gets no keepalives");
            });
        }
    });
}

fn keepalives(cluster: &TestCluster, pnn: usize) -> u64 {
    let statistics = cluster.ctdb(pnn, &["statistics"]);
    let line = statistics
        .lines()
        .find_map(|line| line.trim().strip_prefix("keepalive_packets_recv"));
    let count = line.and_then(|rest| rest.trim().parse().ok());
    count.unwrap_or_else(|| {
        panic!(
            "{} says nothing of keepalives: {statistics}",
            tool().display()
        )
    })
}
