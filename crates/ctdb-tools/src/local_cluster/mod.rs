//! A whole cluster on one machine: N daemons, each on its own loopback address and in its own folder.
//!
//! For newcomers (`ctdb-cluster start`) and for the end-to-end tests. Everything works without root,
//! with our `ctdbd` or with any other that understands test mode (`config.md` 4), also mixed: each
//! node may run a different program. Only `smbd` ([`Smbd`]) needs root.
//!
//! - [`Layout`] knows where everything lies, makes the folders and removes what it made.
//! - [`Cluster`] is the set of [`Node`]s; it chooses addresses and waits for health.
//! - [`Node`] starts, kills and stops one daemon and runs the `ctdb` tool against it.
//! - [`Process`] is a process that cannot be mistaken for a later one with the same number.
//!
//! Nothing here is kept in memory that a later `ctdb-cluster stop` would need: the folder tells all.

mod addresses;
mod cluster;
mod command;
mod error;
mod layout;
mod node;
mod process;
mod smbd;
mod wait;

pub use addresses::{Prefix, free_prefix};
pub use cluster::{Cluster, Options};
pub use command::{CommandOutput, command, find_beside, find_installed, run_to_end};
pub use error::{Error, Result};
pub use layout::{Layout, check_owner, temporary_folder};
pub use node::Node;
pub use process::{Process, Signal};
pub use smbd::{ClientProtocol, SHARE, Smbd};
pub use wait::wait_until;
