//! READONLY and STICKY of a database: an operator sets them on each node, and they are not part of an attach
//! (data-plane.md 1.8).
//!
//! They live in memory, so a node that starts has lost them. It takes them over from any node that
//! has kept them, once a recovery has attached all databases. Between nodes that differ records
//! migrate as if neither had the flag, so it does not matter when that is.

use std::time::Instant;

use ctdb_proto::control::Request;
use ctdb_proto::{ControlFlags, DbFlags, DbId, DbidMap, Dest, ReplyControl, Wire};
use tracing::{info, warn};

use crate::node::Node;
use crate::outstanding::Asker;
use crate::waiting::Caller;

/// The flags that an operator sets.
const SETTABLE: DbFlags = DbFlags::READONLY.union(DbFlags::STICKY);

impl Node {
    /// READONLY and STICKY are for volatile databases, on this node only.
    pub(super) fn set_db_flag(&mut self, caller: Caller, db: DbId, flag: DbFlags) {
        let volatile = self
            .cluster
            .databases
            .get_mut(&db)
            .filter(|db| db.is_volatile());
        let status = match volatile {
            Some(database) => {
                database.flags |= flag;
                0
            }
            None => -1,
        };
        self.answer_status(caller, status);
    }

    /// A recovery has ended: asks the other nodes which flags their databases have. Who took part
    /// in the one before it together with this node was asked then.
    pub(crate) fn ask_for_db_flags(&mut self, now: Instant) {
        let me = self.cluster.me;
        let limit = self.cluster.control_timeout();
        for pnn in self.cluster.broadcast_targets(Dest::Connected) {
            if pnn == me || !self.told_db_flags.insert(pnn) {
                continue;
            }
            let control = Request::GetDbMap.to_control(ControlFlags::empty());
            let asked = self.cluster.ask(Asker::DbFlags, pnn, control, limit, now);
            if asked.is_err() {
                warn!(%pnn, "cannot be asked for the flags of its databases");
            }
        }
        let members = &self.cluster.vnn_map.map;
        self.told_db_flags.retain(|pnn| members.contains(pnn));
    }

    /// What another node has answered, if it has.
    pub(crate) fn take_db_flags(&mut self, answer: Option<ReplyControl>) {
        let answer = answer.filter(|reply| reply.status == 0);
        let Some(map) = answer.and_then(|reply| DbidMap::decode(&mut reply.data.clone()).ok())
        else {
            return;
        };
        for entry in map.dbs {
            let flags = entry.flags & SETTABLE;
            let ours = self.cluster.databases.get_mut(&entry.db_id);
            if let Some(db) = ours.filter(|db| db.is_volatile() && !db.flags.contains(flags)) {
                info!(
                    "database {} is {flags:?} on other nodes, and so here",
                    db.name
                );
                db.flags |= flags;
            }
        }
    }
}
