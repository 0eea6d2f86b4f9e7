//! The types that the value of an option can have.

use std::net::IpAddr;
use std::time::Duration;

use crate::LogLevel;
use crate::address::parse_ip;

/// Why an option could not be set.
pub(super) enum Problem {
    UnknownOption,
    EmptyValue,
    /// The text is not of the option's type.
    WrongType,
    /// The option's own check failed, with its own message if it has one.
    Invalid(Option<String>),
}

/// Largest value of an integer option.
pub(super) const MAX_INTEGER: u64 = i32::MAX as u64;

/// Shortest time in milliseconds: less than that is the work of the machine's scheduler.
pub(super) const SHORTEST_MS: u64 = 20;

pub(super) fn string(value: &str) -> Result<&str, Problem> {
    if value.is_empty() {
        Err(Problem::EmptyValue)
    } else {
        Ok(value)
    }
}

pub(super) fn boolean(value: &str) -> Result<bool, Problem> {
    match string(value)?.to_ascii_lowercase().as_str() {
        "true" | "yes" => Ok(true),
        "false" | "no" => Ok(false),
        _ => Err(Problem::WrongType),
    }
}

pub(super) fn transport(value: &str) -> Result<(), Problem> {
    if string(value)? == "tcp" {
        return Ok(());
    }
    Err(Problem::Invalid(Some(format!(
        "Invalid value for [cluster] -> transport = {value}"
    ))))
}

pub(super) fn node_address(value: &str) -> Result<IpAddr, Problem> {
    parse_ip(string(value)?).ok_or_else(|| {
        Problem::Invalid(Some(format!(
            "Invalid value for [cluster] -> node address = {value}"
        )))
    })
}

pub(super) fn leader_timeout(seconds: u64) -> Result<Duration, Problem> {
    if seconds == 0 {
        let text = "Invalid value for [cluster] -> leader timeout = 0";
        return Err(Problem::Invalid(Some(text.to_owned())));
    }
    Ok(Duration::from_secs(seconds))
}

pub(super) fn script_log_level(value: &str) -> Result<LogLevel, Problem> {
    LogLevel::parse(string(value)?).ok_or_else(|| {
        let text = format!("Invalid value for [legacy] -> script log level = {value}");
        Problem::Invalid(Some(text))
    })
}
