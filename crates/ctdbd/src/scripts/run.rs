//! Carries out one event: finds the scripts, runs one after the other, collects what they say.
//!
//! Whatever asks the file system of the scripts is done by a thread, and waited for until the event
//! runs out of time.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use ctdb_conf::LogLevel;
use ctdb_core::EventOutcome;
use ctdb_core::explain::ScriptFailure;
use tokio::net::unix::pipe;
use tokio::time::{timeout, timeout_at};
use tracing::{debug, error, warn};

use super::status::{self, SOME_SCRIPT_FAILED, ScriptResult};
use super::{Request, ScriptSetup};
use crate::children::{Group, log_lines, log_output, output_pipe};

/// Output of a script beyond this many bytes is read and forgotten.
const OUTPUT_LIMIT: usize = 1024 * 1024;

/// How much of the end of a script's output is kept to explain its failure.
const KEPT_OUTPUT: usize = 1000;

/// How long a hung script is spared for a debug script that does not start.
const DEBUG_START_LIMIT: Duration = Duration::from_secs(10);

/// How waiting for one script ended.
enum ScriptEnd {
    GoOn,
    Failed(ScriptFailure),
    TimedOut(ScriptFailure),
}

/// Runs an event to its end, or to its deadline; says which script made it fail. Kills the running
/// script when dropped.
pub(super) async fn run_event(
    setup: &Arc<ScriptSetup>,
    request: &Request,
) -> (EventOutcome, Option<ScriptFailure>) {
    let dir = setup.dir.clone();
    let listed = setup.starts.run(move || script_names(&dir));
    let scripts = match timeout_at(request.deadline, listed).await {
        Ok(Ok(scripts)) => scripts,
        Ok(Err(error)) => {
            warn!("event script dir {}: {error}", setup.dir.display());
            let status = error.raw_os_error().unwrap_or(SOME_SCRIPT_FAILED);
            return (EventOutcome::Failed { status }, None);
        }
        Err(_) => {
            warn!("event script dir {} does not answer", setup.dir.display());
            return (EventOutcome::TimedOut, None);
        }
    };
    debug!(arguments = ?request.arguments, "running event {}", request.event);
    for file_name in scripts {
        match run_script(setup, request, &file_name).await {
            ScriptEnd::GoOn => {}
            ScriptEnd::Failed(failure) => {
                let status = SOME_SCRIPT_FAILED;
                return (EventOutcome::Failed { status }, Some(failure));
            }
            ScriptEnd::TimedOut(failure) => return (EventOutcome::TimedOut, Some(failure)),
        }
    }
    (EventOutcome::Ok, None)
}

/// File names of the scripts in a folder, `NN.name.script`, in the order of their bytes.
fn script_names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        if let Ok(name) = entry?.file_name().into_string()
            && is_script_name(&name)
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether a file name matches `[0-9][0-9].*.script`.
fn is_script_name(name: &str) -> bool {
    let mut start = name.bytes();
    let digits = start.by_ref().take(2).filter(u8::is_ascii_digit).count();
    digits == 2
        && start.next() == Some(b'.')
        && name.len() > "NN..script".len() - 1
        && name.get(3..).is_some_and(|rest| rest.ends_with(".script"))
}

async fn run_script(setup: &Arc<ScriptSetup>, request: &Request, file_name: &str) -> ScriptEnd {
    let path = setup.dir.join(file_name);
    let name = file_name.strip_suffix(".script").unwrap_or(file_name);
    let failure = |how: String, output: &[u8]| ScriptFailure {
        script: name.to_owned(),
        how,
        output: last_lines(output),
    };
    let cannot_run = |error: &io::Error| match status::of_spawn_error(error) {
        ScriptResult::Failed => ScriptEnd::Failed(failure(format!("cannot be run: {error}"), &[])),
        ScriptResult::Ok | ScriptResult::Disabled => ScriptEnd::GoOn,
    };
    let started = start_in_thread(setup, request, &path, name);
    let (mut group, mut output) = match timeout_at(request.deadline, started).await {
        Ok(Ok(Some(started))) => started,
        Ok(Ok(None)) => return ScriptEnd::GoOn,
        Ok(Err(error)) => {
            warn!("event script {} cannot be run: {error}", path.display());
            return cannot_run(&error);
        }
        Err(_) => {
            warn!("event script {} does not start", path.display());
            let how = "it had not started when the event ran out of time";
            return ScriptEnd::TimedOut(failure(how.into(), &[]));
        }
    };
    let mut text = Vec::new();
    let end = timeout_at(
        request.deadline,
        wait_and_read(&mut group, &mut output, &mut text),
    )
    .await;
    let prefix = format!("{name}: ");
    log_lines(&prefix, &text, LogLevel::ERROR);
    match end {
        Ok(Ok(status)) => match status::of_exit(status) {
            ScriptResult::Failed => ScriptEnd::Failed(failure(status.to_string(), &text)),
            ScriptResult::Ok | ScriptResult::Disabled => ScriptEnd::GoOn,
        },
        Ok(Err(error)) => {
            error!("{prefix}waiting for its end: {error}");
            ScriptEnd::Failed(failure(error.to_string(), &text))
        }
        Err(_) => {
            end_hung_script(setup, request, group);
            ScriptEnd::TimedOut(failure(
                "it hung until the event ran out of time".into(),
                &text,
            ))
        }
    }
}

/// Starts a script; if nobody waits for that any more, it is killed as soon as it has started.
async fn start_in_thread(
    setup: &Arc<ScriptSetup>,
    request: &Request,
    path: &Path,
    name: &str,
) -> io::Result<Option<(Group, pipe::Receiver)>> {
    let (setup_of_it, request) = (Arc::clone(setup), request.clone());
    let (path, name) = (path.to_owned(), name.to_owned());
    let start = move || start(&setup_of_it, &request, &path, &name);
    setup.starts.run(start).await
}

/// `None` for a script that its owner may not execute.
fn start(
    setup: &ScriptSetup,
    request: &Request,
    path: &Path,
    name: &str,
) -> io::Result<Option<(Group, pipe::Receiver)>> {
    const OWNER_MAY_EXECUTE: u32 = 0o100;
    if std::fs::metadata(path)?.mode() & OWNER_MAY_EXECUTE == 0 {
        return Ok(None);
    }
    let (output, stdout, stderr) = output_pipe()?;
    let mut command = setup.environment.command(path);
    command
        .arg0(name)
        .arg(&request.event)
        .args(&request.arguments);
    let child = command.stdout(stdout).stderr(stderr).spawn()?;
    Ok(Some((Group::new(child), output)))
}

/// Waits for the end of the script itself, reading its output meanwhile. What it leaves running in
/// the background is not waited for.
async fn wait_and_read(
    group: &mut Group,
    output: &mut pipe::Receiver,
    text: &mut Vec<u8>,
) -> io::Result<ExitStatus> {
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            ready = output.readable(), if open => {
                ready?;
                open = read_available(output, text);
            }
            status = group.child().wait() => {
                read_available(output, text);
                return status;
            }
        }
    }
}

/// The end of what a script said, from the beginning of a line if it has several.
fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let text = text.trim_end();
    let mut starts = text.len().saturating_sub(KEPT_OUTPUT)..=text.len();
    let start = starts.find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let tail = text.get(start..).unwrap_or_default();
    match tail.split_once('\n') {
        Some((_, whole_lines)) if start > 0 => whole_lines.to_owned(),
        _ => tail.to_owned(),
    }
}

/// Reads what is there now; false at the end.
fn read_available(output: &pipe::Receiver, text: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 4096];
    loop {
        match output.try_read(&mut chunk) {
            Ok(0) => return false,
            Ok(length) => {
                let room = OUTPUT_LIMIT.saturating_sub(text.len());
                text.extend(chunk.iter().take(length.min(room)));
            }
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// Ends a script that is past its deadline, in the background: the event itself is over. The debug
/// script looks at it first. Unlike the original we never leave it running.
fn end_hung_script(setup: &Arc<ScriptSetup>, request: &Request, group: Group) {
    let (setup, event) = (Arc::clone(setup), request.event.clone());
    tokio::spawn(async move {
        if let Some((script, pid)) = setup.debug_script.as_deref().zip(group.pid())
            && let Err(error) = debug(&setup, script, pid, event).await
        {
            warn!("debug script {}: {error}", script.display());
        }
        group.terminate().await;
    });
}

/// Runs the debug script to its end.
async fn debug(setup: &ScriptSetup, script: &Path, pid: u32, event: String) -> io::Result<()> {
    let mut command = setup.environment.command(script);
    command.arg(pid.to_string()).arg(event);
    let started = setup.debug_starts.run(move || {
        let (output, stdout, stderr) = output_pipe()?;
        let child = command.stdout(stdout).stderr(stderr).spawn()?;
        Ok((Group::new(child), output))
    });
    let (mut child, output) = timeout(DEBUG_START_LIMIT, started)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("it does not start")))?;
    log_output("event_debug: ", output, LogLevel::ERROR).await;
    child.child().wait().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        assert_eq!(last_lines(b"one\ntwo\n\n"), "one\ntwo");
        let long = "a line of 20 bytes..\n".repeat(200);
        let kept = last_lines(long.as_bytes());
        assert!(kept.len() <= KEPT_OUTPUT && kept.len() > KEPT_OUTPUT - 50);
        assert!(kept.starts_with("a line"), "{kept}");
        assert!(last_lines(&[0xFF; 5000]).len() <= KEPT_OUTPUT + 3);
    }

    #[test]
    fn script_names_have_two_digits_and_a_dot() {
        for name in [
            "00.ctdb.script",
            "15.x.y.script",
            "99.a.script",
            "10..script",
        ] {
            assert!(is_script_name(name), "{name}");
        }
        for name in [
            "1.a.script",
            "001.a.script",
            "10.script",
            "10.a.scripts",
            "a0.b.script",
            "",
        ] {
            assert!(!is_script_name(name), "{name}");
        }
    }
}
