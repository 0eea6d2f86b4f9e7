//! Attaching and detaching databases (data-plane.md 1.2 to 1.5).

use std::time::Instant;

use ctdb_conf::Tunable;
use ctdb_proto::control::Request;
use ctdb_proto::{
    ClientId, ControlFlags, DbFlags, DbId, DbStatistics, Dest, RecMode, ReqControl, RunState,
};
use tracing::{error, warn};

use crate::database::{Database, Freeze};
use crate::effect::{DbAnswer, DbOp, Effect};
use crate::input::DbFailure;
use crate::node::Node;
use crate::waiting::{Caller, Waiting};

/// File names end at 255 bytes; a dot and a pnn of ten digits follow the name.
const MAX_NAME: usize = 255 - 11;

/// A client's attach that waits for the end of the recovery.
#[derive(Debug)]
pub(crate) struct DeferredAttach {
    pub(crate) caller: Caller,
    control: ReqControl,
    gives_up: Instant,
    /// Set when the recovery has ended.
    due: Option<Instant>,
}

/// Who wants which database attached, of which kind.
pub(crate) type Attacher = (Caller, String, DbFlags);

impl DeferredAttach {
    pub(crate) fn deadline(&self) -> Instant {
        self.due.map_or(self.gives_up, |due| due.min(self.gives_up))
    }
}

impl Node {
    pub(super) fn attach(
        &mut self,
        caller: Caller,
        control: &ReqControl,
        name: String,
        flags: DbFlags,
        now: Instant,
    ) {
        let for_recovery = control.flags.contains(ControlFlags::ATTACH_RECOVERY);
        // It is for clients. A node that refused its peers would only differ from them.
        let from_here = caller.node == self.cluster.me;
        let allowed = self.cluster.tunables.get(Tunable::AllowClientDBAttach) != 0;
        if from_here && !allowed && !for_recovery {
            error!("DB Attach to database {name} denied by tunable AllowClientDBAccess == 0");
            return self.answer_status(caller, -1);
        }
        if let Err(why) = check_name(&name) {
            error!("DB Attach to database {name:?} refused: {why}");
            return self.answer_status(caller, -1);
        }
        if let Some(client) = self.local_client(caller) {
            if self.cluster.is_inactive() {
                error!(
                    "DB Attach to database {name} refused since node is inactive (flags={:#x})",
                    self.cluster.my_flags().bits()
                );
                return self.answer_status(caller, -1);
            }
            if for_recovery && !self.is_in_recovery() {
                return self.answer_status(caller, -1);
            }
            if !for_recovery && self.defers_attaches() {
                let pid = self.clients.pid(client);
                return self.defer_attach(caller, control.clone(), &name, pid, now);
            }
        }
        self.attach_now(caller, name, flags);
    }

    fn defer_attach(
        &mut self,
        caller: Caller,
        control: ReqControl,
        name: &str,
        pid: i32,
        now: Instant,
    ) {
        warn!(
            "DB Attach to database {name} deferred for client with pid:{pid} since node is in \
             recovery mode."
        );
        let gives_up = now + self.cluster.tunables.seconds(Tunable::DeferredAttachTO);
        self.deferred_attaches.push(DeferredAttach {
            caller,
            control,
            gives_up,
            due: None,
        });
    }

    /// Clients wait until the cluster has recovered, and at a start until this node is part of it.
    fn defers_attaches(&self) -> bool {
        self.is_in_recovery() || self.cluster.run_state.raw() < RunState::Startup.raw()
    }

    /// One of the reasons to defer has gone: if it was the last one, what was deferred is done on
    /// the next turn. (The original waits for a second after the recovery mode is NORMAL, in which
    /// the run state follows.)
    pub(crate) fn release_deferred_attaches(&mut self, now: Instant) {
        if self.defers_attaches() {
            return;
        }
        for attach in &mut self.deferred_attaches {
            attach.due = Some(now);
        }
    }

    pub(crate) fn deferred_attaches_due(&mut self, now: Instant) {
        let is_due = |attach: &mut DeferredAttach| attach.deadline() <= now;
        for attach in self
            .deferred_attaches
            .extract_if(.., is_due)
            .collect::<Vec<_>>()
        {
            if attach.due.is_some() {
                let DeferredAttach {
                    caller, control, ..
                } = attach;
                self.serve(caller, &control, now);
            } else {
                self.answer_status(attach.caller, -1);
            }
        }
    }

    fn attach_now(&mut self, caller: Caller, name: String, flags: DbFlags) {
        let id = DbId::of_name(&name);
        if let Some(database) = self.cluster.databases.get(&id) {
            let status = if database.name != name {
                let other = &database.name;
                error!("db_id {id} hash collision. name1='{name}' name2='{other}'");
                -1
            } else if database.flags.contains(flags) {
                return self.answer_data(caller, &id);
            } else {
                -1
            };
            return self.answer_status(caller, status);
        }
        if let Some(callers) = self.attach_under_way(id) {
            callers.push((caller, name, flags));
            return;
        }
        self.attaching.entry(id).or_default();
        let ticket = self.cluster.ticket();
        let op = self.attach_op(name.clone(), flags);
        self.waiting.insert(
            ticket,
            Waiting::Attach {
                callers: vec![(caller, name.clone(), flags)],
                db: id,
                name,
                flags,
            },
        );
        self.cluster.effect(Effect::Db { ticket, db: id, op });
    }

    /// Who waits for the attach of this database, if it has begun.
    fn attach_under_way(&mut self, id: DbId) -> Option<&mut Vec<Attacher>> {
        self.waiting.values_mut().find_map(|waiting| match waiting {
            Waiting::Attach { callers, db, .. } if *db == id => Some(callers),
            _ => None,
        })
    }

    pub(super) fn attach_done(
        &mut self,
        callers: Vec<Attacher>,
        db: DbId,
        name: &str,
        flags: DbFlags,
        answer: Result<DbAnswer, DbFailure>,
        now: Instant,
    ) {
        let attached = self.add_database(db, name.to_owned(), flags, answer);
        let me = self.cluster.me;
        if attached && callers.iter().any(|(caller, ..)| caller.node == me) {
            self.announce_attach(name, flags);
        }
        for (caller, name, flags) in callers {
            if attached {
                // Not everybody need have asked for the same.
                self.attach_now(caller, name, flags);
            } else {
                self.answer_status(caller, -1);
            }
        }
        self.release_held_for(db, now);
    }

    pub(super) fn start_attach_done(&mut self, answer: Result<DbAnswer, DbFailure>, now: Instant) {
        if let Ok(DbAnswer::Attached { name, .. }) = &answer {
            let (name, db) = (name.clone(), DbId::of_name(name));
            self.add_database(db, name, DbFlags::PERSISTENT, answer);
            self.start_freeze(db, now);
        } else {
            error!("Failed to attach to persistent database");
        }
        self.open_when_frozen();
    }

    fn add_database(
        &mut self,
        id: DbId,
        name: String,
        flags: DbFlags,
        answer: Result<DbAnswer, DbFailure>,
    ) -> bool {
        let Ok(DbAnswer::Attached {
            path,
            open_flags,
            health,
            ..
        }) = answer
        else {
            return false;
        };
        warn!("Attached to database '{path}' with flags {open_flags:#x}");
        let generation = self.cluster.vnn_map.generation;
        self.cluster.database_order.push_front(id);
        self.cluster.databases.insert(
            id,
            Database {
                id,
                name,
                flags,
                path,
                open_flags,
                generation,
                freeze: Freeze::None,
                invalid_records: false,
                transaction: None,
                push: None,
                health,
                commit: None,
                file_seqnum: None,
                statistics: DbStatistics::default(),
            },
        );
        true
    }

    /// Every other node attaches it too; a node that cannot is repaired by the next recovery. The
    /// node of the client alone says so: in the original each node that attaches tells all again.
    fn announce_attach(&mut self, name: &str, flags: DbFlags) {
        let request = if flags.contains(DbFlags::PERSISTENT) {
            Request::DbAttachPersistent(name.to_owned())
        } else if flags.contains(DbFlags::REPLICATED) {
            Request::DbAttachReplicated(name.to_owned())
        } else {
            Request::DbAttach(name.to_owned())
        };
        let control = request.to_control(ControlFlags::NOREPLY);
        let me = self.cluster.me;
        for pnn in self.cluster.broadcast_targets(Dest::Connected) {
            if pnn != me {
                self.cluster.tell(pnn, control.clone());
            }
        }
    }

    /// `DB_DETACH`: a client's request goes to every node, this one included; the detach happens
    /// on the copy that no client sent.
    pub(super) fn detach(&mut self, caller: Caller, db: DbId, now: Instant) {
        let Some(database) = self.cluster.databases.get(&db) else {
            return self.answer_status(caller, -1);
        };
        let name = database.name.clone();
        if self.cluster.tunables.get(Tunable::AllowClientDBAttach) == 1 {
            error!(
                "DB detach from database {name} denied. Clients are allowed access to databases \
                 (AllowClientDBAccess == 1)"
            );
            return self.answer_status(caller, -1);
        }
        if !database.is_volatile() || self.cluster.rec_mode == RecMode::Active {
            return self.answer_status(caller, -1);
        }
        if self.local_client(caller).is_some() {
            let control = Request::DbDetach(db).to_control(ControlFlags::NOREPLY);
            for pnn in self.cluster.broadcast_targets(Dest::Connected) {
                self.cluster.tell(pnn, control.clone());
            }
            return self.answer_status(caller, 0);
        }
        if caller.client != ClientId::NONE {
            // A client of another node: here it is nobody.
            return self.answer_status(caller, -1);
        }
        self.detach_here(db, now);
        self.answer_status(caller, 0);
    }

    fn detach_here(&mut self, db: DbId, now: Instant) {
        self.migrator.database_detached(db, &mut self.cluster, now);
        self.traverses
            .database_gone(db, &self.clients, &mut self.cluster);
        self.cluster.databases.remove(&db);
        self.cluster.database_order.retain(|id| *id != db);
        let ticket = self.cluster.ticket();
        self.waiting.insert(ticket, Waiting::Background);
        self.cluster.effect(Effect::Db {
            ticket,
            db,
            op: DbOp::Detach,
        });
    }
}

/// The name becomes part of a file name. (The codec has refused empty ones and slashes.)
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.len() > MAX_NAME {
        Err("its name is too long")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_file_can_have_are_refused() {
        assert_eq!(check_name("locking.tdb"), Ok(()));
        assert!(check_name(&"x".repeat(MAX_NAME + 1)).is_err());
    }
}
