//! The options of `ctdb.conf` (`config.md` 1).
//!
//! Owns the defaults, the validation and its messages. A file with any wrong value is refused as a
//! whole, after all of its errors have been found. Two things differ from the original on purpose
//! (`config.md` 7): a syntax error is an error instead of silently meaning "all defaults", and of
//! two lines for one option the last one always wins.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::address::parse_ip;
use crate::ini::{LineKind, lines};
use crate::number::c_number;
use crate::{Diagnostic, Files, LogLevel, LogLocation, NodesSource, Paths, ScriptState};

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
        let mut loader = Loader {
            config: Self::defaults(paths),
            recovery_lock: None,
            exact_leader_timeout: None,
            etcdir: paths.etcdir(),
            files,
            unknown,
            remarks: Vec::new(),
        };
        loader.load(text);
        let Loader {
            mut config,
            recovery_lock,
            exact_leader_timeout,
            remarks,
            ..
        } = loader;
        if remarks.iter().any(|remark| remark.level == LogLevel::ERROR) {
            return Err(ConfigErrors(remarks));
        }
        let cluster = &mut config.cluster;
        cluster.cluster_lock = cluster.cluster_lock.take().or(recovery_lock);
        cluster.leader_timeout = exact_leader_timeout.unwrap_or(cluster.leader_timeout);
        Ok(LoadedConfig { config, remarks })
    }

    /// Where this configuration takes the nodes list from.
    pub fn nodes_source(&self, paths: &Paths) -> NodesSource {
        NodesSource::new(self.cluster.nodes_list.as_deref(), paths)
    }
}

/// A section that exists. Anything else in brackets is unknown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Section {
    Logging,
    Cluster,
    Database,
    Event,
    Failover,
    Legacy,
}

impl Section {
    const ALL: [Self; 6] = [
        Self::Logging,
        Self::Cluster,
        Self::Database,
        Self::Event,
        Self::Failover,
        Self::Legacy,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Logging => "logging",
            Self::Cluster => "cluster",
            Self::Database => "database",
            Self::Event => "event",
            Self::Failover => "failover",
            Self::Legacy => "legacy",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|section| section.name().eq_ignore_ascii_case(name))
    }
}

/// Why an option could not be set.
enum Problem {
    UnknownOption,
    EmptyValue,
    /// The text is not of the option's type.
    WrongType,
    /// The option's own check failed, with its own message if it has one.
    Invalid(Option<String>),
}

/// A configuration while it is being read.
struct Loader<'a> {
    config: Config,
    recovery_lock: Option<String>,
    exact_leader_timeout: Option<Duration>,
    etcdir: &'a Path,
    files: &'a dyn Files,
    unknown: UnknownEntries,
    remarks: Vec<Diagnostic>,
}

impl Loader<'_> {
    fn load(&mut self, text: &str) {
        let mut section = None;
        for line in lines(text) {
            match line.kind {
                LineKind::Section(name) => section = self.enter(line.number, &name),
                LineKind::Assignment { name, value } => {
                    self.option(line.number, section, &name, &value);
                }
                // The original ignores a line without `=`, too.
                LineKind::Bare(_) => {}
                LineKind::SyntaxError(text) => {
                    let text = format!("conf: syntax error in \"{text}\"");
                    self.remarks.push(Diagnostic::error(line.number, text));
                }
            }
        }
    }

    fn enter(&mut self, line: usize, name: &str) -> Option<Section> {
        let section = Section::from_name(name);
        if section.is_none() {
            match self.unknown {
                UnknownEntries::Refuse => {
                    self.remark(
                        line,
                        LogLevel::ERROR,
                        format!("conf: unknown section [{name}]"),
                    );
                }
                UnknownEntries::Ignore => {
                    let text = format!("conf: ignoring unknown section [{name}]");
                    self.remark(line, LogLevel::DEBUG, text);
                }
            }
        }
        section
    }

    fn option(&mut self, line: usize, section: Option<Section>, name: &str, value: &str) {
        let Some(section) = section else {
            let text = format!("conf: unknown section for option \"{name}\"");
            return self.remark(line, self.unknown_level(), text);
        };
        let place = format!("[{}] -> \"{name}\"", section.name());
        match self.set(line, section, name, value) {
            Ok(()) => {}
            Err(Problem::UnknownOption) => {
                let text = format!("conf: unknown option {place}");
                self.remark(line, self.unknown_level(), text);
            }
            Err(Problem::EmptyValue) => {
                self.remark(line, LogLevel::ERROR, format!("conf: empty value {place}"));
            }
            Err(Problem::WrongType) => {
                let text = format!("conf: invalid value {place} = \"{value}\"");
                self.remark(line, LogLevel::ERROR, text);
            }
            Err(Problem::Invalid(message)) => {
                if let Some(message) = message {
                    self.remark(line, LogLevel::ERROR, message);
                }
                let text = format!("conf: validation for option \"{name}\" failed");
                self.remark(line, LogLevel::ERROR, text);
            }
        }
    }

    fn unknown_level(&self) -> LogLevel {
        match self.unknown {
            UnknownEntries::Ignore => LogLevel::DEBUG,
            UnknownEntries::Refuse => LogLevel::ERROR,
        }
    }

    fn remark(&mut self, line: usize, level: LogLevel, text: String) {
        self.remarks.push(Diagnostic { line, level, text });
    }

    /// The table of options: names are matched exactly, case included.
    fn set(
        &mut self,
        line: usize,
        section: Section,
        name: &str,
        value: &str,
    ) -> Result<(), Problem> {
        match (section, name) {
            (Section::Logging, "location") => {
                self.config.logging.location = self.location(value)?;
            }
            (Section::Logging, "log level") => {
                self.config.logging.level =
                    LogLevel::parse(string(value)?).ok_or(Problem::Invalid(None))?;
            }
            (Section::Cluster, "transport") => transport(value)?,
            (Section::Cluster, "node address") => {
                self.config.cluster.node_address = Some(node_address(value)?);
            }
            (Section::Cluster, "cluster lock") => {
                self.config.cluster.cluster_lock = Some(string(value)?.to_owned());
            }
            (Section::Cluster, "recovery lock") => {
                self.recovery_lock = Some(string(value)?.to_owned());
                let text = "Configuration option [cluster] -> recovery lock is deprecated";
                self.remark(line, LogLevel::WARNING, text.to_owned());
            }
            (Section::Cluster, "nodes list") => {
                self.config.cluster.nodes_list = Some(string(value)?.to_owned());
            }
            (Section::Cluster, "leader timeout") => {
                let seconds = self.integer(line, section, name, value)?;
                self.config.cluster.leader_timeout = leader_timeout(seconds)?;
            }
            (Section::Cluster, "leader timeout ms") => {
                let time = self.milliseconds(line, section, name, value)?;
                self.exact_leader_timeout = Some(time);
            }
            (Section::Cluster, "keepalive interval ms") => {
                let time = self.milliseconds(line, section, name, value)?;
                self.config.cluster.keepalive_interval = Some(time);
            }
            (Section::Cluster, "leader capability") => {
                self.config.cluster.leader_capability = boolean(value)?;
            }
            (Section::Database, "volatile database directory") => {
                self.config.database.volatile_dir = self.directory(name, value)?;
            }
            (Section::Database, "persistent database directory") => {
                self.config.database.persistent_dir = self.directory(name, value)?;
            }
            (Section::Database, "state database directory") => {
                self.config.database.state_dir = self.directory(name, value)?;
            }
            (Section::Database, "lock debug script") => {
                self.config.database.lock_debug_script = Some(self.script(name, value)?);
            }
            (Section::Database, "tdb mutexes") => {
                self.config.database.tdb_mutexes = boolean(value)?;
            }
            (Section::Event, "debug script") => {
                self.config.event.debug_script = Some(self.script(name, value)?);
            }
            (Section::Failover, "disabled") => self.config.failover.disabled = boolean(value)?,
            (Section::Failover, "shutdown extra timeout") => {
                let seconds = self.integer(line, section, name, value)?;
                self.config.failover.shutdown_extra_timeout = Duration::from_secs(seconds);
            }
            (Section::Failover, "shutdown failover timeout") => {
                let seconds = self.integer(line, section, name, value)?;
                self.config.failover.shutdown_failover_timeout = Duration::from_secs(seconds);
            }
            (Section::Legacy, "realtime scheduling") => {
                self.config.legacy.realtime_scheduling = boolean(value)?;
            }
            (Section::Legacy, "lmaster capability") => {
                self.config.legacy.lmaster_capability = boolean(value)?;
            }
            (Section::Legacy, "start as stopped") => {
                self.config.legacy.start_as_stopped = boolean(value)?;
            }
            (Section::Legacy, "start as disabled") => {
                self.config.legacy.start_as_disabled = boolean(value)?;
            }
            (Section::Legacy, "script log level") => {
                self.config.legacy.script_log_level = script_log_level(value)?;
            }
            _ => return Err(Problem::UnknownOption),
        }
        Ok(())
    }

    /// An integer of 0..=2147483647. What follows its digits is ignored, here with a warning.
    /// A time of at least 20 ms: less than that is the work of the machine's scheduler.
    fn milliseconds(
        &mut self,
        line: usize,
        section: Section,
        name: &str,
        value: &str,
    ) -> Result<Duration, Problem> {
        let number = self.integer(line, section, name, value)?;
        if number < SHORTEST_MS {
            let section = section.name();
            let text = format!(
                "Invalid value for [{section}] -> {name} = {value}, less than {SHORTEST_MS}"
            );
            return Err(Problem::Invalid(Some(text)));
        }
        Ok(Duration::from_millis(number))
    }

    fn integer(
        &mut self,
        line: usize,
        section: Section,
        name: &str,
        value: &str,
    ) -> Result<u64, Problem> {
        let number = c_number(string(value)?);
        let magnitude = number.magnitude.ok_or(Problem::WrongType)?;
        if magnitude > MAX_INTEGER || (number.negative && magnitude > 0) {
            return Err(Problem::WrongType);
        }
        if !number.rest.is_empty() {
            let text = format!(
                "conf: [{}] -> \"{name}\" = \"{value}\" is read as {magnitude}",
                section.name()
            );
            self.remark(line, LogLevel::WARNING, text);
        }
        Ok(magnitude)
    }

    /// A log location; the folder of a log file must exist.
    fn location(&self, value: &str) -> Result<LogLocation, Problem> {
        let location = LogLocation::parse(string(value)?).ok_or(Problem::Invalid(None))?;
        if let LogLocation::File(path) = &location {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            if !self.files.is_dir(parent.unwrap_or(Path::new("."))) {
                return Err(Problem::Invalid(None));
            }
        }
        Ok(location)
    }

    fn directory(&self, option: &str, value: &str) -> Result<PathBuf, Problem> {
        let path = Path::new(string(value)?);
        if !self.files.is_dir(path) {
            let text = format!("{option} \"{value}\" does not exist");
            return Err(Problem::Invalid(Some(text)));
        }
        Ok(path.to_owned())
    }

    /// A script of the configuration directory. Only the last part of the value counts: the
    /// original checks that file but later runs another one (`config.md` 1.4).
    fn script(&self, option: &str, value: &str) -> Result<PathBuf, Problem> {
        let invalid = |what: &str| Problem::Invalid(Some(format!("{option} {value} {what}")));
        let name = Path::new(string(value)?)
            .file_name()
            .ok_or_else(|| invalid("is not a file"))?;
        let path = self.etcdir.join(name);
        match self.files.script(&path) {
            ScriptState::Executable => Ok(path),
            ScriptState::Missing => Err(invalid("does not exist")),
            ScriptState::NotAFile => Err(invalid("is not a file")),
            ScriptState::NotExecutable => Err(invalid("is not executable")),
        }
    }
}

/// Largest value of an integer option.
const MAX_INTEGER: u64 = i32::MAX as u64;

fn string(value: &str) -> Result<&str, Problem> {
    if value.is_empty() {
        Err(Problem::EmptyValue)
    } else {
        Ok(value)
    }
}

fn boolean(value: &str) -> Result<bool, Problem> {
    match string(value)?.to_ascii_lowercase().as_str() {
        "true" | "yes" => Ok(true),
        "false" | "no" => Ok(false),
        _ => Err(Problem::WrongType),
    }
}

fn transport(value: &str) -> Result<(), Problem> {
    if string(value)? == "tcp" {
        return Ok(());
    }
    Err(Problem::Invalid(Some(format!(
        "Invalid value for [cluster] -> transport = {value}"
    ))))
}

fn node_address(value: &str) -> Result<IpAddr, Problem> {
    parse_ip(string(value)?).ok_or_else(|| {
        Problem::Invalid(Some(format!(
            "Invalid value for [cluster] -> node address = {value}"
        )))
    })
}

const SHORTEST_MS: u64 = 20;

fn leader_timeout(seconds: u64) -> Result<Duration, Problem> {
    if seconds == 0 {
        let text = "Invalid value for [cluster] -> leader timeout = 0";
        return Err(Problem::Invalid(Some(text.to_owned())));
    }
    Ok(Duration::from_secs(seconds))
}

fn script_log_level(value: &str) -> Result<LogLevel, Problem> {
    LogLevel::parse(string(value)?).ok_or_else(|| {
        let text = format!("Invalid value for [legacy] -> script log level = {value}");
        Problem::Invalid(Some(text))
    })
}

#[cfg(test)]
mod tests;
