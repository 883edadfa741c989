//! [`Reply`] to bytes, for RESP2 and RESP3: functions that only append, without a writer object and without errors.
//!
//! ```text
//! Reply::Map([(Bulk("proto"), Integer(3))])
//!     RESP2   *2\r\n $5\r\nproto\r\n :3\r\n
//!     RESP3   %1\r\n $5\r\nproto\r\n :3\r\n
//! ```
//!
//! Leaves that are rare go through the encoders of `redis-protocol`; what is hot (OK, null, integers, bulks) is written
//! here. So are collections, because that crate keeps maps and sets in hash tables and would shuffle them, and
//! doubles, which it prints without an exponent (1e300 in 301 digits) where Redis has one.
//!
//! Invariants:
//! - Nothing a client sent can end a line: error text is cleaned, everything else has a length.
//! - Depth is bounded by the replies that we build, never by input.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use redis_protocol::error::RedisProtocolError;
use redis_protocol::resp2::encode::extend_encode_borrowed as extend_encode_resp2;
use redis_protocol::resp2::types::BorrowedFrame;
use redis_protocol::resp3::encode::complete::extend_encode_borrowed as extend_encode_resp3;
use redis_protocol::resp3::types as resp3;
use redis_protocol::resp3::types::VerbatimStringFormat;

#[cfg(test)]
mod tests;

/// Protocol version that a connection speaks (HELLO).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2.
    #[default]
    Resp2,
    /// RESP3.
    Resp3,
}

/// What a client is answered. RESP3 forms fall back to their RESP2 form as Redis does.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// `+OK`.
    Ok,
    /// `+text`; the text has no CR or LF.
    Simple(&'static str),
    /// `+text` made by a script; CR, LF and control bytes are cleaned when it is written.
    Status(Bytes),
    /// `-CODE text`; CR, LF and control bytes are cleaned when it is written.
    Error(String),
    /// `:n`.
    Integer(i64),
    /// `$n`.
    Bulk(Bytes),
    /// `$-1` or `_`.
    Nil,
    /// `*-1` or `_`.
    NilArray,
    /// `*n`.
    Array(Vec<Reply>),
    /// `%n`, in RESP2 an array of alternating keys and values.
    Map(Vec<(Reply, Reply)>),
    /// `~n`, in RESP2 an array.
    Set(Vec<Reply>),
    /// `,d`, in RESP2 a bulk.
    Double(f64),
    /// `#t`, in RESP2 `:1` or `:0`.
    Boolean(bool),
    /// `=n` with format `txt`, in RESP2 a bulk.
    Verbatim(Bytes),
    /// `>n`, in RESP2 an array.
    Push(Vec<Reply>),
}

/// Appends `reply` to `out`, byte for byte as Redis 7.2 writes it.
pub fn append(reply: &Reply, protocol: Protocol, out: &mut BytesMut) {
    match reply {
        Reply::Ok => out.extend_from_slice(b"+OK\r\n"),
        Reply::Simple(text) => append_frame(&BorrowedFrame::SimpleString(text.as_bytes()), out),
        Reply::Status(text) => {
            append_frame(&BorrowedFrame::SimpleString(clean(&String::from_utf8_lossy(text)).as_bytes()), out);
        }
        Reply::Error(text) => append_frame(&BorrowedFrame::Error(&clean(text)), out),
        Reply::Integer(number) => append_integer(*number, out),
        Reply::Bulk(data) => append_bulk(data, out),
        Reply::Nil => out.extend_from_slice(null(protocol, b"$-1\r\n")),
        Reply::NilArray => out.extend_from_slice(null(protocol, b"*-1\r\n")),
        Reply::Array(items) => append_items(b'*', items, protocol, out),
        Reply::Set(items) => append_items(pick(protocol, b'~'), items, protocol, out),
        Reply::Push(items) => append_items(pick(protocol, b'>'), items, protocol, out),
        Reply::Map(pairs) => append_pairs(pairs, protocol, out),
        Reply::Double(number) => append_double(*number, protocol, out),
        Reply::Boolean(truth) => out.extend_from_slice(match (protocol, truth) {
            (Protocol::Resp2, true) => b":1\r\n",
            (Protocol::Resp2, false) => b":0\r\n",
            (Protocol::Resp3, true) => b"#t\r\n",
            (Protocol::Resp3, false) => b"#f\r\n",
        }),
        Reply::Verbatim(data) => append_verbatim(data, protocol, out),
    }
}

/// Appends `$n\r\n<data>\r\n`.
fn append_bulk(data: &[u8], out: &mut BytesMut) {
    out.reserve(data.len() + LENGTH_LINE_BYTES_MAX + CRLF.len());
    append_length(b'$', data.len(), out);
    out.extend_from_slice(data);
    out.extend_from_slice(CRLF);
}

fn append_integer(number: i64, out: &mut BytesMut) {
    match number {
        0 => out.extend_from_slice(b":0\r\n"),
        1 => out.extend_from_slice(b":1\r\n"),
        _ => {
            out.put_u8(b':');
            out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            out.extend_from_slice(CRLF);
        }
    }
}

fn append_items(kind: u8, items: &[Reply], protocol: Protocol, out: &mut BytesMut) {
    append_length(kind, items.len(), out);
    for item in items {
        append(item, protocol, out);
    }
}

fn append_pairs(pairs: &[(Reply, Reply)], protocol: Protocol, out: &mut BytesMut) {
    match protocol {
        Protocol::Resp2 => append_length(b'*', pairs.len() * 2, out),
        Protocol::Resp3 => append_length(b'%', pairs.len(), out),
    }
    for (key, value) in pairs {
        append(key, protocol, out);
        append(value, protocol, out);
    }
}

fn append_double(number: f64, protocol: Protocol, out: &mut BytesMut) {
    let digits = double_digits(number);
    match protocol {
        Protocol::Resp2 => append_bulk(digits.as_bytes(), out),
        Protocol::Resp3 => {
            out.put_u8(b',');
            out.extend_from_slice(digits.as_bytes());
            out.extend_from_slice(CRLF);
        }
    }
}

fn append_verbatim(data: &[u8], protocol: Protocol, out: &mut BytesMut) {
    match protocol {
        Protocol::Resp2 => append_bulk(data, out),
        Protocol::Resp3 => {
            let frame = resp3::BorrowedFrame::VerbatimString {
                data,
                format: VerbatimStringFormat::Text,
                attributes: None,
            };
            encoded(extend_encode_resp3(out, &frame, false));
        }
    }
}

/// Appends a leaf frame that both protocols write alike.
fn append_frame(frame: &BorrowedFrame<'_>, out: &mut BytesMut) {
    encoded(extend_encode_resp2(out, frame, false));
}

/// The encoders make the room they need first, and have no other way to fail.
fn encoded(result: Result<usize, RedisProtocolError>) {
    result.expect("encoding into a buffer that grows");
}

/// Appends `<kind><length>\r\n`.
fn append_length(kind: u8, length: usize, out: &mut BytesMut) {
    out.put_u8(kind);
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(CRLF);
}

const CRLF: &[u8] = b"\r\n";

/// `$`, the 20 digits of a u64, CRLF.
const LENGTH_LINE_BYTES_MAX: usize = 23;

/// The null of RESP3, or its RESP2 form.
fn null(protocol: Protocol, resp2: &'static [u8]) -> &'static [u8] {
    match protocol {
        Protocol::Resp2 => resp2,
        Protocol::Resp3 => b"_\r\n",
    }
}

/// The kind byte of a RESP3 collection, which RESP2 writes as an array.
fn pick(protocol: Protocol, resp3: u8) -> u8 {
    match protocol {
        Protocol::Resp2 => b'*',
        Protocol::Resp3 => resp3,
    }
}

/// Error text without CR, LF and control bytes: a client's own bytes, echoed, must never look like a second reply.
fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        Cow::Owned(text.replace(char::is_control, " "))
    } else {
        Cow::Borrowed(text)
    }
}

/// A double as Redis 7.2 prints it (`d2string`): integers plainly up to 2^62, else the shortest digits that read back
/// as the same number, with an exponent for the very large and the very small.
fn double_digits(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    // 2^62: Redis prints integers up to LLONG_MAX / 2 this way; -0 and the infinities print as in Rust.
    let integer_max = 4_611_686_018_427_387_904.0;
    if number.is_infinite() || (number.fract() == 0.0 && number.abs() <= integer_max) {
        return format!("{number}");
    }
    let scientific = format!("{:e}", number.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    // The number is 0.<digits> * 10^point; `scale` is the exponent of the last digit.
    let point = exponent + 1;
    let scale = point - count;
    let sign = if number.is_sign_negative() { "-" } else { "" };
    if scale >= 0 && exponent < count + 7 {
        return format!("{number}");
    }
    if scale < 0 && (scale > -7 || exponent.abs() < 4) {
        return format!("{number}");
    }
    let (first, rest) = digits.split_at(1);
    let dot = if rest.is_empty() { "" } else { "." };
    let exponent_sign = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{first}{dot}{rest}e{exponent_sign}{}", exponent.abs())
}
