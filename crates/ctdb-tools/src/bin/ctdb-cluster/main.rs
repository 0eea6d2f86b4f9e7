//! `ctdb-cluster`: a CTDB cluster on this machine, in one command and without root.
#![forbid(unsafe_code)]

mod args;
mod commands;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use args::Args;

fn main() -> ExitCode {
    match commands::run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "ctdb-cluster: {error}");
            ExitCode::FAILURE
        }
    }
}
