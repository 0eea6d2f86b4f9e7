//! `status`, `nodestatus` and `leader`: the state of the cluster (`cli.md` 2.2).

use std::borrow::Cow;
use std::fmt::Write;

use ctdb_proto::control::NodeMap;
use ctdb_proto::{Generation, NodeFlags, Pnn, RecMode, RunState, VnnMap};

use crate::arguments::pnn_item;
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::node_flags::{UNKNOWN, flag_names};
use crate::output::{machine_line, print};

pub(crate) async fn status(context: &mut Context) -> Outcome {
    context.arguments.expect_count(0..=0)?;
    let nodemap = masked_nodemap(context).await?;
    if context.options.machine {
        let lines = node_lines(context, &nodemap.nodes_in_order()).await?;
        return print(&machine_table(&lines, &context.options.separator)).map(|()| 0);
    }
    let vnnmap = context.target().getvnnmap().await?;
    let recmode = context.target().get_recmode().await?;
    let leader = context.leader().await?;
    let lines = node_lines(context, &nodemap.nodes_in_order()).await?;
    let text = format!(
        "{}{}{}",
        node_count(&nodemap),
        lines.iter().map(NodeLine::text).collect::<String>(),
        cluster_text(&vnnmap, recmode, leader)
    );
    print(&text).map(|()| 0)
}

pub(crate) async fn nodestatus(context: &mut Context) -> Outcome {
    context.arguments.expect_count(0..=1)?;
    let list = context.arguments.text(0).map(Cow::into_owned);
    let all = context.nodemap().await?;
    let wanted = match list.as_deref() {
        None => vec![context.node],
        Some("all") => all.nodes.iter().map(|node| node.pnn).collect(),
        Some(list) => listed_nodes(list, all)?,
    };
    let nodemap = masked_nodemap(context).await?;
    let listed: Vec<_> = wanted.iter().filter_map(|pnn| nodemap.find(*pnn)).collect();
    let lines = node_lines(context, &listed).await?;
    let mut text = String::new();
    if context.options.machine {
        text.push_str(&machine_table(&lines, &context.options.separator));
    } else {
        if list.as_deref() == Some("all") {
            text.push_str(&node_count(&nodemap));
        }
        text.extend(lines.iter().map(NodeLine::text));
    }
    print(&text)?;
    let flags = lines
        .iter()
        .fold(NodeFlags::empty(), |sum, line| sum | line.flags);
    Ok(flags.bits().cast_signed())
}

pub(crate) async fn leader(context: &mut Context) -> Outcome {
    let leader = context.leader().await?;
    print(&format!("{}\n", leader_name(leader))).map(|()| 0)
}

/// A node as the tool sees it: its flags may be masked.
#[derive(Clone, Debug, Eq, PartialEq)]
struct ShownNode {
    pnn: Pnn,
    address: String,
    flags: NodeFlags,
}

/// All nodes of the cluster in pnn order, deleted ones too.
#[derive(Clone, Debug, Eq, PartialEq)]
struct ShownNodes(Vec<ShownNode>);

impl ShownNodes {
    fn find(&self, pnn: Pnn) -> Option<&ShownNode> {
        self.0.iter().find(|node| node.pnn == pnn)
    }

    fn nodes_in_order(&self) -> Vec<&ShownNode> {
        self.0.iter().collect()
    }
}

/// The nodes, with the flags of all others unknown while `node` is in its first recovery.
async fn masked_nodemap(context: &mut Context) -> Result<ShownNodes, Failure> {
    context.nodemap().await?;
    let runstate = match context.target().get_runstate().await {
        Ok(runstate) => runstate,
        Err(error) => {
            let failure = Failure::from(error);
            failure.report();
            // Without a newline, as the original.
            print("Unable to get runstate")?;
            return Err(Failure::silent(1));
        }
    };
    let node = context.node;
    Ok(mask(context.nodemap().await?, runstate, node))
}

fn mask(nodemap: &NodeMap, runstate: RunState, observer: Pnn) -> ShownNodes {
    let gone = NodeFlags::DELETED | NodeFlags::DISCONNECTED;
    let flags = |pnn: Pnn, flags: NodeFlags| {
        let is_known =
            runstate > RunState::FirstRecovery || pnn == observer || flags.intersects(gone);
        if is_known { flags } else { UNKNOWN }
    };
    let nodes = nodemap.nodes.iter().map(|node| ShownNode {
        pnn: node.pnn,
        address: node.addr.ip().to_string(),
        flags: flags(node.pnn, node.flags),
    });
    ShownNodes(nodes.collect())
}

/// The nodes of a comma-separated list, in its order.
fn listed_nodes(list: &str, nodemap: &NodeMap) -> Result<Vec<Pnn>, Failure> {
    let items = list.split(',').filter(|item| !item.is_empty());
    let find = |item: &str| {
        let wanted = pnn_item(item).ok_or_else(|| Failure::new(format!("Invalid node {item}")))?;
        let found = nodemap.nodes.iter().find(|node| node.pnn.get() == wanted);
        found
            .map(|node| node.pnn)
            .ok_or_else(|| Failure::new(format!("Node {wanted} does not exist")))
    };
    items.map(find).collect()
}

/// One line of the output: a node that is not deleted.
#[derive(Clone, Debug, Eq, PartialEq)]
struct NodeLine {
    pnn: Pnn,
    address: String,
    flags: NodeFlags,
    /// Nothing is wrong with the node, but the link of one of its interfaces is down.
    partially_online: bool,
    is_this_node: bool,
}

/// Lines for nodes; asks those without flags for their interfaces.
async fn node_lines(context: &Context, nodes: &[&ShownNode]) -> Result<Vec<NodeLine>, Failure> {
    let mut lines = Vec::with_capacity(nodes.len());
    for node in nodes
        .iter()
        .filter(|node| !node.flags.contains(NodeFlags::DELETED))
    {
        lines.push(NodeLine {
            pnn: node.pnn,
            address: node.address.clone(),
            flags: node.flags,
            partially_online: node.flags.is_empty() && has_link_down(context, node.pnn).await?,
            is_this_node: node.pnn == context.node,
        });
    }
    Ok(lines)
}

/// A node that does not answer counts as one whose links are all up.
async fn has_link_down(context: &Context, pnn: Pnn) -> Result<bool, Failure> {
    match context.at(pnn).get_ifaces().await.map_err(Failure::from) {
        Ok(list) => Ok(list.ifaces.iter().any(|iface| !iface.link_up)),
        Err(Failure::ConnectionClosed) => Err(Failure::ConnectionClosed),
        Err(failure) => {
            failure.report();
            Ok(false)
        }
    }
}

impl NodeLine {
    fn text(&self) -> String {
        let Self { pnn, address, .. } = self;
        let state = if self.partially_online {
            "PARTIALLYONLINE".to_owned()
        } else {
            flag_names(self.flags)
        };
        let this_node = if self.is_this_node {
            " (THIS NODE)"
        } else {
            ""
        };
        format!("pnn:{pnn} {address:<16} {state}{this_node}\n")
    }

    fn machine_text(&self, separator: &str) -> String {
        let bit = |flag| {
            if self.flags.intersects(flag) {
                "1"
            } else {
                "0"
            }
        };
        let pnn = self.pnn.to_string();
        let fields = [
            pnn.as_str(),
            self.address.as_str(),
            bit(NodeFlags::DISCONNECTED),
            bit(UNKNOWN),
            bit(NodeFlags::BANNED),
            bit(NodeFlags::PERMANENTLY_DISABLED),
            bit(NodeFlags::UNHEALTHY),
            bit(NodeFlags::STOPPED),
            bit(NodeFlags::INACTIVE),
            if self.partially_online { "1" } else { "0" },
            if self.is_this_node { "Y" } else { "N" },
        ];
        machine_line(separator, &fields)
    }
}

fn machine_table(lines: &[NodeLine], separator: &str) -> String {
    const HEADER: [&str; 11] = [
        "Node",
        "IP",
        "Disconnected",
        "Unknown",
        "Banned",
        "Disabled",
        "Unhealthy",
        "Stopped",
        "Inactive",
        "PartiallyOnline",
        "ThisNode",
    ];
    let mut text = machine_line(separator, &HEADER);
    text.extend(lines.iter().map(|line| line.machine_text(separator)));
    text
}

fn node_count(nodes: &ShownNodes) -> String {
    let deleted = nodes
        .0
        .iter()
        .filter(|node| node.flags.contains(NodeFlags::DELETED))
        .count();
    match deleted {
        0 => format!("Number of nodes:{}\n", nodes.0.len()),
        some => format!(
            "Number of nodes:{} (including {some} deleted nodes)\n",
            nodes.0.len()
        ),
    }
}

fn cluster_text(vnnmap: &VnnMap, recmode: RecMode, leader: Option<u32>) -> String {
    let mut text = String::new();
    let _ = match vnnmap.generation {
        Generation::INVALID => writeln!(text, "Generation:INVALID"),
        generation => writeln!(text, "Generation:{generation}"),
    };
    let _ = writeln!(text, "Size:{}", vnnmap.map.len());
    for (slot, lmaster) in vnnmap.map.iter().enumerate() {
        let _ = writeln!(text, "hash:{slot} lmaster:{lmaster}");
    }
    let _ = writeln!(text, "Recovery mode:{recmode} ({})", recmode.raw());
    let _ = writeln!(text, "Leader:{}", leader_name(leader));
    text
}

fn leader_name(leader: Option<u32>) -> String {
    leader.map_or_else(|| "UNKNOWN".to_owned(), |pnn| pnn.to_string())
}

#[cfg(test)]
mod tests {
    use ctdb_proto::SockAddr;
    use ctdb_proto::control::NodeAndFlags;

    use super::*;

    fn pnn(raw: u32) -> Pnn {
        Pnn::new(raw).unwrap()
    }

    fn nodemap(flags: &[u32]) -> NodeMap {
        let node = |(index, bits): (u32, &u32)| NodeAndFlags {
            pnn: pnn(index),
            flags: NodeFlags::from_bits_retain(*bits),
            addr: SockAddr(format!("127.0.26.{}:4379", index + 1).parse().unwrap()),
        };
        NodeMap {
            nodes: (0..).zip(flags).map(node).collect(),
        }
    }

    fn line(index: u32, bits: u32) -> NodeLine {
        NodeLine {
            pnn: pnn(index),
            address: format!("127.0.26.{}", index + 1),
            flags: NodeFlags::from_bits_retain(bits),
            partially_online: false,
            is_this_node: index == 0,
        }
    }

    #[test]
    fn node_lines_read_as_in_the_specification() {
        assert_eq!(line(0, 0).text(), "pnn:0 127.0.26.1       OK (THIS NODE)\n");
        let inactive = "pnn:1 127.0.26.2       DISABLED|BANNED|STOPPED|INACTIVE\n";
        assert_eq!(line(1, 0x2C).text(), inactive);
        let partial = NodeLine {
            partially_online: true,
            ..line(2, 0)
        };
        assert_eq!(partial.text(), "pnn:2 127.0.26.3       PARTIALLYONLINE\n");
    }

    #[test]
    fn the_machine_table_has_banned_before_disabled() {
        assert_eq!(
            line(2, 8).machine_text("|"),
            "|2|127.0.26.3|0|0|1|0|0|0|1|0|N|\n"
        );
        let table = machine_table(&[line(0, 2)], ":");
        assert_eq!(
            table,
            ":Node:IP:Disconnected:Unknown:Banned:Disabled:Unhealthy:Stopped:Inactive\
             :PartiallyOnline:ThisNode:\n:0:127.0.26.1:0:0:0:0:1:0:0:0:Y:\n"
        );
    }

    #[test]
    fn a_node_in_its_first_recovery_knows_no_others() {
        let map = nodemap(&[0, 2, 1, 0x10]);
        let bits = |runstate| {
            let shown = mask(&map, runstate, pnn(1));
            shown
                .0
                .iter()
                .map(|node| node.flags.bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(RunState::FirstRecovery), [0x40, 2, 1, 0x10]);
        assert_eq!(bits(RunState::Startup), [0, 2, 1, 0x10]);
    }

    #[test]
    fn deleted_nodes_are_counted_but_not_hidden_from_the_total() {
        let shown = |flags: &[u32]| node_count(&mask(&nodemap(flags), RunState::Running, pnn(0)));
        assert_eq!(shown(&[0, 0]), "Number of nodes:2\n");
        assert_eq!(
            shown(&[0, 0x11, 0]),
            "Number of nodes:3 (including 1 deleted nodes)\n"
        );
    }

    #[test]
    fn the_cluster_part_names_an_invalid_generation_and_an_unknown_leader() {
        let vnnmap = VnnMap {
            generation: Generation::INVALID,
            map: vec![pnn(0), pnn(2)],
        };
        assert_eq!(
            cluster_text(&vnnmap, RecMode::Active, None),
            "Generation:INVALID\nSize:2\nhash:0 lmaster:0\nhash:1 lmaster:2\n\
             Recovery mode:RECOVERY (1)\nLeader:UNKNOWN\n"
        );
    }

    #[test]
    fn lists_keep_their_order_and_refuse_what_is_no_node() {
        let map = nodemap(&[0, 0, 0]);
        assert_eq!(
            listed_nodes("2,,0x0,2", &map),
            Ok(vec![pnn(2), pnn(0), pnn(2)])
        );
        assert_eq!(
            listed_nodes("0,x", &map),
            Err(Failure::new("Invalid node x"))
        );
        assert_eq!(
            listed_nodes("-1", &map),
            Err(Failure::new("Invalid node -1"))
        );
        assert_eq!(
            listed_nodes("7", &map),
            Err(Failure::new("Node 7 does not exist"))
        );
    }
}
