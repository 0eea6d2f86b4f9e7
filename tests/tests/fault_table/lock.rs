//! The file of the cluster lock is removed, replaced, or locked by somebody else.

use std::fs;
use std::time::Instant;

use ctdb_e2e::TestResult;

use crate::stage::{Stage, Table};

pub(crate) fn lock_file_removed(table: &Table) -> TestResult {
    let stage = Stage::healthy(true)?;
    let begin = Instant::now();
    let before = stage.watch.views()[0].as_ref().map(|view| view.generation);
    fs::remove_file(stage.layout().cluster_lock())?;
    again(table, &stage, "cluster lock file removed", begin, before)
}

pub(crate) fn lock_file_replaced(table: &Table) -> TestResult {
    let stage = Stage::healthy(true)?;
    let begin = Instant::now();
    let before = stage.watch.views()[0].as_ref().map(|view| view.generation);
    let new = stage.file("another");
    fs::write(&new, "")?;
    fs::rename(new, stage.layout().cluster_lock())?;
    again(table, &stage, "cluster lock file replaced", begin, before)
}

fn again(
    table: &Table,
    stage: &Stage,
    fault: &'static str,
    begin: Instant,
    before: Option<ctdb_proto::Generation>,
) -> TestResult {
    let all = [0, 1, 2];
    let anew = |views: &[ctdb_e2e::View]| {
        ctdb_e2e::agree(views)
            && views
                .iter()
                .all(|view| view.is_healthy(&all) && Some(view.generation) != before)
    };
    let took = stage.watch.until(&all, begin, crate::stage::LIMIT, anew);
    table.note(fault, "recovered under a new lock", 6.0, took);
    Ok(())
}
