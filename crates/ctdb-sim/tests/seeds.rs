//! Many clusters, each with its own faults all the while: no rule is ever broken, and each cluster
//! comes back when its faults end.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ctdb_sim::{Failure, Plan, Run, Summary};

const SEEDS: u64 = 2_000;
/// How long faults happen in each run.
const FAULTS: Duration = Duration::from_secs(60);

#[test]
fn no_seed_breaks_a_rule() {
    let (summaries, failures) = play_all();
    let sum = |of: fn(&Summary) -> u64| summaries.iter().map(of).sum::<u64>();
    let slowest = summaries.iter().map(|s| s.healed_after).max();
    // Not captured by the test harness: the log of CI shows it.
    let _ = writeln!(
        std::io::stderr(),
        "simulation: {SEEDS} seeds, {} failed; {} steps, {} packets, {} counts, {} commits; whole \
         again after {:.1} s at most",
        failures.len(),
        sum(|s| s.cost.steps),
        sum(|s| s.cost.packets),
        sum(|s| s.counted),
        sum(|s| s.committed),
        slowest.unwrap_or_default().as_secs_f64(),
    );
    let others: Vec<_> = failures.iter().map(|f| f.plan.seed).collect();
    if let Some(first) = failures.first() {
        panic!("{first}\nseeds that failed: {others:?}");
    }
    assert!(
        sum(|s| s.counted) > SEEDS * 100,
        "the clients did their work"
    );
    assert!(
        sum(|s| s.committed) > SEEDS * 10,
        "the clients did their work"
    );
}

/// All runs, on as many threads as there are processors.
fn play_all() -> (Vec<Summary>, Vec<Failure>) {
    let next = AtomicU64::new(0);
    let results = Mutex::new((Vec::new(), Vec::new()));
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        break;
                    }
                    let result = Run::new(Plan::of_seed(seed, FAULTS)).go();
                    let mut results = results.lock().expect("no thread panics");
                    match result {
                        Ok(summary) => results.0.push(summary),
                        Err(failure) => results.1.push(*failure),
                    }
                }
            });
        }
    });
    let (summaries, mut failures) = results.into_inner().expect("no thread panics");
    failures.sort_by_key(|failure| failure.plan.seed);
    (summaries, failures)
}
