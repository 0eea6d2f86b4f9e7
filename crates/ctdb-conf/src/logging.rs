//! Log levels and log locations (`config.md` 5.1 and 5.2).

use std::fmt;
use std::path::PathBuf;

/// Verbosity, 0 (only errors) to 10 (everything). A message is emitted when its own level is not
/// above the level in force.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct LogLevel(u8);

impl LogLevel {
    pub const ERROR: Self = Self(0);
    pub const WARNING: Self = Self(1);
    pub const NOTICE: Self = Self(3);
    pub const INFO: Self = Self(5);
    pub const DEBUG: Self = Self(10);

    /// Reads a level: a number 0..=10 with anything behind it, or a prefix of a level's name in any
    /// case. The empty text is a prefix of `ERROR`.
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let end = text
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len());
            let number: u8 = text.get(..end)?.parse().ok()?;
            return (number <= Self::DEBUG.0).then_some(Self(number));
        }
        NAMED
            .into_iter()
            .find(|level| has_prefix(level.name(), text))
    }

    /// The level with this number, as the wire carries it; `None` outside 0..=10.
    pub fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number)
            .ok()
            .filter(|n| *n <= Self::DEBUG.0)
            .map(Self)
    }

    /// The number, 0..=10.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The name used for output; levels between two names take the more severe neighbour's.
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "ERROR",
            1 | 2 => "WARNING",
            3 | 4 => "NOTICE",
            5..=9 => "INFO",
            _ => "DEBUG",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The order in which prefixes are tried.
const NAMED: [LogLevel; 5] = [
    LogLevel::ERROR,
    LogLevel::WARNING,
    LogLevel::NOTICE,
    LogLevel::INFO,
    LogLevel::DEBUG,
];

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Where log lines go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LogLocation {
    /// `file:PATH`: appended to this file.
    File(PathBuf),
    /// `file:` or `file:-`: standard error, without a header.
    Stderr,
    /// `syslog`: the usual, blocking way.
    Syslog,
    /// `syslog:nonblocking`: datagrams to `/dev/log`, dropped when it is full.
    SyslogNonblocking,
    /// `syslog:udp`: UDP to port 514 of this host.
    SyslogUdp,
    /// `syslog:udp-rfc5424`: the same with the modern header.
    SyslogUdpRfc5424,
}

impl LogLocation {
    /// Reads `BACKEND[:OPTION]`. Unlike the original we keep a path whole that contains a colon.
    pub fn parse(text: &str) -> Option<Self> {
        match text
            .split_once(':')
            .map_or((text, None), |(backend, option)| (backend, Some(option)))
        {
            ("file", None | Some("" | "-")) => Some(Self::Stderr),
            ("file", Some(path)) => Some(Self::File(path.into())),
            ("syslog", None) => Some(Self::Syslog),
            ("syslog", Some("nonblocking")) => Some(Self::SyslogNonblocking),
            ("syslog", Some("udp")) => Some(Self::SyslogUdp),
            ("syslog", Some("udp-rfc5424")) => Some(Self::SyslogUdpRfc5424),
            _ => None,
        }
    }
}

impl fmt::Display for LogLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Stderr => f.write_str("file:"),
            Self::Syslog => f.write_str("syslog"),
            Self::SyslogNonblocking => f.write_str("syslog:nonblocking"),
            Self::SyslogUdp => f.write_str("syslog:udp"),
            Self::SyslogUdpRfc5424 => f.write_str("syslog:udp-rfc5424"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_prefixes_in_any_case_or_numbers() {
        for (text, level) in [
            ("", Some(LogLevel::ERROR)),
            ("e", Some(LogLevel::ERROR)),
            ("Warn", Some(LogLevel::WARNING)),
            ("no", Some(LogLevel::NOTICE)),
            ("INFO", Some(LogLevel::INFO)),
            ("debug", Some(LogLevel::DEBUG)),
            ("2", Some(LogLevel(2))),
            ("10x", Some(LogLevel::DEBUG)),
            ("11", None),
            ("-1", None),
            ("errors", None),
            ("verbose", None),
        ] {
            assert_eq!(LogLevel::parse(text), level, "{text:?}");
        }
    }

    #[test]
    fn numbers_between_names_take_the_more_severe_name() {
        let names: Vec<_> = (0..=10).map(|n| LogLevel(n).name()).collect();
        assert_eq!(names[2], "WARNING");
        assert_eq!(names[4], "NOTICE");
        assert_eq!(names[9], "INFO");
        assert_eq!(names[10], "DEBUG");
        assert_eq!(LogLevel::from_number(11), None);
        assert_eq!(LogLevel::from_number(-1), None);
    }

    #[test]
    fn locations_read_and_print_the_same() {
        for text in [
            "file:/a/b",
            "file:",
            "syslog",
            "syslog:nonblocking",
            "syslog:udp",
        ] {
            assert_eq!(LogLocation::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(LogLocation::parse("file:-"), Some(LogLocation::Stderr));
        assert_eq!(LogLocation::parse("syslog:tcp"), None);
        assert_eq!(LogLocation::parse("journal"), None);
    }
}
