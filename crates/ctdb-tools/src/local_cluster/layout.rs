//! The folders and files of a local cluster: where they lie, making them, removing them.
//!
//! ```text
//! DIR/.ctdb-cluster          marker: says that the folder is ours and what the nodes are
//! DIR/nodes                  one address a line (config.md 2.1)
//! DIR/cluster.lock           with a cluster lock only
//! DIR/share                  what the smbd of all nodes serve
//! DIR/node.K/                CTDB_BASE of node K
//!     ctdb.conf  nodes -> ../nodes  events/legacy/  ctdb.tunables  log.ctdb
//!     run/                   ctdbd.socket, ctdbd.pid
//!     var/volatile, persistent, state
//!     samba/                 smb.conf and the folders of the node's smbd
//! ```

use std::fmt::Write as _;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::error::{Error, Result};

/// Name of the file that marks a folder as a cluster made here.
pub(super) const MARKER: &str = ".ctdb-cluster";

/// The folder of a cluster. Cheap to make; nothing is created before [`Layout::create`].
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
}

/// What the marker file says: enough to start, stop and remove the cluster in another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The folder itself was made with the cluster and goes with it.
    pub made_folder: bool,
    pub cluster_lock: bool,
    /// Address and daemon program of each node.
    pub nodes: Vec<(Ipv4Addr, PathBuf)>,
}

impl Layout {
    /// `dir` must be absolute: daemons and their children do not share our working directory.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `CTDB_BASE` of a node.
    pub fn base(&self, pnn: usize) -> PathBuf {
        self.dir.join(format!("node.{pnn}"))
    }

    pub fn nodes_file(&self) -> PathBuf {
        self.dir.join("nodes")
    }

    pub fn cluster_lock(&self) -> PathBuf {
        self.dir.join("cluster.lock")
    }

    /// The folder that every smbd serves.
    pub fn share(&self) -> PathBuf {
        self.dir.join("share")
    }

    /// Makes the folder if need be and claims it with the marker.
    ///
    /// A folder with anything in it is refused: what is not ours must not end up beside what
    /// [`Layout::remove`] takes away. Writes also the nodes file and each node's folder.
    pub fn create(&self, mut marker: Marker, tunables: &[(&str, u32)]) -> Result<()> {
        self.check_socket_length(marker.nodes.len())?;
        marker.made_folder = self.make_or_check_folder()?;
        let path = self.dir.join(MARKER);
        fs::write(&path, marker.to_text()).map_err(Error::file("cannot write", &path))?;
        let mut nodes = String::new();
        for (address, _) in &marker.nodes {
            let _ = writeln!(nodes, "{address}");
        }
        write(&self.nodes_file(), &nodes)?;
        for (pnn, (address, _)) in marker.nodes.iter().enumerate() {
            self.create_node(pnn, *address, &marker, tunables)?;
        }
        Ok(())
    }

    /// Reads the marker of a cluster made earlier.
    pub fn marker(&self) -> Result<Marker> {
        let path = self.dir.join(MARKER);
        match fs::read_to_string(&path) {
            Ok(text) => Marker::from_text(&text).map_err(|(line, text)| {
                let text = text.to_owned();
                Error::BadMarker { path, line, text }
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::NotACluster {
                path: self.dir.clone(),
            }),
            Err(error) => Err(Error::file("cannot read", &path)(error)),
        }
    }

    /// Removes what [`Layout::create`] and the daemons made, and the folder if it was made too and
    /// nobody has put anything else in it.
    pub fn remove(&self) -> Result<()> {
        let marker = self.marker()?;
        for pnn in 0..marker.nodes.len() {
            remove(&self.base(pnn))?;
        }
        for path in [
            self.nodes_file(),
            self.cluster_lock(),
            self.share(),
            self.dir.join(MARKER),
        ] {
            remove(&path)?;
        }
        if marker.made_folder {
            // Fails when something else lies in it, and then it has to stay.
            let _ = fs::remove_dir(&self.dir);
        }
        Ok(())
    }

    fn make_or_check_folder(&self) -> Result<bool> {
        match fs::read_dir(&self.dir).map(|mut entries| entries.next().is_none()) {
            Ok(true) => Ok(false),
            Ok(false) => Err(Error::FolderInUse {
                path: self.dir.clone(),
            }),
            Err(_) => {
                // smbd goes through it as `nobody`, others need not read it.
                fs::DirBuilder::new()
                    .mode(0o711)
                    .create(&self.dir)
                    .map_err(Error::file("cannot make", &self.dir))?;
                Ok(true)
            }
        }
    }

    fn create_node(
        &self,
        pnn: usize,
        address: Ipv4Addr,
        marker: &Marker,
        tunables: &[(&str, u32)],
    ) -> Result<()> {
        let base = self.base(pnn);
        for folder in [
            "run",
            "var/volatile",
            "var/persistent",
            "var/state",
            "events/legacy",
        ] {
            make_folder(&base.join(folder))?;
        }
        let link = base.join("nodes");
        symlink("../nodes", &link).map_err(Error::file("cannot make", &link))?;
        let lock = marker.cluster_lock.then(|| self.cluster_lock());
        write(
            &base.join("ctdb.conf"),
            &ctdb_conf(&base, address, lock.as_deref()),
        )?;
        write(&base.join("ctdb.tunables"), &ctdb_tunables(tunables))?;
        Ok(())
    }

    fn check_socket_length(&self, nodes: usize) -> Result<()> {
        let longest = self.base(nodes).join("run/eventd.socket");
        if longest.as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(Error::PathTooLong {
                path: self.dir.clone(),
            });
        }
        Ok(())
    }
}

impl Marker {
    fn to_text(&self) -> String {
        let mut text = String::from("# Made by ctdb-cluster, which removes it with the cluster.\n");
        for (word, holds) in [
            ("made-folder", self.made_folder),
            ("cluster-lock", self.cluster_lock),
        ] {
            if holds {
                let _ = writeln!(text, "{word}");
            }
        }
        for (address, ctdbd) in &self.nodes {
            let _ = writeln!(text, "node {address} {}", ctdbd.display());
        }
        text
    }

    /// The error is the number and the text of the first line that is not understood.
    fn from_text(text: &str) -> Result<Self, (usize, &str)> {
        let mut marker = Self {
            made_folder: false,
            cluster_lock: false,
            nodes: Vec::new(),
        };
        for (index, line) in text.lines().enumerate() {
            match line.split_once(' ') {
                None if line == "made-folder" => marker.made_folder = true,
                None if line == "cluster-lock" => marker.cluster_lock = true,
                Some(("#", _)) => {}
                Some(("node", rest)) => {
                    let node = rest.split_once(' ').and_then(|(address, ctdbd)| {
                        Some((address.parse().ok()?, PathBuf::from(ctdbd)))
                    });
                    marker.nodes.push(node.ok_or((index + 1, line))?);
                }
                _ => return Err((index + 1, line)),
            }
        }
        Ok(marker)
    }
}

/// A new name for a folder in the folder for temporary files; nothing is made yet.
pub fn temporary_folder() -> PathBuf {
    let random = RandomState::new().hash_one(std::process::id());
    std::env::temp_dir().join(format!("ctdb-cluster.{random:016x}"))
}

/// Fails if the folder exists and belongs to someone else: who owns it could exchange its files.
pub fn check_owner(dir: &Path) -> Result<()> {
    match fs::symlink_metadata(dir) {
        Ok(meta) if meta.uid() != nix::unistd::geteuid().as_raw() => Err(Error::FolderOfAnother {
            path: dir.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Text of a node's `ctdb.conf` (`config.md` 1.3): only what differs from the defaults.
fn ctdb_conf(base: &Path, address: Ipv4Addr, cluster_lock: Option<&Path>) -> String {
    let base = base.display();
    let lock = match cluster_lock {
        Some(path) => format!("\tcluster lock = {}\n", path.display()),
        None => String::new(),
    };
    format!(
        "[logging]\n\
         \tlocation = file:{base}/log.ctdb\n\
         \tlog level = NOTICE\n\
         [cluster]\n\
         \tnode address = {address}\n\
         {lock}\
         [database]\n\
         \tvolatile database directory = {base}/var/volatile\n\
         \tpersistent database directory = {base}/var/persistent\n\
         \tstate database directory = {base}/var/state\n"
    )
}

/// Text of a node's `ctdb.tunables` (`config.md` 2.3).
fn ctdb_tunables(tunables: &[(&str, u32)]) -> String {
    let mut text = String::new();
    for (name, value) in tunables {
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

pub(super) fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::file("cannot make", path))
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::file("cannot change", path))
}

pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::file("cannot write", path))
}

/// Removes a file or folder, if it is there.
fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    result.map_err(Error::file("cannot remove", path))
}

/// `sun_path` without its terminating NUL.
const LONGEST_SOCKET_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            made_folder: false,
            cluster_lock: true,
            nodes: vec![
                (
                    Ipv4Addr::new(127, 2, 3, 1),
                    PathBuf::from("/usr/sbin/ctdbd"),
                ),
                (
                    Ipv4Addr::new(127, 2, 3, 2),
                    PathBuf::from("/a folder/ctdbd"),
                ),
            ],
        }
    }

    #[test]
    fn the_marker_reads_back_what_was_written() {
        assert_eq!(Marker::from_text(&marker().to_text()).unwrap(), marker());
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        assert_eq!(
            Marker::from_text("made-folder\nnode 1.2.3 /x\n"),
            Err((2, "node 1.2.3 /x"))
        );
    }

    #[test]
    fn all_that_was_made_goes_and_nothing_else() {
        let dir = temporary_folder();
        let layout = Layout::new(dir.clone());
        layout.create(marker(), &[]).unwrap();
        assert!(layout.marker().unwrap().made_folder);
        assert!(layout.base(1).join("nodes").exists());
        let stranger = dir.join("notes.txt");
        fs::write(&stranger, "mine").unwrap();

        layout.remove().unwrap();
        let left: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(left, [stranger]);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() {
        let dir = temporary_folder();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        let layout = Layout::new(dir.clone());
        assert!(matches!(
            layout.create(marker(), &[]),
            Err(Error::FolderInUse { .. })
        ));
        assert!(matches!(layout.remove(), Err(Error::NotACluster { .. })));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_folder_too_long_for_sockets_is_refused() {
        let layout = Layout::new(PathBuf::from(format!("/tmp/{}", "x".repeat(90))));
        assert!(matches!(
            layout.create(marker(), &[]),
            Err(Error::PathTooLong { .. })
        ));
    }
}
