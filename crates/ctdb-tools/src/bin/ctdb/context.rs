//! What every subcommand that talks to the daemon has: the connection, the nodes it is about, and
//! what has been learnt of the cluster so far (`cli.md` 1.3 and 1.5).

use std::path::Path;
use std::time::Duration;

use ctdb_client::{Client, ConnectError, Latest, NodeHandle, Subscription};
use ctdb_conf::Paths;
use ctdb_proto::control::{NodeAndFlags, NodeMap};
use ctdb_proto::{Dest, NodeFlags, Pnn, Srvid, UNKNOWN_PNN, Wire};
use tokio::time::timeout;

use crate::arguments::Arguments;
use crate::exit::{EIO, Failure};
use crate::node_flags::flag_names;
use crate::nodes_list::explain_missing_daemon;
use crate::options::Options;
use crate::usage::Command;

pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) options: Options,
    pub(crate) arguments: Arguments,
    /// The node this tool is connected to.
    pub(crate) local: Pnn,
    /// The node the command is about: `-n`, or the local one.
    pub(crate) node: Pnn,
    leader: Latest,
    nodemap: Option<NodeMap>,
    /// Service ids for replies that have been used.
    reply_srvids: u64,
}

impl Context {
    /// Connects and does what comes before every command (`cli.md` 1.3, steps 4 to 8).
    pub(crate) async fn connect(
        command: &Command,
        options: Options,
        arguments: Arguments,
        paths: &Paths,
    ) -> Result<Self, Failure> {
        let client = open_socket(paths).await?;
        let local = client.node(Dest::Current, None).get_pnn().await?;
        let local = Pnn::new(local).ok_or_else(|| Failure::silent(1))?;
        let leader = watch_leader(&client).await?;
        let mut context = Self {
            client,
            options,
            arguments,
            local,
            node: local,
            leader,
            nodemap: None,
            reply_srvids: 0,
        };
        context.choose_node(command).await?;
        Ok(context)
    }

    /// Takes `-n` into account.
    async fn choose_node(&mut self, command: &Command) -> Result<(), Failure> {
        let Some(wanted) = self.options.node else {
            return Ok(());
        };
        let nodemap = self.nodemap().await?;
        let found = nodemap.nodes.iter().find(|node| node.pnn.get() == wanted);
        let node = found.ok_or_else(|| Failure::new(format!("Node {wanted} does not exist")))?;
        if node
            .flags
            .intersects(NodeFlags::DISCONNECTED | NodeFlags::DELETED)
        {
            let names = flag_names(node.flags);
            return Err(Failure::new(format!("Node {wanted} has status {names}")));
        }
        self.node = node.pnn;
        if !command.remote && self.node != self.local {
            let line = format!("Node cannot be specified for command {}", command.name);
            return Err(Failure::new(line));
        }
        Ok(())
    }

    /// How long to wait for one answer (`-t`).
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.options.time_limit).unwrap_or(0))
    }

    /// The separator, when the output is for machines.
    pub(crate) fn separator(&self) -> Option<&str> {
        self.options
            .machine
            .then_some(self.options.separator.as_str())
    }

    /// The node the command is about.
    pub(crate) fn target(&self) -> NodeHandle<'_> {
        self.at(self.node)
    }

    /// The node this tool is connected to.
    pub(crate) fn here(&self) -> NodeHandle<'_> {
        self.at(self.local)
    }

    pub(crate) fn at(&self, node: Pnn) -> NodeHandle<'_> {
        self.client.node(node, Some(self.limit()))
    }

    /// All nodes, as a node that is not banned sees them. Asked once in a run.
    pub(crate) async fn nodemap(&mut self) -> Result<&NodeMap, Failure> {
        let nodemap = match self.nodemap.take() {
            Some(known) => known,
            None => self.ask_for_nodemap().await?,
        };
        Ok(self.nodemap.insert(nodemap))
    }

    /// Like [`Self::nodemap`], but asked again.
    pub(crate) async fn fresh_nodemap(&mut self) -> Result<&NodeMap, Failure> {
        self.nodemap = None;
        self.nodemap().await
    }

    /// The nodes that [`Self::nodemap`] found; empty before it was called.
    pub(crate) fn known_nodes(&self) -> &[NodeAndFlags] {
        self.nodemap
            .as_ref()
            .map(|map| map.nodes.as_slice())
            .unwrap_or_default()
    }

    /// A banned node does not know the others: then the next one is asked.
    async fn ask_for_nodemap(&self) -> Result<NodeMap, Failure> {
        let mut asked = self.local;
        loop {
            let answer = self.at(asked).get_nodemap().await;
            let nodemap = answer.map_err(|error| {
                let line = format!("Failed to get nodemap from node {asked}");
                Failure::from(error).and(line).code_is(1)
            })?;
            if !is_banned(&nodemap, asked) {
                return Ok(nodemap);
            }
            match next_reachable(&nodemap, asked) {
                Some(next) if next != self.local => asked = next,
                _ => return Err(Failure::new("Warning: All nodes are banned.")),
            }
        }
    }

    /// The leader, as it says itself once a second; `None` when it is unknown or nothing has been
    /// heard within the time limit.
    pub(crate) async fn leader(&mut self) -> Result<Option<u32>, Failure> {
        let limit = self.limit();
        let message = match timeout(limit, self.leader.first()).await {
            // Not the first but the newest one counts.
            Ok(first) => self.leader.get().map_or(first, Ok)?,
            Err(_) => return Ok(None),
        };
        let leader = u32::decode(&mut message.data.as_ref()).unwrap_or(UNKNOWN_PNN);
        Ok((leader != UNKNOWN_PNN).then_some(leader))
    }

    /// Registers a service id of its own for the replies to a message.
    pub(crate) async fn reply_subscription(&mut self) -> Result<Subscription, Failure> {
        self.reply_srvids += 1;
        let pid = u64::from(std::process::id() & 0xFFFF);
        let srvid = Srvid::new(REPLY_SRVID_BASE | pid << 16 | self.reply_srvids & 0xFFFF);
        Ok(self.client.subscribe(srvid, Some(self.limit())).await?)
    }
}

/// First of the service ids at which the tool wants replies.
const REPLY_SRVID_BASE: u64 = 0xCE01_0000_0000_0000;

async fn open_socket(paths: &Paths) -> Result<Client, Failure> {
    let path = paths.daemon_socket();
    match Client::connect(path).await {
        Ok(client) => Ok(client),
        Err(error) => Err(connect_failure(path, &error, explain_missing_daemon(paths))),
    }
}

fn connect_failure(path: &Path, error: &ConnectError, explanation: Vec<String>) -> Failure {
    let first = match error {
        ConnectError::PathTooLong { .. } => error.to_string(),
        ConnectError::Connect { source, .. } => {
            format!(
                "connect() failed, errno={}",
                source.raw_os_error().unwrap_or(EIO)
            )
        }
    };
    let second = format!("Failed to connect to CTDB daemon ({})", path.display());
    Failure::Failed {
        lines: [first, second].into_iter().chain(explanation).collect(),
        code: 1,
    }
}

async fn watch_leader(client: &Client) -> Result<Latest, Failure> {
    let watched = client.watch(Srvid::LEADER, None).await;
    watched.map_err(|error| Failure::from(error).and("Failed to setup leader handler"))
}

fn is_banned(nodemap: &NodeMap, pnn: Pnn) -> bool {
    let node = nodemap.nodes.iter().find(|node| node.pnn == pnn);
    node.is_some_and(|node| node.flags.contains(NodeFlags::BANNED))
}

/// The node after this one, round and round, that can be asked.
fn next_reachable(nodemap: &NodeMap, after: Pnn) -> Option<Pnn> {
    let nodes = &nodemap.nodes;
    let behind = nodes.iter().filter(|node| node.pnn > after);
    let before = nodes.iter().filter(|node| node.pnn <= after);
    let gone = NodeFlags::DISCONNECTED | NodeFlags::DELETED;
    behind
        .chain(before)
        .find(|node| !node.flags.intersects(gone))
        .map(|node| node.pnn)
}

#[cfg(test)]
mod tests {
    use ctdb_proto::SockAddr;

    use super::*;

    fn nodemap(flags: &[u32]) -> NodeMap {
        let node = |(pnn, bits): (u32, &u32)| NodeAndFlags {
            pnn: Pnn::new(pnn).unwrap(),
            flags: NodeFlags::from_bits_retain(*bits),
            addr: SockAddr("10.0.0.1:4379".parse().unwrap()),
        };
        NodeMap {
            nodes: (0..).zip(flags).map(node).collect(),
        }
    }

    #[test]
    fn the_next_reachable_node_is_looked_for_all_around() {
        let next = |map: &[u32], after| {
            next_reachable(&nodemap(map), Pnn::new(after).unwrap()).map(Pnn::get)
        };
        assert_eq!(next(&[0, 1, 0x10, 0], 0), Some(3));
        assert_eq!(next(&[0, 1, 8], 2), Some(0));
        assert_eq!(next(&[1, 1, 8], 2), Some(2));
        assert_eq!(next(&[1, 1], 1), None);
    }

    #[test]
    fn a_missing_daemon_is_reported_with_path_and_errno() {
        let path = Path::new("/b/run/ctdbd.socket");
        let source = std::io::Error::from_raw_os_error(2);
        let error = ConnectError::Connect {
            path: path.to_owned(),
            source,
        };
        let failure = connect_failure(path, &error, vec!["more".to_owned()]);
        let lines = [
            "connect() failed, errno=2",
            "Failed to connect to CTDB daemon (/b/run/ctdbd.socket)",
            "more",
        ];
        let lines = lines.map(str::to_owned).to_vec();
        assert_eq!(failure, Failure::Failed { lines, code: 1 });
    }
}
