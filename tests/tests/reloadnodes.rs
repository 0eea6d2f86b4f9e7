//! Story: three of four nodes run, and writers on all of them change records. The fourth is added to
//! the nodes list, one is removed from it, and comes back, by `ctdb reloadnodes`, and nothing that
//! was acknowledged is lost. With our tool, with Debian's, and with Debian's daemon on one node.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_e2e::ledger::keep_books_while;
use ctdb_e2e::{HEALTHY_LIMIT, Status, TestCluster, TestResult, step};
use ctdb_e2e::{our_tool, reference_daemon, reference_tool};
use ctdb_proto::{CURRENT_NODE, Opcode, Srvid};
use ctdb_tools::blocking::Connection;
use ctdb_tools::local_cluster::{Node, Options};

/// The node that is added.
const NEW: usize = 3;
/// The node that goes and comes back.
const LEAVING: usize = 1;
/// The node that runs Debian's daemon, in one of the tests.
const DEBIAN: usize = 2;
/// How long the writers work between two changes, at least.
const CALM: Duration = Duration::from_secs(4);

#[test]
fn nodes_come_and_go_under_load() -> TestResult {
    let mut cluster = three_of_four(&options())?;
    come_and_go(&mut cluster, &our_tool(), &[])
}

#[test]
fn debian_s_tool_makes_nodes_come_and_go_under_load() -> TestResult {
    let mut cluster = three_of_four(&options())?;
    come_and_go(&mut cluster, &reference_tool(), &[])
}

#[test]
fn nodes_come_and_go_beside_debian_s_daemon() -> TestResult {
    let mut options = options();
    options.node_ctdbd.insert(DEBIAN, reference_daemon());
    let mut cluster = three_of_four(&options)?;
    come_and_go(&mut cluster, &our_tool(), &[DEBIAN])
}

#[test]
fn a_list_that_cannot_be_read_changes_nothing() -> TestResult {
    let cluster = TestCluster::healthy()?;
    let before = Status::of(cluster.at(0)).ok_or("node 0 answers")?;
    for (list, complaint) in [
        ("not an address\n", "Invalid node address not an address"),
        ("127.1.1.1\n", "missing from nodes file"),
    ] {
        fs::write(cluster.layout().nodes_file(), list)?;
        let output = cluster.at(0).ctdb(["reloadnodes"])?;
        assert_eq!(output.status, Some(1), "{output:?}");
        assert!(output.stderr.contains(complaint), "{output:?}");
        // A daemon by itself is as careful as the tool.
        let mut client = Connection::connect(&cluster.at(1).socket())?;
        let (opcode, nothing) = (Opcode::RELOAD_NODES_FILE, Bytes::new());
        let reply = client.raw_control(CURRENT_NODE, opcode, Srvid(0), nothing)?;
        assert_eq!(reply.status, -1);
    }
    thread::sleep(Duration::from_secs(1));
    let now = Status::of(cluster.at(0)).ok_or("node 0 answers")?;
    assert_eq!(now, before, "same nodes, same generation");
    Ok(())
}

fn options() -> Options {
    let mut options = TestCluster::options();
    options.nodes = 4;
    options.tunables = vec![
        ("RerecoveryTimeout", 1),
        // What was deleted must have left all files in the end.
        ("VacuumInterval", 1),
        ("VacuumFastPathCount", 3),
    ];
    options
}

/// A cluster in which the fourth node is neither listed nor running.
fn three_of_four(options: &Options) -> TestResult<TestCluster> {
    let mut cluster = TestCluster::create(options)?;
    list_nodes(&cluster, &[Listed::Yes, Listed::Yes, Listed::Yes])?;
    for pnn in 0..NEW {
        cluster.at_mut(pnn).start()?;
    }
    wait_for(&cluster, &[0, 1, 2]);
    Ok(cluster)
}

/// The nodes in `slow` connect to a node that starts up to a second late, and it is a member by then.
fn come_and_go(cluster: &mut TestCluster, tool: &Path, slow: &[usize]) -> TestResult {
    keep_books_while(cluster, CALM * 3, |cluster, outages| {
        outages.begin(NEW);
        work_for_a_while();
        for node in slow {
            outages.begin_apart(*node);
        }
        add(cluster, tool)?;
        for node in slow {
            outages.end(*node);
        }
        outages.end(NEW);
        work_for_a_while();
        outages.begin(LEAVING);
        remove(cluster, tool)?;
        work_for_a_while();
        for node in slow {
            outages.begin_apart(*node);
        }
        bring_back(cluster, tool)?;
        for node in slow {
            outages.end(*node);
        }
        outages.end(LEAVING);
        Ok(())
    })
}

fn add(cluster: &mut TestCluster, tool: &Path) -> TestResult {
    step("node 3 is added");
    list_nodes(cluster, &[Listed::Yes; 4])?;
    let said = reload(cluster.at(0), tool)?;
    assert_eq!(said, "Node 3 is NEW\n");
    cluster.at_mut(NEW).start()?;
    wait_for(cluster, &[0, 1, 2, 3]);
    Ok(())
}

fn remove(cluster: &mut TestCluster, tool: &Path) -> TestResult {
    step("node 1 is removed");
    cluster.at_mut(LEAVING).stop();
    list_nodes(
        cluster,
        &[Listed::Yes, Listed::AsDeleted, Listed::Yes, Listed::Yes],
    )?;
    let said = reload(cluster.at(NEW), tool)?;
    assert_eq!(said, "Node 1 is DELETED\n");
    wait_for(cluster, &[0, 2, 3]);
    Ok(())
}

fn bring_back(cluster: &mut TestCluster, tool: &Path) -> TestResult {
    step("node 1 comes back");
    list_nodes(cluster, &[Listed::Yes; 4])?;
    let said = reload(cluster.at(0), tool)?;
    assert_eq!(said, "Node 1 is UNDELETED\n");
    cluster.at_mut(LEAVING).start()?;
    wait_for(cluster, &[0, 1, 2, 3]);
    Ok(())
}

/// Runs `reloadnodes` until no recovery is in its way, as its documentation says; gives what it
/// says.
fn reload(node: &Node, tool: &Path) -> TestResult<String> {
    let started = Instant::now();
    loop {
        let output = node.ctdb_of(tool, ["reloadnodes"])?;
        if output.success() {
            assert_eq!(output.stderr, "", "{output:?}");
            return Ok(output.stdout);
        }
        let is_busy = output.stderr.contains("Failed to disable recoveries");
        assert!(is_busy && started.elapsed() < HEALTHY_LIMIT, "{output:?}");
        step("a recovery is under way, once more");
        thread::sleep(Duration::from_millis(200));
    }
}

#[derive(Clone, Copy, Debug)]
enum Listed {
    Yes,
    AsDeleted,
}

/// Writes the nodes list that all nodes share.
fn list_nodes(cluster: &TestCluster, lines: &[Listed]) -> TestResult {
    let mut text = String::new();
    for (node, listed) in cluster.nodes().iter().zip(lines) {
        let mark = match listed {
            Listed::Yes => "",
            Listed::AsDeleted => "#",
        };
        writeln!(text, "{mark}{}", node.address())?;
    }
    Ok(fs::write(cluster.layout().nodes_file(), text)?)
}

/// Waits until these nodes are all there is, and all is well with them.
fn wait_for(cluster: &TestCluster, nodes: &[usize]) {
    cluster.wait_status(nodes, HEALTHY_LIMIT, "all is well", |status| {
        status.flags.keys().eq(nodes)
            && status.flags.values().all(|flags| flags == "OK")
            && status.normal
            && status.leader.is_some()
            && status.vnn_map == nodes
    });
    step(&format!("nodes {nodes:?} are healthy"));
}

fn work_for_a_while() {
    thread::sleep(CALM);
}
