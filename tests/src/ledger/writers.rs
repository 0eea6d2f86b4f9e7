//! The writers: one thread runs them all, each with a connection that it makes again when its
//! daemon has died.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ctdb_client::{Client, Database};
use ctdb_proto::DbFlags;
use ctdb_tools::local_cluster::Node;
use tokio::task::JoinSet;

use super::records::RecordWriter;
use super::transactions::TransactionWriter;
use super::trouble::Outages;
use crate::{TestCluster, TestResult, in_runtime, is_reference};

/// What all writers of a test share.
#[derive(Debug)]
pub(super) struct Ledger {
    sockets: Vec<PathBuf>,
    /// Whether the node runs Debian's daemon.
    references: Vec<bool>,
    pub(super) outages: Outages,
    ended: AtomicBool,
    /// What was wrong on the way.
    wrong: Mutex<Vec<String>>,
    unexpected_replies: AtomicU64,
}

/// Somebody who works on one node until the ledger ends.
#[derive(Debug)]
pub(super) enum Writer {
    Records(RecordWriter),
    Transactions(TransactionWriter),
}

impl Writer {
    async fn work(self, ledger: Arc<Ledger>) {
        match self {
            Self::Records(writer) => writer.work(ledger).await,
            Self::Transactions(writer) => writer.work(ledger).await,
        }
    }
}

/// Longest time that anything may take: longer than every outage.
const LIMIT: Duration = Duration::from_secs(60);
/// Between attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);
/// How many findings on the way are kept.
const MOST_WRONG: usize = 20;

impl Ledger {
    pub(super) fn new(cluster: &TestCluster) -> Arc<Self> {
        Arc::new(Self {
            sockets: cluster.nodes().iter().map(Node::socket).collect(),
            references: cluster.nodes().iter().map(is_reference).collect(),
            outages: Outages::default(),
            ended: AtomicBool::new(false),
            wrong: Mutex::new(Vec::new()),
            unexpected_replies: AtomicU64::new(0),
        })
    }

    /// Has all writers work until `meanwhile` returns, and then end what they have begun.
    ///
    /// # Panics
    ///
    /// When a writer does.
    pub(super) fn work_during(
        self: &Arc<Self>,
        writers: Vec<Writer>,
        meanwhile: impl FnOnce() -> TestResult,
    ) -> TestResult {
        let ledger = Arc::clone(self);
        let working = thread::spawn(move || {
            in_runtime(async {
                let mut tasks = JoinSet::new();
                for writer in writers {
                    tasks.spawn(writer.work(Arc::clone(&ledger)));
                }
                tasks.join_all().await;
            });
        });
        let result = meanwhile();
        self.ended.store(true, Ordering::Relaxed);
        working.join().expect("a writer panicked");
        result
    }

    pub(super) fn nodes(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn is_reference(&self, node: usize) -> bool {
        self.references.get(node) == Some(&true)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// A database on a node, as soon as its daemon has one to give; `None` if the ledger ends first.
    pub(super) async fn database(
        &self,
        node: usize,
        name: &str,
        kind: DbFlags,
    ) -> Option<Database> {
        while !self.has_ended() {
            match self
                .within("attach", self.try_database(node, name, kind))
                .await
            {
                Some(Ok(database)) => return Some(database),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        None
    }

    /// A database on a node, if its daemon gives one.
    pub(super) async fn try_database(
        &self,
        node: usize,
        name: &str,
        kind: DbFlags,
    ) -> Result<Database, String> {
        let socket = self.sockets.get(node).cloned().unwrap_or_default();
        let client = Client::connect(&socket).await.map_err(text)?;
        client.attach(name, kind).await.map_err(text)
    }

    /// Waits, but not longer than anything may take: then nobody answers, which is wrong.
    pub(super) async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> Option<T> {
        let result = tokio::time::timeout(LIMIT, future).await;
        if result.is_err() {
            self.note(format!("{what}: no answer within {LIMIT:?}"));
        }
        result.ok()
    }

    /// Notes something wrong.
    pub(super) fn note(&self, what: impl Display) {
        let mut wrong = self.lock();
        if wrong.len() < MOST_WRONG {
            wrong.push(what.to_string());
        }
    }

    /// Notes what a connection has seen that is not used any more.
    pub(super) fn note_replies(&self, client: &Client) {
        let count = client.unexpected_replies();
        self.unexpected_replies.fetch_add(count, Ordering::Relaxed);
    }

    /// What was wrong on the way.
    pub(super) fn wrong(&self) -> Vec<String> {
        let mut wrong = self.lock().clone();
        let unexpected = self.unexpected_replies.load(Ordering::Relaxed);
        if unexpected > 0 {
            wrong.push(format!(
                "{unexpected} replies to requests that had been answered"
            ));
        }
        wrong
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.wrong.lock().expect("nobody panics while holding it")
    }
}

fn text(error: impl std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
