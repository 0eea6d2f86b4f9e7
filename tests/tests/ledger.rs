//! Story: writers on three nodes change and delete records while nodes are killed, restarted,
//! stopped, and recoveries are forced every few seconds. In the end every change is there, once,
//! that its writer was told is made: in a volatile database all but those that only a failed node
//! had; in a persistent and a replicated one all, on all nodes, and transactions whole or not at
//! all. What was deleted leaves all files.

use std::sync::{Mutex, PoisonError};

use ctdb_e2e::ledger::{Plan, keep_books};
use ctdb_e2e::{TestCluster, TestResult};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn nothing_is_lost_or_done_twice_while_nodes_fail() -> TestResult {
    keep_books_of_three(60, false)
}

/// A node that loses the holder of the lock blocks its records at once, since another one may go on
/// without it; that must not cost it any.
#[test]
fn nothing_is_lost_or_done_twice_with_a_cluster_lock() -> TestResult {
    keep_books_of_three(30, true)
}

fn keep_books_of_three(seconds: u64, cluster_lock: bool) -> TestResult {
    // A story that failed does not matter to the other; they share the machine badly.
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut options = TestCluster::options();
    options.cluster_lock = cluster_lock;
    options.tunables = vec![
        // Else a forced recovery waits for 10 s after the one before.
        ("RerecoveryTimeout", 1),
        ("VacuumInterval", 1),
        ("VacuumFastPathCount", 3),
    ];
    let mut cluster = TestCluster::started(&options)?;
    keep_books(&mut cluster, &Plan::of_seconds(seconds, 3)?)
}
