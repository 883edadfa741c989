//! Node and cluster ids as text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A random 64-bit id of a node or a cluster.
///
/// Shape: a string of 16 lower-case hex digits, `"00c0ffee00000001"`. Reading accepts 1 to 16 digits of either case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u64);

/// The text is not an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnId(String);

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an id: expected 1 to 16 hex digits", self.0)
    }
}

impl std::error::Error for NotAnId {}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let wrong = || NotAnId(text.chars().take(32).collect());
        // `from_str_radix` would take a sign.
        if text.is_empty() || text.len() > 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u64::from_str_radix(text, 16).map(Id).map_err(|_| wrong())
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_sixteen_digits_and_reads_back() {
        assert_eq!(Id(0xc0_ffee).to_string(), "0000000000c0ffee");
        assert_eq!("C0FFEE".parse(), Ok(Id(0xc0_ffee)));
        assert_eq!(u64::MAX.to_string().parse::<Id>().ok(), None);
        assert_eq!(Id(u64::MAX).to_string().parse(), Ok(Id(u64::MAX)));
        for wrong in ["", "+1", "-1", "0x1", "g", "00000000000000001"] {
            assert!(wrong.parse::<Id>().is_err(), "{wrong:?}");
        }
    }
}
