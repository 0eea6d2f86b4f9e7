//! Story: a database has a million records on three nodes. `ctdb catdb`, ours and Debian's, and a
//! program with our client library see them all, each once. No daemon becomes much larger by it,
//! also when whoever reads is slow: it is not sent more than it reads, and the nodes that read the
//! records wait meanwhile.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use ctdb_client::Client;
use ctdb_e2e::{
    Bulk, PeakMemory, TestCluster, TestResult, in_runtime, is_ours, reference_daemon,
    reference_tool, step, tool,
};
use ctdb_proto::DbFlags;
use ctdb_tools::local_cluster::{Node, command};

const NAME: &str = "traverse.tdb";
const RECORDS: usize = 1_000_000;

/// By how many bytes a daemon may grow for a traverse. For the client 1 MiB waits and four batches
/// of each of three nodes, 64 KiB of records each, that are twice as long as messages; the same on
/// their way here, and the buffers are grown by doubling. The allocator may keep as much again.
const MEMORY: u64 = 32 << 20;

/// Time without any progress after which a traverse is given up, in seconds.
const TRAVERSE_TIMEOUT: u32 = 5;
/// Longer than that.
const NAP: Duration = Duration::from_secs(7);

#[test]
fn a_million_records_are_traversed_in_little_memory() -> TestResult {
    let mut options = TestCluster::options();
    options.tunables = vec![
        ("TraverseTimeout", TRAVERSE_TIMEOUT),
        // Its first run after so many new records takes memory of its own.
        ("VacuumInterval", 3600),
    ];
    let cluster = TestCluster::started(&options)?;
    Bulk::new(sockets(&cluster), NAME, RECORDS).write();
    step("a million records are written");

    let catdb = |program: PathBuf, nap| {
        watched(&cluster, &format!("{} catdb", program.display()), || {
            catdb(&program, cluster.at(0), nap)
        })
    };
    catdb(tool(), Some(NAP))?;
    catdb(reference_tool(), None)?;
    let socket = cluster.at(1).socket();
    watched(&cluster, "the library", || {
        in_runtime(traverse(&socket, RECORDS, Some(NAP)))
    })
}

#[test]
fn a_node_of_the_original_starts_or_shares_a_traverse() -> TestResult {
    const FEWER: usize = 50_000;
    let mut options = TestCluster::options();
    options.node_ctdbd.insert(2, reference_daemon());
    let cluster = TestCluster::started(&options)?;
    Bulk::new(sockets(&cluster), NAME, FEWER).write();
    for node in [0, 2] {
        let socket = cluster.at(node).socket();
        let seen = in_runtime(traverse(&socket, FEWER, None))?;
        assert_eq!(seen, FEWER, "by a client of node {node}");
        step(&format!("a client of node {node} has seen all"));
    }
    Ok(())
}

fn sockets(cluster: &TestCluster) -> Vec<PathBuf> {
    cluster.nodes().iter().map(Node::socket).collect()
}

/// Does a traverse, which gives how many records it has seen, and looks at the daemons meanwhile.
fn watched(
    cluster: &TestCluster,
    what: &str,
    traverse: impl FnOnce() -> TestResult<usize>,
) -> TestResult {
    let begun = Instant::now();
    let (seen, growth) = PeakMemory::during(cluster.nodes(), traverse);
    let (seen, took) = (seen?, begun.elapsed().as_secs_f64());
    let growth_kib = growth >> 10;
    step(&format!(
        "{what}: {seen} records in {took:.1} s, the daemons grew by {growth_kib} KiB"
    ));
    assert_eq!(seen, RECORDS, "{what}");
    assert!(growth < MEMORY || !is_ours(), "{what}: {growth} bytes");
    Ok(())
}

/// Reads what `ctdb catdb` writes. Takes a nap after the first half of it.
fn catdb(program: &Path, node: &Node, mut nap: Option<Duration>) -> TestResult<usize> {
    let mut command = command(program, ["catdb", NAME]);
    command.envs(node.environment()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let output = child.stdout.take().expect("it is a pipe");
    let mut seen = vec![false; RECORDS];
    let mut count = 0;
    for line in BufReader::with_capacity(1 << 16, output).lines() {
        let line = line?;
        let Some((_, key)) = line
            .strip_prefix("key(")
            .and_then(|key| key.split_once('"'))
        else {
            continue;
        };
        note(&mut seen, key.trim_end_matches('"').as_bytes());
        count += 1;
        if count == RECORDS / 2 {
            nap.take().into_iter().for_each(thread::sleep);
        }
    }
    let status = child.wait()?;
    assert!(status.success(), "{} catdb: {status}", program.display());
    Ok(count)
}

/// The same with our library.
async fn traverse(socket: &Path, records: usize, mut nap: Option<Duration>) -> TestResult<usize> {
    let client = Client::connect(socket).await?;
    let database = client.attach(NAME, DbFlags::empty()).await?;
    let mut traverse = database.traverse(false).await?;
    let mut seen = vec![false; records];
    let mut count = 0;
    while let Some((key, record)) = traverse.next().await? {
        assert_eq!(record.data, Bulk::DATA);
        note(&mut seen, &key);
        count += 1;
        if count == records / 2 {
            nap.take().into_iter().for_each(thread::sleep);
        }
    }
    Ok(count)
}

/// A record has been seen, for the first time: none of them moves.
fn note(seen: &mut [bool], key: &[u8]) {
    let number = Bulk::number(key);
    let place = number.and_then(|number| seen.get_mut(number));
    let place = place.unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(key)));
    assert!(!std::mem::replace(place, true), "{number:?} comes twice");
}
