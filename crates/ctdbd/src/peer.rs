//! The TCP connections between nodes (cluster.md 3.1, wire.md 1.2).
//!
//! Each pair of nodes has two: a node sends on the one it opened and receives on the one it
//! accepted. Nothing is said on connecting; who comes is known by the address. When one of the two
//! ends, both are closed, and we connect again.
//!
//! ```text
//! connector task:  connect (1 s) --refused--> wait --+
//!                     |  ^---------------------------+
//!                     v
//!                  report Connected, then watch: anything that comes, or the end, is a loss
//! reader task:     packets of the accepted connection -> lanes, at the end a loss
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ctdb_core::{LinkEnd, Ticket};
use ctdb_proto::{Body, Packet, Pnn, Transport};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::connection::{Backlog, Incoming, Outgoing, OwnedTask, ReadEnd};
use crate::event::ShellEvent;
use crate::lanes::{Lane, Lanes};
use crate::socket::Socket;

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Wait after a refused connection: short at first, since a cluster often starts as a whole.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// Bytes that may wait for a peer. A peer that lets more pile up is taken for dead: the packets are
/// dropped with the connection, and the recovery that follows makes up for them.
const QUEUE_LIMIT: usize = 512 * 1024 * 1024;

/// Pause between two looks at a queue that is long.
const ROOM_PAUSE: Duration = Duration::from_millis(2);

/// Bytes of records of recoveries that a peer has sent and that are not worked on yet. Then nothing
/// more is read of its connection, so that it does not send more than our disk takes.
const RECORDS_LIMIT: u32 = 4 * 1024 * 1024;

/// One life of the two connections to a peer. What an earlier life still has to say is ignored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LinkId(u64);

/// The connections to all peers.
pub(crate) struct Peers {
    own_ip: IpAddr,
    lanes: Lanes,
    links: BTreeMap<Pnn, Link>,
    last_link: u64,
    /// Peers that packets were queued for in this turn.
    dirty: Vec<Pnn>,
}

struct Link {
    id: LinkId,
    address: SocketAddr,
    out: Option<Outgoing>,
    is_dirty: bool,
    _connector: OwnedTask,
    reader: Option<OwnedTask>,
}

impl Peers {
    pub(crate) fn new(own_ip: IpAddr, lanes: Lanes) -> Self {
        Self {
            own_ip,
            lanes,
            links: BTreeMap::new(),
            last_link: 0,
            dirty: Vec::new(),
        }
    }

    /// Starts to connect to a peer, and goes on until it works.
    pub(crate) fn connect(&mut self, pnn: Pnn, address: SocketAddr) {
        self.last_link += 1;
        let id = LinkId(self.last_link);
        let connector = Connector {
            pnn,
            link: id,
            address,
            own_ip: self.own_ip,
        };
        let task = OwnedTask(tokio::spawn(connector.run(self.lanes.clone())));
        let link = Link {
            id,
            address,
            out: None,
            is_dirty: false,
            _connector: task,
            reader: None,
        };
        self.links.insert(pnn, link);
    }

    /// Whether an event is about the present connections.
    pub(crate) fn is_current(&self, pnn: Pnn, link: LinkId) -> bool {
        self.links
            .get(&pnn)
            .is_some_and(|current| current.id == link)
    }

    /// Our connection stands. False if that is old news.
    pub(crate) fn connected(&mut self, pnn: Pnn, link: LinkId, socket: Socket) -> bool {
        let Some(current) = self
            .links
            .get_mut(&pnn)
            .filter(|current| current.id == link)
        else {
            return false;
        };
        let lanes = self.lanes.clone();
        let lost = move |error: io::Error| {
            lanes.report(ShellEvent::PeerLost {
                pnn,
                link,
                end: of_error(&error),
            });
        };
        current.out = Some(Outgoing::new(socket, Backlog::default(), lost));
        true
    }

    /// The connection of this peer was accepted: its packets are read from now on.
    pub(crate) fn accepted(&mut self, pnn: Pnn, socket: TcpStream) {
        let Some(current) = self.links.get_mut(&pnn) else {
            return;
        };
        if let Err(error) = setsockopt(&socket, sockopt::KeepAlive, &true) {
            warn!(%pnn, "no keepalive on the connection: {error}");
        }
        let name = format!("node {pnn}");
        let socket = match Socket::from_tcp(socket) {
            Ok(socket) => socket,
            Err(error) => {
                let (link, end) = (current.id, of_error(&error));
                return self.lanes.report(ShellEvent::PeerLost { pnn, link, end });
            }
        };
        let incoming = Incoming::new(socket, Transport::Tcp, name);
        let task = tokio::spawn(read_peer(pnn, current.id, incoming, self.lanes.clone()));
        current.reader = Some(OwnedTask(task));
    }

    /// Closes both connections and connects again.
    pub(crate) fn reconnect(&mut self, pnn: Pnn) {
        if let Some(link) = self.links.remove(&pnn) {
            let address = link.address;
            drop(link);
            self.connect(pnn, address);
        }
    }

    /// Closes both connections for good.
    pub(crate) fn remove(&mut self, pnn: Pnn) {
        self.links.remove(&pnn);
    }

    /// Queues a packet; without a connection it is dropped.
    pub(crate) fn send(&mut self, pnn: Pnn, packet: &Packet) {
        let Some(link) = self.links.get_mut(&pnn) else {
            return;
        };
        let Some(out) = &link.out else {
            return;
        };
        out.push(packet);
        if !link.is_dirty {
            link.is_dirty = true;
            self.dirty.push(pnn);
        }
    }

    /// Tells when less than `limit` bytes wait for a peer; at once if it is not connected.
    pub(crate) fn await_room(&self, pnn: Pnn, limit: usize, ticket: Ticket) {
        let out = self.links.get(&pnn).and_then(|link| link.out.as_ref());
        let lanes = self.lanes.clone();
        match out.map(Outgoing::watch) {
            None => lanes.report(ShellEvent::PeerRoom { ticket }),
            Some(queue) => drop(tokio::spawn(async move {
                while queue.queued_bytes() >= limit {
                    sleep(ROOM_PAUSE).await;
                }
                lanes.report(ShellEvent::PeerRoom { ticket });
            })),
        }
    }

    /// Writes what was queued in this turn. Returns the peers that are lost, and why.
    pub(crate) fn flush(&mut self) -> Vec<(Pnn, LinkEnd)> {
        let mut lost = Vec::new();
        for pnn in self.dirty.drain(..) {
            let Some(link) = self.links.get_mut(&pnn) else {
                continue;
            };
            link.is_dirty = false;
            let Some(out) = &link.out else {
                continue;
            };
            match out.flush() {
                Err(error) => lost.push((pnn, of_error(&error))),
                Ok(()) if out.is_over(QUEUE_LIMIT) => {
                    let why = format!("more than {QUEUE_LIMIT} bytes wait for it");
                    lost.push((pnn, by_us(why)));
                }
                Ok(()) => {}
            }
        }
        lost
    }
}

/// What the task that opens a connection knows.
struct Connector {
    pnn: Pnn,
    link: LinkId,
    address: SocketAddr,
    own_ip: IpAddr,
}

impl Connector {
    async fn run(self, lanes: Lanes) {
        let Self { pnn, link, .. } = self;
        let socket = self.connect().await;
        lanes.report(ShellEvent::PeerConnected {
            pnn,
            link,
            socket: socket.clone(),
        });
        let end = match socket.read(|_| ()).await {
            Ok(0) => by_peer(ReadEnd::Closed.to_string()),
            Ok(_) => by_us("data came on the outgoing connection".to_owned()),
            Err(error) => of_error(&error),
        };
        lanes.report(ShellEvent::PeerLost { pnn, link, end });
    }

    async fn connect(&self) -> Socket {
        let mut retry = FIRST_RETRY;
        loop {
            match timeout(CONNECT_LIMIT, self.connect_once()).await {
                Ok(Ok(socket)) => return socket,
                Ok(Err(error)) => {
                    debug!(pnn = %self.pnn, "cannot connect to {}: {error}", self.address);
                    sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
                Err(_) => debug!(pnn = %self.pnn, "no answer from {}", self.address),
            }
        }
    }

    async fn connect_once(&self) -> io::Result<Socket> {
        let socket = if self.own_ip.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // The peer knows us by this address.
        socket.bind(SocketAddr::new(self.own_ip, 0))?;
        socket.set_keepalive(true)?;
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        Socket::from_tcp(stream)
    }
}

async fn read_peer(pnn: Pnn, link: LinkId, mut incoming: Incoming, lanes: Lanes) {
    let room = Arc::new(Semaphore::new(RECORDS_LIMIT as usize));
    let end = loop {
        match incoming.next().await {
            Ok(packet) => {
                let packet = with_room(packet, &room).await;
                let lane = Lane::of_peer(&packet);
                let event = ShellEvent::PeerPacket {
                    from: pnn,
                    link,
                    packet,
                };
                if !lanes.send(lane, event).await {
                    return;
                }
            }
            Err(ReadEnd::Closed) => break by_peer(ReadEnd::Closed.to_string()),
            Err(ReadEnd::Io(error)) => break of_error(&error),
            Err(end @ ReadEnd::Frame(_)) => break by_us(end.to_string()),
        }
    };
    // Through the lane that is served last: what the peer said before is heard first.
    lanes
        .send(Lane::Work, ShellEvent::PeerLost { pnn, link, end })
        .await;
}

fn by_peer(why: String) -> LinkEnd {
    LinkEnd { why, by_peer: true }
}

fn by_us(why: String) -> LinkEnd {
    let by_peer = false;
    LinkEnd { why, by_peer }
}

/// What an error of a socket says about the other end: that its host has closed the connection, or
/// nothing.
fn of_error(error: &io::Error) -> LinkEnd {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let closed = [
        BrokenPipe,
        ConnectionAborted,
        ConnectionReset,
        UnexpectedEof,
    ];
    LinkEnd {
        why: error.to_string(),
        by_peer: closed.contains(&error.kind()),
    }
}

/// Records of a recovery, which take room until nobody holds them any more.
struct Records {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Records {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Waits until there is room for the records of a recovery in this packet, if it has some.
async fn with_room(mut packet: Packet, room: &Arc<Semaphore>) -> Packet {
    if let Body::ReqMessage(message) = &mut packet.body
        && message.srvid.is_recovery()
    {
        let bytes = std::mem::take(&mut message.data);
        let share = u32::try_from(bytes.len()).map_or(RECORDS_LIMIT, |len| len.min(RECORDS_LIMIT));
        let permit = Arc::clone(room).acquire_many_owned(share).await;
        let permit = permit.expect("nobody closes it");
        message.data = Bytes::from_owner(Records {
            bytes,
            _room: permit,
        });
    }
    packet
}

/// Accepts the connections of peers, for as long as the daemon runs.
pub(crate) async fn accept_peers(listener: TcpListener, lanes: Lanes) {
    /// Wait after a failure, which is mostly a lack of file descriptors.
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        match listener.accept().await {
            Ok((socket, from)) => {
                let event = ShellEvent::PeerAccepted {
                    socket,
                    from: from.ip(),
                };
                if !lanes.send(Lane::Urgent, event).await {
                    return;
                }
            }
            Err(error) => {
                warn!("cannot accept a connection: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
