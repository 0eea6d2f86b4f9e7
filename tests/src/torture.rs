//! smbtorture: what it said, also when it does not come to an end.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use ctdb_tools::local_cluster::{ClientProtocol, Smbd, wait_until};

use crate::{TestResult, need};

/// One of smbtorture's benchmarks.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    pub name: &'static str,
    /// How long it runs.
    pub seconds: u32,
}

/// What a run of smbtorture came to.
#[derive(Debug)]
pub struct Torture {
    /// All that it printed.
    pub output: String,
    /// Exit status; `None` when it was killed because it did not end.
    pub status: Option<i32>,
}

impl Torture {
    /// Runs tests against the share of one smbd; ends them after `limit`.
    ///
    /// The output goes to a file in the client's folder of that smbd, so that it is there even if
    /// smbtorture has to be killed.
    pub fn run(
        smbd: &Smbd,
        protocol: ClientProtocol,
        args: &[&str],
        limit: Duration,
    ) -> TestResult<Self> {
        let conf = smbd.client_conf(protocol);
        let name = args.last().ok_or("smbtorture needs a test to run")?;
        let path = conf.with_file_name(format!("client/{name}.out"));
        let file = File::create(&path)?;
        let mut torture = Command::new(need("smbtorture", "samba-testsuite"))
            // It makes folders where it runs.
            .current_dir(path.with_file_name(""))
            .arg("-s")
            .arg(conf)
            .arg("-U%")
            .arg(smbd.unc())
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        let mut status = None;
        if !wait_until(limit, || {
            status = torture.try_wait().ok().flatten();
            status.is_some()
        }) {
            torture.kill()?;
            torture.wait()?;
        }
        let output = String::from_utf8_lossy(&fs::read(&path)?).replace('\r', "\n");
        Ok(Self {
            output,
            status: status.and_then(|status| status.code()),
        })
    }

    /// It ended, and everything that it tested was right.
    pub fn passed(&self) -> bool {
        self.status == Some(0) && self.output.contains("success: ")
    }

    /// It ran its time and counted operations for every client, but then waits for ever to clean
    /// up. `raw.bench-lock` does that now and then (the others more rarely), with any daemon: it
    /// closes the file of a client whose lock request still waits, and smbd does not answer before
    /// that one is done.
    pub fn hung_at_its_end(&self) -> bool {
        let counts: Vec<u64> = self.operations().collect();
        self.status.is_none() && !counts.is_empty() && counts.iter().all(|&count| count > 0)
    }

    /// `raw.bench-open` wants the clients to get similar shares of a contended file, and the one
    /// that begins may be far ahead before the others have the file at all.
    pub fn was_unbalanced(&self) -> bool {
        self.output.contains("Failed: unbalanced open")
    }

    /// Operations of each client: `[0] 443 ops`.
    pub fn operations(&self) -> impl Iterator<Item = u64> {
        self.output.lines().filter_map(|line| {
            let (_, rest) = line.strip_prefix('[')?.split_once("] ")?;
            rest.split_once(" ops")?.0.parse().ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_from_the_output() {
        let output = "  167   156 \n0.00 ops/second\n[0] 443 ops\n[1] 431 ops (0 retries)\n";
        let run = Torture {
            output: output.to_owned(),
            status: None,
        };
        assert_eq!(run.operations().collect::<Vec<_>>(), [443, 431]);
        assert!(run.hung_at_its_end() && !run.passed());
    }
}
