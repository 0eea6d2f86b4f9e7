//! The command line of `ctdb-cluster`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

/// Runs a CTDB cluster on this machine: several daemons on loopback addresses, without root.
#[derive(Debug, Parser)]
#[command(name = "ctdb-cluster", version)]
pub(crate) struct Args {
    /// Folder of the cluster [default: ctdb-cluster-UID in the folder for temporary files]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// The `ctdb` tool [default: the one built with this program, else the installed one]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) ctdb: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a cluster, start it, wait until it is healthy; Ctrl-C stops and removes it
    Start(StartArgs),
    /// Show `ctdb status` and how to talk to each node
    Status,
    /// Kill a node's daemon as a crash would
    Kill { node: usize },
    /// Stop one node, or the whole cluster and remove its folder
    Stop { node: Option<usize> },
    /// Start a node that was killed or stopped
    StartNode { node: usize },
    /// Stop a node and start it again
    Restart { node: usize },
    /// Debian's smbd on every node, all serving one folder (needs root)
    #[command(subcommand)]
    Smbd(SmbdCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SmbdCommand {
    /// Start smbd on every node and show the shares
    Start,
    /// Stop smbd on every node
    Stop,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StartArgs {
    /// Number of nodes
    #[arg(short = 'n', long, default_value_t = 3)]
    pub(crate) nodes: usize,

    /// The daemon to run [default: the one built with this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) ctdbd: Option<PathBuf>,

    /// Another daemon for node K; may be given several times
    #[arg(long, value_name = "K=PATH", value_parser = parse_node_ctdbd)]
    pub(crate) node_ctdbd: Vec<(usize, PathBuf)>,

    /// Leave the cluster running and return; `ctdb-cluster stop` ends it
    #[arg(long)]
    pub(crate) detach: bool,

    /// Configure a cluster lock
    #[arg(long)]
    pub(crate) cluster_lock: bool,

    /// Seconds that the cluster may take to become healthy
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) limit: u64,
}

fn parse_node_ctdbd(text: &str) -> Result<(usize, PathBuf), String> {
    let (node, path) = text.split_once('=').ok_or("expected K=PATH")?;
    let node = node
        .parse()
        .map_err(|_| format!("{node} is no node number"))?;
    Ok((node, PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_node_may_run_another_daemon() {
        let found = parse_node_ctdbd("2=/usr/sbin/ctdbd").unwrap();
        assert_eq!(found, (2, PathBuf::from("/usr/sbin/ctdbd")));
        assert!(parse_node_ctdbd("two=/usr/sbin/ctdbd").is_err());
        assert!(parse_node_ctdbd("/usr/sbin/ctdbd").is_err());
    }
}
