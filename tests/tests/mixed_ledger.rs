//! Stories: as in `ledger.rs`, but one of the three nodes runs Debian's daemon, with
//! `AllowMixedVersions` at its default. It follows one of ours, leads ours, and takes turns with
//! them. Every daemon is killed, restarted and stopped, those that lead too, and both kinds vacuum.
//! Our client library works on Debian's node as well.
//!
//! `CTDB_E2E_CTDBD=/usr/sbin/ctdbd` tells the stories of three of Debian's daemons, to see whether
//! a finding is ours.

use std::sync::{Mutex, PoisonError};

use ctdb_e2e::ledger::{Plan, keep_books};
use ctdb_e2e::{TestCluster, TestResult, reference_daemon, step};

/// The node that runs Debian's daemon.
const DEBIAN: usize = 2;
const OURS: [usize; 2] = [0, 1];
const NODES: usize = 3;

/// The stories share the machine badly: each measures time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn debian_s_daemon_follows_ours() -> TestResult {
    let plan = Plan::of_seconds(25, NODES)?;
    tell(&Plan {
        leaders: OURS.to_vec(),
        ..plan
    })
}

#[test]
fn ours_follow_debian_s_daemon() -> TestResult {
    let plan = Plan::of_seconds(25, NODES)?;
    tell(&Plan {
        leaders: vec![DEBIAN],
        ..plan
    })
}

#[test]
fn both_kinds_take_turns_in_leading() -> TestResult {
    let plan = Plan::of_seconds(40, NODES)?;
    tell(&Plan {
        turns: vec![OURS.to_vec(), vec![DEBIAN]],
        ..plan
    })
}

fn tell(plan: &Plan) -> TestResult {
    // A story that failed does not matter to the next.
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    step(&format!(
        "leaders {:?}, in turns {:?}",
        plan.leaders, plan.turns
    ));
    let mut options = TestCluster::options();
    options.node_ctdbd.insert(DEBIAN, reference_daemon());
    options.tunables = vec![
        // Else a forced recovery waits for 10 s after the one before.
        ("RerecoveryTimeout", 1),
        ("VacuumInterval", 1),
        ("VacuumFastPathCount", 3),
    ];
    let mut cluster = TestCluster::create(&options)?;
    for pnn in (0..NODES).filter(|pnn| !plan.leaders.contains(pnn)) {
        cluster.forbid_to_lead(pnn)?;
    }
    cluster.start_healthy()?;
    keep_books(&mut cluster, plan)
}
