//! Story: Debian's daemon among two of ours is stopped and continued, banned and let in again,
//! killed and started again; first while one of ours leads, then while it leads itself. In each
//! state there are takeover runs, of leaders of both kinds. It knows a public address, so ours goes
//! as far as a control that Debian's does not know (`cluster.md` 15). Nobody is banned for that,
//! and nobody leaves for a version: `AllowMixedVersions` has its default.

use std::fs;
use std::time::Duration;

use ctdb_e2e::{Status, TestCluster, TestResult, reference_daemon, step, users_of};
use ctdb_tools::local_cluster::wait_until;

/// The node that runs Debian's daemon.
const DEBIAN: usize = 2;
const OURS: [usize; 2] = [0, 1];
const ALL: [usize; 3] = [0, 1, 2];
/// For a leader to give up, another to be elected, and a recovery.
const LIMIT: Duration = Duration::from_secs(60);
/// A node that fails two runs is banned by the reference.
const RUNS: usize = 3;

#[test]
fn debian_s_daemon_goes_through_all_states_among_ours() -> TestResult {
    let mut options = TestCluster::options();
    options.node_ctdbd.insert(DEBIAN, reference_daemon());
    options.tunables.push(("RerecoveryTimeout", 1));
    let mut cluster = TestCluster::create(&options)?;
    // In test mode no interface is asked; there is no event script that would add the address.
    let addresses = cluster.at(DEBIAN).base().join("public_addresses");
    fs::write(addresses, "192.0.2.1/24 lo\n")?;
    cluster.start_healthy()?;
    for leaders in [&OURS[..], &[DEBIAN]] {
        lead(&cluster, leaders);
        takeover_runs(&cluster, &ALL);
        out_and_in(
            &cluster,
            leaders,
            &["stop"],
            &["continue"],
            "STOPPED|INACTIVE",
        );
        out_and_in(
            &cluster,
            leaders,
            &["ban", "300"],
            &["unban"],
            "BANNED|INACTIVE",
        );
        dies_and_comes_back(&mut cluster, leaders)?;
    }
    Ok(())
}

/// Makes one of these nodes the leader; afterwards the others may lead as well.
fn lead(cluster: &TestCluster, leaders: &[usize]) {
    let set = |pnn: usize, may: &str| _ = cluster.ctdb(pnn, &["setleaderrole", may]);
    let others = || ALL.into_iter().filter(|pnn| !leaders.contains(pnn));
    for pnn in leaders {
        set(*pnn, "on");
    }
    others().for_each(|pnn| set(pnn, "off"));
    cluster.wait_status(&ALL, LIMIT, "the wanted leader", |status| {
        status.is_healthy(3) && status.leader.is_some_and(|pnn| leaders.contains(&pnn))
    });
    others().for_each(|pnn| set(pnn, "on"));
    step(&format!("one of {leaders:?} leads"));
}

/// Takes Debian's node out of the cluster, and back in.
fn out_and_in(cluster: &TestCluster, leaders: &[usize], out: &[&str], back: &[&str], flags: &str) {
    cluster.ctdb(DEBIAN, out);
    ours_go_on(cluster, flags);
    step(&format!("Debian's node is {flags}"));
    cluster.ctdb(DEBIAN, back);
    comes_back(cluster, leaders);
}

fn dies_and_comes_back(cluster: &mut TestCluster, leaders: &[usize]) -> TestResult {
    cluster.at_mut(DEBIAN).kill();
    ours_go_on(cluster, "DISCONNECTED|UNHEALTHY|INACTIVE");
    step("Debian's daemon is dead");
    let files = cluster.at(DEBIAN).base().join("var/volatile");
    // Its lock helpers live on for some seconds.
    assert!(wait_until(LIMIT, || users_of(&files).is_empty()));
    cluster.at_mut(DEBIAN).start()?;
    comes_back(cluster, leaders);
    Ok(())
}

/// Debian's node has these flags, and the others work without it.
fn ours_go_on(cluster: &TestCluster, flags: &str) {
    let wanted = |status: &Status| {
        status
            .flags
            .get(&DEBIAN)
            .is_some_and(|found| found == flags)
            && OURS.iter().all(|pnn| status.flags[pnn] == "OK")
            && status.leader.is_some_and(|pnn| OURS.contains(&pnn))
            && status.normal
            && status.vnn_map == OURS
    };
    cluster.wait_status(&OURS, LIMIT, "ours go on", wanted);
    takeover_runs(cluster, &OURS);
    cluster.wait_status(&OURS, LIMIT, "ours go on after takeover runs", wanted);
}

fn comes_back(cluster: &TestCluster, leaders: &[usize]) {
    cluster.wait_status(&ALL, LIMIT, "healthy", |status| status.is_healthy(3));
    takeover_runs(cluster, &ALL);
    step("Debian's node is back");
    lead(cluster, leaders);
}

/// Takeover runs that each of these nodes asks for. None fails, and nobody is banned.
fn takeover_runs(cluster: &TestCluster, nodes: &[usize]) {
    for pnn in nodes.iter().cycle().take(RUNS) {
        cluster.ctdb(*pnn, &["ipreallocate"]);
    }
    let banned = |status: &Status| nodes.iter().any(|pnn| status.flags[pnn].contains("BANNED"));
    cluster.wait_status(nodes, LIMIT, "nobody is banned", |status| !banned(status));
}
