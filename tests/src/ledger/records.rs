//! Writers of a volatile database: each fetches records with their lock and changes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_client::{Database, RecordError};
use ctdb_proto::{DbFlags, Dest, RecordHeader};

use super::history::{Change, Durability, Findings, History, Outcome, Value};
use super::writers::{Ledger, Writer};
use crate::{TestResult, in_runtime, step};

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

/// For vacuuming to come to rest: each takes some tenths of a second, and a second of rest.
const MOST_TRAVERSES: usize = 20;
const REST: Duration = Duration::from_secs(1);
/// What is left of deleted records.
type Remains = BTreeMap<Bytes, Vec<(usize, RecordHeader)>>;

/// How many remains are shown.
const MOST_SHOWN: usize = 10;
/// How many records are deleted at last to see vacuuming remove them.
const DELETED_AT_LAST: usize = 1000;
/// For what is deleted to leave all files: some rounds of all nodes.
const VACUUM_LIMIT: Duration = Duration::from_secs(90);
/// One change in so many deletes the record.
const DELETED_OF: u32 = 8;
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
        let last = self.traverse(ledger).await?;
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
            // Debian's daemon goes on counting the calls of clients whose connection it has closed,
            // also in a cluster of its own kind.
            if !ledger.is_reference(node) {
                wrong.extend(calls_left(&database, node).await?);
            }
        }
        Ok((last, wrong))
    }

    /// What all records hold. Vacuuming still brings records home, and a traverse may meet one that
    /// moves twice, or miss it; so this goes on until two traverses show the same.
    async fn traverse(&self, ledger: &Ledger) -> TestResult<BTreeMap<String, Value>> {
        let database = self.open(ledger, 0).await?;
        let mut before = None;
        for _ in 0..MOST_TRAVERSES {
            let (found, twice) = traverse_once(&database).await?;
            if twice.is_empty() && before.as_ref() == Some(&found) {
                return Ok(found);
            }
            before = Some(found);
            tokio::time::sleep(REST).await;
            if !twice.is_empty() {
                step(&format!("two newest copies, for now: {twice:?}"));
            }
        }
        Err("no two traverses show the same, or all show records twice".into())
    }

    /// Deletes records on all nodes. In time they, and all that was deleted before, must have left
    /// the files of all nodes. Expects that vacuuming runs every second.
    pub(super) fn vacuumed(&self, ledger: &Ledger) -> TestResult {
        let deleted = in_runtime(self.delete_some(ledger))?;
        let begun = Instant::now();
        let mut remains = Remains::new();
        while begun.elapsed() < VACUUM_LIMIT {
            remains = in_runtime(self.remains(ledger))?;
            if remains.is_empty() {
                let seconds = begun.elapsed().as_secs_f64();
                step(&format!(
                    "{deleted} deleted records left the files in {seconds:.1} s"
                ));
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        let first: Vec<_> = remains.iter().take(MOST_SHOWN).collect();
        Err(format!("{} deleted records remain: {first:?}", remains.len()).into())
    }

    /// Deletes some records, each node some of them; says how many.
    async fn delete_some(&self, ledger: &Ledger) -> TestResult<usize> {
        let mut databases = Vec::new();
        for node in 0..ledger.nodes() {
            databases.push(self.open(ledger, node).await?);
        }
        let mut keys = Vec::new();
        let mut traverse = databases[0].traverse(false).await?;
        while let Some((key, _)) = traverse.next().await? {
            keys.push(key);
        }
        keys.truncate(DELETED_AT_LAST);
        for (key, database) in keys.iter().zip(databases.iter().cycle()) {
            database.fetch_lock(key.clone()).await?.delete().await?;
        }
        Ok(keys.len())
    }

    /// Headers in the files of the nodes, by key, of records that have no data where they belong.
    async fn remains(&self, ledger: &Ledger) -> TestResult<Remains> {
        let mut remains = Remains::new();
        let mut alive = BTreeSet::new();
        for node in 0..ledger.nodes() {
            let database = self.open(ledger, node).await?;
            for (key, record) in database.traverse_local().await? {
                let newest = record.header.dmaster() == Some(database.pnn());
                if newest && !record.data.is_empty() {
                    alive.insert(key.clone());
                }
                let here = (node, record.header);
                remains.entry(key).or_default().push(here);
            }
        }
        remains.retain(|key, _| !alive.contains(key));
        Ok(remains)
    }

    async fn open(&self, ledger: &Ledger, node: usize) -> TestResult<Database> {
        let database = ledger.try_database(node, self.name, DbFlags::empty());
        Ok(database.await?)
    }
}

/// What a traverse shows, and the keys that it shows twice.
async fn traverse_once(database: &Database) -> TestResult<(BTreeMap<String, Value>, Vec<String>)> {
    let (mut found, mut twice) = (BTreeMap::new(), Vec::new());
    let mut traverse = database.traverse(false).await?;
    while let Some((key, record)) = traverse.next().await? {
        let key = String::from_utf8_lossy(&key).into_owned();
        if let Some(value) = Value::parse(&record.data)?
            && found.insert(key.clone(), value).is_some()
        {
            twice.push(key);
        }
    }
    Ok((found, twice))
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
        let deletes = !record.data().is_empty() && fastrand::u32(..DELETED_OF) == 0;
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
            deletes,
            rsn: record.header().rsn.get(),
            node: self.node,
            transaction: None,
            begun: Instant::now(),
        });
        if deletes {
            record.delete().await?;
            self.records.history().end(value.change, Outcome::Made);
        } else {
            record.store(value.to_bytes()).await?;
            self.records.history().end(value.change, Outcome::Made);
            drop(record);
        }
        tokio::time::sleep(LONGEST_PAUSE.mul_f64(fastrand::f64())).await;
        Ok(())
    }
}
