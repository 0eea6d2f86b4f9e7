//! Where CTDB is installed, and how test mode moves it (`cli.md` 6.1, `config.md` 3).
//!
//! The install locations are fixed when the project is built: Debian's by default, others with the
//! build-time variables `CTDB_BUILD_ETCDIR`, `_RUNDIR`, `_VARDIR`, `_DATADIR`, `_HELPERDIR` and
//! `_LOGDIR`. At run time only test mode changes them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

macro_rules! install_dir {
    ($name:literal, $default:literal) => {
        match option_env!($name) {
            Some(dir) => dir,
            None => $default,
        }
    };
}

const ETCDIR: &str = install_dir!("CTDB_BUILD_ETCDIR", "/etc/ctdb");
const RUNDIR: &str = install_dir!("CTDB_BUILD_RUNDIR", "/run/ctdb");
const VARDIR: &str = install_dir!("CTDB_BUILD_VARDIR", "/var/lib/ctdb");
const DATADIR: &str = install_dir!("CTDB_BUILD_DATADIR", "/usr/share/ctdb");
const HELPERDIR: &str = install_dir!("CTDB_BUILD_HELPERDIR", "/usr/libexec/ctdb");
const LOGDIR: &str = install_dir!("CTDB_BUILD_LOGDIR", "/var/log/ctdb");

/// Every path the programs agree on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Paths {
    test_mode: bool,
    etcdir: PathBuf,
    rundir: PathBuf,
    vardir: PathBuf,
    datadir: PathBuf,
    socket: PathBuf,
}

/// Why there are no paths.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathsError {
    /// `CTDB_TEST_MODE` is set but `CTDB_BASE` is not. The original aborts here.
    #[error("Broken CTDB setup, CTDB_BASE not set in test mode")]
    NoBaseInTestMode,
}

impl Paths {
    /// Paths for an environment, given as a lookup by variable name.
    ///
    /// Test mode is on when `CTDB_TEST_MODE` is set to anything, even to nothing. `CTDB_BASE` and
    /// `CTDB_SOCKET` mean nothing outside test mode, and are used as they are given within it.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, PathsError> {
        if lookup("CTDB_TEST_MODE").is_none() {
            return Ok(Self::installed());
        }
        let base = lookup("CTDB_BASE").ok_or(PathsError::NoBaseInTestMode)?;
        let base = PathBuf::from(base);
        let rundir = base.join("run");
        Ok(Self {
            test_mode: true,
            socket: lookup("CTDB_SOCKET").map_or_else(|| rundir.join("ctdbd.socket"), Into::into),
            vardir: base.join("var"),
            datadir: base.join("share"),
            etcdir: base,
            rundir,
        })
    }

    /// Paths for the environment of this process.
    pub fn from_env() -> Result<Self, PathsError> {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    fn installed() -> Self {
        Self {
            test_mode: false,
            etcdir: ETCDIR.into(),
            rundir: RUNDIR.into(),
            vardir: VARDIR.into(),
            datadir: DATADIR.into(),
            socket: Path::new(RUNDIR).join("ctdbd.socket"),
        }
    }

    /// Whether this is a test cluster that shares the machine with others.
    pub fn test_mode(&self) -> bool {
        self.test_mode
    }

    /// Configuration: `/etc/ctdb`, or `CTDB_BASE` itself in test mode.
    pub fn etcdir(&self) -> &Path {
        &self.etcdir
    }

    /// Sockets and pid files: `/run/ctdb`.
    pub fn rundir(&self) -> &Path {
        &self.rundir
    }

    /// State that survives a restart: `/var/lib/ctdb`. In test mode the databases are *not* here
    /// unless `ctdb.conf` says so, see [`Self::default_database_dir`].
    pub fn vardir(&self) -> &Path {
        &self.vardir
    }

    /// Event scripts as packaged: `/usr/share/ctdb`.
    pub fn datadir(&self) -> &Path {
        &self.datadir
    }

    /// Helper programs: `/usr/libexec/ctdb`, in test mode too.
    pub fn helperdir(&self) -> &Path {
        Path::new(HELPERDIR)
    }

    /// The default log file, in test mode too.
    pub fn default_log_file(&self) -> PathBuf {
        Path::new(LOGDIR).join("log.ctdb")
    }

    /// `ctdb.conf`.
    pub fn config_file(&self) -> PathBuf {
        self.etcdir.join("ctdb.conf")
    }

    /// The nodes list, unless `[cluster] nodes list` names another source.
    pub fn nodes_file(&self) -> PathBuf {
        self.etcdir.join("nodes")
    }

    /// The public addresses of this node.
    pub fn public_addresses_file(&self) -> PathBuf {
        self.etcdir.join("public_addresses")
    }

    /// `ctdb.tunables`, read first.
    pub fn tunables_file(&self) -> PathBuf {
        self.etcdir.join("ctdb.tunables")
    }

    /// Folder whose `*.tunables` files are read after [`Self::tunables_file`], sorted by name.
    pub fn tunables_dir(&self) -> PathBuf {
        self.etcdir.join("tunables.d")
    }

    /// Enabled event scripts of a component, such as `legacy`.
    pub fn event_scripts_dir(&self, component: &str) -> PathBuf {
        self.etcdir.join("events").join(component)
    }

    /// Event scripts of a component as packaged.
    pub fn packaged_event_scripts_dir(&self, component: &str) -> PathBuf {
        self.datadir.join("events").join(component)
    }

    /// Socket of `ctdbd` for clients.
    pub fn daemon_socket(&self) -> &Path {
        &self.socket
    }

    /// Pid file of a daemon, such as `ctdbd` or `eventd`.
    pub fn pid_file(&self, daemon: &str) -> PathBuf {
        self.rundir.join(format!("{daemon}.pid"))
    }

    /// Socket of a daemon; of `ctdbd` the one that `CTDB_SOCKET` may have moved.
    pub fn socket(&self, daemon: &str) -> PathBuf {
        match daemon {
            "ctdbd" => self.socket.clone(),
            other => self.rundir.join(format!("{other}.socket")),
        }
    }

    /// Default folder for databases of a kind (`volatile`, `persistent`, `state`): always the
    /// installed one. Test clusters name others in `ctdb.conf`.
    pub fn default_database_dir(&self, kind: &str) -> PathBuf {
        Path::new(VARDIR).join(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(environment: &[(&str, &str)]) -> Result<Paths, PathsError> {
        Paths::from_lookup(|name| {
            environment
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        })
    }

    #[test]
    fn without_test_mode_base_and_socket_are_ignored() {
        let found = paths(&[("CTDB_BASE", "/x"), ("CTDB_SOCKET", "/y")]).unwrap();
        assert_eq!(found, paths(&[]).unwrap());
        assert_eq!(found.config_file(), Path::new("/etc/ctdb/ctdb.conf"));
        assert_eq!(found.daemon_socket(), Path::new("/run/ctdb/ctdbd.socket"));
    }

    #[test]
    fn test_mode_moves_everything_below_base() {
        let found = paths(&[("CTDB_TEST_MODE", ""), ("CTDB_BASE", "/b/node.0")]).unwrap();
        assert!(found.test_mode());
        assert_eq!(found.nodes_file(), Path::new("/b/node.0/nodes"));
        assert_eq!(
            found.pid_file("ctdbd"),
            Path::new("/b/node.0/run/ctdbd.pid")
        );
        assert_eq!(
            found.socket("eventd"),
            Path::new("/b/node.0/run/eventd.socket")
        );
        assert_eq!(found.datadir(), Path::new("/b/node.0/share"));
        assert_eq!(found.vardir(), Path::new("/b/node.0/var"));
        assert_eq!(found.helperdir(), Path::new("/usr/libexec/ctdb"));
        assert_eq!(
            found.default_database_dir("state"),
            Path::new("/var/lib/ctdb/state")
        );
    }

    #[test]
    fn socket_variable_moves_only_the_socket_of_ctdbd() {
        let found = paths(&[
            ("CTDB_TEST_MODE", "1"),
            ("CTDB_BASE", "/b"),
            ("CTDB_SOCKET", "/s"),
        ]);
        let found = found.unwrap();
        assert_eq!(found.daemon_socket(), Path::new("/s"));
        assert_eq!(found.socket("ctdbd"), Path::new("/s"));
        assert_eq!(found.socket("eventd"), Path::new("/b/run/eventd.socket"));
    }

    #[test]
    fn test_mode_without_base_is_refused_in_the_words_of_the_original() {
        let error = paths(&[("CTDB_TEST_MODE", "1")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Broken CTDB setup, CTDB_BASE not set in test mode"
        );
    }
}
