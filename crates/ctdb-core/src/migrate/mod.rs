//! The record path: who owns a record, and how it comes to the node that needs it
//! (data-plane.md 2 to 5).
//!
//! Everything here runs in two steps. A packet is looked at and becomes a [`RecordJob`]; the
//! shell locks the hash chain, reads the record and calls [`crate::Node::on_record`], which
//! returns a [`Verdict`]: what to write, and what to do once it is written. Between the lock
//! and the write nothing else happens on the node.
//!
//! Deciding changes nothing ([`Migrator::on_record`] cannot even): all memory of the record path
//! follows from verdicts that were carried out ([`Migrator::conclude`]). So a write that fails
//! leaves no trace but a recovery.
//!
//! ```text
//!   client call   calls, dmaster packets           controls, time
//!        |               |                              |
//!        +-------> submit (held while frozen) <---------+
//!                        |  RecordJob: lock, read
//!                    on_record --> call.rs, dmaster.rs, readonly.rs, vacuum
//!                        |  Verdict: write, unlock
//!                    conclude ---> packets, answers, queues
//! ```

mod call;
mod conclude;
mod dmaster;
mod hot_keys;
mod job;
mod lifecycle;
mod pending;
mod pin;
mod readonly;
mod statistics;
mod store;
mod update;
mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use ctdb_proto::{
    Body, CallId, ClientId, ControlFlags, DbId, Header, HotKey, Opcode, Packet, Pnn, ReplyCall,
    ReplyControl, ReplyError, ReqCall, ReqControl, ReqId, Srvid,
};
use tracing::{debug, error, warn};

use crate::cluster::Cluster;
use crate::database::{Database, Freeze};
use crate::effect::{Effect, Ticket};
use crate::input::Record;
use crate::mutation::{self, Mutation};
use crate::vacuum::{Queues, Vacuum};
use hot_keys::HotKeys;
use pending::{Fetches, Outcome, PendingCalls};
use pin::Pins;
use readonly::ReadOnly;

pub(crate) use job::{ClientCall, Notes, PeerCall, Then, Work};
pub use job::{RecordJob, Verdict, Write};
pub(crate) use pending::{Origin, PendingCall};
pub use store::{Stored, server_store};
pub(crate) use view::View;

const FETCH_FAILED: &str = "ltdb fetch failed in ctdb_request_call";

/// All memory of the record path.
#[derive(Debug, Default)]
pub(crate) struct Migrator {
    databases: BTreeMap<DbId, DbState>,
    pending: PendingCalls,
    /// Jobs that begin later, in the order of their time.
    delayed: BTreeMap<(Instant, u64), RecordJob>,
    /// What an answer of a control is about.
    controls: HashMap<Ticket, Asked>,
    updates: update::Updates,
    pub(crate) vacuum: Vacuum,
    serial: u64,
}

/// What the record path remembers of one database.
#[derive(Debug, Default)]
pub(crate) struct DbState {
    fetches: Fetches,
    pins: Pins,
    readonly: ReadOnly,
    hot_keys: HotKeys,
    pub(crate) vacuum: Queues,
    /// Jobs that wait for the end of a freeze.
    held: VecDeque<RecordJob>,
}

/// A control of the record path that is on its way.
#[derive(Debug)]
pub(crate) enum Asked {
    /// `UPDATE_RECORD` to a node that has a read-only copy.
    Revoke { db: DbId, key: Bytes, number: u64 },
    /// `VACUUM_FETCH` or `TRY_DELETE_RECORDS` of a run.
    Vacuum { run: u64, to: Pnn },
}

impl Migrator {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A call of a local client (data-plane.md 3.3). It is always answered, even if with an error.
    pub(crate) fn client_call(
        &mut self,
        client: ClientId,
        reqid: ReqId,
        call: ReqCall,
        cluster: &mut Cluster,
    ) {
        cluster.call_began();
        let (db, key) = (call.db_id, call.key.clone());
        let mut call = ClientCall {
            client,
            reqid,
            call,
        };
        if let Some(text) = not_callable(db, cluster) {
            return refuse_client(&call, &text, cluster);
        }
        if let Some(state) = self.databases.get_mut(&db) {
            match state.fetches.join(&key, call) {
                Ok(()) => return,
                Err(back) => call = back,
            }
        }
        self.submit(db, key, Work::ClientCall(call), cluster);
    }

    /// `REQ_CALL`, `REPLY_CALL`, `REQ_DMASTER`, `REPLY_DMASTER` or `REPLY_ERROR` of a peer or of
    /// this node, with its generation checked (3.5). Other packets are none of its business.
    pub(crate) fn peer_packet(&mut self, packet: Packet, cluster: &mut Cluster, now: Instant) {
        let header = packet.header;
        match packet.body {
            Body::ReqCall(call) => self.peer_call(header, call, cluster, now),
            Body::ReplyCall(reply) => self.reply_call(header, reply, cluster, now),
            Body::ReplyError(error) => {
                self.complete(header.reqid, Outcome::Error(error), cluster, now);
            }
            Body::ReqDmaster(request) => {
                let (db, key) = (request.db_id, request.key.clone());
                self.arriving(db, key, Work::ReqDmaster { header, request }, cluster);
            }
            Body::ReplyDmaster(reply) => {
                let (db, key) = (reply.db_id, reply.key.clone());
                self.arriving(db, key, Work::ReplyDmaster { header, reply }, cluster);
            }
            other => error!(operation = ?other.operation(), "not a packet of the record path"),
        }
    }

    fn peer_call(&mut self, header: Header, call: ReqCall, cluster: &mut Cluster, now: Instant) {
        let Some(requester) = header.src().filter(|pnn| cluster.node(*pnn).is_some()) else {
            warn!(src = header.src, "call of a node that does not exist");
            return;
        };
        if let Some(text) = not_callable(call.db_id, cluster) {
            let error = Body::ReplyError(ReplyError::new(-1, &text));
            return cluster.send(requester, header.reqid, error);
        }
        let (db, key) = (call.db_id, call.key.clone());
        let call = PeerCall {
            requester,
            header,
            call,
        };
        if requester != cluster.me && self.state(db).pins.holds(&key, now) {
            return self.wait_for_pin(call, cluster);
        }
        self.submit(db, key, Work::PeerCall(call), cluster);
    }

    /// A record on its way. One of an unknown database is lost to nobody: the requester asks again
    /// after the next recovery.
    fn arriving(&mut self, db: DbId, key: Bytes, work: Work, cluster: &mut Cluster) {
        match not_callable(db, cluster) {
            Some(text) => error!("{text}"),
            None => self.submit(db, key, work, cluster),
        }
    }

    /// The answer to a call that this node served itself, or a read-only copy (3.11).
    fn reply_call(
        &mut self,
        header: Header,
        reply: ReplyCall,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let Some(pending) = self.pending.get(header.reqid) else {
            debug!("reqid {} not found", header.reqid);
            return;
        };
        let is_copy = pending.call.call_id == CallId::FETCH_WITH_HEADER
            && readonly::as_copy(&reply).is_some();
        if is_copy && header.src() != Some(cluster.me) {
            let (db, key) = (pending.db, pending.call.key.clone());
            self.submit(db, key, Work::ReadOnlyCopy { header, reply }, cluster);
        } else {
            self.complete(header.reqid, Outcome::Reply(reply), cluster, now);
        }
    }

    /// The record of a job was read under the lock of its chain: what is to be done.
    pub(crate) fn on_record(
        &self,
        job: RecordJob,
        record: Option<Record>,
        cluster: &Cluster,
        clients: &dyn Fn(ClientId) -> bool,
        now: Instant,
    ) -> Verdict {
        let RecordJob { db, key, work } = job;
        let known = cluster.databases.get(&db).zip(self.databases.get(&db));
        let Some((database, state)) = known else {
            let then = Then::Refuse {
                work,
                reason: "the database was detached",
            };
            return Verdict {
                write: Write::Nothing,
                db,
                key,
                notes: Notes::default(),
                then,
            };
        };
        let view = View {
            cluster,
            db: database,
            state,
            pending: &self.pending,
            key: &key,
            lmaster: cluster.vnn_map.lmaster(&key).unwrap_or(cluster.me),
            now,
        };
        if database.is_frozen() {
            return view.leave(Then::AfterThaw(work));
        }
        if is_behind(database, cluster) && work.generation().is_none() {
            return view.leave(Then::AfterThaw(work));
        }
        if work
            .generation()
            .is_some_and(|generation| generation != database.generation)
            && !mutation::is_on(Mutation::NoGenerationCheck)
        {
            debug!("Discarding previous generation lockwait packet");
            return view.leave(work.outdated());
        }
        match work {
            Work::ClientCall(call) => call::client_call(view, call, record, clients),
            Work::PeerCall(call) => call::peer_call(view, call, record),
            Work::ReqDmaster { header, request } => {
                dmaster::req_dmaster(view, header, request, record)
            }
            Work::ReplyDmaster { header, reply } => dmaster::reply_dmaster(view, header, reply),
            Work::ReadOnlyCopy { header, reply } => {
                readonly::store_copy(view, header, reply, record)
            }
            Work::FinishRevoke { number, all } => readonly::finish(view, number, all, record),
            Work::Update {
                batch, record: new, ..
            } => update::decide(view, batch, &new, record.as_ref()),
            Work::Vacuum(work) if !self.vacuum.is_current(work) => view.leave(Then::Drop),
            Work::Vacuum(work) => crate::vacuum::decide(view, work, record.as_ref()),
        }
    }

    /// The record of a job cannot be locked or read; or the job was not worth waiting for.
    pub(crate) fn on_record_failed(
        &mut self,
        job: RecordJob,
        reason: &str,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let RecordJob { db, key, work } = job;
        if !matches!(work, Work::Vacuum(_)) {
            error!(%db, ?key, reason, "record cannot be read");
        }
        self.refuse(db, &key, work, FETCH_FAILED, cluster, now);
    }

    /// The answer of a control that was asked for with this ticket; `None` if there is none.
    pub(crate) fn control_answered(
        &mut self,
        ticket: Ticket,
        reply: Option<ReplyControl>,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        match self.controls.remove(&ticket) {
            Some(Asked::Revoke { db, key, number }) => {
                let ok = reply.is_some_and(|reply| reply.status == 0);
                self.revoke_answered(db, &key, number, ok, cluster);
            }
            Some(Asked::Vacuum { run, to }) => self.vacuum_answered(run, to, reply, now),
            None => debug!(?ticket, "nobody waits for this answer"),
        }
    }

    /// Call at or after [`Self::poll_timeout`]; an early or repeated call does nothing.
    pub(crate) fn handle_timeout(&mut self, cluster: &mut Cluster, now: Instant) {
        let mut ready = Vec::new();
        for state in self.databases.values_mut() {
            ready.extend(state.pins.ended(now).into_iter().map(Work::PeerCall));
            ready.extend(
                state
                    .fetches
                    .timed_out(now)
                    .into_iter()
                    .map(Work::ClientCall),
            );
        }
        for work in ready {
            self.resubmit(work, cluster);
        }
        while let Some(next) = self
            .delayed
            .first_entry()
            .filter(|next| next.key().0 <= now)
        {
            let RecordJob { db, key, work } = next.remove();
            self.submit(db, key, work, cluster);
        }
        self.vacuum_timeout(cluster, now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let of_databases = self
            .databases
            .values()
            .flat_map(|s| [s.pins.poll_timeout(), s.fetches.poll_timeout()])
            .flatten();
        let delayed = self.delayed.first_key_value().map(|((at, _), _)| *at);
        of_databases
            .chain(delayed)
            .chain(self.vacuum_poll_timeout())
            .min()
    }

    /// Asks the shell for the record, unless the database is frozen or about to be: the job would
    /// only stand in line for the lock of the freeze.
    pub(crate) fn submit(&mut self, db: DbId, key: Bytes, work: Work, cluster: &mut Cluster) {
        let job = RecordJob { db, key, work };
        let open = cluster
            .databases
            .get(&db)
            .is_none_or(|d| d.freeze == Freeze::None && !is_behind(d, cluster));
        let state = self.databases.entry(db).or_default();
        if open {
            cluster.effect(Effect::Record(job));
        } else {
            state.held.push_back(job);
        }
    }

    pub(crate) fn state(&mut self, db: DbId) -> &mut DbState {
        self.databases.entry(db).or_default()
    }

    pub(crate) fn queues(&self) -> impl Iterator<Item = &Queues> {
        self.databases.values().map(|state| &state.vacuum)
    }

    /// Remembers what the answer of a control will be about.
    pub(crate) fn remember_control(&mut self, ticket: Ticket, asked: Asked) {
        self.controls.insert(ticket, asked);
    }

    /// Sends a call that vacuuming wants, without letting client calls wait for it.
    pub(crate) fn ask_for_vacuuming(&mut self, call: PendingCall, to: Pnn, cluster: &mut Cluster) {
        self.pending.ask(call, to, cluster);
    }

    /// The run is over: its records may come, but nobody waits for them.
    pub(crate) fn forget_vacuum_calls(&mut self, run: u64, cluster: &mut Cluster) {
        for reqid in self.pending.select(|p| p.origin == Origin::Vacuum { run }) {
            self.pending.remove(reqid, cluster);
        }
    }

    /// The records of a database that came here most often (`GET_DB_STATISTICS`).
    pub(crate) fn hot_keys(&self, db: DbId) -> Vec<HotKey> {
        let top = self
            .databases
            .get(&db)
            .map_or(&[][..], |state| state.hot_keys.top());
        top.iter()
            .map(|hot| HotKey {
                count: hot.count,
                key: hot.key.clone(),
            })
            .collect()
    }

    /// `STATISTICS_RESET`.
    pub(crate) fn reset_hot_keys(&mut self) {
        for state in self.databases.values_mut() {
            state.hot_keys.reset();
        }
    }

    /// Looks at a call again that had to wait.
    fn resubmit(&mut self, work: Work, cluster: &mut Cluster) {
        let (db, key) = match &work {
            Work::ClientCall(ClientCall { call, .. }) | Work::PeerCall(PeerCall { call, .. }) => {
                (call.db_id, call.key.clone())
            }
            other => unreachable!("only calls wait, not {other:?}"),
        };
        self.submit(db, key, work, cluster);
    }

    fn submit_later(&mut self, at: Instant, db: DbId, key: Bytes, work: Work) {
        self.serial += 1;
        self.delayed
            .insert((at, self.serial), RecordJob { db, key, work });
    }
}

/// Whether a recovery has brought a new vnn map, but has not come to this database yet. By the new
/// map this node may be the lmaster of a record that it has never heard of: to make it up would be
/// to have it twice.
fn is_behind(database: &Database, cluster: &Cluster) -> bool {
    database.generation != cluster.vnn_map.generation
}

/// A key for memory that outlives its packet: a slice would keep the whole buffer of the
/// connection.
pub(crate) fn kept(key: &Bytes) -> Bytes {
    Bytes::copy_from_slice(key)
}

/// A control of the daemon itself.
pub(crate) fn request(opcode: Opcode, data: Bytes) -> ReqControl {
    let (srvid, client_id, flags) = (Srvid(0), ClientId::NONE, ControlFlags::empty());
    ReqControl {
        opcode,
        srvid,
        client_id,
        flags,
        data,
    }
}

fn unknown_database(db: DbId) -> String {
    format!("Unknown database in request. db_id=={db}")
}

/// Why calls for this database are refused. The original moves records of persistent databases
/// about, which breaks them.
fn not_callable(db: DbId, cluster: &Cluster) -> Option<String> {
    match cluster.databases.get(&db) {
        None => Some(unknown_database(db)),
        Some(database) if !database.is_volatile() => Some(format!(
            "records of database {} do not migrate",
            database.name
        )),
        Some(_) => None,
    }
}

fn refuse_client(call: &ClientCall, text: &str, cluster: &mut Cluster) {
    debug!(client = %call.client, text, "refused a call");
    let body = Body::ReplyError(ReplyError::new(-1, text));
    cluster.send_client(call.client, call.reqid, body);
    cluster.call_forgotten();
}
