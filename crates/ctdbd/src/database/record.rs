//! One look at one record: lock its chain, read it, let the node decide, write, unlock, and only
//! then let the node's packets go.

use bytes::Bytes;
use ctdb_core::{Node, Record, RecordJob, Write};
use ctdb_proto::RecordHeader;
use tdb::{Db, StoreMode};

/// What became of a job that found the chain locked by somebody else.
pub(crate) enum Tried {
    Done,
    Contended(RecordJob),
}

/// Does a job if its chain can be locked without waiting. `value` is memory to be used again.
pub(crate) fn try_job(
    node: &mut Node,
    handle: &Db,
    job: RecordJob,
    value: &mut Vec<u8>,
    now: std::time::Instant,
) -> Tried {
    match handle.try_chainlock(&job.key.clone()) {
        Ok(Some(lock)) => {
            do_job(node, handle, job, value, now, || drop(lock));
            Tried::Done
        }
        Ok(None) => Tried::Contended(job),
        Err(error) => {
            node.on_record_failed(job, &error.to_string(), now);
            Tried::Done
        }
    }
}

/// Does a job whose chain is locked, or marked as locked by another handle. `unlock` is called
/// between the write and the packets that tell of it.
pub(crate) fn do_job(
    node: &mut Node,
    handle: &Db,
    job: RecordJob,
    value: &mut Vec<u8>,
    now: std::time::Instant,
    unlock: impl FnOnce(),
) {
    let record = match read(handle, &job.key, value) {
        Ok(record) => record,
        Err(error) => {
            unlock();
            return node.on_record_failed(job, &error.to_string(), now);
        }
    };
    let key = job.key.clone();
    let verdict = node.on_record(job, record, now);
    let written = match &verdict.write {
        Write::Nothing => Ok(()),
        Write::Store { header, data } => {
            handle.store_parts(&key, &[&header.to_bytes(), data], StoreMode::Replace)
        }
        Write::Delete => handle.delete(&key).map(|_| ()),
    };
    unlock();
    match written {
        Ok(()) => node.conclude(verdict, now),
        Err(error) => node.abandon(verdict, &error.to_string(), now),
    }
}

/// The record of a key. A value too short for a header counts as none (tdb.md 9.2).
fn read(handle: &Db, key: &[u8], value: &mut Vec<u8>) -> tdb::Result<Option<Record>> {
    if !handle.fetch_into(key, value)? {
        return Ok(None);
    }
    Ok(RecordHeader::split(value)
        .ok()
        .map(|(header, data)| Record {
            header,
            data: Bytes::copy_from_slice(data),
        }))
}
