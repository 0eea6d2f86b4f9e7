//! Messages between clients of different nodes. One operation is one message from client to client.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use ctdb_proto::{Body, Srvid, Wire as _};
use ctdb_tools::blocking::{ClientError, Connection};

use crate::Result;
use crate::measure::Latencies;

/// The way that messages take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// From node to node. Nobody else uses the connection of two neighbours.
    Ring,
    /// To the first node and back to where they came from: all want the first node.
    ToFirst,
}

/// Messages go their way for a while, about `window` of them at the same time.
pub(crate) fn messages(
    mut places: Vec<Connection>,
    limit: Duration,
    window: usize,
    way: Way,
) -> Result<Latencies> {
    if places.len() < 2 {
        return Err("messages need two nodes".into());
    }
    for connection in &mut places {
        connection.register(SRVID)?;
        connection.set_limit(PATIENCE);
    }
    let pnns: Arc<[u32]> = places.iter().map(|place| place.pnn().get()).collect();
    let start = Instant::now();
    let clients = (0..).zip(places).map(|(place, connection)| Client {
        place,
        pnns: Arc::clone(&pnns),
        connection,
        way,
        start,
        limit,
        latencies: Latencies::default(),
    });
    let senders = match way {
        Way::Ring => 0..1,
        Way::ToFirst => 1..pnns.len(),
    };
    let each = window.div_ceil(senders.len());
    thread::scope(|scope| {
        let running: Vec<_> = clients
            .map(|client| {
                let first = if senders.contains(&client.place) {
                    each
                } else {
                    0
                };
                scope.spawn(move || client.run(first))
            })
            .collect();
        running
            .into_iter()
            .try_fold(Latencies::default(), |all, client| {
                Ok(all.merge(client.join().expect("a thread of ours panicked")?))
            })
    })
}

/// The client of one node.
struct Client {
    place: usize,
    pnns: Arc<[u32]>,
    connection: Connection,
    way: Way,
    /// When the messages began to go their way, and for how long they do.
    start: Instant,
    limit: Duration,
    latencies: Latencies,
}

impl Client {
    /// Sends the first messages, then sends on what comes.
    fn run(mut self, first: usize) -> Result<Latencies> {
        for _ in 0..first {
            self.send(self.place);
        }
        let mut last = Instant::now();
        loop {
            self.connection.flush()?;
            match self.connection.read_more() {
                Ok(()) => last = Instant::now(),
                Err(ClientError::TimedOut(_)) if self.start.elapsed() > self.limit => {
                    return Ok(self.latencies);
                }
                Err(ClientError::TimedOut(_)) if last.elapsed() < MESSAGE_LIMIT => {}
                Err(ClientError::TimedOut(_)) => return Err("a message was lost".into()),
                Err(error) => return Err(error.into()),
            }
            while let Some(packet) = self.connection.next_read()? {
                if let Body::ReqMessage(message) = packet.body {
                    self.received(message.data)?;
                }
            }
        }
    }

    /// Sends a message on, unless time is up.
    fn received(&mut self, mut data: Bytes) -> Result<()> {
        let (sent, from) = (u64::decode(&mut data)?, u32::decode(&mut data)?);
        if data != MESSAGE {
            return Err("a message arrived changed".into());
        }
        let now = self.start.elapsed();
        self.latencies
            .add(now.saturating_sub(Duration::from_nanos(sent)));
        if now < self.limit {
            self.send(usize::try_from(from)?);
        }
        Ok(())
    }

    /// Sends a message on its way; `from` is the place where the last one came from.
    fn send(&mut self, from: usize) {
        let next = match self.way {
            Way::Ring => (self.place + 1) % self.pnns.len(),
            Way::ToFirst if self.place == 0 => from,
            Way::ToFirst => 0,
        };
        let mut data = BytesMut::new();
        let sent = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        sent.encode(&mut data);
        u32::try_from(self.place)
            .unwrap_or_default()
            .encode(&mut data);
        data.put_slice(MESSAGE);
        let to = self.pnns.get(next).copied().unwrap_or_default();
        self.connection.queue_message(to, SRVID, data.freeze());
    }
}

const SRVID: Srvid = Srvid(Srvid::RANGE_TEST.0 | 0x00bec);
const MESSAGE: &[u8] = b"from client to client";
/// Longest wait for a message while they go their way.
const MESSAGE_LIMIT: Duration = Duration::from_secs(1);
/// How often a client that gets nothing looks at the clock.
const PATIENCE: Duration = Duration::from_millis(50);
