//! Attached databases: fetching records with their lock, storing, reading (`data-plane.md` 3.14).

use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::control::KeyData;
use ctdb_proto::{
    CallFlags, CallId, DbFlags, DbId, Dest, NodeFlags, Opcode, Pnn, RecordHeader, ReqCall,
    ReqControl, Srvid, Wire,
};
use tdb::{Db, StoreMode};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::client::Client;
use crate::control::request;
use crate::error::{AttachError, RecordError};
use crate::file::{Access, File, Held, Record};
use crate::g_lock::GLocks;

/// A database that is attached, with the daemon's local TDB file of it open.
///
/// Any number of tasks may use it at once, but its file does one thing at a time: while a
/// [`LockedRecord`] is held, all other work with this value waits. A task that holds one and asks
/// the same `Database` for anything else waits for itself; it gives the record back first, or
/// attaches once more.
///
/// No operation on records has a time limit: one of a node that is stopped, or whose cluster recovers, takes
/// as long as that does. Wrap it in [`tokio::time::timeout`] for one; unless its documentation
/// says otherwise, an operation that is given up has done nothing that lasts. When the connection
/// ends all operations fail with [`Closed`](crate::error::Closed) and the file is closed; the
/// daemon may come back, but a new connection has to attach again.
#[derive(Debug)]
pub struct Database {
    client: Client,
    id: DbId,
    name: String,
    kind: DbFlags,
    pnn: Pnn,
    limit: Option<Duration>,
    file: Mutex<File>,
    /// Locks for transactions, once one has begun.
    pub(crate) g_locks: OnceCell<GLocks>,
}

impl Client {
    /// Attaches a database; makes it, on all nodes, if it does not exist. While the cluster
    /// recovers the daemon puts the answer off.
    ///
    /// `kind` says which kind it must have: none of its bits for volatile, `PERSISTENT` or
    /// `REPLICATED`. A persistent database may be attached as if it were volatile, but keeps its
    /// kind: see [`Database::kind`]. With `READONLY` or `STICKY` the property is switched on, on
    /// all nodes that are connected; it cannot be switched off again.
    pub async fn attach(&self, name: &str, kind: DbFlags) -> Result<Database, AttachError> {
        self.attach_within(name, kind, None).await
    }

    /// As [`Self::attach`], with a limit for each control that is sent to attach, and later for
    /// each that asks whether the holder of a lock is alive. Calls and commits have none: not to
    /// know their result would be worse than to wait.
    pub async fn attach_within(
        &self,
        name: &str,
        kind: DbFlags,
        limit: Option<Duration>,
    ) -> Result<Database, AttachError> {
        let here = self.node(Dest::Current, limit);
        let id = here.db_attach(name, kind).await?;
        let path = here.getdbpath(id).await?;
        if let Some(reason) = here.db_get_health(id).await? {
            return Err(AttachError::Unhealthy { reason });
        }
        self.switch_on(id, kind, limit).await?;
        let found = here.get_pnn().await?;
        let pnn = Pnn::new(found).ok_or(AttachError::BadPnn { found })?;
        let dbmap = here.get_dbmap().await?;
        let entry = dbmap.dbs.iter().find(|entry| entry.db_id == id);
        let flags = here.db_open_flags(id).await?;
        let flags = tdb::Flags::from_bits_retain(flags.bits());
        let file = File::open(path, flags, self.closed_watch()).await?;
        Ok(Database {
            client: self.clone(),
            id,
            name: name.to_owned(),
            kind: entry.map_or(kind, |entry| entry.flags),
            pnn,
            limit,
            file: Mutex::new(file),
            g_locks: OnceCell::new(),
        })
    }

    /// Neither property belongs to the attach itself: each node has its own (`data-plane.md` 1.2).
    async fn switch_on(
        &self,
        id: DbId,
        kind: DbFlags,
        limit: Option<Duration>,
    ) -> Result<(), AttachError> {
        if !kind.intersects(DbFlags::READONLY | DbFlags::STICKY) {
            return Ok(());
        }
        let nodemap = self.node(Dest::Current, limit).get_nodemap().await?;
        let gone = NodeFlags::DISCONNECTED | NodeFlags::DELETED;
        for node in nodemap.nodes {
            let handle = self.node(node.pnn, limit);
            if node.flags.intersects(gone) {
                continue;
            }
            if kind.contains(DbFlags::READONLY) {
                handle.set_db_readonly(id).await?;
            }
            if kind.contains(DbFlags::STICKY) {
                handle.set_db_sticky(id).await?;
            }
        }
        Ok(())
    }
}

/// What it is.
impl Database {
    pub fn id(&self) -> DbId {
        self.id
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kind and properties when it was attached.
    pub fn kind(&self) -> DbFlags {
        self.kind
    }

    /// The node whose file this is.
    pub fn pnn(&self) -> Pnn {
        self.pnn
    }

    /// Limit of a control, see [`Client::attach_within`].
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// The connection by which it is attached.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// Records.
impl Database {
    /// Brings a record to this node and locks it there, for reading and writing. A record that
    /// does not exist comes as an empty one. Volatile databases only.
    ///
    /// Another node may take the record away between its arrival and the lock, so this tries until
    /// it has both. While the record is held its hash chain is locked for everybody on this node,
    /// recoveries wait for it, and other nodes wait for the record: give it back soon.
    pub async fn fetch_lock(&self, key: impl Into<Bytes>) -> Result<LockedRecord<'_>, RecordError> {
        self.check_volatile()?;
        let key = checked(key)?;
        let (file, held, record) = self.lock_here(&key, Access::Write).await?;
        Ok(LockedRecord {
            key,
            record,
            held,
            file,
            database: self,
        })
    }

    /// Reads a record that may change elsewhere meanwhile, of the node that has it. Does not move
    /// it. `None`: it does not exist or is empty.
    pub async fn fetch(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, RecordError> {
        self.parse(key, Bytes::copy_from_slice).await
    }

    /// As [`Self::fetch`], but shows the data to `parser` instead of handing out a copy.
    ///
    /// The copy of this node is used if it is the newest, or a read-only copy, or in a persistent
    /// or replicated database; else the daemon fetches the data.
    pub async fn parse<T>(
        &self,
        key: impl Into<Bytes>,
        parser: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, RecordError> {
        let key = checked(key)?;
        let local = self.fetch_local(key.clone()).await?;
        let data = match local {
            local if !self.kind.is_volatile() => local.map(|record| record.data),
            Some(record) if self.may_read(&record.header) => Some(record.data),
            local => Some(self.fetch_remote(key, local.is_some()).await?),
        };
        Ok(data
            .filter(|data| !data.is_empty())
            .map(|data| parser(&data)))
    }

    /// Brings a record, or a read-only copy of it, to this node and reads it under its lock.
    /// Volatile databases only.
    ///
    /// In a database with read-only copies switched on (`READONLY` at [`Client::attach`]) many
    /// nodes can have one at a time, and read it again without asking anybody, until a node
    /// writes. In others the record itself migrates here.
    pub async fn fetch_readonly(&self, key: impl Into<Bytes>) -> Result<Record, RecordError> {
        self.check_volatile()?;
        let key = checked(key)?;
        let (_file, held, record) = self.lock_here(&key, Access::Read).await?;
        drop(held);
        Ok(record)
    }

    /// The record as it lies in the file of this node, newest or not.
    pub async fn fetch_local(&self, key: impl Into<Bytes>) -> Result<Option<Record>, RecordError> {
        let key = key.into();
        let file = self.file.lock().await;
        file.run(move |db| Record::fetch(db, &key)).await
    }

    /// All records that lie in the file of this node, newest or not, empty ones too. Reads chain
    /// by chain: no record changes while it is read, but others do.
    pub async fn traverse_local(&self) -> Result<Vec<(Bytes, Record)>, RecordError> {
        let file = self.file.lock().await;
        file.run(Record::all).await
    }

    /// Runs `job` on the file of this node, in the thread of the file, for what goes through it
    /// without keeping all of it in memory. It must only read, and runs to its end even if the
    /// caller stops waiting.
    pub async fn with_file<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Db) -> T + Send + 'static,
    ) -> Result<T, RecordError> {
        let file = self.file.lock().await;
        file.run(move |db| Ok(job(db))).await
    }

    /// Counts the changes of a persistent or replicated database.
    pub async fn sequence_number(&self) -> Result<u64, RecordError> {
        let here = self.client.node(Dest::Current, None);
        Ok(here.get_db_seqnum(self.id).await?)
    }

    async fn lock_here(
        &self,
        key: &Bytes,
        access: Access,
    ) -> Result<(MutexGuard<'_, File>, Held, Record), RecordError> {
        loop {
            let file = self.file.lock().await;
            if let Some((held, record)) = file.lock(key.clone(), access, self.pnn).await? {
                return Ok((file, held, record));
            }
            // Others may use the file while the record is on its way.
            drop(file);
            let readonly = access == Access::Read;
            self.client
                .migrate(self.id, key.clone(), readonly, None)
                .await?;
        }
    }

    fn may_read(&self, header: &RecordHeader) -> bool {
        Access::Read.allowed(header, self.pnn)
    }

    /// The data of a record on whatever node. A read-only copy is asked for if this node has had
    /// one of the record, as Samba does.
    async fn fetch_remote(&self, key: Bytes, readonly: bool) -> Result<Bytes, RecordError> {
        let mut flags = CallFlags::empty();
        flags.set(CallFlags::WANT_READONLY, readonly);
        let call = ReqCall {
            flags,
            db_id: self.id,
            call_id: CallId::FETCH,
            hopcount: 0,
            key,
            data: Bytes::new(),
        };
        Ok(self.client.call(call, None).await?)
    }

    fn check_volatile(&self) -> Result<(), RecordError> {
        if self.kind.is_volatile() {
            Ok(())
        } else {
            Err(RecordError::NotVolatile)
        }
    }
}

fn checked(key: impl Into<Bytes>) -> Result<Bytes, RecordError> {
    let key = key.into();
    if key.is_empty() {
        Err(RecordError::EmptyKey)
    } else {
        Ok(key)
    }
}

/// A record that this node has and that is locked, until this is dropped.
#[derive(Debug)]
pub struct LockedRecord<'db> {
    key: Bytes,
    record: Record,
    /// Dropped before `file`: the lock is given back before anybody else gives the next order.
    held: Held,
    file: MutexGuard<'db, File>,
    database: &'db Database,
}

impl LockedRecord<'_> {
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    pub fn header(&self) -> &RecordHeader {
        &self.record.header
    }

    /// Empty if the record does not exist.
    pub fn data(&self) -> &Bytes {
        &self.record.data
    }

    /// Writes the record. Its header stays as it is: that a node has changed a record shows when
    /// the record moves. A call that is given up may have written.
    ///
    /// A success is lost only with this node: if its daemon dies before the record, or a copy of
    /// it, has gone to another node.
    pub async fn store(&mut self, data: impl Into<Bytes>) -> Result<(), RecordError> {
        let (key, data) = (self.key.clone(), data.into());
        let (header, value) = (self.record.header.to_bytes(), data.clone());
        self.file
            .run(move |db| db.store_parts(&key, &[&header, &value], StoreMode::Replace))
            .await?;
        self.record.data = data;
        Ok(())
    }

    /// Makes the record an empty one, gives it back, and has the daemons remove its remains in
    /// time.
    pub async fn delete(mut self) -> Result<(), RecordError> {
        self.store(Bytes::new()).await?;
        let database = self.database;
        let remains = KeyData {
            db_id: database.id,
            header: self.record.header,
            key: self.key.clone(),
        };
        drop(self);
        database.schedule_for_deletion(&remains).await
    }

    /// Gives the record back; so does dropping it.
    pub fn unlock(self) {
        drop(self.held);
    }
}

impl Database {
    async fn schedule_for_deletion(&self, remains: &KeyData) -> Result<(), RecordError> {
        let mut data = bytes::BytesMut::new();
        remains.encode(&mut data);
        let order = ReqControl {
            // As Samba does, though only the data counts.
            srvid: Srvid::new(self.id.get().into()),
            data: data.freeze(),
            ..request(Opcode::SCHEDULE_FOR_DELETION)
        };
        Ok(self.client.order(Dest::Current, order).await?)
    }
}
