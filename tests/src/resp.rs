//! RESP2 and RESP3 values: decoding of replies, encoding of requests.
//!
//! Small and strict: anything that is not a well-formed reply is an error, so that the suites notice bad framing.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

/// Deepest nesting of a reply that we follow.
const DEPTH_MAX: usize = 32;

/// One reply.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// `+text`
    Simple(String),
    /// `-text`
    Error(String),
    /// `:n`
    Int(i64),
    /// `$n bytes` (also `=` verbatim text without its type)
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` or `_`
    Nil,
    /// `*n`
    Array(Vec<Value>),
    /// `%n`
    Map(Vec<(Value, Value)>),
    /// `~n`
    Set(Vec<Value>),
    /// `>n`
    Push(Vec<Value>),
    /// `,text`
    Double(String),
    /// `#t` or `#f`
    Bool(bool),
    /// `(digits`
    BigNumber(String),
}

impl Value {
    /// `+OK`?
    #[must_use]
    pub fn is_ok(&self) -> bool {
        matches!(self, Value::Simple(text) if text == "OK")
    }

    /// A bulk or simple string as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bulk(bytes) => Some(bytes),
            Value::Simple(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// A bulk or simple string as text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// The text of an error reply.
    #[must_use]
    pub fn as_error(&self) -> Option<&str> {
        match self {
            Value::Error(text) => Some(text),
            _ => None,
        }
    }

    /// An integer.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The elements of an array, set or push; the flattened pairs of a map.
    #[must_use]
    pub fn items(&self) -> Vec<&Value> {
        match self {
            Value::Array(items) | Value::Set(items) | Value::Push(items) => items.iter().collect(),
            Value::Map(pairs) => pairs.iter().flat_map(|(key, value)| [key, value]).collect(),
            _ => Vec::new(),
        }
    }

    /// The elements as text, lossy.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.items()
            .iter()
            .map(|item| {
                item.as_bytes().map_or_else(|| format!("{item:?}"), |b| String::from_utf8_lossy(b).into())
            })
            .collect()
    }
}

/// As redis-cli would show it, in one line, for failure messages and scripts.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, mark: char, items: &[Value]| write!(f, "{mark}{items:?}");
        match self {
            Value::Simple(text) => write!(f, "+{text}"),
            Value::Error(text) => write!(f, "-{text}"),
            Value::Int(number) => write!(f, ":{number}"),
            Value::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Value::Nil => write!(f, "nil"),
            Value::Array(items) => list(f, '*', items),
            Value::Set(items) => list(f, '~', items),
            Value::Push(items) => list(f, '>', items),
            Value::Map(pairs) => write!(f, "%{pairs:?}"),
            Value::Double(text) => write!(f, ",{text}"),
            Value::Bool(truth) => write!(f, "#{truth}"),
            Value::BigNumber(text) => write!(f, "({text}"),
        }
    }
}

/// Decodes one reply from the start of `buffer`: the value and its length, or `None` if more bytes are needed.
///
/// # Errors
/// The bytes are not a reply.
pub fn decode(buffer: &[u8]) -> Result<Option<(Value, usize)>> {
    let mut cursor = Cursor { buffer, at: 0 };
    match cursor.value(0)? {
        Some(value) => Ok(Some((value, cursor.at))),
        None => Ok(None),
    }
}

struct Cursor<'a> {
    buffer: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn line(&mut self) -> Option<&'a [u8]> {
        let rest = &self.buffer[self.at..];
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        self.at += end + 2;
        Some(&rest[..end])
    }

    fn value(&mut self, depth: usize) -> Result<Option<Value>> {
        ensure!(depth <= DEPTH_MAX, "reply nested deeper than {DEPTH_MAX}");
        let Some(line) = self.line() else { return Ok(None) };
        let (&mark, rest) = line.split_first().context("empty reply line")?;
        ensure!(!rest.contains(&b'\r') && !rest.contains(&b'\n'), "CR or LF in a reply line");
        let text = || String::from_utf8_lossy(rest).into_owned();
        Ok(Some(match mark {
            b'+' => Value::Simple(text()),
            b'-' => Value::Error(text()),
            b':' => Value::Int(number(rest)?),
            b',' => Value::Double(text()),
            b'(' => Value::BigNumber(text()),
            b'#' => match rest {
                b"t" => Value::Bool(true),
                b"f" => Value::Bool(false),
                _ => bail!("bad boolean {:?}", text()),
            },
            b'_' => Value::Nil,
            b'$' | b'=' => return self.bulk(mark, number(rest)?),
            b'*' | b'~' | b'>' | b'%' => return self.aggregate(mark, number(rest)?, depth),
            _ => bail!("unknown reply mark {:?}", line.escape_ascii().to_string()),
        }))
    }

    fn bulk(&mut self, mark: u8, length: i64) -> Result<Option<Value>> {
        if length == -1 {
            return Ok(Some(Value::Nil));
        }
        let length = usize::try_from(length).context("negative bulk length")?;
        let rest = &self.buffer[self.at..];
        if rest.len() < length + 2 {
            return Ok(None);
        }
        ensure!(&rest[length..length + 2] == b"\r\n", "bulk not closed by CRLF");
        self.at += length + 2;
        let body = &rest[..length];
        Ok(Some(Value::Bulk(if mark == b'=' {
            body.get(4..).unwrap_or_default().to_vec()
        } else {
            body.to_vec()
        })))
    }

    fn aggregate(&mut self, mark: u8, length: i64, depth: usize) -> Result<Option<Value>> {
        if length == -1 {
            return Ok(Some(Value::Nil));
        }
        let length = usize::try_from(length).context("negative array length")?;
        let total = if mark == b'%' { length * 2 } else { length };
        let mut items = Vec::with_capacity(total.min(1024));
        for _ in 0..total {
            let Some(item) = self.value(depth + 1)? else { return Ok(None) };
            items.push(item);
        }
        Ok(Some(match mark {
            b'*' => Value::Array(items),
            b'~' => Value::Set(items),
            b'>' => Value::Push(items),
            _ => {
                let mut pairs = Vec::with_capacity(length);
                let mut items = items.into_iter();
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    pairs.push((key, value));
                }
                Value::Map(pairs)
            }
        }))
    }
}

fn number(digits: &[u8]) -> Result<i64> {
    let text = std::str::from_utf8(digits)?;
    text.parse().with_context(|| format!("bad number {text:?}"))
}

/// Appends a request as an array of bulk strings.
pub fn encode<A: AsRef<[u8]>>(arguments: &[A], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        let argument = argument.as_ref();
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_a_reply_asks_for_more() {
        let whole = b"*3\r\n$2\r\na\r\r\n%1\r\n+k\r\n:-7\r\n*-1\r\n";
        for cut in 0..whole.len() {
            assert_eq!(decode(&whole[..cut]).unwrap(), None, "cut {cut}");
        }
        let (value, used) = decode(whole).unwrap().unwrap();
        assert_eq!(used, whole.len());
        let map = Value::Map(vec![(Value::Simple("k".into()), Value::Int(-7))]);
        assert_eq!(value, Value::Array(vec![Value::Bulk(b"a\r".to_vec()), map, Value::Nil]));
    }

    #[test]
    fn bad_framing_is_an_error() {
        for bad in
            [&b"hello\r\n"[..], b"$3\r\nabcde\r\n", b":x\r\n", b"#y\r\n", b"$-2\r\n", b"\r\n", b"+a\nb\r\n"]
        {
            assert!(decode(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
