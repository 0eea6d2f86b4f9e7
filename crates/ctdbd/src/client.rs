//! The Unix socket for local processes: smbd, the tools, helpers (wire.md 1.3).

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use ctdb_core::Ticket;
use ctdb_proto::{Body, ClientId, Packet, Transport};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;
use tracing::{debug, error, warn};

use crate::connection::{Backlog, Incoming, Outgoing, OwnedTask, ReadEnd};
use crate::event::ShellEvent;
use crate::lanes::{ClientOrder, Lane, Lanes};
use crate::socket::Socket;
use crate::unanswered::Unanswered;

/// Bytes that may wait for a client that does not read. It is disconnected when there are more.
const QUEUE_LIMIT: usize = 128 * 1024 * 1024;

/// Bytes that may wait for all clients together. When there are more, the one with the longest
/// queue is disconnected.
const BACKLOG_LIMIT: usize = 512 * 1024 * 1024;

/// With fewer bytes than this in its queue a client has room for more records of a traverse.
const ROOM: usize = 1024 * 1024;

/// Between two looks at the queue of a client that has none.
const ROOM_PAUSE: Duration = Duration::from_millis(2);

/// The connections of all local processes.
pub(crate) struct Clients {
    lanes: Lanes,
    connected: HashMap<ClientId, Client>,
    /// Clients that packets were queued for in this turn.
    dirty: Vec<ClientId>,
    backlog: Backlog,
}

struct Client {
    out: Outgoing,
    unanswered: Unanswered,
    is_dirty: bool,
    _reader: OwnedTask,
}

impl Clients {
    pub(crate) fn new(lanes: Lanes) -> Self {
        Self {
            lanes,
            connected: HashMap::new(),
            dirty: Vec::new(),
            backlog: Backlog::default(),
        }
    }

    /// Reads the packets of a new client from now on. False if that is not possible.
    pub(crate) fn add(&mut self, id: ClientId, socket: UnixStream) -> bool {
        let socket = match Socket::from_unix(socket) {
            Ok(socket) => socket,
            Err(error) => {
                warn!(client = %id, "cannot serve: {error}");
                return false;
            }
        };
        let name = format!("client {id}");
        let incoming = Incoming::new(socket.clone(), Transport::Unix, name);
        let unanswered = Unanswered::default();
        let reader = read_client(id, incoming, unanswered.clone(), self.lanes.clone());
        let reader = tokio::spawn(reader);
        let lanes = self.lanes.clone();
        let lost = move |error: io::Error| {
            debug!(client = %id, "cannot write: {error}");
            lanes.report(ShellEvent::ClientLost { client: id });
        };
        let out = Outgoing::new(socket, self.backlog.clone(), lost);
        self.connected.insert(
            id,
            Client {
                out,
                unanswered,
                is_dirty: false,
                _reader: OwnedTask(reader),
            },
        );
        true
    }

    /// Closes the connection of a client. False if it has none.
    pub(crate) fn remove(&mut self, id: ClientId) -> bool {
        self.connected.remove(&id).is_some()
    }

    /// Queues a packet. Returns a client that lets too much pile up and has to go.
    ///
    /// `max_messages` is the tunable `MaxQueueDropMsg`: so many packets may wait when a message
    /// is to be added.
    pub(crate) fn send(
        &mut self,
        id: ClientId,
        packet: &Packet,
        max_messages: u32,
    ) -> Option<ClientId> {
        let client = self.connected.get_mut(&id)?;
        let is_message = matches!(packet.body, Body::ReqMessage(_));
        if is_message && client.out.queued_packets() > max_messages as usize {
            error!("CTDB_REQ_MESSAGE queue full - killing client connection.");
            return Some(id);
        }
        if client.out.is_over(QUEUE_LIMIT) {
            error!(client = %id, "more than {QUEUE_LIMIT} bytes wait for the client, closing it");
            return Some(id);
        }
        client.unanswered.answered(packet);
        client.out.push(packet);
        if !client.is_dirty {
            client.is_dirty = true;
            self.dirty.push(id);
        }
        self.worst_of_too_many()
    }

    /// Reports when the client has room for more, or is gone.
    pub(crate) fn await_room(&self, id: ClientId, ticket: Ticket) {
        let queue = self.connected.get(&id).map(|client| client.out.watch());
        let lanes = self.lanes.clone();
        match queue.filter(|queue| queue.queued_bytes() >= ROOM) {
            None => lanes.report(ShellEvent::ClientRoom { ticket }),
            Some(queue) => drop(tokio::spawn(async move {
                while queue.queued_bytes() >= ROOM {
                    sleep(ROOM_PAUSE).await;
                }
                lanes.report(ShellEvent::ClientRoom { ticket });
            })),
        }
    }

    /// The client with the longest queue, if too much waits for all of them.
    fn worst_of_too_many(&self) -> Option<ClientId> {
        if self.backlog.bytes() <= BACKLOG_LIMIT {
            return None;
        }
        let longest = self
            .connected
            .iter()
            .max_by_key(|(_, client)| client.out.queued_bytes());
        let (&id, client) = longest?;
        let bytes = client.out.queued_bytes();
        error!(client = %id, "too much waits for clients, closing the one with {bytes} bytes");
        Some(id)
    }

    /// Writes what was queued in this turn. Returns the clients that are gone.
    pub(crate) fn flush(&mut self) -> Vec<ClientId> {
        let mut gone = Vec::new();
        for id in self.dirty.drain(..) {
            if let Some(client) = self.connected.get_mut(&id) {
                client.is_dirty = false;
                if let Err(error) = client.out.flush() {
                    debug!(client = %id, "cannot write: {error}");
                    gone.push(id);
                }
            }
        }
        gone
    }
}

async fn read_client(
    client: ClientId,
    mut incoming: Incoming,
    unanswered: Unanswered,
    lanes: Lanes,
) {
    let order = ClientOrder::default();
    let mut has_asked_much = false;
    loop {
        if unanswered.is_full() {
            if !std::mem::replace(&mut has_asked_much, true) {
                warn!(%client, "many requests are not answered yet, reading more of them later");
            }
            unanswered.room(|| incoming.is_hung_up()).await;
        }
        match incoming.next().await {
            Ok(packet) => {
                unanswered.asked(&packet);
                let (lane, place) = order.place(&packet);
                let event = ShellEvent::ClientPacket {
                    client,
                    packet,
                    place,
                };
                if !lanes.send(lane, event).await {
                    return;
                }
            }
            Err(end) => {
                match end {
                    ReadEnd::Closed => debug!(%client, "client closed its connection"),
                    end => warn!(%client, "client connection ends: {end}"),
                }
                // Through the lane that is served last: what it asked for before is done first.
                lanes
                    .send(Lane::Work, ShellEvent::ClientLost { client })
                    .await;
                return;
            }
        }
    }
}

/// Accepts clients, for as long as the daemon runs.
pub(crate) async fn accept_clients(listener: UnixListener, lanes: Lanes) {
    /// Wait after a failure, which is mostly a lack of file descriptors.
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        match accept(&listener).await {
            Ok((socket, pid)) => {
                let event = ShellEvent::ClientAccepted { socket, pid };
                if !lanes.send(Lane::Urgent, event).await {
                    return;
                }
            }
            Err(error) => {
                warn!("cannot accept a client: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// A new connection, and the pid of the process that made it.
async fn accept(listener: &UnixListener) -> io::Result<(UnixStream, i32)> {
    let (socket, _) = listener.accept().await?;
    let pid = socket.peer_cred()?.pid().unwrap_or_default();
    Ok((socket, pid))
}

#[cfg(test)]
mod tests;
