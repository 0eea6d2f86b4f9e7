//! A client of smbd that stays connected: one command after the other, each with its answer.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use ctdb_tools::local_cluster::{ClientProtocol, Smbd};

use crate::need;

/// `smbclient`, connected to the share of one node.
#[derive(Debug)]
pub struct SmbSession {
    client: Child,
    /// Only empty while it is being dropped.
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Numbers the commands: the end of each answer is told by it.
    commands: u32,
    name: String,
}

impl SmbSession {
    /// Connects; files of `get` and `put` are in `folder`.
    ///
    /// # Panics
    ///
    /// Without the programs.
    pub fn connect(smbd: &Smbd, protocol: ClientProtocol, folder: &Path) -> io::Result<Self> {
        let (output, printed) = io::pipe()?;
        // As it talks to no terminal, smbclient would keep its answers back until the end, and would
        // wait for more input while it has a command that came together with the one before.
        let mut client = Command::new(need("stdbuf", "coreutils"))
            .args(["-i0", "-oL"])
            .arg(need("smbclient", "smbclient"))
            .current_dir(folder)
            .arg("-N")
            .arg("-s")
            .arg(smbd.client_conf(protocol))
            .arg(smbd.unc())
            .stdin(Stdio::piped())
            .stdout(printed.try_clone()?)
            .stderr(printed)
            .spawn()?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            // Nobody listens any more once the session is dropped.
            lines.for_each(|line| drop(sender.send(line)));
        });
        Ok(Self {
            input: client.stdin.take(),
            client,
            lines,
            commands: 0,
            name: smbd.unc(),
        })
    }

    /// Runs a command; what it prints. An error of SMB is in the answer.
    pub fn ask(&mut self, command: &str) -> Result<String, String> {
        self.commands += 1;
        let end = format!("end of answer {}", self.commands);
        let failed = |why: &str, answer: &str| format!("{}: {command}: {why}: {answer}", self.name);
        let input = self.input.as_mut().ok_or("the session is closed")?;
        writeln!(input, "{command}\n!echo {end}")
            .map_err(|error| failed("cannot ask", &error.to_string()))?;
        let mut answer = String::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if line == end => return Ok(answer),
                Ok(line) => answer = answer + &line + "\n",
                Err(error) => return Err(failed(&error.to_string(), &answer)),
            }
        }
    }

    /// As [`Self::ask`], for a command that must do what it says.
    pub fn done(&mut self, command: &str) -> Result<String, String> {
        let answer = self.ask(command)?;
        if answer.contains("NT_STATUS_") || answer.contains("fail") {
            return Err(format!("{}: {command}: {answer}", self.name));
        }
        Ok(answer)
    }

    /// As [`Self::ask`], for a command that SMB must refuse with this status.
    pub fn refused(&mut self, command: &str, status: &str) -> Result<(), String> {
        let answer = self.ask(command)?;
        if answer.contains(status) {
            return Ok(());
        }
        let name = &self.name;
        Err(format!("{name}: {command}: not {status}, but {answer:?}"))
    }
}

impl Drop for SmbSession {
    fn drop(&mut self) {
        // The end of its input is the end of the session.
        self.input = None;
        let _ = self.client.wait();
    }
}

/// For any command to be answered: recoveries come between, and the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);
