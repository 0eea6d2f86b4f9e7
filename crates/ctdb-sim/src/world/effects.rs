//! What the nodes of a [`World`] want done.

use std::time::Duration;

use ctdb_core::{
    ClusterLockEvent, DbAnswer, DbFailure, DbOp, Effect, EventOutcome, Input, LockAttempt,
    RecordJob, Ticket, Write,
};
use ctdb_proto::{DbId, Pnn};

use super::{Happening, WORK, World};
use crate::observed::Observed;

impl World {
    pub(super) fn carry_out(&mut self, pnn: Pnn) {
        self.touched.insert(pnn);
        while let Some(effect) = self
            .host_mut(pnn)
            .daemon
            .as_mut()
            .and_then(|d| d.node.poll_effect())
        {
            self.do_one(pnn, effect);
        }
        if let Some(daemon) = &self.hosts[pnn.index()].daemon {
            self.trace.look_at(&daemon.node, self.now);
            let map = daemon.node.vnn_map();
            let members = || map.map.clone();
            self.maps.entry(map.generation.0).or_insert_with(members);
        }
        self.set_wake(pnn);
    }

    fn do_one(&mut self, pnn: Pnn, effect: Effect) {
        match effect {
            Effect::OpenForBusiness => self.open(pnn),
            Effect::SendPeer { to, packet } => self.send(pnn, to, packet),
            Effect::DropPeer { pnn: peer, .. } => {
                self.close(pnn, peer);
                self.plan_connect(pnn, peer, WORK);
            }
            Effect::SendClient { to, packet } => {
                if let Some(daemon) = &mut self.host_mut(pnn).daemon
                    && let Some(inbox) = daemon.inbox.get_mut(&to)
                {
                    inbox.push(packet);
                }
            }
            Effect::DropClient { client, .. } => {
                if let Some(daemon) = &mut self.host_mut(pnn).daemon {
                    daemon.inbox.remove(&client);
                }
            }
            Effect::AwaitRoom { ticket, .. } => {
                self.plan_input(pnn, WORK, Input::ClientHasRoom(ticket));
            }
            Effect::AwaitPeerRoom { ticket, .. } => {
                self.plan_input(pnn, WORK, Input::PeerHasRoom(ticket));
            }
            Effect::Record(job) => self.record(pnn, job),
            Effect::Db { ticket, db, op } => self.db(pnn, ticket, db, op),
            Effect::RunEvent {
                ticket,
                event,
                timeout,
            } => {
                let (takes, outcome) = self.scripts.run(pnn, &event, timeout);
                self.plan_input(pnn, takes, Input::EventDone { ticket, outcome });
            }
            Effect::CancelEvent { ticket } => {
                let outcome = EventOutcome::Cancelled;
                self.plan_input(pnn, WORK, Input::EventDone { ticket, outcome });
            }
            Effect::TakeClusterLock(attempt) => self.take_lock(pnn, attempt),
            Effect::ReleaseClusterLock(attempt) => self.lock.release(pnn, attempt, self.now),
            Effect::TestClusterLock { ticket, limit } => {
                let (takes, outcome) = self.lock.test(limit);
                self.plan_input(pnn, takes, Input::ClusterLockTested { ticket, outcome });
            }
            Effect::Exit { code, reason } => {
                let what = format!("exits with {code}: {reason}");
                self.trace.line(Some(pnn), what, self.now);
                self.end(pnn);
            }
            // Nobody reloads the nodes list here.
            Effect::ReadNodesList { .. }
            | Effect::AddPeer { .. }
            | Effect::RemovePeer { .. }
            | Effect::Notify(_)
            | Effect::SetDebugLevel(_) => {}
        }
    }

    fn record(&mut self, pnn: Pnn, job: RecordJob) {
        let now = self.now;
        let host = self.host_mut(pnn);
        let Some(daemon) = &mut host.daemon else {
            return;
        };
        if host.disk.is_frozen(job.db) {
            return daemon.held.push(job);
        }
        let (db, key, of_packet) = (job.db, job.key.clone(), job.generation());
        let record = host.disk.record(db, &key).cloned();
        let verdict = daemon.node.on_record(job, record, now);
        let generation = daemon.node.database_generation(db);
        let writes = verdict.write != Write::Nothing;
        host.disk.write(db, &key, verdict.write.clone());
        daemon.node.conclude(verdict, now);
        if writes {
            self.observe(Observed::Written {
                node: pnn,
                db,
                key,
                of_packet,
                generation,
            });
        }
    }

    fn db(&mut self, pnn: Pnn, ticket: Ticket, db: DbId, op: DbOp) {
        let observed = self.before_db(pnn, db, &op);
        let thaws = op == DbOp::Thaw;
        let takes = WORK + self.host(pnn).disk_delay;
        let answers = self.host_mut(pnn).disk.work(db, op);
        if answers.iter().all(Result::is_ok) {
            self.observed.extend(observed);
        }
        for answer in answers {
            self.answer_db(pnn, ticket, takes, answer);
        }
        if thaws && let Some(daemon) = &mut self.host_mut(pnn).daemon {
            for job in std::mem::take(&mut daemon.held) {
                self.record(pnn, job);
            }
        }
    }

    fn answer_db(
        &mut self,
        pnn: Pnn,
        ticket: Ticket,
        takes: Duration,
        answer: Result<DbAnswer, DbFailure>,
    ) {
        self.plan_input(pnn, takes, Input::Db { ticket, answer });
    }

    /// What there will be to see if the work succeeds.
    fn before_db(&self, pnn: Pnn, db: DbId, op: &DbOp) -> Option<Observed> {
        let generation = self.node(pnn)?.recovering_in(db)?;
        let members = self.maps.get(&generation.0).cloned();
        match op {
            DbOp::Pull { .. } => Some(Observed::Pulled {
                node: pnn,
                db,
                generation,
                records: self.host(pnn).disk.records(db),
            }),
            DbOp::TransactionCommit => Some(Observed::Recovered {
                node: pnn,
                db,
                generation,
                members: members.unwrap_or_default(),
            }),
            _ => None,
        }
    }

    fn take_lock(&mut self, pnn: Pnn, attempt: LockAttempt) {
        let took = self.lock.begin(pnn, attempt);
        let life = self.host(pnn).life;
        let happening = Happening::LockAnswers {
            pnn,
            life,
            attempt,
            took,
        };
        self.plan(took, happening);
    }

    pub(super) fn lock_answers(&mut self, pnn: Pnn, attempt: LockAttempt, took: Duration) {
        let Some(event) = self.lock.decide(pnn, attempt) else {
            return;
        };
        self.report_lock(pnn, attempt, event, took);
    }

    fn report_lock(
        &mut self,
        pnn: Pnn,
        attempt: LockAttempt,
        event: ClusterLockEvent,
        took: Duration,
    ) {
        let input = Input::ClusterLock {
            attempt,
            event,
            took,
        };
        self.tell(pnn, input);
    }
}
