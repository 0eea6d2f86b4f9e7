//! `reloadnodes` with nodes lists of all kinds.

use std::fs;

use ctdb_tools::local_cluster::{Cluster, Node};

use crate::{needed, note_difference, ours, run};

/// Runs both tools with each list that can be read, and says where they differ. No list but the last two is taken
/// over, so that each tool meets the same cluster; those leave it with one more deleted node.
pub(crate) fn compare(cluster: &Cluster) {
    let addresses: Vec<_> = cluster.nodes().iter().map(Node::address).collect();
    let [a, b, c] = addresses[..] else {
        panic!("three nodes");
    };
    let lists = [
        format!("{a}\n{b}\n{c}\n"),
        format!("\n  {a}\t\n\n{b}\n{c}\n\n"),
        format!("{a}\n{b}\n"),
        String::new(),
        format!("{a}\n{c}\n{b}\n"),
        format!("{a}\n{b}\n127.77.77.77\n"),
        format!("{a}\n#{b}\n{c}\n"),
        format!("#{a}\n{b}\n{c}\n127.77.77.77\n"),
    ];
    let file = cluster.layout().nodes_file();
    let mut differences = Vec::new();
    for list in &lists {
        fs::write(&file, list).unwrap();
        for line in ["reloadnodes", "@1 reloadnodes foo"] {
            let theirs = run(cluster, &needed("ctdb"), line);
            let ours = run(cluster, &ours(), line);
            note_difference(
                &format!("{line} of {list:?}"),
                &theirs,
                &ours,
                &mut differences,
            );
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));

    let mut list = lists[0].clone();
    for (tool, pnn) in [(needed("ctdb"), 3), (ours(), 4)] {
        list.push_str("# gone\n");
        fs::write(&file, &list).unwrap();
        let output = run(cluster, &tool, "reloadnodes");
        assert_eq!(output.status, Some(0), "{output:?}");
        let said = (output.stdout.as_str(), output.stderr.as_str());
        assert_eq!(said, (format!("Node {pnn} is NEW\n").as_str(), ""));
    }
    for line in ["nodestatus all", "listnodes", "-X listnodes", "reloadnodes"] {
        let theirs = run(cluster, &needed("ctdb"), line);
        let ours = run(cluster, &ours(), line);
        note_difference(line, &theirs, &ours, &mut differences);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
