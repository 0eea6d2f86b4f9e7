//! Story: the file systems of a node's scripts hang. Its events time out, as if their scripts hung
//! (events.md 1.4), and it asks no script who has a lock that does not come; the node stays in the
//! cluster, serves everybody, and can be shut down. When the file system answers again, so do the
//! scripts. Or that of the helper of the cluster lock hangs: the nodes answer, and a recovery goes on
//! without the test of the lock (cluster.md 7).

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_e2e::{HungFolder, Status, TestCluster, TestResult, step};
use ctdb_proto::{Opcode, ReqId, Srvid};
use ctdb_tools::blocking::Connection;
use ctdb_tools::local_cluster::{Node, Options, find_beside, wait_until};

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

/// Argument of `SET_RECMODE`.
const RECMODE_ACTIVE: Bytes = Bytes::from_static(&[1, 0, 0, 0]);

/// How long the nodes are watched while they cannot test the cluster lock: one that stood still would
/// be noticed.
const WATCHED: Duration = Duration::from_secs(15);

#[test]
fn nodes_that_cannot_start_the_helper_of_the_cluster_lock_answer() -> TestResult {
    let mut cluster = TestCluster::create(&options())?;
    let folder = cluster.at(0).base().join("helper");
    fs::create_dir(&folder)?;
    let helper = find_beside("ctdb_mutex_fcntl_helper").ok_or("the helper has been built")?;
    symlink(helper, folder.join("helper"))?;
    let (folder, file) = (folder.as_path(), cluster.layout().cluster_lock());
    for node in cluster.nodes() {
        let path = node.base().join("ctdb.conf");
        let text = fs::read_to_string(&path)?;
        let (program, file) = (folder.join("helper"), file.display());
        let lock = format!(
            "[cluster]\n\tcluster lock = !{} {file}\n",
            program.display()
        );
        fs::write(&path, text.replace("[cluster]\n", &lock))?;
    }
    cluster.start_healthy()?;

    step("the folder of the helper hangs, and there is a recovery");
    let hung = HungFolder::over(folder)?;
    let mut client = Connection::connect(&cluster.at(0).socket())?;
    client.control(0, Opcode::SET_RECMODE, Srvid(0), RECMODE_ACTIVE)?;
    let end = Instant::now() + WATCHED;
    while Instant::now() < end {
        let asked = Instant::now();
        for status in Status::of_all(cluster.nodes()) {
            let status = status.expect("the node answers");
            assert!(
                status.flags.values().all(|flags| flags == "OK"),
                "{status:?}"
            );
        }
        let took = asked.elapsed();
        assert!(took < PATIENCE, "a round of questions took {took:?}");
        thread::sleep(Duration::from_millis(200));
    }

    step("the folder answers again");
    drop(hung);
    cluster.wait_healthy(LIMIT)?;
    let log = fs::read_to_string(cluster.at(0).log())?;
    let said = "helper does not start in time";
    assert!(log.contains(said), "it has not hung:\n{log}");
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
