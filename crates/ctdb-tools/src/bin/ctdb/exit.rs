//! How a run ends: the one place where results become exit statuses and error texts (`cli.md` 1.10).

use ctdb_client::error::Closed;
use ctdb_client::{ControlError, ControlFailure};
use ctdb_proto::Opcode;

use crate::output::complain;

/// Result of a subcommand: the number behind its exit status, usually 0.
pub(crate) type Outcome = Result<i32, Failure>;

/// Errno values that results are made of.
pub(crate) const ENOENT: i32 = 2;
pub(crate) const EIO: i32 = 5;
pub(crate) const ENOMEM: i32 = 12;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const ERANGE: i32 = 34;
pub(crate) const EPROTO: i32 = 71;
pub(crate) const EMSGSIZE: i32 = 90;
pub(crate) const ETIMEDOUT: i32 = 110;

/// Why a subcommand ended early.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// Wrong arguments: the usage of the command goes to standard output.
    Usage,
    /// The daemon closed the connection.
    ConnectionClosed,
    /// Something failed.
    Failed {
        /// What goes to standard error, first cause first.
        lines: Vec<String>,
        /// A control status or an errno value; see [`exit_status`].
        code: i32,
    },
}

impl Failure {
    /// Nothing is printed, the exit status says it all.
    pub(crate) fn silent(code: i32) -> Self {
        Self::Failed {
            lines: Vec::new(),
            code,
        }
    }

    /// One line and exit status 1.
    pub(crate) fn new(line: impl Into<String>) -> Self {
        Self::with_code(1, line)
    }

    pub(crate) fn with_code(code: i32, line: impl Into<String>) -> Self {
        Self::Failed {
            lines: vec![line.into()],
            code,
        }
    }

    /// Adds a line of the command behind those of the cause.
    pub(crate) fn and(mut self, line: impl Into<String>) -> Self {
        if let Self::Failed { lines, .. } = &mut self {
            lines.push(line.into());
        }
        self
    }

    /// Keeps the lines, with another code.
    pub(crate) fn code_is(mut self, new: i32) -> Self {
        if let Self::Failed { code, .. } = &mut self {
            *code = new;
        }
        self
    }

    /// The number behind the exit status.
    pub(crate) fn code(&self) -> i32 {
        match self {
            Self::Usage | Self::ConnectionClosed => 1,
            Self::Failed { code, .. } => *code,
        }
    }

    /// Prints the lines of a failure that the command survives.
    pub(crate) fn report(&self) {
        if let Self::Failed { lines, .. } = self {
            for line in lines {
                complain(line);
            }
        }
    }
}

/// A control without a result, in the words of the original client library (`cli.md` 1.6).
impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let ControlError {
            opcode,
            dest,
            cause,
        } = &error;
        // The library has this one name wrong, and scripts may know it.
        let name = match *opcode {
            Opcode::SET_DB_READONLY => "SET_DB_READONY".to_owned(),
            other => other.to_string(),
        };
        let (code, node) = (error.code(), dest.raw());
        match cause {
            ControlFailure::Closed(Closed) => Self::ConnectionClosed,
            ControlFailure::Status { .. } => {
                Self::with_code(code, format!("Control {name} failed, ret={code}"))
            }
            ControlFailure::Timeout | ControlFailure::Decode(_) => Self::with_code(
                code,
                format!("Control {name} failed to node {node}, ret={code}"),
            ),
        }
    }
}

impl From<Closed> for Failure {
    fn from(_: Closed) -> Self {
        Self::ConnectionClosed
    }
}

/// The exit status for a result: modulo 256, except that -1 becomes 1.
pub(crate) fn exit_status(result: i32) -> u8 {
    match result {
        -1 => 1,
        other => other.to_le_bytes()[0],
    }
}

#[cfg(test)]
mod tests {
    use ctdb_proto::Dest;

    use super::*;

    #[test]
    fn results_become_statuses_modulo_256_except_minus_one() {
        assert_eq!(
            [0, 1, -1, 110, 256, -2].map(exit_status),
            [0, 1, 1, 110, 0, 254]
        );
    }

    #[test]
    fn control_failures_read_as_in_the_client_library() {
        let error = |opcode, cause| ControlError {
            opcode,
            dest: Dest::from_raw(2).unwrap(),
            cause,
        };
        let refused = ControlFailure::Status {
            status: -1,
            text: "why".into(),
        };
        assert_eq!(
            Failure::from(error(Opcode::PING, refused)),
            Failure::with_code(-1, "Control PING failed, ret=-1")
        );
        assert_eq!(
            Failure::from(error(Opcode::SET_DB_READONLY, ControlFailure::Timeout)),
            Failure::with_code(110, "Control SET_DB_READONY failed to node 2, ret=110")
        );
    }
}
