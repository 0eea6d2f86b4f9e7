//! The pid file: says which process the daemon is, and by its lock that there is only one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ctdb_sys::file_lock::{TryLock, try_lock_byte};

/// The pid file of this process. Removed when dropped.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    /// Closing any descriptor of the file would end the lock.
    _locked: File,
}

impl PidFile {
    /// Creates and locks the file. Fails if another process has it locked.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)?;
        if try_lock_byte(&file, 0)? == TryLock::Contended {
            return Err(io::Error::other("another ctdbd is running"));
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self {
            path: path.to_owned(),
            _locked: file,
        })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_file_has_the_pid_while_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctdbd.pid");
        std::fs::write(&path, "123456789 left by somebody").unwrap();
        let file = PidFile::create(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_another_process_has_locked_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctdbd.pid");
        // A process that locks the file as a daemon does: classic lock on byte 0.
        let script = "import fcntl,sys,time\n\
            f=open(sys.argv[1],'w'); fcntl.lockf(f, fcntl.LOCK_EX); f.write('77'); f.flush()\n\
            print('locked', flush=True); time.sleep(600)";
        let mut holder = Command::new("python3")
            .args(["-c", script, path.to_str().unwrap()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test needs python3");
        let mut line = [0; 7];
        io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line).unwrap();
        let refused = PidFile::create(&path).unwrap_err();
        assert_eq!(refused.to_string(), "another ctdbd is running");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "77");
        holder.kill().unwrap();
        holder.wait().unwrap();
    }
}
