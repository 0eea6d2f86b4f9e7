//! Programs that the daemon starts: their environment, their output, their end.
//!
//! Starting one takes as long as its file system does: it is done by threads, see [`InTurn`].

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ctdb_conf::LogLevel;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tracing::{error, warn};

use crate::log;
use crate::threads::InTurn;

/// Time between the request to end and the order to do so.
const GRACE: Duration = Duration::from_secs(5);

/// Scripts that run, or wait for being started, though nobody waits for them. More are not run.
const UNATTENDED_LIMIT: usize = 32;

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
pub(crate) fn output_pipe() -> io::Result<(pipe::Receiver, Stdio, Stdio)> {
    let (reader, writer) = io::pipe()?;
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

/// Runs scripts that nobody waits for. Their output goes into the log.
pub(crate) struct Unattended {
    environment: ChildEnvironment,
    output_level: LogLevel,
    starts: InTurn,
    places: Arc<Semaphore>,
}

/// A script that nobody waits for.
#[derive(Debug)]
pub(crate) struct Errand {
    /// Its purpose, for the log.
    pub(crate) what: &'static str,
    pub(crate) script: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// What to say if there is no such script.
    pub(crate) if_missing: Option<String>,
}

impl Unattended {
    pub(crate) fn new(environment: ChildEnvironment, output_level: LogLevel) -> Self {
        Self {
            environment,
            output_level,
            starts: InTurn::default(),
            places: Arc::new(Semaphore::new(UNATTENDED_LIMIT)),
        }
    }

    /// Runs the notification script (events.md 2.4).
    pub(crate) fn notify(&self, script: &Path, event: &'static str) {
        let name = script.display();
        let if_missing =
            format!("Could not stat notification script {name}. Can not send notifications.");
        self.run(Errand {
            what: "notification script",
            script: script.to_owned(),
            arguments: vec![event.into()],
            if_missing: Some(if_missing),
        });
    }

    pub(crate) fn run(&self, errand: Errand) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return error!("{errand}: too many scripts run or wait");
        };
        let (environment, level) = (self.environment.clone(), self.output_level);
        let starts = self.starts.clone();
        tokio::spawn(async move {
            if let Err(error) = errand.run(starts, environment, level).await {
                error!("{errand}: {error}");
            }
            drop(place);
        });
    }
}

impl Errand {
    async fn run(
        &self,
        starts: InTurn,
        environment: ChildEnvironment,
        output_level: LogLevel,
    ) -> io::Result<()> {
        let (script, arguments) = (self.script.clone(), self.arguments.clone());
        let started = starts.run(move || {
            if !script.exists() {
                return Ok(None);
            }
            let (output, stdout, stderr) = output_pipe()?;
            let mut command = environment.command(&script);
            let child = command
                .args(arguments)
                .stdout(stdout)
                .stderr(stderr)
                .spawn()?;
            Ok(Some((child, output)))
        });
        let Some((mut child, output)) = started.await? else {
            if let Some(text) = &self.if_missing {
                warn!("{text}");
            }
            return Ok(());
        };
        log_output("", output, output_level).await;
        match child.wait().await? {
            status if status.success() => Ok(()),
            status => Err(io::Error::other(status.to_string())),
        }
    }
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}", self.what, self.script.display())?;
        for argument in &self.arguments {
            write!(f, " {}", argument.to_string_lossy())?;
        }
        f.write_str("\"")
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

    /// Waits until a file has so many lines.
    async fn lines(path: &Path, count: usize) -> String {
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if text.lines().count() >= count {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn so_many_scripts_run_unattended_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let (go, out) = (dir.path().join("go"), dir.path().join("out"));
        let environment = ChildEnvironment::default()
            .with("GO", &go)
            .with("OUT", &out);
        let unattended = Unattended::new(environment, LogLevel::ERROR);
        let script = dir.path().join("script");
        std::fs::write(
            &script,
            "echo $1 >>$OUT; while test ! -e $GO; do sleep 0.02; done",
        )
        .unwrap();
        let run = |program: &str, word: &str| {
            unattended.run(Errand {
                what: "test script",
                script: program.into(),
                arguments: vec![script.clone().into(), word.into()],
                if_missing: None,
            });
        };
        for _ in 0..UNATTENDED_LIMIT {
            run("/bin/sh", "first");
        }
        lines(&out, UNATTENDED_LIMIT).await;
        run("/bin/sh", "too many");
        std::fs::write(&go, "").unwrap();
        while unattended.places.available_permits() < UNATTENDED_LIMIT {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        run("/no/such/script", "missing");
        run("/bin/sh", "last");
        let text = lines(&out, UNATTENDED_LIMIT + 1).await;
        assert!(text.ends_with("first\nlast\n"), "{text}");
    }
}
