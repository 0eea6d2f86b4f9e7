//! Story: an engineer asks `ctdb explain` what is wrong: a monitor script fails, a node is banned, the
//! leader is killed, and, at the end, that all is well. A daemon of Debian's does not explain.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use ctdb_e2e::{HEALTHY_LIMIT, TestCluster, TestResult, reference_daemon, step};
use ctdb_tools::local_cluster::{Signal, wait_until};

/// For a monitor event to run and to be believed.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn what_is_wrong_is_explained() -> TestResult {
    let mut options = TestCluster::options();
    options.cluster_lock = true;
    // A node that is silent is given up after 8 s, not 25.
    options
        .tunables
        .extend([("KeepaliveInterval", 1), ("KeepaliveLimit", 8)]);
    let mut cluster = TestCluster::started(&options)?;
    let leader = leader(&cluster);
    let (other, third) = ((leader + 1) % 3, (leader + 2) % 3);

    cluster.ctdb(other, &["attach", "explained.tdb"]);
    cluster.ctdb(other, &["recover"]);
    let text = wait_for(&cluster, other, "Last recovery:", "was in recovery mode");
    step(&format!("all is well:\n{text}"));
    expect(
        &text,
        "Leader:",
        &[&format!("node {leader} since"), "it broadcasts"],
    );
    expect(&text, "Event scripts:", &["no event fails"]);
    expect(&text, "Bans:", &["no node is banned"]);
    expect(&text, "Unreachable:", &["all nodes are connected"]);
    expect(
        &text,
        "Last recovery:",
        &["complete", &format!("(says node {leader})")],
    );
    for phase in [
        "read flags",
        "event startrecovery",
        "databases",
        "event recovered",
    ] {
        let mut phases = text.split([',', '\n']).map(str::trim_start);
        assert!(
            phases.any(|piece| piece.starts_with(&format!("{phase} "))),
            "{phase} of {text}"
        );
    }
    let own = cluster.ctdb(leader, &["explain"]);
    expect(
        &own,
        "Leader:",
        &["this node since", "it took the cluster lock"],
    );

    a_script_fails(&cluster, other)?;
    a_node_is_banned(&cluster, leader, other);
    the_leader_is_killed(&mut cluster, leader, third)?;
    a_node_falls_silent(&cluster, other, third)
}

fn a_script_fails(cluster: &TestCluster, sick: usize) -> TestResult {
    let script = cluster.at(sick).base().join("events/legacy/50.sick.script");
    let text = "#!/bin/sh\ncase $1 in monitor) echo the disk is gone; exit 7;; esac\n";
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let text = wait_for(cluster, sick, "Event scripts:", "monitor fails");
    step(&format!("a script fails:\n{text}"));
    expect(&text, "Event scripts:", &["50.sick: exit status: 7"]);
    assert!(text.contains("    the disk is gone\n"), "{text}");
    assert!(
        text.lines()
            .next()
            .is_some_and(|line| line.contains("UNHEALTHY")),
        "{text}"
    );
    fs::remove_file(&script)?;
    let text = wait_for(cluster, sick, "Event scripts:", "no event fails");
    assert!(text.contains("event monitor works again"), "{text}");
    cluster.wait_healthy(HEALTHY_LIMIT)?;
    Ok(())
}

fn a_node_is_banned(cluster: &TestCluster, asked: usize, banned: usize) {
    cluster.ctdb(asked, &["-n", &banned.to_string(), "ban", "600"]);
    let own = cluster.ctdb(asked, &["explain", &banned.to_string()]);
    step(&format!("a node is banned:\n{own}"));
    let who = format!("node {banned} until");
    expect(
        &own,
        "Bans:",
        &[&who, "more)", &format!("a client on node {asked} asked")],
    );
    assert!(
        own.lines()
            .next()
            .is_some_and(|line| line.contains("BANNED")),
        "{own}"
    );
    let text = cluster.ctdb(asked, &["explain"]);
    let who = format!("node {banned}: not by a decision of this node");
    expect(&text, "Bans:", &[&who]);
    // A banned node leaves the vnn map.
    expect(&text, "Last recovery:", &[&format!("node {banned}")]);
    cluster.ctdb(asked, &["-n", &banned.to_string(), "unban"]);
    let text = wait_for(cluster, asked, "Bans:", "no node is banned");
    assert!(!text.contains(&who), "{text}");
}

fn the_leader_is_killed(cluster: &mut TestCluster, killed: usize, asked: usize) -> TestResult {
    cluster.wait_healthy(HEALTHY_LIMIT)?;
    cluster.at_mut(killed).kill();
    let lost = format!("node {killed}");
    let text = wait_for(cluster, asked, "Unreachable:", &lost);
    step(&format!("the leader is killed:\n{text}"));
    let text = wait_for(
        cluster,
        asked,
        "Last recovery:",
        &format!("{lost} of the vnn map is lost"),
    );
    step(&format!("another leads:\n{text}"));
    expect(&text, "Unreachable:", &[&lost, "since"]);
    assert!(text.contains(&format!("{lost} is lost: ")), "{text}");
    let machine = cluster.ctdb(asked, &["-X", "explain"]);
    let unreachable = format!("|{asked}|UNREACHABLE|{killed}|");
    assert!(
        machine.starts_with("|Node|Topic|About|Since|Until|Text|\n"),
        "{machine}"
    );
    assert!(
        machine.lines().any(|line| line.starts_with(&unreachable)),
        "{machine}"
    );
    Ok(())
}

fn a_node_falls_silent(cluster: &TestCluster, silent: usize, asked: usize) -> TestResult {
    let daemon = cluster.at(silent).process().ok_or("it runs")?;
    daemon.signal(Signal::SIGSTOP);
    let lost = format!("node {silent} since");
    let text = wait_for(cluster, asked, "Unreachable:", &lost);
    daemon.signal(Signal::SIGKILL);
    step(&format!("a node is silent:\n{text}"));
    expect(
        &text,
        "Unreachable:",
        &["nothing was heard of it for 8 keepalive intervals"],
    );
    Ok(())
}

#[test]
fn a_daemon_of_debian_s_does_not_explain() -> TestResult {
    let mut options = TestCluster::options();
    options.node_ctdbd.insert(2, reference_daemon());
    let cluster = TestCluster::started(&options)?;
    let output = cluster.at(0).ctdb(["explain", "2"])?;
    assert_eq!(output.status, Some(1), "{output:?}");
    assert!(
        output.stderr.starts_with("Node 2 cannot explain"),
        "{output:?}"
    );
    // Nor does it get in the way of one that does.
    let output = cluster.at(2).ctdb(["explain", "0"])?;
    assert_eq!(output.status, Some(0), "{output:?}");
    expect(&output.stdout, "Bans:", &["no node is banned"]);
    Ok(())
}

fn leader(cluster: &TestCluster) -> usize {
    let mut leader = None;
    wait_until(HEALTHY_LIMIT, || {
        leader = ctdb_e2e::Status::of(cluster.at(0)).and_then(|status| status.leader);
        leader.is_some()
    });
    leader.expect("a healthy cluster has a leader")
}

/// Asks until the line about a subject contains this.
fn wait_for(cluster: &TestCluster, node: usize, subject: &str, words: &str) -> String {
    let mut text = String::new();
    let found = wait_until(LIMIT, || {
        let output = cluster.at(node).ctdb(["explain"]);
        text = output.map(|output| output.stdout).unwrap_or_default();
        line(&text, subject).contains(words)
    });
    assert!(found, "{subject} never says {words}:\n{text}");
    text
}

#[track_caller]
fn expect(text: &str, subject: &str, words: &[&str]) {
    let line = line(text, subject);
    for word in words {
        assert!(line.contains(word), "no {word} in {line}, of\n{text}");
    }
}

/// What stands behind a subject, with the lines that belong to it.
fn line(text: &str, subject: &str) -> String {
    let mut lines = text.lines().map(|line| (line, line.trim_start()));
    let first = lines.find(|(_, line)| line.starts_with(subject));
    let more = lines.take_while(|(line, _)| line.starts_with("      "));
    let all = first.into_iter().chain(more).map(|(_, line)| line);
    all.collect::<Vec<_>>().join(" ")
}
