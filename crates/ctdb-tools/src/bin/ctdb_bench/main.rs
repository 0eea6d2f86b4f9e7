//! `ctdb_bench`: what a running cluster can do, measured through the sockets of its daemons.
//!
//! Speaks to any CTDB daemon as a client would. For each kind of work it prints how often it was
//! done in a second, what each time cost in processor time, and how long it took: the time that
//! half of all, and that 99 of 100, did not exceed.
#![forbid(unsafe_code)]

mod measure;
mod messages;
mod records;
mod recovery;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ctdb_tools::blocking::{ClientError, Connection};

use measure::{Latencies, Measured, Processes};
use messages::{Way, messages};
use records::{local_calls, migrations};

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

    /// Only the kinds of work whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,

    /// Instead fill a database with that many records and recover the cluster: seconds, and how
    /// much larger the daemons became than before the database was filled
    #[arg(long, value_name = "RECORDS")]
    recovery: Option<u32>,

    /// Print a line for each kind of work, its fields separated by tabs and without a head
    #[arg(long)]
    tsv: bool,
}

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
type Work<'a> = &'a dyn Fn() -> Result<Latencies>;

fn run(args: &Args) -> Result<()> {
    let limit = Duration::try_from_secs_f64(args.seconds)?;
    let connect = || -> Result<Vec<Connection>, ClientError> {
        let sockets = args.sockets.iter();
        sockets.map(|socket| Connection::connect(socket)).collect()
    };
    if let Some(records) = args.recovery {
        return recovery::recoveries(connect()?, records);
    }
    let processes = Processes::of(&mut connect()?)?;
    let send = |window, way| messages(connect()?, limit, window, way);
    let fetch = |records, visitors| migrations(connect()?, limit, records, visitors);
    let call = |window| local_calls(connect()?, limit, window);
    let nodes = args.sockets.len();
    let works: [(&str, Work<'_>); 10] = [
        ("messages round the ring, 1", &|| send(1, Way::Ring)),
        ("messages round the ring, 64", &|| send(64, Way::Ring)),
        ("messages to one node, 1 of each", &|| {
            send(nodes - 1, Way::ToFirst)
        }),
        ("messages to one node, 64", &|| send(64, Way::ToFirst)),
        ("migrations, 1 record", &|| fetch(1, 1)),
        ("migrations, 64 records", &|| fetch(64, 1)),
        ("contended migrations, 1 of each", &|| fetch(1, nodes)),
        ("contended migrations, 64", &|| fetch(8, 8)),
        ("local calls, 1 of each", &|| call(nodes)),
        ("local calls, 64", &|| call(64)),
    ];
    if !args.tsv {
        let head = ["per second", "daemons us", "client us", "p50 us", "p99 us"];
        print("work", head.map(str::to_owned))?;
    }
    for (name, work) in works {
        if name.contains(&args.only) {
            report(name, &processes.measure(work)?, args.tsv)?;
        }
    }
    Ok(())
}

fn report(name: &str, measured: &Measured, tsv: bool) -> Result<()> {
    let Measured {
        rate,
        daemons,
        client,
        p50,
        p99,
    } = measured;
    if !tsv {
        let times = [daemons, client, p50, p99].map(|time| format!("{time:.2}"));
        let [daemons, client, p50, p99] = times;
        return print(name, [format!("{rate:.0}"), daemons, client, p50, p99]);
    }
    writeln!(
        io::stdout(),
        "{name}\t{rate:.0}\t{daemons:.2}\t{client:.2}\t{p50:.1}\t{p99:.1}"
    )?;
    Ok(())
}

fn print(name: &str, columns: [String; 5]) -> Result<()> {
    let [rate, daemons, client, p50, p99] = columns;
    writeln!(
        io::stdout(),
        "{name:<32} {rate:>10} {daemons:>10} {client:>10} {p50:>10} {p99:>10}"
    )?;
    Ok(())
}
