//! Debian's `smbd` on the nodes of a local cluster: the client that CTDB exists for.
//!
//! Each node gets its own `smb.conf` and state folders; all serve one folder to guests, as the
//! servers of a real cluster serve one cluster file system. Needs root, as smbd does.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::command::{CommandOutput, find_installed, run_to_end};
use super::error::{Error, Result};
use super::layout::{Layout, make_folder, set_mode, write};
use super::node::Node;
use super::process::{Process, Signal};
use super::wait::wait_until;

/// The smbd of one node, running or not.
#[derive(Debug)]
pub struct Smbd {
    address: Ipv4Addr,
    /// Folder of all that belongs to this smbd and its clients.
    samba: PathBuf,
    /// Where the node's daemon listens.
    socket: PathBuf,
    share: PathBuf,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientProtocol {
    /// SMB 1, which the `raw` tests of smbtorture are about.
    Nt1,
    /// SMB 2 and 3.
    Smb2,
}

impl Smbd {
    /// The smbd of this node. Nothing is written and nothing runs before [`Smbd::start`].
    pub fn new(layout: &Layout, node: &Node) -> Self {
        Self {
            address: node.address(),
            samba: node.base().join("samba"),
            socket: node.socket(),
            share: layout.share(),
        }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The server's configuration file, which also `smbstatus` wants.
    pub fn conf(&self) -> PathBuf {
        self.samba.join("smb.conf")
    }

    /// A configuration file for clients that speak this protocol.
    pub fn client_conf(&self, protocol: ClientProtocol) -> PathBuf {
        self.samba.join(match protocol {
            ClientProtocol::Nt1 => "client.nt1.conf",
            ClientProtocol::Smb2 => "client.smb2.conf",
        })
    }

    /// Name of the share for clients: `//ADDRESS/share`.
    pub fn unc(&self) -> String {
        format!("//{}/{SHARE}", self.address)
    }

    /// The parent of all smbd processes of this node, if it runs.
    pub fn process(&self) -> Option<Process> {
        Process::from_pid_file(&self.samba.join("pid/smbd.pid"))
    }

    /// Writes the configuration and starts smbd; returns when a client has been served.
    pub fn start(&self) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::SmbdNeedsRoot);
        }
        self.configure()?;
        let program = find_installed("smbd").unwrap_or_else(|| PathBuf::from("smbd"));
        let mut command = Command::new(&program);
        command
            .arg("-D")
            .arg("-s")
            .arg(self.conf())
            .arg("-l")
            .arg(self.samba.join("log"));
        let output = run_to_end(&mut command, LIMIT)?;
        if !output.success() {
            let status = format!("exit status {:?}", output.status);
            return Err(Error::DidNotStart {
                program,
                status,
                stderr: output.stderr,
            });
        }
        if wait_until(LIMIT, || self.answers()) {
            return Ok(());
        }
        let log = self.log();
        let last: Vec<&str> = log.lines().rev().take(2).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        let what = format!(
            "smbd on {} served no client; it logged:\n{last}\n",
            self.address
        );
        Err(Error::Timeout {
            what,
            seconds: LIMIT.as_secs(),
        })
    }

    /// Whether a client gets as far as the share.
    pub fn answers(&self) -> bool {
        self.client(ClientProtocol::Smb2, "ls")
            .is_ok_and(|output| output.success())
    }

    /// Ends smbd and the processes that serve its clients.
    pub fn stop(&self) {
        if let Some(process) = self.process() {
            process.signal(Signal::SIGTERM);
            if !process.wait_group_gone(LIMIT) {
                process.signal_group(Signal::SIGKILL);
                process.wait_group_gone(LIMIT);
            }
        }
    }

    /// Runs `smbclient` with these commands (`put A B; get B C`) against the share.
    pub fn client(&self, protocol: ClientProtocol, commands: &str) -> Result<CommandOutput> {
        let program = find_installed("smbclient").unwrap_or_else(|| PathBuf::from("smbclient"));
        let mut command = Command::new(program);
        command.arg("-N").arg("-s").arg(self.client_conf(protocol));
        command.args([&self.unc(), "-c", commands]);
        run_to_end(&mut command, LIMIT)
    }

    /// All that this smbd has logged.
    pub fn log(&self) -> String {
        let Ok(entries) = fs::read_dir(self.samba.join("log")) else {
            return String::new();
        };
        let files = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file());
        files
            .filter_map(|path| fs::read(path).ok())
            .fold(String::new(), |text, bytes| {
                text + &String::from_utf8_lossy(&bytes)
            })
    }

    fn configure(&self) -> Result<()> {
        for folder in FOLDERS {
            make_folder(&self.samba.join(folder))?;
        }
        make_folder(&self.share)?;
        // Guests write as `nobody`.
        set_mode(&self.share, 0o1777)?;
        write(&self.conf(), &self.conf_text())?;
        for protocol in [ClientProtocol::Nt1, ClientProtocol::Smb2] {
            write(
                &self.client_conf(protocol),
                &self.client_conf_text(protocol),
            )?;
        }
        Ok(())
    }

    fn conf_text(&self) -> String {
        let (samba, socket) = (self.samba.display(), self.socket.display());
        let share = self.share.display();
        let address = self.address;
        format!(
            "[global]\n\
             \tclustering = yes\n\
             \tctdbd socket = {socket}\n\
             \tnetbios name = CLUSTER\n\
             \tworkgroup = TEST\n\
             \tserver role = standalone server\n\
             \tinterfaces = {address}/8\n\
             \tbind interfaces only = yes\n\
             \tsmb ports = 445\n\
             \tdisable netbios = yes\n\
             \tserver min protocol = NT1\n\
             \tmap to guest = Bad User\n\
             \tguest account = nobody\n\
             \tload printers = no\n\
             \tprinting = bsd\n\
             \tdisable spoolss = yes\n\
             \tkernel oplocks = no\n\
             \tlock directory = {samba}/lock\n\
             \tstate directory = {samba}/state\n\
             \tcache directory = {samba}/cache\n\
             \tprivate dir = {samba}/private\n\
             \tpid directory = {samba}/pid\n\
             \tncalrpc dir = {samba}/ncalrpc\n\
             \tlog file = {samba}/log/log.%m\n\
             \tlog level = 1\n\
             \tmax log size = 0\n\
             [{SHARE}]\n\
             \tpath = {share}\n\
             \tguest ok = yes\n\
             \tguest only = yes\n\
             \tread only = no\n"
        )
    }

    fn client_conf_text(&self, protocol: ClientProtocol) -> String {
        let (oldest, newest) = match protocol {
            ClientProtocol::Nt1 => ("NT1", "NT1"),
            ClientProtocol::Smb2 => ("SMB2", "SMB3"),
        };
        let client = self.samba.join("client");
        let client = client.display();
        format!(
            "[global]\n\
             \tclient min protocol = {oldest}\n\
             \tclient max protocol = {newest}\n\
             \tlock directory = {client}\n\
             \tstate directory = {client}\n\
             \tcache directory = {client}\n\
             \tprivate dir = {client}\n"
        )
    }
}

/// Name of the one share.
pub const SHARE: &str = "share";

const FOLDERS: [&str; 8] = [
    "lock", "state", "cache", "private", "pid", "ncalrpc", "log", "client",
];

/// For smbd to start, to answer and to end.
const LIMIT: Duration = Duration::from_secs(20);
