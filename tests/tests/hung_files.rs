//! Story: the file systems of a node's scripts hang. Its events time out, as if their scripts hung
//! (events.md 1.4), and it asks no script who has a lock that does not come; the node stays in the cluster, serves everybody, and can be shut down. When the file system
//! answers again, so do the scripts.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use ctdb_e2e::{HungFolder, Status, TestCluster, TestResult, step};
use ctdb_proto::ReqId;
use ctdb_tools::blocking::Connection;
use ctdb_tools::local_cluster::{Node, Options, wait_until};

/// For an event to be asked for, time out, and be spoken of.
const LIMIT: Duration = Duration::from_secs(120);

/// What a round of questions may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// The node whose scripts hang.
const HUNG: usize = 1;

/// A node that stands still is noticed after four seconds, and an event may take eight.
fn options() -> Options {
    Options {
        tunables: vec![
            ("KeepaliveInterval", 1),
            ("KeepaliveLimit", 4),
            ("EventScriptTimeout", 8),
        ],
        ..TestCluster::options()
    }
}

#[test]
fn a_node_whose_scripts_hang_stays_in_the_cluster() -> TestResult {
    let cluster = TestCluster::started(&options())?;
    let node = cluster.at(HUNG);
    let scripts = node.base().join("events/legacy");
    let seen = node.base().join("seen");
    let body = format!("#!/bin/sh\necho $1 >>{}\n", seen.display());
    write_script(&scripts.join("50.seen.script"), &body)?;
    let debug_scripts = node.base().join("debug");
    fs::create_dir(&debug_scripts)?;
    let debug_locks = debug_scripts.join("debug_locks.sh");
    write_script(&debug_locks, "#!/bin/sh\n")?;
    symlink(&debug_locks, node.base().join("debug_locks.sh"))?;
    let mut client = Connection::connect(&node.socket())?;
    let database = client.attach("hung_files.tdb")?;
    let other = client.attach("other.tdb")?;

    step("the folders of its scripts hang");
    let hung = HungFolder::over(&scripts)?;
    let also_hung = HungFolder::over(&debug_scripts)?;
    let log = node.log();
    let known = fs::read_to_string(&log)?.len();
    let said = |text: &str| {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.get(known..).is_some_and(|new| new.contains(text))
    };
    let mut number = 0;
    let mut serves = || {
        let asked = Instant::now();
        for status in Status::of_all(cluster.nodes()) {
            assert!(status.is_some_and(|status| status.is_healthy(3)));
        }
        cluster.ctdb(0, &["-n", "1", "ping"]);
        number += 1;
        let key = format!("record {number}").into_bytes();
        let stored = other.update(&mut client, &key, |_| b"value".to_vec());
        stored.expect("a record is stored");
        let took = asked.elapsed();
        assert!(took < PATIENCE, "a round of questions took {took:?}");
    };
    let kept = database.file().chainlock(b"kept")?;
    let mut waiter = Connection::connect(&node.socket())?;
    waiter.queue_call(ReqId(1), database.fetch(b"kept"));
    waiter.flush()?;
    let both_hang = wait_until(LIMIT, || {
        serves();
        said("monitor event timed out") && said("Unable to get RECORD lock on database hung_files")
    });
    assert!(both_hang, "no word of the monitor event, or of the lock");
    drop(kept);

    step("a recovery goes on without its scripts");
    let begin = Instant::now();
    cluster.ctdb(0, &["recover"]);
    let took = begin.elapsed();
    step(&format!("it took {:.1} s", took.as_secs_f64()));
    assert!(took < LIMIT / 2, "the recovery took {took:?}");
    for event in ["startrecovery", "recovered"] {
        let ignored = format!("Ignoring hung script for {event} event");
        assert!(wait_until(LIMIT, || said(&ignored)), "no {ignored:?}");
    }
    cluster.wait_healthy(LIMIT)?;
    serves();
    assert!(!seen.exists(), "a script was run");

    step("the folders answer again");
    drop((hung, also_hung));
    let runs = || fs::read_to_string(&seen).is_ok_and(|seen| seen.contains("monitor"));
    assert!(wait_until(LIMIT, runs), "no script runs");
    assert!(!is_late(&seen), "an event was run late");
    serves();
    Ok(())
}

#[test]
fn a_node_whose_scripts_hang_can_be_shut_down() -> TestResult {
    let cluster = TestCluster::started(&options())?;
    let node = cluster.at(HUNG);
    let process = node.process().ok_or("the daemon runs")?;
    let _hung = HungFolder::over(&node.base().join("events/legacy"))?;
    step("the node is shut down");
    cluster.ctdb(0, &["-n", "1", "shutdown"]);
    assert!(process.wait_gone(LIMIT), "it still runs");
    assert!(ended_well(node), "its log does not say that it has ended");
    cluster.wait_status(&[0, 2], LIMIT, "node 1 is gone", |status| {
        status.vnn_map == [0, 2] && status.normal
    });
    Ok(())
}

/// Whether a script that was to be run while the folder hung has been run when it answered again:
/// the events of a recovery come only when there is one.
fn is_late(seen: &Path) -> bool {
    let seen = fs::read_to_string(seen).unwrap_or_default();
    seen.contains("recover")
}

fn ended_well(node: &Node) -> bool {
    let log = fs::read_to_string(node.log()).unwrap_or_default();
    log.contains("Shutdown sequence complete, exiting.")
}

fn write_script(path: &Path, body: &str) -> TestResult {
    fs::write(path, body)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
