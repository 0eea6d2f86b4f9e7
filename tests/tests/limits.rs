//! Story: clients ask for more than there is, and the daemon stays small and serves the others.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_e2e::{TestCluster, TestResult, own_memory, step};
use ctdb_proto::Srvid;
use ctdb_tools::blocking::Connection;
use ctdb_tools::local_cluster::{Node, wait_until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const DATABASE: &str = "limits.tdb";
const LIMIT: Duration = Duration::from_secs(120);

/// What a call of somebody who has nothing to do with it may take meanwhile, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

const CLIENTS: usize = 2000;

/// As large as the daemon may be with so many clients that each wait for a call. Bytes.
const MEMORY_OF_WAITING: u64 = 100 << 20;

#[test]
fn two_thousand_clients_wait_for_one_record() -> TestResult {
    allow_open_files(3 * CLIENTS as u64)?;
    let cluster = TestCluster::healthy()?;
    let node = cluster.at(0);
    let socket = node.socket();

    step("a client keeps the lock of the record");
    let mut holder = Connection::connect(&socket)?;
    let database = holder.attach(DATABASE)?;
    let wanted = database.fetch(b"wanted");
    let (held, is_held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let holding = thread::spawn(move || {
        database.update(&mut holder, b"wanted", |_| {
            held.send(()).expect("the test waits for this");
            // Ends when the test drops its end.
            let _ = released.recv();
            b"at last".to_vec()
        })
    });
    is_held.recv()?;

    step("everybody asks for it");
    let mut connections = (0..CLIENTS)
        .map(|_| Connection::connect(&socket))
        .collect::<Result<Vec<_>, _>>()?;
    thread::scope(|scope| -> TestResult {
        let waiting: Vec<_> = connections
            .iter_mut()
            .map(|connection| {
                connection.set_limit(LIMIT);
                let call = wanted.clone();
                let small = thread::Builder::new().stack_size(128 * 1024);
                small.spawn_scoped(scope, move || connection.call(call))
            })
            .collect::<Result<_, _>>()?;
        let all_wait = wait_until(LIMIT, || pending_calls(node) == CLIENTS);
        assert!(all_wait, "{} calls wait", pending_calls(node));

        step("others are served, and the daemon is small");
        assert_is_served(node)?;
        let memory = own_memory(node);
        step(&format!("{} MiB", memory >> 20));
        assert!(memory < MEMORY_OF_WAITING, "{memory} bytes");

        step("the lock is given back");
        drop(release);
        for client in waiting {
            let reply = client.join().expect("no client panics")?;
            assert_eq!(reply.data, "at last");
        }
        Ok(())
    })?;
    holding.join().expect("the holder does not panic")?;
    assert_eq!(pending_calls(node), 0);
    Ok(())
}

/// Bytes that are sent to a client that does not read.
const FLOOD: usize = 1 << 30;

/// As large as the daemon may become: 128 MiB may wait for one client (`QUEUE_LIMIT` of the
/// daemon), and a buffer grows by doubling.
const MEMORY_OF_FLOOD: u64 = 300 << 20;

#[test]
fn a_gigabyte_for_a_client_that_does_not_read() -> TestResult {
    const SRVID: Srvid = Srvid(Srvid::RANGE_TEST.0 | 0xf100d);
    const SIZE: usize = 100_000;
    let cluster = TestCluster::healthy()?;
    let node = cluster.at(0);
    let mut deaf = Connection::connect(&node.socket())?;
    deaf.register(SRVID)?;

    step("one sends and sends");
    let mut sender = Connection::connect(&node.socket())?;
    let data = Bytes::from(vec![7; SIZE]);
    let me = sender.pnn().get();
    let mut largest = 0;
    for sent in 0..FLOOD / SIZE {
        sender.send_message(me, SRVID, data.clone())?;
        if sent % 500 == 0 {
            assert_is_served(node)?;
            largest = largest.max(own_memory(node));
        }
    }
    assert_is_served(node)?;
    largest = largest.max(own_memory(node));
    step(&format!("the daemon had {} MiB at most", largest >> 20));
    assert!(largest < MEMORY_OF_FLOOD, "{largest} bytes");

    step("it was disconnected, and the log says why");
    let log = std::fs::read_to_string(node.log())?;
    assert!(
        log.contains("bytes wait for the client, closing it"),
        "{log}"
    );
    let mut messages = 0;
    while deaf
        .receive_message(PATIENCE)
        .is_ok_and(|got| got.is_some())
    {
        messages += 1;
    }
    assert!(messages < 2 * (128 << 20) / SIZE, "{messages} messages");
    let smaller = wait_until(LIMIT, || own_memory(node) < largest / 2);
    assert!(smaller, "{} bytes are kept", own_memory(node));
    Ok(())
}

/// Bytes of a record that is larger than anybody should have.
const HUGE: usize = 100 << 20;

/// Larger than all that may otherwise pile up for a client, and than what most would call a limit.
const HUGER: usize = 300 << 20;

#[test]
fn a_record_of_a_hundred_megabytes_is_carried() -> TestResult {
    let cluster = TestCluster::healthy()?;
    for round in 0..2 {
        for node in cluster.nodes() {
            let mut client = Connection::connect(&node.socket())?;
            client.set_limit(LIMIT);
            let database = client.attach(DATABASE)?;
            let mut found = None;
            let asked = Instant::now();
            database.update(&mut client, b"huge", |data| {
                found = Some((data.len(), data.first().copied()));
                vec![round; HUGE]
            })?;
            step(&format!("node {} after {:?}", node.pnn(), asked.elapsed()));
            let expected = match (round, node.pnn()) {
                (0, 0) => (0, None),
                (1, 0) => (HUGE, Some(0)),
                (round, _) => (HUGE, Some(round)),
            };
            assert_eq!(found, Some(expected), "round {round}, node {}", node.pnn());
            assert_is_served(node)?;
        }
    }
    Ok(())
}

/// It must not stop every recovery from then on, or go lost in one.
#[test]
fn a_record_of_three_hundred_megabytes_survives_a_recovery() -> TestResult {
    let cluster = TestCluster::healthy()?;
    let mut client = Connection::connect(&cluster.at(1).socket())?;
    client.set_limit(LIMIT);
    let database = client.attach(DATABASE)?;
    database.update(&mut client, b"huger", |_| vec![3; HUGER])?;

    step("recover");
    cluster.ctdb(0, &["-t", "120", "recover"]);
    cluster.wait_healthy(LIMIT)?;

    step("look for it");
    let mut found = 0;
    database.update(&mut client, b"huger", |data| {
        found = data.len();
        assert!(data.iter().all(|&byte| byte == 3));
        b"small again".to_vec()
    })?;
    assert_eq!(found, HUGER);
    Ok(())
}

/// A client that is new and a call for a record of its own.
fn assert_is_served(node: &Node) -> TestResult {
    let asked = Instant::now();
    let mut client = Connection::connect(&node.socket())?;
    let database = client.attach(DATABASE)?;
    client.call(database.fetch(b"other"))?;
    let took = asked.elapsed();
    assert!(took < PATIENCE, "a bystander waited {took:?}");
    Ok(())
}

fn pending_calls(node: &Node) -> usize {
    let output = node.ctdb(["statistics"]).expect("the tool runs");
    let line = output
        .stdout
        .lines()
        .find(|line| line.contains("pending_calls"));
    let number = line.and_then(|line| line.split_ascii_whitespace().nth(1));
    number.and_then(|text| text.parse().ok()).expect("a number")
}

fn allow_open_files(wanted: u64) -> TestResult {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    assert!(
        hard >= wanted,
        "this test needs {wanted} open files: `ulimit -Hn` says {hard}"
    );
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    Ok(())
}
