//! Story: a daemon that cannot work says so at once. Whatever is wrong with its configuration, its
//! folders or its sockets, the command fails and its last words name the trouble. A second daemon
//! on the same folder leaves the first alone.

use std::fs::{self, File};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use ctdb_e2e::{TestCluster, TestResult, is_ours, step};
use ctdb_tools::local_cluster::{Node, wait_until};

/// A cluster of one node, ready to start.
fn ready() -> TestResult<TestCluster> {
    let mut options = TestCluster::options();
    options.nodes = 1;
    TestCluster::create(&options)
}

#[test]
fn a_daemon_that_cannot_work_says_why() -> TestResult {
    refused("a number that is none", "leader timeout", |node| {
        append(node, "ctdb.conf", "[cluster]\n\tleader timeout = -1\n")
    })?;
    if is_ours() {
        // The original then works as if the file were empty.
        refused("a line that is nothing", "ctdb.conf", |node| {
            append(node, "ctdb.conf", "[cluster\n")
        })?;
    }
    refused("a node without an address", "nodes", |node| {
        append(node, "nodes", "node.example\n")
    })?;
    refused("nodes files without us", "node", |node| {
        Ok(fs::write(node.base().join("nodes"), "127.255.255.1\n")?)
    })?;
    refused("no folder for volatile databases", "var/volatile", |node| {
        Ok(fs::remove_dir(node.base().join("var/volatile"))?)
    })?;
    refused("no folder for the socket", "run", |node| {
        Ok(fs::remove_dir(node.base().join("run"))?)
    })?;
    refused(
        "something else at the place of the socket",
        "ctdbd.socket",
        |node| Ok(fs::create_dir(node.socket())?),
    )
}

#[test]
fn a_port_in_use_is_named() -> TestResult {
    let cluster = ready()?;
    let node = cluster.at(0);
    let _other = TcpListener::bind((node.address(), 4379))?;
    expect_refusal(node, "the port is in use", "in use")
}

#[test]
fn a_second_daemon_leaves_the_first_alone() -> TestResult {
    let mut cluster = ready()?;
    cluster.start()?;
    let first = cluster.at(0).process();
    assert!(first.is_some());
    expect_refusal(cluster.at(0), "a second daemon", "ctdbd.pid")?;
    assert_eq!(cluster.at(0).process(), first, "the first daemon goes on");
    cluster.wait_healthy(ctdb_e2e::HEALTHY_LIMIT)?;
    Ok(())
}

/// Spoils a fresh folder and expects the daemon to refuse it.
fn refused(what: &str, named: &str, spoil: impl Fn(&Node) -> TestResult) -> TestResult {
    let cluster = ready()?;
    spoil(cluster.at(0))?;
    expect_refusal(cluster.at(0), what, named)
}

/// Starts the daemon's command: it fails, and its one line names the trouble.
///
/// The original goes into the background before it looks at most of this, and so says it in its
/// log only, while its command has succeeded.
fn expect_refusal(node: &Node, what: &str, named: &str) -> TestResult {
    let before = node.process();
    let path = node.base().join("refusal.err");
    let mut daemon = node
        .daemon_command()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&path)?)
        .spawn()?;
    let mut status = None;
    let ended = wait_until(Duration::from_secs(15), || {
        status = daemon.try_wait().ok().flatten();
        status.is_some()
    });
    if !ended {
        daemon.kill()?;
        daemon.wait()?;
    }
    let status = status.ok_or_else(|| format!("{what}: the command does not end"))?;
    let said = fs::read_to_string(&path)?;
    if is_ours() {
        assert!(!status.success(), "{what}: {status}, and it said: {said}");
        let lines = said.lines().filter(|line| !line.trim().is_empty()).count();
        assert_eq!(lines, 1, "{what}: not one line: {said}");
        assert!(
            said.contains(named),
            "{what}: it does not name {named}: {said}"
        );
    } else {
        let in_log = || fs::read_to_string(node.log()).unwrap_or_default();
        let gone =
            || node.process() == before && (said.contains(named) || in_log().contains(named));
        assert!(
            wait_until(Duration::from_secs(15), gone),
            "{what}: {said}{}",
            in_log()
        );
    }
    step(what);
    Ok(())
}

fn append(node: &Node, name: &str, text: &str) -> TestResult {
    let path = node.base().join(name);
    let before = fs::read_to_string(&path)?;
    Ok(fs::write(path, before + text)?)
}
