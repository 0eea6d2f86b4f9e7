//! Finding, opening and checking the files of databases (data-plane.md 1.3, 1.4).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ctdb_core::{DbAnswer, DbFailure};
use ctdb_proto::{DbFlags, Pnn};
use ctdb_sys::LocalTime;
use tdb::{Db, OpenError, OpenOptions};
use tracing::{error, warn};

use super::health::HealthMarks;
use super::{DbFile, open_flags, path_in};

/// Longest name of a database: its file name has the node number behind it.
const MAX_NAME: usize = 255 - 11;

/// Where databases are, and how they are opened.
pub(crate) struct DbSetup {
    pub(crate) volatile_dir: PathBuf,
    pub(crate) persistent_dir: PathBuf,
    /// For files of our own that nobody else looks at.
    pub(crate) state_dir: PathBuf,
    pub(crate) pnn: Pnn,
    /// Volatile databases use mutexes: it is configured, and they work here.
    pub(crate) mutexes: bool,
    pub(crate) health: HealthMarks,
}

/// A database that was opened, on its way to the core task.
pub(crate) struct Attached {
    pub(crate) file: Arc<DbFile>,
    pub(crate) handle: Db,
    pub(crate) answer: DbAnswer,
}

/// What the node asks for.
pub(crate) struct AttachRequest {
    pub(crate) name: String,
    pub(crate) kind: DbFlags,
    pub(crate) hash_size: u32,
    pub(crate) max_dead: u32,
}

impl DbSetup {
    /// Opens or creates a database. May wait for others who open it.
    pub(crate) fn attach(&self, request: AttachRequest) -> Result<Attached, DbFailure> {
        let AttachRequest {
            name,
            kind,
            hash_size,
            max_dead,
        } = request;
        check_name(&name)?;
        let persistent = kind.contains(DbFlags::PERSISTENT);
        let dir = if persistent {
            &self.persistent_dir
        } else {
            &self.volatile_dir
        };
        let path = path_in(dir, &name, self.pnn);
        let options = OpenOptions::new()
            .flags(open_flags(kind, self.mutexes))
            .hash_size(hash_size)
            .max_dead(max_dead)
            .create(true);
        let handle = if persistent {
            self.open_persistent(&name, &path, &options)?
        } else {
            open_empty(&path, &options)?
        };
        let health = if persistent {
            self.health
                .get(&name)
                .map_err(|error| DbFailure(format!("{name}: {error}")))?
        } else {
            None
        };
        let answer = DbAnswer::Attached {
            name: name.clone(),
            path: path.to_string_lossy().into_owned(),
            open_flags: i32::try_from(handle.flags().bits()).unwrap_or_default(),
            health,
        };
        let file = Arc::new(DbFile::new(name, kind, path, options));
        Ok(Attached {
            file,
            handle,
            answer,
        })
    }

    /// Opens a persistent database. A damaged one is put aside and marked as unhealthy; the next
    /// recovery fills the new file from the other nodes. One that cannot be read for another reason,
    /// as when too many files are open, stays as it is.
    fn open_persistent(
        &self,
        name: &str,
        path: &Path,
        options: &OpenOptions,
    ) -> Result<Db, DbFailure> {
        let failed = |error: &dyn std::fmt::Display| DbFailure(format!("{name}: {error}"));
        let problem = match open_sound(options, path) {
            Ok(db) => return Ok(db),
            Err(problem) => problem,
        };
        error!("tdb_check({}) failed: {problem}", path.display());
        if !problem.is_damage() {
            error!("Failed to attach to persistent database '{name}'");
            return Err(failed(&problem));
        }
        let backup = quarantine(path).map_err(|error| failed(&error))?;
        let reason = format!("ERROR - Backup of corrupted TDB in '{}'", backup.display());
        self.health
            .set(name, Some(&reason))
            .map_err(|error| failed(&error))?;
        options.open(path).map_err(|error| failed(&error))
    }
}

/// Opens a file whose records are all there.
pub(crate) fn open_sound(options: &OpenOptions, path: &Path) -> Result<Db, OpenError> {
    let db = options.open(path)?;
    db.check()?;
    Ok(db)
}

/// Opens a volatile or replicated database, which must be empty then: records of an earlier life
/// of this daemon could be older than those of other nodes.
fn open_empty(path: &Path, options: &OpenOptions) -> Result<Db, DbFailure> {
    let shown = path.display();
    let db = options
        .open(path)
        .map_err(|error| DbFailure(format!("{shown}: {error}")))?;
    match db.count_records() {
        Ok(0) => Ok(db),
        Ok(_) => Err(DbFailure(format!(
            "tdb '{shown}' not empty on attach: another process still has it open"
        ))),
        Err(error) => Err(DbFailure(format!("{shown}: {error}"))),
    }
}

fn check_name(name: &str) -> Result<(), DbFailure> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains(['/', '\0']) {
        return Err(DbFailure(format!(
            "'{}' is no name for a database",
            name.escape_debug()
        )));
    }
    Ok(())
}

/// Moves a file out of the way; returns its new path.
pub(crate) fn quarantine(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".corrupted.{}.0Z", compact_utc(SystemTime::now())));
    let backup = PathBuf::from(name);
    std::fs::rename(path, &backup)?;
    error!("moved {} to {}", path.display(), backup.display());
    Ok(backup)
}

/// `YYYYMMDDHHMMSS` in universal time.
fn compact_utc(moment: SystemTime) -> String {
    let seconds = moment
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let seconds = i64::try_from(seconds).unwrap_or_default();
    let here = LocalTime::from_unix(seconds);
    // Local time of as many seconds earlier as we are ahead shows what UTC shows now.
    let utc = here.and_then(|here| LocalTime::from_unix(seconds - here.utc_offset));
    utc.map_or_else(
        || seconds.to_string(),
        |utc| {
            let LocalTime {
                year,
                month,
                day,
                hour,
                minute,
                second,
                ..
            } = utc;
            format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
        },
    )
}

/// Names of the persistent databases of this node that are in a folder, sorted.
pub(crate) fn find_persistent(dir: &Path, pnn: Pnn) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let Ok(file_name) = entry?.file_name().into_string() else {
            continue;
        };
        match parse_file_name(&file_name) {
            Some((name, owner)) if owner == pnn.get() => names.push(name.to_owned()),
            None if !file_name.contains(".tdb.") => {}
            _ => warn!("Ignoring persistent database '{file_name}'"),
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Splits `NAME.tdb.PNN`: the first `.tdb.` counts, and only digits may follow.
fn parse_file_name(file_name: &str) -> Option<(&str, u32)> {
    let end = file_name.find(".tdb.")? + ".tdb".len();
    let (name, number) = file_name.split_at_checked(end)?;
    let digits = number.strip_prefix('.')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((name, digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use tdb::StoreMode;

    use super::*;

    fn setup(dir: &Path) -> DbSetup {
        let pnn = Pnn::new(1).unwrap();
        DbSetup {
            volatile_dir: dir.join("volatile"),
            state_dir: dir.to_owned(),
            persistent_dir: dir.join("persistent"),
            pnn,
            mutexes: tdb::mutexes_work(),
            health: HealthMarks::open(dir, pnn).unwrap(),
        }
    }

    fn folders() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for kind in ["volatile", "persistent"] {
            std::fs::create_dir(dir.path().join(kind)).unwrap();
        }
        dir
    }

    fn request(name: &str, kind: DbFlags) -> AttachRequest {
        AttachRequest {
            name: name.into(),
            kind,
            hash_size: 101,
            max_dead: 5,
        }
    }

    #[test]
    fn files_are_named_by_database_and_node() {
        let dir = folders();
        let setup = setup(dir.path());
        let volatile = setup.attach(request("a.tdb", DbFlags::empty())).unwrap();
        assert_eq!(volatile.file.path, dir.path().join("volatile/a.tdb.1"));
        assert_eq!(volatile.handle.flags().bits(), 0x1c41);
        let persistent = setup.attach(request("p.tdb", DbFlags::PERSISTENT)).unwrap();
        assert!(dir.path().join("persistent/p.tdb.1").is_file());
        let DbAnswer::Attached {
            open_flags, health, ..
        } = persistent.answer
        else {
            panic!("no answer to an attach")
        };
        assert_eq!((open_flags, health), (0x400, None));
    }

    #[test]
    fn a_volatile_database_is_emptied_unless_somebody_else_uses_it() {
        let dir = folders();
        let setup = setup(dir.path());
        let first = setup.attach(request("a.tdb", DbFlags::REPLICATED)).unwrap();
        first
            .handle
            .store(b"key", b"value", StoreMode::Replace)
            .unwrap();
        let refused = setup
            .attach(request("a.tdb", DbFlags::REPLICATED))
            .err()
            .unwrap();
        assert!(refused.0.contains("not empty on attach"), "{refused}");
        drop(first);
        let again = setup.attach(request("a.tdb", DbFlags::REPLICATED)).unwrap();
        assert_eq!(again.handle.count_records().unwrap(), 0);
    }

    #[test]
    fn a_damaged_persistent_database_is_put_aside_and_marked() {
        let dir = folders();
        let path = dir.path().join("persistent/p.tdb.1");
        std::fs::write(&path, [0x55; 5000]).unwrap();
        let attached = setup(dir.path())
            .attach(request("p.tdb", DbFlags::PERSISTENT))
            .unwrap();
        let DbAnswer::Attached {
            health: Some(reason),
            ..
        } = attached.answer
        else {
            panic!("the database is not marked")
        };
        let backup = reason.split('\'').nth(1).unwrap();
        assert!(backup.starts_with(path.to_str().unwrap()), "{reason}");
        assert!(backup.contains(".1.corrupted.20"), "{reason}");
        assert_eq!(std::fs::read(backup).unwrap(), [0x55; 5000]);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let dir = folders();
        let setup = setup(dir.path());
        for name in ["", "../a.tdb", "a/b.tdb", &"x".repeat(245)] {
            assert!(
                setup.attach(request(name, DbFlags::empty())).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn persistent_databases_of_this_node_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "b.tdb.1",
            "a.tdb.1",
            "a.tdb.2",
            "c.tdb.1x",
            "c.tdb.corrupted",
            "notes.1",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = find_persistent(dir.path(), Pnn::new(1).unwrap()).unwrap();
        assert_eq!(found, ["a.tdb", "b.tdb"]);
    }

    #[test]
    fn quarantine_times_are_universal() {
        let moment = UNIX_EPOCH + std::time::Duration::from_secs(1_795_193_120);
        assert_eq!(compact_utc(moment), "20261120164520");
    }
}
