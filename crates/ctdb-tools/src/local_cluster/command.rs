//! Running a program to its end, but not longer than it may take.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::error::{Error, Result};
use super::wait::wait_until;

/// What a program that has ended left behind.
#[derive(Clone, Debug)]
pub struct CommandOutput {
    /// Exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl CommandOutput {
    pub fn success(&self) -> bool {
        self.status == Some(0)
    }
}

/// Runs `command` without input and collects what it prints; killed when it takes longer than
/// `limit`, which is an error.
pub fn run_to_end(command: &mut Command, limit: Duration) -> Result<CommandOutput> {
    let program = PathBuf::from(command.get_program());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::run(&program))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let mut status = None;
    let ended = wait_until(limit, || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
        let what = format!("{command:?} did not end");
        return Err(Error::Timeout {
            what,
            seconds: limit.as_secs(),
        });
    }
    Ok(CommandOutput {
        status: status.and_then(|status| status.code()),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    })
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A program that was built together with the running one: in its folder or, for a test
/// (`target/debug/deps/test-1234`), in the one above.
pub fn find_beside(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

/// A program of the system: searched in `PATH` and in the folders of root, which a user's `PATH`
/// often lacks.
pub fn find_installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A command with these arguments: shorter to read where many are built.
pub fn command<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: &str = "/bin/sh";

    #[test]
    fn output_and_status_are_collected() {
        let mut shell = command(Path::new(SHELL), ["-c", "echo a; echo b >&2; exit 3"]);
        let output = run_to_end(&mut shell, Duration::from_secs(10)).unwrap();
        assert_eq!(output.status, Some(3));
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str()),
            ("a\n", "b\n")
        );
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let mut shell = command(Path::new(SHELL), ["-c", "exec sleep 100"]);
        let error = run_to_end(&mut shell, Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run_to_end(&mut Command::new("/nowhere/ctdbd"), Duration::from_secs(1));
        assert!(
            error
                .unwrap_err()
                .to_string()
                .starts_with("cannot run /nowhere/ctdbd: ")
        );
    }
}
