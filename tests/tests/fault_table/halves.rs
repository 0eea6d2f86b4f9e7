//! Writers on all nodes while the cluster is in halves, with a cluster lock: after the half with
//! the lock has recovered nobody writes in the other one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ctdb_client::Client;
use ctdb_e2e::{TestResult, in_runtime, is_ours};
use ctdb_proto::DbFlags;

use crate::stage::{LIMIT, Stage, Table};

pub(crate) fn half_without_lock_writes_nothing(table: &Table) -> TestResult {
    let stage = Stage::healthy(true)?;
    let (leader, followers) = stage.roles();
    let rest = crate::deaths::sorted([leader, followers[0]]);
    halves(
        table,
        &stage,
        &rest,
        &followers[1..],
        "half of one node without the cluster lock",
    )
}

pub(crate) fn half_with_lock_goes_on_alone(table: &Table) -> TestResult {
    let stage = Stage::healthy(true)?;
    let (leader, followers) = stage.roles();
    halves(
        table,
        &stage,
        &[leader],
        &followers,
        "half of two nodes without the cluster lock",
    )
}

fn halves(
    table: &Table,
    stage: &Stage,
    with: &[usize],
    without: &[usize],
    fault: &'static str,
) -> TestResult {
    let writers: Vec<Writer> = (0..3)
        .map(|pnn| Writer::start(stage.at(pnn).socket()))
        .collect();
    thread::sleep(Duration::from_secs(1));
    let begin = Instant::now();
    for (&a, &b) in with
        .iter()
        .flat_map(|a| without.iter().map(move |b| (a, b)))
    {
        stage.network.cut(a, b)?;
    }
    let recovered = stage.recovered(with, begin);
    let recovered_at = Instant::now();
    table.note(fault, "the other half has recovered", 30.0, recovered);
    thread::sleep(Duration::from_secs(10));
    let healed_at = Instant::now();
    let late = |pnn: &usize| writers[*pnn].writes_between(recovered_at, healed_at);
    let last = |pnn: &usize| writers[*pnn].last_before(healed_at);
    let last = without.iter().filter_map(last).max().map(|at| at - begin);
    table.note(fault, "its last write", None, last.or(Some(Duration::ZERO)));
    assert!(
        with.iter().all(|pnn| late(pnn) > 0),
        "the half with the lock does not work"
    );
    let wrong: usize = without.iter().map(late).sum();
    assert!(
        wrong == 0 || !is_ours(),
        "{wrong} writes in the half without the lock"
    );
    stage.network.heal()?;
    table.note(fault, "healed, all OK", 10.0, stage.whole(healed_at));
    let begin = Instant::now();
    let works = |writer: &Writer| writer.writes_between(healed_at, Instant::now()) > 0;
    while !writers.iter().all(works) {
        assert!(begin.elapsed() < LIMIT, "a writer does not come back");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Somebody who changes a few records on one node, again and again.
struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    /// When a write was done.
    done: Mutex<Vec<Instant>>,
}

impl Writer {
    fn start(socket: PathBuf) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                in_runtime(async {
                    while !shared.ended.load(Ordering::Relaxed) {
                        let _ = shared.work(&socket).await;
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                });
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    fn writes_between(&self, from: Instant, to: Instant) -> usize {
        let done = self
            .shared
            .done
            .lock()
            .expect("nobody panics while holding it");
        done.iter().filter(|at| **at > from && **at < to).count()
    }

    fn last_before(&self, moment: Instant) -> Option<Instant> {
        let done = self
            .shared
            .done
            .lock()
            .expect("nobody panics while holding it");
        done.iter().copied().filter(|at| *at < moment).max()
    }
}

impl Shared {
    async fn work(&self, socket: &Path) -> TestResult {
        let client = Client::connect(socket).await?;
        let database = client.attach("halves.tdb", DbFlags::empty()).await?;
        for number in 0_u32.. {
            if self.ended.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("record {}", number % 7);
            // A call that hangs is left alone: its record is elsewhere.
            let change = async {
                let mut record = database.fetch_lock(key).await?;
                record.store(number.to_string()).await?;
                TestResult::Ok(())
            };
            if tokio::time::timeout(Duration::from_secs(1), change)
                .await
                .is_ok_and(|r| r.is_ok())
            {
                let now = Instant::now();
                self.done
                    .lock()
                    .expect("nobody panics while holding it")
                    .push(now);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
