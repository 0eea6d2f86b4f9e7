//! Programs that the daemon starts: their environment, their output, their end.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ctdb_conf::LogLevel;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tracing::{error, warn};

use crate::log;

/// Time between the request to end and the order to do so.
const GRACE: Duration = Duration::from_secs(5);

/// Longest line that is logged in one piece.
const LINE_LIMIT: usize = 1024;

/// Variables that all children get on top of the environment of the daemon (config.md 4). The
/// daemon does not put them into its own: that cannot be done safely once there are threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChildEnvironment(Vec<(&'static str, OsString)>);

impl ChildEnvironment {
    /// Adds a variable.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// A program with this environment, nothing on its standard input and a process group of its
    /// own, so that it can be ended together with what it starts.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.envs(self.0.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).process_group(0);
        command
    }
}

/// A pipe for the output of a child: the end that we read, and both ends for the child.
pub(crate) fn output_pipe() -> std::io::Result<(pipe::Receiver, Stdio, Stdio)> {
    let (reader, writer) = std::io::pipe()?;
    let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    Ok((reader, writer.try_clone()?.into(), writer.into()))
}

/// A child that is killed, with its process group, unless its end has been waited for.
#[derive(Debug)]
pub(crate) struct Group(Child);

impl Group {
    /// Takes charge of a child that leads its process group.
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }

    /// The process, for waiting.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Process id of the leader; `None` after its end.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.0.id()
    }

    /// Sends a signal to the whole group, unless its leader has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended this moment; then there is nothing left to do.
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }

    /// Asks the group to end, waits a little, then kills it.
    pub(crate) async fn terminate(mut self) {
        self.signal(Signal::SIGTERM);
        let _ = tokio::time::timeout(GRACE, self.0.wait()).await;
        self.signal(Signal::SIGKILL);
        let _ = self.0.wait().await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Runs the notification script in the background (events.md 2.4). Nobody waits for it.
pub(crate) fn notify(
    environment: &ChildEnvironment,
    script: &Path,
    event: &'static str,
    output_level: LogLevel,
) {
    if !script.exists() {
        let script = script.display();
        return warn!("Could not stat notification script {script}. Can not send notifications.");
    }
    run_unattended(
        environment,
        "notification script",
        script,
        &[OsStr::new(event)],
        output_level,
    );
}

/// Starts a script whose output goes into the log, and whose end nobody waits for. `what` names
/// its purpose, for the log.
pub(crate) fn run_unattended(
    environment: &ChildEnvironment,
    what: &'static str,
    script: &Path,
    arguments: &[&OsStr],
    output_level: LogLevel,
) {
    let started = output_pipe().and_then(|(output, stdout, stderr)| {
        let mut command = environment.command(script);
        let child = command
            .args(arguments)
            .stdout(stdout)
            .stderr(stderr)
            .spawn()?;
        Ok((child, output))
    });
    match started {
        Ok((mut child, output)) => {
            let mut script = script.display().to_string();
            for argument in arguments {
                script.push(' ');
                script.push_str(&argument.to_string_lossy());
            }
            tokio::spawn(async move {
                log_output("", output, output_level).await;
                match child.wait().await {
                    Ok(status) if status.success() => {}
                    Ok(status) => error!("{what} \"{script}\": {status}"),
                    Err(error) => error!("{what} \"{script}\": {error}"),
                }
            });
        }
        Err(error) => error!("cannot run {what} {}: {error}", script.display()),
    }
}

/// Logs what a child writes, line by line, until it closes its end. Returns then.
pub(crate) async fn log_output(prefix: &str, mut output: impl AsyncRead + Unpin, level: LogLevel) {
    let mut pending = Vec::new();
    loop {
        match output.read_buf(&mut pending).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {
                let whole = pending
                    .iter()
                    .rposition(|&byte| byte == b'\n')
                    .map_or(0, |at| at + 1);
                log_lines(prefix, pending.drain(..whole).as_slice(), level);
                if pending.len() >= LINE_LIMIT {
                    log_lines(prefix, &pending, level);
                    pending.clear();
                }
            }
        }
    }
    log_lines(prefix, &pending, level);
}

/// Logs text line by line, without the empty lines.
pub(crate) fn log_lines(prefix: &str, text: &[u8], level: LogLevel) {
    for line in text.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.is_empty() {
            log::line_at(level, &format!("{prefix}{}", String::from_utf8_lossy(line)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(pid: u32) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        // A zombie that its new parent has not collected yet is as good as gone.
        state.is_ok_and(|text| !text.contains(") Z"))
    }

    #[tokio::test]
    async fn a_group_that_is_dropped_is_killed_with_its_grandchildren() {
        let (mut reader, out, err) = output_pipe().unwrap();
        let mut command = ChildEnvironment::default().command(Path::new("/bin/sh"));
        command
            .args(["-c", "sleep 600 & echo $!; wait"])
            .stdout(out)
            .stderr(err);
        let group = Group::new(command.spawn().unwrap());
        let mut text = [0; 32];
        let length = reader.read(&mut text).await.unwrap();
        let text = std::str::from_utf8(&text[..length]).unwrap();
        let grandchild: u32 = text.trim().parse().unwrap();
        assert!(alive(grandchild));
        drop(group);
        for _ in 0..500 {
            if !alive(grandchild) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("process {grandchild} is still alive");
    }

    #[tokio::test]
    async fn a_child_gets_the_extra_variables() {
        let environment = ChildEnvironment::default().with("CTDB_BASE", "/some/where");
        let mut command = environment.command(Path::new("/bin/sh"));
        command.args([
            "-c",
            "test \"$CTDB_BASE\" = /some/where && test -n \"$PATH\"",
        ]);
        assert!(command.status().await.unwrap().success());
    }
}
