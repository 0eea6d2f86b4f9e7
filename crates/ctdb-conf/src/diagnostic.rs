//! One remark about one line of a file.

use std::fmt;
use std::path::Path;

use crate::LogLevel;

/// One remark about a configuration file, at the level and in the words of `config.md`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnostic {
    /// Line of the file, counted from 1: the line on which the faulty logical line begins.
    pub line: usize,
    /// How bad it is. `ERROR` means that something in the file has no effect.
    pub level: LogLevel,
    /// The text, one line without its newline. Texts that the original has are kept word for word.
    pub text: String,
}

impl Diagnostic {
    pub(crate) fn error(line: usize, text: impl Into<String>) -> Self {
        Self {
            line,
            level: LogLevel::ERROR,
            text: text.into(),
        }
    }

    pub(crate) fn warning(line: usize, text: impl Into<String>) -> Self {
        Self {
            line,
            level: LogLevel::WARNING,
            text: text.into(),
        }
    }

    /// `FILE:LINE: TEXT`, for a person who has to find the place.
    pub fn located(&self, file: &Path) -> String {
        format!("{}:{}: {}", file.display(), self.line, self.text)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
