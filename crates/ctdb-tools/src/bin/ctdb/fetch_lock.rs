//! Fetching a record of a volatile database with its lock, as clients do (`data-plane.md` 3.14).

use ctdb_client::CallError;
use ctdb_proto::{RecordFlags, RecordHeader};
use tdb::{Db, StoreMode};

use crate::context::Context;
use crate::database::Database;
use crate::exit::{EINVAL, EIO, ETIMEDOUT, Failure};

/// A record of the local TDB, read under the lock of its chain.
pub(crate) struct Record {
    pub(crate) header: RecordHeader,
    pub(crate) data: Vec<u8>,
}

/// Brings a record to this node and runs `act` on it while its chain is locked. Another node may
/// take the record away between its arrival and the lock, so this tries without a limit.
pub(crate) async fn with_record<T>(
    context: &Context,
    database: &Database,
    db: &Db,
    key: &[u8],
    readonly: bool,
    mut act: impl FnMut(&Db, &Record) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let name = &database.name;
    loop {
        if let Some(result) = act_if_here(context, name, db, key, readonly, &mut act)? {
            return Ok(result);
        }
        let key = bytes::Bytes::copy_from_slice(key);
        let migrated = context
            .client
            .migrate(database.id, key, readonly, None)
            .await;
        migrated.map_err(|error| call_failure(name, &error))?;
    }
}

/// Runs `act` if the record can be used as it lies in the local TDB. Nothing is awaited meanwhile:
/// the lock holds up everybody who wants a record of its chain.
fn act_if_here<T>(
    context: &Context,
    name: &str,
    db: &Db,
    key: &[u8],
    readonly: bool,
    act: &mut impl FnMut(&Db, &Record) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    let _chain = db.chainlock(key).map_err(|error| {
        let text = error.code().text();
        Failure::with_code(
            EIO,
            format!("fetch_lock: {name} tdb_chainlock failed, {text}"),
        )
    })?;
    let value = db
        .fetch(key)
        .map_err(|error| Failure::with_code(EIO, error.to_string()))?;
    let Some(Ok((header, data))) = value.as_deref().map(RecordHeader::split) else {
        return Ok(None);
    };
    if !is_usable(&header, context.local.get(), readonly) {
        return Ok(None);
    }
    let record = Record {
        header,
        data: data.to_vec(),
    };
    act(db, &record).map(Some)
}

/// Whether this node may use the record as it is (`data-plane.md` 3.14).
fn is_usable(header: &RecordHeader, local: u32, readonly: bool) -> bool {
    let delegated = header.flags.contains(RecordFlags::RO_HAVE_DELEGATIONS);
    if readonly {
        let copy = header.flags.contains(RecordFlags::RO_HAVE_READONLY);
        return header.dmaster == local || copy || delegated;
    }
    header.dmaster == local && !delegated
}

/// Writes a value behind the header that the record has.
pub(crate) fn store(
    db: &Db,
    key: &[u8],
    header: &RecordHeader,
    value: &[u8],
) -> Result<(), Failure> {
    db.store_parts(key, &[&header.to_bytes(), value], StoreMode::Replace)
        .map_err(|_| Failure::silent(EINVAL))
}

fn call_failure(name: &str, error: &CallError) -> Failure {
    let code = match error {
        CallError::Closed(closed) => return (*closed).into(),
        CallError::Status { status } => *status,
        CallError::Timeout => ETIMEDOUT,
    };
    Failure::with_code(code, format!("fetch_lock: {name} CALL failed, ret={code}"))
}

#[cfg(test)]
mod tests {
    use ctdb_proto::Rsn;

    use super::*;

    fn header(dmaster: u32, flags: RecordFlags) -> RecordHeader {
        RecordHeader {
            rsn: Rsn::new(1),
            dmaster,
            reserved: 0,
            flags,
        }
    }

    #[test]
    fn a_record_is_written_only_where_it_is_mastered_and_not_delegated() {
        assert!(is_usable(&header(1, RecordFlags::empty()), 1, false));
        assert!(!is_usable(&header(0, RecordFlags::empty()), 1, false));
        assert!(!is_usable(
            &header(1, RecordFlags::RO_HAVE_DELEGATIONS),
            1,
            false
        ));
        assert!(!is_usable(
            &header(0, RecordFlags::RO_HAVE_READONLY),
            1,
            false
        ));
    }

    #[test]
    fn a_read_only_copy_may_be_read() {
        assert!(is_usable(
            &header(0, RecordFlags::RO_HAVE_READONLY),
            1,
            true
        ));
        assert!(is_usable(
            &header(1, RecordFlags::RO_HAVE_DELEGATIONS),
            1,
            true
        ));
        assert!(!is_usable(&header(0, RecordFlags::empty()), 1, true));
    }
}
