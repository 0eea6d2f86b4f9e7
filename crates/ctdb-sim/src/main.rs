//! Plays one run of the simulator: `cargo run -p ctdb-sim -- --seed 42 --trace`.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ctdb_sim::{Plan, Run};

/// Plays one run of the simulated cluster, or several.
#[derive(Parser)]
struct Arguments {
    /// All chance of the run comes from this number
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds to play, this one and those that follow
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Nodes of the cluster; without it the seed decides
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=1000))]
    nodes: Option<u32>,
    /// Virtual minutes in which faults happen
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Whether there is a cluster lock; without this the seed decides
    #[arg(long)]
    lock: Option<bool>,
    /// Show the timeline
    #[arg(long)]
    trace: bool,
}

impl Arguments {
    fn plan(&self, seed: u64) -> Plan {
        let faults = Duration::from_secs_f64(self.minutes * 60.0);
        let plan = Plan::of_seed(seed, faults);
        Plan {
            nodes: self.nodes.unwrap_or(plan.nodes),
            cluster_lock: self.lock.unwrap_or(plan.cluster_lock),
            ..plan
        }
    }
}

fn main() -> ExitCode {
    match play(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        // Nobody reads any more.
        Err(_) => ExitCode::from(2),
    }
}

/// How many runs broke a rule.
fn play(arguments: &Arguments) -> io::Result<u64> {
    let mut broken = 0;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let mut run = Run::new(arguments.plan(seed));
        if arguments.trace {
            run.trace().show(|line| {
                let _ = writeln!(io::stdout(), "{line}");
            });
        }
        match run.go() {
            Ok(summary) => writeln!(io::stdout(), "seed {seed}: {summary:?}")?,
            Err(failure) => {
                broken += 1;
                if arguments.trace {
                    writeln!(io::stdout(), "at {:?}: {}", failure.at, failure.what)?;
                } else {
                    writeln!(io::stdout(), "{failure}")?;
                }
            }
        }
    }
    Ok(broken)
}
