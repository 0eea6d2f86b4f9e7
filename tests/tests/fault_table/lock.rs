//! The file of the cluster lock is removed, replaced, or locked by somebody else.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ctdb_e2e::{Network, TestCluster, TestResult, View, Watch, agree};
use ctdb_proto::Generation;
use ctdb_tools::local_cluster::find_beside;

use crate::stage::{LIMIT, Stage, Table};

pub(crate) fn lock_file_removed(table: &Table) -> TestResult {
    let stage = Stage::healthy(true)?;
    let begin = Instant::now();
    let before = stage.watch.views()[0].as_ref().map(|view| view.generation);
    fs::remove_file(stage.layout().cluster_lock())?;
    again(table, &stage, "cluster lock file removed", begin, before);
    Ok(())
}

pub(crate) fn lock_file_replaced(table: &Table) -> TestResult {
    let stage = Stage::healthy(true)?;
    let begin = Instant::now();
    let before = stage.watch.views()[0].as_ref().map(|view| view.generation);
    let new = stage.file("another");
    fs::write(&new, "")?;
    fs::rename(new, stage.layout().cluster_lock())?;
    again(table, &stage, "cluster lock file replaced", begin, before);
    Ok(())
}

fn again(
    table: &Table,
    stage: &Stage,
    fault: &'static str,
    begin: Instant,
    before: Option<Generation>,
) {
    let all = [0, 1, 2];
    let anew = |views: &[View]| {
        agree(views)
            && views
                .iter()
                .all(|view| view.is_healthy(&all) && Some(view.generation) != before)
    };
    let took = stage.watch.until(&all, begin, LIMIT, anew);
    table.note(fault, "recovered under a new lock", 6.0, took);
}

/// Somebody else has the lock: nobody leads, until he lets it go.
pub(crate) fn lock_held_by_another(table: &Table) -> TestResult {
    let mut options = TestCluster::options();
    options.cluster_lock = true;
    let network = Network::new(3)?;
    let mut cluster = TestCluster::create_in(&network, &options)?;
    let helper = find_beside("ctdb_mutex_fcntl_helper").ok_or("the helper is not built")?;
    let mut holder = Command::new(helper)
        .arg(cluster.layout().cluster_lock())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut answer = [0];
    let output = holder.stdout.as_mut().ok_or("its output is a pipe")?;
    output.read_exact(&mut answer)?;
    assert_eq!(answer, *b"0", "nobody else has the lock yet");
    let watch = Watch::new(&cluster);
    cluster.start()?;
    thread::sleep(WITHOUT_LEADER);
    let views = watch.views();
    let leads = views
        .iter()
        .flatten()
        .any(|view| view.leader.is_some() || view.normal);
    assert!(!leads, "somebody leads without the lock: {views:#?}");
    let begin = Instant::now();
    holder.kill()?;
    holder.wait()?;
    let all = [0, 1, 2];
    let healthy = |views: &[View]| agree(views) && views.iter().all(|view| view.is_healthy(&all));
    let took = watch.until(&all, begin, LIMIT, healthy);
    table.note(
        "cluster lock held by another, released",
        "all OK",
        20.0,
        took,
    );
    Ok(())
}

/// Longer than a healthy start takes.
const WITHOUT_LEADER: Duration = Duration::from_secs(8);
