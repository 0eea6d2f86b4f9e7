//! What the clients do. Each round ends as it began, so that rounds can follow each other.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ctdb_e2e::{Benchmark, Samba, SmbSession, TestResult};
use ctdb_tools::local_cluster::ClientProtocol;

/// One thread of the load.
pub(crate) enum Worker<'a> {
    Counter(Counter<'a>),
    Files(Files<'a>),
    Bench(Bench<'a>),
}

impl Worker<'_> {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Counter(counter) => format!("increments through node {}", counter.node),
            Self::Files(files) => format!("rounds of files {}", files.number),
            Self::Bench(_) => format!("runs of {}", BENCHMARK.name),
        }
    }

    pub(crate) fn round(&mut self) -> Result<(), String> {
        match self {
            Self::Counter(counter) => counter.round(),
            Self::Files(files) => files.round(),
            Self::Bench(bench) => bench.round(),
        }
    }
}

/// After so many rounds a worker connects anew: sessions come and go, too.
const ROUNDS_OF_A_SESSION: u32 = 10;

/// Increments the number in a file that clients of all nodes increment, under a lock. If two held
/// the lock at once, or one read an old content, the number would not be what it must be.
pub(crate) struct Counter<'a> {
    samba: &'a Samba,
    node: usize,
    folder: PathBuf,
    /// What the file must have.
    expected: &'a AtomicU64,
    session: Option<(SmbSession, String)>,
    rounds: u32,
}

impl<'a> Counter<'a> {
    pub(crate) fn new(
        samba: &'a Samba,
        node: usize,
        folder: PathBuf,
        expected: &'a AtomicU64,
    ) -> TestResult<Self> {
        fs::create_dir(&folder)?;
        if node == 0 {
            fs::write(folder.join("counter"), "0")?;
            let mut session = SmbSession::connect(samba.at(node), ClientProtocol::Nt1, &folder)?;
            session.done("put counter")?;
            session.done("put counter counter.lock")?;
        }
        Ok(Self {
            samba,
            node,
            folder,
            expected,
            session: None,
            rounds: 0,
        })
    }

    fn round(&mut self) -> Result<(), String> {
        self.rounds += 1;
        if self.rounds.is_multiple_of(ROUNDS_OF_A_SESSION) {
            self.session = None;
        }
        let (mut session, handle) = match self.session.take() {
            Some(open) => open,
            None => self.open()?,
        };
        session.done(&format!("lock {handle} w 0 1"))?;
        self.increment(&mut session)?;
        session.done(&format!("unlock {handle} 0 1"))?;
        self.session = Some((session, handle));
        Ok(())
    }

    /// A session, and its number of the file that is locked.
    fn open(&self) -> Result<(SmbSession, String), String> {
        let smbd = self.samba.at(self.node);
        let session = SmbSession::connect(smbd, ClientProtocol::Nt1, &self.folder);
        let mut session = session.map_err(|error| error.to_string())?;
        session.done("posix")?;
        let answer = session.done("posix_open counter.lock 0666")?;
        let (_, handle) = answer.trim().rsplit_once(' ').ok_or(answer.clone())?;
        let handle = handle.to_owned();
        Ok((session, handle))
    }

    fn increment(&self, session: &mut SmbSession) -> Result<(), String> {
        session.done("get counter")?;
        let path = self.folder.join("counter");
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let expected = self.expected.load(Ordering::Relaxed);
        if text.trim() != expected.to_string() {
            return Err(format!("the counter is {text:?} instead of {expected}"));
        }
        fs::write(&path, (expected + 1).to_string()).map_err(|error| error.to_string())?;
        session.done("put counter")?;
        self.expected.store(expected + 1, Ordering::Relaxed);
        Ok(())
    }
}

/// A file that is written through one node, renamed through the second and read through the third.
pub(crate) struct Files<'a> {
    samba: &'a Samba,
    number: usize,
    folder: PathBuf,
    sessions: Vec<SmbSession>,
    rounds: u32,
}

impl<'a> Files<'a> {
    pub(crate) fn new(samba: &'a Samba, number: usize, folder: PathBuf) -> TestResult<Self> {
        fs::create_dir(&folder)?;
        Ok(Self {
            samba,
            number,
            folder,
            sessions: Vec::new(),
            rounds: 0,
        })
    }

    fn round(&mut self) -> Result<(), String> {
        self.rounds += 1;
        if self.sessions.is_empty() || self.rounds.is_multiple_of(ROUNDS_OF_A_SESSION) {
            self.sessions = self.connect_to_all()?;
        }
        let (new, old) = (
            format!("new.{}", self.number),
            format!("old.{}", self.number),
        );
        let text = format!("round {} of {}\n", self.rounds, self.number).repeat(2000);
        fs::write(self.folder.join("in"), &text).map_err(|error| error.to_string())?;
        self.sessions.rotate_left(1);
        let [a, b, c] = self.sessions.as_mut_slice() else {
            return Err("there are not three nodes".to_owned());
        };
        a.done(&format!("put in {new}"))?;
        b.done(&format!("rename {new} {old}"))?;
        a.refused(&format!("ls {new}"), "NT_STATUS_NO_SUCH_FILE")?;
        c.done(&format!("get {old} out"))?;
        let out = fs::read_to_string(self.folder.join("out"));
        if out.map_err(|error| error.to_string())? != text {
            return Err(format!("round {}: {old} has another content", self.rounds));
        }
        is_kept_while_open(c, a, &old)?;
        b.done(&format!("del {old}"))?;
        c.refused(&format!("ls {old}"), "NT_STATUS_NO_SUCH_FILE")
    }

    fn connect_to_all(&self) -> Result<Vec<SmbSession>, String> {
        let connect = |smbd| {
            SmbSession::connect(smbd, ClientProtocol::Smb2, &self.folder)
                .map_err(|error| error.to_string())
        };
        self.samba.all().iter().map(connect).collect()
    }
}

/// What one client has open no other can delete, through whatever node.
fn is_kept_while_open(
    holder: &mut SmbSession,
    other: &mut SmbSession,
    name: &str,
) -> Result<(), String> {
    let answer = holder.done(&format!("open {name}"))?;
    let (_, handle) = answer.trim().rsplit_once(' ').ok_or(answer.clone())?;
    other.refused(&format!("del {name}"), "NT_STATUS_SHARING_VIOLATION")?;
    holder.done(&format!("close {handle}")).map(drop)
}

/// smbtorture: oplocks that clients of all nodes take from each other.
pub(crate) struct Bench<'a> {
    samba: &'a Samba,
}

const BENCHMARK: Benchmark = Benchmark {
    name: "raw.bench-oplock",
    seconds: 10,
};

/// For it to set up and to clean up, beside the other load.
const PATIENCE: Duration = Duration::from_secs(60);

impl<'a> Bench<'a> {
    pub(crate) fn new(samba: &'a Samba) -> Self {
        Self { samba }
    }

    fn round(&self) -> Result<(), String> {
        let run = self.samba.bench_patiently(BENCHMARK, &[0, 1, 2], PATIENCE);
        let run = run.map_err(|error| error.to_string())?;
        if run.passed() || run.hung_at_its_end() {
            return Ok(());
        }
        Err(format!("{run:#?}"))
    }
}
