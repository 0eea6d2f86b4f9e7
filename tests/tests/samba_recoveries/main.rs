//! Story: clients of three smbd work on one folder while the cluster recovers every five seconds.
//! No operation fails, no content is lost or mixed up, locks and share modes hold across the nodes,
//! and the logs tell of nothing but the recoveries.
//!
//! Six clients stay connected and check all that they read; smbtorture takes oplocks away beside
//! them. It takes a minute; `CTDB_E2E_RECOVERIES_SECONDS=300` lets it run for five.

mod load;
mod logs;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ctdb_e2e::{Samba, TestCluster, TestResult, step};
use ctdb_tools::local_cluster::Cluster;

use load::{Bench, Counter, Files, Worker};
use logs::Logs;

/// From one forced recovery to the next.
const PACE: Duration = Duration::from_secs(5);

#[test]
fn clients_do_not_notice_recoveries() -> TestResult {
    let length = Duration::from_secs(seconds()?);
    let cluster = TestCluster::healthy()?;
    let samba = Samba::start(&cluster)?;
    step("smbd serves on every node");
    let logs = Logs::of(&cluster, &samba);
    let run = Run::until(Instant::now() + length);
    work_and_recover(&cluster, &samba, &run)?;
    logs.tell_of_nothing_else();
    Ok(())
}

fn seconds() -> TestResult<u64> {
    match std::env::var("CTDB_E2E_RECOVERIES_SECONDS") {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(60),
    }
}

/// What the threads share.
struct Run {
    end: Instant,
    failed: AtomicBool,
}

impl Run {
    fn until(end: Instant) -> Self {
        let failed = AtomicBool::new(false);
        Self { end, failed }
    }

    /// The end has come, or somebody has failed.
    fn is_over(&self) -> bool {
        Instant::now() >= self.end || self.failed.load(Ordering::Relaxed)
    }

    /// Repeats `round` to the end; counts the rounds.
    fn repeat(&self, mut round: impl FnMut() -> Result<(), String>) -> Result<u64, String> {
        let mut rounds = 0;
        while !self.is_over() {
            let done = round();
            if done.is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            done?;
            rounds += 1;
        }
        Ok(rounds)
    }
}

fn work_and_recover(cluster: &Cluster, samba: &Samba, run: &Run) -> TestResult {
    let folder = tempfile::tempdir()?;
    let counter = AtomicU64::new(0);
    let mut workers: Vec<Worker<'_>> = Vec::new();
    for node in 0..3 {
        let own = folder.path().join(format!("counter.{node}"));
        workers.push(Worker::Counter(Counter::new(samba, node, own, &counter)?));
        let own = folder.path().join(format!("files.{node}"));
        workers.push(Worker::Files(Files::new(samba, node, own)?));
    }
    workers.push(Worker::Bench(Bench::new(samba)));
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                let name = worker.name();
                (name, scope.spawn(|| run.repeat(|| worker.round())))
            })
            .collect();
        let recoveries = force_recoveries(cluster, run);
        let join = |(name, thread): (String, thread::ScopedJoinHandle<'_, _>)| {
            let result = thread.join().expect("a worker fails with an error");
            (name, result)
        };
        let recovered = ("recoveries".to_owned(), recoveries);
        threads.into_iter().map(join).chain([recovered]).collect()
    });
    judge(&results);
    Ok(())
}

/// Each node in turn is asked for one.
fn force_recoveries(cluster: &Cluster, run: &Run) -> Result<u64, String> {
    let mut nodes = cluster.nodes().iter().cycle();
    run.repeat(|| {
        let begun = Instant::now();
        let node = nodes.next().ok_or("there are no nodes")?;
        let output = node.ctdb(["recover"]).map_err(|error| error.to_string())?;
        if !output.success() {
            return Err(format!("ctdb recover on node {}: {output:?}", node.pnn()));
        }
        while begun.elapsed() < PACE && !run.is_over() {
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    })
}

/// Nobody has failed, and everybody has done something.
fn judge(results: &[(String, Result<u64, String>)]) {
    for (name, result) in results {
        step(&format!("{name}: {result:?}"));
    }
    for (name, result) in results {
        let rounds = result.as_ref().copied();
        assert!(rounds.is_ok_and(|rounds| rounds > 0), "{name}: {result:?}");
    }
}
