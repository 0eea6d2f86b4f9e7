//! One daemon of a local cluster.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use super::command::{CommandOutput, run_to_end};
use super::error::{Error, Result};
use super::process::{Process, Signal};
use super::wait::wait_until;

/// A node: its folder, its address and the programs that run it. The daemon may or may not run.
#[derive(Debug)]
pub struct Node {
    pnn: usize,
    address: Ipv4Addr,
    base: PathBuf,
    ctdbd: PathBuf,
    /// The `ctdb` tool.
    tool: PathBuf,
    /// Program and arguments that run the daemon's program, if it is not run directly.
    launcher: Vec<String>,
    /// Further environment of the daemon.
    env: Vec<(String, String)>,
    /// Give the daemon a pipe from us as standard input: in test mode it ends when the pipe does,
    /// so that it does not outlive us, however we end.
    tied: bool,
    stdin: Option<ChildStdin>,
}

impl Node {
    pub(super) fn new(
        pnn: usize,
        address: Ipv4Addr,
        base: PathBuf,
        ctdbd: PathBuf,
        tool: PathBuf,
    ) -> Self {
        Self {
            pnn,
            address,
            base,
            ctdbd,
            tool,
            launcher: Vec::new(),
            env: Vec::new(),
            tied: false,
            stdin: None,
        }
    }

    pub(super) fn tie(&mut self) {
        self.tied = true;
    }

    /// Has this program, which must become the daemon's by `exec`, start it from now on:
    /// `nsenter --net=...` for one in a network of its own.
    pub fn set_launcher(&mut self, launcher: &[&str]) {
        self.launcher = launcher.iter().map(|&word| word.to_owned()).collect();
    }

    /// Adds to the environment in which the daemon is started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Runs this program as the daemon from the next start on.
    pub fn set_ctdbd(&mut self, ctdbd: &Path) {
        ctdbd.clone_into(&mut self.ctdbd);
    }

    pub fn pnn(&self) -> usize {
        self.pnn
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The folder that the daemon knows as `CTDB_BASE`.
    pub fn base(&self) -> &Path {
        &self.base
    }

    pub fn ctdbd(&self) -> &Path {
        &self.ctdbd
    }

    pub fn socket(&self) -> PathBuf {
        self.base.join("run/ctdbd.socket")
    }

    pub fn log(&self) -> PathBuf {
        self.base.join("log.ctdb")
    }

    /// The daemon, if it runs.
    pub fn process(&self) -> Option<Process> {
        Process::from_pid_file(&self.base.join("run/ctdbd.pid"))
    }

    pub fn is_running(&self) -> bool {
        self.process().is_some()
    }

    /// The environment in which programs find this node (`config.md` 4): daemon, tools, smbd.
    pub fn environment(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("CTDB_TEST_MODE", PathBuf::from("1")),
            ("CTDB_BASE", self.base.clone()),
            ("CTDB_SOCKET", self.socket()),
        ]
    }

    /// Starts the daemon and waits until it has a pid file; it is far from healthy then.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            return Err(Error::NodeRuns { pnn: self.pnn });
        }
        self.end_left_over_eventd();
        self.launch()?;
        if wait_until(START_LIMIT, || self.is_running()) {
            return Ok(());
        }
        let what = format!(
            "node {} wrote no pid file, see {}",
            self.pnn,
            self.log().display()
        );
        Err(Error::Timeout {
            what,
            seconds: START_LIMIT.as_secs(),
        })
    }

    /// Runs the daemon's program until it has gone into the background.
    ///
    /// Its standard error goes to a file, not to a pipe: the daemon in the background may keep it.
    fn launch(&mut self) -> Result<()> {
        let stderr = self.base.join("start.err");
        let file = File::create(&stderr).map_err(Error::file("cannot write", &stderr))?;
        let mut child = self
            .daemon_command()
            .stdin(if self.tied {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .map_err(Error::run(&self.ctdbd))?;
        self.stdin = child.stdin.take();
        let mut status = None;
        let ended = wait_until(START_LIMIT, || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        });
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
        }
        match status {
            Some(status) if status.success() => Ok(()),
            status => Err(Error::DidNotStart {
                program: self.ctdbd.clone(),
                status: status.map_or("no exit".to_owned(), |status| status.to_string()),
                stderr: std::fs::read_to_string(&stderr)
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
            }),
        }
    }

    /// The daemon's command with its whole environment, for tests that want it to fail.
    pub fn daemon_command(&self) -> Command {
        let mut command = self.launched();
        // Its own process group: Ctrl-C in our terminal is for us, and we stop it in order.
        command.process_group(0).envs(self.environment());
        for (variable, program) in HELPERS {
            // A helper that was built together with the daemon, else the installed one.
            let path = self.ctdbd.with_file_name(program);
            if path.is_file() {
                command.env(variable, path);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn launched(&self) -> Command {
        let Some((program, arguments)) = self.launcher.split_first() else {
            return Command::new(&self.ctdbd);
        };
        let mut command = Command::new(program);
        command.args(arguments).arg(&self.ctdbd);
        command
    }

    /// Ends the daemon at once, as a crash would: no shutdown, no event, files stay as they are.
    pub fn kill(&mut self) {
        if let Some(process) = self.process() {
            process.signal(Signal::SIGKILL);
            process.wait_gone(STOP_LIMIT);
        }
        self.stdin = None;
    }

    /// Ends the daemon in order (`ctdb shutdown`); one that does not obey is killed.
    pub fn stop(&mut self) {
        if let Some(process) = self.process() {
            let _ = self.ctdb(["shutdown"]);
            if !process.wait_gone(STOP_LIMIT) {
                process.signal(Signal::SIGTERM);
                if !process.wait_gone(STOP_LIMIT) {
                    process.signal(Signal::SIGKILL);
                    process.wait_gone(STOP_LIMIT);
                }
            }
        }
        self.stdin = None;
        self.end_left_over_eventd();
    }

    /// Runs the `ctdb` tool on this node.
    pub fn ctdb<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<CommandOutput> {
        self.ctdb_of(&self.tool, args)
    }

    /// Runs another `ctdb` tool on this node: to compare two.
    pub fn ctdb_of<'a>(
        &self,
        tool: &Path,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Result<CommandOutput> {
        run_to_end(
            Command::new(tool).envs(self.environment()).args(args),
            TOOL_LIMIT,
        )
    }

    /// Healthy in its own eyes and sees every other node healthy: `ctdb nodestatus all` exits with
    /// the flags of all nodes.
    pub fn sees_all_healthy(&self) -> bool {
        self.is_running()
            && self
                .ctdb(["nodestatus", "all"])
                .is_ok_and(|output| output.success())
    }

    /// The event daemon of a killed `ctdbd` looks for its parent only every few seconds and keeps
    /// its socket until then; the next daemon on this folder would fail to start its own.
    fn end_left_over_eventd(&self) {
        let eventd = Process::from_pid_file(&self.base.join("run/eventd.pid"));
        if let Some(eventd) = eventd
            && eventd.name().as_deref() == Some("ctdb-eventd")
            && !eventd.wait_gone(Duration::from_millis(100))
        {
            eventd.signal(Signal::SIGTERM);
            if !eventd.wait_gone(STOP_LIMIT) {
                eventd.signal(Signal::SIGKILL);
                eventd.wait_gone(STOP_LIMIT);
            }
        }
    }
}

/// Environment variable and file name of the helper programs (`config.md` 4).
const HELPERS: [(&str, &str); 5] = [
    ("CTDB_EVENTD", "ctdb-eventd"),
    ("CTDB_LOCK_HELPER", "ctdb_lock_helper"),
    ("CTDB_RECOVERY_HELPER", "ctdb_recovery_helper"),
    ("CTDB_TAKEOVER_HELPER", "ctdb_takeover_helper"),
    ("CTDB_CLUSTER_MUTEX_HELPER", "ctdb_mutex_fcntl_helper"),
];

/// For the daemon's program to go into the background and for its pid file to appear.
const START_LIMIT: Duration = Duration::from_secs(10);
/// For a process to obey a signal or the shutdown control.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// For one run of the tool.
const TOOL_LIMIT: Duration = Duration::from_secs(30);
