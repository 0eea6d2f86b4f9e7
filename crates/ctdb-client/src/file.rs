//! The local TDB file of an attached database, and the thread that works on it.
//!
//! Waiting for a chain lock blocks a thread, and a lock must be given back by the thread that took
//! it. So each file has a thread of its own, which does what it is ordered to, one order after the
//! other, and after [`Order::Lock`] holds the chain while it goes on with the orders of whoever has
//! the lock. The thread ends, and closes the file, when the [`File`] is dropped or the connection
//! ends: a daemon that starts again finds nobody who still has its old file open.

use std::ops::ControlFlow;
use std::sync::mpsc;
use std::thread;

use bytes::Bytes;
use ctdb_proto::{Pnn, RecordFlags, RecordHeader};
use tdb::{Db, OpenOptions};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::error::{AttachError, Closed, RecordError};

/// A record as the local file has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    pub header: RecordHeader,
    /// What follows the header. Empty: the record is deleted, or was never there.
    pub data: Bytes,
}

impl Record {
    /// `None` for values too short for a header, which count as absent.
    fn parse(value: Vec<u8>) -> Option<Self> {
        let (header, _) = RecordHeader::split(&value).ok()?;
        let mut data = Bytes::from(value);
        let data = data.split_off(RecordHeader::LEN);
        Some(Self { header, data })
    }

    pub(crate) fn fetch(db: &Db, key: &[u8]) -> Result<Option<Self>, tdb::Error> {
        Ok(db.fetch(key)?.and_then(Self::parse))
    }

    pub(crate) fn all(db: &Db) -> Result<Vec<(Bytes, Self)>, tdb::Error> {
        let mut all = Vec::new();
        db.traverse_read(&mut |key, value| {
            if let Some(record) = Self::parse(value.to_vec()) {
                all.push((Bytes::copy_from_slice(key), record));
            }
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }
}

/// What somebody wants to do with a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    Read,
    Write,
}

impl Access {
    /// Whether a node may use the record as it lies in its file (`data-plane.md` 3.14).
    pub(crate) fn allowed(self, header: &RecordHeader, me: Pnn) -> bool {
        let mine = header.dmaster() == Some(me);
        let delegated = header.flags.contains(RecordFlags::RO_HAVE_DELEGATIONS);
        let copy = header.flags.contains(RecordFlags::RO_HAVE_READONLY);
        match self {
            Self::Read => mine || copy || delegated,
            Self::Write => mine && !delegated,
        }
    }
}

/// The file, as seen from tasks. One task at a time gives orders: see
/// [`Database`](crate::Database).
#[derive(Debug)]
pub(crate) struct File {
    /// Without a bound: a task waits for the end of each order before it gives the next.
    orders: mpsc::Sender<Order>,
    closed: watch::Receiver<bool>,
    /// Closes the file when the connection ends.
    watcher: JoinHandle<()>,
}

enum Order {
    Run(Box<dyn FnOnce(&Db) + Send>),
    Lock(LockOrder),
    /// Ends the lock with this number, if it is held.
    Unlock(u64),
    Close,
}

struct LockOrder {
    key: Bytes,
    access: Access,
    me: Pnn,
    reply: oneshot::Sender<Result<Option<(Held, Record)>, tdb::Error>>,
}

/// A chain lock that the thread holds, until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    orders: mpsc::Sender<Order>,
    number: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        // A thread that has ended holds no lock.
        let _ = self.orders.send(Order::Unlock(self.number));
    }
}

impl File {
    /// Opens the file, in a new thread: opening waits for locks too.
    pub(crate) async fn open(
        path: String,
        flags: tdb::Flags,
        closed: watch::Receiver<bool>,
    ) -> Result<Self, AttachError> {
        let (orders, queue) = mpsc::channel();
        let (opened, result) = oneshot::channel();
        let sender = orders.clone();
        let body = move || match OpenOptions::new().flags(flags).open(&path) {
            Ok(db) => {
                // Whoever attaches may have given up; then no order comes but the end.
                let _ = opened.send(Ok(()));
                Worker::new(db, queue, sender).run();
            }
            Err(source) => drop(opened.send(Err(AttachError::Open { path, source }))),
        };
        thread::Builder::new()
            .name("ctdb-file".to_owned())
            .spawn(body)
            .map_err(AttachError::Thread)?;
        let file = Self {
            watcher: tokio::spawn(close_with(closed.clone(), orders.clone())),
            orders,
            closed,
        };
        result.await.map_err(|_| Closed)??;
        Ok(file)
    }

    /// Runs `job` in the thread. It runs even when the caller stops waiting.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Db) -> Result<T, tdb::Error> + Send + 'static,
    ) -> Result<T, RecordError> {
        let (done, result) = oneshot::channel();
        let closed = self.closed.clone();
        let job = move |db: &Db| {
            // What is written to the file of a dead daemon is lost.
            if !*closed.borrow() {
                drop(done.send(job(db)));
            }
        };
        self.order(Order::Run(Box::new(job)))?;
        let result = result.await.map_err(|_| Closed)?;
        self.check_open()?;
        Ok(result?)
    }

    /// Waits for the chain of `key` and keeps it locked if the record can be used as it is. `None`
    /// if not.
    pub(crate) async fn lock(
        &self,
        key: Bytes,
        access: Access,
        me: Pnn,
    ) -> Result<Option<(Held, Record)>, RecordError> {
        let (reply, result) = oneshot::channel();
        self.order(Order::Lock(LockOrder {
            key,
            access,
            me,
            reply,
        }))?;
        let result = result.await.map_err(|_| Closed)?;
        self.check_open()?;
        Ok(result?)
    }

    fn order(&self, order: Order) -> Result<(), Closed> {
        self.orders.send(order).map_err(|_| Closed)
    }

    /// An end of the connection may have overtaken a success, which then is none.
    fn check_open(&self) -> Result<(), Closed> {
        if *self.closed.borrow() {
            Err(Closed)
        } else {
            Ok(())
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.watcher.abort();
        let _ = self.order(Order::Close);
    }
}

async fn close_with(mut closed: watch::Receiver<bool>, orders: mpsc::Sender<Order>) {
    // An error says that nobody is left who could set it: the connection is gone.
    let _ = closed.wait_for(|closed| *closed).await;
    let _ = orders.send(Order::Close);
}

/// The thread.
struct Worker {
    db: Db,
    queue: mpsc::Receiver<Order>,
    orders: mpsc::Sender<Order>,
    last_lock: u64,
}

impl Worker {
    fn new(db: Db, queue: mpsc::Receiver<Order>, orders: mpsc::Sender<Order>) -> Self {
        Self {
            db,
            queue,
            orders,
            last_lock: 0,
        }
    }

    fn run(mut self) {
        while let Ok(order) = self.queue.recv() {
            match order {
                Order::Run(job) => job(&self.db),
                Order::Lock(order) => {
                    if self.lock(order).is_err() {
                        return;
                    }
                }
                // The lock was given up before it was known to be held.
                Order::Unlock(_) => {}
                Order::Close => return,
            }
        }
    }

    /// Locks, answers, and holds the lock for as long as it is wanted.
    fn lock(&mut self, order: LockOrder) -> Result<(), Closed> {
        self.last_lock += 1;
        let _chain = match self.db.chainlock(&order.key) {
            Ok(chain) => chain,
            Err(error) => {
                drop(order.reply.send(Err(error)));
                return Ok(());
            }
        };
        let usable = |record: &Record| order.access.allowed(&record.header, order.me);
        let record = match Record::fetch(&self.db, &order.key) {
            Ok(record) => record.filter(usable),
            Err(error) => {
                drop(order.reply.send(Err(error)));
                return Ok(());
            }
        };
        let Some(record) = record else {
            drop(order.reply.send(Ok(None)));
            return Ok(());
        };
        let held = Held {
            orders: self.orders.clone(),
            number: self.last_lock,
        };
        match order.reply.send(Ok(Some((held, record)))) {
            Ok(()) => self.serve_holder(),
            // Nobody waits any more.
            Err(_) => Ok(()),
        }
    }

    /// Carries out orders until the lock is given back.
    fn serve_holder(&self) -> Result<(), Closed> {
        loop {
            match self.queue.recv() {
                Ok(Order::Run(job)) => job(&self.db),
                Ok(Order::Unlock(number)) if number == self.last_lock => return Ok(()),
                Ok(Order::Unlock(_)) => {}
                // Only who holds the lock gives orders; another lock would be no order of his.
                Ok(Order::Lock(order)) => drop(order),
                Ok(Order::Close) | Err(_) => return Err(Closed),
            }
        }
    }
}

#[cfg(test)]
mod tests;
