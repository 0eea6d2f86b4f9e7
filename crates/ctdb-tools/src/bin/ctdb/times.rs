//! Dates and durations as `uptime` and `statistics` show them (`cli.md` 2.2).

use ctdb_sys::LocalTime;

/// `Fri Nov 20 16:36:51 2026` in local time.
pub(crate) fn ctime(unix_seconds: i64) -> String {
    match LocalTime::from_unix(unix_seconds) {
        Some(local) => local.ctime().to_string(),
        None => "(time out of range)".to_owned(),
    }
}

/// `(DDD HH:MM:SS)`: a duration in seconds, as days and the rest. A negative one, which clocks that
/// were set back cause, gives the parts that C's division gives.
pub(crate) fn days_and_time(seconds: i64) -> String {
    let (minutes, second) = (seconds / 60, seconds % 60);
    let (hours, minute) = (minutes / 60, minutes % 60);
    format!(
        "({:03} {:02}:{minute:02}:{second:02})",
        hours / 24,
        hours % 24
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_split_into_days_and_time() {
        assert_eq!(days_and_time(27), "(000 00:00:27)");
        assert_eq!(
            days_and_time(((12 * 24 + 3) * 60 + 4) * 60 + 5),
            "(012 03:04:05)"
        );
    }
}
