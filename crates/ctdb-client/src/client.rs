//! One connection to a daemon.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::{
    Body, CallFlags, CallId, DbId, Dest, Generation, Header, Packet, Padding, ReqCall, ReqId,
    ReqMessage, Srvid, UNKNOWN_PNN,
};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::error::{CallError, Closed, ConnectError};
use crate::message::Routes;
use crate::pending::Pending;
use crate::reader;

/// Packets that may wait to be written to the socket; whoever sends one more waits.
pub const WRITE_QUEUE: usize = 64;

/// Longest path that fits into a socket address.
const MAX_SOCKET_PATH: usize = 107;

/// One connection to a daemon. Dropping it closes the connection.
#[derive(Debug)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    queue: mpsc::Sender<Outgoing>,
    reader: JoinHandle<()>,
}

/// What the tasks of a connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pending: Pending,
    pub(crate) routes: Routes,
    closed: watch::Sender<bool>,
}

/// What the writing task gets.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Packet(Bytes),
    /// Tells the sender that everything before it has been written.
    Flush(oneshot::Sender<()>),
}

impl Shared {
    /// Ends everything that waits for the connection.
    pub(crate) fn close(&self) {
        self.pending.close();
        self.routes.close();
        self.closed.send_replace(true);
    }
}

impl Client {
    /// Connects to the socket of a daemon. Needs a tokio runtime with I/O.
    pub async fn connect(path: &Path) -> Result<Self, ConnectError> {
        let length = path.as_os_str().as_bytes().len();
        if length > MAX_SOCKET_PATH {
            return Err(ConnectError::PathTooLong { length });
        }
        let connected = UnixStream::connect(path).await;
        let stream = connected.map_err(|source| ConnectError::Connect {
            path: path.to_owned(),
            source,
        })?;
        let (read_half, write_half) = stream.into_split();
        let shared = Arc::new(Shared {
            pending: Pending::new(),
            routes: Routes::new(),
            closed: watch::Sender::new(false),
        });
        let (queue, packets) = mpsc::channel(WRITE_QUEUE);
        let reader = tokio::spawn(reader::read(read_half, Arc::clone(&shared)));
        tokio::spawn(reader::write(write_half, packets, Arc::clone(&shared)));
        Ok(Self {
            shared,
            queue,
            reader,
        })
    }

    /// Waits until all that was sent before has been handed to the socket: only then may a program
    /// exit that does not wait for a reply.
    pub async fn flush(&self) -> Result<(), Closed> {
        let (done, written) = oneshot::channel();
        self.queue
            .send(Outgoing::Flush(done))
            .await
            .map_err(|_| Closed)?;
        written.await.map_err(|_| Closed)
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        // The sender lives in `shared`, so waiting cannot fail before the flag is set.
        let _ = self
            .shared
            .closed
            .subscribe()
            .wait_for(|closed| *closed)
            .await;
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        *self.shared.closed.borrow()
    }

    /// Has the daemon bring a record to this node: a call of the function NULL. After success the
    /// local database has the record, with this node as its dmaster (or, for `readonly`, maybe a
    /// read-only copy); another node may take it away again before it is locked
    /// (`data-plane.md 3.14`).
    pub async fn migrate(
        &self,
        db_id: DbId,
        key: Bytes,
        readonly: bool,
        limit: Option<Duration>,
    ) -> Result<(), CallError> {
        let mut flags = CallFlags::IMMEDIATE_MIGRATION;
        flags.set(CallFlags::WANT_READONLY, readonly);
        let call = ReqCall {
            flags,
            db_id,
            call_id: CallId::NULL,
            hopcount: 0,
            key,
            data: Bytes::new(),
        };
        self.call(call, limit).await.map(drop)
    }

    /// Sends a call to the daemon and waits for its data. The key must not be empty: the daemon
    /// does not answer such a call.
    pub async fn call(&self, call: ReqCall, limit: Option<Duration>) -> Result<Bytes, CallError> {
        let reply = self.request(Dest::Current, Body::ReqCall(call));
        match within(limit, reply).await.ok_or(CallError::Timeout)?? {
            Body::ReplyCall(reply) if reply.status == 0 => Ok(reply.data),
            Body::ReplyCall(reply) => Err(CallError::Status {
                status: reply.status,
            }),
            Body::ReplyError(reply) => Err(CallError::Status {
                status: reply.status,
            }),
            _ => Err(Closed.into()),
        }
    }

    /// Sends a message to a node, to all of them, or to this one. Nobody confirms it.
    pub async fn send_message(&self, dest: Dest, srvid: Srvid, data: Bytes) -> Result<(), Closed> {
        let reqid = self.shared.pending.unanswered_id()?;
        self.send(dest, reqid, Body::ReqMessage(ReqMessage { srvid, data }))
            .await
    }

    /// Sends a request and waits for its reply.
    pub(crate) async fn request(&self, dest: Dest, body: Body) -> Result<Body, Closed> {
        let waiting = self.shared.pending.enter()?;
        self.send(dest, waiting.reqid, body).await?;
        waiting.reply().await
    }

    /// Queues a packet for writing; waits while the queue is full.
    pub(crate) async fn send(&self, dest: Dest, reqid: ReqId, body: Body) -> Result<(), Closed> {
        let header = Header {
            generation: Generation::new(0),
            dest: dest.raw(),
            src: UNKNOWN_PNN,
            reqid,
        };
        let packet = Packet { header, body }.encode(Padding::Client);
        self.queue
            .send(Outgoing::Packet(packet))
            .await
            .map_err(|_| Closed)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The writer ends by itself, after what is queued, when the queue is dropped.
        self.reader.abort();
        self.shared.close();
    }
}

/// `None` when the time is up first. Without a limit there is no end to the waiting.
pub(crate) async fn within<T>(
    limit: Option<Duration>,
    future: impl Future<Output = T>,
) -> Option<T> {
    match limit {
        // A timer would round up, and a fast daemon would still make it.
        Some(Duration::ZERO) => tokio::select! {
            biased;
            done = future => Some(done),
            () = std::future::ready(()) => None,
        },
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}
