//! The questions that validating a configuration has to ask the file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What stands at the path of a script that the configuration names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScriptState {
    /// Nothing is there.
    Missing,
    /// A directory, socket or the like.
    NotAFile,
    /// A file that its owner may not execute.
    NotExecutable,
    /// A file that its owner may execute.
    Executable,
}

/// Answers about files, so that parsing stays free of I/O in tests.
pub trait Files {
    /// Whether a directory is there.
    fn is_dir(&self, path: &Path) -> bool;
    /// What kind of script is there.
    fn script(&self, path: &Path) -> ScriptState;
}

/// [`Files`] that looks at the real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn script(&self, path: &Path) -> ScriptState {
        const OWNER_MAY_EXECUTE: u32 = 0o100;
        match fs::metadata(path) {
            Err(_) => ScriptState::Missing,
            Ok(found) if !found.is_file() => ScriptState::NotAFile,
            Ok(found) if found.permissions().mode() & OWNER_MAY_EXECUTE == 0 => {
                ScriptState::NotExecutable
            }
            Ok(_) => ScriptState::Executable,
        }
    }
}
