//! Read-only copies: handed out by the dmaster, taken back before the record changes
//! (data-plane.md 4).
//!
//! ```text
//!            delegation: rsn+3            call that may write
//!   plain ------------------> DELEGATED ----------------------> REVOKING
//!     ^                           ^                              |    |
//!     | next call: rsn+1          +------- some node did not ----+    | all nodes answered: rsn+1
//!     +------------------------------------- REVOKE_COMPLETE <--------+
//! ```
//!
//! The rsn of a copy stays below that of its owner, also after the revoke. Who has copies is kept
//! in memory only: it need not survive the daemon, whose volatile databases do not either.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use ctdb_proto::{Body, Header, Pnn, RecordFlags, RecordHeader, ReplyCall, ReqId, Rsn, Wire};

use super::job::{Deletion, Then, Verdict, Work, Write};
use super::store::{Draft, join};
use super::view::View;
use crate::input::Record;

/// The record has, or is, a copy.
const SHARED: RecordFlags = RecordFlags::RO_HAVE_DELEGATIONS.union(RecordFlags::RO_HAVE_READONLY);

/// Which nodes have copies of the records of one database, and which are being taken back.
#[derive(Debug, Default)]
pub(super) struct ReadOnly {
    holders: HashMap<Bytes, BTreeSet<Pnn>>,
    revokes: BTreeMap<Bytes, Revoke>,
}

/// Copies of one record are being taken back.
#[derive(Debug, Default)]
pub(super) struct Revoke {
    /// Tells it from an earlier one of the same record, which a recovery may have ended.
    pub(super) number: u64,
    /// Nodes that have not answered yet.
    pub(super) unanswered: usize,
    pub(super) failed: bool,
    /// Calls that wait for the end of it.
    pub(super) waiting: Vec<Work>,
}

impl ReadOnly {
    /// The number of the revoke of this record, if there is one.
    pub(super) fn revoking(&self, key: &[u8]) -> Option<u64> {
        self.revokes.get(key).map(|revoke| revoke.number)
    }

    pub(super) fn add_holder(&mut self, key: &Bytes, pnn: Pnn) {
        match self.holders.get_mut(key) {
            Some(holders) => _ = holders.insert(pnn),
            None => _ = self.holders.insert(super::kept(key), BTreeSet::from([pnn])),
        }
    }

    pub(super) fn forget_holders(&mut self, key: &[u8]) {
        self.holders.remove(key);
    }

    pub(super) fn holders(&self, key: &[u8]) -> impl Iterator<Item = Pnn> {
        self.holders.get(key).into_iter().flatten().copied()
    }

    pub(super) fn begin_revoke(&mut self, key: &Bytes, revoke: Revoke) {
        self.revokes.insert(super::kept(key), revoke);
    }

    pub(super) fn revoke_mut(&mut self, key: &[u8]) -> Option<&mut Revoke> {
        self.revokes.get_mut(key)
    }

    pub(super) fn end_revoke(&mut self, key: &[u8]) -> Option<Revoke> {
        self.revokes.remove(key)
    }

    /// Forgets all copies and ends all revokes; returns the calls that waited (4.5).
    pub(super) fn clear(&mut self) -> Vec<(Bytes, Work)> {
        self.holders.clear();
        let ended = std::mem::take(&mut self.revokes).into_iter();
        ended
            .flat_map(|(key, r)| r.waiting.into_iter().map(move |w| (key.clone(), w)))
            .collect()
    }
}

/// Whether a call may go on at a record of this node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Gate {
    Open,
    /// The copies are being taken back.
    Wait,
    /// The copies must be taken back first.
    Revoke,
}

/// Looks at the read-only flags of a record (3.3 steps 5 to 7) and brings them up to date.
/// Records of other nodes pass: their flags mean nothing here.
pub(super) fn gate(view: View<'_>, draft: &mut Draft, read_only: bool) -> Gate {
    if !draft.is_mine() || !draft.header.flags.intersects(RecordFlags::RO_FLAGS) {
        return Gate::Open;
    }
    if draft.header.flags.contains(RecordFlags::RO_REVOKE_COMPLETE) {
        draft.header.flags.remove(RecordFlags::RO_FLAGS);
        // Other nodes keep their copies, though unreadable. The original forgets that: once
        // emptied, the record is deleted here only, and a recovery finds an old copy again.
        draft.header.flags.insert(RecordFlags::MIGRATED_WITH_DATA);
        draft.store();
        draft.notes.revoked = true;
    }
    if draft
        .header
        .flags
        .contains(RecordFlags::RO_REVOKING_READONLY)
    {
        if view.state.readonly.revoking(view.key).is_some() {
            return Gate::Wait;
        }
        // Nobody here knows of that revoke any more: start over. The original aborts.
        draft.header.flags.remove(RecordFlags::RO_REVOKING_READONLY);
    }
    if !read_only && draft.header.flags.intersects(SHARED) {
        Gate::Revoke
    } else {
        Gate::Open
    }
}

/// Marks the record, so that no client here writes to it, and takes the copies back.
pub(super) fn revoke(view: View<'_>, mut draft: Draft, work: Work) -> Verdict {
    draft.header.flags.insert(RecordFlags::RO_REVOKING_READONLY);
    draft.store();
    let (header, data) = (draft.header, draft.data.clone());
    view.verdict(draft, Then::Revoke { work, header, data })
}

/// The record as the copies become by a revoke (4.4 step 1): older than the owner's, newer than
/// the copies, and no longer readable without asking.
pub(super) fn revoked_copy(owner: &RecordHeader) -> RecordHeader {
    let mut header = *owner;
    header.rsn = Rsn(owner.rsn.get().saturating_sub(1));
    header.flags.remove(RecordFlags::RO_FLAGS);
    header.flags.insert(RecordFlags::MIGRATED_WITH_DATA);
    header
}

/// Hands out a read-only copy (4.2).
pub(super) fn delegate(view: View<'_>, mut draft: Draft, to: Pnn, reqid: ReqId) -> Verdict {
    if !draft
        .header
        .flags
        .contains(RecordFlags::RO_HAVE_DELEGATIONS)
    {
        draft.header.rsn = Rsn(draft.header.rsn.get().wrapping_add(3));
        draft.header.flags.insert(RecordFlags::RO_HAVE_DELEGATIONS);
        draft.store();
    }
    let mut copy = draft.header;
    copy.rsn = Rsn(copy.rsn.get().wrapping_sub(2));
    copy.flags.remove(RecordFlags::RO_HAVE_DELEGATIONS);
    copy.flags.insert(RecordFlags::RO_HAVE_READONLY);
    let body = Body::ReplyCall(ReplyCall {
        status: 0,
        data: join(&copy, &draft.data),
    });
    draft.notes.delegated_to = Some(to);
    view.verdict(draft, Then::Send { to, reqid, body })
}

/// Splits the reply to `FETCH_WITH_HEADER`, if it is a read-only copy.
pub(super) fn as_copy(reply: &ReplyCall) -> Option<Record> {
    let mut data = reply.data.clone();
    let header = RecordHeader::decode(&mut data).ok()?;
    header
        .flags
        .contains(RecordFlags::RO_HAVE_READONLY)
        .then_some(Record { header, data })
}

/// Takes a read-only copy, unless what is here is newer (4.3).
pub(super) fn store_copy(
    view: View<'_>,
    header: Header,
    reply: ReplyCall,
    record: Option<Record>,
) -> Verdict {
    let here = record.map_or(Rsn(0), |r| r.header.rsn);
    let copy = as_copy(&reply).filter(|copy| copy.header.rsn > here);
    let wanted = view.pending(header.reqid).is_some();
    let mut verdict = view.leave(Then::Copied {
        reqid: header.reqid,
        reply,
    });
    if let Some(Record { header, data }) = copy.filter(|_| wanted) {
        verdict.write = Write::Store { header, data };
        verdict.notes.deletion = Deletion::Forget;
    }
    verdict
}

/// Ends a revoke at the owner (4.4 step 3), if the record is still as the revoke left it.
pub(super) fn finish(view: View<'_>, number: u64, all: bool, record: Option<Record>) -> Verdict {
    if view.state.readonly.revoking(view.key) != Some(number) {
        return view.leave(Then::Drop);
    }
    let unready = Then::RevokeOver { ready: false };
    let Some(record) = record else {
        return view.leave(unready);
    };
    let mut draft = view.fetch(Some(record));
    let flags = draft.header.flags;
    let as_left = draft.is_mine()
        && flags.contains(RecordFlags::RO_REVOKING_READONLY)
        && flags.intersects(SHARED);
    if !as_left {
        return view.leave(unready);
    }
    if all {
        draft.header.rsn = Rsn(draft.header.rsn.get().wrapping_add(1));
        draft.header.flags.insert(RecordFlags::RO_REVOKE_COMPLETE);
    } else {
        tracing::warn!(
            db = view.db.name,
            "Revoke all delegations failed, retrying."
        );
        draft.header.flags.remove(RecordFlags::RO_REVOKING_READONLY);
    }
    draft.store();
    view.verdict(draft, Then::RevokeOver { ready: all })
}
