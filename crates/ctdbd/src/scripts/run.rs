//! Carries out one event: finds the scripts, runs one after the other, collects what they say.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitStatus;

use ctdb_conf::LogLevel;
use ctdb_core::EventOutcome;
use ctdb_core::explain::ScriptFailure;
use tokio::net::unix::pipe;
use tokio::time::timeout_at;
use tracing::{debug, error, warn};

use super::status::{self, SOME_SCRIPT_FAILED, ScriptResult};
use super::{Request, ScriptSetup};
use crate::children::{Group, log_lines, log_output, output_pipe};

/// Output of a script beyond this many bytes is read and forgotten.
const OUTPUT_LIMIT: usize = 1024 * 1024;

/// How much of the end of a script's output is kept to explain its failure.
const KEPT_OUTPUT: usize = 1000;

/// How waiting for one script ended.
enum ScriptEnd {
    GoOn,
    Failed(ScriptFailure),
    TimedOut(ScriptFailure),
}

/// Runs an event to its end, or to its deadline; says which script made it fail. Kills the running
/// script when dropped.
pub(super) async fn run_event(
    setup: &ScriptSetup,
    request: &Request,
) -> (EventOutcome, Option<ScriptFailure>) {
    let scripts = match script_names(&setup.dir) {
        Ok(scripts) => scripts,
        Err(error) => {
            warn!("event script dir {}: {error}", setup.dir.display());
            let status = error.raw_os_error().unwrap_or(SOME_SCRIPT_FAILED);
            return (EventOutcome::Failed { status }, None);
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

async fn run_script(setup: &ScriptSetup, request: &Request, file_name: &str) -> ScriptEnd {
    const OWNER_MAY_EXECUTE: u32 = 0o100;
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
    match std::fs::metadata(&path) {
        Ok(found) if found.mode() & OWNER_MAY_EXECUTE == 0 => {
            return ScriptEnd::GoOn;
        }
        Ok(_) => {}
        Err(error) => return cannot_run(&error),
    }
    let (mut group, mut output) = match start(setup, request, &path, name) {
        Ok(started) => started,
        Err(error) => {
            warn!("event script {} cannot be run: {error}", path.display());
            return cannot_run(&error);
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

fn start(
    setup: &ScriptSetup,
    request: &Request,
    path: &Path,
    name: &str,
) -> io::Result<(Group, pipe::Receiver)> {
    let (output, stdout, stderr) = output_pipe()?;
    let mut command = setup.environment.command(path);
    command
        .arg0(name)
        .arg(&request.event)
        .args(&request.arguments);
    let child = command.stdout(stdout).stderr(stderr).spawn()?;
    Ok((Group::new(child), output))
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
fn end_hung_script(setup: &ScriptSetup, request: &Request, group: Group) {
    let debug = setup.debug_script.clone().zip(group.pid());
    let environment = setup.environment.clone();
    let event = request.event.clone();
    tokio::spawn(async move {
        if let Some((script, pid)) = debug {
            let result = output_pipe().and_then(|(output, stdout, stderr)| {
                let mut command = environment.command(&script);
                command
                    .arg(pid.to_string())
                    .arg(&event)
                    .stdout(stdout)
                    .stderr(stderr);
                command.spawn().map(|child| (child, output))
            });
            match result {
                Ok((child, output)) => {
                    let mut child = Group::new(child);
                    log_output("event_debug: ", output, LogLevel::ERROR).await;
                    let _ = child.child().wait().await;
                }
                Err(error) => warn!("debug script {}: {error}", script.display()),
            }
        }
        group.terminate().await;
    });
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
