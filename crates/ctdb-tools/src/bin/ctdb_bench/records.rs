//! Records that clients of several nodes fetch in turn, and records that stay where they are.
//!
//! Each place checks what it did, so that a fast wrong answer counts as a failure.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

use ctdb_proto::{Body, Packet, ReqId};
use ctdb_tools::blocking::{Connection, Database};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Result;
use crate::measure::Latencies;

/// Visitors go round the ring, each fetching and changing its record at every node. Each of
/// `records` has `visitors`: with one of them no other node wants the record at the same time,
/// with more they take it from each other. One operation is from asking for a record until it was
/// changed under its lock.
///
/// One thread serves all visitors, to leave the processors to the daemons. Takes new records
/// several times, because it matters which node is their lmaster.
pub(crate) fn migrations(
    mut ring: Vec<Connection>,
    limit: Duration,
    records: usize,
    visitors: usize,
) -> Result<Latencies> {
    let databases = attach(&mut ring)?;
    let places = ring
        .into_iter()
        .zip(databases)
        .map(|(connection, database)| Place {
            connection,
            database,
        });
    let mut round = Round {
        places: places.collect(),
        visitors: Vec::new(),
        changes: HashMap::new(),
        latencies: Latencies::default(),
    };
    for _ in 0..ROUNDS {
        round.run(limit / ROUNDS, records, visitors)?;
    }
    Ok(round.latencies)
}

struct Place {
    connection: Connection,
    database: Database,
}

struct Visitor {
    key: Vec<u8>,
    asked: Instant,
}

struct Round {
    places: Vec<Place>,
    /// A visitor's number is the request id of its calls.
    visitors: Vec<Visitor>,
    /// How often each record has been changed.
    changes: HashMap<Vec<u8>, u64>,
    latencies: Latencies,
}

impl Round {
    fn run(&mut self, limit: Duration, records: usize, visitors: usize) -> Result<()> {
        let (start, deadline) = (Instant::now(), Instant::now() + limit);
        let keys: Vec<_> = (0..records).map(|_| unique_key("ring")).collect();
        self.visitors.clear();
        for key in keys.iter().cycle().take(records * visitors) {
            let (key, asked) = (key.clone(), start);
            self.visitors.push(Visitor { key, asked });
            // Those of one record begin at different places.
            let number = self.visitors.len() - 1;
            self.ask((number / records) % self.places.len(), number)?;
        }
        let mut under_way = self.visitors.len();
        while under_way > 0 {
            for place in self.wait()? {
                self.places[place].connection.read_more()?;
                while let Some(packet) = self.places[place].connection.next_read()? {
                    under_way -= usize::from(self.answered(place, &packet, deadline)?);
                }
            }
        }
        Ok(())
    }

    /// A visitor asks for its record.
    fn ask(&mut self, place: usize, number: usize) -> Result<()> {
        let (place, visitor) = (&mut self.places[place], &self.visitors[number]);
        let call = place.database.migrate(&visitor.key);
        place
            .connection
            .queue_call(ReqId(u32::try_from(number)?), call);
        Ok(())
    }

    /// Sends what was asked for and waits for answers. Returns the places that have some.
    fn wait(&mut self) -> Result<Vec<usize>> {
        for place in &mut self.places {
            place.connection.flush()?;
        }
        let streams = self.places.iter().map(|place| place.connection.stream());
        let mut fds: Vec<_> = streams
            .map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN))
            .collect();
        if poll(&mut fds, PollTimeout::from(ANSWER_LIMIT))? == 0 {
            return Err("a record did not come".into());
        }
        Ok((0..)
            .zip(&fds)
            .filter(|(_, fd)| fd.any().unwrap_or(false))
            .map(|(place, _)| place)
            .collect())
    }

    /// Changes the record that came, unless another node has taken it already, and goes on. Says
    /// whether the visitor has gone home.
    fn answered(&mut self, place: usize, packet: &Packet, deadline: Instant) -> Result<bool> {
        let Body::ReplyCall(_) = &packet.body else {
            return Err(format!("a call was answered with {:?}", packet.body).into());
        };
        let number = usize::try_from(packet.header.reqid.0)?;
        if !self.change(place, number)? {
            self.ask(place, number)?;
            return Ok(false);
        }
        let (now, visitor) = (Instant::now(), &mut self.visitors[number]);
        self.latencies.add(now.duration_since(visitor.asked));
        visitor.asked = now;
        if now < deadline {
            self.ask((place + 1) % self.places.len(), number)?;
        }
        Ok(now >= deadline)
    }

    /// Changes a visitor's record if it is here. Every change before this one must be in it.
    fn change(&mut self, place: usize, number: usize) -> Result<bool> {
        let (place, key) = (&self.places[place], &self.visitors[number].key);
        let mut found = 0;
        let changed = place
            .database
            .update_here(place.connection.pnn(), key, |data| {
                found = counter(data);
                (found + 1).to_le_bytes().to_vec()
            })?;
        if changed {
            let changes = self.changes.entry(key.clone()).or_default();
            if found != *changes {
                return Err(format!("the record said {found} after {changes} changes").into());
            }
            *changes += 1;
        }
        Ok(changed)
    }
}

/// Every node reads a record of its own through its daemon, with `window` calls under way for all
/// nodes together. One operation is one call.
pub(crate) fn local_calls(
    mut ring: Vec<Connection>,
    limit: Duration,
    window: usize,
) -> Result<Latencies> {
    let databases = attach(&mut ring)?;
    let each = window.div_ceil(ring.len());
    let deadline = Instant::now() + limit;
    thread::scope(|scope| {
        let running: Vec<_> = ring
            .iter_mut()
            .zip(databases)
            .map(|(connection, database)| {
                scope.spawn(move || calls(connection, &database, deadline, each))
            })
            .collect();
        running
            .into_iter()
            .try_fold(Latencies::default(), |all, node| {
                Ok(all.merge(node.join().expect("a thread of ours panicked")?))
            })
    })
}

fn calls(
    connection: &mut Connection,
    database: &Database,
    deadline: Instant,
    window: usize,
) -> Result<Latencies> {
    let key = unique_key("local");
    database.update(connection, &key, |_| DATA.to_vec())?;
    let mut asked = vec![Instant::now(); window];
    for number in 0..window {
        connection.queue_call(ReqId(u32::try_from(number)?), database.fetch(&key));
    }
    let (mut latencies, mut under_way) = (Latencies::default(), window);
    while under_way > 0 {
        connection.flush()?;
        connection.read_more()?;
        while let Some(packet) = connection.next_read()? {
            if !matches!(&packet.body, Body::ReplyCall(reply) if reply.data == DATA) {
                return Err("a call returned something else".into());
            }
            let (now, reqid) = (Instant::now(), packet.header.reqid);
            let asked = &mut asked[usize::try_from(reqid.0)?];
            latencies.add(now.duration_since(*asked));
            *asked = now;
            if now < deadline {
                connection.queue_call(reqid, database.fetch(&key));
            } else {
                under_way -= 1;
            }
        }
    }
    Ok(latencies)
}

fn attach(ring: &mut [Connection]) -> Result<Vec<Database>> {
    Ok(ring
        .iter_mut()
        .map(|node| node.attach(DATABASE))
        .collect::<Result<_, _>>()?)
}

/// A record that is not there yet: earlier runs left theirs.
fn unique_key(purpose: &str) -> Vec<u8> {
    use std::hash::{BuildHasher as _, RandomState};
    format!("{purpose} {:016x}", RandomState::new().hash_one(purpose)).into_bytes()
}

fn counter(data: &[u8]) -> u64 {
    data.try_into().map_or(0, u64::from_le_bytes)
}

const ROUNDS: u32 = 12;
const DATABASE: &str = "ctdb_bench.tdb";
const DATA: &[u8] = b"a record that stays";
/// Longest wait for any of the records, in milliseconds.
const ANSWER_LIMIT: u16 = 10_000;
