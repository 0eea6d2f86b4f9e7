//! Calls that this node sent and waits for, and client calls that wait with them (`FetchCollapse`).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ctdb_proto::{
    Body, CallFlags, CallId, ClientId, DbId, Pnn, RecordHeader, ReplyCall, ReplyError, ReqCall,
    ReqId,
};

use super::job::ClientCall;
use crate::cluster::Cluster;

/// Client calls are let go after this time even if the call they wait for has no answer: the
/// first of them then asks again.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// A call that waits for its record, or for a copy of it.
#[derive(Debug)]
pub(crate) struct PendingCall {
    pub(crate) db: DbId,
    /// As it was sent.
    pub(crate) call: ReqCall,
    pub(crate) origin: Origin,
    pub(crate) asked_at: Instant,
}

/// For whom a call was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    Client {
        client: ClientId,
        reqid: ReqId,
        /// The client asked for the data only, but a read-only copy comes with its header.
        without_header: bool,
    },
    /// A run of vacuuming, by its number.
    Vacuum { run: u64 },
}

impl PendingCall {
    pub(super) fn is_for_vacuuming(&self) -> bool {
        self.call.flags.contains(CallFlags::VACUUM_MIGRATION)
    }

    pub(super) fn is_of(&self, gone: ClientId) -> bool {
        matches!(self.origin, Origin::Client { client, .. } if client == gone)
    }

    /// The reply as the client expects it.
    fn reply(&self, reply: ReplyCall) -> ReplyCall {
        match self.origin {
            Origin::Client {
                without_header: true,
                ..
            } if reply.status == 0 => {
                let body = reply.data.get(RecordHeader::LEN..).unwrap_or_default();
                ReplyCall {
                    status: 0,
                    data: reply.data.slice_ref(body),
                }
            }
            _ => reply,
        }
    }
}

/// What a client's call is sent on as: who wants a read-only copy gets it with its header.
pub(super) fn as_sent(call: &ClientCall, read_only: bool) -> (ReqCall, Origin) {
    let mut sent = call.call.clone();
    sent.hopcount = 0;
    sent.flags.set(CallFlags::WANT_READONLY, read_only);
    if read_only {
        sent.call_id = CallId::FETCH_WITH_HEADER;
    }
    let without_header = read_only && call.call.call_id == CallId::FETCH;
    (
        sent,
        Origin::Client {
            client: call.client,
            reqid: call.reqid,
            without_header,
        },
    )
}

/// How a call ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Reply(ReplyCall),
    Error(ReplyError),
}

/// All calls of this node that wait, by the reqid they were sent with.
#[derive(Debug, Default)]
pub(crate) struct PendingCalls {
    by_reqid: HashMap<ReqId, PendingCall>,
}

impl PendingCalls {
    pub(super) fn get(&self, reqid: ReqId) -> Option<&PendingCall> {
        self.by_reqid.get(&reqid)
    }

    /// Sends the call and remembers it.
    pub(super) fn ask(&mut self, pending: PendingCall, to: Pnn, cluster: &mut Cluster) -> ReqId {
        let reqid = cluster.reqids.allocate();
        let body = Body::ReqCall(pending.call.clone());
        let generation = cluster.databases.get(&pending.db).map(|db| db.generation);
        cluster.send_in(
            generation.unwrap_or(cluster.vnn_map.generation),
            to,
            reqid,
            body,
        );
        self.by_reqid.insert(reqid, pending);
        reqid
    }

    /// Forgets a call; a late answer finds nobody.
    pub(super) fn remove(&mut self, reqid: ReqId, cluster: &mut Cluster) -> Option<PendingCall> {
        let pending = self.by_reqid.remove(&reqid)?;
        cluster.reqids.release(reqid);
        Some(pending)
    }

    /// The reqids of the calls that `wanted` names, in order.
    pub(super) fn select(&self, wanted: impl Fn(&PendingCall) -> bool) -> Vec<ReqId> {
        let mut reqids: Vec<ReqId> = self
            .by_reqid
            .iter()
            .filter(|(_, p)| wanted(p))
            .map(|(reqid, _)| *reqid)
            .collect();
        reqids.sort_unstable();
        reqids
    }
}

/// Tells the client how its call ended.
pub(super) fn answer(pending: &PendingCall, outcome: Outcome, cluster: &mut Cluster, now: Instant) {
    let Origin::Client { client, reqid, .. } = pending.origin else {
        return;
    };
    let body = match outcome {
        Outcome::Reply(reply) => Body::ReplyCall(pending.reply(reply)),
        Outcome::Error(error) => {
            tracing::warn!(status = error.status, text = %error.text(), "call failed");
            Body::ReplyError(error)
        }
    };
    cluster.send_client(client, reqid, body);
    cluster.call_answered(pending.db, now.saturating_duration_since(pending.asked_at));
}

/// Per key of one database: client calls that wait for the call that is under way.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    by_key: HashMap<Bytes, Fetch>,
    next_sweep: Option<Instant>,
}

#[derive(Debug)]
struct Fetch {
    /// The call that all wait for.
    owner: ReqId,
    since: Instant,
    waiting: Vec<ClientCall>,
}

impl Fetches {
    pub(super) fn is_under_way(&self, key: &[u8]) -> bool {
        self.by_key.contains_key(key)
    }

    /// From now on calls for this key wait for `owner`.
    pub(super) fn begin(&mut self, key: &Bytes, owner: ReqId, now: Instant) {
        self.by_key.insert(
            key.clone(),
            Fetch {
                owner,
                since: now,
                waiting: Vec::new(),
            },
        );
        self.next_sweep.get_or_insert(now + FETCH_TIMEOUT);
    }

    /// Lets a call wait; gives it back if there is nothing to wait for.
    pub(super) fn join(&mut self, key: &[u8], call: ClientCall) -> Result<(), ClientCall> {
        let Some(fetch) = self.by_key.get_mut(key) else {
            return Err(call);
        };
        fetch.waiting.push(call);
        Ok(())
    }

    /// The call was sent again under a new id.
    pub(super) fn renamed(&mut self, key: &[u8], old: ReqId, new: ReqId) {
        if let Some(fetch) = self.by_key.get_mut(key).filter(|f| f.owner == old) {
            fetch.owner = new;
        }
    }

    /// The call `owner` has ended: returns who waited for it, in order.
    pub(super) fn end(&mut self, key: &[u8], owner: ReqId) -> Vec<ClientCall> {
        match self.by_key.get(key) {
            Some(fetch) if fetch.owner == owner => self
                .by_key
                .remove(key)
                .map(|f| f.waiting)
                .unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Those who have waited too long.
    pub(super) fn timed_out(&mut self, now: Instant) -> Vec<ClientCall> {
        if self.next_sweep.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let late = |fetch: &Fetch| fetch.since + FETCH_TIMEOUT <= now;
        let mut keys: Vec<Bytes> = self
            .by_key
            .iter()
            .filter(|(_, f)| late(f))
            .map(|(key, _)| key.clone())
            .collect();
        keys.sort_unstable();
        let ended = keys.iter().filter_map(|key| self.by_key.remove(key));
        let calls = ended.flat_map(|fetch| fetch.waiting).collect();
        self.next_sweep = self.by_key.values().map(|f| f.since + FETCH_TIMEOUT).min();
        calls
    }

    /// Everybody who waits, for instance when the database is detached.
    pub(super) fn drain(&mut self) -> Vec<ClientCall> {
        let mut fetches: Vec<_> = std::mem::take(&mut self.by_key).into_iter().collect();
        fetches.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        fetches
            .into_iter()
            .flat_map(|(_, fetch)| fetch.waiting)
            .collect()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next_sweep
    }
}
