//! The helper of the cluster lock, next to the one that Debian's ctdb package installs: whatever
//! one of them holds, the other must see as held.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const OURS: &str = env!("CARGO_BIN_EXE_ctdb_mutex_fcntl_helper");
const DEBIANS: &str = "/usr/libexec/ctdb/ctdb_mutex_fcntl_helper";

/// Both helpers. A machine without Debian's cannot run the comparison, and that is a failure.
fn both() -> [&'static str; 2] {
    assert!(
        Path::new(DEBIANS).exists(),
        "this test needs Debian's ctdb package: no {DEBIANS}"
    );
    [OURS, DEBIANS]
}

struct Helper {
    child: Child,
    stdout: ChildStdout,
    stderr: PathBuf,
}

impl Helper {
    fn start(program: &str, arguments: &[&str], stderr: PathBuf) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        Self {
            child,
            stdout,
            stderr,
        }
    }

    fn answer(&mut self) -> u8 {
        let mut byte = [0];
        self.stdout.read_exact(&mut byte).unwrap();
        byte[0]
    }

    /// Waits for the end of the process; returns its exit code and what it complained about.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let complaint = std::fs::read_to_string(&self.stderr).unwrap();
                return (status.code(), complaint.trim_end().to_owned());
            }
            assert!(Instant::now() < deadline, "the helper does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn paths() -> (tempfile::TempDir, String, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("lock").to_str().unwrap().to_owned();
    let stderr = dir.path().join("stderr");
    (dir, lock, stderr)
}

#[test]
fn each_sees_what_the_other_holds() {
    for holder in both() {
        for tester in both() {
            let (_dir, lock, stderr) = paths();
            let mut first = Helper::start(holder, &[&lock], stderr.clone());
            assert_eq!(first.answer(), b'0', "{holder}");
            let mut second = Helper::start(tester, &[&lock], stderr.clone());
            assert_eq!(second.answer(), b'1', "{tester} against {holder}");
            assert_eq!(second.end(), (Some(0), String::new()));
            first.kill();
            let mut third = Helper::start(tester, &[&lock], stderr);
            assert_eq!(third.answer(), b'0', "{tester} after {holder}");
            third.kill();
        }
    }
}

#[test]
fn wrong_arguments_print_the_usage() {
    for arguments in [&[][..], &["a", "x"], &["a", "1", "2", "3"]] {
        let ends = both().map(|program| {
            let (_dir, _lock, stderr) = paths();
            Helper::start(program, arguments, stderr).end()
        });
        assert_eq!(ends[0], ends[1]);
        assert_eq!(ends[0].0, Some(1));
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error() {
    let ends = both().map(|program| {
        let (_dir, _lock, stderr) = paths();
        let mut helper = Helper::start(program, &["/no/such/folder/lock"], stderr);
        assert_eq!(helper.answer(), b'3');
        helper.end()
    });
    assert_eq!(ends[0], ends[1]);
    assert_eq!(ends[0].0, Some(0));
}

#[test]
fn the_lock_is_given_up_when_its_file_is_removed_or_replaced() {
    for (replace, complaint) in [(false, "open failed (ret=2)"), (true, "inode changed")] {
        for program in both() {
            let (dir, lock, stderr) = paths();
            let mut helper = Helper::start(program, &[&lock, "1"], stderr);
            assert_eq!(helper.answer(), b'0');
            if replace {
                let other = dir.path().join("other");
                std::fs::write(&other, "").unwrap();
                std::fs::rename(other, &lock).unwrap();
            } else {
                std::fs::remove_file(&lock).unwrap();
            }
            let text =
                format!("ctdb_mutex_fcntl_helper: lock lost - lock file \"{lock}\" {complaint}");
            assert_eq!(helper.end(), (Some(0), text), "{program}");
        }
    }
}

#[test]
fn the_lock_is_given_up_when_the_daemon_is_gone() {
    let (_dir, lock, stderr) = paths();
    // The shell stands for the daemon: it starts the helper and dies.
    let script = format!("'{OURS}' '{lock}' & sleep 0.3");
    let mut daemon = Command::new("/bin/sh")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&stderr).unwrap())
        .spawn()
        .unwrap();
    let mut output = String::new();
    // Ends when the last holder of the pipe is gone: the helper and its child.
    daemon
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut output)
        .unwrap();
    daemon.wait().unwrap();
    assert_eq!(output, "0");
    let complaint = std::fs::read_to_string(stderr).unwrap();
    assert_eq!(complaint, "ctdb_mutex_fcntl_helper: parent gone\n");
}
