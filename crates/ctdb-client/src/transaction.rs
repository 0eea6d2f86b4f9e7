//! Transactions on persistent and replicated databases (`data-plane.md` 7.2).
//!
//! Every node has a full copy. A transaction takes a lock in the whole cluster, collects what it
//! changes, and has the daemon store all of it on all nodes at once. If the cluster recovers
//! meanwhile, recovery makes a half-done commit one that is done everywhere or nowhere; the
//! sequence number, which every commit raises, tells which.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{
    DB_SEQNUM_KEY, Dest, GLockType, MAX_PACKET_LEN, Opcode, RecBuffer, RecordHeader, ReqControl,
    ReqId, Rsn, Srvid, Wire, decode_exact,
};

use crate::control::request;
use crate::database::Database;
use crate::error::{RecordError, TransactionError};
use crate::file::Record;
use crate::g_lock::{GLocks, HeldGLock};

/// A transaction that has begun. Dropping it gives it up.
#[derive(Debug)]
pub struct Transaction<'db> {
    database: &'db Database,
    kind: GLockType,
    lock: HeldGLock,
    /// Sequence number of the database when the lock was taken.
    seqnum: u64,
    /// By key, as they will be stored.
    changes: BTreeMap<Bytes, Record>,
}

impl Database {
    /// Waits until no other transaction works on this database, and begins one.
    pub async fn transaction(&self) -> Result<Transaction<'_>, TransactionError> {
        self.begin(GLockType::Write).await
    }

    /// Begins a transaction that only reads, together with others that only read: the database
    /// does not change until it ends.
    pub async fn read_transaction(&self) -> Result<Transaction<'_>, TransactionError> {
        self.begin(GLockType::Read).await
    }

    async fn begin(&self, kind: GLockType) -> Result<Transaction<'_>, TransactionError> {
        if self.kind().is_volatile() {
            return Err(TransactionError::Volatile);
        }
        let attach = || GLocks::attach_within(self.client(), self.limit());
        let locks = self.g_locks.get_or_try_init(attach).await?;
        let name = format!("transaction_db_{}", self.id());
        let lock = locks.lock(&name, kind, self.id().get()).await?;
        Ok(Transaction {
            database: self,
            kind,
            lock,
            seqnum: self.local_seqnum().await?,
            changes: BTreeMap::new(),
        })
    }

    async fn local_seqnum(&self) -> Result<u64, RecordError> {
        let record = self.fetch_local(DB_SEQNUM_KEY).await?;
        let data = record.map(|record| record.data);
        // Data of another size counts as none.
        let number = data.and_then(|data| decode_exact(data).ok());
        Ok(number.unwrap_or(0))
    }
}

impl Transaction<'_> {
    /// What the record has, or will have after the commit. `None`: it does not exist or is empty.
    pub async fn fetch(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, TransactionError> {
        let record = self.newest(&key.into()).await?;
        let data = record.map(|record| record.data);
        Ok(data.filter(|data| !data.is_empty()))
    }

    /// Changes a record at the commit. Other nodes, and other clients, see nothing until then.
    pub async fn store(
        &mut self,
        key: impl Into<Bytes>,
        data: impl Into<Bytes>,
    ) -> Result<(), TransactionError> {
        if self.kind == GLockType::Read {
            return Err(TransactionError::ReadOnly);
        }
        let (key, data) = (key.into(), data.into());
        if key.is_empty() {
            return Err(RecordError::EmptyKey.into());
        }
        let old = self.newest(&key).await?;
        // A record that is not there has no data either.
        if old.as_ref().map_or(&b""[..], |old| &old.data) == data {
            return Ok(());
        }
        let record = self.successor(old.as_ref(), data);
        self.changes.insert(key, record);
        Ok(())
    }

    /// Deletes a record at the commit.
    pub async fn delete(&mut self, key: impl Into<Bytes>) -> Result<(), TransactionError> {
        self.store(key, Bytes::new()).await
    }

    /// Has all changes made, on all nodes. After a success they outlive every node but the last.
    ///
    /// When the call is given up, or fails with [`TransactionError::Unknown`], they are made on
    /// all nodes or on none. Every other failure means that they are not made.
    pub async fn commit(self) -> Result<(), TransactionError> {
        let result = if self.changes.is_empty() {
            Ok(())
        } else {
            self.send().await
        };
        // The changes are made or not, whatever becomes of the lock. What remains of one that
        // cannot be given back goes with the connection.
        let _ = self.lock.unlock().await;
        result
    }

    /// Gives the changes up. Better than dropping the transaction if another one is to follow at
    /// once.
    pub async fn cancel(self) -> Result<(), TransactionError> {
        Ok(self.lock.unlock().await?)
    }

    /// Sends the changes until the daemon says that all nodes have them, or until the database
    /// tells what a recovery has made of them.
    async fn send(&self) -> Result<(), TransactionError> {
        let now = self.database.local_seqnum().await?;
        if now != self.seqnum {
            return Err(self.overtaken(now));
        }
        let data = self.batch().await?.to_bytes();
        let client = self.database.client();
        loop {
            let commit = ReqControl {
                // As Samba does, though only the data counts.
                srvid: Srvid::new(self.database.id().get().into()),
                data: data.clone(),
                ..request(Opcode::TRANS3_COMMIT)
            };
            let reply = client.raw_control(Dest::Current, commit, None).await;
            let reply = reply.map_err(|_| TransactionError::Unknown)?;
            if reply.status == 0 {
                return Ok(());
            }
            match self.after_failure().await {
                Ok(Outcome::Made) => return Ok(()),
                Ok(Outcome::SendAgain) => tokio::time::sleep(PAUSE).await,
                Err(error @ TransactionError::Overtaken { .. }) => return Err(error),
                Err(_) => return Err(TransactionError::Unknown),
            }
        }
    }

    /// A commit failed: what has become of the changes? Reading waits for a recovery to end.
    ///
    /// That the number has grown by one is not enough: if this node was out of the cluster and the
    /// lock was lost, somebody else may have made it grow.
    async fn after_failure(&self) -> Result<Outcome, TransactionError> {
        let now = self.database.local_seqnum().await?;
        if now == self.seqnum {
            return if self.lock.is_held().await? {
                Ok(Outcome::SendAgain)
            } else {
                Err(self.overtaken(now))
            };
        }
        let mut all_there = true;
        for (key, change) in self.changes() {
            let found = self.database.fetch_local(key.clone()).await?;
            let there = found.as_ref().is_some_and(|found| is_made(change, found));
            if !there && found.is_none_or(|found| found.header.rsn <= change.header.rsn) {
                return Err(self.overtaken(now));
            }
            all_there &= there;
        }
        if all_there && now == self.next_seqnum() {
            Ok(Outcome::Made)
        } else {
            // What others have made since hides it.
            Err(TransactionError::Unknown)
        }
    }

    /// All changes, and the next sequence number.
    async fn batch(&self) -> Result<RecBuffer, TransactionError> {
        self.check_size()?;
        let mut batch = RecBuffer::builder(self.database.id());
        for (key, change) in self.changes() {
            batch.push_record(ReqId::new(0), key, &change.header, &change.data);
        }
        let old = self.database.fetch_local(DB_SEQNUM_KEY).await?;
        let mut number = Vec::new();
        self.next_seqnum().encode(&mut number);
        let change = self.successor(old.as_ref(), number.into());
        batch.push_record(ReqId::new(0), DB_SEQNUM_KEY, &change.header, &change.data);
        Ok(batch.finish())
    }

    /// What the commit changes, except for the sequence number, which is not the caller's.
    fn changes(&self) -> impl Iterator<Item = (&Bytes, &Record)> {
        self.changes
            .iter()
            .filter(|(key, _)| key.as_ref() != DB_SEQNUM_KEY)
    }

    fn check_size(&self) -> Result<(), TransactionError> {
        let sizes = self
            .changes()
            .map(|(key, change)| MAX_OVERHEAD + key.len() + change.data.len());
        let size = sizes.sum();
        if size > MAX_PACKET_LEN - 2 * MAX_OVERHEAD {
            return Err(TransactionError::TooLarge { size });
        }
        Ok(())
    }

    fn next_seqnum(&self) -> u64 {
        self.seqnum.wrapping_add(1)
    }

    fn overtaken(&self, now: u64) -> TransactionError {
        let before = self.seqnum;
        TransactionError::Overtaken { before, now }
    }

    async fn newest(&self, key: &Bytes) -> Result<Option<Record>, RecordError> {
        match self.changes.get(key) {
            Some(change) => Ok(Some(change.clone())),
            None => self.database.fetch_local(key.clone()).await,
        }
    }

    /// The record that takes the place of `old`.
    fn successor(&self, old: Option<&Record>, data: Bytes) -> Record {
        let old = old.map(|old| old.header).unwrap_or_default();
        let header = RecordHeader {
            rsn: Rsn::new(old.rsn.get().wrapping_add(1)),
            dmaster: self.database.pnn().get(),
            ..old
        };
        Record { header, data }
    }
}

fn is_made(change: &Record, found: &Record) -> bool {
    found.header.rsn == change.header.rsn && found.data == change.data
}

enum Outcome {
    Made,
    SendAgain,
}

/// At most so many bytes stand before a record, before all of them, and are the sequence number.
const MAX_OVERHEAD: usize = 128;

/// Before a commit is sent again. While the cluster recovers the answer comes at once.
const PAUSE: Duration = Duration::from_millis(50);
