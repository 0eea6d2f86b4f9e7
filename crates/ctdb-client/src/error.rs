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

/// Errno values that CTDB uses as results.
const EPIPE: i32 = 32;
const EPROTO: i32 = 71;
const ETIMEDOUT: i32 = 110;
