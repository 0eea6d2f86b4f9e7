//! Walking over a database on all nodes for one client (data-plane.md 9).
//!
//! The node of the client (the origin) asks the nodes that hold records; each sends its records
//! one by one and an end marker. The reference counts end markers and waits in vain when a node
//! leaves meanwhile; here the origin knows which nodes have not ended.
//!
//! A client may read slower than the nodes send. So the last record of each batch asks for a reply,
//! and gets it when little is queued for the client; a node sends only a few batches ahead of the
//! replies ([`crate::TRAVERSE_WINDOW`]). A node of the original neither asks nor waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

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
    /// Replies that are put off since the client does not read.
    held: u32,
    /// If nothing comes until then, and not for the client's sake, it is over.
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
        let limit = time_limit(cluster);
        self.open.insert(
            id,
            Traverse {
                client,
                client_reqid: start.reqid,
                srvid: start.srvid,
                db: start.db_id,
                missing: targets.iter().copied().collect(),
                held: 0,
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
        now: Instant,
    ) {
        let id = record.reqid;
        let Some(traverse) = self.open.get_mut(&id) else {
            return;
        };
        traverse.deadline = now + time_limit(cluster);
        if record.is_end() {
            traverse.missing.remove(&from);
            self.end_if_complete(id, clients, cluster);
            return;
        }
        traverse.deliver(record.key.clone(), record.data.clone(), clients, cluster);
    }

    /// The client that a traverse is for.
    pub(crate) fn reader(&self, id: ReqId) -> Option<ClientId> {
        self.open.get(&id).map(|traverse| traverse.client)
    }

    /// A reply is put off until the client has room.
    pub(crate) fn hold(&mut self, id: ReqId) {
        if let Some(traverse) = self.open.get_mut(&id) {
            traverse.held += 1;
        }
    }

    /// The client has room.
    pub(crate) fn go_on(&mut self, id: ReqId, cluster: &Cluster, now: Instant) {
        if let Some(traverse) = self.open.get_mut(&id) {
            traverse.held = traverse.held.saturating_sub(1);
            traverse.deadline = now + time_limit(cluster);
        }
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
        let running = self.open.values().filter(|t| t.held == 0);
        running.map(|t| t.deadline).min()
    }

    pub(crate) fn handle_timeout(
        &mut self,
        clients: &Clients,
        cluster: &mut Cluster,
        now: Instant,
    ) {
        let is_due =
            |(id, t): (&ReqId, &Traverse)| (t.held == 0 && t.deadline <= now).then_some(*id);
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

/// `TraverseTimeout`. In the original that is the time for the whole traverse; here that takes as
/// long as its client does.
fn time_limit(cluster: &Cluster) -> Duration {
    cluster.tunables.seconds(Tunable::TraverseTimeout)
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use ctdb_conf::Tunables;
    use ctdb_proto::{Capabilities, NodeFlags};

    use super::*;
    use crate::cluster::NodeEntry;

    const CLIENT: ClientId = ClientId(7);
    const LIMIT: Duration = Duration::from_secs(20);

    struct Fixture {
        traverses: Traverses,
        clients: Clients,
        cluster: Cluster,
        now: Instant,
    }

    /// One node, which has begun a traverse of its only database.
    #[expect(
        clippy::disallowed_methods,
        reason = "where time begins does not matter"
    )]
    fn begun() -> (Fixture, ReqId) {
        let me = Pnn::new(0).unwrap();
        let node = NodeEntry {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 4379)),
            flags: NodeFlags::empty(),
        };
        let mut cluster = Cluster::new(me, vec![node], Capabilities::DEFAULT, Tunables::default());
        cluster.vnn_map.map = vec![me];
        let mut fixture = Fixture {
            traverses: Traverses::default(),
            clients: Clients::default(),
            cluster,
            now: Instant::now(),
        };
        let start = TraverseStart {
            db_id: DbId(1),
            reqid: ReqId(5),
            srvid: Srvid(9),
        };
        let Fixture {
            traverses,
            cluster,
            now,
            ..
        } = &mut fixture;
        traverses.start(CLIENT, &start, false, cluster, *now);
        let id = *traverses.open.keys().next().unwrap();
        (fixture, id)
    }

    impl Fixture {
        fn record(&mut self, id: ReqId, key: &'static str) {
            let record = RecData {
                reqid: id,
                key: Bytes::from(key),
                data: Bytes::new(),
            };
            let (me, now) = (self.cluster.me, self.now);
            self.traverses
                .data(me, &record, &self.clients, &mut self.cluster, now);
        }

        /// Lets time pass; says whether the traverse goes on.
        fn goes_on_after(&mut self, time: Duration) -> bool {
            self.now += time;
            self.traverses
                .handle_timeout(&self.clients, &mut self.cluster, self.now);
            !self.traverses.open.is_empty()
        }
    }

    #[test]
    fn a_traverse_ends_when_nothing_comes_any_more() {
        let (mut fixture, id) = begun();
        for _ in 0..5 {
            assert!(fixture.goes_on_after(LIMIT * 3 / 4));
            fixture.record(id, "key");
        }
        assert!(!fixture.goes_on_after(LIMIT));
        assert_eq!(fixture.cluster.statistics.timeouts.traverse, 1);
    }

    #[test]
    fn a_client_may_take_its_time() {
        let (mut fixture, id) = begun();
        fixture.record(id, "key");
        assert_eq!(fixture.traverses.reader(id), Some(CLIENT));
        fixture.traverses.hold(id);
        assert_eq!(fixture.traverses.poll_timeout(), None);
        assert!(fixture.goes_on_after(LIMIT * 10));
        let now = fixture.now;
        fixture.traverses.go_on(id, &fixture.cluster, now);
        assert!(fixture.goes_on_after(LIMIT / 2));
        assert!(!fixture.goes_on_after(LIMIT));
    }
}
