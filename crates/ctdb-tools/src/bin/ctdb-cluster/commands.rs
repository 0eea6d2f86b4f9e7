//! What each subcommand does, and all that is printed.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ctdb_tools::local_cluster::{
    Cluster, Node, Options, Smbd, check_owner, find_beside, find_installed,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Args, Command, SmbdCommand, StartArgs};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

pub(crate) fn run(args: &Args) -> Result<()> {
    let dir = folder(args.dir.as_deref())?;
    let tool = match &args.ctdb {
        Some(tool) => std::path::absolute(tool)?,
        None => find_beside("ctdb")
            .or_else(|| find_installed("ctdb"))
            .ok_or("no `ctdb` tool found: give it with --ctdb")?,
    };
    if let Command::Start(start) = &args.command {
        return self::start(start, dir, tool);
    }
    let mut cluster = Cluster::open(&dir, &tool)?;
    match args.command {
        Command::Start(_) => unreachable!("handled above"),
        Command::Status => show(&cluster),
        Command::Kill { node } => {
            cluster.node_mut(node)?.kill();
            say(&format!("Killed node {node}."))
        }
        Command::Stop { node: Some(node) } => {
            cluster.node_mut(node)?.stop();
            say(&format!("Stopped node {node}."))
        }
        Command::Stop { node: None } => {
            for_each_smbd(&cluster, |smbd| {
                smbd.stop();
                Ok(())
            })?;
            cluster.remove()?;
            say("Stopped the cluster and removed its folder.")
        }
        Command::StartNode { node } => start_node(cluster.node_mut(node)?),
        Command::Restart { node } => {
            cluster.node_mut(node)?.stop();
            start_node(cluster.node_mut(node)?)
        }
        Command::Smbd(SmbdCommand::Start) => for_each_smbd(&cluster, |smbd| {
            smbd.start()?;
            say(&format!("smbd serves {}", smbd.unc()))
        }),
        Command::Smbd(SmbdCommand::Stop) => for_each_smbd(&cluster, |smbd| {
            smbd.stop();
            Ok(())
        }),
    }
}

/// The default is the same at each call, so that `ctdb-cluster stop` needs no arguments.
fn folder(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = given {
        return Ok(std::path::absolute(dir)?);
    }
    let name = format!("ctdb-cluster-{}", nix::unistd::geteuid());
    let dir = std::env::temp_dir().join(name);
    check_owner(&dir)?;
    Ok(dir)
}

fn start(args: &StartArgs, dir: PathBuf, tool: PathBuf) -> Result<()> {
    let ctdbd = match &args.ctdbd {
        Some(path) => std::path::absolute(path)?,
        None => find_beside("ctdbd").ok_or(
            "no `ctdbd` beside this program: run `cargo build --workspace`, or give one with \
             --ctdbd",
        )?,
    };
    clear_leftovers(&dir, &tool)?;
    let options = Options {
        nodes: args.nodes,
        dir,
        ctdbd,
        node_ctdbd: args.node_ctdbd.iter().cloned().collect(),
        tool,
        cluster_lock: args.cluster_lock,
        tunables: Vec::new(),
        tied: !args.detach,
    };
    let signals = catch_signals()?;
    let mut cluster = Cluster::create(&options)?;
    let started = Instant::now();
    let healthy = cluster
        .start()
        .and_then(|()| cluster.wait_healthy(Duration::from_secs(args.limit)));
    if let Err(error) = healthy {
        // The logs say why: they stay until the next start in this folder.
        cluster.stop();
        return Err(error.into());
    }
    let seconds = started.elapsed().as_secs_f64();
    say(&format!(
        "{} nodes healthy {seconds:.1} s after their start.",
        cluster.nodes().len()
    ))?;
    show(&cluster)?;
    if args.detach {
        return say("`ctdb-cluster stop` stops the cluster and removes its folder.");
    }
    say("Ctrl-C stops the cluster and removes its folder.")?;
    signals.wait();
    Ok(cluster.remove()?)
}

/// A cluster that nobody stopped (the machine went down, or it did not become healthy) leaves its
/// folder; a new one takes the place, unless the old one still runs.
fn clear_leftovers(dir: &Path, tool: &Path) -> Result<()> {
    use ctdb_tools::local_cluster::Error;
    match Cluster::open(dir, tool) {
        Ok(cluster) if cluster.is_running() => Err(Error::AlreadyRunning {
            path: dir.to_owned(),
        }
        .into()),
        Ok(cluster) => Ok(cluster.remove()?),
        Err(_) => Ok(()),
    }
}

fn start_node(node: &mut Node) -> Result<()> {
    node.start()?;
    say(&format!(
        "Started node {}; `ctdb-cluster status` shows when it is healthy.",
        node.pnn()
    ))
}

/// `ctdb status` of the first node that runs, then how to reach each node.
fn show(cluster: &Cluster) -> Result<()> {
    match cluster.nodes().iter().find(|node| node.is_running()) {
        Some(node) => {
            let output = node.ctdb(["status"])?;
            say(&format!(
                "\n$ ctdb status    # on node {}\n{}",
                node.pnn(),
                output.stdout
            ))?;
        }
        None => say("No node runs.")?,
    }
    for node in cluster.nodes() {
        let runs = if node.is_running() {
            ""
        } else {
            " (does not run)"
        };
        say(&format!(
            "# node {}, {}{runs}: {}",
            node.pnn(),
            node.address(),
            node.socket().display()
        ))?;
        let line: Vec<String> = node
            .environment()
            .iter()
            .map(|(name, value)| format!("{name}={}", value.display()))
            .collect();
        say(&format!("export {}", line.join(" ")))?;
    }
    Ok(())
}

fn for_each_smbd(cluster: &Cluster, mut act: impl FnMut(&Smbd) -> Result<()>) -> Result<()> {
    cluster
        .nodes()
        .iter()
        .try_for_each(|node| act(&Smbd::new(cluster.layout(), node)))
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

/// Ctrl-C and the signals that ask for an end, caught from the moment that daemons may run.
struct Signals {
    runtime: tokio::runtime::Runtime,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

fn catch_signals() -> Result<Signals> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let guard = runtime.enter();
    let interrupt = signal(SignalKind::interrupt())?;
    let terminate = signal(SignalKind::terminate())?;
    drop(guard);
    Ok(Signals {
        runtime,
        interrupt,
        terminate,
    })
}

impl Signals {
    fn wait(mut self) {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        });
    }
}
