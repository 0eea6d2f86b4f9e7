//! A file system that does not answer.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{TestResult, need_root};

/// A folder on a file system whose server never answers: everybody who looks into it, or runs a
/// program in it, waits until this is dropped, and then finds the folder as it was before.
pub struct HungFolder {
    path: PathBuf,
    /// The server's end. Closing it ends all waits with an error.
    server: Option<File>,
}

impl HungFolder {
    /// # Panics
    ///
    /// When the test does not run as root, or the machine has no `/dev/fuse`.
    pub fn over(path: &Path) -> TestResult<Self> {
        const DEVICE: &str = "/dev/fuse";
        need_root("it mounts a file system");
        let server = OpenOptions::new().read(true).write(true).open(DEVICE);
        let server = server.unwrap_or_else(|error| {
            panic!("this test needs {DEVICE} (`modprobe fuse` on the machine): {error}")
        });
        let fd = server.as_raw_fd();
        let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("hung"), path, Some("fuse"), flags, Some(&*options))?;
        Ok(Self {
            path: path.to_owned(),
            server: Some(server),
        })
    }
}

impl Drop for HungFolder {
    fn drop(&mut self) {
        drop(self.server.take());
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("{} cannot be unmounted: {error}", self.path.display());
        }
    }
}
