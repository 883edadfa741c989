//! The bytes of the ops that came after 0.1.0: changes decided at apply, and transactions.
//!
//! ```text
//!  9 update       db | key | change
//! 10 mset if      db | condition | expiry | count varint | (key | value) ...
//! 11 transfer     db | key | db | key | flags u8: 1 removes, 2 replaces, 4 must exist
//! 12 swapdb       db | db
//! 13 bitop        db | operation u8 | key | count varint | key ...
//! 14 reap         count varint | (db | key) ...
//! 15 transaction  count varint | (db | key | index u64, 2^64-1 = none) ... | count varint | (u8 0 op, 1 query) ...
//!
//! change     tag u8 | fields
//!            1 write: value, expiry, condition, answer u8     2 remove: condition, answer u8
//!            3 expire: expiry, rule u8                        4 retrieve: expiry        5 persist
//!            6 append: value     7 overwrite: offset u64, value      8 add: i64         9 add float: text
//!           10 set bit: offset u64, u8     11 fields: count varint, step ...
//!           12 add bounded: u8 0 by low high i64, 1 by text low high optional text; flags u8; expiry
//! expiry     tag u8: 0 never, 1 keep, 2 in i64, 3 at u64
//! condition  tag u8: 0 always, 1 missing, 2 present, 3 equals value, 4 differs value, 5 and 6 the same of u64 digests
//! step       tag u8: 0 get, 1 set, 2 add | signed u8, bits u8, offset u64 | for 1 and 2: i64, overflow u8
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    DecodeError, encode_op, put_bytes, put_keys, put_varint, queries, take_bytes, take_db, take_list,
    take_op, take_u8,
};
use crate::clock::UnixMs;
use crate::store::bits::BitOperation;
use crate::store::change::{
    Bounded, Change, Condition, ExpireRule, Expiry, Field, FieldStep, Overflow, WriteAnswer,
};
use crate::store::op::{Op, Step, Transfer, Watched};

pub(super) const UPDATE: u8 = 9;
const MSET_IF: u8 = 10;
const TRANSFER: u8 = 11;
const SWAPDB: u8 = 12;
const BITOP: u8 = 13;
const REAP: u8 = 14;
pub(super) const TRANSACTION: u8 = 15;

/// Stands for "could not be seen" among versions; no log has an entry of this index.
const NO_VERSION: u64 = u64::MAX;

/// Appends an op whose tag is [`UPDATE`] or higher.
pub(super) fn encode(op: &Op, out: &mut BytesMut) {
    match op {
        Op::Update { db, key, change } => {
            out.put_slice(&[UPDATE, *db]);
            put_bytes(out, key);
            put_change(out, change);
        }
        Op::MSetIf { db, pairs, condition, expiry } => {
            out.put_slice(&[MSET_IF, *db]);
            put_condition(out, condition);
            put_expiry(out, *expiry);
            put_varint(out, pairs.len() as u64);
            for (key, value) in pairs {
                put_bytes(out, key);
                put_bytes(out, value);
            }
        }
        Op::Transfer { from_db, from, to_db, to, how } => {
            out.put_slice(&[TRANSFER, *from_db]);
            put_bytes(out, from);
            out.put_u8(*to_db);
            put_bytes(out, to);
            let flags = [(how.removes, 1), (how.replaces, 2), (how.must_exist, 4)];
            out.put_u8(flags.iter().map(|(set, bit)| u8::from(*set) * bit).sum());
        }
        Op::SwapDb { one, two } => out.put_slice(&[SWAPDB, *one, *two]),
        Op::BitOp { db, operation, to, keys } => {
            out.put_slice(&[BITOP, *db, *operation as u8]);
            put_bytes(out, to);
            put_keys(out, keys);
        }
        Op::Reap { keys } => {
            out.put_u8(REAP);
            queries::put_places(out, keys);
        }
        Op::Transaction { watched, steps } => put_transaction(out, watched, steps),
        Op::Set { .. }
        | Op::MSet { .. }
        | Op::Del { .. }
        | Op::DelIf { .. }
        | Op::PDel { .. }
        | Op::FlushDb { .. }
        | Op::FlushAll => debug_assert!(false, "encoded by the caller"),
    }
}

/// Takes the fields of an op whose tag has been taken.
pub(super) fn take(tag: u8, bytes: &mut Bytes) -> Result<Op, DecodeError> {
    match tag {
        UPDATE => {
            Ok(Op::Update { db: take_db(bytes)?, key: take_bytes(bytes)?, change: take_change(bytes)? })
        }
        MSET_IF => {
            let (db, condition, expiry) = (take_db(bytes)?, take_condition(bytes)?, take_expiry(bytes)?);
            let pairs = take_list(bytes, 2, |bytes| Ok((take_bytes(bytes)?, take_bytes(bytes)?)))?;
            Ok(Op::MSetIf { db, pairs, condition, expiry })
        }
        TRANSFER => {
            let (from_db, from) = (take_db(bytes)?, take_bytes(bytes)?);
            let (to_db, to, flags) = (take_db(bytes)?, take_bytes(bytes)?, take_u8(bytes)?);
            if flags > 7 {
                return Err(DecodeError::Tag("transfer", flags));
            }
            let how =
                Transfer { removes: flags & 1 != 0, replaces: flags & 2 != 0, must_exist: flags & 4 != 0 };
            Ok(Op::Transfer { from_db, from, to_db, to, how })
        }
        SWAPDB => Ok(Op::SwapDb { one: take_db(bytes)?, two: take_db(bytes)? }),
        BITOP => {
            let db = take_db(bytes)?;
            let operation = match take_u8(bytes)? {
                0 => BitOperation::And,
                1 => BitOperation::Or,
                2 => BitOperation::Xor,
                3 => BitOperation::Not,
                other => return Err(DecodeError::Tag("bit operation", other)),
            };
            Ok(Op::BitOp { db, operation, to: take_bytes(bytes)?, keys: take_list(bytes, 1, take_bytes)? })
        }
        REAP => Ok(Op::Reap { keys: queries::take_places(bytes)? }),
        TRANSACTION => take_transaction(bytes),
        other => Err(DecodeError::Tag("op", other)),
    }
}

fn put_transaction(out: &mut BytesMut, watched: &[Watched], steps: &[Step]) {
    out.put_u8(TRANSACTION);
    put_varint(out, watched.len() as u64);
    for watched in watched {
        out.put_u8(watched.db);
        put_bytes(out, &watched.key);
        out.put_u64_le(watched.version.unwrap_or(NO_VERSION));
    }
    put_varint(out, steps.len() as u64);
    for step in steps {
        match step {
            Step::Write(op) => {
                out.put_u8(0);
                encode_op(op, out);
            }
            Step::Read(query) => {
                out.put_u8(1);
                queries::put_query(out, query);
            }
        }
    }
}

fn take_transaction(bytes: &mut Bytes) -> Result<Op, DecodeError> {
    let watched = take_list(bytes, 10, |bytes| {
        let (db, key) = (take_db(bytes)?, take_bytes(bytes)?);
        let version = take_u64(bytes)?;
        Ok(Watched { db, key, version: (version != NO_VERSION).then_some(version) })
    })?;
    let steps = take_list(bytes, 2, |bytes| match take_u8(bytes)? {
        // One within another would nest without end.
        0 if bytes.first() == Some(&TRANSACTION) => Err(DecodeError::Tag("step", TRANSACTION)),
        0 => take_op(bytes).map(Step::Write),
        1 => queries::take_query(bytes).map(Step::Read),
        other => Err(DecodeError::Tag("step", other)),
    })?;
    Ok(Op::Transaction { watched, steps })
}

fn put_change(out: &mut BytesMut, change: &Change) {
    match change {
        Change::Write { value, expiry, condition, answer } => {
            out.put_u8(1);
            put_bytes(out, value);
            put_expiry(out, *expiry);
            put_condition(out, condition);
            out.put_u8(*answer as u8);
        }
        Change::Remove { condition, answer } => {
            out.put_u8(2);
            put_condition(out, condition);
            out.put_u8(*answer as u8);
        }
        Change::Expire { expiry, rule } => {
            out.put_u8(3);
            put_expiry(out, *expiry);
            let flags = [(rule.missing, 1), (rule.present, 2), (rule.later, 4), (rule.earlier, 8)];
            out.put_u8(flags.iter().map(|(set, bit)| u8::from(*set) * bit).sum());
        }
        Change::Retrieve { expiry } => {
            out.put_u8(4);
            put_expiry(out, *expiry);
        }
        Change::Persist => out.put_u8(5),
        Change::Append(value) => {
            out.put_u8(6);
            put_bytes(out, value);
        }
        Change::Overwrite { offset, value } => {
            out.put_u8(7);
            out.put_u64_le(*offset);
            put_bytes(out, value);
        }
        Change::Add(by) => {
            out.put_u8(8);
            out.put_i64_le(*by);
        }
        Change::AddFloat(by) => {
            out.put_u8(9);
            put_bytes(out, by);
        }
        Change::SetBit { offset, bit } => {
            out.put_u8(10);
            out.put_u64_le(*offset);
            out.put_u8(u8::from(*bit));
        }
        Change::Fields(steps) => {
            out.put_u8(11);
            put_varint(out, steps.len() as u64);
            for step in steps {
                put_field_step(out, step);
            }
        }
        Change::AddBounded { step, saturate, expiry, only_first_expiry } => {
            out.put_u8(12);
            put_bounded(out, step);
            out.put_u8(u8::from(*saturate) | u8::from(*only_first_expiry) << 1);
            put_expiry(out, *expiry);
        }
    }
}

fn take_change(bytes: &mut Bytes) -> Result<Change, DecodeError> {
    Ok(match take_u8(bytes)? {
        1 => Change::Write {
            value: take_bytes(bytes)?,
            expiry: take_expiry(bytes)?,
            condition: take_condition(bytes)?,
            answer: take_answer(bytes)?,
        },
        2 => Change::Remove { condition: take_condition(bytes)?, answer: take_answer(bytes)? },
        3 => {
            let (expiry, flags) = (take_expiry(bytes)?, take_u8(bytes)?);
            if flags > 15 {
                return Err(DecodeError::Tag("expire rule", flags));
            }
            let rule = ExpireRule {
                missing: flags & 1 != 0,
                present: flags & 2 != 0,
                later: flags & 4 != 0,
                earlier: flags & 8 != 0,
            };
            Change::Expire { expiry, rule }
        }
        4 => Change::Retrieve { expiry: take_expiry(bytes)? },
        5 => Change::Persist,
        6 => Change::Append(take_bytes(bytes)?),
        7 => Change::Overwrite { offset: take_u64(bytes)?, value: take_bytes(bytes)? },
        8 => Change::Add(take_i64(bytes)?),
        9 => Change::AddFloat(take_bytes(bytes)?),
        10 => Change::SetBit { offset: take_u64(bytes)?, bit: take_flag(bytes)? },
        11 => Change::Fields(take_list(bytes, 11, take_field_step)?),
        12 => {
            let (step, flags) = (take_bounded(bytes)?, take_u8(bytes)?);
            if flags > 3 {
                return Err(DecodeError::Tag("add flags", flags));
            }
            let (saturate, only_first_expiry) = (flags & 1 != 0, flags & 2 != 0);
            Change::AddBounded { step, saturate, expiry: take_expiry(bytes)?, only_first_expiry }
        }
        other => return Err(DecodeError::Tag("change", other)),
    })
}

fn put_bounded(out: &mut BytesMut, step: &Bounded) {
    match step {
        Bounded::Int { by, low, high } => {
            out.put_u8(0);
            for number in [by, low, high] {
                out.put_i64_le(*number);
            }
        }
        Bounded::Float { by, low, high } => {
            out.put_u8(1);
            put_bytes(out, by);
            for bound in [low, high] {
                out.put_u8(u8::from(bound.is_some()));
                if let Some(bound) = bound {
                    put_bytes(out, bound);
                }
            }
        }
    }
}

fn take_bounded(bytes: &mut Bytes) -> Result<Bounded, DecodeError> {
    let bound = |bytes: &mut Bytes| -> Result<Option<Bytes>, DecodeError> {
        if take_flag(bytes)? { take_bytes(bytes).map(Some) } else { Ok(None) }
    };
    match take_u8(bytes)? {
        0 => Ok(Bounded::Int { by: take_i64(bytes)?, low: take_i64(bytes)?, high: take_i64(bytes)? }),
        1 => Ok(Bounded::Float { by: take_bytes(bytes)?, low: bound(bytes)?, high: bound(bytes)? }),
        other => Err(DecodeError::Tag("bounded step", other)),
    }
}

fn put_field_step(out: &mut BytesMut, step: &FieldStep) {
    let (tag, more) = match step {
        FieldStep::Get(_) => (0, None),
        FieldStep::Set(_, number, overflow) => (1, Some((number, overflow))),
        FieldStep::Add(_, number, overflow) => (2, Some((number, overflow))),
    };
    let Field { signed, bits, offset } = step.field();
    out.put_slice(&[tag, u8::from(signed), bits]);
    out.put_u64_le(offset);
    if let Some((number, overflow)) = more {
        out.put_i64_le(*number);
        out.put_u8(*overflow as u8);
    }
}

fn take_field_step(bytes: &mut Bytes) -> Result<FieldStep, DecodeError> {
    let tag = take_u8(bytes)?;
    let field = Field { signed: take_flag(bytes)?, bits: take_u8(bytes)?, offset: take_u64(bytes)? };
    if !(1..=64).contains(&field.bits) || (!field.signed && field.bits == 64) {
        return Err(DecodeError::Tag("field width", field.bits));
    }
    if tag == 0 {
        return Ok(FieldStep::Get(field));
    }
    let number = take_i64(bytes)?;
    let overflow = match take_u8(bytes)? {
        0 => Overflow::Wrap,
        1 => Overflow::Saturate,
        2 => Overflow::Fail,
        other => return Err(DecodeError::Tag("overflow", other)),
    };
    match tag {
        1 => Ok(FieldStep::Set(field, number, overflow)),
        2 => Ok(FieldStep::Add(field, number, overflow)),
        other => Err(DecodeError::Tag("field step", other)),
    }
}

fn put_expiry(out: &mut BytesMut, expiry: Expiry) {
    match expiry {
        Expiry::Never => out.put_u8(0),
        Expiry::Keep => out.put_u8(1),
        Expiry::In(ms) => {
            out.put_u8(2);
            out.put_i64_le(ms);
        }
        Expiry::At(deadline) => {
            out.put_u8(3);
            out.put_u64_le(deadline.0);
        }
    }
}

fn take_expiry(bytes: &mut Bytes) -> Result<Expiry, DecodeError> {
    match take_u8(bytes)? {
        0 => Ok(Expiry::Never),
        1 => Ok(Expiry::Keep),
        2 => take_i64(bytes).map(Expiry::In),
        3 => take_u64(bytes).map(|deadline| Expiry::At(UnixMs(deadline))),
        other => Err(DecodeError::Tag("expiry", other)),
    }
}

fn put_condition(out: &mut BytesMut, condition: &Condition) {
    match condition {
        Condition::Always => out.put_u8(0),
        Condition::Missing => out.put_u8(1),
        Condition::Present => out.put_u8(2),
        Condition::Equals(value) | Condition::Differs(value) => {
            out.put_u8(if matches!(condition, Condition::Equals(_)) { 3 } else { 4 });
            put_bytes(out, value);
        }
        Condition::DigestEquals(digest) | Condition::DigestDiffers(digest) => {
            out.put_u8(if matches!(condition, Condition::DigestEquals(_)) { 5 } else { 6 });
            out.put_u64_le(*digest);
        }
    }
}

fn take_condition(bytes: &mut Bytes) -> Result<Condition, DecodeError> {
    match take_u8(bytes)? {
        0 => Ok(Condition::Always),
        1 => Ok(Condition::Missing),
        2 => Ok(Condition::Present),
        3 => take_bytes(bytes).map(Condition::Equals),
        4 => take_bytes(bytes).map(Condition::Differs),
        5 => take_u64(bytes).map(Condition::DigestEquals),
        6 => take_u64(bytes).map(Condition::DigestDiffers),
        other => Err(DecodeError::Tag("condition", other)),
    }
}

fn take_answer(bytes: &mut Bytes) -> Result<WriteAnswer, DecodeError> {
    match take_u8(bytes)? {
        0 => Ok(WriteAnswer::Done),
        1 => Ok(WriteAnswer::Previous),
        2 => Ok(WriteAnswer::Count),
        3 => Ok(WriteAnswer::Claim),
        other => Err(DecodeError::Tag("answer", other)),
    }
}

fn take_flag(bytes: &mut Bytes) -> Result<bool, DecodeError> {
    match take_u8(bytes)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Tag("flag", other)),
    }
}

pub(super) fn take_u64(bytes: &mut Bytes) -> Result<u64, DecodeError> {
    bytes.try_get_u64_le().map_err(|_| DecodeError::Truncated)
}

pub(super) fn take_i64(bytes: &mut Bytes) -> Result<i64, DecodeError> {
    bytes.try_get_i64_le().map_err(|_| DecodeError::Truncated)
}
