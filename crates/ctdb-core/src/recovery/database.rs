//! The recovery of one database (`cluster.md 6.3` and 6.4).
//!
//! ```text
//!  Name -> Attach -> Freeze -> StartTransaction -> Seqnum -> Pull -> Wipe -> Push -> Confirm
//!                                                                                      |
//!                                                             Done <- Thaw <- Commit <-+
//! ```
//!
//! `Attach` is for nodes that lack the database, `Seqnum` for databases that are not volatile. Each
//! step is one control to each node of the recovery, sent at the same time; a step that fails at
//! any node starts the whole over, up to [`MAX_ATTEMPTS`] times. Databases that were frozen stay
//! so, and an open transaction is replaced by the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_proto::{
    ControlFlags, DbFlags, DbId, Generation, Opcode, Pnn, PullDbExt, RecBuffer, Request, SeqnumDb,
    Srvid, TransDb, Wire,
};
use tracing::{debug, error, info};

use crate::recoverd::outbox::{
    Asker, Batch, ControlFailure, ControlResult, Outbox, RecoverdEffect, Token,
};
use crate::recovery::collate::{Batches, Collate};
use crate::recovery::{Failure, LOG};

/// How often one recovery tries to recover a database.
pub(crate) const MAX_ATTEMPTS: u32 = 3;

/// `PullDbExt::lmaster`: all records, whoever is their lmaster.
const ANY_LMASTER: u32 = 0xFFFF_FFFF;

/// What all databases of a recovery share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) me: Pnn,
    pub(crate) generation: Generation,
    /// Nodes of the recovery, in pnn order.
    pub(crate) nodes: Vec<Pnn>,
    pub(crate) timeout: Duration,
    /// Size at which a batch of records is sent.
    pub(crate) batch_limit: usize,
    /// Streams of records so far in this recovery: each has a service id of its own.
    pub(crate) streams: u64,
}

impl Shared {
    /// A service id that no stream of this recovery has used.
    fn new_stream(&mut self) -> Srvid {
        self.streams += 1;
        Srvid(Srvid::RECOVERY.get() + self.streams)
    }
}

/// What a step needs from outside.
pub(crate) struct DbCtx<'a> {
    pub(crate) shared: &'a mut Shared,
    pub(crate) out: &'a mut Outbox,
    pub(crate) now: Instant,
}

impl DbCtx<'_> {
    /// The same control to these nodes.
    fn ask(&mut self, nodes: &[Pnn], request: &Request) -> Batch {
        let nodes = nodes.iter().copied();
        Batch::send(
            self.out,
            Asker::Recovery,
            nodes,
            request,
            self.shared.timeout,
        )
    }

    /// The same control to all nodes of the recovery.
    fn ask_all(&mut self, request: &Request) -> Batch {
        let nodes = self.shared.nodes.clone();
        self.ask(&nodes, request)
    }
}

/// The recovery of one database.
#[derive(Debug)]
pub(crate) struct DbRecovery {
    db_id: DbId,
    /// Without the bits that nodes may differ in.
    flags: DbFlags,
    /// Nodes that have it attached.
    holders: BTreeSet<Pnn>,
    name: String,
    attempt: u32,
    step: Step,
    batch: Batch,
    /// The node whose copy wins as a whole; `None`: all copies are merged.
    source: Option<Pnn>,
    /// Streams of records that come in.
    pulls: BTreeMap<Srvid, Pull>,
    collate: Collate,
    batches: Batches,
    /// The stream of records that goes out.
    push_srvid: Srvid,
    /// Where it failed, over all attempts.
    pub(crate) failures: Vec<Failure>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Name,
    Attach,
    Freeze,
    StartTransaction,
    Seqnum,
    Pull,
    Wipe,
    Push,
    Confirm,
    Commit,
    Thaw,
    Done,
    Failed,
}

/// A stream of records from one node.
#[derive(Clone, Copy, Debug)]
struct Pull {
    from: Pnn,
    received: u32,
}

impl DbRecovery {
    pub(crate) fn new(db_id: DbId, flags: DbFlags, holders: BTreeSet<Pnn>, me: Pnn) -> Self {
        Self {
            db_id,
            flags,
            holders,
            name: String::new(),
            attempt: 0,
            step: Step::Name,
            batch: Batch::default(),
            source: None,
            pulls: BTreeMap::new(),
            collate: Collate::new(me),
            batches: Batches::default(),
            push_srvid: Srvid::RECOVERY,
            failures: Vec::new(),
        }
    }

    pub(crate) fn is_recovered(&self) -> bool {
        self.step == Step::Done
    }

    /// Recovered, or given up.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.step, Step::Done | Step::Failed)
    }

    /// Begins an attempt.
    pub(crate) fn start(&mut self, ctx: &mut DbCtx<'_>) {
        self.attempt += 1;
        match self.attempt {
            1 => info!(target: LOG, "recover database {}", self.db_id),
            attempt => info!(target: LOG, "recover database {}, attempt {attempt}", self.db_id),
        }
        self.collate = Collate::new(ctx.shared.me);
        self.batches = Batches::default();
        self.enter(Step::Name, ctx);
    }

    /// Takes a reply; `false` if it is not for this database.
    pub(crate) fn on_reply(
        &mut self,
        token: Token,
        result: &ControlResult,
        ctx: &mut DbCtx<'_>,
    ) -> bool {
        if !self.batch.awaits(token) {
            return false;
        }
        self.batch.on_reply(token, result.clone(), ctx.now);
        self.go_on(ctx);
        true
    }

    /// Goes on if the step is over: everybody has answered, or some node failed and the others
    /// have had time to answer.
    pub(crate) fn go_on(&mut self, ctx: &mut DbCtx<'_>) {
        while !self.is_over() && self.batch.is_settled(ctx.now) {
            match self.finish_step(ctx) {
                Ok(next) => self.enter(next, ctx),
                Err(failures) => {
                    self.fail(failures, ctx);
                    return;
                }
            }
        }
    }

    /// Takes records; `false` if the stream is not of this database.
    pub(crate) fn on_records(&mut self, srvid: Srvid, from: Option<Pnn>, mut data: Bytes) -> bool {
        let Some(pull) = self.pulls.get_mut(&srvid) else {
            return false;
        };
        if from.is_some_and(|from| from != pull.from) {
            debug!(target: LOG, %srvid, ?from, "records from another node than the one asked");
            return true;
        }
        let from = pull.from;
        let taken = RecBuffer::decode(&mut data).and_then(|batch| {
            // A batch of another database is not counted, so that the pull fails in the end.
            if batch.db_id() != self.db_id {
                return Ok(0);
            }
            self.collate.add(from, &batch)?;
            Ok(batch.count())
        });
        match taken {
            Ok(count) => pull.received = pull.received.saturating_add(count),
            Err(error) => {
                error!(target: LOG, pnn = %from, %error, "Invalid records for db {}", self.db_id);
            }
        }
        true
    }

    /// Stops listening to the streams.
    pub(crate) fn close_streams(&mut self, out: &mut Outbox) {
        for (srvid, _) in std::mem::take(&mut self.pulls) {
            out.push(RecoverdEffect::Unlisten(srvid));
        }
    }

    /// When to look again although no reply came.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.batch.poll_timeout()
    }

    fn fail(&mut self, failures: Vec<Failure>, ctx: &mut DbCtx<'_>) {
        self.close_streams(ctx.out);
        self.batch = Batch::default();
        let disconnected = failures
            .iter()
            .any(|f| f.cause == ControlFailure::Disconnected);
        for failure in &failures {
            error!(target: LOG, "{failure}");
        }
        self.failures.extend(failures);
        // Without one of its nodes the recovery cannot succeed: the next one does without it.
        if self.attempt >= MAX_ATTEMPTS || disconnected {
            self.step = Step::Failed;
        } else {
            self.start(ctx);
        }
    }

    /// Sends what a step consists of.
    fn enter(&mut self, step: Step, ctx: &mut DbCtx<'_>) {
        self.step = step;
        self.batch = match step {
            Step::Name => {
                let holders: Vec<_> = self.holders.iter().copied().collect();
                ctx.ask(&holders, &Request::GetDbName(self.db_id))
            }
            Step::Attach => self.attach(ctx),
            Step::Freeze => ctx.ask_all(&Request::DbFreeze(self.db_id)),
            Step::StartTransaction => {
                ctx.ask_all(&Request::DbTransactionStart(self.transaction(ctx)))
            }
            Step::Seqnum if self.flags.is_volatile() => Batch::default(),
            Step::Seqnum => ctx.ask_all(&Request::GetDbSeqnum(SeqnumDb { db_id: self.db_id })),
            Step::Pull => self.pull(ctx),
            Step::Wipe => ctx.ask_all(&Request::WipeDatabase(self.transaction(ctx))),
            Step::Push => {
                let srvid = ctx.shared.new_stream();
                self.start_push(srvid, ctx)
            }
            Step::Confirm => ctx.ask_all(&Request::DbPushConfirm(self.db_id)),
            Step::Commit => ctx.ask_all(&Request::DbTransactionCommit(self.transaction(ctx))),
            Step::Thaw => ctx.ask_all(&Request::DbThaw(self.db_id)),
            Step::Done | Step::Failed => Batch::default(),
        };
    }

    /// Judges the replies of a step, and names the next one.
    fn finish_step(&mut self, ctx: &mut DbCtx<'_>) -> Result<Step, Vec<Failure>> {
        let opcode = self.opcode();
        let mut batch = std::mem::take(&mut self.batch);
        self.require_success(opcode, &mut batch)?;
        let checked = match self.step {
            Step::Name => self.learn_name(&mut batch),
            Step::Seqnum => self.choose_source(&mut batch),
            Step::Pull => self.finish_pull(&mut batch, ctx),
            Step::Push => {
                self.send_records(ctx);
                Vec::new()
            }
            Step::Confirm => self.check_counts(&mut batch),
            _ => Vec::new(),
        };
        batch.failures.extend(checked);
        self.require_success(opcode, &mut batch)?;
        Ok(self.next_step())
    }

    fn next_step(&self) -> Step {
        match self.step {
            Step::Name => Step::Attach,
            Step::Attach => Step::Freeze,
            Step::Freeze => Step::StartTransaction,
            Step::StartTransaction => Step::Seqnum,
            Step::Seqnum => Step::Pull,
            Step::Pull => Step::Wipe,
            Step::Wipe => Step::Push,
            Step::Push => Step::Confirm,
            Step::Confirm => Step::Commit,
            Step::Commit => Step::Thaw,
            Step::Thaw | Step::Done => Step::Done,
            Step::Failed => Step::Failed,
        }
    }

    /// The control of the current step, for messages.
    fn opcode(&self) -> Opcode {
        match self.step {
            Step::Name => Opcode::GET_DBNAME,
            Step::Attach => self.attach_request().opcode(),
            Step::Freeze => Opcode::DB_FREEZE,
            Step::StartTransaction => Opcode::DB_TRANSACTION_START,
            Step::Seqnum => Opcode::GET_DB_SEQNUM,
            Step::Pull => Opcode::DB_PULL,
            Step::Wipe => Opcode::WIPE_DATABASE,
            Step::Push => Opcode::DB_PUSH_START,
            Step::Confirm => Opcode::DB_PUSH_CONFIRM,
            Step::Commit => Opcode::DB_TRANSACTION_COMMIT,
            Step::Thaw | Step::Done | Step::Failed => Opcode::DB_THAW,
        }
    }

    /// All failures of a step, if there are any.
    fn require_success(&self, opcode: Opcode, batch: &mut Batch) -> Result<(), Vec<Failure>> {
        if batch.failures.is_empty() {
            return Ok(());
        }
        let db = Some(self.db_id);
        let failures = std::mem::take(&mut batch.failures);
        Err(failures
            .into_iter()
            .map(|(pnn, cause)| Failure {
                pnn,
                opcode,
                db,
                cause,
            })
            .collect())
    }

    fn transaction(&self, ctx: &DbCtx<'_>) -> TransDb {
        TransDb {
            db_id: self.db_id,
            tid: ctx.shared.generation,
        }
    }

    /// All nodes must give the database the same name.
    fn learn_name(&mut self, batch: &mut Batch) -> Vec<(Pnn, ControlFailure)> {
        batch.replies.sort_by_key(|(pnn, _)| *pnn);
        let mut names = batch
            .replies
            .iter()
            .map(|(pnn, reply)| (*pnn, text(&reply.data)));
        let Some((_, name)) = names.next() else {
            return Vec::new();
        };
        let mut failures = Vec::new();
        for (pnn, other) in names.filter(|(_, other)| *other != name) {
            let db_id = self.db_id;
            let problem =
                format!("Incompatible database name for {db_id} ({name} != {other}) on node {pnn}");
            failures.push((pnn, ControlFailure::Unacceptable(problem)));
        }
        self.name = name;
        failures
    }

    fn attach_request(&self) -> Request {
        let name = self.name.clone();
        if self.flags.contains(DbFlags::PERSISTENT) {
            Request::DbAttachPersistent(name)
        } else if self.flags.contains(DbFlags::REPLICATED) {
            Request::DbAttachReplicated(name)
        } else {
            Request::DbAttach(name)
        }
    }

    fn attach(&self, ctx: &mut DbCtx<'_>) -> Batch {
        let has = |pnn: &Pnn| self.holders.contains(pnn);
        let lacking: Vec<_> = ctx
            .shared
            .nodes
            .iter()
            .copied()
            .filter(|pnn| !has(pnn))
            .collect();
        let request = self
            .attach_request()
            .to_control(ControlFlags::ATTACH_RECOVERY);
        let mut batch = Batch::default();
        for pnn in lacking {
            let timeout = ctx.shared.timeout;
            batch.add(
                pnn,
                ctx.out
                    .control(Asker::Recovery, pnn, request.clone(), timeout),
            );
        }
        batch
    }

    /// Volatile: all nodes are pulled. Otherwise only the first one with the highest sequence
    /// number: its copy wins as a whole.
    fn choose_source(&mut self, batch: &mut Batch) -> Vec<(Pnn, ControlFailure)> {
        if self.flags.is_volatile() {
            return Vec::new();
        }
        let seqnums: BTreeMap<Pnn, u64> = batch.decode();
        let newest = seqnums.iter().rev().max_by_key(|(_, seqnum)| **seqnum);
        if let Some((pnn, seqnum)) = newest.filter(|_| batch.failures.is_empty()) {
            info!(
                target: LOG,
                "Pull persistent db {} from node {pnn} with seqnum {seqnum:#x}",
                self.name
            );
            self.source = Some(*pnn);
        }
        Vec::new()
    }

    /// Asks for all records, each node on a stream of its own.
    fn pull(&mut self, ctx: &mut DbCtx<'_>) -> Batch {
        let nodes = self
            .source
            .map_or_else(|| ctx.shared.nodes.clone(), |pnn| vec![pnn]);
        let mut batch = Batch::default();
        for from in nodes {
            let srvid = ctx.shared.new_stream();
            self.pulls.insert(srvid, Pull { from, received: 0 });
            ctx.out.push(RecoverdEffect::ListenTo(srvid));
            let payload = PullDbExt {
                db_id: self.db_id,
                lmaster: ANY_LMASTER,
                srvid,
            };
            let request = Request::DbPull(payload);
            batch.add(
                from,
                ctx.out
                    .ask(Asker::Recovery, from, &request, ctx.shared.timeout),
            );
        }
        batch
    }

    /// Each node must have sent as many records as it says.
    fn finish_pull(
        &mut self,
        batch: &mut Batch,
        ctx: &mut DbCtx<'_>,
    ) -> Vec<(Pnn, ControlFailure)> {
        let counts: BTreeMap<Pnn, u32> = batch.decode();
        let mut failures = Vec::new();
        for pull in self.pulls.values() {
            let Some(count) = counts.get(&pull.from).copied() else {
                continue;
            };
            let received = pull.received;
            if count == received {
                let (db, from) = (&self.name, pull.from);
                debug!(target: LOG, "Pulled {count} records for db {db} from node {from}");
            } else {
                let problem = format!(
                    "mismatch ({count} != {received}) in DB_PULL records for db {}",
                    self.name
                );
                failures.push((pull.from, ControlFailure::Unacceptable(problem)));
            }
        }
        self.close_streams(ctx.out);
        let collate = std::mem::replace(&mut self.collate, Collate::new(ctx.shared.me));
        self.batches = collate.into_batches(self.db_id, self.flags, ctx.shared.batch_limit);
        failures
    }

    fn start_push(&mut self, srvid: Srvid, ctx: &mut DbCtx<'_>) -> Batch {
        self.push_srvid = srvid;
        let payload = PullDbExt {
            db_id: self.db_id,
            lmaster: ANY_LMASTER,
            srvid,
        };
        ctx.ask_all(&Request::DbPushStart(payload))
    }

    /// Sends all batches to all nodes. The confirmation is asked for on the same connection, so
    /// it comes after them.
    fn send_records(&self, ctx: &mut DbCtx<'_>) {
        for data in &self.batches.messages {
            for pnn in &ctx.shared.nodes {
                ctx.out.send(*pnn, self.push_srvid, data.clone());
            }
        }
    }

    /// Each node must have stored all records.
    fn check_counts(&self, batch: &mut Batch) -> Vec<(Pnn, ControlFailure)> {
        let counts: BTreeMap<Pnn, u32> = batch.decode();
        let sent = self.batches.records;
        let name = &self.name;
        debug!(target: LOG, "Pushed {sent} records for db {name}");
        counts
            .into_iter()
            .filter(|(_, stored)| *stored != sent)
            .map(|(pnn, stored)| {
                let problem = format!("Node {pnn} received {stored} of {sent} records for {name}");
                (pnn, ControlFailure::Unacceptable(problem))
            })
            .collect()
    }
}

/// The name in a C string.
fn text(cstr: &[u8]) -> String {
    let end = cstr
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(cstr.len());
    String::from_utf8_lossy(cstr.get(..end).unwrap_or_default()).into_owned()
}
