//! Secrets: a value that never shows itself, and the digest by which passwords are kept and compared.
//!
//! Invariants
//! - No `Debug`, `Display` or `Serialize` shows what is inside, so that no log line, panic or reply can.
//! - A password is kept as its SHA-256 alone; digests have one length and are compared in constant time.

use std::fmt;

use bytes::Bytes;
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};

/// A password as it was typed, on its way to be hashed.
#[derive(Clone)]
pub struct Secret(Bytes);

impl Secret {
    /// Wraps what must not be shown.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// What is inside, for the one who sends it or hashes it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Its SHA-256.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for Secret {}

/// SHA-256 of a password.
#[derive(Clone, Copy, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(Sha256::digest(bytes).into())
    }

    /// Reads exactly 64 lower-case hex digits, as ACL rules write them.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            *byte = value(*high)? << 4 | value(*low)?;
        }
        Some(Self(bytes))
    }

    /// 64 lower-case hex digits.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// True if it is one of `list`. The time depends on the length of the list alone.
    #[must_use]
    pub fn is_among(&self, list: &[Self]) -> bool {
        list.iter().fold(Choice::from(0), |found, other| found | self.0.ct_eq(&other.0)).into()
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_secret_is_shown() {
        let secret = Secret::new(Bytes::from_static(b"hunter2"));
        let shown = format!("{secret:?} {:?} {:#?}", secret.digest(), Some(&secret));
        assert!(!shown.contains("hunter2") && !shown.contains(&secret.digest().hex()), "{shown}");
    }

    #[test]
    fn digests_are_those_of_redis() {
        let digest = Digest::of(b"password");
        let hex = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
        assert_eq!(digest.hex(), hex);
        assert_eq!(Digest::from_hex(hex), Some(digest));
        for bad in ["", &hex[1..], &format!("{hex}0"), &hex.to_uppercase(), &hex.replace('5', "g")] {
            assert_eq!(Digest::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_digest_is_found_wherever_it_stands() {
        let list = [Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c")];
        for word in [b"a", b"b", b"c"] {
            assert!(Digest::of(word).is_among(&list));
        }
        assert!(!Digest::of(b"d").is_among(&list) && !Digest::of(b"a").is_among(&[]));
    }
}
