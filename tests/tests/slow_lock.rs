//! Story: a process on a node keeps the lock of a record for long. Whoever needs the record waits,
//! and nobody else; the log and a script tell who waits for what; when the lock is free again the
//! answer comes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ctdb_e2e::{TestCluster, TestResult, step};
use ctdb_tools::blocking::Connection;
use ctdb_tools::local_cluster::{Options, wait_until};

const DATABASE: &str = "slow_lock.tdb";

/// The daemon mentions a wait after 10 s, and looks every few seconds.
const MENTIONED: Duration = Duration::from_secs(30);

/// Prints its arguments into the log of the daemon.
const SCRIPT: &str = "#!/bin/sh\necho \"debug_locks $2 $3 $4\"\n";

#[test]
fn a_lock_that_does_not_come_is_explained_and_holds_up_nobody_else() -> TestResult {
    let cluster = TestCluster::started(&Options {
        tunables: vec![("LogLatencyMs", 1000)],
        ..TestCluster::options()
    })?;
    let node = cluster.at(0);
    let script = node.base().join("debug_locks.sh");
    std::fs::write(&script, SCRIPT)?;
    std::fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    let socket = node.socket();

    step("a client keeps the lock of a record");
    let mut holder = Connection::connect(&socket)?;
    let database = holder.attach(DATABASE)?;
    let (held, is_held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let holding = thread::spawn(move || {
        database.update(&mut holder, b"kept", |_| {
            held.send(()).expect("the test waits for this");
            // Ends when the test drops its end.
            let _ = released.recv();
            b"new".to_vec()
        })
    });
    is_held.recv()?;

    step("another one asks for it through the daemon");
    let mut waiter = Connection::connect(&socket)?;
    waiter.set_limit(Duration::from_secs(60));
    let kept = waiter.attach(DATABASE)?.fetch(b"kept");
    let waiting = thread::spawn(move || waiter.call(kept));

    step("other records are served at once all the while");
    let mut bystander = Connection::connect(&socket)?;
    let other = bystander.attach(DATABASE)?;
    let log = node.log();
    let mut slowest = Duration::ZERO;
    let mentioned = wait_until(MENTIONED, || {
        let asked = Instant::now();
        bystander
            .call(other.fetch(b"free"))
            .expect("is served meanwhile");
        slowest = slowest.max(asked.elapsed());
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("Unable to get RECORD lock on database slow_lock.tdb for")
            && text.contains("debug_locks RECORD ")
    });
    let text = std::fs::read_to_string(&log)?;
    assert!(mentioned, "nothing about the lock in the log:\n{text}");
    assert!(text.contains("/slow_lock.tdb.0 MUTEX"), "{text}");
    assert!(slowest < Duration::from_secs(5), "a call took {slowest:?}");
    assert!(!waiting.is_finished(), "answered without the lock");

    step("the lock is given back");
    drop(release);
    holding.join().expect("the holder does not panic")?;
    let reply = waiting.join().expect("the waiter does not panic")?;
    assert_eq!(reply.data, "new");
    let text = std::fs::read_to_string(&log)?;
    let said = "for operation lock_record on database slow_lock.tdb";
    assert!(text.contains(said), "no word of the latency:\n{text}");
    Ok(())
}
