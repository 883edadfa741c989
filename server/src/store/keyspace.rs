//! Ops on single keys, over anything that holds keys: the state in the midst of an entry, or a rehearsal of it.
//!
//! One body for both, so that a script sees before the log what the log will do.

use bytes::Bytes;

use super::TypeTag;
use super::bits;
use super::change::{Change, Condition, Expiry, WriteAnswer};
use super::evaluate::{self, Next, Seen, VALUE_BYTES_MAX};
use super::op::{Answer, DbIndex, Failure, Op, Outcome, Query, Transfer};
use super::query::Values;
use crate::clock::UnixMs;

/// Keys that can be read and changed.
pub(super) trait Keyspace {
    /// Why that may fail.
    type Error;
    /// The time by which keys expire.
    fn now(&self) -> UnixMs;
    /// What a key holds, if it can be seen.
    fn seen(&mut self, db: DbIndex, key: &Bytes) -> Result<Option<Seen>, Self::Error>;
    /// As [`Keyspace::seen`], for who does not need the value.
    fn head(&mut self, db: DbIndex, key: &Bytes) -> Result<Option<Head>, Self::Error> {
        Ok(self.seen(db, key)?.map(|seen| Head { deadline: seen.deadline }))
    }
    /// Sets a key.
    fn set(
        &mut self,
        db: DbIndex,
        key: &Bytes,
        value: &Bytes,
        deadline: Option<UnixMs>,
    ) -> Result<(), Self::Error>;
    /// Deletes a key; true if it could be seen.
    fn delete(&mut self, db: DbIndex, key: &Bytes) -> Result<bool, Self::Error>;
}

/// What there is to know of a key beside its value.
pub(super) struct Head {
    pub(super) deadline: Option<UnixMs>,
}

/// One end of a transfer.
type Place<'a> = (DbIndex, &'a Bytes);

/// Performs an op; `None` if it is not one of single keys that looks before it writes.
pub(super) fn perform<K: Keyspace>(keys: &mut K, op: &Op) -> Result<Option<Outcome>, K::Error> {
    let outcome = match op {
        Op::Update { db, key, change } => update(keys, (*db, key), change)?,
        Op::MSetIf { db, pairs, condition, expiry } => set_all_if(keys, (*db, pairs), condition, *expiry)?,
        Op::Transfer { from_db, from, to_db, to, how } => {
            transfer(keys, (*from_db, from), (*to_db, to), *how)?
        }
        Op::BitOp { db, operation, to, keys: operands } => {
            let mut values = Vec::with_capacity(operands.len());
            for key in operands {
                values.push(keys.seen(*db, key)?.map(|seen| seen.value).unwrap_or_default());
            }
            let values: Vec<&[u8]> = values.iter().map(|value| &value[..]).collect();
            let result = Bytes::from(bits::combine(*operation, &values));
            if result.len() as u64 > VALUE_BYTES_MAX {
                return Ok(Some(Outcome::Failed(Failure::TooLong)));
            }
            if result.is_empty() {
                keys.delete(*db, to)?;
            } else {
                keys.set(*db, to, &result, None)?;
            }
            Outcome::Int(i64::try_from(result.len()).unwrap_or(i64::MAX))
        }
        _ => return Ok(None),
    };
    Ok(Some(outcome))
}

/// Answers a read; `None` if it is not one of single keys.
pub(super) fn answer<K: Keyspace>(keys: &mut K, query: &Query) -> Result<Option<Answer>, K::Error> {
    Ok(Some(match query {
        Query::Get { db, key } => Answer::Value(keys.seen(*db, key)?.map(|seen| seen.value)),
        Query::MGet { db, keys: names, size_bytes_max } => {
            let mut page = Values::new(*size_bytes_max);
            for name in names {
                let value = keys.seen(*db, name)?.map(|seen| seen.value);
                if !page.push(value.as_deref()) {
                    return Ok(Some(Answer::TooLarge));
                }
            }
            page.answer()
        }
        Query::Exists { db, keys: names } => {
            let mut count = 0;
            for name in names {
                count += i64::from(keys.head(*db, name)?.is_some());
            }
            Answer::Int(count)
        }
        Query::Type { db, key } => Answer::Type(keys.head(*db, key)?.map(|_| TypeTag::String)),
        Query::Deadline { db, key } => {
            let deadline = keys.head(*db, key)?.map(|head| head.deadline);
            Answer::Deadline { deadline, now: keys.now() }
        }
        _ => return Ok(None),
    }))
}

/// Sets a key, unless its deadline is past already: then it is not there.
fn put<K: Keyspace>(
    keys: &mut K,
    (db, key): Place<'_>,
    value: &Bytes,
    deadline: Option<UnixMs>,
) -> Result<(), K::Error> {
    if deadline.is_some_and(|deadline| deadline <= keys.now()) {
        return keys.delete(db, key).map(drop);
    }
    keys.set(db, key, value, deadline)
}

fn update<K: Keyspace>(keys: &mut K, (db, key): Place<'_>, change: &Change) -> Result<Outcome, K::Error> {
    let now = keys.now();
    // The value before makes no difference: the most frequent case, SET with a deadline.
    if let Change::Write { value, expiry, condition: Condition::Always, answer: WriteAnswer::Done } = change
        && *expiry != Expiry::Keep
    {
        put(keys, (db, key), value, expiry.deadline(None, now))?;
        return Ok(Outcome::Ok);
    }
    let seen = keys.seen(db, key)?;
    let (next, outcome) = evaluate::change(change, seen.as_ref(), now);
    match next {
        Next::Same => {}
        Next::Put(value, deadline) => keys.set(db, key, &value, deadline)?,
        Next::Gone => drop(keys.delete(db, key)?),
    }
    Ok(outcome)
}

fn set_all_if<K: Keyspace>(
    keys: &mut K,
    (db, pairs): (DbIndex, &[(Bytes, Bytes)]),
    condition: &Condition,
    expiry: Expiry,
) -> Result<Outcome, K::Error> {
    for (key, _) in pairs {
        if !evaluate::holds(condition, keys.seen(db, key)?.as_ref()) {
            return Ok(Outcome::Int(0));
        }
    }
    for (key, value) in pairs {
        let before = keys.seen(db, key)?.and_then(|seen| seen.deadline);
        let deadline = expiry.deadline(before, keys.now());
        put(keys, (db, key), value, deadline)?;
    }
    Ok(Outcome::Int(1))
}

fn transfer<K: Keyspace>(
    keys: &mut K,
    from: Place<'_>,
    to: Place<'_>,
    how: Transfer,
) -> Result<Outcome, K::Error> {
    let Some(seen) = keys.seen(from.0, from.1)? else {
        let missing = Outcome::Failed(Failure::NoSuchKey);
        return Ok(if how.must_exist { missing } else { Outcome::Int(0) });
    };
    if !how.replaces && keys.seen(to.0, to.1)?.is_some() {
        return Ok(Outcome::Int(0));
    }
    if from != to {
        if how.removes {
            keys.delete(from.0, from.1)?;
        }
        keys.set(to.0, to.1, &seen.value, seen.deadline)?;
    }
    // What must exist and replaces cannot but be done.
    Ok(if how.must_exist && how.replaces { Outcome::Ok } else { Outcome::Int(1) })
}
