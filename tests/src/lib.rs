//! What the end-to-end tests share: each file in `tests/` tells one story about real daemons.
//!
//! The daemons are those that the workspace built (`cargo build --workspace` first); with
//! `CTDB_E2E_CTDBD=/usr/sbin/ctdbd` the same stories are told about another implementation, to
//! see that they ask for nothing but what CTDB does. `CTDB_E2E_CTDB` does the same for the tool.
//!
//! A test that lacks a program or root fails and says so; it is never skipped in silence.

#![forbid(unsafe_code)]

mod bulk;
mod cluster;
mod hung_folder;
pub mod ledger;
mod memory;
mod mutate;
mod network;
mod open_files;
mod programs;
mod samba;
mod smb_session;
mod sniffer;
mod status;
mod torture;
mod watch;

pub use bulk::Bulk;
pub use cluster::{HEALTHY_LIMIT, TestCluster};
pub use hung_folder::HungFolder;
pub use memory::{PeakMemory, own_memory};
pub use mutate::Mutator;
pub use network::Network;
pub use open_files::users_of;
pub use programs::{
    daemon, is_ours, is_reference, need, need_root, our_tool, reference_daemon, reference_tool,
    tool,
};
pub use samba::Samba;
pub use smb_session::SmbSession;
pub use sniffer::Sniffer;
pub use status::Status;
pub use torture::{Benchmark, Torture};
pub use watch::{View, Watch, agree};

use std::sync::OnceLock;
use std::time::Instant;

/// Tests end with `?` where a failure needs no explanation of its own.
pub type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Waits for a future, in a thread that does nothing else.
///
/// # Panics
///
/// When there is no runtime to be had.
pub fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only descriptors");
    runtime.block_on(future)
}

/// Says where in its story a test is; shown when it fails, or with `--nocapture`.
pub fn step(text: &str) {
    eprintln!("[{:6.2} s] {text}", story_time(Instant::now()));
}

/// Seconds since the first step.
pub(crate) fn story_time(at: Instant) -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    at.saturating_duration_since(*start).as_secs_f64()
}
