//! Why bytes are not what they should be.

/// Why bytes from a peer, a client or a file are not the structure that was expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// A field, or the fixed part of a structure, reaches beyond the end of the bytes.
    #[error("needs {need} bytes, {have} left")]
    TooShort { need: usize, have: usize },
    /// Bytes are left over where the structure must fill its space exactly.
    #[error("{extra} bytes too many")]
    TooLong { extra: usize },
    /// A length on the wire contradicts another one, or the bytes at hand.
    #[error("{what} says {stated}, but there are {actual}")]
    LengthMismatch {
        what: &'static str,
        stated: usize,
        actual: usize,
    },
    /// Not a CTDB packet.
    #[error("bad magic {found:#010x}")]
    BadMagic { found: u32 },
    /// A version of the CTDB packet format that nobody ever used.
    #[error("bad protocol version {found}")]
    BadVersion { found: u32 },
    /// Operation 6, or above 10: dropped, the connection is kept (`wire.md 3.0`).
    #[error("unknown operation {found}")]
    UnknownOperation { found: u32 },
    /// A socket address that is neither IPv4 (2) nor IPv6 (10).
    #[error("unknown address family {found}")]
    BadFamily { found: u16 },
    /// A number outside of the values its field can have.
    #[error("bad {field} {value:#x}")]
    BadValue { field: &'static str, value: u64 },
    /// A C string without its end.
    #[error("{field} has no NUL")]
    NoNul { field: &'static str },
    /// A text field with bytes that are not UTF-8.
    #[error("{field} is not UTF-8")]
    NotUtf8 { field: &'static str },
    /// A text that should be an IP address.
    #[error("{field} is not an IP address")]
    NotAnAddress { field: &'static str },
    /// A field that must have bytes has none (the key of a call, the name of a database).
    #[error("{field} is empty")]
    Empty { field: &'static str },
}

impl From<bytes::TryGetError> for DecodeError {
    fn from(error: bytes::TryGetError) -> Self {
        Self::TooShort {
            need: error.requested,
            have: error.available,
        }
    }
}
