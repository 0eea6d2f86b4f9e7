//! What the simulation tests share: a client, and a cluster that is up.

use std::time::Duration;

use bytes::Bytes;
use ctdb_proto::control::Request;
use ctdb_proto::{
    Body, CURRENT_NODE, CallFlags, CallId, ClientId, ControlFlags, DbId, Generation, Header,
    Packet, Pnn, ReplyControl, ReqCall, ReqId,
};
use ctdb_sim::{Options, World};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn pnn(raw: u32) -> Pnn {
    Pnn::new(raw).expect("a test names real nodes")
}

pub(crate) fn healthy_world(seed: u64, options: Options) -> World {
    let mut world = World::new(seed, options);
    assert!(
        world.run_until(SECOND * 10, |w| w.is_healthy()),
        "seed {seed}: not healthy in 10 s"
    );
    world
}

/// A local process that asks one thing at a time.
pub(crate) struct Client {
    pub pnn: Pnn,
    id: ClientId,
    last: u32,
}

impl Client {
    pub(crate) fn connect(world: &mut World, pnn: Pnn) -> Self {
        let id = world.connect_client(pnn, 4711).expect("the node runs");
        Self { pnn, id, last: 0 }
    }

    fn send(&mut self, world: &mut World, body: Body) -> ReqId {
        self.last += 1;
        let reqid = ReqId(self.last);
        let header = Header {
            generation: Generation(0),
            dest: CURRENT_NODE,
            src: 0,
            reqid,
        };
        world.client_sends(self.pnn, self.id, Packet { header, body });
        reqid
    }

    fn ask(&mut self, world: &mut World, body: Body, limit: Duration) -> Option<Body> {
        let reqid = self.send(world, body);
        let (pnn, id) = (self.pnn, self.id);
        let mut answer = None;
        let end = world.elapsed() + limit;
        while answer.is_none() && world.elapsed() < end {
            answer = world
                .inbox(pnn, id)
                .into_iter()
                .find(|p| p.header.reqid == reqid);
            if answer.is_none() {
                world.step();
            }
        }
        answer.map(|packet| packet.body)
    }

    pub(crate) fn control(&mut self, world: &mut World, request: &Request) -> ReplyControl {
        let body = Body::ReqControl(request.to_control(ControlFlags::empty()));
        match self.ask(world, body, SECOND * 30) {
            Some(Body::ReplyControl(reply)) => reply,
            other => panic!("no reply to {request:?} but {other:?}"),
        }
    }

    pub(crate) fn attach(&mut self, world: &mut World, name: &str) -> DbId {
        let reply = self.control(world, &Request::DbAttach(name.to_owned()));
        assert_eq!(reply.status, 0, "attach of {name}");
        DbId::of_name(name)
    }

    /// Makes this node the dmaster of a record, as `smbd` does before it writes.
    fn migrate(&mut self, world: &mut World, db: DbId, key: &[u8]) {
        let answer = self.ask(world, migrating_call(db, key), SECOND * 30);
        if !matches!(answer, Some(Body::ReplyCall(_))) {
            let copies: Vec<_> = world
                .pnns()
                .map(|pnn| world.disk(pnn).record(db, key).map(|record| record.header))
                .collect();
            let me = self.pnn;
            panic!(
                "node {me}: {answer:?} for {key:?}, copies {copies:#?}; {}",
                world.report()
            );
        }
    }

    /// Fetches a record for writing and adds one to the number in it.
    pub(crate) fn increment(&mut self, world: &mut World, db: DbId, key: &[u8]) -> u64 {
        for _ in 0..100 {
            let me = self.pnn.get();
            let record = world.disk(self.pnn).record(db, key).cloned();
            match record.filter(|r| r.header.dmaster == me) {
                Some(record) if !world.disk(self.pnn).is_frozen(db) => {
                    let old = record.data[..].try_into().map_or(0, u64::from_le_bytes);
                    let new = Bytes::copy_from_slice(&(old + 1).to_le_bytes());
                    assert!(world.disk_mut(self.pnn).client_write(db, key, new));
                    return old + 1;
                }
                _ => self.migrate(world, db, key),
            }
        }
        panic!("the record never came");
    }
}

/// The call with which a node becomes dmaster of a record.
pub(crate) fn migrating_call(db: DbId, key: &[u8]) -> Body {
    Body::ReqCall(ReqCall {
        flags: CallFlags::IMMEDIATE_MIGRATION,
        db_id: db,
        call_id: CallId::NULL,
        hopcount: 0,
        key: Bytes::copy_from_slice(key),
        data: Bytes::new(),
    })
}
