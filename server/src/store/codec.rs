//! The bytes of a [`Batch`], of single ops and of outcomes, as they stand in the log and travel between nodes.
//!
//! ```text
//! batch     version u8 = 1 | origin u64 | sequence u64 | at u64 | ops
//! ops       count varint | op ...
//! op        tag u8 | fields
//!           1 set            db | key | value
//!           2 set, deadline  db | key | value | deadline u64
//!           3 mset           db | count varint | (key | value) ...
//!           4 del            db | count varint | key ...
//!           5 delif          db | part | count varint | key ...
//!           6 pdel           db | pattern
//!           7 flushdb        db
//!           8 flushall
//!           9 and higher: `codec/changes.rs`
//! outcomes  count varint | outcome ...
//! outcome   tag u8 | fields:  1 ok   2 int i64   3 wrong type   4 nil   5 bulk value   6 double text   7 outcomes
//!                             8 answer (`codec/queries.rs`)   9 failure u8
//!
//! db = u8, key, value, part, pattern = length varint + bytes, u64 and i64 little-endian, varint = LEB128
//! ```
//!
//! Invariants
//! - Tags and the version are pinned: an entry in a log of any release is read for ever (`testdata/batch-v1.hex`).
//! - Decoding never allocates by an announced length, only by bytes that are there, and never reads past the end.
//! - Decoded keys and values are slices of the given buffer: no byte is copied.
//! - A batch, a list of ops and a list of outcomes each have exactly one encoding of the shape given here.

mod changes;
mod queries;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Batch, DbIndex, Failure, Op, Outcome, Query};
use crate::clock::UnixMs;

/// Version of the batch encoding that this build writes.
pub const BATCH_VERSION: u8 = 1;

/// The one database number that cannot exist, since the count of databases is a `u8`; the key layout relies on it.
const DB_NEVER: DbIndex = u8::MAX;

const SET: u8 = 1;
const SET_DEADLINE: u8 = 2;
const MSET: u8 = 3;
const DEL: u8 = 4;
const DELIF: u8 = 5;
const PDEL: u8 = 6;
const FLUSHDB: u8 = 7;
const FLUSHALL: u8 = 8;

const OUTCOME_OK: u8 = 1;
const OUTCOME_INT: u8 = 2;
const OUTCOME_WRONG_TYPE: u8 = 3;
const OUTCOME_NIL: u8 = 4;
const OUTCOME_BULK: u8 = 5;
const OUTCOME_DOUBLE: u8 = 6;
const OUTCOME_LIST: u8 = 7;
const OUTCOME_ANSWER: u8 = 8;
const OUTCOME_FAILED: u8 = 9;

/// Lists within lists: BITFIELD in a transaction.
const OUTCOME_DEPTH_MAX: u8 = 2;

/// Why bytes are not what they should be. Never depends on the state, so every node finds the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end within a field.
    #[error("the bytes end within a field")]
    Truncated,
    /// A batch of a newer release.
    #[error("batch version {0} is newer than this build reads ({BATCH_VERSION})")]
    Version(u8),
    /// A tag that no release has written.
    #[error("unknown {0} tag {1}")]
    Tag(&'static str, u8),
    /// A number of more than 64 bits.
    #[error("a number does not fit in 64 bits")]
    Number,
    /// Bytes after the end.
    #[error("{0} bytes follow the end")]
    Trailing(usize),
}

impl Batch {
    /// Appends the encoding of the batch.
    pub fn encode_into(&self, out: &mut BytesMut) {
        out.reserve(32 + self.ops.iter().map(Op::size_bytes).sum::<usize>());
        out.put_u8(BATCH_VERSION);
        out.put_u64_le(self.origin);
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.at.0);
        encode_ops(&self.ops, out);
    }

    /// Decodes a whole batch; keys and values are slices of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not exactly one batch.
    pub fn decode(mut bytes: Bytes) -> Result<Batch, DecodeError> {
        let (origin, sequence, at) = Batch::peek(&bytes)?;
        bytes.advance(1 + 3 * 8);
        let ops = decode_ops(&mut bytes)?;
        if !bytes.is_empty() {
            return Err(DecodeError::Trailing(bytes.len()));
        }
        Ok(Batch { at, origin, sequence, ops })
    }

    /// Reads origin, sequence and proposed log time without looking at the ops.
    ///
    /// # Errors
    /// [`DecodeError`] if the head is too short or of a newer version.
    pub fn peek(bytes: &Bytes) -> Result<(u64, u64, UnixMs), DecodeError> {
        let mut head: &[u8] = bytes;
        let version = head.try_get_u8().map_err(|_| DecodeError::Truncated)?;
        if version != BATCH_VERSION {
            return Err(DecodeError::Version(version));
        }
        let mut next = || head.try_get_u64_le().map_err(|_| DecodeError::Truncated);
        Ok((next()?, next()?, UnixMs(next()?)))
    }
}

/// What stands before the ops of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// Log time proposed by the leader.
    pub at: UnixMs,
    /// See [`Batch::origin`].
    pub origin: u64,
    /// See [`Batch::sequence`].
    pub sequence: u64,
}

/// Appends the encoding of a batch whose ops lie in several places, without collecting them first.
pub fn encode_batch<'a>(head: BatchHead, ops: impl Iterator<Item = &'a Op> + Clone, out: &mut BytesMut) {
    out.put_u8(BATCH_VERSION);
    out.put_u64_le(head.origin);
    out.put_u64_le(head.sequence);
    out.put_u64_le(head.at.0);
    put_varint(out, ops.clone().count() as u64);
    for op in ops {
        encode_op(op, out);
    }
}

/// Appends a list of ops.
pub fn encode_ops(ops: &[Op], out: &mut BytesMut) {
    put_varint(out, ops.len() as u64);
    for op in ops {
        encode_op(op, out);
    }
}

/// Takes a list of ops off the front of `bytes`.
///
/// # Errors
/// [`DecodeError`]; `bytes` is then left somewhere inside.
pub fn decode_ops(bytes: &mut Bytes) -> Result<Vec<Op>, DecodeError> {
    // The shortest op is one byte.
    take_list(bytes, 1, take_op)
}

/// Appends a query.
pub fn encode_query(query: &Query, out: &mut BytesMut) {
    queries::put_query(out, query);
}

/// Takes a query off the front of `bytes`.
///
/// # Errors
/// [`DecodeError`]; `bytes` is then left somewhere inside.
pub fn decode_query(bytes: &mut Bytes) -> Result<Query, DecodeError> {
    queries::take_query(bytes)
}

/// Appends a list of outcomes.
pub fn encode_outcomes(outcomes: &[Outcome], out: &mut BytesMut) {
    put_varint(out, outcomes.len() as u64);
    for outcome in outcomes {
        match outcome {
            Outcome::Ok => out.put_u8(OUTCOME_OK),
            Outcome::Int(value) => {
                out.put_u8(OUTCOME_INT);
                out.put_i64_le(*value);
            }
            Outcome::WrongType => out.put_u8(OUTCOME_WRONG_TYPE),
            Outcome::Nil => out.put_u8(OUTCOME_NIL),
            Outcome::Bulk(value) => {
                out.put_u8(OUTCOME_BULK);
                put_bytes(out, value);
            }
            Outcome::Double(text) => {
                out.put_u8(OUTCOME_DOUBLE);
                put_bytes(out, text);
            }
            Outcome::List(list) => {
                out.put_u8(OUTCOME_LIST);
                encode_outcomes(list, out);
            }
            Outcome::Answer(answer) => {
                out.put_u8(OUTCOME_ANSWER);
                queries::put_answer(out, answer);
            }
            Outcome::Failed(failure) => out.put_slice(&[OUTCOME_FAILED, *failure as u8]),
        }
    }
}

/// Takes a list of outcomes off the front of `bytes`.
///
/// # Errors
/// [`DecodeError`]; `bytes` is then left somewhere inside.
pub fn decode_outcomes(bytes: &mut Bytes) -> Result<Vec<Outcome>, DecodeError> {
    take_outcomes(bytes, 0)
}

fn take_outcomes(bytes: &mut Bytes, depth: u8) -> Result<Vec<Outcome>, DecodeError> {
    take_list(bytes, 1, |bytes| match take_u8(bytes)? {
        OUTCOME_OK => Ok(Outcome::Ok),
        OUTCOME_INT => bytes.try_get_i64_le().map(Outcome::Int).map_err(|_| DecodeError::Truncated),
        OUTCOME_WRONG_TYPE => Ok(Outcome::WrongType),
        OUTCOME_NIL => Ok(Outcome::Nil),
        OUTCOME_BULK => take_bytes(bytes).map(Outcome::Bulk),
        OUTCOME_DOUBLE => take_bytes(bytes).map(Outcome::Double),
        OUTCOME_LIST if depth < OUTCOME_DEPTH_MAX => take_outcomes(bytes, depth + 1).map(Outcome::List),
        OUTCOME_ANSWER => queries::take_answer(bytes).map(Outcome::Answer),
        OUTCOME_FAILED => {
            let code = take_u8(bytes)?;
            let known = Failure::ALL.into_iter().find(|failure| *failure as u8 == code);
            known.map(Outcome::Failed).ok_or(DecodeError::Tag("failure", code))
        }
        tag => Err(DecodeError::Tag("outcome", tag)),
    })
}

fn encode_op(op: &Op, out: &mut BytesMut) {
    match op {
        Op::Set { db, key, value, deadline } => {
            put_head(out, if deadline.is_some() { SET_DEADLINE } else { SET }, *db);
            put_bytes(out, key);
            put_bytes(out, value);
            if let Some(deadline) = deadline {
                out.put_u64_le(deadline.0);
            }
        }
        Op::MSet { db, pairs } => {
            put_head(out, MSET, *db);
            put_varint(out, pairs.len() as u64);
            for (key, value) in pairs {
                put_bytes(out, key);
                put_bytes(out, value);
            }
        }
        Op::Del { db, keys } => {
            put_head(out, DEL, *db);
            put_keys(out, keys);
        }
        Op::DelIf { db, part, keys } => {
            put_head(out, DELIF, *db);
            put_bytes(out, part);
            put_keys(out, keys);
        }
        Op::PDel { db, pattern } => {
            put_head(out, PDEL, *db);
            put_bytes(out, pattern);
        }
        Op::FlushDb { db } => put_head(out, FLUSHDB, *db),
        Op::FlushAll => out.put_u8(FLUSHALL),
        Op::Update { .. }
        | Op::MSetIf { .. }
        | Op::Transfer { .. }
        | Op::SwapDb { .. }
        | Op::BitOp { .. }
        | Op::Reap { .. }
        | Op::Transaction { .. } => changes::encode(op, out),
    }
}

fn take_op(bytes: &mut Bytes) -> Result<Op, DecodeError> {
    let tag = take_u8(bytes)?;
    if tag == FLUSHALL {
        return Ok(Op::FlushAll);
    }
    if tag > FLUSHALL {
        return changes::take(tag, bytes);
    }
    if !(SET..=FLUSHDB).contains(&tag) {
        return Err(DecodeError::Tag("op", tag));
    }
    let db = take_db(bytes)?;
    match tag {
        SET => Ok(Op::Set { db, key: take_bytes(bytes)?, value: take_bytes(bytes)?, deadline: None }),
        SET_DEADLINE => {
            let (key, value) = (take_bytes(bytes)?, take_bytes(bytes)?);
            let deadline = bytes.try_get_u64_le().map_err(|_| DecodeError::Truncated)?;
            Ok(Op::Set { db, key, value, deadline: Some(UnixMs(deadline)) })
        }
        MSET => {
            let pairs = take_list(bytes, 2, |bytes| Ok((take_bytes(bytes)?, take_bytes(bytes)?)))?;
            Ok(Op::MSet { db, pairs })
        }
        DEL => Ok(Op::Del { db, keys: take_list(bytes, 1, take_bytes)? }),
        DELIF => Ok(Op::DelIf { db, part: take_bytes(bytes)?, keys: take_list(bytes, 1, take_bytes)? }),
        PDEL => Ok(Op::PDel { db, pattern: take_bytes(bytes)? }),
        _ => Ok(Op::FlushDb { db }),
    }
}

fn put_head(out: &mut BytesMut, tag: u8, db: DbIndex) {
    out.put_u8(tag);
    out.put_u8(db);
}

fn put_keys(out: &mut BytesMut, keys: &[Bytes]) {
    put_varint(out, keys.len() as u64);
    for key in keys {
        put_bytes(out, key);
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

#[allow(clippy::cast_possible_truncation, reason = "the low seven bits are what is wanted")]
fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Takes a counted list whose elements are at least `least` bytes each, which bounds what is allocated up front.
fn take_list<T>(
    bytes: &mut Bytes,
    least: usize,
    take: impl Fn(&mut Bytes) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = usize::try_from(take_varint(bytes)?).map_err(|_| DecodeError::Truncated)?;
    if count > bytes.len() / least {
        return Err(DecodeError::Truncated);
    }
    // An element in memory is larger than its shortest encoding, so the first allocation stays small and honest
    // lists grow from there.
    let mut list = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        list.push(take(bytes)?);
    }
    Ok(list)
}

fn take_db(bytes: &mut Bytes) -> Result<DbIndex, DecodeError> {
    match take_u8(bytes)? {
        DB_NEVER => Err(DecodeError::Tag("database", DB_NEVER)),
        db => Ok(db),
    }
}

fn take_u8(bytes: &mut Bytes) -> Result<u8, DecodeError> {
    bytes.try_get_u8().map_err(|_| DecodeError::Truncated)
}

fn take_bytes(bytes: &mut Bytes) -> Result<Bytes, DecodeError> {
    let length = take_varint(bytes)?;
    match usize::try_from(length) {
        Ok(length) if length <= bytes.len() => Ok(bytes.split_to(length)),
        _ => Err(DecodeError::Truncated),
    }
}

fn take_varint(bytes: &mut Bytes) -> Result<u64, DecodeError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_u8(bytes)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(DecodeError::Number);
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::Number)
}

#[cfg(test)]
mod tests;
