//! One connection to a daemon.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
use crate::tunnel::Tunnels;

/// Packets that may wait to be written to the socket; whoever sends one more waits.
pub const WRITE_QUEUE: usize = 64;

/// Longest path that fits into a socket address.
const MAX_SOCKET_PATH: usize = 107;

/// One connection to a daemon. Clones share it; it is closed when the last of them is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    queue: mpsc::Sender<Outgoing>,
    open: Arc<Open>,
}

/// What the tasks of a connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pending: Pending,
    pub(crate) routes: Routes,
    pub(crate) tunnels: Tunnels,
    /// See [`Client::unexpected_replies`].
    unexpected_replies: AtomicU64,
    closed: watch::Sender<bool>,
}

/// Closes the connection when the last clone of a client goes.
#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

/// What the writing task gets.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Packet(Bytes),
    /// Tells the sender that everything before it has been written.
    Flush(oneshot::Sender<()>),
}

impl Shared {
    /// Hands a reply to the request it belongs to.
    pub(crate) fn answer(&self, reqid: ReqId, body: Body) {
        if !self.pending.complete(reqid, body) {
            self.unexpected_replies.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends everything that waits for the connection.
    pub(crate) fn close(&self) {
        self.pending.close();
        self.routes.close();
        self.tunnels.close();
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
            tunnels: Tunnels::new(),
            unexpected_replies: AtomicU64::new(0),
            closed: watch::Sender::new(false),
        });
        let (queue, packets) = mpsc::channel(WRITE_QUEUE);
        let reader = tokio::spawn(reader::read(read_half, Arc::clone(&shared)));
        let writer = tokio::spawn(reader::write(write_half, packets, Arc::clone(&shared)));
        let open = Arc::new(Open {
            shared: Arc::clone(&shared),
            reader,
            writer,
        });
        Ok(Self {
            shared,
            queue,
            open,
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

    /// Ends the connection at once, for all clones: what waits to be sent is dropped, and all that
    /// waits for an answer fails.
    pub fn close(&self) {
        self.open.writer.abort();
        self.open.reader.abort();
        self.shared.close();
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

    /// Turns true when the connection ends. Does not keep it open.
    pub(crate) fn closed_watch(&self) -> watch::Receiver<bool> {
        self.shared.closed.subscribe()
    }

    /// Replies that came though no request waited for them: late ones, of requests that were given
    /// up. If none were, the daemon answered a request twice.
    pub fn unexpected_replies(&self) -> u64 {
        self.shared.unexpected_replies.load(Ordering::Relaxed)
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

impl Drop for Open {
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
