//! Our `ctdb` beside Debian's 4.17, on a cluster of Debian's daemons and on one of ours: the same
//! words must give the same exit status and the same text.
//!
//! Needs Debian's package `ctdb`. Differences that `cli.md` 7 lists between 4.17 and 4.24, which
//! our tool follows, are left out of the list of invocations.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail it")]

mod databases;
mod nodes_lists;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ctdb_tools::local_cluster::{
    Cluster, CommandOutput, Options, find_installed, temporary_folder, wait_until,
};

/// Invocations, one a line: `@1` in front runs it on node 1. The order matters: some change what
/// later ones see, and each is run by both tools in turn, so none may depend on being the first.
const INVOCATIONS: &str = "\
status
-X status
-Y status
-x , -X status
-x , status
status foo
@1 status
-n 1 status
-n 2 -X status
-n 7 status
-n -2 status
nodestatus
nodestatus all
-X nodestatus all
nodestatus 0,2
nodestatus 2,0,0
nodestatus 9
nodestatus x
nodestatus -- -1
nodestatus 1x
nodestatus 0 1
-n 1 nodestatus
listnodes
-X listnodes
listnodes foo
-n 1 listnodes
pnn
-n 0 pnn
-n 1 pnn
leader
-n 1 leader
ping foo
runstate
runstate running
runstate setup startup
runstate foobar
-n 2 runstate
getcapabilities
-X getcapabilities
getcapabilities -n 1
listvars
listvars x
getvar monitorinterval
getvar nonesuch
getvar LCP2PublicIPs
getvar
setvar MonitorInterval abc
setvar MonitorInterval 4294967311
setvar MonitorInterval 99999999999999999999
getvar MonitorInterval
setvar -- MonitorInterval -1
setvar nope 1
setvar nope
setvar MonitorInterval 15
getdbmap
-X getdbmap
getdbmap foo
attach
attach z.tdb weird
attach a1.tdb
attach a2.tdb persistent
attach a3.tdb replicated
attach a4.tdb readonly
attach a5.tdb sticky
attach a1.tdb persistent
getdbmap
-X getdbmap
-n 2 getdbmap
-n 1 attach foo.tdb
getdbstatus a1.tdb
getdbstatus a2.tdb
-n 1 getdbstatus a5.tdb
getdbstatus nodb
getdbstatus 0xzz
getdbseqnum a2.tdb
setdbreadonly a2.tdb
setdbsticky a3.tdb
catdb nodb
readkey a1.tdb k1
readkey a1.tdb k1 foo
readkey a2.tdb k1
readkey a1.tdb
writekey a1.tdb k1 v1
readkey a1.tdb k1
@1 readkey a1.tdb k1
@2 writekey a1.tdb 0x6b0041 0x00ff22
@2 readkey a1.tdb 0x6b0041
writekey a1.tdb 0x123 v
writekey a1.tdb 0x12zz v
writekey a1.tdb k 0x123
writekey a1.tdb k
catdb a1.tdb
cattdb a1.tdb
@1 catdb a1.tdb
-n 1 catdb a1.tdb
deletekey a1.tdb k1
readkey a1.tdb k1
deletekey a2.tdb k1
statistics
-X statistics
statistics foo
stats 1
dbstatistics a1.tdb
dbstatistics nodb
ip
ip all
-Xv ip all
ip foo
ipinfo 1.2.3.4
ipinfo foo
ifaces
-X ifaces
setifacelink eth0 up
setifacelink eth012345678901234567 up
process-exists 1
process-exists abc
process-exists 1 0x1234
process-exists 1 xyz
getpid
-n 1 getpid
setdebug foobar
setdebug 11
setdebug 9
getdebug
setdebug NOTICE
getdebug
getreclock
setleaderrole on
setleaderrole foo
setlmasterrole maybe
sync
sync foo
ipreallocate foo
enable
disable foo
continue
unban
ban
ban 0
ban abc
recover foo
shutdown foo
uptime
-n 1 uptime
frobnicate
-Z
-Xq
-n
-n 1,2
--verbose=1
-t 0 ping
-t 0 status
-t 0 getdbmap
-t 0 attach x.tdb
-t 0 leader
--usage
--help
-n 1 version
";

/// Invocations that change the cluster. Each tool goes through all of them, one tool after the
/// other.
const CHANGES: &str = "\
-n 1 disable
-n 1 disable
status
nodestatus 1
-n 1 enable
-n 1 enable
-n 1 stop
-n 1 stop
-n 1 nodestatus
-X status
-n 1 continue
-n 1 continue
-n 1 ban 100
-n 1 ban 100
nodestatus all
-n 1 unban
-n 1 unban
sync
ipreallocate
recover
setleaderrole off
getcapabilities
setleaderrole on
@2 setlmasterrole off
@2 setlmasterrole on
@2 shutdown
";

#[test]
fn both_tools_say_the_same_of_debians_daemon() {
    let cluster = healthy_cluster(&needed("ctdb"), &needed("ctdbd"));
    compare(&cluster);
    databases::compare_all(&cluster);
    nodes_lists::compare(&cluster);
    cluster.remove().unwrap();
}

#[test]
fn both_tools_say_the_same_of_our_daemon() {
    let ctdbd = ours().with_file_name("ctdbd");
    let path = ctdbd.display();
    assert!(
        ctdbd.exists(),
        "this test needs {path}: run `cargo build --workspace`"
    );
    let mut cluster = healthy_cluster(&needed("ctdb"), &ctdbd);
    compare(&cluster);
    databases::compare_all(&cluster);
    compare_changes(&mut cluster);
    nodes_lists::compare(&cluster);
    cluster.remove().unwrap();
}

fn compare(cluster: &Cluster) {
    let tool = needed("ctdb");
    let tool_of_ours = ours();
    let mut differences = Vec::new();
    for line in INVOCATIONS.lines() {
        let theirs = run(cluster, &tool, line);
        let ours = run(cluster, &tool_of_ours, line);
        note_difference(line, &theirs, &ours, &mut differences);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn compare_changes(cluster: &mut Cluster) {
    let mut differences = Vec::new();
    let theirs = change(cluster, &needed("ctdb"));
    let ours = change(cluster, &ours());
    for ((line, theirs), ours) in CHANGES.lines().zip(theirs).zip(ours) {
        let (theirs, ours) = (without_generation(theirs), without_generation(ours));
        note_difference(line, &theirs, &ours, &mut differences);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn run(cluster: &Cluster, tool: &Path, line: &str) -> CommandOutput {
    let (node, words) = split(line);
    cluster.node(node).unwrap().ctdb_of(tool, words).unwrap()
}

/// Goes through [`CHANGES`] with one tool, and leaves the cluster as it was.
fn change(cluster: &mut Cluster, tool: &Path) -> Vec<CommandOutput> {
    let mut outputs = Vec::new();
    for line in CHANGES.lines() {
        outputs.push(run(cluster, tool, line));
    }
    let ended = wait_until(Duration::from_secs(10), || {
        !cluster.node(2).unwrap().is_running()
    });
    assert!(ended, "node 2 was told to shut down");
    cluster.node_mut(2).unwrap().start().unwrap();
    cluster.wait_healthy(Duration::from_secs(60)).unwrap();
    outputs
}

fn note_difference(
    line: &str,
    theirs: &CommandOutput,
    ours: &CommandOutput,
    differences: &mut Vec<String>,
) {
    if comparable(theirs) != comparable(ours) {
        differences.push(format!("{line}\n theirs {theirs:?}\n   ours {ours:?}"));
    }
}

/// Our tool.
fn ours() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_ctdb"))
}

fn needed(program: &str) -> PathBuf {
    let found = find_installed(program);
    found.unwrap_or_else(|| panic!("this test needs {program} of Debian's package ctdb"))
}

fn healthy_cluster(tool: &Path, ctdbd: &Path) -> Cluster {
    let options = Options {
        nodes: 3,
        dir: temporary_folder(),
        ctdbd: ctdbd.to_owned(),
        node_ctdbd: BTreeMap::new(),
        tool: tool.to_owned(),
        cluster_lock: false,
        tunables: Vec::new(),
        tied: true,
    };
    let mut cluster = Cluster::create(&options).unwrap();
    cluster.start().unwrap();
    cluster.wait_healthy(Duration::from_secs(60)).unwrap();
    cluster
}

fn split(line: &str) -> (usize, Vec<&str>) {
    let mut words: Vec<&str> = line.split(' ').collect();
    let node = words[0].strip_prefix('@').map(|pnn| pnn.parse().unwrap());
    if node.is_some() {
        words.remove(0);
    }
    (node.unwrap_or(0), words)
}

/// What must be equal: all but the times, counters and durations that differ from run to run.
fn comparable(output: &CommandOutput) -> (Option<i32>, String, String) {
    let is_varying = [
        "CTDB version",
        "DB Statistics",
        "Current time",
        "response from",
    ]
    .iter()
    .any(|start| output.stdout.starts_with(start));
    let stdout = if is_varying {
        without_numbers(&output.stdout)
    } else if output.stdout.starts_with("key(") {
        sorted_records(&output.stdout)
    } else {
        without_our_own_command(&output.stdout)
    };
    (output.status, stdout, output.stderr.clone())
}

/// The list of commands without the one that the original does not have.
fn without_our_own_command(text: &str) -> String {
    let lines = text.split_inclusive('\n');
    lines
        .filter(|line| !line.starts_with("  explain "))
        .collect()
}

/// Each recovery chooses another one.
fn without_generation(mut output: CommandOutput) -> CommandOutput {
    let kept = output
        .stdout
        .lines()
        .filter(|line| !line.starts_with("Generation:"));
    output.stdout = kept.collect::<Vec<_>>().join("\n");
    output
}

/// The records of a database in an order of their own: those of different nodes come as they come.
fn sorted_records(text: &str) -> String {
    let mut records: Vec<_> = text.split("\n\n").collect();
    records.sort_unstable();
    records.join("\n\n")
}

/// Text in which every number is `N`, whatever the blanks before it, and no weekday or month.
fn without_numbers(text: &str) -> String {
    const NAMES: &str =
        "Sun Mon Tue Wed Thu Fri Sat Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec";
    let mut masked = String::new();
    for c in text.chars() {
        let is_number = c.is_ascii_digit() || (c == '.' && masked.ends_with('N'));
        if is_number {
            if !masked.ends_with('N') {
                let blanks = masked.trim_end_matches(' ').len();
                masked.truncate(blanks);
                masked.push('N');
            }
        } else {
            masked.push(c);
        }
    }
    NAMES
        .split(' ')
        .fold(masked, |text, name| text.replace(name, "Name"))
}
