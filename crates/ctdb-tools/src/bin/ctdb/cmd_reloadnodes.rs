//! `reloadnodes`: has the cluster take over a nodes list that was changed (`cli.md` 2.8,
//! `cluster.md` 9.4).
//!
//! Everything is checked before anything is changed: all nodes read the same list, no node gets
//! another number or address, and who goes has gone already.

use std::time::Duration;

use ctdb_conf::{NodeEntry, Paths};
use ctdb_proto::control::{NodeAndFlags, NodeMap};
use ctdb_proto::{NodeFlags, Pnn, SockAddr, Srvid};

use crate::at_once::all;
use crate::context::Context;
use crate::disable::{Disabled, disable};
use crate::exit::{Failure, Outcome};
use crate::nodes_list;
use crate::output::{complain, print};

const RECOVERIES: Disabled = Disabled {
    srvid: Srvid::DISABLE_RECOVERIES,
    name: "recoveries",
};

pub(crate) async fn reloadnodes(context: &mut Context, paths: &Paths) -> Outcome {
    let known = context.nodemap().await?.clone();
    let listed = as_node_map(&nodes_list::read(paths)?);
    let reachable = reachable(&known);
    check_lists(context, &reachable, &listed).await?;
    let plan = Plan::make(&known, &listed);
    for (is_error, line) in &plan.lines {
        if *is_error {
            complain(line);
        } else {
            print(&format!("{line}\n"))?;
        }
    }
    if !plan.is_possible {
        let line = "ERROR: Nodes will not be reloaded due to previous error";
        return Err(Failure::new(line));
    }
    if !plan.is_needed {
        complain("No change in nodes file, skipping unnecessary reload");
        return Ok(0);
    }
    reload(context, &reachable).await
}

/// Nodes that can be asked, the own one among them.
fn reachable(known: &NodeMap) -> Vec<Pnn> {
    let reached = |node: &&NodeAndFlags| !node.flags.contains(NodeFlags::DISCONNECTED);
    let nodes = known.nodes.iter().filter(reached);
    nodes.map(|node| node.pnn).collect()
}

/// Every node must read the list that we read.
async fn check_lists(context: &Context, nodes: &[Pnn], listed: &NodeMap) -> Result<(), Failure> {
    for pnn in nodes {
        let theirs = context.at(*pnn).get_nodes_file().await.map_err(|error| {
            let line = format!("ERROR: Failed to get nodes file from node {pnn}");
            Failure::from(error).and(line)
        })?;
        if !is_same(&theirs, listed) {
            let local = context.local;
            return Err(Failure::new(format!(
                "ERROR: Nodes file on node {pnn} differs from current node ({local})"
            )));
        }
    }
    Ok(())
}

fn is_same(theirs: &NodeMap, ours: &NodeMap) -> bool {
    let line = |node: &NodeAndFlags| (node.pnn, node.flags, node.addr.ip());
    let (theirs, ours) = (theirs.nodes.iter(), ours.nodes.iter());
    theirs.map(line).eq(ours.map(line))
}

/// The list as the nodes tell it: by numbers, without a word on who is reached.
fn as_node_map(list: &[NodeEntry]) -> NodeMap {
    let entry = |(pnn, line): (Pnn, &NodeEntry)| {
        let (ip, flags) = match line.address() {
            Some(ip) => (ip, NodeFlags::empty()),
            None => (std::net::Ipv4Addr::UNSPECIFIED.into(), NodeFlags::DELETED),
        };
        NodeAndFlags {
            pnn,
            flags,
            addr: SockAddr((ip, 0).into()),
        }
    };
    let numbered = (0..).map_while(Pnn::new).zip(list);
    NodeMap {
        nodes: numbered.map(entry).collect(),
    }
}

/// What a reload would do, and what speaks against it.
#[derive(Debug, Eq, PartialEq)]
struct Plan {
    /// What is said about it: to standard error or not, in this order.
    lines: Vec<(bool, String)>,
    is_needed: bool,
    is_possible: bool,
}

impl Plan {
    fn make(known: &NodeMap, listed: &NodeMap) -> Self {
        let mut plan = Self {
            lines: Vec::new(),
            is_needed: false,
            is_possible: true,
        };
        for (index, node) in known.nodes.iter().enumerate() {
            match listed.nodes.get(index) {
                Some(line) => plan.compare(node, line),
                None => plan.forbid(format!(
                    "Node {index} ({}) missing from nodes file",
                    node.addr.ip()
                )),
            }
        }
        // With an error before, nobody hears of the new ones.
        let new = listed.nodes.iter().skip(known.nodes.len());
        let is_possible = plan.is_possible;
        for line in new.filter(|_| is_possible) {
            plan.change(format!("Node {} is NEW", line.pnn));
        }
        plan
    }

    fn compare(&mut self, node: &NodeAndFlags, line: &NodeAndFlags) {
        let pnn = node.pnn;
        let is_connected = !node.flags.contains(NodeFlags::DISCONNECTED);
        let deleted = |node: &NodeAndFlags| node.flags.contains(NodeFlags::DELETED);
        match (deleted(node), deleted(line)) {
            (true, false) => self.change(format!("Node {pnn} is UNDELETED")),
            (false, true) => {
                self.change(format!("Node {pnn} is DELETED"));
                if is_connected {
                    self.forbid(format!("ERROR: Node {pnn} is still connected"));
                }
            }
            (false, false) if node.addr.ip() != line.addr.ip() => self.forbid(format!(
                "Node {pnn} has changed IP address (was {}, now {})",
                node.addr.ip(),
                line.addr.ip()
            )),
            (false, false) if !is_connected => self.lines.push((
                true,
                format!("WARNING: Node {pnn} is disconnected. You MUST fix this node manually!"),
            )),
            (true, true) | (false, false) => {}
        }
    }

    fn change(&mut self, line: String) {
        self.is_needed = true;
        self.lines.push((false, line));
    }

    fn forbid(&mut self, line: String) {
        self.is_possible = false;
        self.lines.push((true, line));
    }
}

/// Meanwhile nodes do not know the same nodes, which would be a reason for a recovery.
async fn reload(context: &mut Context, nodes: &[Pnn]) -> Outcome {
    let time = context.limit().saturating_mul(2);
    let disabled = disable(context, &RECOVERIES, nodes, time).await;
    if let Err(failure) = disabled {
        // Those that have obeyed need not wait for the time to pass.
        let _ = disable(context, &RECOVERIES, nodes, Duration::ZERO).await;
        return Err(failure.and("Failed to disable recoveries"));
    }
    let asked = nodes.iter().map(|pnn| reload_on(context, *pnn));
    if all(asked).await.contains(&false) {
        complain("You MUST fix failed nodes manually!");
    }
    let enabled = disable(context, &RECOVERIES, nodes, Duration::ZERO).await;
    enabled.map_err(|failure| failure.and("Failed to enable recoveries"))?;
    Ok(0)
}

async fn reload_on(context: &Context, pnn: Pnn) -> bool {
    let result = context.at(pnn).reload_nodes_file().await;
    if result.is_err() {
        complain(&format!("Node {pnn} failed to reload nodes"));
    }
    result.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node map by the last bytes of addresses and flags; 0 is a deleted node.
    fn map(nodes: &[(u8, u32)]) -> NodeMap {
        let node = |(pnn, (host, flags)): (u32, &(u8, u32))| NodeAndFlags {
            pnn: Pnn::new(pnn).unwrap(),
            flags: NodeFlags::from_bits_retain(*flags),
            addr: SockAddr(([10, 0, 0, *host], 4379).into()),
        };
        NodeMap {
            nodes: (0..).zip(nodes).map(node).collect(),
        }
    }

    fn lines(known: &[(u8, u32)], listed: &[(u8, u32)]) -> (Vec<String>, bool, bool) {
        let plan = Plan::make(&map(known), &map(listed));
        let lines = plan.lines.into_iter().map(|(_, line)| line).collect();
        (lines, plan.is_needed, plan.is_possible)
    }

    #[test]
    fn who_goes_must_have_gone() {
        let listed = [(1, 0), (0, 0x10)];
        let gone = vec!["Node 1 is DELETED".to_owned()];
        assert_eq!(
            lines(&[(1, 0), (2, 1)], &listed),
            (gone.clone(), true, true)
        );
        let mut there = gone;
        there.push("ERROR: Node 1 is still connected".to_owned());
        assert_eq!(lines(&[(1, 0), (2, 0)], &listed), (there, true, false));
    }

    #[test]
    fn a_shorter_list_is_refused() {
        let missing = vec!["Node 1 (10.0.0.2) missing from nodes file".to_owned()];
        assert_eq!(lines(&[(1, 0), (2, 0)], &[(1, 0)]), (missing, false, false));
    }

    #[test]
    fn new_nodes_are_named_unless_there_is_an_error() {
        let new = vec!["Node 1 is NEW".to_owned()];
        assert_eq!(lines(&[(1, 0)], &[(1, 0), (2, 0)]), (new, true, true));
        let moved = "Node 0 has changed IP address (was 10.0.0.1, now 10.0.0.9)";
        assert_eq!(
            lines(&[(1, 0)], &[(9, 0), (2, 0)]),
            (vec![moved.to_owned()], false, false)
        );
    }

    #[test]
    fn lists_are_compared_without_ports() {
        let list = [NodeEntry::Present([10, 0, 0, 1].into()), NodeEntry::Deleted];
        let mut theirs = map(&[(1, 0), (0, 0x10)]);
        theirs.nodes[1].addr = SockAddr(([0, 0, 0, 0], 4379).into());
        assert!(is_same(&theirs, &as_node_map(&list)));
        assert!(!is_same(&map(&[(1, 0)]), &as_node_map(&list)));
    }
}
