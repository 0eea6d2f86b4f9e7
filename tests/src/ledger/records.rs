//! Writers of a volatile database: each fetches records with their lock and changes them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ctdb_client::{Database, RecordError};
use ctdb_proto::{DbFlags, Dest};

use super::history::{Change, Durability, Findings, History, Outcome, Value};
use super::writers::{Ledger, Writer};
use crate::{TestResult, in_runtime};

/// A volatile database, and how it is worked on.
#[derive(Clone, Debug)]
pub(super) struct Records {
    name: &'static str,
    /// Keys that everybody wants, and keys that hardly anybody does.
    hot: usize,
    cold: usize,
    history: Arc<Mutex<History>>,
}

/// One writer.
#[derive(Debug)]
pub(super) struct RecordWriter {
    records: Records,
    node: usize,
}

/// Longest pause between two changes of a writer.
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

impl Records {
    pub(super) fn new(name: &'static str, hot: usize, cold: usize) -> Self {
        Self {
            name,
            hot,
            cold,
            history: Arc::default(),
        }
    }

    /// So many writers, spread over so many nodes.
    pub(super) fn writers(&self, count: usize, nodes: usize) -> Vec<Writer> {
        (0..count)
            .map(|number| RecordWriter {
                records: self.clone(),
                node: number % nodes,
            })
            .map(Writer::Records)
            .collect()
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("nobody panics while holding it")
    }

    /// Half of the time a hot key.
    fn choose(&self) -> String {
        if fastrand::bool() {
            format!("hot {}", fastrand::usize(..self.hot))
        } else {
            format!("cold {}", fastrand::usize(..self.cold))
        }
    }

    /// Compares the records with the history, and what the nodes say with each other.
    pub(super) fn check(&self, ledger: &Ledger) -> TestResult<Findings> {
        let (last, mut wrong) = in_runtime(self.read(ledger))?;
        let outages = ledger.outages.all();
        let mut findings = self
            .history()
            .check(&last, &outages, Durability::WhileTheNodeLives);
        findings.wrong.append(&mut wrong);
        Ok(findings)
    }

    /// What all records hold, by a traverse, and where a node does not agree with it.
    async fn read(&self, ledger: &Ledger) -> TestResult<(BTreeMap<String, Value>, Vec<String>)> {
        let mut wrong = Vec::new();
        let database = self.open(ledger, 0).await?;
        let mut last = BTreeMap::new();
        let mut traverse = database.traverse(false).await?;
        while let Some((key, record)) = traverse.next().await? {
            let key = String::from_utf8_lossy(&key).into_owned();
            if let Some(value) = Value::parse(&record.data)?
                && last.insert(key.clone(), value).is_some()
            {
                wrong.push(format!("{key} has two newest copies"));
            }
        }
        for node in 0..ledger.nodes() {
            let database = self.open(ledger, node).await?;
            for key in (0..self.hot).map(|number| format!("hot {number}")) {
                let data = database.fetch(key.clone()).await?.unwrap_or_default();
                let (found, traversed) = (Value::parse(&data)?, last.get(&key).copied());
                if found != traversed {
                    wrong.push(format!(
                        "{key}: node {node} has {found:?}, not {traversed:?}"
                    ));
                }
            }
            wrong.extend(calls_left(&database, node).await?);
        }
        Ok((last, wrong))
    }

    async fn open(&self, ledger: &Ledger, node: usize) -> TestResult<Database> {
        let database = ledger.try_database(node, self.name, DbFlags::empty());
        Ok(database.await?)
    }
}

/// A daemon must have answered all calls by now.
async fn calls_left(database: &Database, node: usize) -> TestResult<Option<String>> {
    let here = database.client().node(Dest::Current, None);
    let pending = here.statistics().await?.pending_calls;
    Ok((pending > 0).then(|| format!("node {node} has {pending} calls without an answer")))
}

impl RecordWriter {
    pub(super) async fn work(self, ledger: Arc<Ledger>) {
        let kind = DbFlags::empty();
        while let Some(database) = ledger.database(self.node, self.records.name, kind).await {
            while !ledger.has_ended() {
                match ledger
                    .within("a change", self.change(&ledger, &database))
                    .await
                {
                    Some(Ok(())) => {}
                    Some(Err(RecordError::Closed(_))) | None => break,
                    Some(Err(error)) => {
                        ledger.note(format!("node {}: {error:?}", self.node));
                        break;
                    }
                }
            }
            ledger.note_replies(database.client());
        }
    }
}

impl RecordWriter {
    async fn change(&self, ledger: &Ledger, database: &Database) -> Result<(), RecordError> {
        let key = self.records.choose();
        let mut record = database.fetch_lock(key.clone()).await?;
        let parent = match Value::parse(record.data()) {
            Ok(parent) => parent,
            Err(error) => {
                ledger.note(format!("{key}: {error}"));
                return Ok(());
            }
        };
        let value = self.records.history().begin(Change {
            key,
            parent,
            rsn: record.header().rsn.get(),
            node: self.node,
            transaction: None,
            begun: Instant::now(),
        });
        record.store(value.to_bytes()).await?;
        self.records.history().end(value.change, Outcome::Made);
        drop(record);
        tokio::time::sleep(LONGEST_PAUSE.mul_f64(fastrand::f64())).await;
        Ok(())
    }
}
