//! What can go wrong between a client and its daemon.

use std::io;
use std::path::PathBuf;

use ctdb_proto::{DecodeError, Dest, Opcode};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The path does not fit into a socket address.
    #[error("socket path too long, len={length}")]
    PathTooLong { length: usize },
    /// No daemon listens there, or it may not be reached.
    #[error("cannot connect to {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The connection has ended, by the daemon or by an unreadable packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("connection to daemon closed")]
pub struct Closed;

/// A control without a result.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("control {opcode} to {}", dest_name(*dest))]
pub struct ControlError {
    pub opcode: Opcode,
    pub dest: Dest,
    #[source]
    pub cause: ControlFailure,
}

/// Why a control has no result.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ControlFailure {
    /// No reply in the time given.
    #[error("timed out")]
    Timeout,
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The daemon refused or failed. The text is empty for most failures.
    #[error("status {status}{}{text}", if text.is_empty() { "" } else { ": " })]
    Status { status: i32, text: String },
    /// The reply does not have the layout of this control.
    #[error("bad reply")]
    Decode(#[source] DecodeError),
}

impl ControlError {
    /// The number that the tools of CTDB show for this error and exit with: the status of the
    /// control, or an errno value.
    pub const fn code(&self) -> i32 {
        match self.cause {
            ControlFailure::Timeout => ETIMEDOUT,
            ControlFailure::Closed(Closed) => EPIPE,
            ControlFailure::Status { status, .. } => status,
            ControlFailure::Decode(_) => EPROTO,
        }
    }
}

fn dest_name(dest: Dest) -> String {
    match dest {
        Dest::Node(pnn) => format!("node {pnn}"),
        Dest::Current => "this node".to_owned(),
        Dest::All | Dest::Active | Dest::Connected => "many nodes".to_owned(),
    }
}

/// Why a call has no result.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallError {
    #[error("timed out")]
    Timeout,
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The daemon could not do the call.
    #[error("status {status}")]
    Status { status: i32 },
}

/// Why a database is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The daemon refused or did not answer.
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The daemon calls the database unhealthy, for this reason.
    #[error("database is unhealthy: {reason}")]
    Unhealthy { reason: String },
    /// The daemon does not say which node it is.
    #[error("node number {found} is not one")]
    BadPnn { found: u32 },
    /// The local file cannot be opened.
    #[error("cannot open {path}")]
    Open {
        path: String,
        #[source]
        source: tdb::OpenError,
    },
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Why an operation on a record, or on all records, failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The daemon could not bring the record here, or read it.
    #[error("call failed")]
    Call(#[source] CallError),
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The local file.
    #[error(transparent)]
    Tdb(#[from] tdb::Error),
    /// No record can have an empty key: the daemon would not answer.
    #[error("empty key")]
    EmptyKey,
    /// Records of persistent and replicated databases do not migrate; they are changed in a
    /// [`Transaction`](crate::Transaction).
    #[error("the database is changed by transactions only")]
    NotVolatile,
    /// A message of a traverse is none.
    #[error("bad record in a traverse")]
    Decode(#[from] DecodeError),
}

impl From<CallError> for RecordError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Closed(closed) => closed.into(),
            other => Self::Call(other),
        }
    }
}

/// Why a cluster-wide lock was not taken, or not given back.
#[derive(Debug, thiserror::Error)]
pub enum GLockError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Something else than the holders of a lock is stored under its name, such as a lock of
    /// Samba's own, which are kept in another form, and did not go for some time.
    #[error("record is no lock")]
    NoLock(#[from] DecodeError),
}

/// Why a transaction failed. Unless it says otherwise nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    #[error("database is volatile: it has no transactions")]
    Volatile,
    #[error("transaction was begun for reading")]
    ReadOnly,
    #[error("cannot open the database of locks")]
    Attach(#[from] AttachError),
    #[error("lock of the transaction")]
    Lock(#[from] GLockError),
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Somebody else changed the database meanwhile: the lock was lost, because this node was not
    /// in the cluster for some time. Or the lock was lost, and nobody has changed anything yet.
    #[error("another transaction came between: sequence number {before}, now {now}")]
    Overtaken {
        /// Sequence number when the transaction began.
        before: u64,
        now: u64,
    },
    /// All changes of a transaction go into one packet.
    #[error("transaction of {size} bytes does not fit into one packet")]
    TooLarge { size: usize },
    /// The daemon, or the lock, went away during the commit: the changes are made on all nodes or
    /// on none.
    #[error("whether the changes are made is unknown")]
    Unknown,
}

impl From<Closed> for TransactionError {
    fn from(closed: Closed) -> Self {
        Self::Record(closed.into())
    }
}

/// Errno values that CTDB uses as results.
const EPIPE: i32 = 32;
const EPROTO: i32 = 71;
const ETIMEDOUT: i32 = 110;
