//! Who has a file open (proc(5)).

use std::fs;
use std::path::{Path, PathBuf};

/// Numbers of the processes, this one included, that have a file in this folder open.
pub fn users_of(folder: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| open_files(*pid).iter().any(|file| file.starts_with(folder)))
        .collect()
}

/// None of a process that has ended meanwhile, or that belongs to somebody else.
fn open_files(pid: i32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_user_while_it_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(!users_of(folder.path()).contains(&me));
        let file = fs::File::create(folder.path().join("file")).unwrap();
        assert!(users_of(folder.path()).contains(&me));
        drop(file);
        assert!(!users_of(folder.path()).contains(&me));
    }
}
