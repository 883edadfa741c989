//! [`Reply`] to bytes, for RESP2 and RESP3.

use bytes::{Bytes, BytesMut};

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

/// Appends `reply` to `out`.
pub fn append(_reply: &Reply, _protocol: Protocol, _out: &mut BytesMut) {
    todo!("resp room")
}
