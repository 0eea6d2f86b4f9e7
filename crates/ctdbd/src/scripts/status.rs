//! What the end of one script means (events.md 1.6).

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Status of an event in which some script failed, whatever that script reported: ENOEXEC.
pub(super) const SOME_SCRIPT_FAILED: i32 = 8;

const ENOENT: i32 = 2;
const EACCES: i32 = 13;

/// How one script ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ScriptResult {
    Ok,
    /// It was not run, or asked to be passed over: the event goes on.
    Disabled,
    Failed,
}

/// The result of a script that ran.
///
/// Exit codes above 63 are error numbers plus 64, by an old habit of the original: 64 is success,
/// and the codes of "permission denied" and "no such file" mean a disabled script. 255 is an
/// ordinary failure.
pub(super) fn of_exit(status: ExitStatus) -> ScriptResult {
    if status.signal().is_some() {
        return ScriptResult::Failed;
    }
    match status.code() {
        Some(0 | 64) => ScriptResult::Ok,
        Some(code) if matches!(code - 64, EACCES | ENOENT) => ScriptResult::Disabled,
        Some(_) | None => ScriptResult::Failed,
    }
}

/// The result of a script that could not be started.
pub(super) fn of_spawn_error(error: &io::Error) -> ScriptResult {
    const ENOEXEC: i32 = 8;
    match error.raw_os_error() {
        Some(EACCES | ENOENT | ENOEXEC) => ScriptResult::Disabled,
        _ => ScriptResult::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_mean_what_they_mean_to_the_original() {
        let result = |code: i32| of_exit(ExitStatus::from_raw(code << 8));
        assert_eq!(result(0), ScriptResult::Ok);
        assert_eq!(result(1), ScriptResult::Failed);
        assert_eq!(result(63), ScriptResult::Failed);
        assert_eq!(result(64), ScriptResult::Ok);
        assert_eq!(result(66), ScriptResult::Disabled);
        assert_eq!(result(77), ScriptResult::Disabled);
        assert_eq!(result(126), ScriptResult::Failed);
        assert_eq!(result(255), ScriptResult::Failed);
        assert_eq!(of_exit(ExitStatus::from_raw(9)), ScriptResult::Failed);
    }
}
