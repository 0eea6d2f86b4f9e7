//! Calls: who serves them, and what the record is afterwards (data-plane.md 3.3 to 3.8).

use bytes::Bytes;
use ctdb_proto::{
    Body, CallFlags, CallId, ClientId, Header, Packet, Pnn, RecordFlags, ReplyCall, ReplyDmaster,
    ReqCall, ReqDmaster, ReqId,
};

use super::job::{ClientCall, PeerCall, Then, Verdict, Work};
use super::readonly::{self, Gate};
use super::store::Draft;
use super::view::View;
use crate::input::Record;

/// A record is chased round the cluster this often only if its copies contradict each other; then
/// only a recovery helps. Far above what contention does: each hop takes a turn of two daemons.
const HOP_LIMIT: u32 = 10_000;

/// Next hop of a call: the dmaster serves it, the lmaster knows the dmaster, all others ask the
/// lmaster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Route {
    Serve,
    Forward(Pnn),
    /// The record names a node that does not exist.
    Lost,
}

/// Decides the next hop. `dmaster` is what the record here says, if it names a node at all.
pub(super) fn route(dmaster: Option<Pnn>, lmaster: Pnn, me: Pnn) -> Route {
    match dmaster {
        Some(dmaster) if dmaster == me => Route::Serve,
        Some(dmaster) if lmaster == me => Route::Forward(dmaster),
        None if lmaster == me => Route::Lost,
        _ => Route::Forward(lmaster),
    }
}

/// A call of a local client (3.3).
pub(super) fn client_call(
    view: View<'_>,
    call: ClientCall,
    record: Option<Record>,
    exists: &dyn Fn(ClientId) -> bool,
) -> Verdict {
    if !exists(call.client) {
        tracing::debug!("Packet for disconnected client {}", call.client);
        return view.leave(Then::ForgetClientCall);
    }
    if view.state.fetches.is_under_way(view.key) {
        return view.leave(Then::JoinFetch(call));
    }
    let mut draft = view.fetch(record);
    let read_only = wants_copy(&call.call, view);
    match readonly::gate(view, &mut draft, read_only) {
        Gate::Open => {}
        Gate::Wait => return view.leave(Then::WaitForRevoke(Work::ClientCall(call))),
        Gate::Revoke => return readonly::revoke(view, draft, Work::ClientCall(call)),
    }
    let asked_at = view.now;
    if draft.is_mine() {
        let id = if read_only {
            copy_call_id(call.call.call_id)
        } else {
            call.call.call_id
        };
        let data = local_call(&mut draft, id).unwrap_or_default();
        view.verdict(
            draft,
            Then::Answer {
                call,
                data,
                asked_at,
            },
        )
    } else {
        let dmaster = draft.header.dmaster().filter(|pnn| view.is_member(*pnn));
        let to = dmaster.unwrap_or(draft.lmaster);
        view.verdict(draft, Then::Ask { call, to, asked_at })
    }
}

/// A call of another node, or of this node resent to itself (3.6).
pub(super) fn peer_call(view: View<'_>, mut call: PeerCall, record: Option<Record>) -> Verdict {
    let from_me = call.requester == view.me();
    if !from_me && view.state.pins.holds(view.key, view.now) {
        return view.leave(Then::WaitForPin(call));
    }
    let mut draft = view.fetch(record);
    let read_only = wants_copy(&call.call, view);
    call.call.flags.set(CallFlags::WANT_READONLY, read_only);
    match route(draft.header.dmaster(), draft.lmaster, view.me()) {
        Route::Serve => {}
        Route::Forward(to) => return redirect(view, &draft, call, to),
        Route::Lost => {
            return view.leave(Then::ForceRecovery(
                "a record names a dmaster that is no node",
            ));
        }
    }
    match readonly::gate(view, &mut draft, read_only) {
        Gate::Open => {}
        Gate::Wait => return view.leave(Then::WaitForRevoke(Work::PeerCall(call))),
        Gate::Revoke => return readonly::revoke(view, draft, Work::PeerCall(call)),
    }
    if from_me {
        return answer_myself(view, draft, &call);
    }
    if !view.cluster.is_connected(call.requester) {
        // The record would be lost on the way. The call is asked again after the recovery that
        // the lost connection brings.
        tracing::warn!(requester = %call.requester, "call of a node without connection dropped");
        return view.leave(Then::Drop);
    }
    if read_only && call.call.call_id == CallId::FETCH_WITH_HEADER {
        return readonly::delegate(view, draft, call.requester, call.header.reqid);
    }
    draft.notes.hops = Some(call.call.hopcount);
    give_away(view, draft, call.requester, call.header.reqid)
}

/// Whether a read-only copy will do, for the caller and for the database.
fn wants_copy(call: &ReqCall, view: View<'_>) -> bool {
    call.flags.contains(CallFlags::WANT_READONLY) && view.is_readonly()
}

/// A client that takes a read-only copy is answered header and data; but one that called FETCH
/// knows nothing of headers.
fn copy_call_id(asked: CallId) -> CallId {
    if asked == CallId::FETCH {
        CallId::FETCH
    } else {
        CallId::FETCH_WITH_HEADER
    }
}

/// Carries out a call on a record of this node (3.4) and stores it, which raises its rsn: whoever
/// holds an older copy can see that. `None` for an unknown call, which changes nothing.
pub(super) fn local_call(draft: &mut Draft, id: CallId) -> Option<Bytes> {
    let reply = match id {
        CallId::NULL => Bytes::new(),
        CallId::FETCH => draft.data.clone(),
        CallId::FETCH_WITH_HEADER => draft.header_and_data(),
        CallId(unknown) => {
            tracing::error!("Unknown call id {unknown}");
            return None;
        }
    };
    draft.store();
    Some(reply)
}

/// Serves a call that this node sent to itself (3.6 step 12).
fn answer_myself(view: View<'_>, mut draft: Draft, call: &PeerCall) -> Verdict {
    draft.notes.hops = Some(call.call.hopcount);
    let (status, data) = match local_call(&mut draft, call.call.call_id) {
        Some(data) => (0, data),
        None => (-1, Bytes::new()),
    };
    let body = Body::ReplyCall(ReplyCall { status, data });
    view.verdict(
        draft,
        Then::Send {
            to: call.requester,
            reqid: call.header.reqid,
            body,
        },
    )
}

/// Sends a call on to the node that should know more (3.7).
fn redirect(view: View<'_>, draft: &Draft, call: PeerCall, to: Pnn) -> Verdict {
    if !view.is_member(to) {
        return view.leave(Then::ForceRecovery(
            "a record names a dmaster that is no node",
        ));
    }
    let PeerCall {
        mut header,
        mut call,
        ..
    } = call;
    call.hopcount = call.hopcount.wrapping_add(1);
    if call.hopcount % 100 > 95 {
        warn_of_hops(view, draft, &call, &header, to);
    }
    if call.hopcount == HOP_LIMIT {
        return view.leave(Then::ForceRecovery(
            "a call is chasing its record without end",
        ));
    }
    header.dest = to.get();
    let packet = Packet {
        header,
        body: Body::ReqCall(call),
    };
    // Whoever is not dmaster has nothing to store: an absent record is created by its lmaster
    // only, which then is the dmaster.
    view.leave(Then::Forward { to, packet })
}

fn warn_of_hops(view: View<'_>, draft: &Draft, call: &ReqCall, header: &Header, to: Pnn) {
    tracing::warn!(
        "High hopcount {} dbid:{} key:{:#010x} reqid={:08x} pnn:{} src:{} lmaster:{} \
         header->dmaster:{} dst:{to}",
        call.hopcount,
        view.db.name,
        ctdb_proto::jenkins_hash(view.key),
        header.reqid.0,
        view.me(),
        header.src,
        draft.lmaster,
        draft.header.dmaster,
    );
}

/// Gives a record of this node to another one (3.8): its lmaster learns of it on the way.
fn give_away(view: View<'_>, mut draft: Draft, to: Pnn, reqid: ReqId) -> Verdict {
    if !draft.data.is_empty() {
        draft.header.flags |= RecordFlags::MIGRATED_WITH_DATA;
    }
    if draft.lmaster == view.me() {
        return grant(view, draft, to, reqid);
    }
    let request = ReqDmaster {
        db_id: view.db.id,
        rsn: draft.header.rsn,
        dmaster: to,
        key: view.key.clone(),
        data: draft.data.clone(),
        record_flags: Some(draft.header.flags),
    };
    draft.header.dmaster = to.get();
    draft.store();
    let (to, body) = (draft.lmaster, Body::ReqDmaster(request));
    view.verdict(draft, Then::Send { to, reqid, body })
}

/// The lmaster notes who the dmaster is from now on, and sends the record there (3.9 step 9).
pub(super) fn grant(view: View<'_>, mut draft: Draft, to: Pnn, reqid: ReqId) -> Verdict {
    let reply = ReplyDmaster {
        db_id: view.db.id,
        rsn: draft.header.rsn,
        key: view.key.clone(),
        data: draft.data.clone(),
        record_flags: Some(draft.header.flags),
    };
    draft.header.dmaster = to.get();
    draft.store();
    view.verdict(
        draft,
        Then::Send {
            to,
            reqid,
            body: Body::ReplyDmaster(reply),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_hop_is_the_dmaster_or_who_knows_it() {
        let [me, lmaster, dmaster] = [0, 1, 2].map(|raw| Pnn::new(raw).unwrap());
        assert_eq!(route(Some(me), lmaster, me), Route::Serve);
        assert_eq!(route(Some(me), me, me), Route::Serve);
        assert_eq!(route(Some(dmaster), me, me), Route::Forward(dmaster));
        assert_eq!(route(Some(dmaster), lmaster, me), Route::Forward(lmaster));
        assert_eq!(route(Some(lmaster), lmaster, me), Route::Forward(lmaster));
        assert_eq!(route(None, lmaster, me), Route::Forward(lmaster));
        assert_eq!(route(None, me, me), Route::Lost);
    }
}
