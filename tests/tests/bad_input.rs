//! Story: two clients work with one record, each through its own node, while others misbehave. A
//! stranger connects to the port of the nodes and is turned away. Then ten thousand broken packets
//! arrive at the socket for clients, and as many from the address of a node that is down. The
//! daemons stay as they are, and the two clients see nothing of it.

use std::io::{self, Read as _, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ctdb_e2e::{Mutator, TestCluster, TestResult, is_ours, step};
use ctdb_tools::blocking::Connection;
use socket2::{Domain, SockAddr, Socket, Type};

/// Broken packets for each of the two sockets.
const PACKETS: usize = 10_000;
/// For a daemon to close a connection that has ended or is not wanted.
const TO_CLOSE: Duration = Duration::from_secs(10);
/// Longest wait of a client for its record while packets rain down on two cores.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

#[test]
fn broken_packets_and_strangers_disturb_nobody() -> TestResult {
    let mut cluster = TestCluster::eager()?;
    let node_2 = cluster.at(2).address();
    cluster.at_mut(2).kill();
    cluster.wait_status(
        &[0, 1],
        Duration::from_secs(30),
        "a vnn map without node 2",
        |status| status.vnn_map == [0, 1] && status.normal,
    );
    let before: Vec<_> = [0, 1].map(|pnn| cluster.at(pnn).process()).into();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> TestResult {
        let clients = [0, 1].map(|pnn| {
            let (socket, stop) = (cluster.at(pnn).socket(), &stop);
            scope.spawn(move || work(&socket, stop))
        });
        let misbehaved = {
            let _stop = StopAtEnd(&stop);
            misbehave(&cluster, node_2)
        };
        let mut changes = 0;
        for client in clients {
            let work = client.join().map_err(|_| "a client panicked")??;
            step(&format!(
                "a client: {} changes, longest wait {:?}",
                work.changes, work.wait
            ));
            assert!(work.wait < LONGEST_WAIT, "a client waited {:?}", work.wait);
            changes += work.changes;
        }
        misbehaved?;
        assert_eq!(
            value_of_record(&cluster.at(0).socket())?,
            changes,
            "changes got lost"
        );
        Ok(())
    })?;
    let after: Vec<_> = [0, 1].map(|pnn| cluster.at(pnn).process()).into();
    assert_eq!(before, after, "a daemon has ended");
    cluster.at_mut(2).start()?;
    cluster.wait_healthy(ctdb_e2e::HEALTHY_LIMIT)?;
    Ok(())
}

fn misbehave(cluster: &TestCluster, node_2: Ipv4Addr) -> TestResult {
    let node_0 = SocketAddrV4::new(cluster.at(0).address(), 4379);
    let stranger = cluster.prefix().ok_or("a cluster has nodes")?.host(222);
    assert!(
        is_turned_away(stranger, node_0)?,
        "a stranger may stay connected"
    );
    assert!(
        !is_turned_away(node_2, node_0)?,
        "the address of a node is refused"
    );
    step("a stranger is turned away");

    if !is_ours() {
        // Debian's daemon does not live through what follows (CVE-2026-58224 and others).
        return Ok(());
    }
    let socket = cluster.at(0).socket();
    let connections = rain(&mut Mutator::of("client"), || UnixStream::connect(&socket))?;
    step(&format!(
        "{PACKETS} broken packets in {connections} connections of clients"
    ));
    let connections = rain(&mut Mutator::of("peer"), || connect_from(node_2, node_0))?;
    step(&format!(
        "{PACKETS} broken packets in {connections} connections of a node"
    ));
    Ok(())
}

/// Connects to a daemon and waits: does it close the connection? A node may stay.
fn is_turned_away(from: Ipv4Addr, to: SocketAddrV4) -> TestResult<bool> {
    let mut stream = match connect_from(from, to) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    match stream.read(&mut [0; 64]) {
        Ok(count) => Ok(count == 0),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn connect_from(from: Ipv4Addr, to: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SockAddr::from(SocketAddrV4::new(from, 0)))?;
    socket.connect(&SockAddr::from(to))?;
    Ok(socket.into())
}

/// What both kinds of connection can do.
trait Stream: io::Read + Write {
    fn end_of_writing(&self) -> io::Result<()>;
    fn limit_reading(&self, limit: Duration) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn end_of_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn limit_reading(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
}

impl Stream for TcpStream {
    fn end_of_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn limit_reading(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
}

/// Sends broken packets, a few in each connection, and waits each time until the daemon has closed
/// it: then it has seen all it wanted to see. Returns the number of connections.
fn rain<S: Stream>(
    mutator: &mut Mutator,
    connect: impl Fn() -> io::Result<S>,
) -> TestResult<usize> {
    let (mut packets, mut connections) = (0, 0);
    while packets < PACKETS {
        let mut stream = connect()?;
        connections += 1;
        for packet in mutator.connection() {
            packets += 1;
            // The daemon may have had enough of this connection before.
            if stream.write_all(&packet).is_err() {
                break;
            }
        }
        let _ = stream.end_of_writing();
        stream.limit_reading(TO_CLOSE)?;
        match io::copy(&mut stream, &mut io::sink()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(format!("connection {connections} is not closed").into());
            }
            _ => {}
        }
    }
    Ok(connections)
}

/// Ends the clients when the others are done, also by a panic.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a well-behaved client has done.
struct Work {
    changes: u64,
    /// The longest that one change took.
    wait: Duration,
}

/// Counts a record up, which travels between the nodes all the time.
fn work(socket: &Path, stop: &AtomicBool) -> Result<Work, String> {
    let text = |error: ctdb_tools::blocking::ClientError| error.to_string();
    let mut connection = Connection::connect(socket).map_err(text)?;
    let database = connection.attach(DATABASE).map_err(text)?;
    let mut work = Work {
        changes: 0,
        wait: Duration::ZERO,
    };
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let change = |data: &[u8]| (counter(data) + 1).to_le_bytes().to_vec();
        database
            .update(&mut connection, KEY, change)
            .map_err(text)?;
        work.changes += 1;
        work.wait = work.wait.max(start.elapsed());
    }
    Ok(work)
}

fn value_of_record(socket: &Path) -> TestResult<u64> {
    let mut connection = Connection::connect(socket)?;
    let database = connection.attach(DATABASE)?;
    let mut value = 0;
    database.update(&mut connection, KEY, |data| {
        value = counter(data);
        data.to_vec()
    })?;
    Ok(value)
}

fn counter(data: &[u8]) -> u64 {
    data.try_into().map_or(0, u64::from_le_bytes)
}

const DATABASE: &str = "bystanders.tdb";
const KEY: &[u8] = b"record of the well-behaved";
