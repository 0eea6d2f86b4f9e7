//! Marks of persistent databases whose content must not be trusted (data-plane.md 1.6).
//!
//! They are kept in a TDB of their own, `persistent_health.tdb.PNN` in the state directory: the
//! name of the database leads to the reason; no record means healthy.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ctdb_proto::Pnn;
use tdb::{Db, Flags, OpenError, OpenOptions, StoreMode};

use super::attach::open_sound;
use super::path_in;

/// Name of the file, without the node number.
const FILE_NAME: &str = "persistent_health.tdb";

/// The marks of this node.
pub(crate) struct HealthMarks(Mutex<Db>);

impl HealthMarks {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    ///
    /// Also when it is damaged, as in the original (data-plane.md 1.4): without the marks a database
    /// that was put aside and is empty would count as healthy.
    pub(crate) fn open(state_dir: &Path, pnn: Pnn) -> Result<Self, OpenError> {
        let path = path_in(state_dir, FILE_NAME, pnn);
        let options = OpenOptions::new()
            .flags(Flags::DISALLOW_NESTING)
            .create(true);
        Ok(Self(Mutex::new(open_sound(&options, &path)?)))
    }

    /// Why the database is unhealthy, if it is.
    pub(crate) fn get(&self, database: &str) -> tdb::Result<Option<String>> {
        let reason = self.db().fetch(database.as_bytes())?;
        Ok(reason.map(|text| String::from_utf8_lossy(&text).into_owned()))
    }

    /// Marks a database as unhealthy, or with `None` as healthy.
    pub(crate) fn set(&self, database: &str, reason: Option<&str>) -> tdb::Result<()> {
        let db = self.db();
        db.transaction_start()?;
        let changed = match reason {
            Some(reason) => db.store(database.as_bytes(), reason.as_bytes(), StoreMode::Replace),
            None => db.delete(database.as_bytes()).map(|_| ()),
        };
        match changed {
            Ok(()) => db.transaction_commit(),
            Err(error) => {
                db.transaction_cancel()?;
                Err(error)
            }
        }
    }

    fn db(&self) -> MutexGuard<'_, Db> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let pnn = Pnn::new(2).unwrap();
        let marks = HealthMarks::open(dir.path(), pnn).unwrap();
        assert_eq!(marks.get("a.tdb").unwrap(), None);
        marks.set("a.tdb", Some("broken")).unwrap();
        marks.set("b.tdb", Some("broken too")).unwrap();
        marks.set("b.tdb", None).unwrap();
        drop(marks);
        assert!(dir.path().join("persistent_health.tdb.2").exists());
        let marks = HealthMarks::open(dir.path(), pnn).unwrap();
        assert_eq!(marks.get("a.tdb").unwrap().as_deref(), Some("broken"));
        assert_eq!(marks.get("b.tdb").unwrap(), None);
    }

    #[test]
    fn a_damaged_file_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("persistent_health.tdb.0");
        std::fs::write(&path, "this is not a TDB file at all").unwrap();
        let marks = HealthMarks::open(dir.path(), Pnn::new(0).unwrap());
        assert!(marks.is_err_and(|error| error.is_damage()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
