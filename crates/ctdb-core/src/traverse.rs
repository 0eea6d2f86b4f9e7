//! Walking over a database on all nodes for one client (data-plane.md 9).
//!
//! The node of the client (the origin) asks the nodes that hold records; each sends its records
//! one by one and an end marker. The reference counts end markers and waits in vain when a node
//! leaves meanwhile; here the origin knows which nodes have not ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;
use ctdb_conf::Tunable;
use ctdb_proto::control::Request;
use ctdb_proto::{
    ClientId, ControlFlags, DbId, Dest, Pnn, RecData, ReqId, ReqMessage, Srvid, TraverseAll,
    TraverseAllExt, TraverseStart,
};

use crate::clients::Clients;
use crate::cluster::Cluster;
use crate::serve::encoded;

/// The traverses that clients of this node have started.
#[derive(Debug, Default)]
pub(crate) struct Traverses {
    open: BTreeMap<ReqId, Traverse>,
}

#[derive(Debug)]
struct Traverse {
    client: ClientId,
    /// The client's own number for it, which it finds in every record.
    client_reqid: ReqId,
    /// Where the client wants the records.
    srvid: Srvid,
    db: DbId,
    /// Nodes that have not sent their end marker.
    missing: BTreeSet<Pnn>,
    deadline: Instant,
}

impl Traverses {
    /// Starts a traverse; its records will come as messages to `start.srvid`.
    pub(crate) fn start(
        &mut self,
        client: ClientId,
        start: &TraverseStart,
        with_empty: bool,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let targets = targets(start.db_id, cluster);
        let id = cluster.reqids.allocate();
        let limit = cluster.tunables.seconds(Tunable::TraverseTimeout);
        self.open.insert(
            id,
            Traverse {
                client,
                client_reqid: start.reqid,
                srvid: start.srvid,
                db: start.db_id,
                missing: targets.iter().copied().collect(),
                deadline: now + limit,
            },
        );
        let all = TraverseAll {
            db_id: start.db_id,
            reqid: id,
            pnn: cluster.me,
            client_reqid: start.reqid,
            srvid: start.srvid,
        };
        let request = if with_empty {
            Request::TraverseAllExt(TraverseAllExt {
                all,
                with_empty_records: true,
            })
        } else {
            Request::TraverseAll(all)
        };
        let control = request.to_control(ControlFlags::NOREPLY);
        for pnn in targets {
            cluster.tell(pnn, control.clone());
        }
    }

    /// One record, or the end marker, from a node (`TRAVERSE_DATA`).
    pub(crate) fn data(
        &mut self,
        from: Pnn,
        record: &RecData,
        clients: &Clients,
        cluster: &mut Cluster,
    ) {
        let id = record.reqid;
        let Some(traverse) = self.open.get_mut(&id) else {
            return;
        };
        if record.is_end() {
            traverse.missing.remove(&from);
            self.end_if_complete(id, clients, cluster);
            return;
        }
        traverse.deliver(record.key.clone(), record.data.clone(), clients, cluster);
    }

    fn end_if_complete(&mut self, id: ReqId, clients: &Clients, cluster: &mut Cluster) {
        if self.open.get(&id).is_none_or(|t| !t.missing.is_empty()) {
            return;
        }
        if let Some(traverse) = self.open.remove(&id) {
            cluster.reqids.release(id);
            traverse.deliver(Bytes::new(), Bytes::new(), clients, cluster);
        }
    }

    /// The node will not send its end marker any more.
    pub(crate) fn node_gone(&mut self, pnn: Pnn, clients: &Clients, cluster: &mut Cluster) {
        let ids: Vec<_> = self.open.keys().copied().collect();
        for id in ids {
            if self
                .open
                .get_mut(&id)
                .is_some_and(|t| t.missing.remove(&pnn))
            {
                self.end_if_complete(id, clients, cluster);
            }
        }
    }

    pub(crate) fn client_gone(&mut self, client: ClientId, cluster: &mut Cluster) {
        let is_its = |(id, t): (&ReqId, &Traverse)| (t.client == client).then_some(*id);
        let ids: Vec<_> = self.open.iter().filter_map(is_its).collect();
        for id in ids {
            if let Some(traverse) = self.open.remove(&id) {
                tracing::warn!(
                    "Traverse cancelled by client disconnect for database:{}",
                    traverse.db
                );
                cluster.reqids.release(id);
                traverse.kill(cluster);
            }
        }
    }

    /// The database is being detached.
    pub(crate) fn database_gone(&mut self, db: DbId, clients: &Clients, cluster: &mut Cluster) {
        let is_its = |(id, t): (&ReqId, &Traverse)| (t.db == db).then_some(*id);
        let ids: Vec<_> = self.open.iter().filter_map(is_its).collect();
        for id in ids {
            self.give_up(id, clients, cluster);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.open.values().map(|t| t.deadline).min()
    }

    pub(crate) fn handle_timeout(
        &mut self,
        clients: &Clients,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let is_due = |(id, t): (&ReqId, &Traverse)| (t.deadline <= now).then_some(*id);
        let ids: Vec<_> = self.open.iter().filter_map(is_due).collect();
        for id in ids {
            let timeouts = &mut cluster.statistics.timeouts;
            timeouts.traverse = timeouts.traverse.wrapping_add(1);
            let db = self
                .open
                .get(&id)
                .and_then(|t| cluster.databases.get(&t.db));
            if let Some(db) = db {
                tracing::error!("Traverse all timeout on database:{}", db.name);
            }
            self.give_up(id, clients, cluster);
        }
    }

    fn give_up(&mut self, id: ReqId, clients: &Clients, cluster: &mut Cluster) {
        if let Some(traverse) = self.open.remove(&id) {
            cluster.reqids.release(id);
            traverse.deliver(Bytes::new(), Bytes::new(), clients, cluster);
            traverse.kill(cluster);
        }
    }
}

impl Traverse {
    fn deliver(&self, key: Bytes, data: Bytes, clients: &Clients, cluster: &mut Cluster) {
        let record = RecData {
            reqid: self.client_reqid,
            key,
            data,
        };
        let message = ReqMessage {
            srvid: self.srvid,
            data: encoded(&record),
        };
        clients.deliver_exactly(&message, cluster);
    }

    /// Tells every node to stop sending.
    fn kill(&self, cluster: &mut Cluster) {
        let kill = TraverseStart {
            db_id: self.db,
            reqid: self.client_reqid,
            srvid: self.srvid,
        };
        let control = Request::TraverseKill(kill).to_control(ControlFlags::NOREPLY);
        for pnn in cluster.broadcast_targets(Dest::Connected) {
            cluster.tell(pnn, control.clone());
        }
    }
}

/// Who holds the records: for a volatile database every active node holds its own; every other
/// kind is whole on any node of the vnn map.
fn targets(db: DbId, cluster: &Cluster) -> Vec<Pnn> {
    let volatile = cluster
        .databases
        .get(&db)
        .is_some_and(crate::database::Database::is_volatile);
    if volatile {
        cluster.broadcast_targets(Dest::Active)
    } else if cluster.vnn_map.map.contains(&cluster.me) {
        vec![cluster.me]
    } else {
        cluster.vnn_map.map.first().copied().into_iter().collect()
    }
}
