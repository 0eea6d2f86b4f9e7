//! The whole story: writers, trouble, and the comparison at the end.

use std::time::Duration;

use ctdb_proto::DbFlags;

use super::{Findings, History, Ledger, Outages, Outcome, Plan, Records, Transactions, Trouble};
use crate::{HEALTHY_LIMIT, TestCluster, TestResult, step};

const WRITERS: usize = 8;
const HOT_KEYS: usize = 50;
const COLD_KEYS: usize = 10_000;
/// Of the databases that transactions change.
const KEYS: usize = 30;
/// Changes in each second of trouble: much less than any machine makes, so the writers did work.
const FEWEST: usize = 10;
/// Findings of each database that are shown.
const MOST_SHOWN: usize = 20;

/// Has writers on all nodes work while there is trouble of this kind.
///
/// # Panics
///
/// When anything is missing, or is there that should not be.
pub fn keep_books(cluster: &mut TestCluster, plan: &Plan) -> TestResult {
    let seed = fastrand::u64(..);
    step(&format!("seed {seed}"));
    keep_books_while(cluster, plan.time, |cluster, outages| {
        Trouble::new(cluster, outages, plan, seed).make()
    })
}

/// Has writers on all nodes work while something is done, which takes `time` at least and leaves
/// all nodes healthy. A node need not run before, and not all the time: then its outages are noted.
///
/// # Panics
///
/// When anything is missing, or is there that should not be.
pub fn keep_books_while(
    cluster: &mut TestCluster,
    time: Duration,
    work: impl FnOnce(&mut TestCluster, &Outages) -> TestResult,
) -> TestResult {
    let nodes = cluster.nodes().len();
    let ledger = Ledger::new(cluster);
    let records = Records::new("ledger.tdb", HOT_KEYS, COLD_KEYS);
    let persistent = Transactions::new("persistent.tdb", DbFlags::PERSISTENT, KEYS);
    let replicated = Transactions::new("replicated.tdb", DbFlags::REPLICATED, KEYS);

    let mut writers = records.writers(WRITERS, nodes);
    writers.extend(persistent.writers(nodes));
    writers.extend(replicated.writers(nodes));
    ledger.work_during(writers, || work(cluster, &ledger.outages))?;
    step("all writers have ended");

    cluster.wait_healthy(HEALTHY_LIMIT)?;
    let fewest = FEWEST * usize::try_from(time.as_secs())?;
    let mut wrong = ledger.wrong();
    let deletions = records.history().deletions();
    step(&format!("{deletions} deletions"));
    wrong.extend(sum_up(
        "volatile",
        records.check(&ledger)?,
        &records.history(),
        fewest,
    ));
    for (kind, database) in [("persistent", &persistent), ("replicated", &replicated)] {
        wrong.extend(sum_up(
            kind,
            database.check(&ledger)?,
            &database.history(),
            fewest,
        ));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    records.vacuumed(&ledger)
}

/// Shows how it went; gives the first findings.
fn sum_up(kind: &str, findings: Findings, history: &History, fewest: usize) -> Vec<String> {
    let [made, not, unknown] =
        [Outcome::Made, Outcome::NotMade, Outcome::Unknown].map(|outcome| history.count(outcome));
    step(&format!(
        "{kind}: {made} changes made, {not} refused, {unknown} unknown; {} lost with their node, \
         {} wrong",
        findings.lost,
        findings.wrong.len()
    ));
    let idle = (made < fewest).then(|| format!("{kind}: only {made} changes made"));
    let first = findings.wrong.into_iter().take(MOST_SHOWN);
    idle.into_iter().chain(first).collect()
}
