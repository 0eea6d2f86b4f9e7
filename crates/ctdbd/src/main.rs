//! `ctdbd`, the daemon of a CTDB node.
//!
//! Decisions are made by [`ctdb_core::Node`]; this crate is what surrounds it. Read
//! [`start`] for how the daemon comes to life, then [`core_task`] for how it lives.
//!
//! | module | owns |
//! |---|---|
//! | [`start`], [`settings`], [`arguments`], [`background`], [`pid_file`], [`listen`] | the start |
//! | [`core_task`], [`stalls`], [`event`], [`lanes`] | the loop around the node, and the ways into it |
//! | [`socket`], [`connection`], [`peer`], [`client`], [`unanswered`] | sockets |
//! | [`database`], [`databases`], [`threads`] | TDB files, and the threads that wait for them |
//! | [`children`], [`scripts`], [`cluster_lock`] | child processes |
//! | [`log`], [`signals`] | the log; what the daemon is told from outside |
#![forbid(unsafe_code)]

mod arguments;
mod background;
mod children;
mod client;
mod cluster_lock;
mod connection;
mod core_task;
mod database;
mod databases;
mod event;
mod lanes;
mod listen;
mod log;
mod nodes_list;
mod peer;
mod pid_file;
mod scripts;
mod settings;
mod signals;
mod socket;
mod stalls;
mod start;
mod threads;
mod unanswered;

use std::io::{self, Write};
use std::process::ExitCode;

use arguments::{Arguments, HELP, USAGE};

fn main() -> ExitCode {
    let words = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned());
    match Arguments::parse(words) {
        Arguments::Help => print(HELP, ExitCode::SUCCESS),
        Arguments::Usage => print(USAGE, ExitCode::SUCCESS),
        Arguments::Wrong(None) => print(HELP, ExitCode::FAILURE),
        Arguments::Wrong(Some(message)) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
        Arguments::Run { interactive } => match start::run(interactive) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("{failure}");
                ExitCode::from(failure.code())
            }
        },
    }
}

fn print(text: &str, code: ExitCode) -> ExitCode {
    // A closed pipe is no reason to complain.
    let _ = io::stdout().write_all(text.as_bytes());
    code
}
