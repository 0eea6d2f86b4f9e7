//! The two sockets of a daemon: which TCP address is ours, and the Unix socket with its
//! permissions (cluster.md 1.1 step 15, 1.2).

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use ctdb_conf::NodeEntry;
use ctdb_proto::{DEFAULT_PORT, Pnn};
use ctdb_sys::addresses::is_local;
use ctdb_sys::file_lock::lock_byte;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getegid, geteuid};
use tracing::{info, warn};

/// Why a socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("No nodes available to attempt bind to - is the nodes file empty?")]
    NoNodes,
    #[error("Unable to bind to any node address - giving up{}", .last.as_ref().map(|e| format!(" ({e})")).unwrap_or_default())]
    NoneBound { last: Option<io::Error> },
    #[error("Can not determine PNN - unknown node address {0}")]
    UnknownAddress(IpAddr),
    #[error("Failed to bind() to {address} - {source}")]
    Bind {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("Unable to lock {} - {source}", .path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("Unable to bind on ctdb socket '{}' - {source}", .path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("Unable to bind on ctdb socket '{}' - another process listens there", .path.display())]
    UnixInUse { path: PathBuf },
    #[error("Unable to secure (chmod) ctdb socket '{}' - {source}", .path.display())]
    Secure { path: PathBuf, source: io::Error },
}

/// The TCP port of CTDB: that of the services database, else the usual one.
pub(crate) fn ctdb_port() -> u16 {
    let services = std::fs::read_to_string("/etc/services").unwrap_or_default();
    port_in_services(&services).unwrap_or(DEFAULT_PORT)
}

fn port_in_services(services: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let port = words.next()?.strip_suffix("/tcp")?;
        let is_ctdb = name == "ctdb" || words.any(|alias| alias == "ctdb");
        if is_ctdb { port.parse().ok() } else { None }
    })
}

/// Listens on the address of this node, and thereby finds out which node this is.
pub(crate) fn listen_tcp(
    nodes: &[NodeEntry],
    configured: Option<IpAddr>,
    port: u16,
    rundir: &Path,
) -> Result<(TcpListener, Pnn), ListenError> {
    match configured {
        Some(address) => {
            let pnn = find_node(nodes, address).ok_or(ListenError::UnknownAddress(address))?;
            let address = SocketAddr::new(address, port);
            let listener = TcpListener::bind(address)
                .map_err(|source| ListenError::Bind { address, source })?;
            Ok((listener, pnn))
        }
        None => listen_on_first(nodes, port, rundir),
    }
}

fn find_node(nodes: &[NodeEntry], address: IpAddr) -> Option<Pnn> {
    let index = nodes
        .iter()
        .position(|node| node.address() == Some(address))?;
    Pnn::new(u32::try_from(index).ok()?)
}

/// Takes the first address of the nodes list that is ours and free. A lock keeps two daemons on
/// one host from trying at the same time.
fn listen_on_first(
    nodes: &[NodeEntry],
    port: u16,
    rundir: &Path,
) -> Result<(TcpListener, Pnn), ListenError> {
    let path = rundir.join(".socket_lock");
    let locked = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o666)
        .open(&path);
    let lock = locked.and_then(|file| lock_byte(&file, 0).map(|()| file));
    let _lock = lock.map_err(|source| ListenError::Lock { path, source })?;
    let mut last = None;
    let mut present = false;
    for address in nodes.iter().filter_map(NodeEntry::address) {
        present = true;
        if !is_local(address).unwrap_or(false) {
            continue;
        }
        match TcpListener::bind(SocketAddr::new(address, port)) {
            Ok(listener) => {
                let pnn = find_node(nodes, address).ok_or(ListenError::UnknownAddress(address))?;
                return Ok((listener, pnn));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(if present {
        ListenError::NoneBound { last }
    } else {
        ListenError::NoNodes
    })
}

/// The socket file for clients. Removed when dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens for clients on a socket that only the owner of this process may connect to. Connections
/// wait until the daemon accepts them.
pub(crate) fn listen_unix(
    path: &Path,
    test_mode: bool,
) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed = |source| ListenError::Unix {
        path: path.to_owned(),
        source,
    };
    remove_stale(path)?;
    // From its first moment the socket must not be open for others.
    let before = umask(Mode::from_bits_truncate(0o077));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(failed)?;
    let file = SocketFile(path.to_owned());
    secure(path, test_mode).map_err(|source| ListenError::Secure {
        path: path.to_owned(),
        source,
    })?;
    info!("Listening to ctdb socket {}", path.display());
    Ok((listener, file))
}

/// Removes the socket of a daemon that is no more. Anything else at the path is left alone.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    if UnixStream::connect(path).is_ok() {
        return Err(ListenError::UnixInUse {
            path: path.to_owned(),
        });
    }
    match std::fs::remove_file(path) {
        Ok(()) => warn!("Removed stale socket {}", path.display()),
        Err(source) => {
            return Err(ListenError::Unix {
                path: path.to_owned(),
                source,
            });
        }
    }
    Ok(())
}

fn secure(path: &Path, test_mode: bool) -> io::Result<()> {
    if !test_mode {
        chown(path, Some(geteuid().as_raw()), Some(getegid().as_raw()))?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> NodeEntry {
        NodeEntry::Present(text.parse().unwrap())
    }

    #[test]
    fn the_port_comes_from_the_services_database() {
        assert_eq!(
            port_in_services("ssh 22/tcp\nctdb\t4444/tcp # x\n"),
            Some(4444)
        );
        assert_eq!(port_in_services("ctdb 4444/udp\nx 5/tcp y ctdb\n"), Some(5));
        assert_eq!(port_in_services("# ctdb 1/tcp\nctdbx 2/tcp"), None);
    }

    #[test]
    fn the_first_local_address_of_the_list_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = [
            entry("192.0.2.1"),
            NodeEntry::Deleted,
            entry("127.0.0.1"),
            entry("127.0.0.2"),
        ];
        let (listener, pnn) = listen_tcp(&nodes, None, 0, dir.path()).unwrap();
        assert_eq!(pnn.get(), 2);
        assert_eq!(
            listener.local_addr().unwrap().ip(),
            nodes[2].address().unwrap()
        );
    }

    #[test]
    fn a_configured_address_must_be_in_the_list_and_local() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = [entry("127.0.0.1"), entry("192.0.2.1")];
        let listen = |address: &str| {
            let address = Some(address.parse().unwrap());
            listen_tcp(&nodes, address, 0, dir.path()).map(|(_, pnn)| pnn.get())
        };
        assert_eq!(listen("127.0.0.1").unwrap(), 0);
        assert!(matches!(
            listen("127.0.0.9"),
            Err(ListenError::UnknownAddress(_))
        ));
        assert!(matches!(listen("192.0.2.1"), Err(ListenError::Bind { .. })));
    }

    #[test]
    fn without_nodes_there_is_nothing_to_listen_on() {
        let dir = tempfile::tempdir().unwrap();
        let error = listen_tcp(&[NodeEntry::Deleted], None, 0, dir.path()).unwrap_err();
        assert!(matches!(error, ListenError::NoNodes));
    }

    #[test]
    fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, file) = listen_unix(&path, true).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let refused = listen_unix(&path, true).unwrap_err();
        assert!(matches!(refused, ListenError::UnixInUse { .. }));
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        std::fs::write(&path, "precious").unwrap();
        assert!(listen_unix(&path, true).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
