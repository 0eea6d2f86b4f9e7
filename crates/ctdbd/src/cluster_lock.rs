//! The helper process that takes and holds the cluster lock (cluster.md 4.6).
//!
//! The lock lives in a process of its own: it dies with that process, and a second process can
//! test from outside that it holds. The helper says on its standard output how it fared, in one
//! byte, and then holds the lock until it is asked to end or this end of the pipe is closed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ctdb_conf::{CommandLine, LogLevel, Paths};
use ctdb_core::recoverd::LockAttempt;
use ctdb_core::{ClusterLockEvent, LockTest, Ticket};
use tokio::io::AsyncReadExt;
use tokio::process::ChildStdout;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::error;

use crate::children::{ChildEnvironment, Group, log_output, output_pipe};
use crate::event::ShellEvent;
use crate::lanes::Lanes;
use crate::threads::InTurn;

/// How long the leader waits for the lock.
const TAKE_LIMIT: Duration = Duration::from_secs(120);

/// Name of the helper for a lock that is a plain file.
const FILE_HELPER: &str = "ctdb_mutex_fcntl_helper";

/// How to start the helper.
#[derive(Clone)]
pub(crate) struct LockHelper {
    program: PathBuf,
    arguments: Vec<String>,
    environment: ChildEnvironment,
    /// Level at which its complaints are logged.
    log_level: LogLevel,
    starts: InTurn,
}

/// What the helper tasks tell the core task.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LockReport {
    /// Passed on only while [`ClusterLock::is_current`]: the attempt may be history.
    Event {
        attempt: LockAttempt,
        event: ClusterLockEvent,
        took: Duration,
    },
    Tested(Ticket, LockTest),
}

/// The cluster lock as this daemon holds it, or tries to.
pub(crate) struct ClusterLock {
    /// `None` without a cluster lock in the configuration.
    helper: Option<LockHelper>,
    lanes: Lanes,
    /// The attempt under way, or the one that got the lock. Dropping the sender ends the helper.
    current: Option<(LockAttempt, oneshot::Sender<()>)>,
}

/// First byte of the helper's output.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answer {
    Taken,
    Contention,
    Timeout,
    Error,
}

impl LockHelper {
    /// The helper for the `cluster lock` option: `!PROGRAM ARGUMENTS`, or a file for our own.
    pub(crate) fn new(
        option: &str,
        paths: &Paths,
        environment: ChildEnvironment,
        log_level: LogLevel,
    ) -> Self {
        let (program, arguments) = match CommandLine::parse(option) {
            Some(command) => {
                let mut words = command.words.into_iter();
                (words.next().unwrap_or_default().into(), words.collect())
            }
            None => (file_helper(paths), vec![option.to_owned()]),
        };
        Self {
            program,
            arguments,
            environment,
            log_level,
            starts: InTurn::default(),
        }
    }

    /// Starts the helper and logs what it complains about. Takes as long as its file system does.
    fn start(&self) -> io::Result<(Group, ChildStdout)> {
        let (complaints, stderr, _unused) = output_pipe()?;
        let mut command = self.environment.command(&self.program);
        command
            .args(&self.arguments)
            .stdout(std::process::Stdio::piped())
            .stderr(stderr);
        let mut child = command.spawn()?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("no standard output"))?;
        let level = self.log_level;
        tokio::spawn(async move { log_output("", complaints, level).await });
        Ok((Group::new(child), stdout))
    }

    /// Like [`Self::start`], in a thread; the failure is logged, and is the helper's answer.
    async fn start_until(&self, deadline: Instant) -> Result<(Group, ChildStdout), Answer> {
        let (program, helper) = (self.program.display(), self.clone());
        match timeout_at(deadline, self.starts.run(move || helper.start())).await {
            Ok(Ok(running)) => Ok(running),
            Ok(Err(error)) => {
                error!("unable to run cluster mutex helper {program}: {error}");
                Err(Answer::Error)
            }
            Err(_) => {
                error!("cluster mutex helper {program} does not start in time");
                Err(Answer::Timeout)
            }
        }
    }
}

impl ClusterLock {
    pub(crate) fn new(helper: Option<LockHelper>, lanes: Lanes) -> Self {
        Self {
            helper,
            lanes,
            current: None,
        }
    }

    /// Starts to take the lock. An attempt under way, or the lock itself, is given up first.
    pub(crate) fn take(&mut self, attempt: LockAttempt) {
        let (release, mut released) = oneshot::channel();
        self.current = Some((attempt, release));
        let lanes = self.lanes.clone();
        let started = Instant::now();
        let report = move |event| {
            let took = started.elapsed();
            let report = LockReport::Event {
                attempt,
                event,
                took,
            };
            lanes.report(ShellEvent::ClusterLock(report));
        };
        let Some(helper) = self.helper.clone() else {
            error!("no cluster lock is configured");
            return report(ClusterLockEvent::Error);
        };
        tokio::spawn(async move {
            let deadline = started + TAKE_LIMIT;
            let starting = tokio::select! {
                starting = helper.start_until(deadline) => starting,
                // It is killed as soon as it has started.
                _ = &mut released => return,
            };
            let (group, mut stdout) = match starting {
                Ok(running) => running,
                Err(answer) => return report(answer.event()),
            };
            let helper_ends = async {
                let answer = Answer::wait_for(&mut stdout, deadline).await;
                report(answer.event());
                if answer == Answer::Taken {
                    end_of(&mut stdout).await;
                    report(ClusterLockEvent::Lost);
                }
            };
            tokio::select! {
                () = helper_ends => {}
                _ = released => {}
            }
            group.terminate().await;
        });
    }

    /// Gives the lock back, or the attempt to take it up.
    pub(crate) fn release(&mut self, attempt: LockAttempt) {
        if self.is_current(attempt) {
            self.current = None;
        }
    }

    /// Whether the node still wants to hear of this attempt.
    pub(crate) fn is_current(&self, attempt: LockAttempt) -> bool {
        self.current
            .as_ref()
            .is_some_and(|(current, _)| *current == attempt)
    }

    /// Tries the lock with a second helper, which ends at once if it gets it.
    pub(crate) fn test(&self, ticket: Ticket, limit: Duration) {
        let lanes = self.lanes.clone();
        let report = move |report| lanes.report(ShellEvent::ClusterLock(report));
        let Some(helper) = self.helper.clone() else {
            report(LockReport::Tested(ticket, LockTest::Error));
            return;
        };
        tokio::spawn(async move {
            let started = Instant::now();
            let deadline = started + limit;
            let (group, mut stdout) = match helper.start_until(deadline).await {
                Ok(running) => running,
                Err(answer) => {
                    return report(LockReport::Tested(ticket, answer.test(started.elapsed())));
                }
            };
            let answer = Answer::wait_for(&mut stdout, deadline).await;
            report(LockReport::Tested(ticket, answer.test(started.elapsed())));
            group.terminate().await;
        });
    }
}

impl Answer {
    /// The first byte; none at all is an error.
    async fn wait_for(stdout: &mut ChildStdout, deadline: Instant) -> Self {
        match timeout_at(deadline, stdout.read_u8()).await {
            Ok(Ok(b'0')) => Self::Taken,
            Ok(Ok(b'1')) => Self::Contention,
            Ok(Ok(b'2')) | Err(_) => Self::Timeout,
            Ok(_) => Self::Error,
        }
    }

    fn event(self) -> ClusterLockEvent {
        match self {
            Self::Taken => ClusterLockEvent::Taken,
            Self::Contention => ClusterLockEvent::Contention,
            Self::Timeout => ClusterLockEvent::Timeout,
            Self::Error => ClusterLockEvent::Error,
        }
    }

    fn test(self, took: Duration) -> LockTest {
        match self {
            Self::Taken => LockTest::Taken,
            Self::Contention => LockTest::Contention {
                seconds: took.as_secs_f64(),
            },
            Self::Timeout => LockTest::Timeout,
            Self::Error => LockTest::Error,
        }
    }
}

/// Waits for the end of the helper's output; further bytes mean nothing.
async fn end_of(stdout: &mut ChildStdout) {
    let mut ignored = [0; 64];
    while !matches!(stdout.read(&mut ignored).await, Ok(0) | Err(_)) {}
}

/// Where the helper for files is: named by the environment, beside this program (as in a build
/// folder), or installed.
fn file_helper(paths: &Paths) -> PathBuf {
    if let Some(path) = std::env::var_os("CTDB_CLUSTER_MUTEX_HELPER") {
        return path.into();
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(helper_in));
    match beside {
        Some(path) if path.is_file() => path,
        _ => helper_in(paths.helperdir()),
    }
}

fn helper_in(dir: &Path) -> PathBuf {
    dir.join(FILE_HELPER)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::lanes::{Inbox, lanes};

    struct Fixture {
        lock: ClusterLock,
        inbox: Inbox,
        dir: TempDir,
    }

    /// A cluster lock whose helper is a shell script.
    fn fixture(body: &str) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("helper");
        std::fs::write(&script, body).unwrap();
        let option = format!("!/bin/sh  {}\targument", script.display());
        let paths = Paths::from_lookup(|_| None).unwrap();
        let environment = ChildEnvironment::default().with("DIR", dir.path());
        let helper = LockHelper::new(&option, &paths, environment, LogLevel::ERROR);
        let (lanes, inbox) = lanes();
        Fixture {
            lock: ClusterLock::new(Some(helper), lanes),
            inbox,
            dir,
        }
    }

    impl Fixture {
        async fn next(&mut self) -> LockReport {
            let limit = Instant::now() + Duration::from_secs(60);
            let next = timeout_at(limit, self.inbox.next()).await;
            match next.expect("a report comes in time") {
                ShellEvent::ClusterLock(report) => report,
                _ => panic!("not about the cluster lock"),
            }
        }

        async fn next_event(&mut self) -> Option<ClusterLockEvent> {
            match self.next().await {
                LockReport::Event { attempt, event, .. } => {
                    self.lock.is_current(attempt).then_some(event)
                }
                LockReport::Tested(..) => panic!("nothing was tested"),
            }
        }
    }

    #[tokio::test]
    async fn the_lock_is_held_until_the_helper_ends() {
        let mut f = fixture("printf 0; while test ! -e $DIR/end; do sleep 0.02; done");
        f.lock.take(LockAttempt(1));
        assert!(matches!(
            f.next_event().await,
            Some(ClusterLockEvent::Taken)
        ));
        std::fs::write(f.dir.path().join("end"), "").unwrap();
        assert_eq!(f.next_event().await, Some(ClusterLockEvent::Lost));
    }

    #[tokio::test]
    async fn releasing_ends_the_helper() {
        let mut f = fixture("echo $$ > $DIR/pid; printf 0; exec sleep 600");
        f.lock.take(LockAttempt(1));
        assert!(matches!(
            f.next_event().await,
            Some(ClusterLockEvent::Taken)
        ));
        let pid = std::fs::read_to_string(f.dir.path().join("pid")).unwrap();
        f.lock.release(LockAttempt(1));
        let proc = PathBuf::from("/proc").join(pid.trim()).join("stat");
        while std::fs::read_to_string(&proc).is_ok_and(|text| !text.contains(") Z")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn an_answer_to_an_earlier_attempt_is_ignored() {
        let mut f = fixture("printf 1");
        f.lock.take(LockAttempt(1));
        let LockReport::Event { attempt, .. } = f.next().await else {
            panic!("not tested")
        };
        assert!(f.lock.is_current(attempt));
        f.lock.take(LockAttempt(2));
        assert!(!f.lock.is_current(attempt));
        f.lock.release(attempt);
        assert!(f.lock.is_current(LockAttempt(2)));
    }

    #[tokio::test]
    async fn every_answer_has_its_meaning() {
        for (body, expected) in [
            ("printf 1", ClusterLockEvent::Contention),
            ("printf 2", ClusterLockEvent::Timeout),
            ("printf 3", ClusterLockEvent::Error),
            ("printf x", ClusterLockEvent::Error),
            ("exit 0", ClusterLockEvent::Error),
        ] {
            let mut f = fixture(body);
            f.lock.take(LockAttempt(1));
            assert_eq!(f.next_event().await, Some(expected), "{body}");
        }
    }

    #[tokio::test]
    async fn a_test_that_gets_the_lock_says_so_and_a_slow_one_times_out() {
        let mut f = fixture("printf 0; exec sleep 600");
        f.lock.test(Ticket(4), Duration::from_secs(60));
        assert!(matches!(
            f.next().await,
            LockReport::Tested(Ticket(4), LockTest::Taken)
        ));
        let mut f = fixture("exec sleep 600");
        f.lock.test(Ticket(5), Duration::from_millis(50));
        assert!(matches!(
            f.next().await,
            LockReport::Tested(Ticket(5), LockTest::Timeout)
        ));
    }

    #[tokio::test]
    async fn a_missing_helper_is_an_error() {
        let mut f = fixture("");
        if let Some(helper) = &mut f.lock.helper {
            helper.program = "/no/such/helper".into();
        }
        f.lock.take(LockAttempt(1));
        assert_eq!(f.next_event().await, Some(ClusterLockEvent::Error));
    }
}
