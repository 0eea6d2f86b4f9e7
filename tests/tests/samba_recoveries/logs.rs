//! What daemons and smbd may log while the cluster recovers again and again.

use std::fs;
use std::path::PathBuf;

use ctdb_e2e::{Samba, TestCluster, step};
use ctdb_tools::local_cluster::Node;

/// How the lines begin that `ctdbd` may log, and why. `cluster.md` 6 and 11 give those of a
/// recovery.
const OF_CTDBD: &[(&str, &str)] = &[
    ("Recovery mode set to ", "the tool, then the recovery"),
    (
        "Recovery mode already set to ACTIVE",
        "the node that was asked",
    ),
    ("Node:0 was in recovery mode.", "what the leader finds"),
    ("Node:1 was in recovery mode.", "what the leader finds"),
    ("Node:2 was in recovery mode.", "what the leader finds"),
    ("Starting do_recovery", "the leader"),
    ("Recovery initiated due to problem with node ", "the leader"),
    ("recovery reason=node ", "the leader; a line of ours"),
    ("Recovery - updated flags", "the leader"),
    ("Set recovery mode to ", "the leader"),
    ("Recovery has started", "each node"),
    ("start_recovery event finished", "the leader"),
    ("updated VNNMAP", "the leader"),
    ("recover database 0x", "the leader"),
    ("Freeze db: ", "each node"),
    ("Pull persistent db ", "the leader"),
    ("Thaw db: ", "each node"),
    ("Release freeze handle for db ", "each node"),
    (
        "Resent calls for database=",
        "each node: calls waited for the thaw",
    ),
    (
        "15 of 15 databases recovered",
        "the leader; Samba has so many",
    ),
    ("recovered event finished", "the leader"),
    ("Recovery has finished", "each node"),
    ("Resetting ban count to 0 for all nodes", "the leader"),
    ("Just finished a recovery.", "the leader"),
    ("Recovery complete", "the leader"),
    (
        "Disabling takeover runs for ",
        "each node, before the takeover run",
    ),
    (
        "Takeover run starting",
        "the leader: a recovery ends with one",
    ),
    ("Takeover run completed successfully", "the leader"),
    ("Reenabling takeover runs", "each node, after it"),
    (
        "Skip monitoring since databases are frozen",
        "each node, if its monitor event is due then",
    ),
    (
        "Added hot key database=",
        "records move between the nodes (data-plane.md 5.3)",
    ),
    (
        "Updated hot key database=",
        "records move between the nodes",
    ),
];

/// Parts of the lines that smbd may log, and why.
const OF_SMBD: &[(&str, &str)] = &[
    (
        "../../source",
        "where in its source the next line comes from",
    ),
    (" version ", "its start"),
    ("Copyright Andrew Tridgell", "its start"),
    ("INFO: Profiling turned OFF", "its start"),
    (
        "tdbsam_open: Converting version",
        "its start: the database is new",
    ),
    (
        "  db_ctdb_fetch_locked for ",
        "a record that came late: it waited for the thaw, or others wanted it too",
    ),
    // To unlock is to ask nobody; more than 5 ms are due to the machine.
    (
        "  tdb_chainunlock on db ",
        "it was not scheduled for a while",
    ),
];

/// The logs, and how long they were when the story began.
pub(crate) struct Logs<'a> {
    daemons: Vec<(PathBuf, usize)>,
    samba: &'a Samba,
}

impl<'a> Logs<'a> {
    pub(crate) fn of(cluster: &TestCluster, samba: &'a Samba) -> Self {
        let paths = cluster.nodes().iter().map(Node::log);
        let daemons = paths.map(|path| (path.clone(), read(&path).len()));
        Self {
            daemons: daemons.collect(),
            samba,
        }
    }

    /// # Panics
    ///
    /// When there is a line that is not expected.
    pub(crate) fn tell_of_nothing_else(&self) {
        let mut surprises = Vec::new();
        for (path, from) in &self.daemons {
            let text = read(path);
            let new = text.get(*from..).unwrap_or_default();
            assert!(!new.is_empty(), "{} has nothing new", path.display());
            let is_known = |line: &str| {
                let (_, message) = line.split_once("]: ").unwrap_or_default();
                OF_CTDBD.iter().any(|(start, _)| message.starts_with(start))
            };
            surprises.extend(without(new, is_known));
        }
        for smbd in self.samba.all() {
            let is_known = |line: &str| OF_SMBD.iter().any(|(part, _)| line.contains(part));
            surprises.extend(without(&smbd.log(), is_known));
        }
        assert!(surprises.is_empty(), "not expected: {surprises:#?}");
        step("the logs tell of nothing else");
    }
}

fn without(text: &str, is_known: impl Fn(&str) -> bool) -> Vec<String> {
    let unknown = text.lines().filter(|line| !is_known(line));
    unknown.map(str::to_owned).collect()
}

/// Bytes that are no text do not matter.
fn read(path: &PathBuf) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
