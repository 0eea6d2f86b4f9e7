//! What the record path does when a database is frozen, thawed, wiped or gone, or a client is gone.

use std::time::Instant;

use ctdb_proto::{ClientId, DbId, ReplyError, ReqId};
use tracing::info;

use super::pending::{Origin, Outcome};
use super::{Migrator, RecordJob, Then, Work, refuse_client, unknown_database};
use crate::cluster::Cluster;

impl Migrator {
    /// A freeze begins: from now on jobs are held back, and vacuuming stops.
    pub(crate) fn freezing(&mut self, db: DbId) {
        self.stop_vacuuming(db);
    }

    /// The database can be used again, perhaps in a new generation: calls that were on their way
    /// may be lost, so all are sent again (3.13).
    pub(crate) fn thawed(&mut self, db: DbId, cluster: &mut Cluster, now: Instant) {
        let Some(database) = cluster.databases.get(&db) else {
            return;
        };
        let (name, generation) = (database.name.clone(), database.generation);
        let reqids = self.pending.select(|p| p.db == db);
        let count = reqids.len();
        for reqid in reqids {
            self.resend(reqid, cluster, now);
        }
        if count > 0 {
            info!("Resent calls for database={name}, generation={generation}, count={count}");
        }
        for RecordJob { db, key, work } in std::mem::take(&mut self.state(db).held) {
            if work
                .generation()
                .is_none_or(|of_packet| of_packet == generation)
            {
                self.submit(db, key, work, cluster);
            } else if let Then::Updated { batch, ok } = work.outdated() {
                self.updated(batch, ok, cluster);
            }
        }
    }

    fn resend(&mut self, reqid: ReqId, cluster: &mut Cluster, now: Instant) {
        let Some(pending) = self.pending.remove(reqid, cluster) else {
            return;
        };
        if let Origin::Vacuum { run } = pending.origin {
            return self.vacuum_fetched(run, now);
        }
        let (db, key) = (pending.db, pending.call.key.clone());
        let new = self.pending.ask(pending, cluster.me, cluster);
        self.state(db).fetches.renamed(&key, reqid, new);
    }

    /// The client is gone: nobody waits for its calls, and others go on without them.
    pub(crate) fn client_gone(&mut self, client: ClientId, cluster: &mut Cluster) {
        for reqid in self.pending.select(|p| p.is_of(client)) {
            let Some(pending) = self.pending.remove(reqid, cluster) else {
                continue;
            };
            cluster.call_forgotten();
            self.end_fetch(pending.db, &pending.call.key, reqid, cluster);
        }
    }

    /// The database is gone: whoever wants one of its records is told so.
    pub(crate) fn database_detached(&mut self, db: DbId, cluster: &mut Cluster, now: Instant) {
        self.stop_vacuuming(db);
        let Some(mut state) = self.databases.remove(&db) else {
            return;
        };
        let text = unknown_database(db);
        for reqid in self.pending.select(|p| p.db == db) {
            let error = Outcome::Error(ReplyError::new(-1, &text));
            self.complete(reqid, error, cluster, now);
        }
        for call in state.fetches.drain() {
            refuse_client(&call, &text, cluster);
        }
        let waiting = state.readonly.clear().into_iter().map(|(_, work)| work);
        for work in waiting.chain(state.held.into_iter().map(|job| job.work)) {
            if let Work::ClientCall(call) = work {
                refuse_client(&call, &text, cluster);
            }
        }
        self.databases.remove(&db);
    }

    /// A recovery has replaced all records: no node has read-only copies any more (4.5).
    pub(crate) fn push_confirmed(&mut self, db: DbId, cluster: &mut Cluster) {
        for (key, work) in self.state(db).readonly.clear() {
            self.submit(db, key, work, cluster);
        }
    }

    /// A recovery deletes all records: there is nothing left to vacuum.
    pub(crate) fn database_wiped(&mut self, db: DbId) {
        self.state(db).vacuum.clear();
    }
}
