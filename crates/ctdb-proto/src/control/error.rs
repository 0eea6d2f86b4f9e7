//! Why the payload of a control cannot be served. The texts are those of the original's log.

use crate::{DecodeError, Opcode};

/// Why the request of a control is refused. The answer is always status -1, without data or text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ControlDecodeError {
    /// A control that was served once.
    #[error(
        "Control {name} is not implemented any more{}{}",
        if use_instead.is_some() { ", use " } else { "" },
        match use_instead { Some(new) => format!("{new} instead"), None => String::new() }
    )]
    Obsolete {
        opcode: Opcode,
        /// The name that the log of the original gives it.
        name: &'static str,
        use_instead: Option<&'static str>,
    },
    /// A number that was never a control.
    #[error("Unknown CTDB control opcode {}", opcode.get())]
    Unknown { opcode: Opcode },
    /// The payload has another size than the control's argument, or less than its least size.
    #[error("Invalid data size in opcode {}. Got {got} expected {expected}", opcode.get())]
    BadSize {
        opcode: Opcode,
        got: usize,
        expected: usize,
    },
    /// The size may be right, the contents are not.
    #[error("Invalid data in control {opcode}")]
    Malformed {
        opcode: Opcode,
        #[source]
        error: DecodeError,
    },
}
