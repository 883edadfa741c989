//! Splits an inline line into words, with the quoting of Redis (`sdssplitargs`).
//!
//! ```text
//! a b           two words
//! "a\tb\x41"    double quotes: \n \r \t \b \a, \xHH = one byte, \<other> = that character
//! 'a\'b'        single quotes: only \' is an escape
//! a"b c"        a quote inside a word goes on with the word, but must end it
//! ```

use bytes::Bytes;

/// The words of `line`, or `None` if a quote is not closed or has something stuck to its end.
pub(super) fn split(line: &[u8]) -> Option<Vec<Bytes>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        // `trim_ascii_start` leaves the vertical tab, which C's isspace skips.
        while let [0x0b, after @ ..] = rest {
            rest = after.trim_ascii_start();
        }
        if rest.is_empty() {
            return Some(words);
        }
        let (word, after) = take_word(rest)?;
        words.push(Bytes::from(word));
        rest = after;
    }
}

/// The first word of `line`, which does not begin with white space, and what follows it.
fn take_word(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    let mut rest = line;
    loop {
        rest = match rest {
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Some((word, rest)),
            [b'"', after @ ..] => {
                let after = take_double_quoted(after, &mut word)?;
                return Some((word, after));
            }
            [b'\'', after @ ..] => {
                let after = take_single_quoted(after, &mut word)?;
                return Some((word, after));
            }
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

/// Appends what stands before the closing `"`; the quote must end the word.
fn take_double_quoted<'a>(line: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    let mut rest = line;
    loop {
        rest = match rest {
            [] => return None,
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex_digit(*high) << 4 | hex_digit(*low));
                after
            }
            [b'\\', escaped, after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                after
            }
            [b'"', after @ ..] => return ends_word(after).then_some(after),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

/// Appends what stands before the closing `'`; the quote must end the word.
fn take_single_quoted<'a>(line: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    let mut rest = line;
    loop {
        rest = match rest {
            [] => return None,
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                after
            }
            [b'\'', after @ ..] => return ends_word(after).then_some(after),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

/// Whether a word may end before `rest`.
fn ends_word(rest: &[u8]) -> bool {
    rest.first().is_none_or(|byte| byte.is_ascii_whitespace() || *byte == 0x0b)
}

/// The value of a hexadecimal digit.
fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.to_ascii_uppercase().wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
        Some(split(line)?.iter().map(|word| word.to_vec()).collect())
    }

    #[test]
    fn splits_as_redis_does() {
        let cases: &[(&[u8], &[&[u8]])] = &[
            (b"", &[]),
            (b" \t \x0b\x0c ", &[]),
            (b"PING", &[b"PING"]),
            (b"  SET  k\tv ", &[b"SET", b"k", b"v"]),
            (b"a\rb", &[b"a", b"b"]),
            (b"a\x0bb", &[b"a\x0bb"]),
            (b"ECHO \"a b\"", &[b"ECHO", b"a b"]),
            (b"ECHO \"\\x00\\xfF\\x4\\xg1\"", &[b"ECHO", b"\x00\xffx4xg1"]),
            (b"ECHO \"\\n\\r\\t\\b\\a\\\\\\\"\\q\"", &[b"ECHO", b"\n\r\t\x08\x07\\\"q"]),
            (b"ECHO 'a\\'b\\n\"'", &[b"ECHO", b"a'b\\n\""]),
            (b"ECHO \"\" ''", &[b"ECHO", b"", b""]),
            (b"ECHO pre\"in side\" x'y z'", &[b"ECHO", b"prein side", b"xy z"]),
            (b"ECHO \\x41", &[b"ECHO", b"\\x41"]),
            (b"ECHO a\0b", &[b"ECHO", b"a\0b"]),
        ];
        for (line, expected) in cases {
            let expected: Vec<Vec<u8>> = expected.iter().map(|word| word.to_vec()).collect();
            assert_eq!(words(line), Some(expected), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn refuses_unbalanced_quotes() {
        for line in
            [&b"\""[..], b"'", b"ECHO \"a", b"ECHO 'a", b"ECHO \"a\"b", b"ECHO 'a'b", b"ECHO \"a\\", b"'a\\'"]
        {
            assert_eq!(words(line), None, "{}", line.escape_ascii());
        }
    }
}
