//! `UPDATE_RECORD` of a volatile database: another node takes a read-only copy back
//! (data-plane.md 4.4, 7.3).
//!
//! The copy may still be on its way into the file. So the update is a record job like all others
//! and stays behind it; in the original it can overtake the copy, which then never goes away.

use std::collections::BTreeMap;

use bytes::Bytes;
use ctdb_proto::{Body, RecBuffer, RecordHeader, ReplyControl};

use super::Migrator;
use super::job::{Then, Verdict, Work};
use super::view::View;
use crate::cluster::Cluster;
use crate::input::Record;
use crate::persistent::merge_update;
use crate::waiting::Caller;

/// The controls whose records are not all stored yet.
#[derive(Debug, Default)]
pub(super) struct Updates {
    batches: BTreeMap<u64, Batch>,
    last_number: u64,
}

#[derive(Debug)]
struct Batch {
    caller: Caller,
    left: usize,
    ok: bool,
}

/// Looks at one record of the control. What this node owns is nobody else's to change.
pub(super) fn decide(view: View<'_>, batch: u64, new: &Record, old: Option<&Record>) -> Verdict {
    let mine = old.is_some_and(|old| old.header.dmaster == view.me().get());
    if mine {
        return view.leave(Then::Updated { batch, ok: true });
    }
    match merge_update(old, new, true) {
        Ok(Some(merged)) => {
            let mut draft = view.arrived(merged.header, merged.data);
            draft.store();
            view.verdict(draft, Then::Updated { batch, ok: true })
        }
        Ok(None) => view.leave(Then::Updated { batch, ok: true }),
        Err(refused) => {
            tracing::error!(db = view.db.name, key = ?view.key, "{refused}");
            view.leave(Then::Updated { batch, ok: false })
        }
    }
}

impl Migrator {
    /// `UPDATE_RECORD` for a volatile database that is healthy and not in recovery. Answered with
    /// 0, or 1 if a record here is newer.
    ///
    /// A revoke of before a recovery is refused, since the record may have begun a new life since.
    /// The original lets it overwrite that.
    pub(crate) fn update_records(
        &mut self,
        caller: Caller,
        records: &RecBuffer,
        cluster: &mut Cluster,
    ) {
        self.updates.last_number += 1;
        let (number, db) = (self.updates.last_number, records.db_id());
        let jobs: Option<Vec<(Bytes, Record)>> = records
            .iter()
            .map(|record| {
                let (header, data) = RecordHeader::split(record.data).ok()?;
                let data = Bytes::copy_from_slice(data);
                Some((Bytes::copy_from_slice(record.key), Record { header, data }))
            })
            .collect();
        let batch = Batch {
            caller,
            left: records.count() as usize,
            ok: jobs.is_some(),
        };
        let jobs = jobs.unwrap_or_default();
        if jobs.is_empty() {
            return answer(&batch, cluster);
        }
        self.updates.batches.insert(number, batch);
        for (key, record) in jobs {
            self.submit(
                db,
                key,
                Work::Update {
                    batch: number,
                    generation: caller.generation,
                    record,
                },
                cluster,
            );
        }
    }

    pub(super) fn updated(&mut self, number: u64, ok: bool, cluster: &mut Cluster) {
        let Some(batch) = self.updates.batches.get_mut(&number) else {
            return;
        };
        batch.ok &= ok;
        batch.left = batch.left.saturating_sub(1);
        if batch.left == 0 {
            answer(batch, cluster);
            self.updates.batches.remove(&number);
        }
    }
}

fn answer(batch: &Batch, cluster: &mut Cluster) {
    if batch.caller.wants_reply {
        let reply = ReplyControl::status(i32::from(!batch.ok));
        cluster.send(
            batch.caller.node,
            batch.caller.reqid,
            Body::ReplyControl(reply),
        );
    }
}
