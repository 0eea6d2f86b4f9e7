//! The nodes list as the tool reads it by itself, without the daemon (`cli.md` 6.3).

use std::fs;
use std::io;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use ctdb_conf::{
    CommandLine, Config, LogLevel, NodeEntry, NodesList, NodesSource, Paths, RealFiles,
    UnknownEntries,
};

use crate::exit::Failure;

/// Reads the nodes list from where `ctdb.conf` says.
pub(crate) fn read(paths: &Paths) -> Result<Vec<NodeEntry>, Failure> {
    let source = load_config(paths)?.nodes_source(paths);
    let failed = || format!("Failed to read nodes from \"{source}\"");
    let text = match &source {
        NodesSource::File(path) => fs::read(path).map_err(|_| Failure::new(failed()))?,
        NodesSource::Command(command) => run(command).map_err(|f| f.and(failed()))?,
    };
    let list = NodesList::parse(&String::from_utf8_lossy(&text));
    list.map(|list| list.entries)
        .map_err(|error| Failure::new(error.to_string()).and(failed()))
}

/// Reads `ctdb.conf`; without the file the defaults are in force.
///
/// The original reads it in every run and fails all commands when a value is wrong; only the nodes
/// list depends on it, so only commands that need the list do that here (`config.md` 1.4).
fn load_config(paths: &Paths) -> Result<Config, Failure> {
    let path = paths.config_file();
    let failed = |lines: Vec<String>| Failure::Failed { lines, code: 1 };
    let last_lines = || {
        let file = format!("Failed to load configuration file {}", path.display());
        [file, "Failed to load configuration".to_owned()]
    };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Config::defaults(paths));
        }
        Err(_) => return Err(failed(last_lines().into())),
    };
    let text = String::from_utf8_lossy(&text);
    let loaded = Config::parse(&text, paths, &RealFiles, UnknownEntries::Ignore);
    loaded.map(|loaded| loaded.config).map_err(|errors| {
        let errors = errors
            .0
            .into_iter()
            .filter(|remark| remark.level == LogLevel::ERROR);
        failed(
            errors
                .map(|remark| remark.text)
                .chain(last_lines())
                .collect(),
        )
    })
}

/// Output of a nodes command. Its exit status does not count, empty output does.
fn run(command: &CommandLine) -> Result<Vec<u8>, Failure> {
    let Some((program, arguments)) = command.words.split_first() else {
        return Err(Failure::silent(1));
    };
    // Without a slash the original looks in the working directory, not in PATH; std would search.
    let path = if program.contains('/') {
        program.clone()
    } else {
        format!("./{program}")
    };
    let mut child = Command::new(path);
    child
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    match child.output() {
        Ok(output) if output.stdout.is_empty() => Err(Failure::silent(1)),
        Ok(output) => Ok(output.stdout),
        Err(error) => {
            let reason = strerror(&error);
            let line = format!("sys_popenv: ERROR executing command '{program}': {reason}");
            Err(Failure::new(line))
        }
    }
}

/// The text of an operating system error without Rust's number behind it.
fn strerror(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// What a tool without a daemon says about this machine: nothing when an address of the nodes list
/// is one of ours (`cli.md` 1.3, step 4).
pub(crate) fn explain_missing_daemon(paths: &Paths) -> Vec<String> {
    const NOT_A_MEMBER: &str = "Is this node part of CTDB cluster?";
    let mut lines = match read(paths) {
        Ok(nodes) if nodes.iter().filter_map(NodeEntry::address).any(is_local) => {
            return Vec::new();
        }
        Ok(_) => vec!["Failed to detect PNN of the current node.".to_owned()],
        Err(Failure::Failed { lines, .. }) => lines,
        Err(_) => Vec::new(),
    };
    lines.push(NOT_A_MEMBER.to_owned());
    lines
}

/// Whether an interface of this machine has the address.
fn is_local(address: IpAddr) -> bool {
    let Ok(mut interfaces) = nix::ifaddrs::getifaddrs() else {
        return false;
    };
    interfaces.any(|interface| {
        interface.address.is_some_and(|found| match address {
            IpAddr::V4(v4) => found.as_sockaddr_in().is_some_and(|sin| sin.ip() == v4),
            IpAddr::V6(v6) => found.as_sockaddr_in6().is_some_and(|sin6| sin6.ip() == v6),
        })
    })
}
