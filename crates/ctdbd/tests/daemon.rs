//! The daemon as a whole: how it starts, serves, fails and ends.
//!
//! Each test runs daemons of its own on a loopback address of its own.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod fixture;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use ctdb_proto::{Body, CallFlags, CallId, DbId, Opcode, Padding, ReqCall, ReqMessage, Srvid};

use fixture::{Client, Node, control, packet};

const PROMPT: Duration = Duration::from_secs(20);

#[test]
fn it_serves_from_the_moment_its_foreground_process_ends() {
    let node = Node::new();
    let started = node.start_in_background();
    assert_eq!((started.code, started.stderr.as_str()), (Some(0), ""));
    let pid = node.pid();
    let mode = std::fs::metadata(node.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let mut client = Client::connect(&node);
    let reply = client.control(control(Opcode::GET_PID, &[]));
    assert_eq!(u32::try_from(reply.status).unwrap(), pid);
    Node::stop(pid);
    assert!(!node.socket().exists(), "the socket file stays behind");
    assert!(!node.pid_file().exists(), "the pid file stays behind");
    assert!(node.log().contains("CTDB daemon shutting down"));
}

#[test]
fn a_second_daemon_on_the_same_folder_is_refused_in_one_line() {
    let node = Node::new();
    node.start_in_background();
    let pid = node.pid();
    let second = node.start_in_background();
    assert_eq!(second.code, Some(11));
    let line = format!(
        "Failed to create PID file {} - another ctdbd is running\n",
        node.pid_file().display()
    );
    assert_eq!(second.stderr, line);
    assert_eq!(node.pid(), pid, "the first daemon lost its pid file");
    let mut client = Client::connect(&node);
    assert_eq!(client.control(control(Opcode::PING, &[])).status, 1);
    Node::stop(pid);
}

#[test]
fn each_wrong_configuration_is_told_in_the_foreground() {
    type Break = fn(&Node);
    let cases: [(Break, i32, &str); 7] = [
        (
            |node| node.write("ctdb.conf", "[cluster]\nleader timeout = x\n"),
            1,
            "leader timeout",
        ),
        (
            |node| node.write("nodes", "not-an-address\n"),
            1,
            "Invalid node address not-an-address",
        ),
        (|node| node.write("nodes", ""), 1, "unknown node address"),
        (|node| node.remove("nodes"), 1, "Failed to load nodes"),
        (
            |node| node.remove_dir("var/state"),
            1,
            "state database directory",
        ),
        (
            |node| node.remove_dir("run"),
            11,
            "Failed to create PID file",
        ),
        (
            |node| node.write("run/ctdbd.socket", "not a socket"),
            10,
            "Unable to bind on ctdb socket",
        ),
    ];
    for (break_it, code, text) in cases {
        let node = Node::new();
        break_it(&node);
        let end = node.start_in_background();
        assert_eq!(end.code, Some(code), "{text}: {}", end.stderr);
        assert!(end.stderr.contains(text), "{text}: {}", end.stderr);
    }
}

#[test]
fn an_address_in_use_is_told_in_the_foreground() {
    let node = Node::new();
    let _other = std::net::TcpListener::bind((node.address(), 4379)).unwrap();
    let end = node.start_in_background();
    assert_eq!(end.code, Some(1));
    assert!(
        end.stderr.contains("Address already in use"),
        "{}",
        end.stderr
    );
}

#[test]
fn a_failing_init_event_ends_the_start() {
    let node = Node::new();
    node.script("10.bad.script", "echo broken; exit 1");
    let end = node.start_in_background();
    assert_eq!(end.code, Some(1));
    assert!(
        end.stderr.contains("Failed to run init event"),
        "{}",
        end.stderr
    );
    assert!(node.log().contains("10.bad: broken"));
}

#[test]
fn the_end_of_standard_input_ends_a_test_daemon_in_good_order() {
    let node = Node::new();
    node.script("10.a.script", "echo $1 >> $CTDB_BASE/events.log");
    let mut daemon = node.start_interactive();
    node.wait_until_running();
    drop(daemon.stdin.take());
    let status = fixture::wait(&mut daemon, PROMPT);
    assert_eq!(status.code(), Some(32));
    let events = node.read("events.log");
    assert!(events.starts_with("init\nsetup\n"), "{events}");
    assert!(events.ends_with("shutdown\n"), "{events}");
}

#[test]
fn an_operator_can_shut_it_down_and_rotate_its_log() {
    let node = Node::new();
    node.start_in_background();
    node.wait_until_running();
    let pid = node.pid();
    std::fs::rename(node.path("log.ctdb"), node.path("log.old")).unwrap();
    Node::signal(pid, "HUP");
    fixture::until("the log is opened again", || node.path("log.ctdb").exists());
    let mut client = Client::connect(&node);
    client.send(Body::ReqControl(control(Opcode::SHUTDOWN, &[])));
    client.wait_for_end();
    fixture::until("the daemon ends", || !fixture::is_alive(pid));
    assert!(node.log().contains("Reopened logs"));
}

#[test]
fn garbage_from_one_client_disturbs_no_other() {
    let node = Node::new();
    node.start_in_background();
    let mut good = Client::connect(&node);
    good.control(control(Opcode::REGISTER_SRVID, &[]));
    let mut seed = 7_u64;
    for round in 0..300_usize {
        let mut bad = Client::connect(&node);
        let ping = Body::ReqControl(control(Opcode::PING, b"payload!"));
        let mut bytes = packet(1, ping).encode(Padding::Client).to_vec();
        for _ in 0..=round % 5 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = usize::try_from(seed >> 33).unwrap() % bytes.len();
            bytes[at] = u8::try_from(seed >> 56).unwrap();
        }
        // The daemon may close the connection while we still write.
        let _ = bad.socket.write_all(&bytes[..bytes.len() - round % 7]);
    }
    // A ping is answered with the number of clients.
    assert!(good.control(control(Opcode::PING, &[])).status >= 1);
    Node::stop(node.pid());
}

/// A record whose chain another process has locked: the call waits, everything else goes on, and
/// when the lock is released all waiting calls are answered in their order.
#[test]
fn calls_wait_for_a_chain_that_another_process_holds_and_nothing_else_does() {
    let node = Node::new();
    node.append("ctdb.conf", "[database]\ntdb mutexes = false\n");
    node.start_in_background();
    node.wait_until_running();
    let mut client = Client::connect(&node);
    assert_eq!(
        client
            .control(control(Opcode::DB_ATTACH, b"lock.tdb\0"))
            .status,
        0
    );
    let db = DbId::of_name("lock.tdb");
    let file = node.path("var/volatile/lock.tdb.0");

    let chain = tdb::OpenOptions::new()
        .flags(tdb::Flags::CLEAR_IF_FIRST | tdb::Flags::NOSYNC | tdb::Flags::INCOMPATIBLE_HASH)
        .open(&file)
        .unwrap()
        .chain_of(b"key");
    let mut holder = fixture::lock_byte_of(&file, 168 + 4 * u64::from(chain));
    let first = client.send(call(db));
    let second = client.send(call(db));
    assert_eq!(client.control(control(Opcode::PING, &[])).status, 1);
    std::thread::sleep(Duration::from_millis(100));
    let message = ReqMessage {
        srvid: Srvid(1),
        data: bytes::Bytes::new(),
    };
    client.send(Body::ReqMessage(message));
    assert!(
        !client.has_packet(),
        "a call was answered although its record is locked"
    );
    holder.kill().unwrap();
    holder.wait().unwrap();
    for reqid in [first, second] {
        let reply = client.receive();
        assert_eq!(reply.header.reqid, reqid);
        assert!(matches!(reply.body, Body::ReplyCall(_)), "{reply:?}");
    }
    Node::stop(node.pid());
}

fn call(db: DbId) -> Body {
    Body::ReqCall(ReqCall {
        flags: CallFlags::empty(),
        db_id: db,
        call_id: CallId::FETCH,
        hopcount: 0,
        key: bytes::Bytes::from_static(b"key"),
        data: bytes::Bytes::new(),
    })
}
