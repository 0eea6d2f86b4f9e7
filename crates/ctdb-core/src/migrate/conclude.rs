//! What follows a verdict: packets leave, clients are answered, queues grow and shrink.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_conf::Tunable;
use ctdb_proto::{
    Body, CallFlags, DbFlags, DbId, Opcode, Pnn, RecBuffer, RecordHeader, ReplyCall, ReplyError,
    ReqId,
};
use tracing::{debug, info, warn};

use super::job::{ClientCall, Deletion, Notes, PeerCall, Then, Verdict, Work};
use super::pending::{self, Origin, Outcome, PendingCall};
use super::readonly::Revoke;
use super::{Asked, FETCH_FAILED, Migrator, kept, refuse_client, request};
use crate::cluster::Cluster;
use crate::outstanding::Asker;

/// Calls that came to a revoke which failed, or that could do with a copy, wait this long.
const AFTER_REVOKE: Duration = Duration::from_secs(1);

impl Migrator {
    /// What the verdict wanted written is in the file, and the lock is released.
    pub(crate) fn conclude(&mut self, verdict: Verdict, cluster: &mut Cluster, now: Instant) {
        let Verdict {
            db,
            key,
            notes,
            then,
            ..
        } = verdict;
        self.take_note(db, &key, &notes, cluster, now);
        match then {
            Then::Drop => {}
            Then::Refuse { work, reason } => self.refuse(db, &key, work, reason, cluster, now),
            Then::ForgetClientCall => cluster.call_forgotten(),
            Then::AfterThaw(work) => self.submit(db, key, work, cluster),
            Then::JoinFetch(call) => self.join_fetch(call, cluster),
            Then::WaitForPin(call) => self.wait_for_pin(call, cluster),
            Then::WaitForRevoke(work) => self.wait_for_revoke(db, key, work, cluster),
            Then::Revoke { work, header, data } => {
                self.begin_revoke(db, &key, work, &header, &data, cluster, now);
            }
            Then::Ask { call, to, asked_at } => self.ask(&call, to, asked_at, cluster, now),
            Then::Answer {
                call,
                data,
                asked_at,
            } => {
                let reply = Body::ReplyCall(ReplyCall { status: 0, data });
                cluster.send_client(call.client, call.reqid, reply);
                cluster.call_answered(db, now.saturating_duration_since(asked_at));
            }
            Then::Send { to, reqid, body } => send(db, to, reqid, body, cluster),
            Then::Forward { to, packet } => cluster.forward(to, packet),
            Then::Arrived { from, reqid, data } => {
                self.arrived(db, &key, from, reqid, data, cluster, now);
            }
            Then::Copied { reqid, reply } => {
                self.complete(reqid, Outcome::Reply(reply), cluster, now);
            }
            Then::RevokeOver { ready } => self.revoke_over(db, &key, ready, cluster, now),
            Then::Updated { batch, ok } => self.updated(batch, ok, cluster),
            Then::ForceRecovery(why) => cluster.force_recovery(why),
            Then::Vacuum { work, outcome } => {
                self.vacuum_concluded(db, key, work, outcome, cluster, now);
            }
        }
    }

    /// What the verdict wanted written could not be written. Calls of other nodes are sent again
    /// after the recovery, so only what began here must not be forgotten.
    pub(crate) fn abandon(
        &mut self,
        verdict: Verdict,
        reason: &str,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let Verdict { db, key, then, .. } = verdict;
        warn!(%db, ?key, reason, "record cannot be written");
        cluster.force_recovery("a record cannot be written");
        match then {
            Then::Ask { call, .. }
            | Then::Answer { call, .. }
            | Then::Revoke {
                work: Work::ClientCall(call),
                ..
            } => {
                let job = super::RecordJob {
                    db,
                    key,
                    work: Work::ClientCall(call),
                };
                self.state(db).held.push_back(job);
            }
            Then::Copied { reqid, reply } => {
                self.complete(reqid, Outcome::Reply(reply), cluster, now);
            }
            Then::Updated { batch, .. } => self.updated(batch, false, cluster),
            Then::Vacuum { work, .. } => {
                let outcome = crate::vacuum::VacuumOutcome::Skip;
                self.vacuum_concluded(db, key, work, outcome, cluster, now);
            }
            _ => {}
        }
    }

    fn take_note(
        &mut self,
        db: DbId,
        key: &Bytes,
        notes: &Notes,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        match notes.deletion {
            Deletion::Unchanged => {}
            Deletion::Schedule(header) => self.state(db).vacuum.schedule(key, header),
            Deletion::Forget => self.state(db).vacuum.forget(key),
        }
        if notes.revoked {
            self.state(db).readonly.forget_holders(key);
            cluster.copies_revoked(db);
        }
        if let Some(pnn) = notes.delegated_to {
            self.state(db).readonly.add_holder(key, pnn);
            cluster.copy_delegated(db);
        }
        if let Some(hops) = notes.hops {
            cluster.call_served(db, hops);
            self.stick_if_chased(db, key, hops, cluster, now);
        }
    }

    /// A record that a call had to chase becomes sticky, in databases that allow it (5.1).
    fn stick_if_chased(
        &mut self,
        db: DbId,
        key: &Bytes,
        hops: u32,
        cluster: &Cluster,
        now: Instant,
    ) {
        let Some(database) = cluster.databases.get(&db) else {
            return;
        };
        if hops < cluster.tunables.get(Tunable::HopcountMakeSticky)
            || !has(database, DbFlags::STICKY)
        {
            return;
        }
        let time = cluster.tunables.seconds(Tunable::StickyDuration);
        if self.state(db).pins.make_sticky(key, time, now) {
            let hash = ctdb_proto::jenkins_hash(key);
            let (name, seconds) = (&database.name, time.as_secs());
            info!("Make record sticky for {seconds} seconds in db {name} key:{hash:#010x}.");
        }
    }

    /// Sends a client's call to another node; others for the same key wait for it.
    fn ask(
        &mut self,
        call: &ClientCall,
        to: Pnn,
        asked_at: Instant,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let db = call.call.db_id;
        let read_only = call.call.flags.contains(CallFlags::WANT_READONLY)
            && cluster
                .databases
                .get(&db)
                .is_some_and(|d| has(d, DbFlags::READONLY));
        let (sent, origin) = pending::as_sent(call, read_only);
        let pending = PendingCall {
            db,
            call: sent,
            origin,
            asked_at,
        };
        let reqid = self.pending.ask(pending, to, cluster);
        if cluster.tunables.get(Tunable::FetchCollapse) == 1 {
            self.state(db).fetches.begin(&call.call.key, reqid, now);
        }
    }

    fn join_fetch(&mut self, call: ClientCall, cluster: &mut Cluster) {
        let (db, key) = (call.call.db_id, call.call.key.clone());
        if let Err(call) = self.state(db).fetches.join(&key, call) {
            self.submit(db, key, Work::ClientCall(call), cluster);
        }
    }

    pub(super) fn wait_for_pin(&mut self, call: PeerCall, cluster: &mut Cluster) {
        let (db, key) = (call.call.db_id, call.call.key.clone());
        let name = cluster.databases.get(&db).map_or("", |db| &db.name);
        debug!(?key, "Defer request for pinned down record in {name}");
        if let Err(call) = self.state(db).pins.wait(&key, call) {
            self.submit(db, key, Work::PeerCall(call), cluster);
        }
    }

    /// The record came to this node; it stays, even if nobody wants it any more.
    #[expect(clippy::too_many_arguments, reason = "all of them name one arrival")]
    fn arrived(
        &mut self,
        db: DbId,
        key: &Bytes,
        from: Option<Pnn>,
        reqid: ReqId,
        data: Bytes,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let wanted = self
            .pending
            .get(reqid)
            .filter(|p| p.db == db && p.call.key == *key);
        let origin = wanted.map(|p| p.origin);
        self.pin_if_sticky(db, key, cluster, now);
        if origin.is_none() {
            let (me, from) = (cluster.me, from.unwrap_or(cluster.me));
            debug!("pnn {me} Invalid reqid {reqid} in ctdb_become_dmaster from node {from}");
            return;
        }
        let Some(database) = cluster.databases.get(&db) else {
            return;
        };
        self.state(db).hot_keys.count(&database.name, key, now);
        self.complete(
            reqid,
            Outcome::Reply(ReplyCall { status: 0, data }),
            cluster,
            now,
        );
    }

    /// Keeps a sticky record here for a moment (5.1).
    fn pin_if_sticky(&mut self, db: DbId, key: &Bytes, cluster: &Cluster, now: Instant) {
        let Some(database) = cluster.databases.get(&db) else {
            return;
        };
        let pins = &mut self.state(db).pins;
        if has(database, DbFlags::STICKY) && pins.is_sticky(key, now) {
            let time = cluster.tunables.milliseconds(Tunable::StickyPindown);
            debug!(
                "Pinning down record in {} for {} ms",
                database.name,
                time.as_millis()
            );
            pins.pin(key, time, now);
        }
    }

    /// A call of this node has ended: tells who asked, and lets those go on who waited with it.
    pub(super) fn complete(
        &mut self,
        reqid: ReqId,
        outcome: Outcome,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let Some(pending) = self.pending.remove(reqid, cluster) else {
            debug!("reqid {reqid} not found");
            return;
        };
        pending::answer(&pending, outcome, cluster, now);
        match pending.origin {
            Origin::Client { .. } => {
                self.end_fetch(pending.db, &pending.call.key, reqid, cluster);
            }
            Origin::Vacuum { run } => self.vacuum_fetched(run, now),
        }
    }

    /// The call `owner` has ended: the client calls behind it are looked at again.
    pub(super) fn end_fetch(&mut self, db: DbId, key: &Bytes, owner: ReqId, cluster: &mut Cluster) {
        for call in self.state(db).fetches.end(key, owner) {
            self.submit(db, key.clone(), Work::ClientCall(call), cluster);
        }
    }

    fn wait_for_revoke(&mut self, db: DbId, key: Bytes, work: Work, cluster: &mut Cluster) {
        match self.state(db).readonly.revoke_mut(&key) {
            Some(revoke) => revoke.waiting.push(work),
            None => self.submit(db, key, work, cluster),
        }
    }

    /// Asks every node with a copy to make it unreadable (4.4).
    #[expect(clippy::too_many_arguments, reason = "the record and its surroundings")]
    fn begin_revoke(
        &mut self,
        db: DbId,
        key: &Bytes,
        work: Work,
        header: &RecordHeader,
        data: &Bytes,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let holders: Vec<Pnn> = self.state(db).readonly.holders(key).collect();
        let mut records = RecBuffer::builder(db);
        records.push_record(ReqId(0), key, &super::readonly::revoked_copy(header), data);
        let data = records.finish().to_bytes();
        self.serial += 1;
        let number = self.serial;
        let mut revoke = Revoke {
            number,
            waiting: vec![work],
            ..Revoke::default()
        };
        for pnn in holders {
            let control = request(Opcode::UPDATE_RECORD, data.clone());
            let ticket = cluster.ticket();
            let limit = cluster.control_timeout();
            match cluster.ask(Asker::Records(ticket), pnn, control, limit, now) {
                Ok(()) => {
                    revoke.unanswered += 1;
                    self.controls.insert(
                        ticket,
                        Asked::Revoke {
                            db,
                            key: kept(key),
                            number,
                        },
                    );
                }
                Err(_) => revoke.failed = true,
            }
        }
        self.state(db).readonly.begin_revoke(key, revoke);
        self.finish_revoke_if_answered(db, key, cluster);
    }

    pub(super) fn revoke_answered(
        &mut self,
        db: DbId,
        key: &Bytes,
        number: u64,
        ok: bool,
        cluster: &mut Cluster,
    ) {
        let revoke = self.state(db).readonly.revoke_mut(key);
        if let Some(revoke) = revoke.filter(|revoke| revoke.number == number) {
            revoke.unanswered = revoke.unanswered.saturating_sub(1);
            revoke.failed |= !ok;
            self.finish_revoke_if_answered(db, key, cluster);
        }
    }

    fn finish_revoke_if_answered(&mut self, db: DbId, key: &Bytes, cluster: &mut Cluster) {
        let Some(revoke) = self.state(db).readonly.revoke_mut(key) else {
            return;
        };
        if revoke.unanswered == 0 {
            let work = Work::FinishRevoke {
                number: revoke.number,
                all: !revoke.failed,
            };
            self.submit(db, key.clone(), work, cluster);
        }
    }

    /// Lets the calls go on that waited for a revoke (4.4 step 4). Those that can do with a copy
    /// give way to the one that may write; after a failure all wait, since the original's tight
    /// loop helps nobody.
    fn revoke_over(
        &mut self,
        db: DbId,
        key: &Bytes,
        ready: bool,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let Some(revoke) = self.state(db).readonly.end_revoke(key) else {
            return;
        };
        for work in revoke.waiting {
            if ready && !can_do_with_copy(&work) {
                self.submit(db, key.clone(), work, cluster);
            } else {
                self.submit_later(now + AFTER_REVOKE, db, key.clone(), work);
            }
        }
    }

    /// Work that cannot be done: whoever waits for it is told, and what may have torn a record
    /// ends in a recovery.
    pub(super) fn refuse(
        &mut self,
        db: DbId,
        key: &Bytes,
        work: Work,
        text: &str,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        match work {
            Work::ClientCall(call) => refuse_client(&call, text, cluster),
            Work::PeerCall(PeerCall {
                requester, header, ..
            }) => {
                let error = Body::ReplyError(ReplyError::new(-1, FETCH_FAILED));
                cluster.send(requester, header.reqid, error);
            }
            Work::ReqDmaster { .. } | Work::ReplyDmaster { .. } => {
                cluster.force_recovery("a record that moves cannot be stored");
            }
            Work::ReadOnlyCopy { header, reply } => {
                self.complete(header.reqid, Outcome::Reply(reply), cluster, now);
            }
            Work::FinishRevoke { number, .. } => {
                if self.state(db).readonly.revoking(key) == Some(number) {
                    self.revoke_over(db, key, false, cluster, now);
                }
            }
            Work::Update { batch, .. } => self.updated(batch, false, cluster),
            Work::Vacuum(work) => {
                let outcome = crate::vacuum::VacuumOutcome::Skip;
                self.vacuum_concluded(db, key.clone(), work, outcome, cluster, now);
            }
        }
    }
}

fn can_do_with_copy(work: &Work) -> bool {
    match work {
        Work::ClientCall(ClientCall { call, .. }) | Work::PeerCall(PeerCall { call, .. }) => {
            call.flags.contains(CallFlags::WANT_READONLY)
        }
        _ => false,
    }
}

fn has(database: &crate::database::Database, flag: DbFlags) -> bool {
    database.flags.contains(flag)
}

/// Sends a packet in the generation of its database.
fn send(db: DbId, to: Pnn, reqid: ReqId, body: Body, cluster: &mut Cluster) {
    if let Some(database) = cluster.databases.get(&db) {
        let generation = database.generation;
        cluster.send_in(generation, to, reqid, body);
    }
}
