//! Story: writers on three nodes change and delete records while nodes are killed, restarted,
//! stopped, and recoveries are forced every few seconds. In the end every change is there, once,
//! that its writer was told is made: in a volatile database all but those that only a failed node
//! had; in a persistent and a replicated one all, on all nodes, and transactions whole or not at
//! all. What was deleted leaves all files.

use ctdb_e2e::ledger::{Plan, keep_books};
use ctdb_e2e::{TestCluster, TestResult};

#[test]
fn nothing_is_lost_or_done_twice_while_nodes_fail() -> TestResult {
    let mut options = TestCluster::options();
    options.tunables = vec![
        // Else a forced recovery waits for 10 s after the one before.
        ("RerecoveryTimeout", 1),
        ("VacuumInterval", 1),
        ("VacuumFastPathCount", 3),
    ];
    let mut cluster = TestCluster::started(&options)?;
    keep_books(&mut cluster, &Plan::of_seconds(60, 3)?)
}
