//! The `ctdb` command: asks daemons and tells them what to do (`cli.md` 1 and 2).
//!
//! `main` parses the options, finds the subcommand in the table of [`usage`], connects
//! ([`context`]) and runs it. Each family of subcommands is one `cmd_*` file; each keeps what it
//! asks for apart from pure functions that make the text. [`exit`] turns results into statuses.
#![forbid(unsafe_code)]

mod arguments;
mod at_once;
mod backup_file;
mod cmd_admin;
mod cmd_backup;
mod cmd_database;
mod cmd_explain;
mod cmd_ip;
mod cmd_node;
mod cmd_offline;
mod cmd_record;
mod cmd_reloadnodes;
mod cmd_restore;
mod cmd_statistics;
mod cmd_status;
mod cmd_tdb_file;
mod cmd_transaction;
mod cmd_tunable;
mod context;
mod database;
mod disable;
mod exit;
mod explain_text;
mod node_flags;
mod nodes_list;
mod options;
mod output;
mod record_failure;
mod record_lines;
mod records;
mod replacement;
mod takeover_run;
mod times;
mod usage;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use ctdb_conf::number::c_decimal;
use ctdb_conf::{LogLevel, Paths};

use crate::arguments::Arguments;
use crate::context::Context;
use crate::exit::{Failure, Outcome, exit_status};
use crate::options::{CommandLine, Options};
use crate::output::{complain, print};
use crate::usage::Command;

fn main() -> ExitCode {
    let result = match options::parse(std::env::args_os().skip(1)) {
        Ok(CommandLine::Help) => print(usage::OPTION_HELP).map(|()| 0),
        Ok(CommandLine::Usage) => print(usage::OPTION_USAGE).map(|()| 0),
        Ok(CommandLine::Run(options)) => run(options),
        Err(error) => Err(Failure::new(error.to_string())),
    };
    let code = result.unwrap_or_else(|failure| {
        failure.report();
        failure.code()
    });
    ExitCode::from(exit_status(code))
}

/// Chooses the subcommand and runs it.
fn run(mut options: Options) -> Outcome {
    let limit = run_time_limit(&options)?;
    let words = std::mem::take(&mut options.words);
    let mut words = words.into_iter();
    let Some(name) = words.next() else {
        print(&usage::full_usage())?;
        return Ok(1);
    };
    let name = name.to_string_lossy();
    let command =
        usage::find(&name).ok_or_else(|| Failure::new(format!("Unknown command '{name}'")))?;
    let arguments = Arguments::new(words.collect());
    start_alarm(limit);
    let result = if command.needs_daemon {
        with_daemon(command, options, arguments)
    } else {
        without_daemon(command, &options, &arguments)
    };
    match result {
        Err(Failure::Usage) => {
            // `sync` is another name of `ipreallocate` and shows that one's usage.
            let shown = if command.name == "sync" {
                usage::find("ipreallocate")
            } else {
                None
            };
            print(&shown.unwrap_or(command).usage())?;
            Ok(1)
        }
        other => other,
    }
}

/// How long the whole run may take: `-T`, else `CTDB_TIMEOUT`, else two minutes. `None`: for ever.
fn run_time_limit(options: &Options) -> Result<Option<Duration>, Failure> {
    const DEFAULT_SECONDS: u64 = 120;
    let seconds = match (options.max_runtime, std::env::var_os("CTDB_TIMEOUT")) {
        (0, None) => DEFAULT_SECONDS,
        (0, Some(text)) => {
            let text = text.to_string_lossy();
            let number = c_decimal(&text);
            match number.magnitude {
                Some(seconds) if number.has_digits && !number.negative => seconds,
                _ => return Err(Failure::new("Invalid value CTDB_TIMEOUT")),
            }
        }
        (given, _) => u64::try_from(given).unwrap_or(0),
    };
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
}

/// Ends the run when its time is over, even while it waits for a lock of a database.
///
/// The original kills its whole process group, and so the script it was called from.
fn start_alarm(limit: Option<Duration>) {
    let Some(limit) = limit else {
        return;
    };
    thread::spawn(move || {
        thread::sleep(limit);
        complain("Maximum runtime exceeded - exiting");
        std::process::exit(1);
    });
}

fn without_daemon(command: &Command, options: &Options, arguments: &Arguments) -> Outcome {
    if options.node.is_some() {
        let line = format!("Cannot specify node for command {}", command.name);
        return Err(Failure::new(line));
    }
    match command.name {
        "version" => cmd_offline::version(),
        "listnodes" => cmd_offline::listnodes(&paths()?, options, arguments),
        "dumpdbbackup" => cmd_backup::dumpdbbackup(arguments),
        other => not_available(other),
    }
}

fn with_daemon(command: &Command, options: Options, arguments: Arguments) -> Outcome {
    if !is_built(command.name) {
        return not_available(command.name);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let paths = paths()?;
    let is_noticed = options.debug >= LogLevel::NOTICE;
    let result = runtime.block_on(async {
        let mut context = Context::connect(command, options, arguments, &paths).await?;
        let result = dispatch(command.name, &mut context, &paths).await;
        // What nobody answers must have left before this process ends. Whether it has makes no
        // difference to the result.
        let _ = context.client.flush().await;
        result
    });
    if is_noticed && matches!(result, Err(Failure::ConnectionClosed)) {
        complain("connection to daemon closed, exiting");
    }
    result
}

fn paths() -> Result<Paths, Failure> {
    Paths::from_env().map_err(|error| Failure::new(error.to_string()))
}

/// Whether [`dispatch`] knows the command; all others of the table come in later versions.
fn is_built(name: &str) -> bool {
    !matches!(
        name,
        "lvs"
            | "natgw"
            | "gratarp"
            | "gettickles"
            | "addtickle"
            | "deltickle"
            | "reloadips"
            | "moveip"
            | "addip"
            | "delip"
    )
}

fn not_available(name: &str) -> Outcome {
    Err(Failure::new(format!(
        "Command '{name}' is not available in this version yet"
    )))
}

/// Runs a subcommand that talks to the daemon.
async fn dispatch(name: &str, context: &mut Context, paths: &Paths) -> Outcome {
    match name {
        "status" => cmd_status::status(context).await,
        "nodestatus" => cmd_status::nodestatus(context).await,
        "leader" => cmd_status::leader(context).await,
        "pnn" => cmd_node::pnn(context),
        "ping" => cmd_node::ping(context).await,
        "getpid" => cmd_node::getpid(context).await,
        "uptime" => cmd_node::uptime(context).await,
        "runstate" => cmd_node::runstate(context).await,
        "getcapabilities" => cmd_node::getcapabilities(context).await,
        "getreclock" => cmd_node::getreclock(context).await,
        "dumpmemory" => cmd_node::dumpmemory(context).await,
        "rddumpmemory" => cmd_node::rddumpmemory(context).await,
        "getdebug" => cmd_node::getdebug(context).await,
        "setdebug" => cmd_node::setdebug(context).await,
        "process-exists" => cmd_node::process_exists(context).await,
        "setlmasterrole" => cmd_node::setlmasterrole(context).await,
        "setleaderrole" => cmd_node::setleaderrole(context).await,
        "getvar" => cmd_tunable::getvar(context).await,
        "setvar" => cmd_tunable::setvar(context).await,
        "listvars" => cmd_tunable::listvars(context).await,
        "statistics" => cmd_statistics::statistics(context).await,
        "dbstatistics" => cmd_statistics::dbstatistics(context).await,
        "stats" => cmd_statistics::stats(context).await,
        "statisticsreset" => cmd_statistics::statisticsreset(context).await,
        "ip" => cmd_ip::ip(context).await,
        "ipinfo" => cmd_ip::ipinfo(context).await,
        "ifaces" => cmd_ip::ifaces(context).await,
        "setifacelink" => cmd_ip::setifacelink(context).await,
        "ipreallocate" | "sync" => cmd_admin::ipreallocate(context).await,
        "disable" => cmd_admin::disable(context).await,
        "enable" => cmd_admin::enable(context).await,
        "stop" => cmd_admin::stop(context).await,
        "continue" => cmd_admin::continue_node(context).await,
        "ban" => cmd_admin::ban(context).await,
        "unban" => cmd_admin::unban(context).await,
        "shutdown" => cmd_admin::shutdown(context).await,
        "explain" => cmd_explain::explain(context).await,
        "reloadnodes" => cmd_reloadnodes::reloadnodes(context, paths).await,
        "recover" => cmd_admin::recover(context).await,
        "getdbmap" => cmd_database::getdbmap(context).await,
        "getdbstatus" => cmd_database::getdbstatus(context).await,
        "getdbseqnum" => cmd_database::getdbseqnum(context).await,
        "setdbreadonly" => cmd_database::setdbreadonly(context).await,
        "setdbsticky" => cmd_database::setdbsticky(context).await,
        "attach" => cmd_database::attach(context).await,
        "catdb" => cmd_record::catdb(context).await,
        "cattdb" => cmd_record::cattdb(context).await,
        "readkey" => cmd_record::readkey(context).await,
        "writekey" => cmd_record::writekey(context).await,
        "deletekey" => cmd_record::deletekey(context).await,
        "pfetch" => cmd_transaction::pfetch(context).await,
        "pstore" => cmd_transaction::pstore(context).await,
        "pdelete" => cmd_transaction::pdelete(context).await,
        "ptrans" => cmd_transaction::ptrans(context).await,
        "tfetch" => cmd_tdb_file::tfetch(context),
        "tstore" => cmd_tdb_file::tstore(context),
        "backupdb" => cmd_backup::backupdb(context).await,
        "restoredb" => cmd_restore::restoredb(context).await,
        "wipedb" => cmd_restore::wipedb(context).await,
        "detach" => cmd_database::detach(context).await,
        other => not_available(other),
    }
}
