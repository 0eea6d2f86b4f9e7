//! Story: `ctdb-cluster start` gives three healthy nodes in a few seconds; the nodes agree about
//! the cluster; a node that is killed comes back; `ctdb-cluster stop` leaves nothing behind.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ctdb_e2e::{HEALTHY_LIMIT, Status, TestResult, daemon, is_ours, step, tool};
use ctdb_tools::local_cluster::{
    Cluster, CommandOutput, Node, find_beside, run_to_end, temporary_folder, wait_until,
};

#[test]
fn three_nodes_become_healthy_and_leave_nothing_behind() -> TestResult {
    let dir = temporary_folder();
    let daemon = daemon();
    let ctdbd = daemon.to_str().expect("paths of programs are text");

    step("start");
    let output = ctdb_cluster(&dir, &["start", "--detach", "--ctdbd", ctdbd])?;
    assert!(output.success(), "{output:?}");
    let seconds = seconds_to_health(&output.stdout);
    step(&format!("healthy after {seconds} s"));
    if is_ours() {
        assert!(seconds <= 5.0, "{seconds} s from start to healthy");
    }
    assert!(output.stdout.contains("Number of nodes:3"), "{output:?}");
    assert!(
        output.stdout.contains("export CTDB_TEST_MODE=1 CTDB_BASE="),
        "{output:?}"
    );

    step("all agree");
    let cluster = Cluster::open(&dir, &tool())?;
    let first = agreed_status(&cluster);
    assert!(first.is_healthy(3), "{first:#?}");

    step("a second cluster in the same folder is refused");
    let output = ctdb_cluster(&dir, &["start", "--detach", "--ctdbd", ctdbd])?;
    assert!(
        !output.success() && output.stderr.contains("already runs"),
        "{output:?}"
    );

    step("kill node 1 and start it again");
    assert!(ctdb_cluster(&dir, &["kill", "1"])?.success());
    assert!(!cluster.node(1)?.is_running());
    assert!(ctdb_cluster(&dir, &["start-node", "1"])?.success());
    cluster.wait_healthy(HEALTHY_LIMIT)?;

    step("stop");
    let processes: Vec<_> = cluster.nodes().iter().filter_map(Node::process).collect();
    assert_eq!(processes.len(), 3);
    assert!(ctdb_cluster(&dir, &["stop"])?.success());
    assert!(
        processes.iter().all(|process| !process.is_alive()),
        "a daemon is left"
    );
    assert!(!dir.exists(), "{} is left", dir.display());
    Ok(())
}

fn ctdb_cluster(dir: &Path, args: &[&str]) -> TestResult<CommandOutput> {
    let program = find_beside("ctdb-cluster")
        .expect("ctdb-cluster has been built: `cargo build --workspace`");
    let mut command = Command::new(program);
    command
        .args(args)
        .arg("--dir")
        .arg(dir)
        .arg("--ctdb")
        .arg(tool());
    Ok(run_to_end(&mut command, Duration::from_secs(90))?)
}

/// Reads `3 nodes healthy 4.2 s after their start.`
fn seconds_to_health(text: &str) -> f64 {
    let words: Vec<&str> = text.split_ascii_whitespace().take(4).collect();
    match words[..] {
        ["3", "nodes", "healthy", seconds] => seconds.parse().expect("a number of seconds"),
        _ => panic!("unexpected output: {text}"),
    }
}

/// What all nodes say, once they all say the same.
fn agreed_status(cluster: &Cluster) -> Status {
    let mut said = Vec::new();
    let agree = wait_until(Duration::from_secs(10), || {
        said = Status::of_all(cluster.nodes());
        said.windows(2).all(|pair| pair[0] == pair[1])
    });
    assert!(agree, "the nodes say different things: {said:#?}");
    said.swap_remove(0).expect("the nodes answer")
}
