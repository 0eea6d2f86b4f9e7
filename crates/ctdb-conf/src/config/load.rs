//! Reading a `ctdb.conf`: its sections, and the table of its options.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::values::{
    MAX_INTEGER, Problem, SHORTEST_MS, boolean, leader_timeout, node_address, script_log_level,
    string, transport,
};
use super::{Config, ConfigErrors, LoadedConfig, UnknownEntries};
use crate::ini::{LineKind, lines};
use crate::number::c_number;
use crate::{Diagnostic, Files, LogLevel, LogLocation, Paths, ScriptState};

/// What [`Config::parse`] does.
pub(super) fn load(
    text: &str,
    paths: &Paths,
    files: &dyn Files,
    unknown: UnknownEntries,
) -> Result<LoadedConfig, ConfigErrors> {
    let mut loader = Loader {
        config: Config::defaults(paths),
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

    /// An integer of 0..=2147483647. What follows its digits is ignored, here with a warning.
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
