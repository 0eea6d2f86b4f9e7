//! The recovery of one database (`cluster.md 6.3` and 6.4).
//!
//! ```text
//!  Name -> Attach -> Freeze -> StartTransaction -> Seqnum -> Pull -> Wipe -> Push -> Send
//!                                                                                    |
//!                                               Done <- Thaw <- Commit <- Confirm <--+
//! ```
//!
//! `Attach` is for nodes that lack the database, `Seqnum` for databases that are not volatile. Each
//! step is one control to each node of the recovery, sent at the same time; a step that fails at
//! any node starts the whole over, up to [`MAX_ATTEMPTS`] times. Databases that were frozen stay
//! so, and an open transaction is replaced by the next one.
//!
//! No copy of the database is kept here. Records that come in go on to the merge, which the shell
//! carries out; what it has merged comes back batch by batch in `Send`, and the next one is asked
//! for when every node has room for it. `Pull` and `Send` may take as long as they like, as long as
//! something moves.

mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ctdb_proto::{
    ControlFlags, DbFlags, DbId, Generation, Opcode, Pnn, Request, SeqnumDb, Srvid, TransDb,
};
use tracing::{error, info};

use crate::recoverd::outbox::{Asker, Batch, ControlFailure, ControlResult, Outbox, Token};
use crate::recovery::{Failure, LOG};
use streams::Pull;

/// How often one recovery tries to recover a database.
pub(crate) const MAX_ATTEMPTS: u32 = 3;

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
    /// Copies are being merged.
    merging: bool,
    /// The reading of what was merged.
    merge: Option<Token>,
    /// Who has no room for more yet: the merge for what was pulled, the nodes for what is pushed.
    rooms: Batch,
    /// Batches that were sent since all nodes had room.
    batches: u32,
    /// Records that were sent.
    sent: u32,
    /// When what is under way has failed unless something moves before.
    patience: Option<Instant>,
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
    Send,
    Confirm,
    Commit,
    Thaw,
    Done,
    Failed,
}

impl DbRecovery {
    pub(crate) fn new(db_id: DbId, flags: DbFlags, holders: BTreeSet<Pnn>) -> Self {
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
            merging: false,
            merge: None,
            rooms: Batch::default(),
            batches: 0,
            sent: 0,
            patience: None,
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
        self.enter(Step::Name, ctx);
    }

    /// Takes a reply; `false` if it is not for this database.
    pub(crate) fn on_reply(
        &mut self,
        token: Token,
        result: &ControlResult,
        ctx: &mut DbCtx<'_>,
    ) -> bool {
        if self.rooms.awaits(token) {
            self.rooms.on_reply(token, result.clone(), ctx.now);
            self.send_more(ctx);
        } else if self.batch.awaits(token) {
            self.batch.on_reply(token, result.clone(), ctx.now);
        } else {
            return false;
        }
        self.be_patient(ctx);
        self.go_on(ctx);
        true
    }

    /// Something has moved: waits anew for those that are slow.
    fn be_patient(&mut self, ctx: &DbCtx<'_>) {
        let streams = matches!(self.step, Step::Pull | Step::Send);
        self.patience = streams.then(|| ctx.now + ctx.shared.timeout);
    }

    /// Goes on if the step is over: everybody has answered, or some node failed and the others
    /// have had time to answer.
    pub(crate) fn go_on(&mut self, ctx: &mut DbCtx<'_>) {
        if self.patience.is_some_and(|until| ctx.now >= until) {
            self.patience = None;
            self.rooms.give_up(ctx.now);
            if self.rooms.failures.is_empty() {
                self.batch.give_up(ctx.now);
            }
        }
        if !self.rooms.failures.is_empty() {
            let mut rooms = std::mem::take(&mut self.rooms);
            if let Err(failures) = self.require_success(self.opcode(), &mut rooms) {
                return self.fail(failures, ctx);
            }
        }
        while !self.is_over() && self.batch.is_settled(ctx.now) && self.rooms.is_complete() {
            match self.finish_step(ctx) {
                Ok(next) => self.enter(next, ctx),
                Err(failures) => {
                    self.fail(failures, ctx);
                    return;
                }
            }
        }
    }

    /// When to look again although no reply came.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.batch
            .poll_timeout()
            .into_iter()
            .chain(self.patience)
            .min()
    }

    fn fail(&mut self, failures: Vec<Failure>, ctx: &mut DbCtx<'_>) {
        self.abandon(ctx.out);
        self.batch = Batch::default();
        self.patience = None;
        let hopeless = failures
            .iter()
            .any(|f| f.cause == ControlFailure::Disconnected || f.cause.is_another_recovery());
        for failure in &failures {
            error!(target: LOG, "{failure}");
        }
        self.failures.extend(failures);
        // Without one of its nodes the recovery cannot succeed: the next one does without it. Nor
        // beside another recovery.
        if self.attempt >= MAX_ATTEMPTS || hopeless {
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
            Step::Send => self.send_records(ctx),
            Step::Confirm => ctx.ask_all(&Request::DbPushConfirm(self.db_id)),
            Step::Commit => ctx.ask_all(&Request::DbTransactionCommit(self.transaction(ctx))),
            Step::Thaw => ctx.ask_all(&Request::DbThaw(self.db_id)),
            Step::Done | Step::Failed => Batch::default(),
        };
        self.be_patient(ctx);
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
            Step::Send => {
                self.end_merge(ctx.out);
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
            Step::Push => Step::Send,
            Step::Send => Step::Confirm,
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
            Step::Push | Step::Send => Opcode::DB_PUSH_START,
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
}

/// The name in a C string.
fn text(cstr: &[u8]) -> String {
    let end = cstr
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(cstr.len());
    String::from_utf8_lossy(cstr.get(..end).unwrap_or_default()).into_owned()
}
