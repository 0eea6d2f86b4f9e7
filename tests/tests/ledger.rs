//! Story: writers on three nodes change records while nodes are killed, restarted, stopped, and
//! recoveries are forced every few seconds. In the end every change is there, once, that its
//! writer was told is made: in a volatile database all but those that only a failed node had; in a
//! persistent and a replicated one all, on all nodes, and transactions whole or not at all.

use std::time::Duration;

use ctdb_e2e::ledger::keep_books;
use ctdb_e2e::{TestCluster, TestResult};

#[test]
fn nothing_is_lost_or_done_twice_while_nodes_fail() -> TestResult {
    let mut options = TestCluster::options();
    // Else a forced recovery waits for 10 s after the one before.
    options.tunables.push(("RerecoveryTimeout", 1));
    let mut cluster = TestCluster::started(&options)?;
    keep_books(&mut cluster, Duration::from_secs(60), &[])
}
