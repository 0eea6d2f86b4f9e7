//! `ctdb.conf`, `nodes`, `public_addresses`, tunables and install paths: text in, types out.
//!
//! Nothing here opens a configuration file or keeps state. The caller reads a file, hands over its
//! text and gets values, or errors of one line each that know the line of the file they are about.
//! The few checks that need the file system (a directory must exist, a script must be executable)
//! go through the [`Files`] trait, so that a test can answer them.
//!
//! | module | owns | specification |
//! |---|---|---|
//! | [`paths`] | where everything is installed, and test mode | `cli.md` 6, `config.md` 3 |
//! | [`config`] | the options of `ctdb.conf` | `config.md` 1 |
//! | [`nodes`] | the nodes list and where it comes from | `config.md` 2.1 |
//! | [`public_addresses`] | the public addresses file | `ip-takeover.md` 2.1 |
//! | [`tunables`] | tunables files and values | `config.md` 2.3, 2.4 |
//! | [`logging`] | log locations and levels | `config.md` 5 |
//! | [`ini`], [`number`] | the grammars shared by the above | `config.md` 1.2 |
#![forbid(unsafe_code)]

pub mod address;
pub mod config;
pub mod files;
pub mod ini;
pub mod logging;
pub mod nodes;
pub mod number;
pub mod paths;
pub mod public_addresses;
pub mod tunables;

mod diagnostic;

pub use config::{Config, ConfigErrors, LoadedConfig, UnknownEntries};
pub use diagnostic::Diagnostic;
pub use files::{Files, RealFiles, ScriptState};
pub use logging::{LogLevel, LogLocation};
pub use nodes::{CommandLine, NodeEntry, NodesError, NodesList, NodesSource};
pub use paths::{Paths, PathsError};
pub use public_addresses::{PublicAddress, PublicAddresses, PublicAddressesError};
pub use tunables::{Tunable, Tunables};
