//! Stopping the access to databases for a recovery, and letting it go on (data-plane.md 6.5).
//!
//! The lock itself is held by a thread of the shell. While a database is frozen, or about to be,
//! the record path holds its jobs back: they would only queue for the same lock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ctdb_proto::{ClientId, DbId, Dest, Generation, Pnn, RecMode, Srvid, VnnMap};

use crate::cluster::Cluster;
use crate::database::Freeze;
use crate::effect::{DbOp, Effect, Ticket};
use crate::node::Node;
use crate::serve::encoded;
use crate::waiting::{Caller, Waiting};

/// Who waits for which freeze.
#[derive(Debug, Default)]
pub(crate) struct Freezes {
    waiters: BTreeMap<DbId, Vec<Caller>>,
    /// Freezes of everything that are not complete, each with the databases it still waits for.
    everything: Vec<FreezeAll>,
    /// FREEZE was asked for since the last thaw of everything.
    frozen_all: bool,
    /// And this node asked for it, because others may go on without it.
    on_suspicion: bool,
}

#[derive(Debug)]
struct FreezeAll {
    caller: Option<Caller>,
    missing: BTreeSet<DbId>,
    failed: bool,
}

impl Cluster {
    /// Whether no record can be reached. False without databases.
    pub(crate) fn everything_is_frozen(&self) -> bool {
        !self.databases.is_empty()
            && self
                .databases
                .values()
                .all(super::database::Database::is_frozen)
    }
}

impl Node {
    /// `DB_FREEZE`: answers once the lock over all records is held.
    pub(crate) fn freeze_one(&mut self, db: DbId, caller: Caller, now: Instant) {
        let Some(database) = self.cluster.databases.get(&db) else {
            return self.answer_status(caller, -1);
        };
        if database.is_frozen() {
            return self.answer_status(caller, 0);
        }
        self.freezes.waiters.entry(db).or_default().push(caller);
        self.start_freeze(db, now);
    }

    /// FREEZE: everything, because the node became inactive or somebody asked for it. The volatile
    /// records must not enter the next recovery, for others work with theirs: except when this node
    /// only suspects that, see [`Self::recovered_without`].
    pub(crate) fn freeze_all(&mut self, caller: Option<Caller>, now: Instant) {
        let me = self.cluster.me;
        let by_itself = caller.is_some_and(|c| c.node == me && c.client == ClientId::NONE);
        let on_suspicion = by_itself && !self.cluster.is_inactive();
        tracing::error!(
            "{}",
            if self.freezes.frozen_all {
                "Freeze all: incremental"
            } else {
                "Freeze all"
            }
        );
        self.freezes.frozen_all = true;
        self.freezes.on_suspicion = on_suspicion;
        let mut missing = BTreeSet::new();
        for db in self.cluster.databases.values_mut() {
            if db.is_volatile() && !on_suspicion {
                db.invalid_records = true;
            }
            if !db.is_frozen() {
                missing.insert(db.id);
            }
        }
        for db in &missing {
            self.start_freeze(*db, now);
        }
        self.freezes.everything.push(FreezeAll {
            caller,
            missing,
            failed: false,
        });
        self.finish_freezes_of_everything();
    }

    /// Another node has completed a recovery without this one. What this node suspected when it
    /// froze its databases is true: they are outdated.
    ///
    /// Nobody tells that in a cluster of the original's daemons. There, and here if nobody could
    /// tell, the higher rsn of two copies decides.
    pub(crate) fn recovered_without(&mut self, teller: Pnn, generation: Generation) {
        if !self.freezes.on_suspicion {
            return;
        }
        let outdated = self.cluster.databases.values_mut().filter(|db| {
            db.is_volatile()
                && db.freeze != Freeze::None
                && db.generation != generation
                && !db.invalid_records
        });
        for db in outdated {
            tracing::warn!(
                "Records of {} are outdated: node {teller} has recovered without this node",
                db.name
            );
            db.invalid_records = true;
        }
    }

    /// Tells a node that is no member of the last recovery that there was one. (A node that cannot
    /// be lmaster is told of each, and knows that it took part.)
    pub(crate) fn tell_of_recovery(&mut self, to: Pnn) {
        let VnnMap { generation, map } = &self.cluster.vnn_map;
        let is_told = *generation != Generation::INVALID
            && self.cluster.rec_mode == RecMode::Normal
            && !map.contains(&to);
        if is_told {
            let data = encoded(generation);
            let to = Dest::Node(to);
            self.cluster.send_message(to, Srvid::RECOVERED, &data);
        }
    }

    pub(crate) fn tell_others_of_recovery(&mut self) {
        let me = self.cluster.me;
        for pnn in self.cluster.broadcast_targets(Dest::Connected) {
            if pnn != me {
                self.tell_of_recovery(pnn);
            }
        }
    }

    pub(crate) fn start_freeze(&mut self, db: DbId, now: Instant) {
        let Some(database) = self.cluster.databases.get(&db) else {
            return;
        };
        if database.freeze != Freeze::None {
            return;
        }
        tracing::error!("Freeze db: {}", database.name);
        let ticket = self.cluster.ticket();
        if let Some(database) = self.cluster.databases.get_mut(&db) {
            database.freeze = Freeze::Pending { ticket };
        }
        self.migrator.freezing(db);
        self.lock_wait_began(db);
        self.waiting
            .insert(ticket, Waiting::Freeze { db, since: now });
        self.cluster.effect(Effect::Db {
            ticket,
            db,
            op: DbOp::Freeze,
        });
    }

    /// The lock is held, or will not be.
    pub(crate) fn freeze_done(&mut self, ticket: Ticket, db: DbId, held: bool, now: Instant) {
        if let Some(database) = self.cluster.databases.get_mut(&db) {
            if database.freeze != (Freeze::Pending { ticket }) {
                return; // Of a freeze that was thawed before it was held.
            }
            database.freeze = if held { Freeze::Frozen } else { Freeze::None };
            if held {
                tracing::error!("Freeze db: {} frozen", database.name);
            }
        }
        if !held {
            self.migrator.thawed(db, &mut self.cluster, now);
        }
        let status = if held { 0 } else { -1 };
        for caller in self.freezes.waiters.remove(&db).unwrap_or_default() {
            self.answer_status(caller, status);
        }
        for all in &mut self.freezes.everything {
            all.failed |= all.missing.remove(&db) && !held;
        }
        self.finish_freezes_of_everything();
        self.open_when_frozen();
    }

    fn finish_freezes_of_everything(&mut self) {
        let (done, open) = std::mem::take(&mut self.freezes.everything)
            .into_iter()
            .partition(|all| all.missing.is_empty());
        self.freezes.everything = open;
        let done: Vec<FreezeAll> = done;
        for all in done {
            tracing::error!("Freeze all: frozen");
            if let Some(caller) = all.caller {
                self.answer_status(caller, if all.failed { -1 } else { 0 });
            }
        }
    }

    /// `DB_THAW`: records can be reached again; calls that were under way start anew.
    pub(crate) fn thaw(&mut self, db: DbId, now: Instant) {
        let Some(database) = self.cluster.databases.get_mut(&db) else {
            return;
        };
        if database.freeze == Freeze::None {
            return;
        }
        let name = database.name.clone();
        self.stop_pulls(|_, pulled| pulled == db);
        tracing::error!("Release freeze handle for db {name}");
        let Some(database) = self.cluster.databases.get_mut(&db) else {
            return;
        };
        tracing::error!(
            "Thaw db: {} generation {}",
            database.name,
            database.generation
        );
        database.freeze = Freeze::None;
        database.transaction = None;
        database.invalid_records = false;
        database.push = None;
        let ticket = self.cluster.ticket();
        self.waiting.insert(ticket, Waiting::Background);
        self.cluster.effect(Effect::Db {
            ticket,
            db,
            op: DbOp::Thaw,
        });
        for caller in self.freezes.waiters.remove(&db).unwrap_or_default() {
            self.answer_status(caller, -1);
        }
        for all in &mut self.freezes.everything {
            all.failed |= all.missing.remove(&db);
        }
        self.finish_freezes_of_everything();
        self.migrator.thawed(db, &mut self.cluster, now);
    }

    /// The lock was lost: records may change that a recovery has read already. So that recovery must
    /// not come to its end, and another one has to follow. The original crashes.
    pub(crate) fn freeze_lost(&mut self, db: DbId, now: Instant) {
        let Some(database) = self.cluster.databases.get(&db).filter(|db| db.is_frozen()) else {
            return;
        };
        tracing::error!("The lock of the frozen db {} was lost", database.name);
        self.cluster
            .force_recovery("the lock of a frozen database was lost");
        self.thaw(db, now);
        self.wake_recoverd(now);
    }

    /// Part of `SET_RECMODE` NORMAL when everything was frozen through FREEZE.
    pub(crate) fn thaw_all_if_frozen(&mut self, now: Instant) {
        if !std::mem::take(&mut self.freezes.frozen_all) {
            return;
        }
        self.freezes.on_suspicion = false;
        tracing::error!("Thawing all");
        let databases: Vec<_> = self.cluster.databases.keys().copied().collect();
        for db in databases {
            self.thaw(db, now);
        }
    }
}
