//! Decimal numbers of INCRBYFLOAT: exact to 17 places after the point, the same on every machine.
//!
//! Redis counts in 80-bit floating point and prints 17 places, which no other processor gives. Numbers up to 10^20 are
//! fixed-point here, so 0.1 + 0.2 is 0.3 as in Redis, and stays exact where Redis shows its rounding. Larger ones are
//! 64-bit floating point, whose addition IEEE 754 defines to the bit.

use std::cmp::Ordering;
use std::fmt;

/// Places after the point.
const PLACES: u32 = 17;
const ONE: i128 = 10_i128.pow(PLACES);
/// Fixed-point numbers are smaller than this, so that a sum fits with room to spare.
const FIXED_MAX: i128 = 10_i128.pow(20) * ONE;
/// Longest text that is read as a number, as in Redis.
const TEXT_BYTES_MAX: usize = 255;

/// A finite number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Decimal {
    /// In units of 10^-17.
    Fixed(i128),
    /// At least 10^20 from 0.
    Large(f64),
}

impl Decimal {
    pub(crate) const ZERO: Self = Self::Fixed(0);

    /// Reads `[+-]digits[.digits][e[+-]digits]`; `None` for anything else, and for what is not finite.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        let admitted = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
        if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || !digits.chars().all(admitted) {
            return None;
        }
        // Checks the form too.
        let float: f64 = text.parse().ok()?;
        if !float.is_finite() {
            return None;
        }
        Some(Self::fixed(text).unwrap_or(Self::Large(float)))
    }

    /// Reads a number of that form as fixed-point, rounding half away from 0; `None` if it is too large for that.
    fn fixed(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.parse().ok()?;
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits: Vec<u8> = whole.bytes().chain(part.bytes()).map(|digit| digit - b'0').collect();
        // Number of digits before the point once the exponent is in it.
        let point = i64::try_from(whole.len()).ok()?.checked_add(exponent)?;
        let wanted = point.checked_add(i64::from(PLACES))?;
        let mut units = 0_i128;
        let mut at = 0_i64;
        while at < wanted {
            let digit = usize::try_from(at).ok().and_then(|at| digits.get(at)).copied();
            if digit.is_none() && units == 0 {
                break;
            }
            units = units.checked_mul(10)?.checked_add(i128::from(digit.unwrap_or(0)))?;
            if units >= FIXED_MAX {
                return None;
            }
            at += 1;
        }
        let next = usize::try_from(wanted).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0);
        units += i128::from(next >= 5 && wanted >= 0);
        Some(Self::Fixed(if negative { -units } else { units }))
    }

    /// The sum; `None` if it is not finite.
    pub(crate) fn checked_add(self, other: Self) -> Option<Self> {
        if let (Self::Fixed(one), Self::Fixed(two)) = (self, other)
            && (one + two).abs() < FIXED_MAX
        {
            return Some(Self::Fixed(one + two));
        }
        let sum = self.float() + other.float();
        sum.is_finite().then(|| Self::fixed(&format!("{sum}")).unwrap_or(Self::Large(sum)))
    }

    /// The difference; `None` if it is not finite.
    pub(crate) fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(match other {
            Self::Fixed(units) => Self::Fixed(-units),
            Self::Large(float) => Self::Large(-float),
        })
    }

    #[allow(clippy::cast_precision_loss, reason = "only for numbers of another magnitude")]
    fn float(self) -> f64 {
        match self {
            Self::Fixed(units) => units as f64 / ONE as f64,
            Self::Large(float) => float,
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Fixed(one), Self::Fixed(two)) => one.partial_cmp(two),
            _ => self.float().partial_cmp(&other.float()),
        }
    }
}

impl fmt::Display for Decimal {
    /// Without exponent and without trailing zeros, as Redis prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Large(float) => write!(f, "{float}"),
            Self::Fixed(units) => {
                let (whole, part) = (units.abs() / ONE, units.abs() % ONE);
                if *units < 0 {
                    f.write_str("-")?;
                }
                if part == 0 {
                    return write!(f, "{whole}");
                }
                let part = format!("{part:017}");
                write!(f, "{whole}.{}", part.trim_end_matches('0'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(one: &str, two: &str) -> String {
        let (one, two) = (Decimal::parse(one.as_bytes()).unwrap(), Decimal::parse(two.as_bytes()).unwrap());
        one.checked_add(two).map_or_else(|| "none".to_owned(), |sum| sum.to_string())
    }

    #[test]
    fn sums_are_decimal() {
        for (one, two, expected) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3", "-5", "-2"),
            ("-0.5", "0.25", "-0.25"),
            ("1e-17", "0", "0.00000000000000001"),
            ("1e-18", "0", "0"),
            ("5e-18", "0", "0.00000000000000001"),
            ("1e-400", "1", "1"),
            ("123456.789", "0.1", "123456.889"),
            ("99999999999999999999", "0", "99999999999999999999"),
            ("1e300", "1", &format!("{}", 1e300)),
            ("1e308", "1e308", "none"),
            ("1e25", "-1e25", "0"),
        ] {
            assert_eq!(sum(one, two), expected, "{one} + {two}");
        }
    }

    #[test]
    fn other_texts_are_no_numbers() {
        for text in
            ["", " 1", "1 ", "abc", "nan", "inf", "-inf", "0x10", "1e", "--1", ".", "1.2.3", "1e999", "+-1"]
        {
            assert_eq!(Decimal::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Decimal::parse(b"+.5"), Some(Decimal::Fixed(ONE / 2)));
        assert_eq!(Decimal::parse(b"-1."), Some(Decimal::Fixed(-ONE)));
    }

    #[test]
    fn order_is_that_of_numbers() {
        let of = |text: &str| Decimal::parse(text.as_bytes()).unwrap();
        assert!(of("1.5") < of("2") && of("-1e30") < of("-5") && of("1e30") > of("5"));
    }
}
