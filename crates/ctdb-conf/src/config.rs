//! The options of `ctdb.conf` (`config.md` 1).
//!
//! Owns the defaults, the validation and its messages. A file with any wrong value is refused as a
//! whole, after all of its errors have been found. Two things differ from the original on purpose
//! (`config.md` 7): a syntax error is an error instead of silently meaning "all defaults", and of
//! two lines for one option the last one always wins.

mod load;
mod values;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Diagnostic, Files, LogLevel, LogLocation, NodesSource, Paths};

/// All options, typed. See [`Config::defaults`] for what an absent file means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    pub logging: Logging,
    pub cluster: Cluster,
    pub database: Database,
    pub event: Event,
    pub failover: Failover,
    pub legacy: Legacy,
}

/// Section `[logging]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Logging {
    pub location: LogLocation,
    pub level: LogLevel,
}

/// Section `[cluster]`. Its `transport` can only be `tcp` and is therefore not kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cluster {
    /// Private address of this node. Unset: the first of the nodes list that can be bound.
    pub node_address: Option<IpAddr>,
    /// `cluster lock`, else the deprecated `recovery lock`: a path or `!command`.
    pub cluster_lock: Option<String>,
    /// Where the nodes list is, as written; see [`Config::nodes_source`].
    pub nodes_list: Option<String>,
    /// Silence of the leader after which an election begins. `leader timeout ms` goes before
    /// `leader timeout`.
    pub leader_timeout: Duration,
    /// `keepalive interval ms`: takes the place of the tunable `KeepaliveInterval`.
    pub keepalive_interval: Option<Duration>,
    /// Whether this node may become leader.
    pub leader_capability: bool,
}

/// Section `[database]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Database {
    pub volatile_dir: PathBuf,
    /// Persistent and replicated databases.
    pub persistent_dir: PathBuf,
    /// Databases of the daemon itself.
    pub state_dir: PathBuf,
    /// `lock debug script`, resolved to a file in the configuration directory.
    pub lock_debug_script: Option<PathBuf>,
    /// Robust mutexes in volatile databases.
    pub tdb_mutexes: bool,
}

/// Section `[event]`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// Run when an event times out; resolved to a file in the configuration directory.
    pub debug_script: Option<PathBuf>,
}

/// Section `[failover]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failover {
    /// No handling of public addresses at all.
    pub disabled: bool,
    /// Wait after the failover at shutdown.
    pub shutdown_extra_timeout: Duration,
    /// Longest wait for the takeover run at shutdown; zero leaves the step out.
    pub shutdown_failover_timeout: Duration,
}

/// Section `[legacy]`.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent option of the file"
)]
pub struct Legacy {
    pub realtime_scheduling: bool,
    /// Whether this node may be lmaster of records.
    pub lmaster_capability: bool,
    /// Start with the flag STOPPED.
    pub start_as_stopped: bool,
    /// Start with the flag DISABLED.
    pub start_as_disabled: bool,
    /// Level of lines from children of the daemon other than event scripts.
    pub script_log_level: LogLevel,
}

/// What to do with sections and options that nobody knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnknownEntries {
    /// Note them at level DEBUG, as the daemon and the tools do.
    Ignore,
    /// Refuse the file, as `ctdb-config validate` does.
    Refuse,
}

/// A file that was accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoadedConfig {
    pub config: Config,
    /// Warnings and notes, in file order.
    pub remarks: Vec<Diagnostic>,
}

/// A file that was refused: all that is wrong with it. Never empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigErrors(pub Vec<Diagnostic>);

impl fmt::Display for ConfigErrors {
    /// One line for each remark, joined by newlines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, remark) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            remark.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// What is in force without a file.
    pub fn defaults(paths: &Paths) -> Self {
        Self {
            logging: Logging {
                location: LogLocation::File(paths.default_log_file()),
                level: LogLevel::NOTICE,
            },
            cluster: Cluster {
                node_address: None,
                cluster_lock: None,
                nodes_list: None,
                leader_timeout: Duration::from_secs(5),
                keepalive_interval: None,
                leader_capability: true,
            },
            database: Database {
                volatile_dir: paths.default_database_dir("volatile"),
                persistent_dir: paths.default_database_dir("persistent"),
                state_dir: paths.default_database_dir("state"),
                lock_debug_script: None,
                tdb_mutexes: true,
            },
            event: Event::default(),
            failover: Failover {
                disabled: false,
                shutdown_extra_timeout: Duration::ZERO,
                shutdown_failover_timeout: Duration::from_secs(10),
            },
            legacy: Legacy {
                realtime_scheduling: true,
                lmaster_capability: true,
                start_as_stopped: false,
                start_as_disabled: false,
                script_log_level: LogLevel::ERROR,
            },
        }
    }

    /// Reads the text of a `ctdb.conf`.
    pub fn parse(
        text: &str,
        paths: &Paths,
        files: &dyn Files,
        unknown: UnknownEntries,
    ) -> Result<LoadedConfig, ConfigErrors> {
        load::load(text, paths, files, unknown)
    }

    /// Where this configuration takes the nodes list from.
    pub fn nodes_source(&self, paths: &Paths) -> NodesSource {
        NodesSource::new(self.cluster.nodes_list.as_deref(), paths)
    }
}

#[cfg(test)]
mod tests;
