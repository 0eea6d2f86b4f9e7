//! A record on its way: the lmaster passes it on, the requester takes it (data-plane.md 3.9, 3.10).
//!
//! A call for a record that is just arriving must not be decided on the old copy. Nothing is
//! needed for that here: jobs on one key run in the order of their packets.

use ctdb_proto::{Header, Pnn, RecordFlags, RecordHeader, ReplyDmaster, ReqDmaster, ReqId};

use super::call;
use super::job::{Then, Verdict};
use super::pending::Origin;
use super::store::Draft;
use super::view::View;
use crate::input::Record;

/// The old dmaster gives the record away; this node is its lmaster (3.9).
pub(super) fn req_dmaster(
    view: View<'_>,
    header: Header,
    request: ReqDmaster,
    record: Option<Record>,
) -> Verdict {
    let source = header.src();
    if view.lmaster != view.me() {
        tracing::error!(
            "dmaster request to non-lmaster db={} lmaster={} gen={} curgen={}",
            view.db.name,
            view.lmaster,
            header.generation,
            view.cluster.vnn_map.generation
        );
        return view.leave(Then::ForceRecovery(
            "dmaster request to a node that is not lmaster",
        ));
    }
    let mut draft = view.fetch(record);
    if draft.header.dmaster() != source {
        tracing::error!(
            "dmaster request for new-dmaster {} from non-master {} real-dmaster={} key:{:#010x}",
            request.dmaster,
            header.src,
            draft.header.dmaster,
            ctdb_proto::jenkins_hash(view.key)
        );
        return view.leave(Then::ForceRecovery("ctdb_req_dmaster from non-master"));
    }
    if !view.is_member(request.dmaster) {
        return view.leave(Then::ForceRecovery(
            "dmaster request for a node that does not exist",
        ));
    }
    if draft.header.rsn > request.rsn {
        tracing::warn!(local = %draft.header.rsn, packet = %request.rsn,
            "dmaster request with older RSN");
    }
    draft.header.rsn = request.rsn;
    draft.header.flags = request.record_flags.unwrap_or_default();
    draft.data = request.data;
    if request.dmaster == view.me() {
        become_dmaster(view, draft, source, header.reqid)
    } else {
        call::grant(view, draft, request.dmaster, header.reqid)
    }
}

/// The record comes to this node (3.10), whoever sends it: its generation is right.
pub(super) fn reply_dmaster(view: View<'_>, header: Header, reply: ReplyDmaster) -> Verdict {
    let arriving = RecordHeader::new(reply.rsn, view.me(), reply.record_flags.unwrap_or_default());
    become_dmaster(
        view,
        view.arrived(arriving, reply.data),
        header.src(),
        header.reqid,
    )
}

/// The record is ours from here on, whether anybody still wants it or not.
fn become_dmaster(view: View<'_>, mut draft: Draft, from: Option<Pnn>, reqid: ReqId) -> Verdict {
    draft.header.dmaster = view.me().get();
    let pending = view.pending(reqid);
    if pending.is_some_and(super::pending::PendingCall::is_for_vacuuming) {
        draft.header.flags |= RecordFlags::VACUUM_MIGRATED;
    }
    draft.store();
    let data = match pending {
        // The original stores the record once more here, and so creates it again if the first
        // store had deleted it. It takes it another round of vacuuming to get rid of that.
        Some(p) if matches!(p.origin, Origin::Vacuum { .. }) => None,
        Some(p) => call::local_call(&mut draft, p.call.call_id),
        None => None,
    };
    let data = data.unwrap_or_default();
    view.verdict(draft, Then::Arrived { from, reqid, data })
}
