//! The nodes list: which nodes the cluster has, and under which number (`config.md` 2.1).

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::address::parse_ip;
use crate::{Diagnostic, Paths};

/// One entry of the nodes list. Its index in the list is the node's pnn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NodeEntry {
    /// A member of the cluster, by its private address.
    Present(IpAddr),
    /// A commented-out line: the node is gone but its number stays taken.
    Deleted,
}

impl NodeEntry {
    /// The private address, `None` for a deleted node.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Present(address) => Some(*address),
            Self::Deleted => None,
        }
    }
}

/// A nodes list as read. An empty one is valid.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodesList {
    /// Entries in pnn order.
    pub entries: Vec<NodeEntry>,
    /// Things the original accepts in silence, such as an address that stands there twice.
    pub warnings: Vec<Diagnostic>,
}

/// A line that is no address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("Invalid node address {text}")]
pub struct NodesError {
    /// Line of the list, counted from 1.
    pub line: usize,
    /// What stands there instead of an address.
    pub text: String,
}

impl NodesList {
    /// Reads a nodes list. Empty lines take no number; a line that begins with `#` takes one.
    pub fn parse(text: &str) -> Result<Self, NodesError> {
        let mut list = Self::default();
        let mut first_use = HashMap::new();
        for (index, line) in text.split('\n').enumerate() {
            let number = index + 1;
            let content = line
                .split('\r')
                .next()
                .unwrap_or_default()
                .trim_matches([' ', '\t']);
            if content.is_empty() {
                continue;
            }
            if content.starts_with('#') {
                list.entries.push(NodeEntry::Deleted);
                continue;
            }
            let address = parse_ip(content).ok_or_else(|| NodesError {
                line: number,
                text: content.to_owned(),
            })?;
            if let Some(first) = first_use.insert(address, number) {
                let text = format!("node address {address} is already on line {first}");
                list.warnings.push(Diagnostic::warning(number, text));
            }
            list.entries.push(NodeEntry::Present(address));
        }
        Ok(list)
    }
}

/// Where the nodes list comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NodesSource {
    /// A file; a relative path is relative to the working directory of the process.
    File(PathBuf),
    /// The standard output of a program, written `!PROGRAM ARGUMENTS` in the configuration.
    Command(CommandLine),
}

impl NodesSource {
    /// The source named by `[cluster] nodes list`, or the installed nodes file when that is unset.
    pub fn new(option: Option<&str>, paths: &Paths) -> Self {
        match option {
            None => Self::File(paths.nodes_file()),
            Some(text) => match CommandLine::parse(text) {
                Some(command) => Self::Command(command),
                None => Self::File(text.into()),
            },
        }
    }
}

impl std::fmt::Display for NodesSource {
    /// As messages quote it: the path, or the command with its `!`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Command(command) => f.write_str(&command.text),
        }
    }
}

/// A program with arguments, written `!PROGRAM ARGUMENTS`. It is started directly: no shell, no
/// quoting, no search in `PATH`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CommandLine {
    /// The whole text, with its `!`.
    pub text: String,
    /// The program, then its arguments. Empty when nothing follows the `!`.
    pub words: Vec<String>,
}

impl CommandLine {
    /// `None` when the text does not begin with `!`.
    pub fn parse(text: &str) -> Option<Self> {
        let words = text.strip_prefix('!')?.split([' ', '\t']);
        let words = words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        Some(Self {
            text: text.to_owned(),
            words,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(text: &str) -> NodeEntry {
        NodeEntry::Present(text.parse().unwrap())
    }

    #[test]
    fn numbers_follow_the_order_of_non_empty_lines() {
        let list = NodesList::parse("10.0.0.1\n\n \t10.0.0.2 \t\r\nfd00::3\n\n\n").unwrap();
        assert_eq!(
            list.entries,
            [present("10.0.0.1"), present("10.0.0.2"), present("fd00::3")]
        );
        assert_eq!(list.warnings, []);
    }

    #[test]
    fn every_comment_line_is_a_deleted_node() {
        let list = NodesList::parse("#10.0.0.1\n  # note\n10.0.0.3").unwrap();
        assert_eq!(
            list.entries,
            [NodeEntry::Deleted, NodeEntry::Deleted, present("10.0.0.3")]
        );
    }

    #[test]
    fn an_empty_file_is_a_cluster_without_nodes() {
        assert_eq!(NodesList::parse("").unwrap().entries, []);
    }

    #[test]
    fn anything_else_than_an_address_fails_with_its_line() {
        for text in ["host", "10.0.0.2:4379", "[fd00::1]", "10.0.0.2 # comment"] {
            let error = NodesList::parse(&format!("10.0.0.1\n{text}\n")).unwrap_err();
            assert_eq!(error.line, 2);
            assert_eq!(error.to_string(), format!("Invalid node address {text}"));
        }
    }

    #[test]
    fn an_address_that_stands_there_twice_is_reported() {
        let list = NodesList::parse("10.0.0.1\n10.0.0.1\n").unwrap();
        assert_eq!(list.entries.len(), 2);
        assert_eq!(list.warnings[0].line, 2);
        assert_eq!(
            list.warnings[0].text,
            "node address 10.0.0.1 is already on line 1"
        );
    }

    #[test]
    fn the_source_is_a_file_or_a_command() {
        let paths = Paths::from_lookup(|_| None).unwrap();
        let source = |option| NodesSource::new(option, &paths);
        assert_eq!(source(None), NodesSource::File("/etc/ctdb/nodes".into()));
        assert_eq!(
            source(Some("/x/nodes")),
            NodesSource::File("/x/nodes".into())
        );
        let NodesSource::Command(command) = source(Some("! /x/list  -a\tb")) else {
            panic!("a command was expected");
        };
        assert_eq!(command.words, ["/x/list", "-a", "b"]);
        assert_eq!(source(Some("! /x/list")).to_string(), "! /x/list");
    }
}
