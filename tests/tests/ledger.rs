//! Story: writers on three nodes change records while nodes are killed, restarted, stopped, and
//! recoveries are forced every few seconds. In the end every change is there, once, that its
//! writer was told is made: in a volatile database all but those that only a failed node had; in a
//! persistent and a replicated one all, on all nodes, and transactions whole or not at all.

use std::time::Duration;

use ctdb_e2e::ledger::{History, Ledger, Outcome, Records, Transactions, Trouble};
use ctdb_e2e::{HEALTHY_LIMIT, TestCluster, TestResult, step};
use ctdb_proto::DbFlags;

/// How long there is trouble.
const TIME: Duration = Duration::from_secs(60);
const WRITERS: usize = 8;
const HOT_KEYS: usize = 50;
const COLD_KEYS: usize = 10_000;
/// Of the databases that transactions change.
const KEYS: usize = 30;

#[test]
fn nothing_is_lost_or_done_twice_while_nodes_fail() -> TestResult {
    let mut options = TestCluster::options();
    // Else a forced recovery waits for 10 s after the one before.
    options.tunables.push(("RerecoveryTimeout", 1));
    let mut cluster = TestCluster::started(&options)?;
    let ledger = Ledger::new(&cluster);
    let records = Records::new("ledger.tdb", HOT_KEYS, COLD_KEYS);
    let persistent = Transactions::new("persistent.tdb", DbFlags::PERSISTENT, KEYS);
    let replicated = Transactions::new("replicated.tdb", DbFlags::REPLICATED, KEYS);
    let seed = fastrand::u64(..);
    step(&format!("seed {seed}"));

    let mut writers = records.writers(WRITERS, 3);
    writers.extend(persistent.writers(3));
    writers.extend(replicated.writers(3));
    ledger.work_during(writers, || {
        Trouble::new(&mut cluster, &ledger.outages, seed).make(TIME)
    })?;
    step("all writers have ended");

    cluster.wait_healthy(HEALTHY_LIMIT)?;
    let found = [
        (
            "volatile",
            records.check(&ledger)?,
            report(&records.history()),
        ),
        (
            "persistent",
            persistent.check(&ledger)?,
            report(&persistent.history()),
        ),
        (
            "replicated",
            replicated.check(&ledger)?,
            report(&replicated.history()),
        ),
    ];
    for (kind, findings, made) in &found {
        step(&format!(
            "{kind}: {made}, {} lost with their node",
            findings.lost
        ));
    }
    assert_eq!(ledger.wrong(), Vec::<String>::new(), "on the way");
    for (kind, findings, _) in found {
        let first: Vec<_> = findings.wrong.iter().take(20).collect();
        assert!(
            first.is_empty(),
            "{kind}: {} findings: {first:#?}",
            findings.wrong.len()
        );
    }
    assert!(records.history().count(Outcome::Made) > ENOUGH);
    assert!(persistent.history().count(Outcome::Made) > ENOUGH_PARTS);
    assert!(replicated.history().count(Outcome::Made) > ENOUGH_PARTS);
    Ok(())
}

/// Much less than any machine makes: the writers did work.
const ENOUGH: usize = 5_000;
const ENOUGH_PARTS: usize = 300;

fn report(history: &History) -> String {
    let [made, not, unknown] =
        [Outcome::Made, Outcome::NotMade, Outcome::Unknown].map(|outcome| history.count(outcome));
    format!("{made} changes made, {not} refused, {unknown} unknown")
}
