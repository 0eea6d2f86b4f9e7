//! Story: an operator takes a node through its states. Disabled, it stays in the vnn map; stopped or
//! banned, it leaves it, and the others recover without it. Each way back leads to a healthy
//! cluster, and all nodes show the same. At last the leader itself is stopped.

use std::time::Duration;

use ctdb_e2e::{Status, TestCluster, TestResult, step};

/// For a flag to be seen everywhere and the recovery it causes to end; a lost leader is missed
/// after 5 s.
const LIMIT: Duration = Duration::from_secs(40);

const ALL: [usize; 3] = [0, 1, 2];

#[test]
fn a_node_moves_through_its_states_and_all_nodes_show_it() -> TestResult {
    let cluster = TestCluster::eager()?;
    wait_healthy(&cluster);
    disabled_and_enabled(&cluster);
    stopped_and_continued(&cluster);
    banned_and_unbanned(&cluster);
    ban_ends_by_itself(&cluster);
    bans_are_disabled(&cluster);
    the_leader_stops(&cluster);
    Ok(())
}

fn disabled_and_enabled(cluster: &TestCluster) {
    let before = Status::of(cluster.at(0)).expect("node 0 answers");
    cluster.ctdb(1, &["disable"]);
    wait_shown(cluster, "node 1 DISABLED and still lmaster", |status| {
        has(status, 1, "DISABLED") && status.vnn_map == ALL
    });
    cluster.ctdb(0, &["enable", "-n", "1"]);
    wait_healthy(cluster);
    let after = Status::of(cluster.at(0)).expect("node 0 answers");
    assert_eq!(
        before.generation, after.generation,
        "disabling needs no recovery"
    );
    step("disabled and enabled");
}

fn stopped_and_continued(cluster: &TestCluster) {
    cluster.ctdb(0, &["stop", "-n", "1"]);
    wait_without_node_1(cluster, "STOPPED|INACTIVE");
    cluster.ctdb(1, &["continue"]);
    wait_healthy(cluster);
    step("stopped and continued");
}

fn banned_and_unbanned(cluster: &TestCluster) {
    cluster.ctdb(1, &["ban", "300"]);
    wait_without_node_1(cluster, "BANNED|INACTIVE");
    cluster.ctdb(1, &["unban"]);
    wait_healthy(cluster);
    step("banned and unbanned");
}

/// The daemon ignores the order then, and nobody waits for what does not come.
fn bans_are_disabled(cluster: &TestCluster) {
    cluster.ctdb(1, &["setvar", "EnableBans", "0"]);
    let output = cluster.at(0).ctdb(["ban", "300", "-n", "1"]);
    let output = output.expect("the tool ends");
    assert!(!output.success(), "{output:?}");
    assert!(
        output.stderr.contains("Bans are disabled on node 1"),
        "{output:?}"
    );
    cluster.ctdb(1, &["setvar", "EnableBans", "1"]);
    wait_healthy(cluster);
    step("no ban while bans are disabled");
}

fn ban_ends_by_itself(cluster: &TestCluster) {
    cluster.ctdb(0, &["ban", "4", "-n", "1"]);
    wait_shown(cluster, "BANNED|INACTIVE", |status| {
        has(status, 1, "BANNED|INACTIVE")
    });
    wait_healthy(cluster);
    step("a ban ends by itself");
}

fn the_leader_stops(cluster: &TestCluster) {
    let leader = Status::of(cluster.at(0)).and_then(|status| status.leader);
    let leader = leader.expect("a healthy cluster has a leader");
    cluster.ctdb(leader, &["stop"]);
    let others: Vec<usize> = ALL.into_iter().filter(|&pnn| pnn != leader).collect();
    cluster.wait_status(&others, LIMIT, "another leader", |status| {
        has(status, leader, "STOPPED|INACTIVE")
            && status.vnn_map == others
            && status.leader.is_some_and(|new| new != leader)
    });
    step("another node leads");
    cluster.ctdb(leader, &["continue"]);
    wait_healthy(cluster);
    step("the former leader is back");
}

/// The two others work on without node 1, which knows its own state too.
fn wait_without_node_1(cluster: &TestCluster, flags: &str) {
    cluster.wait_status(&[0, 2], LIMIT, "a vnn map without node 1", |status| {
        has(status, 1, flags) && status.vnn_map == [0, 2] && status.normal
    });
    cluster.wait_status(&[1], LIMIT, flags, |status| has(status, 1, flags));
}

fn wait_healthy(cluster: &TestCluster) {
    wait_shown(cluster, "healthy", |status| status.is_healthy(3));
}

fn wait_shown(cluster: &TestCluster, what: &str, wanted: impl Fn(&Status) -> bool) {
    cluster.wait_status(&ALL, LIMIT, what, wanted);
}

fn has(status: &Status, pnn: usize, flags: &str) -> bool {
    status.flags.get(&pnn).is_some_and(|shown| shown == flags)
}
