//! The start of the daemon, step by step (cluster.md 1.1), and its end.
//!
//! Everything that can be wrong with a configuration is found here, before the node begins to
//! live: each failure is one error with its exit code, told in the foreground.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ctdb_conf::{LogLocation, NodeEntry};
use ctdb_core::{Node, NodeConfig};
use ctdb_proto::{Capabilities, NodeFlags, Pnn, SambaVersion};
use ctdb_sys::process::{allow_open_files, limit_heaps, lock_memory, set_realtime};
use tokio::runtime::Runtime;
use tracing::{error, info, warn};

use crate::background::{Ready, Side, into_background};
use crate::children::ChildEnvironment;
use crate::client::Clients;
use crate::cluster_lock::{ClusterLock, LockHelper};
use crate::core_task::{CoreTask, Exit, Load, Surroundings};
use crate::database::attach::{DbSetup, find_persistent};
use crate::database::health::HealthMarks;
use crate::databases::Databases;
use crate::lanes::lanes;
use crate::listen::{ListenError, ctdb_port, listen_tcp, listen_unix};
use crate::log::{self, Log};
use crate::nodes_list::{NodesReader, configured_node};
use crate::peer::Peers;
use crate::pid_file::PidFile;
use crate::scripts::{ScriptSetup, Scripts};
use crate::settings::{Settings, SettingsError};
use crate::signals;

/// The version of Samba whose protocol we speak.
const SAMBA_VERSION: SambaVersion = SambaVersion::new(4, 24);

/// Heaps that all threads share: they wait more than they compute.
const HEAPS: u16 = 2;

/// Files that the daemon would like to be able to open: one for each client, and some.
const OPEN_FILES: u64 = 65_536;

/// How long the end of the daemon waits for a log that is stuck.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// Why the daemon did not start, or ended with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("Unable to start logging to {location} - {source}")]
    Log {
        location: LogLocation,
        source: io::Error,
    },
    #[error("Unable to go into the background - {0}")]
    Background(io::Error),
    #[error("Failed to create PID file {path} - {source}")]
    PidFile { path: String, source: io::Error },
    #[error("{0}")]
    ClientSocket(ListenError),
    #[error("{0}")]
    Listen(#[from] ListenError),
    #[error("Unable to set scheduler to SCHED_FIFO ({0})")]
    Realtime(io::Error),
    #[error("Unable to use the databases - {0}")]
    Databases(String),
    #[error("Unable to start the event loop - {0}")]
    EventLoop(#[from] io::Error),
    /// The node gave up, or was asked to.
    #[error("ctdb exiting with error: {}", .0.reason)]
    Exit(Exit),
    #[error("ctdb fatal error: the core task ended: {0}")]
    Fatal(String),
}

impl StartError {
    /// Exit code of the process (config.md 6).
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::PidFile { .. } => 11,
            Self::ClientSocket(_) => 10,
            Self::Exit(exit) => u8::try_from(exit.code).unwrap_or(1),
            _ => 1,
        }
    }
}

/// Runs the daemon. Returns when it has ended in good order, or in the foreground process when the
/// daemon serves.
pub(crate) fn run(interactive: bool) -> Result<(), StartError> {
    limit_heaps(HEAPS);
    let mut settings = Settings::read()?;
    if interactive {
        settings.config.logging.location = LogLocation::Stderr;
    }
    let location = &settings.config.logging.location;
    let host = log::host_name(&settings.paths);
    let log = Log::start(location, settings.config.logging.level, host).map_err(|source| {
        StartError::Log {
            location: location.clone(),
            source,
        }
    })?;
    // From here on an error belongs into the log too.
    let ended = start(&settings, log.clone(), interactive).inspect_err(|failure| {
        if !interactive {
            error!("{failure}");
        }
    });
    log.flush(LAST_WORDS_LIMIT);
    ended
}

fn start(settings: &Settings, log: Log, interactive: bool) -> Result<(), StartError> {
    for remark in &settings.remarks {
        log::line_at(remark.level, &remark.text);
    }
    info!("CTDB starting on node");
    if settings.config.cluster.cluster_lock.is_none() {
        warn!("Cluster lock not set");
    }
    let nodes = settings.nodes()?;
    settings.check_directories()?;
    let node_settings = NodeSettings {
        settings,
        tunables: settings.tunables(),
        nodes,
    };
    let ready = if interactive {
        Ready::nobody()
    } else {
        match into_background(settings.paths.test_mode()).map_err(StartError::Background)? {
            Side::Foreground(0) => return Ok(()),
            // The daemon has told why.
            Side::Foreground(code) => std::process::exit(code.into()),
            Side::Daemon(ready) => ready,
        }
    };
    match allow_open_files(OPEN_FILES) {
        Ok(OPEN_FILES..) => {}
        Ok(limit) => warn!("no more than {limit} files can be open: each client needs one"),
        Err(error) => warn!("cannot find out how many files can be open: {error}"),
    }
    // There is no fork from here on.
    log.write_in_thread()?;
    let daemon = Daemon::prepare(&node_settings)?;
    let exit = daemon.run(node_settings, log, ready)?;
    info!("CTDB daemon shutting down");
    if exit.code == 0 {
        Ok(())
    } else {
        Err(StartError::Exit(exit))
    }
}

/// Everything that is configured, and read.
struct NodeSettings<'a> {
    settings: &'a Settings,
    tunables: ctdb_conf::Tunables,
    nodes: Vec<NodeEntry>,
}

/// What a daemon holds that others can see. Dropping it gives all of it back.
struct Daemon {
    tcp: TcpListener,
    unix: UnixListener,
    pnn: Pnn,
    port: u16,
    _socket_file: crate::listen::SocketFile,
    _pid_file: PidFile,
}

impl Daemon {
    /// Takes what only one daemon can have: pid file, sockets, priority.
    fn prepare(node: &NodeSettings<'_>) -> Result<Self, StartError> {
        let paths = &node.settings.paths;
        let config = &node.settings.config;
        error!(
            "Starting CTDBD (Version {}) as PID: {}",
            env!("CARGO_PKG_VERSION"),
            std::process::id()
        );
        let path = paths.pid_file("ctdbd");
        let pid_file = PidFile::create(&path).map_err(|source| StartError::PidFile {
            path: path.display().to_string(),
            source,
        })?;
        info!("Created PID file {}", path.display());
        let (unix, socket_file) = listen_unix(paths.daemon_socket(), paths.test_mode())
            .map_err(StartError::ClientSocket)?;
        if wants_realtime(node.settings) {
            set_realtime().map_err(StartError::Realtime)?;
            info!("Set real-time scheduler priority");
        }
        let port = ctdb_port();
        let address = config.cluster.node_address;
        let (tcp, pnn) = listen_tcp(&node.nodes, address, port, paths.rundir())?;
        info!("PNN is {pnn}");
        Ok(Self {
            tcp,
            unix,
            pnn,
            port,
            _socket_file: socket_file,
            _pid_file: pid_file,
        })
    }

    /// Lives until the node wants to leave.
    fn run(self, node: NodeSettings<'_>, log: Log, ready: Ready) -> Result<Exit, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let exit = self.serve(&runtime, node, log, ready);
        // Ends the children: their owners are tasks of the runtime.
        drop(runtime);
        exit
    }

    fn serve(
        &self,
        runtime: &Runtime,
        node: NodeSettings<'_>,
        log: Log,
        ready: Ready,
    ) -> Result<Exit, StartError> {
        let task = runtime.block_on(async { self.core_task(node, log, ready) })?;
        runtime.block_on(async {
            // Spawned, not awaited here: that demands `Send`, which no lock guard is.
            let core = tokio::spawn(task.run());
            core.await
                .map_err(|error| StartError::Fatal(error.to_string()))
        })
    }

    /// Puts the core task together. Within the runtime, which the sockets need.
    fn core_task(
        &self,
        node: NodeSettings<'_>,
        log: Log,
        ready: Ready,
    ) -> Result<CoreTask, StartError> {
        let NodeSettings {
            settings,
            tunables,
            nodes,
        } = node;
        let Settings { paths, config, .. } = settings;
        let (lanes, inbox) = lanes();
        signals::watch(lanes.clone())?;
        signals::tick(lanes.clone());
        if paths.test_mode() {
            signals::watch_stdin(lanes.clone())?;
        }
        let environment = child_environment(settings);
        let database_error =
            |error: &dyn std::fmt::Display| StartError::Databases(error.to_string());
        let setup = DbSetup {
            volatile_dir: config.database.volatile_dir.clone(),
            state_dir: config.database.state_dir.clone(),
            persistent_dir: config.database.persistent_dir.clone(),
            pnn: self.pnn,
            mutexes: config.database.tdb_mutexes && tdb::mutexes_work(),
            health: HealthMarks::open(&config.database.state_dir, self.pnn)
                .map_err(|error| database_error(&error))?,
        };
        let persistent_databases =
            find_persistent(&setup.persistent_dir, self.pnn).map_err(|e| database_error(&e))?;
        let script_log_level = config.legacy.script_log_level;
        let helper =
            config.cluster.cluster_lock.as_deref().map(|option| {
                LockHelper::new(option, paths, environment.clone(), script_log_level)
            });
        let scripts = ScriptSetup {
            dir: paths.event_scripts_dir("legacy"),
            environment: environment.clone(),
            debug_script: config.event.debug_script.clone(),
        };
        let own_ip = self.tcp.local_addr()?.ip();
        let peer_addresses = peer_addresses(&nodes, self.pnn, self.port);
        let node_config = self.node_config(settings, tunables, &nodes, persistent_databases);
        Ok(CoreTask {
            node: Node::new(node_config, Instant::now()),
            inbox,
            peers: Peers::new(own_ip, lanes.clone()),
            clients: Clients::new(lanes.clone()),
            databases: Databases::new(setup, lanes.clone()),
            scripts: Scripts::new(scripts, lanes.clone()),
            cluster_lock: ClusterLock::new(helper, lanes.clone()),
            lanes,
            surroundings: Surroundings {
                listeners: Some(self.listeners()?),
                nodes_list: NodesReader::new(settings.nodes_source(), self.port),
                peer_addresses,
                ready,
                log,
                notify_script: paths.etcdir().join("notify.sh"),
                lock_debug_script: lock_debug_script(settings),
                environment,
                script_log_level,
                lock_memory: wants_realtime(settings).then_some(lock_memory),
            },
            load: Load::default(),
            exit: None,
        })
    }

    /// The sockets, for the runtime.
    fn listeners(&self) -> io::Result<(tokio::net::TcpListener, tokio::net::UnixListener)> {
        let (tcp, unix) = (self.tcp.try_clone()?, self.unix.try_clone()?);
        tcp.set_nonblocking(true)?;
        unix.set_nonblocking(true)?;
        Ok((
            tokio::net::TcpListener::from_std(tcp)?,
            tokio::net::UnixListener::from_std(unix)?,
        ))
    }

    fn node_config(
        &self,
        settings: &Settings,
        tunables: ctdb_conf::Tunables,
        nodes: &[NodeEntry],
        persistent_databases: Vec<String>,
    ) -> NodeConfig {
        let config = &settings.config;
        let pinned = test_samba_version();
        NodeConfig {
            pnn: self.pnn,
            nodes: nodes
                .iter()
                .map(|node| configured_node(*node, self.port))
                .collect(),
            tunables,
            capabilities: capabilities(config),
            start_flags: start_flags(config),
            cluster_lock: config.cluster.cluster_lock.clone(),
            leader_timeout: config.cluster.leader_timeout,
            keepalive_interval: config.cluster.keepalive_interval,
            failover_disabled: config.failover.disabled,
            version: pinned.unwrap_or(SAMBA_VERSION),
            version_pinned: pinned.is_some(),
            fast_start: settings.paths.test_mode(),
            persistent_databases,
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            debug_level: config.logging.level.number().into(),
            started: since_1970(),
            seed: RandomState::new().build_hasher().finish(),
        }
    }
}

/// Every node that is there, but ourselves.
fn peer_addresses(nodes: &[NodeEntry], me: Pnn, port: u16) -> Vec<(Pnn, SocketAddr)> {
    let numbered = (0..).map_while(Pnn::new).zip(nodes);
    numbered
        .filter(|(pnn, _)| *pnn != me)
        .filter_map(|(pnn, node)| Some((pnn, SocketAddr::new(node.address()?, port))))
        .collect()
}

fn capabilities(config: &ctdb_conf::Config) -> Capabilities {
    let mut capabilities = Capabilities::DEFAULT;
    capabilities.set(Capabilities::LEADER, config.cluster.leader_capability);
    capabilities.set(Capabilities::LMASTER, config.legacy.lmaster_capability);
    capabilities
}

fn start_flags(config: &ctdb_conf::Config) -> NodeFlags {
    let mut flags = NodeFlags::empty();
    if config.legacy.start_as_disabled {
        info!("This node is configured to start in DISABLED state");
        flags |= NodeFlags::PERMANENTLY_DISABLED;
    }
    if config.legacy.start_as_stopped {
        info!("This node is configured to start in STOPPED state");
        flags |= NodeFlags::STOPPED;
    }
    flags
}

/// The version that a test pretends to have (config.md 4): `major << 16 | minor`, in decimal.
fn test_samba_version() -> Option<SambaVersion> {
    let text = std::env::var("CTDB_TEST_SAMBA_VERSION").ok()?;
    text.parse().ok().map(SambaVersion)
}

/// Whether the daemon runs with real-time priority, and stays in memory.
fn wants_realtime(settings: &Settings) -> bool {
    settings.config.legacy.realtime_scheduling
        && !settings.paths.test_mode()
        && std::env::var_os("CTDB_NOSETSCHED").is_none()
}

/// What children find in their environment (config.md 4).
fn child_environment(settings: &Settings) -> ChildEnvironment {
    let Settings { paths, config, .. } = settings;
    let base = std::env::var_os("CTDB_BASE").unwrap_or_else(|| paths.etcdir().into());
    let mut environment = ChildEnvironment::default()
        .with("CTDB_BASE", base)
        .with("CTDB_LOGGING", config.logging.location.to_string())
        .with("CTDB_DEBUGLEVEL", config.logging.level.name());
    if config.logging.location == LogLocation::Stderr {
        environment = environment.with("CTDB_INTERACTIVE", "true");
    }
    if let Some(script) = &config.database.lock_debug_script {
        environment = environment.with("CTDB_DEBUG_LOCKS", script);
    }
    environment
}

/// What looks into locks that do not come. It need not exist.
fn lock_debug_script(settings: &Settings) -> PathBuf {
    match &settings.config.database.lock_debug_script {
        Some(script) => script.clone(),
        None => settings.paths.etcdir().join("debug_locks.sh"),
    }
}

/// What the clock of the machine shows.
pub(crate) fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
