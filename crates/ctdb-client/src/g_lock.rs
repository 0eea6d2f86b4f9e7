//! Locks by name that one holder, or many readers, have in the whole cluster
//! (`data-plane.md` 7.2).
//!
//! A lock is a record of the database `g_lock.tdb` that lists its holders, in the form that the
//! `ctdb` tool and its library use: with those we exclude each other. Samba keeps its locks in the
//! same database in a form of its own, those for transactions under the same names: that we wait
//! for for some time.
//!
//! Nobody hands a lock over: who waits looks again and again, and removes holders that are gone.
//! A holder is gone when its daemon knows no client with its process id; ours are told apart
//! within a process too, because each [`GLocks`] registers its own id as a srvid.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::glock::G_LOCK_DB;
use ctdb_proto::{DbFlags, GLock, GLockEntry, GLockType, Pnn, ServerId, Srvid};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::client::Client;
use crate::database::{Database, LockedRecord};
use crate::error::{AttachError, GLockError};

/// The locks of the cluster. Clones are the same: a lock that one holds excludes the others.
#[derive(Clone, Debug)]
pub struct GLocks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    database: Database,
    /// Registered as a srvid as long as the connection lives.
    unique_id: u64,
}

/// A lock that is held, until it is given back. Dropping it gives it back too, but some time later
/// and without telling of errors.
#[derive(Debug)]
pub struct HeldGLock(Option<Holding>);

#[derive(Debug)]
struct Holding {
    locks: GLocks,
    key: Bytes,
    entry: GLockEntry,
}

impl GLocks {
    /// Attaches the database of locks.
    pub async fn attach(client: &Client) -> Result<Self, AttachError> {
        Self::attach_within(client, None).await
    }

    /// As [`Self::attach`], with a limit for controls: see [`Client::attach_within`].
    pub async fn attach_within(
        client: &Client,
        limit: Option<Duration>,
    ) -> Result<Self, AttachError> {
        let database = client
            .attach_within(G_LOCK_DB, DbFlags::empty(), limit)
            .await?;
        let unique_id = random_id();
        client.register(Srvid::new(unique_id), limit).await?;
        Ok(Self(Arc::new(Shared {
            database,
            unique_id,
        })))
    }

    /// Waits for a lock and takes it. `Read` shares it with other readers. `task_id` is kept with
    /// the holder for people to read; transactions put the id of their database there.
    pub async fn lock(
        &self,
        name: &str,
        kind: GLockType,
        task_id: u32,
    ) -> Result<HeldGLock, GLockError> {
        let key = key_of(name);
        let entry = self.entry(kind, task_id);
        let mut pause = FIRST_PAUSE;
        let started = Instant::now();
        loop {
            let obstacles = match self.try_take(&key, entry).await {
                Ok(Taken::Held(held)) => return Ok(held),
                Ok(Taken::By(obstacles)) => obstacles,
                Err(GLockError::NoLock(_)) if started.elapsed() < FOREIGN_LIMIT => Vec::new(),
                Err(error) => return Err(error),
            };
            if !self.remove_dead(&key, &obstacles).await? {
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
        }
    }

    /// Takes a lock if nobody is in the way. Holders that are gone count too.
    pub async fn try_lock(
        &self,
        name: &str,
        kind: GLockType,
        task_id: u32,
    ) -> Result<Option<HeldGLock>, GLockError> {
        match self
            .try_take(&key_of(name), self.entry(kind, task_id))
            .await?
        {
            Taken::Held(held) => Ok(Some(held)),
            Taken::By(_) => Ok(None),
        }
    }

    /// Who has a lock.
    pub async fn holders(&self, name: &str) -> Result<Vec<GLockEntry>, GLockError> {
        let data = self.0.database.fetch(key_of(name)).await?;
        let lock = data.map(|data| GLock::decode(&data)).transpose()?;
        Ok(lock.unwrap_or_default().entries)
    }

    async fn try_take(&self, key: &Bytes, entry: GLockEntry) -> Result<Taken, GLockError> {
        let mut record = self.0.database.fetch_lock(key.clone()).await?;
        let mut lock = GLock::decode(record.data())?;
        let wants_all = entry.kind == GLockType::Write;
        let in_the_way = |other: &&GLockEntry| wants_all || other.kind == GLockType::Write;
        let obstacles: Vec<_> = lock.entries.iter().filter(in_the_way).copied().collect();
        if !obstacles.is_empty() {
            return Ok(Taken::By(obstacles));
        }
        // From here on the lock counts as held: giving up cannot leave it behind.
        let held = HeldGLock(Some(Holding {
            locks: self.clone(),
            key: key.clone(),
            entry,
        }));
        lock.entries.push(entry);
        record.store(lock.to_bytes()).await?;
        Ok(Taken::Held(held))
    }

    /// Removes those of the holders that are gone; says whether there were any.
    async fn remove_dead(&self, key: &Bytes, holders: &[GLockEntry]) -> Result<bool, GLockError> {
        let mut dead = Vec::new();
        for holder in holders {
            if !self.is_alive(&holder.holder).await? {
                dead.push(*holder);
            }
        }
        if !dead.is_empty() {
            let record = self.0.database.fetch_lock(key.clone()).await?;
            let mut lock = GLock::decode(record.data())?;
            lock.entries.retain(|entry| !dead.contains(entry));
            store(record, &lock).await?;
        }
        Ok(!dead.is_empty())
    }

    /// Asks the daemon of the holder. One that cannot be reached is not in the cluster, nor are
    /// its clients: the daemon here answers for it, with status -1.
    async fn is_alive(&self, holder: &ServerId) -> Result<bool, GLockError> {
        let (Some(pnn), Ok(pid)) = (Pnn::new(holder.vnn), i32::try_from(holder.pid)) else {
            return Ok(false);
        };
        let limit = self.0.database.limit();
        let node = self.0.database.client().node(pnn, limit);
        if node.process_exists(pid).await? != 0 {
            return Ok(false);
        }
        // The library of the original builds its ids so, and registers nothing.
        let of_original = u64::from(holder.task_id) << 32 | holder.pid;
        if holder.unique_id == of_original {
            // This process does not use that library: another one had its number before.
            return Ok(!self.is_this_process(holder));
        }
        let srvid = Srvid::new(holder.unique_id);
        Ok(node.check_pid_srvid(pid, srvid).await? == 0)
    }

    fn is_this_process(&self, holder: &ServerId) -> bool {
        holder.pid == u64::from(std::process::id()) && holder.vnn == self.0.database.pnn().get()
    }

    fn entry(&self, kind: GLockType, task_id: u32) -> GLockEntry {
        let holder = ServerId {
            pid: std::process::id().into(),
            task_id,
            vnn: self.0.database.pnn().get(),
            unique_id: self.0.unique_id,
        };
        GLockEntry { kind, holder }
    }
}

impl HeldGLock {
    /// Gives the lock back.
    pub async fn unlock(mut self) -> Result<(), GLockError> {
        match self.0.take() {
            Some(holding) => holding.give_back().await,
            None => Ok(()),
        }
    }

    /// Whether the lock still names this holder. Who was out of the cluster for a time, because
    /// his node was stopped or cut off, may have lost it.
    pub async fn is_held(&self) -> Result<bool, GLockError> {
        match &self.0 {
            Some(holding) => holding.is_held().await,
            None => Ok(false),
        }
    }
}

impl Drop for HeldGLock {
    fn drop(&mut self) {
        // Without a runtime the connection is gone as well, and with it the lock.
        if let (Some(holding), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move {
                let _ = holding.give_back().await;
            });
        }
    }
}

impl Holding {
    async fn is_held(&self) -> Result<bool, GLockError> {
        let record = self.locks.0.database.fetch_lock(self.key.clone()).await?;
        Ok(GLock::decode(record.data())?.entries.contains(&self.entry))
    }

    async fn give_back(self) -> Result<(), GLockError> {
        let record = self.locks.0.database.fetch_lock(self.key.clone()).await?;
        let mut lock = GLock::decode(record.data())?;
        // Only one: readers of one process may hold it several times.
        if let Some(index) = lock.entries.iter().position(|entry| *entry == self.entry) {
            lock.entries.remove(index);
            store(record, &lock).await?;
        }
        Ok(())
    }
}

async fn store(mut record: LockedRecord<'_>, lock: &GLock) -> Result<(), GLockError> {
    if lock.entries.is_empty() {
        record.delete().await?;
    } else {
        record.store(lock.to_bytes()).await?;
    }
    Ok(())
}

enum Taken {
    Held(HeldGLock),
    By(Vec<GLockEntry>),
}

/// The NUL belongs to it.
fn key_of(name: &str) -> Bytes {
    let mut key = Vec::with_capacity(name.len() + 1);
    key.extend_from_slice(name.as_bytes());
    key.push(0);
    key.into()
}

fn random_id() -> u64 {
    let random = RandomState::new().hash_one(std::process::id());
    Srvid::RANGE_CLIENT.get() | random >> 8
}

/// Until a lock is looked at again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// How long to wait for a lock of Samba's: it holds them for as long as a transaction takes. Whether
/// its holder lives only Samba can tell, so there must be an end.
const FOREIGN_LIMIT: Duration = Duration::from_secs(10);
