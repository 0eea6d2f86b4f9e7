//! What goes wrong with records and their locks, in the words of the original client library.

use ctdb_client::{CallError, GLockError, RecordError, TransactionError};
use ctdb_proto::glock::G_LOCK_DB;
use ctdb_proto::{DbFlags, DbId};
use tdb::ErrorCode;

use crate::database::attach_failure;
use crate::exit::{EINVAL, EIO, EPROTO, ETIMEDOUT, Failure};

/// A record that could not be fetched with its lock.
pub(crate) fn record_failure(name: &str, error: RecordError) -> Failure {
    match error {
        RecordError::Closed(closed) => closed.into(),
        RecordError::Control(error) => error.into(),
        RecordError::Call(error) => call_failure(name, &error),
        RecordError::Tdb(error) if error.code() == ErrorCode::Lock => {
            let text = error.code().text();
            let line = format!("fetch_lock: {name} tdb_chainlock failed, {text}");
            Failure::with_code(EIO, line)
        }
        RecordError::EmptyKey | RecordError::NotVolatile => {
            Failure::with_code(EINVAL, format!("fetch_lock: {name} {error}"))
        }
        RecordError::Tdb(_) | RecordError::Decode(_) => Failure::with_code(EIO, error.to_string()),
    }
}

fn call_failure(name: &str, error: &CallError) -> Failure {
    let code = match error {
        CallError::Closed(closed) => return (*closed).into(),
        CallError::Status { status } => *status,
        CallError::Timeout => ETIMEDOUT,
    };
    Failure::with_code(code, format!("fetch_lock: {name} CALL failed, ret={code}"))
}

/// A transaction on a database that could not be begun.
pub(crate) fn start_failure(name: &str, id: DbId, error: TransactionError) -> Failure {
    let failure = transaction_failure(name, id, "g_lock_lock", error);
    let code = failure.code();
    failure.and(format!(
        "transaction_start: {name} g_lock lock failed, ret={code}"
    ))
}

/// A transaction that failed later; `step` is what was done with its lock.
pub(crate) fn transaction_failure(
    name: &str,
    id: DbId,
    step: &str,
    error: TransactionError,
) -> Failure {
    let commit = |text: String| format!("transaction_commit: {name} {text}");
    match error {
        TransactionError::Attach(error) => attach_failure(G_LOCK_DB, DbFlags::empty(), error),
        TransactionError::Lock(error) => {
            g_lock_failure(&format!("{step}: transaction_db_{id}"), error)
        }
        TransactionError::Record(error) => record_failure(name, error),
        TransactionError::Overtaken { before, now } => {
            let line = commit(format!("seqnum mismatch {now:#x} != {before:#x} + 1"));
            Failure::with_code(EINVAL, line)
        }
        TransactionError::Unknown => Failure::with_code(EIO, commit(error.to_string())),
        TransactionError::TooLarge { .. } => Failure::with_code(EINVAL, error.to_string()),
        TransactionError::Volatile | TransactionError::ReadOnly => {
            Failure::with_code(EINVAL, commit(error.to_string()))
        }
    }
}

/// A lock of the cluster that could not be taken, or not given back; `what` says which.
fn g_lock_failure(what: &str, error: GLockError) -> Failure {
    match error {
        GLockError::Record(error) => {
            record_failure(G_LOCK_DB, error).and(format!("{what} fetch lock failed"))
        }
        GLockError::Control(error) => error.into(),
        GLockError::NoLock(_) => Failure::with_code(EPROTO, format!("{what} invalid lock data")),
    }
}

#[cfg(test)]
mod tests {
    use ctdb_client::error::Closed;

    use super::*;

    const ID: DbId = DbId::new(0xABCD);

    #[test]
    fn a_lost_connection_is_nothing_but_that() {
        let error = RecordError::Closed(Closed);
        let failure = start_failure("p.tdb", ID, GLockError::from(error).into());
        assert_eq!(failure, Failure::ConnectionClosed);
    }

    #[test]
    fn a_call_that_fails_is_reported_step_by_step() {
        let error = RecordError::Call(CallError::Status { status: -1 });
        let failure = start_failure("p.tdb", ID, GLockError::from(error).into());
        let expected = Failure::with_code(-1, "fetch_lock: g_lock.tdb CALL failed, ret=-1")
            .and("g_lock_lock: transaction_db_0x0000abcd fetch lock failed")
            .and("transaction_start: p.tdb g_lock lock failed, ret=-1");
        assert_eq!(failure, expected);
    }

    #[test]
    fn what_is_no_lock_is_called_so() {
        let error = GLockError::NoLock(ctdb_proto::GLock::decode(&[7; 32]).unwrap_err());
        let failure = start_failure("p.tdb", ID, error.into());
        let expected = Failure::with_code(
            71,
            "g_lock_lock: transaction_db_0x0000abcd invalid lock data",
        )
        .and("transaction_start: p.tdb g_lock lock failed, ret=71");
        assert_eq!(failure, expected);
    }

    #[test]
    fn an_overtaken_commit_shows_the_sequence_numbers() {
        let error = TransactionError::Overtaken { before: 4, now: 16 };
        let line = "transaction_commit: p.tdb seqnum mismatch 0x10 != 0x4 + 1";
        let failure = transaction_failure("p.tdb", ID, "g_lock_unlock", error);
        assert_eq!(failure, Failure::with_code(EINVAL, line));
    }
}
