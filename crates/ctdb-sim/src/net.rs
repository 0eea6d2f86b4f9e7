//! The links between the nodes: TCP connections that delay, stall, break and come again.
//!
//! Each node opens one connection to each other one and sends on that alone. What is sent on a
//! path that is *cut* stalls, as with TCP, and goes on when the path is healed, unless the
//! connection was given up meanwhile. A path is cut in one direction or in both.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ctdb_proto::{Packet, Pnn};

/// Time that a packet takes on a path that is not slow, at least; up to as much again is added.
pub(crate) const LATENCY: Duration = Duration::from_micros(200);

/// All paths and connections.
pub(crate) struct Net {
    nodes: usize,
    /// One for each ordered pair of nodes.
    paths: Vec<Path>,
    last_session: u64,
}

/// From one node to another, and the connection that the first one opened.
struct Path {
    /// Names the connection that stands, or stood last.
    session: u64,
    open_at_sender: bool,
    open_at_receiver: bool,
    cut: bool,
    /// On top of [`LATENCY`].
    delay: Duration,
    /// What is sent stays in order.
    last_arrival: Option<Instant>,
    stalled: VecDeque<Parcel>,
}

/// What travels on a path.
pub(crate) enum Parcel {
    /// On the connection of that session.
    Packet { session: u64, packet: Packet },
    /// The sender has closed both connections: the one that it opened, and the other.
    Closed { opened: u64, accepted: u64 },
}

impl Net {
    pub(crate) fn new(nodes: usize) -> Self {
        let path = || Path {
            session: 0,
            open_at_sender: false,
            open_at_receiver: false,
            cut: false,
            delay: Duration::ZERO,
            last_arrival: None,
            stalled: VecDeque::new(),
        };
        Self {
            nodes,
            paths: std::iter::repeat_with(path).take(nodes * nodes).collect(),
            last_session: 0,
        }
    }

    fn path(&self, from: Pnn, to: Pnn) -> &Path {
        &self.paths[from.index() * self.nodes + to.index()]
    }

    fn path_mut(&mut self, from: Pnn, to: Pnn) -> &mut Path {
        &mut self.paths[from.index() * self.nodes + to.index()]
    }

    /// Whether the one who opened the connection still has it.
    pub(crate) fn is_open(&self, from: Pnn, to: Pnn) -> bool {
        self.path(from, to).open_at_sender
    }

    /// Whether two nodes can shake hands.
    pub(crate) fn can_connect(&self, a: Pnn, b: Pnn) -> bool {
        !self.path(a, b).cut && !self.path(b, a).cut
    }

    /// The connection of `from` stands at both ends.
    pub(crate) fn connected(&mut self, from: Pnn, to: Pnn) {
        self.last_session += 1;
        let session = self.last_session;
        let path = self.path_mut(from, to);
        path.session = session;
        (path.open_at_sender, path.open_at_receiver) = (true, true);
    }

    /// The parcel for a packet, if there is a connection to send it on.
    pub(crate) fn pack(&self, from: Pnn, to: Pnn, packet: Packet) -> Option<Parcel> {
        let path = self.path(from, to);
        let session = path.session;
        path.open_at_sender
            .then_some(Parcel::Packet { session, packet })
    }

    /// Sends a parcel on its way: when it arrives, or nothing if it stalls. `jitter` is 0 to 1.
    pub(crate) fn dispatch(
        &mut self,
        from: Pnn,
        to: Pnn,
        parcel: Parcel,
        jitter: f64,
        now: Instant,
    ) -> Option<(Instant, Parcel)> {
        let path = self.path_mut(from, to);
        if path.cut {
            path.stalled.push_back(parcel);
            return None;
        }
        let at = now + path.delay + LATENCY + LATENCY.mul_f64(jitter);
        let at = path.last_arrival.map_or(at, |last| at.max(last));
        path.last_arrival = Some(at);
        Some((at, parcel))
    }

    /// The packet in a parcel that has arrived, if the receiver still has its connection. A close
    /// takes both of the receiver's ends with it: `Err` if there were any.
    pub(crate) fn arrived(
        &mut self,
        from: Pnn,
        to: Pnn,
        parcel: Parcel,
    ) -> Result<Option<Packet>, Lost> {
        match parcel {
            Parcel::Packet { session, packet } => {
                let path = self.path(from, to);
                Ok((path.open_at_receiver && path.session == session).then_some(packet))
            }
            Parcel::Closed { opened, accepted } => {
                let (theirs, ours) = (self.path(from, to), self.path(to, from));
                let known = theirs.open_at_receiver && theirs.session == opened
                    || ours.open_at_sender && ours.session == accepted;
                if known && self.close(to, from).is_some() {
                    return Err(Lost);
                }
                Ok(None)
            }
        }
    }

    /// A node closes its ends of both connections with another one: what it tells the other, if
    /// it had any.
    pub(crate) fn close(&mut self, node: Pnn, other: Pnn) -> Option<Parcel> {
        let own = self.path_mut(node, other);
        let opened = own.session;
        let had_own = std::mem::take(&mut own.open_at_sender);
        let incoming = self.path_mut(other, node);
        let accepted = incoming.session;
        let had_incoming = std::mem::take(&mut incoming.open_at_receiver);
        (had_own || had_incoming).then_some(Parcel::Closed { opened, accepted })
    }

    /// What is sent from now on stalls.
    pub(crate) fn cut(&mut self, from: Pnn, to: Pnn) {
        self.path_mut(from, to).cut = true;
    }

    /// The path works again: what has stalled can be sent.
    pub(crate) fn heal(&mut self, from: Pnn, to: Pnn) -> VecDeque<Parcel> {
        let path = self.path_mut(from, to);
        path.cut = false;
        std::mem::take(&mut path.stalled)
    }

    /// Makes a path slower from now on.
    pub(crate) fn delay(&mut self, from: Pnn, to: Pnn, delay: Duration) {
        self.path_mut(from, to).delay = delay;
    }
}

/// The connections of a node with another one are gone.
pub(crate) struct Lost;
