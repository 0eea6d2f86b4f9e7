//! Story: as in `ledger.rs`, but one of the three nodes runs Debian's daemon. Our client library
//! works on its node as well.
//!
//! Debian's daemon is stopped and continued, but not killed: its lock helpers would keep its files
//! open for some seconds, and when it is started again before they end it gives up with `database
//! not empty on attach`.

use std::time::Duration;

use ctdb_e2e::ledger::keep_books;
use ctdb_e2e::{TestCluster, TestResult, reference_daemon};

/// The node that runs Debian's daemon.
const DEBIAN: usize = 2;

#[test]
fn nothing_is_lost_or_done_twice_with_debian_s_daemon() -> TestResult {
    let mut options = TestCluster::options();
    options.node_ctdbd.insert(DEBIAN, reference_daemon());
    options.tunables.push(("RerecoveryTimeout", 1));
    let mut cluster = TestCluster::started(&options)?;
    keep_books(&mut cluster, Duration::from_secs(40), &[DEBIAN])
}
