//! Times: a signed timestamp with nanoseconds as file systems keep it, and UTC as text.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::codec::{DecodeError, Reader, Writer};

const SECONDS_PER_DAY: i64 = 86_400;

/// Seconds since 1970, negative before it, and the nanoseconds that come on top (0 to 999,999,999).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Timestamp {
    pub fn now() -> Timestamp {
        Timestamp::from(SystemTime::now())
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64(self.seconds);
        out.put_u32(self.nanoseconds);
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Timestamp, DecodeError> {
        let seconds = reader.i64("timestamp")?;
        let nanoseconds = reader.u32("timestamp")?;
        if nanoseconds >= 1_000_000_000 {
            return Err(DecodeError::Invalid { what: "timestamp" });
        }
        Ok(Timestamp { seconds, nanoseconds })
    }

    /// `20260131T235959Z`: UTC, for names.
    pub fn compact(&self) -> String {
        let c = self.civil();
        format!("{:04}{:02}{:02}T{:02}{:02}{:02}Z", c.year, c.month, c.day, c.hour, c.minute, c.second)
    }

    /// Year and month (1 to 12) in UTC.
    pub fn year_and_month(&self) -> (i64, i64) {
        let civil = self.civil();
        (civil.year, civil.month)
    }

    fn civil(&self) -> Civil {
        let days = self.seconds.div_euclid(SECONDS_PER_DAY);
        let rest = self.seconds.rem_euclid(SECONDS_PER_DAY);
        let (year, month, day) = civil_from_days(days);
        Civil { year, month, day, hour: rest / 3600, minute: rest / 60 % 60, second: rest % 60 }
    }
}

/// Where a part of the program takes the time from: the system, or what a test has set. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Mutex<Option<Timestamp>>>);

impl Clock {
    pub fn now(&self) -> Timestamp {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(Timestamp::now)
    }

    /// Stops the clock at this moment: for tests.
    pub fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp { seconds: after.as_secs() as i64, nanoseconds: after.subsec_nanos() },
            Err(before) => {
                let gap = before.duration();
                let borrow = i64::from(gap.subsec_nanos() > 0);
                let nanoseconds = if borrow == 1 { 1_000_000_000 - gap.subsec_nanos() } else { 0 };
                Timestamp { seconds: -(gap.as_secs() as i64) - borrow, nanoseconds }
            }
        }
    }
}

/// `2026-01-31T23:59:59Z`: UTC, for people and JSON.
impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.civil();
        write!(
            formatter,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            c.year, c.month, c.day, c.hour, c.minute, c.second
        )
    }
}

/// Why a text is no moment.
#[derive(Debug, PartialEq, Eq)]
pub struct MomentError;

impl fmt::Display for MomentError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .write_str("a moment is a date, as in 2026-01-31, or a date and a time in UTC, as in 2026-01-31T23:59")
    }
}

impl std::error::Error for MomentError {}

/// As it is shown; the seconds, the time and the `Z` may be left out.
impl FromStr for Timestamp {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Timestamp, MomentError> {
        const FORM: &[u8] = b"0000-00-00T00:00:00";
        const LENGTHS: [usize; 3] = [10, 16, 19];
        let digits = text.strip_suffix('Z').filter(|rest| rest.len() > LENGTHS[0]).unwrap_or(text).as_bytes();
        let fits = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
        if !LENGTHS.contains(&digits.len()) || !digits.iter().zip(FORM).all(fits) {
            return Err(MomentError);
        }
        let number = |from: usize, to: usize| {
            let part = digits.get(from..to).unwrap_or_default();
            part.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
        };
        let days = days_from_civil(number(0, 4), number(5, 7), number(8, 10));
        let seconds = days * SECONDS_PER_DAY + number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19);
        let moment = Timestamp { seconds, nanoseconds: 0 };
        // A 30th of February, or a minute 60, is another moment when it is shown.
        match moment.to_string().as_bytes().starts_with(digits) {
            true => Ok(moment),
            false => Err(MomentError),
        }
    }
}

struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

/// Days since 1970 to year, month and day of the proleptic Gregorian calendar. Years are counted from
/// March, so that the leap day is the last of its year, in cycles of 400 years (146,097 days).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    const CYCLE_DAYS: i64 = 146_097;
    const DAYS_FROM_YEAR_0_MARCH: i64 = 719_468;
    let shifted = days.saturating_add(DAYS_FROM_YEAR_0_MARCH);
    let cycle = shifted.div_euclid(CYCLE_DAYS);
    let day_of_cycle = shifted.rem_euclid(CYCLE_DAYS);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / (CYCLE_DAYS - 1)) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_cycle + cycle * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The other way round; months and days out of bounds count on.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    const CYCLE_DAYS: i64 = 146_097;
    const DAYS_FROM_YEAR_0_MARCH: i64 = 719_468;
    let march_year = year - i64::from(month <= 2);
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let (cycle, year_of_cycle) = (march_year.div_euclid(400), march_year.rem_euclid(400));
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_cycle = 365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year;
    cycle * CYCLE_DAYS + day_of_cycle - DAYS_FROM_YEAR_0_MARCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_written_right() {
        let shown = |seconds| Timestamp { seconds, nanoseconds: 0 }.to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown(-1), "1969-12-31T23:59:59Z");
        assert_eq!(shown(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(shown(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(Timestamp { seconds: 1_700_000_000, nanoseconds: 0 }.compact(), "20231114T221320Z");
    }

    #[test]
    fn a_moment_is_read_as_it_is_shown() {
        for seconds in [0, -1, 951_782_400, 4_107_542_399, 1_700_000_000] {
            let moment = Timestamp { seconds, nanoseconds: 0 };
            assert_eq!(moment.to_string().parse(), Ok(moment));
        }
        let seconds = |text: &str| text.parse::<Timestamp>().map(|moment| moment.seconds);
        assert_eq!(seconds("2000-02-29"), Ok(951_782_400));
        assert_eq!((seconds("1970-01-01T00:01"), seconds("1970-01-01T00:01Z")), (Ok(60), Ok(60)));
        for wrong in ["", "2026", "2026-02-30", "2026-13-01", "2026-01-01T24:00", "2026-01-01 10:00", "2026-01-01Z"]
        {
            assert_eq!(seconds(wrong), Err(MomentError), "{wrong}");
        }
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let time = UNIX_EPOCH - std::time::Duration::new(1, 250);
        assert_eq!(Timestamp::from(time), Timestamp { seconds: -2, nanoseconds: 999_999_750 });
    }

    #[test]
    fn the_ends_of_the_range_do_not_panic() {
        for seconds in [i64::MIN, i64::MAX] {
            let _ = Timestamp { seconds, nanoseconds: 0 }.to_string();
        }
    }
}
