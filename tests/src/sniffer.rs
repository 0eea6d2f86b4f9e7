//! tshark, whose CTDB dissector was written by others, on the traffic between nodes.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ctdb_tools::local_cluster::{CommandOutput, Process, Signal, run_to_end, wait_until};

use crate::{TestCluster, TestResult, need, step};

/// Until it listens, or has read what it wrote.
const LIMIT: Duration = Duration::from_secs(60);

/// Writes down what the nodes of one cluster say to each other on the loopback interface.
#[derive(Debug)]
pub struct Sniffer {
    tshark: Child,
    file: PathBuf,
}

impl Sniffer {
    /// Needs root. Returns when it listens.
    ///
    /// # Panics
    ///
    /// When there is no tshark, or it may not listen.
    pub fn start(cluster: &TestCluster) -> TestResult<Self> {
        let file = cluster.layout().base(0).join("peers.pcap");
        let prefix = cluster.prefix().expect("a cluster has nodes");
        let filter = format!("tcp port 4379 and net {prefix}.0/24");
        let tshark = Command::new(need("tshark", "tshark"))
            .args(["-q", "-i", "lo", "-s", "0", "-f", &filter, "-w"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let sniffer = Self { tshark, file };
        // Leader broadcasts come once a second: the first packet in the file says that it listens.
        let listens = wait_until(LIMIT, || {
            sniffer.file.metadata().is_ok_and(|meta| meta.len() > 0)
        });
        assert!(
            listens,
            "tshark does not capture: may it listen on the loopback interface?"
        );
        Ok(sniffer)
    }

    /// Ends the listening and reads it: no packet is malformed. Gives the operations of all packets
    /// (`wire.md` 3), as they came.
    ///
    /// # Panics
    ///
    /// When there are malformed packets, or hardly any.
    pub fn finds_nothing_malformed(mut self) -> TestResult<Vec<u32>> {
        let pid = self.tshark.id().try_into()?;
        Process::find(pid)
            .expect("tshark still captures")
            .signal(Signal::SIGINT);
        self.tshark.wait()?;
        let operations = self.read(&["-Y", "ctdb", "-T", "fields", "-e", "ctdb.opcode"])?;
        let operations: Vec<u32> = operations
            .stdout
            .split([',', '\n'])
            .filter(|operation| !operation.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let packets = operations.len();
        assert!(
            packets > 100,
            "only {packets} packets between the nodes captured"
        );
        let malformed = self.read(&["-Y", "_ws.malformed"])?;
        assert_eq!(malformed.stdout, "", "malformed of {packets} packets");
        step(&format!("{packets} packets dissected, none malformed"));
        Ok(operations)
    }

    /// What tshark says of the file.
    fn read(&self, arguments: &[&str]) -> TestResult<CommandOutput> {
        let mut command = Command::new(need("tshark", "tshark"));
        command
            .arg("-r")
            .arg(&self.file)
            .args(["-d", "tcp.port==4379,ctdb"])
            .args(arguments);
        let output = run_to_end(&mut command, LIMIT)?;
        assert!(output.success(), "{output:?}");
        Ok(output)
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        let _ = self.tshark.kill();
        let _ = self.tshark.wait();
    }
}
