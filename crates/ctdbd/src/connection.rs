//! One stream socket: packets in, packets out, few system calls.
//!
//! *Out*: the core task appends packets to the queue of a connection and, once at the end of each
//! turn, writes all of them with one call ([`Outgoing::flush`]). Only when the socket is full does
//! a task wait for room and write the rest; the core never waits.
//!
//! *In*: a task reads what is there into the frame reader, which cuts it into packets.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BytesMut};
use ctdb_proto::{FrameError, FrameReader, Packet, Padding, Transport};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::warn;

/// A queue that has grown beyond this gives its memory back when it is empty.
const KEEP_CAPACITY: usize = 64 * 1024;

/// A socket that is shared by those who read and those who write.
#[derive(Clone, Debug)]
pub(crate) enum Socket {
    Tcp(Arc<TcpStream>),
    Unix(Arc<UnixStream>),
}

impl Socket {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            Self::Unix(socket) => socket.try_write(bytes),
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.writable().await,
            Self::Unix(socket) => socket.writable().await,
        }
    }

    /// Waits for bytes and appends them. 0: the other end has closed.
    pub(crate) async fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            let read = match self {
                Self::Tcp(socket) => {
                    socket.readable().await?;
                    socket.try_read_buf(buffer)
                }
                Self::Unix(socket) => {
                    socket.readable().await?;
                    socket.try_read_buf(buffer)
                }
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(Arc::new(socket))
    }
}

impl From<UnixStream> for Socket {
    fn from(socket: UnixStream) -> Self {
        Self::Unix(Arc::new(socket))
    }
}

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
                    if self.socket.read(self.frames.buffer()).await? == 0 {
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

#[derive(Default)]
struct Queue {
    bytes: BytesMut,
    /// Lengths of the packets in `bytes`; of the first, what is left of it.
    packets: VecDeque<usize>,
    /// The writer task waits for room in the socket: the core leaves the queue to it.
    blocked: bool,
}

impl Outgoing {
    /// `lost` is called, from another task, if the writer task finds the connection broken.
    pub(crate) fn new(socket: Socket, lost: impl Fn(io::Error) + Send + 'static) -> Self {
        let full = Notify::new();
        let shared = Arc::new(Shared {
            socket,
            queue: Mutex::default(),
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
    pub(crate) fn push(&self, packet: &Packet) {
        let mut queue = self.shared.lock();
        let before = queue.bytes.len();
        packet.encode_into(&mut queue.bytes, Padding::Daemon);
        let length = queue.bytes.len() - before;
        queue.packets.push_back(length);
    }

    /// Writes as much as the socket takes without waiting.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut queue = self.shared.lock();
        if queue.blocked {
            return Ok(());
        }
        self.shared.write(&mut queue)?;
        if !queue.bytes.is_empty() {
            queue.blocked = true;
            self.shared.full.notify_one();
        }
        Ok(())
    }

    /// Packets that have not been written whole.
    pub(crate) fn queued_packets(&self) -> usize {
        self.shared.lock().packets.len()
    }

    /// Bytes that have not been written.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.shared.lock().bytes.len()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic in between leaves whole packets: lengths are noted after their bytes.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until the queue is empty or the socket full.
    fn write(&self, queue: &mut Queue) -> io::Result<()> {
        while !queue.bytes.is_empty() {
            match self.socket.try_write(&queue.bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => queue.written(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn write_what_was_left(&self) -> io::Result<()> {
        loop {
            self.full.notified().await;
            loop {
                self.socket.writable().await?;
                let mut queue = self.lock();
                self.write(&mut queue)?;
                if queue.bytes.is_empty() {
                    queue.blocked = false;
                    break;
                }
            }
        }
    }
}

impl Queue {
    fn written(&mut self, mut count: usize) {
        self.bytes.advance(count);
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

    fn outgoing(socket: UnixStream) -> Outgoing {
        Outgoing::new(socket.into(), |error| panic!("{error}"))
    }

    async fn receive(socket: &Socket, count: u32) {
        let mut frames = FrameReader::new(Transport::Unix);
        let mut next = 0;
        while next < count {
            let read = tokio::time::timeout(Duration::from_secs(60), socket.read(frames.buffer()));
            assert!(read.await.unwrap().unwrap() > 0);
            while let Some(frame) = frames.next_frame().unwrap() {
                assert_eq!(Packet::decode(frame).unwrap().header.reqid, ReqId(next));
                next += 1;
            }
        }
    }

    #[tokio::test]
    async fn packets_of_one_turn_leave_together_and_in_order() {
        let (near, far) = UnixStream::pair().unwrap();
        let out = outgoing(near);
        for number in 0..5 {
            out.push(&message(number, 10));
        }
        assert_eq!(out.queued_packets(), 5);
        out.flush().unwrap();
        assert_eq!((out.queued_packets(), out.queued_bytes()), (0, 0));
        let mut bytes = BytesMut::with_capacity(4096);
        let far = Socket::from(far);
        assert_eq!(far.read(&mut bytes).await.unwrap(), 5 * 56);
    }

    #[tokio::test]
    async fn what_a_full_socket_does_not_take_is_written_later_in_order() {
        let (near, far) = UnixStream::pair().unwrap();
        let out = outgoing(near);
        for number in 0..400 {
            out.push(&message(number, 10_000));
            out.flush().unwrap();
        }
        let left = out.queued_packets();
        assert!(left > 0 && left < 400, "{left}");
        receive(&far.into(), 400).await;
        assert_eq!((out.queued_packets(), out.queued_bytes()), (0, 0));
    }

    #[tokio::test]
    async fn a_closed_socket_is_noticed_when_writing() {
        let (near, far) = UnixStream::pair().unwrap();
        let out = outgoing(near);
        drop(far);
        out.push(&message(0, 1));
        assert!(out.flush().is_err());
    }

    #[test]
    fn packets_count_until_their_last_byte_is_written() {
        let mut queue = Queue::default();
        queue.bytes.extend_from_slice(&[0; 30]);
        queue.packets.extend([10, 10, 10]);
        queue.written(9);
        assert_eq!(queue.packets, [1, 10, 10]);
        queue.written(12);
        assert_eq!(queue.packets, [9]);
        queue.written(9);
        assert!(queue.packets.is_empty());
    }
}
