//! Points in time and durations on the wire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut};

use crate::wire::wire_fields;
use crate::{DecodeError, Wire};

/// A `struct timeval`: a point in time since 1970. 16 bytes.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    8 | seconds                |
/// |      8 |    8 | microseconds           |
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct TimeVal {
    pub sec: i64,
    pub usec: i64,
}

wire_fields!(TimeVal, 16 bytes { sec, usec });

impl TimeVal {
    /// "Never", where a time may be missing.
    pub const ZERO: Self = Self { sec: 0, usec: 0 };

    /// The time as the standard library has it. `None` if it lies before 1970 or so far in the
    /// future that there is no such time.
    pub fn to_system_time(self) -> Option<SystemTime> {
        let secs = Duration::from_secs(self.sec.try_into().ok()?);
        let micros = Duration::from_micros(self.usec.try_into().ok()?);
        UNIX_EPOCH.checked_add(secs)?.checked_add(micros)
    }
}

/// A time before 1970 becomes 1970.
impl From<SystemTime> for TimeVal {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let sec = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        Self {
            sec,
            usec: i64::from(since.subsec_micros()),
        }
    }
}

/// Whole seconds in 32 bits; longer ones become the longest there is, about 136 years.
impl Wire for Duration {
    const MIN_LEN: usize = 4;

    fn encode(&self, out: &mut impl BufMut) {
        u32::try_from(self.as_secs())
            .unwrap_or(u32::MAX)
            .encode(out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        Ok(Self::from_secs(u32::decode(src)?.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_convert_both_ways() {
        let time = UNIX_EPOCH + Duration::from_micros(1_795_193_857_347_311);
        let wire = TimeVal::from(time);
        assert_eq!(
            wire,
            TimeVal {
                sec: 1_795_193_857,
                usec: 347_311
            }
        );
        assert_eq!(wire.to_system_time(), Some(time));
    }

    #[test]
    fn impossible_times_are_none() {
        assert_eq!(TimeVal { sec: -1, usec: 0 }.to_system_time(), None);
        assert_eq!(
            TimeVal {
                sec: i64::MAX,
                usec: i64::MAX
            }
            .to_system_time(),
            None
        );
    }
}
