//! Reads the nodes list from its file, or from the program that prints it (config.md 2.1): at the
//! start, and again when the node asks for it.
//!
//! A file may lie on a cluster file system that hangs, and a program may take its time: the list is
//! read by a thread that may wait, and a program for [`COMMAND_LIMIT`] at most. The original runs
//! the program in its event loop and waits for ever.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ctdb_conf::{CommandLine, NodeEntry, NodesList, NodesSource};
use ctdb_core::{ConfiguredNode, Ticket};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tracing::warn;

use crate::event::ShellEvent;
use crate::lanes::Lanes;
use crate::settings::one_line;
use crate::threads::Threads;

/// How long a program that lists the nodes may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// Longest output of such a program: room for more nodes than there are numbers in practice.
const OUTPUT_LIMIT: usize = 1024 * 1024;

/// Between two looks at a program.
const PAUSE: Duration = Duration::from_millis(2);

/// Why there is no nodes list.
#[derive(Debug, thiserror::Error)]
#[error("Failed to load nodes \"{source_name}\": {}", one_line(.details))]
pub(crate) struct NodesListError {
    /// The file, or the program with its `!`.
    source_name: String,
    details: String,
}

/// Reads the list while the daemon runs.
pub(crate) struct NodesReader {
    source: NodesSource,
    port: u16,
    threads: Threads,
}

impl NodesReader {
    /// `port`: that of all nodes.
    pub(crate) fn new(source: NodesSource, port: u16) -> Self {
        let threads = Threads::default();
        Self {
            source,
            port,
            threads,
        }
    }

    /// Has the list read; the result is reported as [`ShellEvent::NodesList`].
    pub(crate) fn read(&self, ticket: Ticket, lanes: &Lanes) {
        let (source, port, lanes) = (self.source.clone(), self.port, lanes.clone());
        self.threads.run(move || {
            let list = read(&source).map_err(|error| error.to_string());
            let result = list.map(|list| configured(&list, port));
            lanes.report(ShellEvent::NodesList { ticket, result });
        });
    }
}

fn configured(list: &[NodeEntry], port: u16) -> Vec<ConfiguredNode> {
    list.iter()
        .map(|node| configured_node(*node, port))
        .collect()
}

/// A line of the list with the port that all nodes have. A deleted node is at 0.0.0.0.
pub(crate) fn configured_node(node: NodeEntry, port: u16) -> ConfiguredNode {
    let ip = node.address().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    ConfiguredNode {
        addr: SocketAddr::new(ip, port),
        deleted: node.address().is_none(),
    }
}

/// Reads the list and waits for it.
pub(crate) fn read(source: &NodesSource) -> Result<Vec<NodeEntry>, NodesListError> {
    let failed = |details: String| NodesListError {
        source_name: source.to_string(),
        details,
    };
    let text = match source {
        NodesSource::File(path) => {
            std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?
        }
        NodesSource::Command(command) => output_of(command, COMMAND_LIMIT).map_err(failed)?,
    };
    let list = NodesList::parse(&text).map_err(|error| failed(error.to_string()))?;
    for warning in &list.warnings {
        warn!("{source}:{}: {warning}", warning.line);
    }
    Ok(list.entries)
}

/// Standard output of a program that lists the nodes. It must end well, say something, and not
/// take longer than `limit`; then it is killed.
fn output_of(command: &CommandLine, limit: Duration) -> Result<String, String> {
    let (program, arguments) = command.words.split_first().ok_or("no program is named")?;
    let deadline = Instant::now() + limit;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot run '{program}': {error}"))?;
    let output = read_all(child.stdout.take(), deadline);
    let output = output.and_then(|text| Some((text, end_of(&mut child, deadline)?)));
    let Some((text, status)) = output else {
        end_now(&mut child);
        let seconds = limit.as_secs_f64();
        return Err(format!(
            "'{program}' has not ended within {seconds} s, or says too much"
        ));
    };
    if !status.success() {
        return Err(format!("'{program}': {status}"));
    }
    match String::from_utf8(text) {
        Ok(text) if text.is_empty() => Err(format!("'{program}' says nothing")),
        Ok(text) => Ok(text),
        Err(error) => Err(format!("'{program}': {error}")),
    }
}

/// What comes until the other end is closed; `None` when that takes too long, is too much, or cannot
/// be read. Without a thread: at the start the daemon must not have a second one yet.
fn read_all(output: Option<ChildStdout>, deadline: Instant) -> Option<Vec<u8>> {
    let mut output = output?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
    let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match output.read(&mut chunk) {
            Ok(0) => return Some(text),
            Ok(length) if text.len() < OUTPUT_LIMIT => text.extend(chunk.iter().take(length)),
            Err(error) if is_for_later(&error) && Instant::now() < deadline => {
                thread::sleep(PAUSE);
            }
            _ => return None,
        }
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// The exit status, if the program ends in time.
fn end_of(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(PAUSE),
            _ => return None,
        }
    }
}

/// Ends a program that has not been waited for, and what it has started.
fn end_now(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn output(line: &str, limit: Duration) -> Result<String, String> {
        output_of(&CommandLine::parse(line).unwrap(), limit)
    }

    #[test]
    fn a_program_can_list_the_nodes() {
        let text = output("!/bin/echo 10.0.0.1", LIMIT);
        assert_eq!(text, Ok("10.0.0.1\n".to_owned()));
    }

    #[test]
    fn a_program_that_fails_or_says_nothing_lists_no_nodes() {
        for line in ["!/bin/false", "!/bin/true", "! ", "!/no/such/program"] {
            assert!(output(line, LIMIT).is_err(), "{line}");
        }
    }

    #[test]
    fn a_program_that_talks_for_ever_is_not_listened_to() {
        let started = Instant::now();
        let error = output("!/usr/bin/yes 10.0.0.1", LIMIT).unwrap_err();
        assert!(error.contains("says too much"), "{error}");
        assert!(started.elapsed() < LIMIT);
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_what_it_started() {
        let started = Instant::now();
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("list");
        std::fs::write(&script, "sleep 1000 &\necho $! >\"$0.pid\"\n").unwrap();
        let line = format!("!/bin/sh {}", script.display());
        let error = output(&line, Duration::from_secs(2)).unwrap_err();
        assert_eq!(
            error,
            "'/bin/sh' has not ended within 2 s, or says too much"
        );
        assert!(started.elapsed() < LIMIT);
        let pid = std::fs::read_to_string(dir.path().join("list.pid")).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z"));
        while runs() {
            assert!(started.elapsed() < LIMIT, "the sleep goes on");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let source = NodesSource::File("/no/such/nodes".into());
        let error = read(&source).unwrap_err().to_string();
        let start = "Failed to load nodes \"/no/such/nodes\": ";
        assert!(error.starts_with(start), "{error}");
    }
}
