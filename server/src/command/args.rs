//! A cursor over the words of a request, and the numbers in them.
//!
//! Invariant: a word is never trusted to exist; a missing one is a syntax error, since arity was checked before.

use bytes::Bytes;

use super::{CommandError, Context, Span};
use crate::clock::UnixMs;
use crate::store::{Condition, Expiry};

/// Longest echo of a client's word in an error, in bytes (as Redis).
const ECHO_BYTES_MAX: usize = 128;

/// Relative deadlines end before the year 2109 plus this many milliseconds; Redis refuses the same sums by its clock.
const RELATIVE_MS_MAX: i64 = i64::MAX - (1 << 42);

/// How a deadline is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Seconds from now.
    Seconds,
    /// Milliseconds from now.
    Milliseconds,
    /// Unix time in seconds.
    AtSeconds,
    /// Unix time in milliseconds.
    AtMilliseconds,
}

impl Deadline {
    /// The number in milliseconds as an expiry; `None` if it does not fit.
    #[must_use]
    pub fn expiry(self, number: i64) -> Option<Expiry> {
        let factor = if matches!(self, Self::Seconds | Self::AtSeconds) { 1000 } else { 1 };
        let ms = number.checked_mul(factor)?;
        match self {
            Self::Seconds | Self::Milliseconds => (ms <= RELATIVE_MS_MAX).then_some(Expiry::In(ms)),
            // What lies before 1970 is past, as 1970 is.
            Self::AtSeconds | Self::AtMilliseconds => {
                Some(Expiry::At(UnixMs(u64::try_from(ms).unwrap_or(0))))
            }
        }
    }
}

/// The words after the name, taken from the front.
#[derive(Debug)]
pub struct Args<'a> {
    words: &'a [Bytes],
    next: usize,
}

impl<'a> Args<'a> {
    /// A cursor behind the first `prefix` words (the name, or container and name).
    #[must_use]
    pub fn new(words: &'a [Bytes], prefix: usize) -> Self {
        Self { words, next: prefix }
    }

    /// Words left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.words.len().saturating_sub(self.next)
    }

    /// The arity error of this command, for shapes that the table cannot say (odd pairs).
    #[must_use]
    pub fn arity(&self) -> CommandError {
        CommandError::Arity(self.words.first().map(|word| printable(word)).unwrap_or_default())
    }

    /// Word 1 as typed, fit for an error.
    #[must_use]
    pub fn subcommand(&self) -> String {
        self.words.get(1).map(|word| printable(word)).unwrap_or_default()
    }

    /// The next word, not taken.
    #[must_use]
    pub fn peek(&self) -> Option<&'a Bytes> {
        self.words.get(self.next)
    }

    /// Takes the next word.
    ///
    /// # Errors
    /// `ERR syntax error` if there is none.
    pub fn bytes(&mut self) -> Result<Bytes, CommandError> {
        let word = self.peek().ok_or(CommandError::Syntax)?;
        self.next += 1;
        Ok(word.clone())
    }

    /// Takes the next word as a key that will be written, within the key limit. Keys that are only read or deleted are
    /// taken by [`Args::bytes`]: a restored snapshot may hold larger ones, and they must stay reachable.
    ///
    /// # Errors
    /// Too large, or missing.
    pub fn new_key(&mut self, context: &Context) -> Result<Bytes, CommandError> {
        let key = self.bytes()?;
        if key.len() > context.key_bytes_max {
            return Err(CommandError::KeyTooLarge {
                size_bytes: key.len(),
                limit_bytes: context.key_bytes_max,
            });
        }
        Ok(key)
    }

    /// Takes all words left.
    #[must_use]
    pub fn rest(&mut self) -> Vec<Bytes> {
        let rest = self.words.get(self.next..).unwrap_or_default().to_vec();
        self.next = self.words.len();
        rest
    }

    /// Takes the next word as an integer in Redis' strict form: no sign `+`, no leading zeros, no blanks.
    ///
    /// # Errors
    /// `ERR value is not an integer or out of range`.
    pub fn int(&mut self) -> Result<i64, CommandError> {
        strict_int(&self.bytes()?).ok_or(CommandError::NotInteger)
    }

    /// Takes the next word if it is `keyword` (upper case) in any case.
    pub fn keyword(&mut self, keyword: &str) -> bool {
        let hit = self.peek().is_some_and(|word| word.eq_ignore_ascii_case(keyword.as_bytes()));
        self.next += usize::from(hit);
        hit
    }

    /// Takes EX, PX, EXAT or PXAT with its number, which must be positive; `None` if the next word is none of them.
    /// `command` is named in the error, in lower case.
    ///
    /// # Errors
    /// A number that is none, or `ERR invalid expire time in '..' command`.
    pub fn expiry(&mut self, command: &str) -> Result<Option<Expiry>, CommandError> {
        let options = [
            ("EX", Deadline::Seconds),
            ("PX", Deadline::Milliseconds),
            ("EXAT", Deadline::AtSeconds),
            ("PXAT", Deadline::AtMilliseconds),
        ];
        let found = options.into_iter().find(|(word, _)| self.keyword(word));
        found.map(|(_, unit)| self.positive_expiry(unit, command)).transpose()
    }

    /// Takes the number of a deadline, which must be positive.
    ///
    /// # Errors
    /// As [`Args::expiry`].
    pub fn positive_expiry(&mut self, unit: Deadline, command: &str) -> Result<Expiry, CommandError> {
        let number = self.int()?;
        let expiry = unit.expiry(number).filter(|_| number > 0);
        expiry.ok_or_else(|| CommandError::Text(format!("ERR invalid expire time in '{command}' command")))
    }

    /// Takes first and last item of a range.
    ///
    /// # Errors
    /// `ERR value is not an integer or out of range`.
    pub fn span(&mut self) -> Result<Span, CommandError> {
        Ok(Span { from: self.int()?, to: self.int()? })
    }

    /// Takes IFEQ, IFNE, IFDEQ or IFDNE with its word; `None` if the next word is none of them.
    ///
    /// # Errors
    /// Nothing behind it, or a digest that is none.
    pub fn comparison(&mut self) -> Result<Option<Condition>, CommandError> {
        if self.keyword("IFEQ") {
            self.bytes().map(|value| Some(Condition::Equals(value)))
        } else if self.keyword("IFNE") {
            self.bytes().map(|value| Some(Condition::Differs(value)))
        } else if self.keyword("IFDEQ") {
            self.digest().map(|digest| Some(Condition::DigestEquals(digest)))
        } else if self.keyword("IFDNE") {
            self.digest().map(|digest| Some(Condition::DigestDiffers(digest)))
        } else {
            Ok(None)
        }
    }

    fn digest(&mut self) -> Result<u64, CommandError> {
        let word = self.bytes()?;
        let text = std::str::from_utf8(&word)
            .ok()
            .filter(|text| text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit()));
        text.and_then(|text| u64::from_str_radix(text, 16).ok())
            .ok_or_else(|| CommandError::Text("ERR must be exactly 16 hexadecimal characters".to_owned()))
    }

    /// Takes the next word as text.
    ///
    /// # Errors
    /// `ERR syntax error` if it is missing or not UTF-8.
    pub fn text(&mut self) -> Result<String, CommandError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| CommandError::Syntax)
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// `ERR syntax error`.
    pub fn finish(&self) -> Result<(), CommandError> {
        if self.left() == 0 { Ok(()) } else { Err(CommandError::Syntax) }
    }
}

/// Redis' `string2ll`: canonical decimal only.
#[must_use]
pub fn strict_int(word: &[u8]) -> Option<i64> {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    let canonical = match digits {
        [] => false,
        [b'0'] => word.len() == 1,
        [first, rest @ ..] => (b'1'..=b'9').contains(first) && rest.iter().all(u8::is_ascii_digit),
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// The ancestor's LIMIT: a decimal 63-bit number, `+` and leading zeros allowed.
#[must_use]
pub fn lenient_count(word: &[u8]) -> Option<u64> {
    let number: i64 = std::str::from_utf8(word).ok()?.parse().ok()?;
    u64::try_from(number).ok()
}

/// A client's word, fit for an error line: UTF-8, no control characters, at most 128 bytes.
#[must_use]
pub fn printable(word: &[u8]) -> String {
    let cut = word.get(..ECHO_BYTES_MAX).unwrap_or(word);
    String::from_utf8_lossy(cut).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&'static str]) -> Vec<Bytes> {
        list.iter().map(|word| Bytes::from_static(word.as_bytes())).collect()
    }

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        let cases: [(&str, Option<i64>); 14] = [
            ("0", Some(0)),
            ("7", Some(7)),
            ("-7", Some(-7)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-0", None),
            ("+7", None),
            ("07", None),
            (" 7", None),
            ("7 ", None),
            ("", None),
            ("-", None),
            ("1.5", None),
        ];
        for (word, expected) in cases {
            assert_eq!(strict_int(word.as_bytes()), expected, "{word:?}");
        }
    }

    #[test]
    fn limits_are_read_as_the_ancestor_reads_them() {
        for (word, expected) in
            [("0", Some(0)), ("+5", Some(5)), ("005", Some(5)), ("-1", None), ("1.5", None), (" 1", None)]
        {
            assert_eq!(lenient_count(word.as_bytes()), expected, "{word:?}");
        }
        assert_eq!(lenient_count(b"9223372036854775808"), None);
    }

    #[test]
    fn a_cursor_takes_words_in_order_and_refuses_leftovers() {
        let words = words(&["SET", "k", "v", "nx"]);
        let mut args = Args::new(&words, 1);
        assert_eq!(args.bytes().unwrap(), "k");
        assert!(!args.keyword("NX"));
        assert_eq!(args.bytes().unwrap(), "v");
        assert_eq!(args.finish(), Err(CommandError::Syntax));
        assert!(args.keyword("NX"));
        assert_eq!(args.finish(), Ok(()));
        assert_eq!(args.bytes(), Err(CommandError::Syntax));
        assert!(args.rest().is_empty());
    }

    #[test]
    fn an_echo_has_no_control_bytes_and_is_cut() {
        assert_eq!(printable(b"foo\r\n+INJECTED\x00\x1b"), "foo  +INJECTED  ");
        assert_eq!(printable(&[b'a'; 500]).len(), 128);
        assert_eq!(printable(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}
