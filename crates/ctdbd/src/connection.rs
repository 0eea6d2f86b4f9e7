//! One stream socket: packets in, packets out, few system calls.
//!
//! *Out*: the core task appends packets to the queue of a connection and, once at the end of each
//! turn, writes all of them with one call ([`Outgoing::flush`]). Only when the socket is full does
//! a task wait for room and write the rest; the core never waits.
//!
//! *In*: a task reads what is there into the frame reader, which cuts it into packets.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::{Buf, BytesMut};
use ctdb_proto::{FrameError, FrameReader, Packet, Padding, Transport};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{error, warn};

use crate::socket::Socket;

/// A queue that has grown beyond this gives its memory back when it is empty.
const KEEP_CAPACITY: usize = 64 * 1024;

/// What the length field of a packet can tell, with padding.
const LONGEST: usize = u32::MAX as usize - 8;

/// Why no more packets come from a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadEnd {
    #[error("connection closed")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came was not CTDB, or is against the rules of the transport.
    #[error("{0}")]
    Frame(FrameError),
}

/// The way in of a connection.
pub(crate) struct Incoming {
    socket: Socket,
    frames: FrameReader,
    transport: Transport,
    /// Who is at the other end, for the log.
    name: String,
}

impl Incoming {
    pub(crate) fn new(socket: Socket, transport: Transport, name: String) -> Self {
        Self {
            socket,
            frames: FrameReader::new(transport),
            transport,
            name,
        }
    }

    /// Whether the other end has closed the connection, also if that was not read yet.
    pub(crate) fn is_hung_up(&self) -> bool {
        self.socket.is_hung_up()
    }

    /// The next packet. Packets that make no sense are dropped, with a line in the log, where the
    /// transport allows it (wire.md 8).
    pub(crate) async fn next(&mut self) -> Result<Packet, ReadEnd> {
        loop {
            match self.frames.next_frame() {
                Ok(Some(frame)) => match Packet::decode(frame) {
                    Ok(packet) => return Ok(packet),
                    Err(error) => warn!("invalid packet from {}: {error}", self.name),
                },
                Ok(None) => {
                    if self.socket.read(|bytes| self.frames.push(bytes)).await? == 0 {
                        return Err(ReadEnd::Closed);
                    }
                }
                Err(error) if error.is_fatal(self.transport) => return Err(ReadEnd::Frame(error)),
                Err(error) => warn!("packet from {} dropped: {error}", self.name),
            }
        }
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct OwnedTask(pub(crate) JoinHandle<()>);

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The way out of a connection. Dropping it drops what is queued.
pub(crate) struct Outgoing {
    shared: Arc<Shared>,
    _writer: OwnedTask,
}

struct Shared {
    socket: Socket,
    queue: Mutex<Queue>,
    /// Told when the socket was full.
    full: Notify,
}

/// Bytes that wait to be written, in all connections that share this.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backlog(Arc<AtomicUsize>);

impl Backlog {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, count: usize) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn subtract(&self, count: usize) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Queue {
    /// Counts what is in `bytes`.
    backlog: Backlog,
    bytes: BytesMut,
    /// Lengths of the packets in `bytes`; of the first, what is left of it.
    packets: VecDeque<usize>,
    /// The writer task waits for room in the socket: the core leaves the queue to it.
    blocked: bool,
}

impl Outgoing {
    /// `lost` is called, from another task, if the writer task finds the connection broken.
    pub(crate) fn new(
        socket: Socket,
        backlog: Backlog,
        lost: impl Fn(io::Error) + Send + 'static,
    ) -> Self {
        let full = Notify::new();
        let mut queue = Queue::default();
        queue.backlog = backlog;
        let shared = Arc::new(Shared {
            socket,
            queue: Mutex::new(queue),
            full,
        });
        let writer = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            if let Err(error) = writer.write_what_was_left().await {
                lost(error);
            }
        });
        Self {
            shared,
            _writer: OwnedTask(task),
        }
    }

    /// Queues a packet. Nothing is sent before [`Self::flush`].
    ///
    /// A packet that is longer than packets can be is a fault of ours, and not worth the daemon.
    pub(crate) fn push(&self, packet: &Packet) {
        if packet.wire_len() > LONGEST {
            return error!("a packet of {} bytes cannot be sent", packet.wire_len());
        }
        let mut queue = self.shared.lock();
        let before = queue.bytes.len();
        packet.encode_into(&mut queue.bytes, Padding::Daemon);
        let length = queue.bytes.len() - before;
        queue.packets.push_back(length);
        queue.backlog.add(length);
    }

    /// Writes as much as the socket takes without waiting.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut queue = self.shared.lock();
        if queue.blocked {
            return Ok(());
        }
        if self.shared.write(&mut queue)?.is_none() {
            queue.blocked = true;
            self.shared.full.notify_one();
        }
        Ok(())
    }

    /// Packets that have not been written whole.
    pub(crate) fn queued_packets(&self) -> usize {
        self.shared.lock().packets.len()
    }

    /// Whether more than `limit` bytes wait behind, or in front of, the longest packet. That one may
    /// have any length: a record can be larger than all that should pile up.
    pub(crate) fn is_over(&self, limit: usize) -> bool {
        let queue = self.shared.lock();
        queue.bytes.len() > limit && {
            let longest = queue.packets.iter().max().copied().unwrap_or_default();
            queue.bytes.len() - longest > limit
        }
    }

    /// Bytes that have not been written.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.shared.lock().bytes.len()
    }

    /// A view of the queue for another task.
    pub(crate) fn watch(&self) -> QueueWatch {
        QueueWatch(Arc::downgrade(&self.shared))
    }
}

/// Shows how much is queued, also when the connection is gone: nothing then.
pub(crate) struct QueueWatch(Weak<Shared>);

impl QueueWatch {
    pub(crate) fn queued_bytes(&self) -> usize {
        let shared = self.0.upgrade();
        shared.map_or(0, |shared| shared.lock().bytes.len())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic in between leaves whole packets: lengths are noted after their bytes.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until the queue is empty. `None` if the socket is full before.
    fn write(&self, queue: &mut Queue) -> io::Result<Option<()>> {
        while !queue.bytes.is_empty() {
            match self.socket.try_write(&queue.bytes)? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(written) => queue.written(written),
                None => return Ok(None),
            }
        }
        Ok(Some(()))
    }

    async fn write_what_was_left(&self) -> io::Result<()> {
        loop {
            self.full.notified().await;
            let room = self.socket.watch_for_room()?;
            room.wait(|| {
                let mut queue = self.lock();
                let done = self.write(&mut queue)?;
                queue.blocked = done.is_none();
                Ok(done)
            })
            .await?;
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.backlog.subtract(self.bytes.len());
    }
}

impl Queue {
    fn written(&mut self, mut count: usize) {
        self.bytes.advance(count);
        self.backlog.subtract(count);
        if self.bytes.is_empty() {
            self.packets.clear();
            if self.bytes.capacity() > KEEP_CAPACITY {
                self.bytes = BytesMut::new();
            }
            return;
        }
        while let Some(first) = self.packets.front_mut() {
            if count < *first {
                *first -= count;
                return;
            }
            count -= *first;
            self.packets.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use ctdb_proto::{Body, FrameReader, Generation, Header, ReqId, ReqMessage, Srvid, Transport};
    use tokio::net::UnixStream;

    use super::*;

    fn message(number: u32, size: usize) -> Packet {
        let header = Header {
            generation: Generation(1),
            dest: 0,
            src: 0,
            reqid: ReqId(number),
        };
        let data = Bytes::from(vec![7; size]);
        Packet {
            header,
            body: Body::ReqMessage(ReqMessage {
                srvid: Srvid(3),
                data,
            }),
        }
    }

    fn pair() -> (Outgoing, Socket) {
        let (near, far) = UnixStream::pair().unwrap();
        let near = Socket::from_unix(near).unwrap();
        let out = Outgoing::new(near, Backlog::default(), |error| panic!("{error}"));
        (out, Socket::from_unix(far).unwrap())
    }

    async fn receive(socket: &Socket, count: u32) {
        let mut frames = FrameReader::new(Transport::Unix);
        let mut next = 0;
        while next < count {
            let read = socket.read(|bytes| frames.push(bytes));
            let read = tokio::time::timeout(Duration::from_secs(60), read);
            assert!(read.await.unwrap().unwrap() > 0);
            while let Some(frame) = frames.next_frame().unwrap() {
                assert_eq!(Packet::decode(frame).unwrap().header.reqid, ReqId(next));
                next += 1;
            }
        }
    }

    #[tokio::test]
    async fn packets_of_one_turn_leave_together_and_in_order() {
        let (out, far) = pair();
        for number in 0..5 {
            out.push(&message(number, 10));
        }
        assert_eq!(out.queued_packets(), 5);
        out.flush().unwrap();
        assert_eq!((out.queued_packets(), out.queued_bytes()), (0, 0));
        assert_eq!(far.read(|_| ()).await.unwrap(), 5 * 56);
    }

    #[tokio::test]
    async fn what_a_full_socket_does_not_take_is_written_later_in_order() {
        let (out, far) = pair();
        for number in 0..400 {
            out.push(&message(number, 10_000));
            out.flush().unwrap();
        }
        let left = out.queued_packets();
        assert!(left > 0 && left < 400, "{left}");
        receive(&far, 400).await;
        assert_eq!((out.queued_packets(), out.queued_bytes()), (0, 0));
    }

    #[tokio::test]
    async fn a_closed_socket_is_noticed_when_writing() {
        let (out, far) = pair();
        drop(far);
        out.push(&message(0, 1));
        assert!(out.flush().is_err());
    }

    #[test]
    fn packets_count_until_their_last_byte_is_written() {
        let mut queue = Queue::default();
        queue.bytes.extend_from_slice(&[0; 30]);
        queue.backlog.add(30);
        queue.packets.extend([10, 10, 10]);
        queue.written(9);
        assert_eq!(queue.packets, [1, 10, 10]);
        queue.written(12);
        assert_eq!(queue.packets, [9]);
        queue.written(9);
        assert!(queue.packets.is_empty());
    }
}
