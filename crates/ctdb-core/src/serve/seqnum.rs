//! The TDB sequence number of a file, kept growing on every node when it grows on one
//! (data-plane.md 1.7).

use std::time::{Duration, Instant};

use ctdb_conf::Tunable;
use ctdb_proto::control::Request;
use ctdb_proto::{ControlFlags, DbId, Dest};

use super::status_of;
use crate::effect::{DbAnswer, DbOp, Effect};
use crate::input::DbFailure;
use crate::node::Node;
use crate::waiting::{Caller, Waiting};

/// Shortest time between two looks at the files: an interval of 0 must not spin.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

impl Node {
    pub(super) fn enable_seqnum(&mut self, caller: Caller, db: DbId) {
        let Some(database) = self.cluster.databases.get(&db) else {
            return self.answer_status(caller, -1);
        };
        if database.file_seqnum.is_some() {
            return self.answer_status(caller, 0);
        }
        let ticket = self.cluster.ticket();
        self.waiting
            .insert(ticket, Waiting::EnableSeqnum { caller, db });
        self.cluster.effect(Effect::Db {
            ticket,
            db,
            op: DbOp::EnableFileSeqnum,
        });
    }

    pub(super) fn seqnum_enabled(
        &mut self,
        caller: Caller,
        db: DbId,
        answer: &Result<DbAnswer, DbFailure>,
        now: Instant,
    ) {
        if let (Ok(DbAnswer::Number(number)), Some(database)) =
            (answer, self.cluster.databases.get_mut(&db))
        {
            database.file_seqnum = Some(*number);
            database.open_flags |= TDB_SEQNUM;
            self.times
                .seqnum_tick
                .get_or_insert(now + self.cluster.seqnum_interval());
        }
        self.answer_status(caller, status_of(answer));
    }

    /// Looks whether a file has changed since the last time.
    pub(crate) fn announce_seqnums(&mut self, now: Instant) {
        if self.times.seqnum_tick.is_none_or(|at| at > now) {
            return;
        }
        self.times.seqnum_tick = Some(now + self.cluster.seqnum_interval());
        let databases = self.cluster.databases.values();
        let counted = databases
            .filter(|db| db.file_seqnum.is_some())
            .map(|db| db.id);
        for db in counted.collect::<Vec<_>>() {
            let ticket = self.cluster.ticket();
            self.waiting.insert(ticket, Waiting::FileSeqnum { db });
            self.cluster.effect(Effect::Db {
                ticket,
                db,
                op: DbOp::FileSeqnum,
            });
        }
    }

    pub(super) fn file_seqnum(&mut self, db: DbId, answer: &Result<DbAnswer, DbFailure>) {
        let Ok(DbAnswer::Number(number)) = answer else {
            return;
        };
        let Some(database) = self.cluster.databases.get_mut(&db) else {
            return;
        };
        let Some(announced) = &mut database.file_seqnum else {
            return;
        };
        if announced == number {
            return;
        }
        *announced = *number;
        let control = Request::UpdateSeqnum(db).to_control(ControlFlags::NOREPLY);
        let me = self.cluster.me;
        for pnn in self.cluster.broadcast_targets(Dest::Active) {
            if pnn != me {
                self.cluster.tell(pnn, control.clone());
            }
        }
    }

    /// `UPDATE_SEQNUM`: the file of another node has changed.
    pub(super) fn update_seqnum(&mut self, caller: Caller, db: DbId) {
        if caller.node == self.cluster.me {
            return self.answer_status(caller, 0);
        }
        if self
            .cluster
            .databases
            .get(&db)
            .is_none_or(|d| d.health.is_some())
        {
            return self.answer_status(caller, -1);
        }
        let ticket = self.cluster.ticket();
        self.waiting.insert(ticket, Waiting::BumpSeqnum { db });
        self.cluster.effect(Effect::Db {
            ticket,
            db,
            op: DbOp::BumpFileSeqnum,
        });
        self.answer_status(caller, 0);
    }

    /// Remembers the number, so that it does not echo.
    pub(super) fn file_seqnum_bumped(&mut self, db: DbId, answer: &Result<DbAnswer, DbFailure>) {
        let Ok(DbAnswer::Number(number)) = answer else {
            return;
        };
        if let Some(announced) = self
            .cluster
            .databases
            .get_mut(&db)
            .and_then(|db| db.file_seqnum.as_mut())
        {
            *announced = *number;
        }
    }
}

impl crate::cluster::Cluster {
    fn seqnum_interval(&self) -> Duration {
        let interval = self.tunables.milliseconds(Tunable::SeqnumInterval);
        interval.max(SHORTEST_INTERVAL)
    }
}

/// TDB flag with which clients open a file whose changes are counted.
const TDB_SEQNUM: i32 = 0x80;
