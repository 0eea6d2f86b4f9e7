//! Writers of persistent and replicated databases: each transaction changes several records.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use ctdb_client::{Database, RecordError, Transaction, TransactionError};
use ctdb_proto::{DB_SEQNUM_KEY, DbFlags};

use super::history::{Change, Durability, Findings, History, Outcome, Value};
use super::writers::{Ledger, Writer};
use crate::{TestResult, in_runtime};

/// A database that is changed by transactions, and how it is worked on.
#[derive(Clone, Debug)]
pub(super) struct Transactions {
    name: &'static str,
    kind: DbFlags,
    keys: usize,
    history: Arc<Mutex<History>>,
    /// Number of the last transaction.
    last: Arc<AtomicU64>,
}

/// One writer.
#[derive(Debug)]
pub(super) struct TransactionWriter {
    transactions: Transactions,
    node: usize,
}

/// Records that a transaction changes.
const PARTS: usize = 3;

impl Transactions {
    pub(super) fn new(name: &'static str, kind: DbFlags, keys: usize) -> Self {
        Self {
            name,
            kind,
            keys,
            history: Arc::default(),
            last: Arc::default(),
        }
    }

    /// One writer on each of so many nodes.
    pub(super) fn writers(&self, nodes: usize) -> Vec<Writer> {
        (0..nodes)
            .map(|node| TransactionWriter {
                transactions: self.clone(),
                node,
            })
            .map(Writer::Transactions)
            .collect()
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("nobody panics while holding it")
    }

    /// Compares the records with the history, and the copies of all nodes with each other.
    pub(super) fn check(&self, ledger: &Ledger) -> TestResult<Findings> {
        let copies = in_runtime(self.read(ledger))?;
        let last = copies.first().cloned().unwrap_or_default();
        let mut findings = self.history().check(&last, &[], Durability::Always);
        for (node, copy) in copies.iter().enumerate() {
            if *copy != last {
                let what = format!("{}: node {node} has another copy than node 0", self.name);
                findings.wrong.push(what);
            }
        }
        Ok(findings)
    }

    /// What lies in the file of each node.
    async fn read(&self, ledger: &Ledger) -> TestResult<Vec<BTreeMap<String, Value>>> {
        let mut copies = Vec::new();
        for node in 0..ledger.nodes() {
            let database = ledger.try_database(node, self.name, self.kind).await?;
            let mut copy = BTreeMap::new();
            for (key, record) in database.traverse_local().await? {
                if key != DB_SEQNUM_KEY
                    && let Some(value) = Value::parse(&record.data)?
                {
                    copy.insert(String::from_utf8_lossy(&key).into_owned(), value);
                }
            }
            copies.push(copy);
        }
        Ok(copies)
    }

    /// Different keys.
    fn choose(&self) -> Vec<String> {
        let numbers = fastrand::choose_multiple(0..self.keys, PARTS);
        numbers
            .iter()
            .map(|number| format!("key {number}"))
            .collect()
    }
}

impl TransactionWriter {
    pub(super) async fn work(self, ledger: Arc<Ledger>) {
        let transactions = &self.transactions;
        let mut readers = Readers::new(Arc::clone(&ledger), transactions);
        while let Some(database) = ledger
            .database(self.node, transactions.name, transactions.kind)
            .await
        {
            while !ledger.has_ended() {
                let made = self.transact(&ledger, &database);
                match ledger.within("a transaction", made).await {
                    Some(Ok(values)) => readers.check(&values).await,
                    // Its node was stopped, and others went on.
                    Some(Err(TransactionError::Overtaken { .. } | TransactionError::Unknown)) => {}
                    Some(Err(error)) => {
                        if !database.client().is_closed() {
                            ledger.note(format!("node {}: {error:?}", self.node));
                        }
                        break;
                    }
                    None => break,
                }
            }
            ledger.note_replies(database.client());
        }
    }
}

impl TransactionWriter {
    /// Makes one transaction; gives what the records hold after it.
    async fn transact(
        &self,
        ledger: &Ledger,
        database: &Database,
    ) -> Result<BTreeMap<String, Value>, TransactionError> {
        let mut transaction = database.transaction().await?;
        let number = self.transactions.last.fetch_add(1, Ordering::Relaxed);
        let mut values = BTreeMap::new();
        let result = self
            .change(ledger, &mut transaction, database, number, &mut values)
            .await;
        let result = match result {
            Ok(()) => transaction.commit().await,
            Err(error) => Err(error),
        };
        let outcome = match &result {
            Ok(()) => Outcome::Made,
            Err(TransactionError::Unknown) => Outcome::Unknown,
            Err(_) => Outcome::NotMade,
        };
        for value in values.values() {
            self.transactions.history().end(value.change, outcome);
        }
        result.map(|()| values)
    }

    async fn change(
        &self,
        ledger: &Ledger,
        transaction: &mut Transaction<'_>,
        database: &Database,
        number: u64,
        values: &mut BTreeMap<String, Value>,
    ) -> Result<(), TransactionError> {
        for key in self.transactions.choose() {
            let data = transaction.fetch(key.clone()).await?.unwrap_or_default();
            let parent = Value::parse(&data).unwrap_or_else(|error| {
                ledger.note(format!("{key}: {error}"));
                None
            });
            let rsn = rsn(database, &key).await? + 1;
            let value = self.transactions.history().begin(Change {
                key: key.clone(),
                parent,
                deletes: false,
                rsn,
                node: self.node,
                transaction: Some(number),
                begun: Instant::now(),
            });
            transaction.store(key.clone(), value.to_bytes()).await?;
            values.insert(key, value);
        }
        Ok(())
    }
}

async fn rsn(database: &Database, key: &str) -> Result<u64, RecordError> {
    let record = database.fetch_local(key.to_owned()).await?;
    Ok(record.map_or(0, |record| record.header.rsn.get()))
}

/// Connections to all nodes, to see that what was acknowledged is there.
struct Readers {
    ledger: Arc<Ledger>,
    name: &'static str,
    kind: DbFlags,
    /// Of each node, while there is one.
    databases: Vec<Option<Database>>,
}

impl Readers {
    fn new(ledger: Arc<Ledger>, transactions: &Transactions) -> Self {
        Self {
            databases: (0..ledger.nodes()).map(|_| None).collect(),
            ledger,
            name: transactions.name,
            kind: transactions.kind,
        }
    }

    /// Looks at all nodes that have no outage meanwhile.
    async fn check(&mut self, values: &BTreeMap<String, Value>) {
        for node in 0..self.databases.len() {
            let since = Instant::now();
            if self.ledger.outages.has_had_one(node, since) {
                // Nobody may have the files of a daemon open when it starts again.
                if let Some(place) = self.databases.get_mut(node) {
                    *place = None;
                }
                continue;
            }
            let Some(missing) = self.missing(node, values).await else {
                continue;
            };
            if !missing.is_empty() && !self.ledger.outages.has_had_one(node, since) {
                self.ledger.note(format!(
                    "{}: acknowledged, but not on node {node}: {missing:?}",
                    self.name
                ));
            }
        }
    }

    /// Which of these values, or newer ones, the node does not have. `None`: it cannot be asked.
    async fn missing(
        &mut self,
        node: usize,
        values: &BTreeMap<String, Value>,
    ) -> Option<Vec<(String, Value)>> {
        let place = self.databases.get_mut(node)?;
        if place.is_none() {
            *place = self
                .ledger
                .try_database(node, self.name, self.kind)
                .await
                .ok();
        }
        let database = place.as_ref()?;
        let mut missing = Vec::new();
        for (key, value) in values {
            let Ok(found) = database.parse(key.clone(), Value::parse).await else {
                *place = None;
                return None;
            };
            let found = found.and_then(Result::ok).flatten();
            if found.is_none_or(|found| found.count < value.count) {
                missing.push((key.clone(), *value));
            }
        }
        Some(missing)
    }
}
