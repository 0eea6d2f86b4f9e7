//! What can go wrong with a local cluster, said so that the reader knows what to do next.

use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} {}: {source}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    #[error("{} is not a cluster folder: it has no file {}", path.display(), super::layout::MARKER)]
    NotACluster { path: PathBuf },

    #[error("{} is not empty and not a cluster folder: choose another", path.display())]
    FolderInUse { path: PathBuf },

    #[error("{} belongs to another user", path.display())]
    FolderOfAnother { path: PathBuf },

    #[error("a cluster already runs in {}: stop it first or choose another folder", path.display())]
    AlreadyRunning { path: PathBuf },

    #[error("{}: line {line} is not understood: {text}", path.display())]
    BadMarker {
        path: PathBuf,
        line: usize,
        text: String,
    },

    #[error("{} is too long: socket paths end at 107 bytes", path.display())]
    PathTooLong { path: PathBuf },

    #[error("a local cluster has 1 to {max} nodes, not {nodes}")]
    NodeCount { nodes: usize, max: u8 },

    #[error("there is no node {pnn}: the cluster has {nodes}")]
    NoSuchNode { pnn: usize, nodes: usize },

    #[error("no {nodes} free loopback addresses found in {attempts} attempts")]
    NoFreeAddresses { nodes: u8, attempts: u32 },

    #[error("cannot run {}: {source}", program.display())]
    Run { program: PathBuf, source: io::Error },

    #[error("node {pnn} runs already")]
    NodeRuns { pnn: usize },

    #[error("{} did not start ({status}): {stderr}", program.display())]
    DidNotStart {
        program: PathBuf,
        status: String,
        stderr: String,
    },

    #[error("{what} after {seconds} s")]
    Timeout { what: String, seconds: u64 },

    #[error("smbd needs root: it changes its user for each client")]
    SmbdNeedsRoot,
}

impl Error {
    /// For `map_err`: names the file and what was done to it.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// For `map_err`: a program that could not be run at all.
    pub(super) fn run(program: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Run {
            program: program.to_owned(),
            source,
        }
    }
}
