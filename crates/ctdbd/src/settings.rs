//! Reads everything that is configured: `ctdb.conf`, the nodes list, the tunables.

use std::io;
use std::path::{Path, PathBuf};

use ctdb_conf::{
    Config, Diagnostic, NodeEntry, NodesSource, Paths, RealFiles, Tunables, UnknownEntries,
};

use crate::nodes_list::{self, NodesListError};

/// Why the daemon cannot run as it is configured. One clear text each; the exit code is 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("{0}")]
    Paths(#[from] ctdb_conf::PathsError),
    #[error("Failed to load configuration file {}: {}", .file.display(), one_line(.details))]
    Config { file: PathBuf, details: String },
    #[error("{kind} database directory {} does not exist", .path.display())]
    NoDirectory { kind: &'static str, path: PathBuf },
    #[error(transparent)]
    Nodes(#[from] NodesListError),
}

/// What stands on several lines, on one: whoever starts the daemon gets one line that says it all.
pub(crate) fn one_line(details: &str) -> String {
    let lines = details
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

/// Everything that is configured.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) paths: Paths,
    pub(crate) config: Config,
    /// What there is to say about the configuration, once there is a log.
    pub(crate) remarks: Vec<Diagnostic>,
}

impl Settings {
    /// Reads `ctdb.conf`. A missing file means all defaults.
    pub(crate) fn read() -> Result<Self, SettingsError> {
        let paths = Paths::from_env()?;
        let file = paths.config_file();
        let failed = |details: String| SettingsError::Config {
            file: file.clone(),
            details,
        };
        let text = match std::fs::read(&file) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|error| failed(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error.to_string())),
        };
        let loaded = Config::parse(&text, &paths, &RealFiles, UnknownEntries::Ignore)
            .map_err(|errors| failed(located(&errors.0, &file)))?;
        Ok(Self {
            paths,
            config: loaded.config,
            remarks: loaded.remarks,
        })
    }

    /// Reads the nodes list.
    pub(crate) fn nodes(&self) -> Result<Vec<NodeEntry>, SettingsError> {
        Ok(nodes_list::read(&self.nodes_source())?)
    }

    /// Where the nodes list comes from.
    pub(crate) fn nodes_source(&self) -> NodesSource {
        self.config.nodes_source(&self.paths)
    }

    /// Makes sure that the three database directories exist.
    pub(crate) fn check_directories(&self) -> Result<(), SettingsError> {
        let database = &self.config.database;
        for (kind, path) in [
            ("Volatile", &database.volatile_dir),
            ("Persistent", &database.persistent_dir),
            ("State", &database.state_dir),
        ] {
            if !path.is_dir() {
                return Err(SettingsError::NoDirectory {
                    kind,
                    path: path.clone(),
                });
            }
        }
        Ok(())
    }

    /// Reads the tunables files. What is wrong in them is logged, the rest applies.
    pub(crate) fn tunables(&self) -> Tunables {
        let mut tunables = Tunables::default();
        let main = self.paths.tunables_file();
        if main.exists() {
            apply(&mut tunables, &main);
        }
        for file in tunables_files(&self.paths.tunables_dir()) {
            apply(&mut tunables, &file);
        }
        tunables
    }
}

fn located(remarks: &[Diagnostic], file: &Path) -> String {
    remarks
        .iter()
        .map(|remark| remark.located(file))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The `*.tunables` files of a folder, sorted by name.
fn tunables_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "tunables")
        })
        .collect();
    files.sort_unstable();
    files
}

fn apply(tunables: &mut Tunables, file: &Path) {
    let name = file.display().to_string();
    match std::fs::read(file) {
        Ok(text) => {
            tracing::info!("Loading tunables from {name}");
            for remark in tunables.apply_file(&name, &String::from_utf8_lossy(&text)) {
                crate::log::line_at(remark.level, &remark.text);
            }
        }
        Err(error) => tracing::error!("Failed to open {name}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use ctdb_conf::Tunable;

    use super::*;

    #[test]
    fn tunables_of_the_folder_win_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.tunables"), "KeepaliveInterval = 7\n").unwrap();
        std::fs::write(
            dir.path().join("a.tunables"),
            "KeepaliveInterval = 6\nRecoverTimeout=9\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("c.other"), "KeepaliveInterval = 8\n").unwrap();
        let mut tunables = Tunables::default();
        for file in tunables_files(dir.path()) {
            apply(&mut tunables, &file);
        }
        assert_eq!(tunables.get(Tunable::KeepaliveInterval), 7);
        assert_eq!(tunables.get(Tunable::RecoverTimeout), 9);
    }
}
