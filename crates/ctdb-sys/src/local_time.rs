//! Wall clock time in the time zone of this machine, as log lines and the `ctdb` tool show it.
//!
//! Only libc knows the rules of time zones (`TZ`, `/etc/localtime`) without another dependency.

use std::fmt;

use crate::raw;

/// A moment, taken apart in local time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LocalTime {
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 is Sunday.
    pub weekday: u8,
    pub hour: u8,
    pub minute: u8,
    /// Up to 60 in a leap second.
    pub second: u8,
    /// Seconds east of UTC.
    pub utc_offset: i64,
}

impl LocalTime {
    /// Local time for seconds since 1970 UTC. `None` for a year that libc cannot express.
    pub fn from_unix(seconds: i64) -> Option<Self> {
        let parts = raw::localtime(seconds)?;
        Some(Self {
            year: i64::from(parts.tm_year) + 1900,
            month: u8::try_from(parts.tm_mon + 1).ok()?,
            day: u8::try_from(parts.tm_mday).ok()?,
            weekday: u8::try_from(parts.tm_wday).ok()?,
            hour: u8::try_from(parts.tm_hour).ok()?,
            minute: u8::try_from(parts.tm_min).ok()?,
            second: u8::try_from(parts.tm_sec).ok()?,
            utc_offset: parts.tm_gmtoff,
        })
    }

    /// Offset from UTC as log lines show it: sign, hours and minutes.
    pub fn offset(&self) -> (char, i64, i64) {
        let minutes = self.utc_offset / 60;
        (
            if minutes < 0 { '-' } else { '+' },
            minutes.abs() / 60,
            minutes.abs() % 60,
        )
    }

    /// `Fri Nov 20 16:36:51 2026`, as C's `ctime` without its newline.
    pub fn ctime(&self) -> impl fmt::Display {
        Ctime(*self)
    }
}

struct Ctime(LocalTime);

impl fmt::Display for Ctime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(LocalTime {
            year,
            month,
            day,
            weekday,
            hour,
            minute,
            second,
            ..
        }) = self;
        let weekday = WEEKDAYS.get(usize::from(*weekday)).unwrap_or(&"???");
        let month = MONTHS
            .get(usize::from(*month).wrapping_sub(1))
            .unwrap_or(&"???");
        write!(
            f,
            "{weekday} {month} {day:2} {hour:02}:{minute:02}:{second:02} {year}"
        )
    }
}

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_and_its_offset_add_up() {
        // 2026-11-20 16:36:51 UTC, wherever this test runs.
        let moment = 1_795_192_611;
        let local = LocalTime::from_unix(moment).unwrap();
        let of_day = i64::from(local.hour) * 3600 + i64::from(local.minute) * 60;
        let second = of_day + i64::from(local.second);
        assert_eq!((moment + local.utc_offset).rem_euclid(86_400), second);
        assert_eq!(local.year, 2026);
    }

    #[test]
    fn ctime_pads_the_day_with_a_blank() {
        let local = LocalTime {
            year: 2026,
            month: 3,
            day: 5,
            weekday: 4,
            hour: 1,
            minute: 2,
            second: 3,
            utc_offset: 0,
        };
        assert_eq!(local.ctime().to_string(), "Thu Mar  5 01:02:03 2026");
    }

    #[test]
    fn an_impossible_year_is_none() {
        assert_eq!(LocalTime::from_unix(i64::MAX), None);
    }
}
