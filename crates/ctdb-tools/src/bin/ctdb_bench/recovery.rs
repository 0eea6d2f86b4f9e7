//! How long a recovery of one large database takes, and how much memory the daemons need for it.
//!
//! The records are put straight into the nodes' files, each into one, as a client does that has the
//! record. The first recovery gives every node a copy of each; those after it merge as many copies
//! as there are nodes. Times are those that the leader notes itself (control `UPTIME`): from the
//! start of the event `startrecovery` to the end of the event `recovered`.

use std::fs;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_proto::{
    CURRENT_NODE, Generation, Opcode, Pnn, RecMode, RecordFlags, RecordHeader, Rsn, Srvid, Uptime,
    VnnMap, Wire, decode_exact,
};
use ctdb_tools::blocking::Connection;
use tdb::StoreMode;

use crate::Result;

const NAME: &str = "ctdb_bench_recovery.tdb";

/// Bytes of data of each record.
const SIZE: usize = 100;

/// Recoveries that are measured; the first one has less to merge.
const ROUNDS: u32 = 3;

/// For a recovery.
const LIMIT: Duration = Duration::from_secs(600);

/// Fills a database and has the cluster recovered. Prints a line for each recovery.
pub(crate) fn recoveries(mut nodes: Vec<Connection>, records: u32) -> Result<()> {
    for node in &mut nodes {
        node.set_limit(LIMIT);
        node.attach(NAME)?;
    }
    let pids = pids(&mut nodes)?;
    // Attaching and what came before leave something behind.
    thread::sleep(Duration::from_secs(2));
    let idle: Vec<Memory> = pids.iter().map(|pid| Memory::of(*pid)).collect();
    let count = u32::try_from(nodes.len())?;
    for (place, node) in (0..).zip(&mut nodes) {
        fill(node, (place..records).step_by(count as usize))?;
    }
    let head = [
        "copies",
        "seconds",
        "leader MiB",
        "others MiB",
        "with children",
    ];
    writeln!(io::stdout(), "{}", head.join("\t"))?;
    for round in 0..ROUNDS {
        let (seconds, leader, peaks) = measure(&mut nodes, &pids)?;
        let growth = |node: usize| peaks[node].minus(&idle[node]);
        let others = (0..nodes.len()).filter(|node| *node != leader);
        let most = others.map(|node| growth(node).own).max().unwrap_or(0);
        let leader = growth(leader);
        writeln!(
            io::stdout(),
            "{}\t{seconds:.2}\t{}\t{}\t{}",
            if round == 0 { 1 } else { count },
            leader.own >> 20,
            most >> 20,
            leader.with_children >> 20,
        )?;
    }
    Ok(())
}

fn pids(nodes: &mut [Connection]) -> Result<Vec<i32>> {
    let pid = |node: &mut Connection| {
        let reply = node.raw_control(CURRENT_NODE, Opcode::GET_PID, Srvid(0), Bytes::new());
        // The status of the reply is the number.
        Ok(reply?.status)
    };
    nodes.iter_mut().map(pid).collect()
}

fn fill(node: &mut Connection, numbers: impl Iterator<Item = u32>) -> Result<()> {
    let database = node.attach(NAME)?;
    let header = RecordHeader::new(Rsn(1), node.pnn(), RecordFlags::empty()).to_bytes();
    let data = [0x5a; SIZE];
    for number in numbers {
        let key = format!("record {number}");
        let value = [&header[..], &data].concat();
        let file = database.file();
        file.store(key.as_bytes(), &value, StoreMode::Replace)?;
    }
    Ok(())
}

/// One recovery: its length in seconds, the place of the leader, and how large each daemon became.
fn measure(nodes: &mut [Connection], pids: &[i32]) -> Result<(f64, usize, Vec<Memory>)> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let watchers: Vec<_> = pids
            .iter()
            .map(|pid| scope.spawn(|| watch(*pid, &ended)))
            .collect();
        let recovered = recover(nodes);
        ended.store(true, Ordering::Relaxed);
        let peaks = watchers.into_iter().map(|watcher| watcher.join());
        let peaks = peaks.collect::<thread::Result<_>>();
        let (seconds, leader) = recovered?;
        Ok((seconds, leader, peaks.map_err(|_| "a watcher panicked")?))
    })
}

/// Forces a recovery and waits for its end. Its length, and the place of the leader.
fn recover(nodes: &mut [Connection]) -> Result<(f64, usize)> {
    let before = generation(&mut nodes[0])?;
    let mode = RecMode::Active.raw().to_ne_bytes();
    let mode = Bytes::copy_from_slice(&mode);
    nodes[0].control(CURRENT_NODE, Opcode::SET_RECMODE, Srvid(0), mode)?;
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        thread::sleep(Duration::from_millis(50));
        if generation(&mut nodes[0])? != before && all_ended(nodes)? {
            let leader = leader(nodes)?;
            let length = length(&mut nodes[leader])?.ok_or("another recovery has begun")?;
            return Ok((length.as_secs_f64(), leader));
        }
    }
    Err("the recovery does not end".into())
}

fn generation(node: &mut Connection) -> Result<Generation> {
    let data = node.control(CURRENT_NODE, Opcode::GETVNNMAP, Srvid(0), Bytes::new())?;
    Ok(decode_exact::<VnnMap>(data)?.generation)
}

/// Whether every node has run the event `recovered`.
fn all_ended(nodes: &mut [Connection]) -> Result<bool> {
    for node in nodes {
        let mode = node.raw_control(CURRENT_NODE, Opcode::GET_RECMODE, Srvid(0), Bytes::new())?;
        let is_normal = mode.status == RecMode::Normal.raw().cast_signed();
        if !is_normal || length(node)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// From the start of the last recovery to its end; `None` while one runs.
fn length(node: &mut Connection) -> Result<Option<Duration>> {
    let data = node.control(CURRENT_NODE, Opcode::UPTIME, Srvid(0), Bytes::new())?;
    let uptime = Uptime::decode(&mut &data[..])?;
    let started = uptime.last_recovery_started.to_system_time();
    let finished = uptime.last_recovery_finished.to_system_time();
    Ok(started.and_then(|started| finished?.duration_since(started).ok()))
}

/// The place of the leader: after a recovery it is the dmaster of the records.
fn leader(nodes: &mut [Connection]) -> Result<usize> {
    let database = nodes[0].attach(NAME)?;
    let value = database.file().fetch(b"record 0")?.unwrap_or_default();
    let (header, _) = RecordHeader::split(&value)?;
    let is_leader = |node: &Connection| Pnn::new(header.dmaster) == Some(node.pnn());
    let place = nodes.iter().position(is_leader);
    place.ok_or_else(|| "the leader is not one of these nodes".into())
}

/// Memory that is in no file, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    own: u64,
    /// Of the daemon and of all processes that it started.
    with_children: u64,
}

impl Memory {
    fn of(pid: i32) -> Self {
        let own = anonymous(pid);
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let children = children
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok());
        let with_children = own + children.map(|pid| Self::of(pid).with_children).sum::<u64>();
        Self { own, with_children }
    }

    fn minus(&self, idle: &Self) -> Self {
        Self {
            own: self.own.saturating_sub(idle.own),
            with_children: self.with_children.saturating_sub(idle.with_children),
        }
    }
}

/// 0 for a process that is gone.
fn anonymous(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Looks at a daemon until the recovery has ended; its largest size.
fn watch(pid: i32, ended: &AtomicBool) -> Memory {
    let mut peak = Memory::default();
    while !ended.load(Ordering::Relaxed) {
        let now = Memory::of(pid);
        peak.own = peak.own.max(now.own);
        peak.with_children = peak.with_children.max(now.with_children);
        thread::sleep(Duration::from_millis(20));
    }
    peak
}
