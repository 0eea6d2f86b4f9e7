//! smbd on every node of a test cluster.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ctdb_tools::local_cluster::{ClientProtocol, Cluster, Smbd};

use crate::torture::{Benchmark, Torture};
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
    pub fn bench(&self, benchmark: Benchmark, nodes: &[usize]) -> TestResult<Torture> {
        self.bench_patiently(benchmark, nodes, TO_CLEAN_UP)
    }

    /// As [`Self::bench`], with so much time to set up and to clean up.
    pub fn bench_patiently(
        &self,
        benchmark: Benchmark,
        nodes: &[usize],
        allowance: Duration,
    ) -> TestResult<Torture> {
        let names: Vec<String> = nodes.iter().map(usize::to_string).collect();
        let unclist = self.folder.join(format!("unclist.{}", names.join("")));
        let uncs: Vec<String> = nodes.iter().map(|&pnn| self.at(pnn).unc()).collect();
        fs::write(&unclist, uncs.join("\n") + "\n")?;
        let unclist = format!("--unclist={}", unclist.display());
        let seconds = format!("--option=torture:timelimit={}", benchmark.seconds);
        let clients = format!("--num-progs={}", nodes.len());
        let first = *nodes.first().ok_or("a benchmark needs a node")?;
        let args = [&unclist, &seconds, &clients, benchmark.name];
        let limit = Duration::from_secs(benchmark.seconds.into()) + allowance;
        Torture::run(self.at(first), ClientProtocol::Nt1, &args, limit)
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

/// For a benchmark to set up and to clean up.
const TO_CLEAN_UP: Duration = Duration::from_secs(10);
