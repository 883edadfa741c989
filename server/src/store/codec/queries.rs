//! The bytes of the reads in a transaction and of their answers, which travel from the leader to a waiting follower.
//!
//! ```text
//! query    tag u8 | fields
//!          1 get: place      2 mget: db, keys, limit u64   3 exists: db, keys    4 type: place    5 dbsize: db
//!          6 keys: db, pattern, optional (pivot, inclusive u8), optional limit u64, flags u8, limit u64
//!          7 scan: db, cursor u64, optional pattern, count u64, type u8 (0 any)    8 random key: db, seed u64
//!          9 deadline: place   10 versions: count varint, place ...   11 row: place
//! answer   tag u8 | fields
//!          1 value   2 values   3 int   4 type u8 (0 none)   5 keys   6 scan   7 key   8 too large   9 wrong type
//!         10 deadline: u8 (0 missing, 1 none, 2 u64), now u64   11 versions   12 due   13 row: optional
//!
//! place = db u8, key;  optional = u8 (0, 1) before it
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use super::changes::{take_i64, take_u64};
use super::{DecodeError, put_bytes, put_keys, put_varint, take_bytes, take_db, take_list, take_u8};
use crate::clock::UnixMs;
use crate::store::op::{Answer, DbIndex, Pivot, Query, Row, TypeTag};

type Taken<T> = Result<T, DecodeError>;

fn put_optional(out: &mut BytesMut, bytes: Option<&Bytes>) {
    out.put_u8(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        put_bytes(out, bytes);
    }
}

fn take_optional<T>(bytes: &mut Bytes, take: impl FnOnce(&mut Bytes) -> Taken<T>) -> Taken<Option<T>> {
    match take_u8(bytes)? {
        0 => Ok(None),
        1 => take(bytes).map(Some),
        other => Err(DecodeError::Tag("presence", other)),
    }
}

fn take_flag(bytes: &mut Bytes) -> Taken<bool> {
    take_optional(bytes, |_| Ok(())).map(|present| present.is_some())
}

fn put_place(out: &mut BytesMut, db: DbIndex, key: &Bytes) {
    out.put_u8(db);
    put_bytes(out, key);
}

pub(super) fn put_places(out: &mut BytesMut, places: &[(DbIndex, Bytes)]) {
    put_varint(out, places.len() as u64);
    for (db, key) in places {
        put_place(out, *db, key);
    }
}

pub(super) fn take_places(bytes: &mut Bytes) -> Taken<Vec<(DbIndex, Bytes)>> {
    take_list(bytes, 2, |bytes| Ok((take_db(bytes)?, take_bytes(bytes)?)))
}

pub(super) fn put_query(out: &mut BytesMut, query: &Query) {
    match query {
        Query::Get { db, key } => {
            out.put_u8(1);
            put_place(out, *db, key);
        }
        Query::MGet { db, keys, size_bytes_max } => {
            out.put_slice(&[2, *db]);
            put_keys(out, keys);
            out.put_u64_le(*size_bytes_max);
        }
        Query::Exists { db, keys } => {
            out.put_slice(&[3, *db]);
            put_keys(out, keys);
        }
        Query::Type { db, key } => {
            out.put_u8(4);
            put_place(out, *db, key);
        }
        Query::DbSize { db } => out.put_slice(&[5, *db]),
        Query::Keys { db, pattern, pivot, limit, descending, with_values, size_bytes_max } => {
            out.put_slice(&[6, *db]);
            put_bytes(out, pattern);
            put_optional(out, pivot.as_ref().map(|pivot| &pivot.key));
            if let Some(pivot) = pivot {
                out.put_u8(u8::from(pivot.inclusive));
            }
            out.put_u8(u8::from(limit.is_some()));
            if let Some(limit) = limit {
                out.put_u64_le(*limit);
            }
            out.put_slice(&[u8::from(*descending), u8::from(*with_values)]);
            out.put_u64_le(*size_bytes_max);
        }
        Query::Scan { db, cursor, pattern, count, only } => {
            out.put_slice(&[7, *db]);
            out.put_u64_le(*cursor);
            put_optional(out, pattern.as_ref());
            out.put_u64_le(*count);
            out.put_u8(only.map_or(0, |tag| tag as u8));
        }
        Query::RandomKey { db, seed } => {
            out.put_slice(&[8, *db]);
            out.put_u64_le(*seed);
        }
        Query::Deadline { db, key } => {
            out.put_u8(9);
            put_place(out, *db, key);
        }
        Query::Versions { keys } => {
            out.put_u8(10);
            put_places(out, keys);
        }
        Query::Row { db, key } => {
            out.put_u8(11);
            put_place(out, *db, key);
        }
    }
}

pub(super) fn take_query(bytes: &mut Bytes) -> Taken<Query> {
    let tag = take_u8(bytes)?;
    if tag == 10 {
        return Ok(Query::Versions { keys: take_places(bytes)? });
    }
    let db = take_db(bytes)?;
    Ok(match tag {
        1 => Query::Get { db, key: take_bytes(bytes)? },
        2 => Query::MGet { db, keys: take_list(bytes, 1, take_bytes)?, size_bytes_max: take_u64(bytes)? },
        3 => Query::Exists { db, keys: take_list(bytes, 1, take_bytes)? },
        4 => Query::Type { db, key: take_bytes(bytes)? },
        5 => Query::DbSize { db },
        6 => Query::Keys {
            db,
            pattern: take_bytes(bytes)?,
            pivot: take_optional(bytes, |bytes| {
                Ok(Pivot { key: take_bytes(bytes)?, inclusive: take_flag(bytes)? })
            })?,
            limit: take_optional(bytes, take_u64)?,
            descending: take_flag(bytes)?,
            with_values: take_flag(bytes)?,
            size_bytes_max: take_u64(bytes)?,
        },
        7 => Query::Scan {
            db,
            cursor: take_u64(bytes)?,
            pattern: take_optional(bytes, take_bytes)?,
            count: take_u64(bytes)?,
            only: take_type(bytes)?,
        },
        8 => Query::RandomKey { db, seed: take_u64(bytes)? },
        9 => Query::Deadline { db, key: take_bytes(bytes)? },
        11 => Query::Row { db, key: take_bytes(bytes)? },
        other => return Err(DecodeError::Tag("query", other)),
    })
}

fn take_type(bytes: &mut Bytes) -> Taken<Option<TypeTag>> {
    match take_u8(bytes)? {
        0 => Ok(None),
        tag if tag == TypeTag::String as u8 => Ok(Some(TypeTag::String)),
        other => Err(DecodeError::Tag("type", other)),
    }
}

pub(super) fn put_answer(out: &mut BytesMut, answer: &Answer) {
    match answer {
        Answer::Value(value) | Answer::Key(value) => {
            out.put_u8(if matches!(answer, Answer::Value(_)) { 1 } else { 7 });
            put_optional(out, value.as_ref());
        }
        Answer::Values(values) => {
            out.put_u8(2);
            put_varint(out, values.len() as u64);
            for value in values {
                put_optional(out, value.as_ref());
            }
        }
        Answer::Int(number) => {
            out.put_u8(3);
            out.put_i64_le(*number);
        }
        Answer::Type(tag) => out.put_slice(&[4, tag.map_or(0, |tag| tag as u8)]),
        Answer::Keys(pairs) => {
            out.put_u8(5);
            put_varint(out, pairs.len() as u64);
            for (key, value) in pairs {
                put_bytes(out, key);
                put_optional(out, value.as_ref());
            }
        }
        Answer::Scan { cursor, keys } => {
            out.put_u8(6);
            out.put_u64_le(*cursor);
            put_keys(out, keys);
        }
        Answer::TooLarge => out.put_u8(8),
        Answer::WrongType => out.put_u8(9),
        Answer::Deadline { deadline, now } => {
            out.put_u8(10);
            match deadline {
                None => out.put_u8(0),
                Some(None) => out.put_u8(1),
                Some(Some(deadline)) => {
                    out.put_u8(2);
                    out.put_u64_le(deadline.0);
                }
            }
            out.put_u64_le(now.0);
        }
        Answer::Versions(versions) => {
            out.put_u8(11);
            put_varint(out, versions.len() as u64);
            for version in versions {
                out.put_u8(u8::from(version.is_some()));
                if let Some(version) = version {
                    out.put_u64_le(*version);
                }
            }
        }
        Answer::Due => out.put_u8(12),
        Answer::Row(row) => {
            out.put_slice(&[13, u8::from(row.is_some())]);
            if let Some(Row { value, deadline, version }) = row {
                put_bytes(out, value);
                out.put_u64_le(deadline.map_or(0, |deadline| deadline.0.max(1)));
                out.put_u64_le(*version);
            }
        }
    }
}

pub(super) fn take_answer(bytes: &mut Bytes) -> Taken<Answer> {
    let optional = |bytes: &mut Bytes| take_optional(bytes, take_bytes);
    Ok(match take_u8(bytes)? {
        1 => Answer::Value(optional(bytes)?),
        2 => Answer::Values(take_list(bytes, 1, optional)?),
        3 => Answer::Int(take_i64(bytes)?),
        4 => Answer::Type(take_type(bytes)?),
        5 => Answer::Keys(take_list(bytes, 2, |bytes| Ok((take_bytes(bytes)?, optional(bytes)?)))?),
        6 => Answer::Scan { cursor: take_u64(bytes)?, keys: take_list(bytes, 1, take_bytes)? },
        7 => Answer::Key(optional(bytes)?),
        8 => Answer::TooLarge,
        9 => Answer::WrongType,
        10 => {
            let deadline = match take_u8(bytes)? {
                0 => None,
                1 => Some(None),
                2 => Some(Some(UnixMs(take_u64(bytes)?))),
                other => return Err(DecodeError::Tag("deadline", other)),
            };
            Answer::Deadline { deadline, now: UnixMs(take_u64(bytes)?) }
        }
        11 => Answer::Versions(take_list(bytes, 1, |bytes| take_optional(bytes, take_u64))?),
        12 => Answer::Due,
        13 => Answer::Row(take_optional(bytes, |bytes| {
            let (value, deadline) = (take_bytes(bytes)?, take_u64(bytes)?);
            let deadline = (deadline > 0).then_some(UnixMs(deadline));
            Ok(Row { value, deadline, version: take_u64(bytes)? })
        })?),
        other => return Err(DecodeError::Tag("answer", other)),
    })
}
