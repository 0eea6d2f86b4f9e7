//! `version` and `listnodes`: answered without a daemon.

use ctdb_conf::{NodeEntry, Paths};

use crate::arguments::Arguments;
use crate::exit::{Failure, Outcome};
use crate::nodes_list;
use crate::options::Options;
use crate::output::{machine_line, print};

/// What `ctdb version` prints: the version of Samba CTDB whose behaviour this is, and whose it is.
const VERSION: &str = concat!("4.24.5-rust-", env!("CARGO_PKG_VERSION"));

pub(crate) fn version() -> Outcome {
    print(&format!("{VERSION}\n")).map(|()| 0)
}

pub(crate) fn listnodes(paths: &Paths, options: &Options, arguments: &Arguments) -> Outcome {
    if arguments.count() != 0 {
        return Err(Failure::Usage);
    }
    let nodes = nodes_list::read(paths)?;
    let separator = options.machine.then_some(options.separator.as_str());
    print(&nodes_text(&nodes, separator)).map(|()| 0)
}

/// One line for each node that is not deleted; deleted ones count in the pnn all the same.
fn nodes_text(nodes: &[NodeEntry], separator: Option<&str>) -> String {
    let present = nodes
        .iter()
        .enumerate()
        .filter_map(|(pnn, node)| Some((pnn, node.address()?)));
    present
        .map(|(pnn, address)| match separator {
            Some(separator) => machine_line(separator, &[&pnn.to_string(), &address.to_string()]),
            None => format!("{address}\n"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_nodes_are_left_out_but_counted() {
        let present = |text: &str| NodeEntry::Present(text.parse().unwrap());
        let nodes = [present("10.0.0.1"), NodeEntry::Deleted, present("fd00::3")];
        assert_eq!(nodes_text(&nodes, None), "10.0.0.1\nfd00::3\n");
        assert_eq!(nodes_text(&nodes, Some(",")), ",0,10.0.0.1,\n,2,fd00::3,\n");
    }
}
