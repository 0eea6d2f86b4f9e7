//! Local time for the headers of log lines.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::raw;

/// A moment as the clock on the wall shows it. Displayed as `2026-11-20T16:45:20.705143+00:00`
/// (config.md 5.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LocalTime {
    pub year: i64,
    pub month: i32,
    pub day: i32,
    pub hour: i32,
    pub minute: i32,
    pub second: i32,
    pub microsecond: u32,
    /// Minutes east of Greenwich.
    pub offset_minutes: i64,
}

impl LocalTime {
    /// Now, in the time zone of this process.
    pub fn now() -> Self {
        Self::at(SystemTime::now())
    }

    /// A moment in the time zone of this process. Moments before 1970 are shown as its first.
    pub fn at(moment: SystemTime) -> Self {
        let since_epoch = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or_default();
        let microsecond = since_epoch.subsec_micros();
        let Some(tm) = raw::localtime(seconds) else {
            return Self {
                microsecond,
                ..EPOCH
            };
        };
        Self {
            year: i64::from(tm.tm_year) + 1900,
            month: tm.tm_mon + 1,
            day: tm.tm_mday,
            hour: tm.tm_hour,
            minute: tm.tm_min,
            second: tm.tm_sec,
            microsecond,
            offset_minutes: tm.tm_gmtoff / 60,
        }
    }
}

const EPOCH: LocalTime = LocalTime {
    year: 1970,
    month: 1,
    day: 1,
    hour: 0,
    minute: 0,
    second: 0,
    microsecond: 0,
    offset_minutes: 0,
};

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
            microsecond,
            offset_minutes,
        } = self;
        let sign = if *offset_minutes < 0 { '-' } else { '+' };
        let (offset_hour, offset_minute) = (offset_minutes.abs() / 60, offset_minutes.abs() % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{microsecond:06}\
             {sign}{offset_hour:02}:{offset_minute:02}"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_shown_with_microseconds_and_offset() {
        let shown = LocalTime {
            year: 2026,
            month: 3,
            day: 4,
            microsecond: 7,
            ..EPOCH
        };
        assert_eq!(shown.to_string(), "2026-03-04T00:00:00.000007+00:00");
        let west = LocalTime {
            offset_minutes: -210,
            ..shown
        };
        assert_eq!(west.to_string(), "2026-03-04T00:00:00.000007-03:30");
    }

    #[test]
    fn local_time_minus_its_offset_is_universal_time() {
        let moment = UNIX_EPOCH + Duration::new(1_795_193_120, 705_143_000);
        let local = LocalTime::at(moment);
        assert_eq!(local.microsecond, 705_143);
        let minutes = i64::from(local.hour * 60 + local.minute) - local.offset_minutes;
        assert_eq!(minutes.rem_euclid(1440), 1_795_193_120 / 60 % 1440);
    }
}
