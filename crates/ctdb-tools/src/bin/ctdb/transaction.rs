//! Transactions on persistent and replicated databases (`data-plane.md` 7.2).

use std::collections::BTreeMap;
use std::time::Duration;

use ctdb_proto::control::Request;
use ctdb_proto::{
    ControlFlags, DB_SEQNUM_KEY, GLockEntry, GLockType, MAX_PACKET_LEN, RecBuffer, RecordHeader,
    ReqId, Rsn, ServerId, Wire,
};
use tdb::Db;
use tokio::time::sleep;

use crate::context::Context;
use crate::database::Database;
use crate::exit::{EINVAL, EIO, Failure};
use crate::g_lock::GLockHeld;

/// Time between two tries of a commit that a recovery ended.
const RETRY: Duration = Duration::from_millis(100);

/// At most so many bytes stand before a record, or before all of them, in a packet.
const MAX_OVERHEAD: usize = 128;

/// What one tool run reads and writes of a database, while nobody else writes.
pub(crate) struct Transaction<'a> {
    context: &'a Context,
    database: &'a Database,
    db: &'a Db,
    lock: GLockHeld,
    /// Records to write, each as it will be.
    writes: BTreeMap<Vec<u8>, Stored>,
}

/// A record with its header.
#[derive(Clone, Debug, Default)]
struct Stored {
    header: RecordHeader,
    data: Vec<u8>,
}

impl<'a> Transaction<'a> {
    /// Waits until nobody else is in a transaction on the database; to read, until nobody writes.
    pub(crate) async fn start(
        context: &'a Context,
        database: &'a Database,
        db: &'a Db,
        kind: GLockType,
    ) -> Result<Self, Failure> {
        let name = format!("transaction_db_0x{:08x}", database.id.get());
        let own = own_entry(context, database, kind);
        let lock = GLockHeld::take(context, &name, own)
            .await
            .map_err(|failure| {
                let code = failure.code();
                let database = &database.name;
                failure.and(format!(
                    "transaction_start: {database} g_lock lock failed, ret={code}"
                ))
            })?;
        Ok(Self {
            context,
            database,
            db,
            lock,
            writes: BTreeMap::new(),
        })
    }

    /// The data of a record; none if it does not exist.
    pub(crate) fn fetch(&self, key: &[u8]) -> Result<Vec<u8>, Failure> {
        self.newest(key).map(|stored| stored.data)
    }

    /// Sets the data of a record; no data deletes it. What is as it was is not written.
    pub(crate) fn store(&mut self, key: &[u8], data: &[u8]) -> Result<(), Failure> {
        let old = self.newest(key)?;
        if old.data != data {
            let header = RecordHeader {
                rsn: Rsn::new(old.header.rsn.get().wrapping_add(1)),
                dmaster: self.context.local.get(),
                ..old.header
            };
            let data = data.to_vec();
            self.writes.insert(key.to_vec(), Stored { header, data });
        }
        Ok(())
    }

    /// Has all nodes store what was written, and ends the transaction.
    pub(crate) async fn commit(mut self) -> Result<(), Failure> {
        let done = if self.writes.is_empty() {
            Ok(())
        } else {
            self.write_all().await
        };
        let released = self.lock.release(self.context).await;
        done.and(released)
    }

    /// Ends the transaction without writing anything.
    pub(crate) async fn cancel(self) -> Result<(), Failure> {
        self.lock.release(self.context).await
    }

    /// Sends the records until their commit is known to be done, or not to be possible. Where a
    /// recovery came between, the sequence number tells whether it completed the commit.
    async fn write_all(&mut self) -> Result<(), Failure> {
        let old = self.seqnum()?;
        self.store(DB_SEQNUM_KEY, &encoded(old.wrapping_add(1)))?;
        let request = Request::Trans3Commit(self.records()?);
        loop {
            if self.send(&request).await? {
                return Ok(());
            }
            let now = self.seqnum()?;
            if now == old.wrapping_add(1) {
                return Ok(());
            }
            if now != old {
                let name = &self.database.name;
                let line =
                    format!("transaction_commit: {name} seqnum mismatch {now:#x} != {old:#x} + 1");
                return Err(Failure::with_code(EINVAL, line));
            }
            sleep(RETRY).await;
        }
    }

    /// Whether the daemon did the commit. It answers in any case, so there is no limit: not to
    /// know the result would be worse than to wait.
    async fn send(&self, request: &Request) -> Result<bool, Failure> {
        let control = request.to_control(ControlFlags::empty());
        let dest = self.context.local.into();
        let reply = self.context.client.raw_control(dest, control, None).await;
        let reply = reply.map_err(|error| {
            let (name, code) = (&self.database.name, error.code());
            let line = format!("transaction_commit: {name} TRANS3_COMMIT failed, ret={code}");
            Failure::from(error).and(line)
        })?;
        Ok(reply.status == 0)
    }

    fn records(&self) -> Result<RecBuffer, Failure> {
        let lengths = self.writes.iter();
        let size: usize = lengths
            .map(|(key, stored)| MAX_OVERHEAD + key.len() + stored.data.len())
            .sum();
        if size > MAX_PACKET_LEN - MAX_OVERHEAD {
            let line = format!("transaction of {size} bytes does not fit into one packet");
            return Err(Failure::with_code(EINVAL, line));
        }
        let mut records = RecBuffer::builder(self.database.id);
        for (key, stored) in &self.writes {
            records.push_record(ReqId::new(0), key, &stored.header, &stored.data);
        }
        Ok(records.finish())
    }

    /// The sequence number in the local file: 0 before the first commit.
    fn seqnum(&self) -> Result<u64, Failure> {
        let stored = read(self.db, DB_SEQNUM_KEY)?;
        if stored.data.is_empty() {
            return Ok(0);
        }
        ctdb_proto::decode_exact(stored.data.as_slice()).map_err(|_| Failure::silent(EINVAL))
    }

    /// A record as this transaction sees it.
    fn newest(&self, key: &[u8]) -> Result<Stored, Failure> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => read(self.db, key),
        }
    }
}

/// The name by which others see who holds the lock.
fn own_entry(context: &Context, database: &Database, kind: GLockType) -> GLockEntry {
    let (pid, id) = (u64::from(std::process::id()), database.id.get());
    let holder = ServerId {
        pid,
        task_id: id,
        vnn: context.local.get(),
        unique_id: u64::from(id) << 32 | pid,
    };
    GLockEntry { kind, holder }
}

/// A record of the local file. One that does not exist has neither data nor a history.
fn read(db: &Db, key: &[u8]) -> Result<Stored, Failure> {
    let value = db
        .fetch(key)
        .map_err(|error| Failure::with_code(EIO, error.to_string()))?;
    let Some(value) = value else {
        return Ok(Stored::default());
    };
    let (header, data) = RecordHeader::split(&value).map_err(|_| Failure::silent(EIO))?;
    let data = data.to_vec();
    Ok(Stored { header, data })
}

fn encoded(number: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8);
    number.encode(&mut bytes);
    bytes
}
