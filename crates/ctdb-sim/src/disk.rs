//! The databases of one simulated node, in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use ctdb_core::collate::Collate;
use ctdb_core::migrate::server_store;
use ctdb_core::persistent::merge_update;
use ctdb_core::{DbAnswer, DbFailure, DbOp, Record, Write};
use ctdb_proto::{DB_SEQNUM_KEY, DbFlags, DbId, Pnn, RecBuffer, RecordFlags, ReqId, VnnMap, Wire};

type Records = BTreeMap<Bytes, Record>;
type Answers = Vec<Result<DbAnswer, DbFailure>>;

/// All databases of one node.
#[derive(Debug)]
pub struct Disk {
    me: Pnn,
    databases: BTreeMap<DbId, Database>,
    /// Nothing more can be committed to persistent databases.
    full: bool,
    /// What a recovery led by this node merges.
    merges: BTreeMap<DbId, Merge>,
}

/// Copies of a database, their leader's flags for it, and the size of a batch.
#[derive(Debug)]
struct Merge {
    copies: Collate,
    flags: DbFlags,
    batch_limit: usize,
}

#[derive(Debug, Default)]
struct Database {
    name: String,
    flags: DbFlags,
    attached: bool,
    records: Records,
    frozen: bool,
    /// The records as the open recovery transaction sees them.
    transaction: Option<Records>,
    pushed: u32,
    file_seqnum: u64,
    health: Option<String>,
}

impl Disk {
    /// An empty one.
    pub fn new(me: Pnn) -> Self {
        Self {
            me,
            databases: BTreeMap::new(),
            full: false,
            merges: BTreeMap::new(),
        }
    }

    /// The daemon of the node is gone: what is not persistent is lost with it.
    pub fn crash(&mut self) {
        self.databases
            .retain(|_, db| db.flags.contains(DbFlags::PERSISTENT));
        for db in self.databases.values_mut() {
            (db.attached, db.frozen, db.transaction) = (false, false, None);
        }
        self.merges.clear();
    }

    pub(crate) fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Names of the databases that a starting daemon finds.
    pub fn persistent(&self) -> Vec<String> {
        self.databases.values().map(|db| db.name.clone()).collect()
    }

    /// Whether the records of a database cannot be reached.
    pub fn is_frozen(&self, db: DbId) -> bool {
        self.databases.get(&db).is_some_and(|db| db.frozen)
    }

    /// The record as it is in the file.
    pub fn record(&self, db: DbId, key: &[u8]) -> Option<&Record> {
        self.databases.get(&db)?.records.get(key)
    }

    /// All records of a database.
    pub fn records(&self, db: DbId) -> BTreeMap<Bytes, Record> {
        self.databases
            .get(&db)
            .map(|db| db.records.clone())
            .unwrap_or_default()
    }

    /// What a local client does that finds itself on the dmaster: new data, same header.
    pub fn client_write(&mut self, db: DbId, key: &[u8], data: Bytes) -> bool {
        let me = self.me.get();
        let record = self
            .databases
            .get_mut(&db)
            .and_then(|db| db.records.get_mut(key));
        match record {
            Some(record) if record.header.dmaster == me => {
                record.data = data;
                true
            }
            _ => false,
        }
    }

    /// Carries out what a verdict wants written.
    pub fn write(&mut self, db: DbId, key: &Bytes, write: Write) {
        let Some(database) = self.databases.get_mut(&db) else {
            return;
        };
        match write {
            Write::Nothing => {}
            Write::Store { header, data } => {
                database
                    .records
                    .insert(key.clone(), Record { header, data });
            }
            Write::Delete => {
                database.records.remove(key);
            }
        }
    }

    /// Carries out work on a whole database; its answers in their order.
    pub fn work(&mut self, id: DbId, op: DbOp) -> Answers {
        if let DbOp::Attach { name, flags, .. } = op {
            return vec![Ok(self.attach(id, name, flags))];
        }
        if let Some(answers) = self.merge(id, &op) {
            return answers.unwrap_or_else(|failure| vec![Err(failure)]);
        }
        let me = self.me;
        let full = self.full;
        let Some(db) = self.databases.get_mut(&id) else {
            return vec![Err(DbFailure(format!("database {id} is not attached")))];
        };
        let commits = matches!(op, DbOp::TransactionCommit | DbOp::Update { .. });
        if full && commits && db.flags.contains(DbFlags::PERSISTENT) {
            return vec![Err(DbFailure("no space left on device".into()))];
        }
        match op {
            DbOp::Pull { batch_limit } => db.pull(id, batch_limit),
            DbOp::ContinueTraverse { .. } | DbOp::StopTraverse { .. } => vec![Ok(DbAnswer::Done)],
            DbOp::ListEmpty { dmaster } => db.list(id, |r| {
                r.header.dmaster == dmaster.get() && r.data.is_empty()
            }),
            DbOp::Traverse {
                only_dmaster,
                with_empty,
            } => db.list(id, |r| {
                only_dmaster.is_none_or(|pnn| r.header.dmaster == pnn.get())
                    && (with_empty || !r.data.is_empty())
            }),
            other => vec![db.simple(me, other)],
        }
    }

    /// Work on a merge; `None` if that is not what it is.
    fn merge(&mut self, id: DbId, op: &DbOp) -> Option<Result<Answers, DbFailure>> {
        let no_merge = || DbFailure(format!("{id} is not being merged"));
        Some(Ok(match op {
            DbOp::MergeBegin {
                leader,
                flags,
                batch_limit,
            } => {
                let merge = Merge {
                    copies: Collate::new(*leader),
                    flags: *flags,
                    batch_limit: *batch_limit,
                };
                self.merges.insert(id, merge);
                vec![Ok(DbAnswer::Done)]
            }
            DbOp::MergeAdd { from, records } => {
                let Some(merge) = self.merges.get_mut(&id) else {
                    return Some(Err(no_merge()));
                };
                let buffer = RecBuffer::decode(&mut records.clone());
                let added = buffer.and_then(|buffer| merge.copies.add(*from, &buffer));
                vec![
                    added
                        .map(|()| DbAnswer::Done)
                        .map_err(|error| DbFailure(error.to_string())),
                ]
            }
            DbOp::MergeRead => {
                let Some(merge) = self.merges.remove(&id) else {
                    return Some(Err(no_merge()));
                };
                let batches = merge
                    .copies
                    .into_batches(id, merge.flags, merge.batch_limit);
                let messages = batches.messages.into_iter().map(DbAnswer::Batch);
                let count = DbAnswer::Count(batches.records);
                messages.chain([count]).map(Ok).collect()
            }
            DbOp::MergeEnd => {
                self.merges.remove(&id);
                vec![Ok(DbAnswer::Done)]
            }
            _ => return None,
        }))
    }

    fn attach(&mut self, id: DbId, name: String, flags: DbFlags) -> DbAnswer {
        let path = format!("/simulated/{name}.{}", self.me);
        let db = self.databases.entry(id).or_default();
        (db.name, db.flags, db.attached) = (name.clone(), flags, true);
        let open_flags = if flags.contains(DbFlags::PERSISTENT) {
            0x400
        } else {
            0x1c41
        };
        DbAnswer::Attached {
            name,
            path,
            open_flags,
            health: db.health.clone(),
        }
    }
}

impl Database {
    fn simple(&mut self, me: Pnn, op: DbOp) -> Result<DbAnswer, DbFailure> {
        match op {
            DbOp::Freeze => self.frozen = true,
            DbOp::Thaw => (self.frozen, self.transaction) = (false, None),
            DbOp::TransactionStart => {
                (self.transaction, self.pushed) = (Some(self.records.clone()), 0);
            }
            DbOp::TransactionCancel => self.transaction = None,
            DbOp::TransactionCommit => match self.transaction.take() {
                Some(records) => self.records = records,
                None => return Err(DbFailure("no transaction is open".into())),
            },
            DbOp::Wipe => self.visible().clear(),
            DbOp::Push { records, vnn_map } => self.push(me, &records, vnn_map.as_ref())?,
            DbOp::PushConfirm => return Ok(DbAnswer::Count(std::mem::take(&mut self.pushed))),
            DbOp::Update { records } => self.update(&records)?,
            DbOp::Seqnum => return Ok(DbAnswer::Number(self.seqnum())),
            DbOp::EnableFileSeqnum | DbOp::FileSeqnum => {
                return Ok(DbAnswer::Number(self.file_seqnum));
            }
            DbOp::BumpFileSeqnum => {
                self.file_seqnum += 1;
                return Ok(DbAnswer::Number(self.file_seqnum));
            }
            DbOp::Health => return Ok(DbAnswer::Health(self.health.clone())),
            DbOp::SetHealth { reason } => self.health = reason,
            DbOp::Detach => *self = Self::default(),
            other => return Err(DbFailure(format!("{other:?} is not simulated"))),
        }
        Ok(DbAnswer::Done)
    }

    /// The records as the one who holds the freeze sees them.
    fn visible(&mut self) -> &mut Records {
        self.transaction.as_mut().unwrap_or(&mut self.records)
    }

    fn push(&mut self, me: Pnn, records: &Bytes, map: Option<&VnnMap>) -> Result<(), DbFailure> {
        for (key, mut record) in records_of(records)? {
            record.header.flags.remove(RecordFlags::RO_FLAGS);
            if let Some(map) = map {
                let lmaster = map.lmaster(&key).unwrap_or(me);
                record.header = server_store(me, lmaster, record.header, &record.data).header;
            }
            self.visible().insert(key, record);
            self.pushed += 1;
        }
        Ok(())
    }

    fn update(&mut self, records: &Bytes) -> Result<(), DbFailure> {
        let mut after = self.records.clone();
        for (key, record) in records_of(records)? {
            let merged = merge_update(after.get(&key), &record, false)
                .map_err(|refused| DbFailure(refused.to_string()))?;
            if let Some(merged) = merged {
                after.insert(key, merged);
            }
        }
        self.records = after;
        Ok(())
    }

    fn seqnum(&mut self) -> u64 {
        let record = self
            .visible()
            .get(DB_SEQNUM_KEY)
            .map(|record| record.data.clone());
        let bytes: Option<[u8; 8]> = record.and_then(|data| data[..].try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    }

    fn pull(&mut self, id: DbId, batch_limit: usize) -> Answers {
        let mut answers = Vec::new();
        let mut count = 0;
        let mut buffer = RecBuffer::builder(id);
        for (key, record) in &*self.visible() {
            buffer.push_record(ReqId(0), key, &record.header, &record.data);
            count += 1;
            if buffer.wire_len() >= batch_limit {
                let full = std::mem::replace(&mut buffer, RecBuffer::builder(id));
                answers.push(Ok(DbAnswer::Batch(full.finish().to_bytes())));
            }
        }
        let rest = buffer.finish();
        if !rest.is_empty() {
            answers.push(Ok(DbAnswer::Batch(rest.to_bytes())));
        }
        answers.push(Ok(DbAnswer::Count(count)));
        answers
    }

    fn list(&self, id: DbId, wanted: impl Fn(&Record) -> bool) -> Answers {
        let mut buffer = RecBuffer::builder(id);
        for (key, record) in &self.records {
            if wanted(record) {
                buffer.push_record(ReqId(0), key, &record.header, &record.data);
            }
        }
        vec![
            Ok(DbAnswer::Batch(buffer.finish().to_bytes())),
            Ok(DbAnswer::Done),
        ]
    }
}

fn records_of(buffer: &Bytes) -> Result<Vec<(Bytes, Record)>, DbFailure> {
    let bad = |error: ctdb_proto::DecodeError| DbFailure(error.to_string());
    let buffer = RecBuffer::decode(&mut buffer.clone()).map_err(bad)?;
    let record = |r: ctdb_proto::RecordRef<'_>| {
        let (header, data) = r.split().map_err(bad)?;
        let record = Record {
            header,
            data: Bytes::copy_from_slice(data),
        };
        Ok((Bytes::copy_from_slice(r.key), record))
    };
    buffer.iter().map(record).collect()
}
