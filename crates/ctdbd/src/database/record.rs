//! One look at one record: lock its chain, read it, let the node decide, write, unlock, and only
//! then let the node's packets go.

use bytes::Bytes;
use ctdb_core::{Node, Record, RecordJob, Write};
use ctdb_proto::RecordHeader;
use tdb::{Db, StoreMode};

/// What became of a job.
pub(crate) enum Tried {
    Done,
    /// Somebody else has the chain. Nothing has happened.
    Contended(RecordJob),
    /// There is no room for the record without the free list, and somebody else has that. Nothing
    /// has happened.
    NeedsRoom(RecordJob),
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
        Ok(Some(lock)) => do_job(node, handle, job, value, now, || drop(lock)),
        Ok(None) => Tried::Contended(job),
        Err(error) => {
            node.on_record_failed(job, &error.to_string(), now);
            Tried::Done
        }
    }
}

/// Does a job whose chain is locked, or marked as locked by another handle. `unlock` is called
/// between the write and the packets that tell of it.
///
/// The handle does not wait for the free list. If the write would have to, the decision is
/// forgotten, which has changed nothing: while the job waits for room its record may change.
pub(crate) fn do_job(
    node: &mut Node,
    handle: &Db,
    job: RecordJob,
    value: &mut Vec<u8>,
    now: std::time::Instant,
    unlock: impl FnOnce(),
) -> Tried {
    let record = match read(handle, &job.key, value) {
        Ok(record) => record,
        Err(error) => {
            unlock();
            node.on_record_failed(job, &error.to_string(), now);
            return Tried::Done;
        }
    };
    let (key, again) = (job.key.clone(), job.clone());
    let verdict = node.on_record(job, record, now);
    let written = write(handle, &key, &verdict.write);
    unlock();
    match written {
        Ok(()) => node.conclude(verdict, now),
        Err(tdb::Error::WouldBlock) => return Tried::NeedsRoom(again),
        Err(error) => node.abandon(verdict, &error.to_string(), now),
    }
    Tried::Done
}

fn write(handle: &Db, key: &[u8], write: &Write) -> tdb::Result<()> {
    match write {
        Write::Nothing => Ok(()),
        Write::Store { header, data } => {
            handle.store_parts(key, &[&header.to_bytes(), data], StoreMode::Replace)
        }
        Write::Delete => handle.delete(key).map(|_| ()),
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

#[cfg(test)]
mod tests {
    use ctdb_proto::RecordFlags;
    use tdb::OpenOptions;

    use super::*;

    #[test]
    fn each_write_leaves_what_it_says() {
        let db = OpenOptions::new().open_memory(Vec::new()).unwrap();
        let mut value = Vec::new();
        let flags = RecordFlags::MIGRATED_WITH_DATA;
        let header = RecordHeader {
            flags,
            ..RecordHeader::default()
        };
        let data = Bytes::from_static(b"data");
        // The original aborts when it is to delete what is not there.
        write(&db, b"key", &Write::Delete).unwrap();
        assert_eq!(read(&db, b"key", &mut value).unwrap(), None);
        let store = Write::Store { header, data };
        write(&db, b"key", &store).unwrap();
        write(&db, b"key", &Write::Nothing).unwrap();
        let record = read(&db, b"key", &mut value).unwrap().unwrap();
        assert_eq!((record.header, &record.data[..]), (header, &b"data"[..]));
        write(&db, b"key", &Write::Delete).unwrap();
        assert_eq!(read(&db, b"key", &mut value).unwrap(), None);
    }

    #[test]
    fn what_is_too_short_for_a_header_is_no_record() {
        let db = OpenOptions::new().open_memory(Vec::new()).unwrap();
        db.store(b"key", &[7; 23], StoreMode::Replace).unwrap();
        assert_eq!(read(&db, b"key", &mut Vec::new()).unwrap(), None);
    }
}
