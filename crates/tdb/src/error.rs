//! Why an operation did not do what was asked.

use std::io;

/// Result of an operation on an open database.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on an open database failed. A record that is not there is not an error for the
/// calls that ask for one; see their return types.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file contradicts itself. Records elsewhere in the file may still be readable.
    #[error("corrupt database, at offset {offset}: {what}")]
    Corrupt { offset: u32, what: &'static str },
    /// A pointer or length in the file leads outside of it.
    #[error("offset {offset} with {len} bytes lies outside the file of {size} bytes")]
    OutOfBounds { offset: u32, len: usize, size: u32 },
    /// The operating system refused; `what` names the step.
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    /// A lock that was asked for without waiting is held by somebody else.
    #[error("locked by somebody else")]
    WouldBlock,
    /// The lock cannot be had in the state this handle is in.
    #[error("cannot lock: {0}")]
    Lock(&'static str),
    /// [`StoreMode::Insert`](crate::StoreMode::Insert) of a key that exists.
    #[error("record exists")]
    Exists,
    /// [`StoreMode::Modify`](crate::StoreMode::Modify) of a key that does not exist.
    #[error("record does not exist")]
    NotFound,
    /// Write access through a handle that is read-only or inside a read traverse.
    #[error("write not permitted")]
    ReadOnly,
    /// The database cannot grow: the file system is full. What was stored before is intact.
    #[error("no space left on device: the database cannot grow to {wanted} bytes")]
    NoSpace { wanted: u64 },
    /// The record, or the file with it, would pass the 4 GiB that the format can address.
    #[error("larger than a database can be")]
    TooLarge,
    /// A parameter, or an operation, that makes no sense here.
    #[error("invalid parameter: {0}")]
    Invalid(&'static str),
    /// A transaction inside a transaction, though nesting was disallowed at open.
    #[error("transactions must not be nested in this database")]
    Nesting,
    /// The transaction was damaged by an earlier error and has been cancelled.
    #[error("transaction is broken by an earlier error")]
    BrokenTransaction,
}

/// Error classes of the C library, with its texts (`tdb.md` 7.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum ErrorCode {
    Corrupt = 1,
    Io = 2,
    Lock = 3,
    OutOfMemory = 4,
    Exists = 5,
    NoLock = 6,
    NoExist = 8,
    Invalid = 9,
    ReadOnly = 10,
    Nesting = 11,
}

impl Error {
    /// The class that the C library would report.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Corrupt { .. } => ErrorCode::Corrupt,
            Self::OutOfBounds { .. } | Self::Io { .. } | Self::BrokenTransaction => ErrorCode::Io,
            Self::WouldBlock | Self::Lock(_) => ErrorCode::Lock,
            Self::Exists => ErrorCode::Exists,
            Self::NotFound => ErrorCode::NoExist,
            Self::ReadOnly => ErrorCode::ReadOnly,
            Self::NoSpace { .. } | Self::TooLarge => ErrorCode::OutOfMemory,
            Self::Invalid(_) => ErrorCode::Invalid,
            Self::Nesting => ErrorCode::Nesting,
        }
    }

    /// Whether the content of the file is wrong.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::OutOfBounds { .. })
    }

    /// For `map_err`: wraps what the operating system said.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

impl ErrorCode {
    /// Text that the C library and its tools print for this class.
    pub fn text(self) -> &'static str {
        match self {
            Self::Corrupt => "Corrupt database",
            Self::Io => "IO Error",
            Self::Lock => "Locking error",
            Self::OutOfMemory => "Out of memory",
            Self::Exists => "Record exists",
            Self::NoLock => "Lock exists on other keys",
            Self::NoExist => "Record does not exist",
            Self::Invalid => "Invalid parameter",
            Self::ReadOnly => "write not permitted",
            Self::Nesting => "Invalid error code",
        }
    }
}

/// Why a database could not be opened or created (`tdb.md` 1.1, in the order of its table).
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Flags or settings that exclude each other.
    #[error("{0}")]
    Invalid(&'static str),
    /// The operating system refused; `what` names the step.
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    /// Too short, or does not begin with the magic text. It is left alone, unless it is empty.
    #[error("not a TDB file")]
    NotTdb,
    #[error("unknown TDB version {0:#010x}")]
    Version(u32),
    #[error("unknown format marker {0:#010x}")]
    FormatMarker(u32),
    #[error("hash size is zero")]
    NoBuckets,
    #[error("unknown feature flags {0:#x}")]
    Features(u32),
    /// A database with mutexes, opened for writing without `MUTEX_LOCKING`.
    #[error("database uses mutexes")]
    UsesMutexes,
    #[error("mutex area of {found} bytes, must be {expected} on this machine")]
    MutexSize { found: u32, expected: u64 },
    #[error("hash function is neither of the two known ones")]
    UnknownHash,
    #[error("file of {0} bytes is larger than a database can be")]
    TooLarge(u64),
    #[error("{hash_size} hash buckets do not fit into {size} bytes")]
    HashSize { hash_size: u32, size: u32 },
    /// An unfinished transaction could not be rolled back.
    #[error("recovery: {0}")]
    Recovery(#[source] Error),
    /// Locks, or the first access to the data, failed.
    #[error(transparent)]
    Access(#[from] Error),
}

impl OpenError {
    /// Whether it is the content of the file that is wrong. If not, the same file may be opened at
    /// another time: by somebody with the rights to, or when there is memory again.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::NotTdb
            | Self::Version(_)
            | Self::FormatMarker(_)
            | Self::NoBuckets
            | Self::Features(_)
            | Self::MutexSize { .. }
            | Self::UnknownHash
            | Self::TooLarge(_)
            | Self::HashSize { .. } => true,
            Self::Recovery(error) | Self::Access(error) => error.is_damage(),
            Self::Invalid(_) | Self::UsesMutexes | Self::Io { .. } => false,
        }
    }

    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    /// The errno with which the C library's open fails; `None` where it leaves errno unset.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Invalid(_)
            | Self::UsesMutexes
            | Self::MutexSize { .. }
            | Self::UnknownHash
            | Self::HashSize { .. } => Some(libc::EINVAL),
            Self::Io { source, .. } | Self::Access(Error::Io { source, .. }) => {
                source.raw_os_error()
            }
            Self::NotTdb | Self::Version(_) | Self::TooLarge(_) | Self::Access(_) => {
                Some(libc::EIO)
            }
            Self::FormatMarker(_) | Self::NoBuckets | Self::Features(_) => Some(libc::ENOSYS),
            Self::Recovery(_) => None,
        }
    }
}
