//! `ctdb_bench`: what a running cluster can do, measured through the sockets of its daemons.
//!
//! Speaks to any CTDB daemon as a client would. For each kind of work it prints how often it was
//! done in a second and what each time cost all the daemons together in processor time.
#![forbid(unsafe_code)]

mod measure;
mod rings;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ctdb_tools::blocking::{ClientError, Connection};

use measure::{Daemons, Measured};

/// Measures messages, migrations and calls of a running CTDB cluster.
#[derive(Debug, Parser)]
#[command(name = "ctdb_bench", version)]
struct Args {
    /// Socket of the daemon of each node, in the order of the ring
    #[arg(required = true)]
    sockets: Vec<PathBuf>,

    /// How long each kind of work goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,

    /// Messages on their way at the same time, in the second of the message rings
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    window: u32,

    /// Only the kinds of work whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,

    /// Print a line for each kind of work, its fields separated by tabs and without a head
    #[arg(long)]
    tsv: bool,
}

/// Records that are on their way at the same time.
const RECORDS: usize = 8;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "ctdb_bench: {error}");
            ExitCode::FAILURE
        }
    }
}

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn run(args: &Args) -> Result<()> {
    let limit = Duration::try_from_secs_f64(args.seconds)?;
    let connect = || -> Result<Vec<Connection>, ClientError> {
        args.sockets
            .iter()
            .map(|socket| Connection::connect(socket))
            .collect()
    };
    let daemons = Daemons::of(&mut connect()?)?;
    let mut out = io::stdout().lock();
    if !args.tsv {
        writeln!(
            out,
            "{:<28} {:>10} {:>14}",
            "work", "per second", "CPU us each"
        )?;
    }
    let works: [(&str, &dyn Fn() -> Result<u64>); 5] = [
        ("message ring, 1 on the way", &|| {
            rings::messages(connect()?, limit, 1)
        }),
        ("message ring, many", &|| {
            rings::messages(connect()?, limit, args.window)
        }),
        ("record round the ring", &|| {
            rings::record(connect()?, limit)
        }),
        ("records round the ring, many", &|| {
            let rings = (0..RECORDS).map(|_| connect()).collect::<Result<_, _>>()?;
            rings::records(rings, limit)
        }),
        ("local call", &|| rings::local_calls(connect()?, limit)),
    ];
    for (name, work) in works {
        if !name.contains(&args.only) {
            continue;
        }
        let measured = daemons.measure(work)?;
        let Measured { rate, cpu } = measured;
        if args.tsv {
            writeln!(out, "{name}\t{rate:.0}\t{cpu:.2}")?;
        } else {
            writeln!(out, "{name:<28} {rate:>10.0} {cpu:>14.2}")?;
        }
    }
    Ok(())
}
