//! Amounts as people write them: sizes (`500MiB`, `2T`) and spans of time (`90s`, `3d`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const KIB: u64 = 1024;
/// The units of a size, the largest first. Decimal and binary spellings mean the same power of 1,024.
const SIZE_UNITS: [(&str, u64); 4] =
    [("T", KIB * KIB * KIB * KIB), ("G", KIB * KIB * KIB), ("M", KIB * KIB), ("K", KIB)];
const SPAN_UNITS: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Why a text is no amount.
#[derive(Debug, PartialEq, Eq)]
pub struct AmountError(&'static str);

impl fmt::Display for AmountError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for AmountError {}

impl FromStr for Size {
    type Err = AmountError;

    /// A whole number and a unit: none or `B` for bytes, else `K`, `M`, `G` or `T`, with `B` or `iB` behind it or not.
    fn from_str(text: &str) -> Result<Size, AmountError> {
        const WRONG: AmountError = AmountError("a size is a whole number and a unit, as in 500M, 20GiB or 2T");
        let (number, unit) = split(text).ok_or(WRONG)?;
        let unit = unit.trim_end_matches(['B', 'b']).trim_end_matches('i').to_ascii_uppercase();
        let factor = match unit.as_str() {
            "" => 1,
            unit => SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or(WRONG)?.1,
        };
        number.checked_mul(factor).map(Size).ok_or(AmountError("the size is larger than any disk"))
    }
}

impl fmt::Display for Size {
    /// With one decimal, in the largest unit that fits: `1.5 GiB`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZE_UNITS.iter().find(|(_, factor)| self.0 >= *factor) {
            Some((name, factor)) => write!(formatter, "{:.1} {name}iB", self.0 as f64 / *factor as f64),
            None => write!(formatter, "{} B", self.0),
        }
    }
}

/// A span of time, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = AmountError;

    /// A whole number and a unit: `s`, `m`, `h`, `d` or `w`.
    fn from_str(text: &str) -> Result<Span, AmountError> {
        const WRONG: AmountError =
            AmountError("a time is a whole number and a unit, as in 90s, 30m, 12h, 3d or 2w");
        let (number, unit) = split(text).ok_or(WRONG)?;
        let factor = SPAN_UNITS.iter().find(|(name, _)| *name == unit).ok_or(WRONG)?.1;
        // More than a thousand years is a slip of the finger, and would not fit every clock.
        let seconds = number.checked_mul(factor).filter(|seconds| *seconds <= 1_000 * 366 * 86_400);
        seconds.map(|seconds| Span(Duration::from_secs(seconds))).ok_or(AmountError("that is too long a time"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let unit = SPAN_UNITS.iter().find(|(_, factor)| seconds >= *factor && seconds.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) => write!(formatter, "{}{name}", seconds / factor),
            None => write!(formatter, "{seconds}s"),
        }
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("4K", 4096), ("4kB", 4096), ("1 MiB", 1 << 20), ("2T", 2 << 40)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "K", "-1", "1.5G", "1X", "99999999999T", "é"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!(
            [Size(17), Size(1536), Size(5 << 40)].map(|size| size.to_string()),
            ["17 B", "1.5 KiB", "5.0 TiB"]
        );
    }

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("12h", 43_200), ("3d", 259_200), ("2w", 1_209_600)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_secs(seconds))), "{text}");
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["", "3", "d", "3 days", "99999999999w"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
