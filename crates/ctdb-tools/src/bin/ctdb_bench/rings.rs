//! The kinds of work: each gets a connection to every node, goes on for a while and says how often
//! it was done. Each checks what it did, so that a fast wrong answer counts as a failure.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_proto::Srvid;
use ctdb_tools::blocking::{Connection, Database};

use crate::Result;

/// Messages pass round the ring, `window` of them at the same time. Counts hops.
pub(crate) fn messages(mut ring: Vec<Connection>, limit: Duration, window: u32) -> Result<u64> {
    for connection in &mut ring {
        connection.register(SRVID)?;
    }
    let pnns: Vec<u32> = ring
        .iter()
        .map(|connection| connection.pnn().get())
        .collect();
    for _ in 0..window {
        ring[0].send_message(pnns[1 % pnns.len()], SRVID, Bytes::from_static(MESSAGE))?;
    }
    let (hops, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (hops, stop) = (&hops, &stop);
    thread::scope(|scope| {
        let nodes: Vec<_> = ring
            .into_iter()
            .enumerate()
            .map(|(place, connection)| {
                let next = pnns[(place + 1) % pnns.len()];
                scope.spawn(move || pass_on(connection, next, hops, stop))
            })
            .collect();
        thread::sleep(limit);
        stop.store(true, Ordering::Relaxed);
        nodes
            .into_iter()
            .try_for_each(|node| node.join().expect("a thread of ours panicked"))
    })?;
    Ok(hops.load(Ordering::Relaxed))
}

/// One place in the ring.
fn pass_on(
    mut connection: Connection,
    next: u32,
    hops: &AtomicU64,
    stop: &AtomicBool,
) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let Some(message) = connection.receive_message(MESSAGE_LIMIT)? else {
            // The neighbour may have seen the stop before us.
            let stopped = stop.load(Ordering::Relaxed);
            return if stopped {
                Ok(())
            } else {
                Err("a message was lost".into())
            };
        };
        if message.data != MESSAGE {
            return Err("a message arrived changed".into());
        }
        hops.fetch_add(1, Ordering::Relaxed);
        connection.send_message(next, SRVID, message.data)?;
    }
    Ok(())
}

/// Node after node fetches one record and changes it. Counts fetches.
///
/// Takes a new record several times, because it matters which node is its lmaster.
pub(crate) fn record(mut ring: Vec<Connection>, limit: Duration) -> Result<u64> {
    let databases = attach(&mut ring)?;
    (0..RECORDS_IN_TURN)
        .map(|_| pass_record(&mut ring, &databases, limit / RECORDS_IN_TURN))
        .sum()
}

fn pass_record(ring: &mut [Connection], databases: &[Database], limit: Duration) -> Result<u64> {
    let key = unique_key("ring");
    let deadline = Instant::now() + limit;
    let mut count = 0;
    while Instant::now() < deadline {
        for (connection, database) in ring.iter_mut().zip(databases) {
            let mut found = 0;
            database.update(connection, &key, |data| {
                found = counter(data);
                (found + 1).to_le_bytes().to_vec()
            })?;
            if found != count {
                return Err(format!("the record said {found} after {count} changes").into());
            }
            count += 1;
        }
    }
    Ok(count)
}

/// Several records go round at the same time, each as in [`record`]. Counts fetches.
pub(crate) fn records(rings: Vec<Vec<Connection>>, limit: Duration) -> Result<u64> {
    thread::scope(|scope| {
        let rings: Vec<_> = rings
            .into_iter()
            .map(|ring| scope.spawn(move || record(ring, limit)))
            .collect();
        rings
            .into_iter()
            .map(|ring| ring.join().expect("a thread of ours panicked"))
            .sum::<Result<u64>>()
    })
}

/// Every node reads a record of its own through its daemon. Counts calls.
pub(crate) fn local_calls(mut ring: Vec<Connection>, limit: Duration) -> Result<u64> {
    let databases = attach(&mut ring)?;
    let deadline = Instant::now() + limit;
    thread::scope(|scope| {
        let nodes: Vec<_> = ring
            .iter_mut()
            .zip(databases)
            .map(|(connection, database)| {
                scope.spawn(move || call(connection, &database, deadline))
            })
            .collect();
        nodes
            .into_iter()
            .map(|node| node.join().expect("a thread of ours panicked"))
            .sum::<Result<u64>>()
    })
}

fn call(connection: &mut Connection, database: &Database, deadline: Instant) -> Result<u64> {
    let key = unique_key("local");
    database.update(connection, &key, |_| MESSAGE.to_vec())?;
    let mut count = 0;
    while Instant::now() < deadline {
        if connection.call(database.fetch(&key))?.data != MESSAGE {
            return Err("a call returned something else".into());
        }
        count += 1;
    }
    Ok(count)
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

const RECORDS_IN_TURN: u32 = 12;
const DATABASE: &str = "ctdb_bench.tdb";
const SRVID: Srvid = Srvid(Srvid::RANGE_TEST.0 | 0x00bec);
const MESSAGE: &[u8] = b"once round the ring and back";
const MESSAGE_LIMIT: Duration = Duration::from_secs(1);
