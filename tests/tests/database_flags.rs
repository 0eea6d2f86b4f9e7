//! Story: an operator makes a database READONLY and STICKY on all nodes. The daemon of one
//! node is killed and started anew; once the cluster has recovered, its database has the flags of the
//! others again. A daemon of the original has lost them (`data-plane.md` 1.8).

use std::time::Duration;

use ctdb_e2e::{HEALTHY_LIMIT, TestCluster, TestResult, is_ours, step};
use ctdb_tools::local_cluster::wait_until;

const NAME: &str = "flags.tdb";
const VICTIM: usize = 2;

#[test]
fn a_node_that_starts_anew_takes_the_flags_of_the_others() -> TestResult {
    let mut cluster = TestCluster::healthy()?;
    cluster.ctdb(0, &["attach", NAME]);
    for pnn in 0..3 {
        let known = wait_until(HEALTHY_LIMIT, || flags(&cluster, pnn).is_some());
        assert!(known, "node {pnn} has not attached the database");
        cluster.ctdb(pnn, &["setdbreadonly", NAME]);
        cluster.ctdb(pnn, &["setdbsticky", NAME]);
        let flags = flags(&cluster, pnn);
        assert!(is_complete(flags.as_ref()), "node {pnn}: {flags:?}");
    }
    cluster.at_mut(VICTIM).kill();
    cluster.at_mut(VICTIM).start()?;
    cluster.wait_status(&[0, 1, 2], HEALTHY_LIMIT, "all take part", |status| {
        status.is_healthy(3)
    });
    step("all nodes take part again");
    if is_ours() {
        let back = wait_until(Duration::from_secs(30), || {
            is_complete(flags(&cluster, VICTIM).as_ref())
        });
        assert!(back, "{:?}", flags(&cluster, VICTIM));
    } else {
        assert!(!is_complete(flags(&cluster, VICTIM).as_ref()));
    }
    Ok(())
}

/// The line about the database that a node has.
fn flags(cluster: &TestCluster, pnn: usize) -> Option<String> {
    let map = cluster.ctdb(pnn, &["getdbmap"]);
    let line = map.lines().find(|line| line.contains(NAME));
    line.map(str::to_owned)
}

fn is_complete(line: Option<&String>) -> bool {
    let has = |flag| line.is_some_and(|line| line.contains(flag));
    has("READONLY") && has("STICKY")
}
