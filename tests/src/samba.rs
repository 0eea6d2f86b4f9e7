//! smbd on every node of a test cluster, and smbtorture against them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ctdb_tools::local_cluster::{ClientProtocol, Cluster, CommandOutput, Smbd, run_to_end};

use crate::{TestResult, need, need_root};

/// The smbd of all nodes.
///
/// They end with their daemons: smbd exits when its connection to `ctdbd` closes.
pub struct Samba {
    smbds: Vec<Smbd>,
    /// For files of the clients; goes with the cluster.
    folder: PathBuf,
    share: PathBuf,
}

impl Samba {
    /// Starts smbd on every node; all serve.
    ///
    /// # Panics
    ///
    /// Without root or without the programs.
    pub fn start(cluster: &Cluster) -> TestResult<Self> {
        need_root("smbd changes its user for each client");
        need("smbd", "samba");
        need("smbclient", "smbclient");
        need("smbtorture", "samba-testsuite");
        let layout = cluster.layout();
        let smbds: Vec<Smbd> = cluster
            .nodes()
            .iter()
            .map(|node| Smbd::new(layout, node))
            .collect();
        smbds.iter().try_for_each(Smbd::start)?;
        let folder = layout.base(0).join("clients");
        fs::create_dir(&folder)?;
        Ok(Self {
            smbds,
            folder,
            share: layout.share(),
        })
    }

    /// smbd of this node.
    ///
    /// # Panics
    ///
    /// When the cluster has no such node.
    pub fn at(&self, pnn: usize) -> &Smbd {
        self.smbds
            .get(pnn)
            .expect("the test knows how many nodes there are")
    }

    pub fn all(&self) -> &[Smbd] {
        &self.smbds
    }

    /// Runs one of smbtorture's benchmarks, with one client on each of these nodes.
    pub fn bench(&self, benchmark: &Benchmark, nodes: &[usize]) -> TestResult<CommandOutput> {
        let names: Vec<String> = nodes.iter().map(usize::to_string).collect();
        let unclist = self.folder.join(format!("unclist.{}", names.join("")));
        let uncs: Vec<String> = nodes.iter().map(|&pnn| self.at(pnn).unc()).collect();
        fs::write(&unclist, uncs.join("\n") + "\n")?;
        let unclist = format!("--unclist={}", unclist.display());
        let limit = format!("--option=torture:timelimit={}", benchmark.seconds);
        let clients = format!("--num-progs={}", nodes.len());
        let first = *nodes.first().ok_or("a benchmark needs a node")?;
        let args = [&unclist, &limit, &clients, benchmark.name];
        run_torture(self.at(first), ClientProtocol::Nt1, &args)
    }

    /// Removes all files from the share, behind the back of smbd.
    pub fn empty_share(&self) -> TestResult {
        for entry in fs::read_dir(&self.share)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Puts a file in through one node and gets it out through another.
    ///
    /// # Panics
    ///
    /// When what comes out is not what went in.
    pub fn pass_file(&self, from: usize, to: usize, protocol: ClientProtocol) -> TestResult {
        let (source, target) = (self.folder.join("in"), self.folder.join("out"));
        let text = format!("from {from} to {to} by {protocol:?}\n").repeat(1000);
        fs::write(&source, &text)?;
        let put = format!("put {} passed.txt", source.display());
        let get = format!("get passed.txt {}; del passed.txt", target.display());
        for (pnn, commands) in [(from, put), (to, get)] {
            let output = self.at(pnn).client(protocol, &commands)?;
            assert!(
                output.success(),
                "smbclient {commands} through node {pnn}: {output:?}"
            );
        }
        let passed = fs::read_to_string(&target)?;
        fs::remove_file(&source)?;
        fs::remove_file(&target)?;
        assert!(
            passed == text,
            "a file passed {from} -> {to} came out changed"
        );
        Ok(())
    }
}

/// One of smbtorture's benchmarks.
pub struct Benchmark {
    pub name: &'static str,
    /// How long it runs.
    pub seconds: u32,
}

/// Runs tests of smbtorture against the share of one smbd.
pub fn run_torture(
    smbd: &Smbd,
    protocol: ClientProtocol,
    args: &[&str],
) -> TestResult<CommandOutput> {
    let mut command = Command::new(need("smbtorture", "samba-testsuite"));
    command
        .arg("-s")
        .arg(smbd.client_conf(protocol))
        .arg("-U%")
        .arg(smbd.unc())
        .args(args);
    Ok(run_to_end(&mut command, TORTURE_LIMIT)?)
}

/// The longest of the tests takes a few seconds.
const TORTURE_LIMIT: Duration = Duration::from_secs(60);
