//! Event scripts that hang.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use ctdb_e2e::TestResult;

use crate::stage::{Stage, Table, stays};

/// Longer than two scripts may take.
const TWO_TIMEOUTS: Duration = Duration::from_secs(65);

/// The original repeats the recovery every 30 s.
pub(crate) fn recovered_hangs(table: &Table) -> TestResult {
    let stage = Stage::healthy(false)?;
    let (_, followers) = stage.roles();
    let hung = followers[1];
    let folder = stage.at(hung).base().join("events/legacy");
    let script = folder.join("50.hang.script");
    fs::write(
        &script,
        "#!/bin/sh\n[ \"$1\" != recovered ] || exec sleep 1000\n",
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let begin = Instant::now();
    stage.ctdb(hung, &["recover"]);
    let fault = "script hangs in the recovered event of a node";
    let rest: Vec<usize> = (0..3).filter(|&pnn| pnn != hung).collect();
    let took = stays(&stage, &[rest, vec![0, 1, 2]], begin, TWO_TIMEOUTS);
    table.note(fault, "recovered, and stable for 65 s", None, took);
    fs::remove_file(script)?;
    let begin = Instant::now();
    stage.ctdb(hung, &["unban"]);
    table.note(
        "the script hangs no more",
        "all OK",
        10.0,
        stage.whole(begin),
    );
    Ok(())
}
