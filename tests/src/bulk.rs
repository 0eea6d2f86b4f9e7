//! Many records, written on all nodes at once.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ctdb_tools::blocking::{ClientError, Connection, Database};

/// Calls that a client has under way at once.
const AT_ONCE: usize = 256;

/// For a reply of a daemon that has much to do.
const LIMIT: Duration = Duration::from_secs(60);

/// Records `record 0` to `record COUNT-1` of a volatile database, each written by the client of one
/// node: number modulo nodes.
#[derive(Debug)]
pub struct Bulk {
    sockets: Vec<PathBuf>,
    name: &'static str,
    count: usize,
}

impl Bulk {
    /// What every record holds.
    pub const DATA: &'static [u8] = b"some data";

    /// Nothing is written yet.
    pub fn new(sockets: Vec<PathBuf>, name: &'static str, count: usize) -> Self {
        Self {
            sockets,
            name,
            count,
        }
    }

    /// The key of a record.
    pub fn key(number: usize) -> Vec<u8> {
        format!("record {number}").into_bytes()
    }

    /// The number of the record with this key, if it is one of them.
    pub fn number(key: &[u8]) -> Option<usize> {
        let text = std::str::from_utf8(key).ok()?;
        text.strip_prefix("record ")?.parse().ok()
    }

    /// Writes all records.
    ///
    /// # Panics
    ///
    /// When a daemon does not serve.
    pub fn write(&self) {
        let nodes = self.sockets.len();
        self.on_all_nodes(|node, connection, database| {
            let mine: Vec<usize> = (node..self.count).step_by(nodes).collect();
            for numbers in mine.chunks(AT_ONCE) {
                let keys: Vec<_> = numbers.iter().copied().map(Self::key).collect();
                database.bring(connection, &keys)?;
                for key in keys {
                    database.update(connection, &key, |_| Self::DATA.to_vec())?;
                }
            }
            Ok(())
        });
    }

    /// Deletes some, each by the client of a node.
    ///
    /// # Panics
    ///
    /// When a daemon does not serve.
    pub fn delete(&self, deleter: impl Fn(usize) -> Option<usize> + Sync) {
        self.on_all_nodes(|node, connection, database| {
            let is_mine = |number: &usize| deleter(*number) == Some(node);
            let mine: Vec<usize> = (0..self.count).filter(is_mine).collect();
            for numbers in mine.chunks(AT_ONCE) {
                let is_elsewhere = |number: &usize| number % self.sockets.len() != node;
                let moved = numbers.iter().copied().filter(is_elsewhere);
                let moved: Vec<_> = moved.map(Self::key).collect();
                database.bring(connection, &moved)?;
                for number in numbers {
                    database.delete(connection, &Self::key(*number))?;
                }
            }
            Ok(())
        });
    }

    /// A connection to a node, and its file.
    ///
    /// # Panics
    ///
    /// When the daemon does not serve.
    pub fn open(&self, socket: &Path) -> (Connection, Database) {
        let mut connection = Connection::connect(socket).expect("the daemon serves");
        connection.set_limit(LIMIT);
        let database = connection.attach(self.name).expect("the daemon attaches");
        (connection, database)
    }

    fn on_all_nodes(
        &self,
        work: impl Fn(usize, &mut Connection, &Database) -> Result<(), ClientError> + Sync,
    ) {
        thread::scope(|scope| {
            for (node, socket) in self.sockets.iter().enumerate() {
                let work = &work;
                scope.spawn(move || {
                    let (mut connection, database) = self.open(socket);
                    let done = work(node, &mut connection, &database);
                    done.unwrap_or_else(|error| panic!("node {node}: {error}"));
                });
            }
        });
    }
}
