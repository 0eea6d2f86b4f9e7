//! Which programs the tests run.

use std::path::PathBuf;

use ctdb_tools::local_cluster::{Node, find_beside, find_installed};

/// The daemon that the tests are about.
///
/// # Panics
///
/// When it has not been built.
pub fn daemon() -> PathBuf {
    chosen("CTDB_E2E_CTDBD").unwrap_or_else(|| built("ctdbd"))
}

/// Whether [`daemon`] is the one of this workspace and not an installed one: some stories are
/// stricter about ours.
pub fn is_ours() -> bool {
    chosen("CTDB_E2E_CTDBD").is_none_or(|daemon| find_installed("ctdbd") != Some(daemon))
}

/// Whether a node runs Debian's daemon.
pub fn is_reference(node: &Node) -> bool {
    find_installed("ctdbd").is_some_and(|installed| installed == node.ctdbd())
}

/// The `ctdb` tool that the tests use.
///
/// # Panics
///
/// When it has not been built.
pub fn tool() -> PathBuf {
    chosen("CTDB_E2E_CTDB").unwrap_or_else(our_tool)
}

/// The `ctdb` tool of this workspace.
///
/// # Panics
///
/// When it has not been built.
pub fn our_tool() -> PathBuf {
    built("ctdb")
}

/// Debian's daemon, for mixed clusters.
///
/// # Panics
///
/// When it is not installed.
pub fn reference_daemon() -> PathBuf {
    need("ctdbd", "ctdb")
}

/// Debian's tool, for comparison.
///
/// # Panics
///
/// When it is not installed.
pub fn reference_tool() -> PathBuf {
    need("ctdb", "ctdb")
}

/// An installed program.
///
/// # Panics
///
/// When it is not installed; names the Debian package.
pub fn need(program: &str, package: &str) -> PathBuf {
    find_installed(program).unwrap_or_else(|| {
        panic!("this test needs the program {program}: run `apt-get install {package}`")
    })
}

/// # Panics
///
/// When the test does not run as root; says what for it has to.
pub fn need_root(what_for: &str) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test needs root: {what_for}"
    );
}

fn chosen(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

fn built(name: &str) -> PathBuf {
    find_beside(name).unwrap_or_else(|| {
        panic!("{name} has not been built: run `cargo build --workspace` before the tests")
    })
}
