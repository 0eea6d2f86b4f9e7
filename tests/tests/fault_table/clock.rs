//! The time of day of one node makes a step.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ctdb_e2e::{TestCluster, TestResult, need};

use crate::stage::{Stage, Table, recoveries};

/// In the original the timers of the node stand still until the old time has come again.
pub(crate) fn clock_steps_back(table: &Table) -> TestResult {
    step(table, -30, "clock of the leader steps back by 30 s", 34.0)
}

pub(crate) fn clock_steps_forward(table: &Table) -> TestResult {
    step(
        table,
        3600,
        "clock of the leader steps forward by an hour",
        0.0,
    )
}

/// Lets the daemons believe in another time.
const LIBRARY: &str = "clock.so";

/// Until then a leader that does not speak would be missed.
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);

fn step(table: &Table, seconds: i64, fault: &'static str, reference: f64) -> TestResult {
    let stage = Stage::healthy_with(&TestCluster::options(), |cluster| {
        let library = cluster.layout().dir().join("node.0").join(LIBRARY);
        build(&library)?;
        for pnn in 0..3 {
            let base = cluster.at(pnn).base().to_owned();
            fs::write(base.join("clock"), 0_i64.to_le_bytes())?;
            let node = cluster.at_mut(pnn);
            node.set_env("LD_PRELOAD", &library.to_string_lossy());
            node.set_env("CTDB_TEST_CLOCK", &base.join("clock").to_string_lossy());
        }
        Ok(())
    })?;
    let (leader, _) = stage.roles();
    let daemon = stage.at(leader).process().ok_or("the daemon runs")?;
    let maps = fs::read_to_string(format!("/proc/{}/maps", daemon.pid()))?;
    assert!(maps.contains(LIBRARY), "the daemon does not use {LIBRARY}");
    let begin = Instant::now();
    let before = recoveries(&stage);
    // In place: the file is mapped.
    let clock = fs::OpenOptions::new()
        .write(true)
        .open(stage.at(leader).base().join("clock"))?;
    clock.write_all_at(&seconds.to_le_bytes(), 0)?;
    let mut trouble = None;
    while begin.elapsed() < LEADER_TIMEOUT.max(Duration::from_secs_f64(reference)) {
        if recoveries(&stage) != before || !stage.is_whole() {
            trouble = Some(begin.elapsed());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    table.note(
        fault,
        "end of the last trouble",
        reference,
        Some(trouble.unwrap_or_default()),
    );
    let healthy = stage.whole(Instant::now());
    table.note(fault, "all OK, after that", 1.0, healthy);
    Ok(())
}

fn build(library: &Path) -> TestResult {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fault_table/clock.c");
    let gcc = need("gcc", "gcc");
    let output = Command::new(gcc)
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .args([library, &source])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    output
        .status
        .success()
        .then_some(())
        .ok_or_else(|| format!("gcc: {said}").into())
}
