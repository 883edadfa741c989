//! One [`Change`] on one string: what the key becomes and what the client is told. Pure.
//!
//! ```text
//! (change, value and deadline as they can be seen, log time)  -->  (Next, Outcome)
//! ```
//!
//! Invariants
//! - Nothing but the arguments decides; no clock, no floating point whose result could differ between machines (decimal
//!   arithmetic is in `decimal.rs`).
//! - A change that fails leaves the key as it is.

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64;

use super::bits;
use super::change::{Bounded, Change, Condition, ExpireRule, Expiry, WriteAnswer};
use super::decimal::Decimal;
use super::op::{Failure, Outcome};
use crate::clock::UnixMs;

/// Longest value that a change may make, as Redis' `proto-max-bulk-len` by default.
pub(crate) const VALUE_BYTES_MAX: u64 = 512 << 20;

/// What a key holds, as it can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) value: Bytes,
    pub(crate) deadline: Option<UnixMs>,
}

/// What becomes of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It stays as it is.
    Same,
    /// It gets this value and deadline.
    Put(Bytes, Option<UnixMs>),
    /// It goes.
    Gone,
}

type Decision = (Next, Outcome);

/// Decides a change.
pub(crate) fn change(change: &Change, seen: Option<&Seen>, now: UnixMs) -> Decision {
    match change {
        Change::Write { value, expiry, condition, answer } => {
            let holds = holds(condition, seen);
            let next = if holds { put(value.clone(), *expiry, seen, now) } else { Next::Same };
            (next, answered(*answer, holds, seen))
        }
        Change::Remove { condition, answer } => {
            let holds = seen.is_some() && holds(condition, seen);
            (if holds { Next::Gone } else { Next::Same }, answered(*answer, holds, seen))
        }
        Change::Expire { expiry, rule } => expire(*expiry, *rule, seen, now),
        Change::Retrieve { expiry } => match seen {
            None => (Next::Same, Outcome::Nil),
            Some(seen) if *expiry == Expiry::Keep => (Next::Same, Outcome::Bulk(seen.value.clone())),
            Some(seen) => {
                let next = put(seen.value.clone(), *expiry, Some(seen), now);
                let same = next == Next::Put(seen.value.clone(), seen.deadline);
                (if same { Next::Same } else { next }, Outcome::Bulk(seen.value.clone()))
            }
        },
        Change::Persist => match seen {
            Some(Seen { value, deadline: Some(_) }) => (Next::Put(value.clone(), None), Outcome::Int(1)),
            _ => (Next::Same, Outcome::Int(0)),
        },
        Change::Append(tail) => append(tail, seen),
        Change::Overwrite { offset, value } => overwrite(*offset, value, seen),
        Change::Add(by) => add(*by, seen),
        Change::AddFloat(by) => add_float(by, seen),
        Change::SetBit { offset, bit } => set_bit(*offset, *bit, seen),
        Change::Fields(steps) => {
            let mut value = BytesMut::from(held(seen));
            let (answers, changed) = bits::fields(&mut value, steps);
            if value.len() as u64 > VALUE_BYTES_MAX {
                return failed(Failure::TooLong);
            }
            let next = if changed { keep_deadline(value.freeze(), seen) } else { Next::Same };
            let answers = answers.into_iter().map(|answer| answer.map_or(Outcome::Nil, Outcome::Int));
            (next, Outcome::List(answers.collect()))
        }
        Change::AddBounded { step, saturate, expiry, only_first_expiry } => {
            let bounded = match step {
                Bounded::Int { by, low, high } => bounded_int(*by, (*low, *high), *saturate, seen),
                Bounded::Float { by, low, high } => {
                    bounded_float(by, (low.as_deref(), high.as_deref()), *saturate, seen)
                }
            };
            match bounded {
                Err(failure) => failed(failure),
                Ok((None, outcome)) => (Next::Same, outcome),
                Ok((Some(value), outcome)) => {
                    let has = seen.is_some_and(|seen| seen.deadline.is_some());
                    let expiry = if *only_first_expiry && has { Expiry::Keep } else { *expiry };
                    (put(value, expiry, seen, now), outcome)
                }
            }
        }
    }
}

/// True if a condition holds of what can be seen.
pub(crate) fn holds(condition: &Condition, seen: Option<&Seen>) -> bool {
    let value = seen.map(|seen| &seen.value);
    match condition {
        Condition::Always => true,
        Condition::Missing => value.is_none(),
        Condition::Present => value.is_some(),
        Condition::Equals(wanted) => value == Some(wanted),
        Condition::Differs(unwanted) => value != Some(unwanted),
        Condition::DigestEquals(wanted) => value.is_some_and(|value| xxh3_64(value) == *wanted),
        Condition::DigestDiffers(unwanted) => value.is_none_or(|value| xxh3_64(value) != *unwanted),
    }
}

fn failed(failure: Failure) -> Decision {
    (Next::Same, Outcome::Failed(failure))
}

fn answered(answer: WriteAnswer, held: bool, seen: Option<&Seen>) -> Outcome {
    match answer {
        WriteAnswer::Done => {
            if held {
                Outcome::Ok
            } else {
                Outcome::Nil
            }
        }
        WriteAnswer::Count => Outcome::Int(i64::from(held)),
        WriteAnswer::Claim if held => Outcome::Ok,
        WriteAnswer::Claim => Outcome::Failed(Failure::KeyTaken),
        WriteAnswer::Previous => seen.map_or(Outcome::Nil, |seen| Outcome::Bulk(seen.value.clone())),
    }
}

/// A value with a deadline; one that is past already never comes into being.
fn put(value: Bytes, expiry: Expiry, seen: Option<&Seen>, now: UnixMs) -> Next {
    let deadline = expiry.deadline(seen.and_then(|seen| seen.deadline), now);
    if deadline.is_some_and(|deadline| deadline <= now) {
        return if seen.is_some() { Next::Gone } else { Next::Same };
    }
    Next::Put(value, deadline)
}

fn keep_deadline(value: Bytes, seen: Option<&Seen>) -> Next {
    Next::Put(value, seen.and_then(|seen| seen.deadline))
}

fn held(seen: Option<&Seen>) -> &[u8] {
    seen.map_or(&[], |seen| &seen.value)
}

fn length(bytes: usize) -> Outcome {
    Outcome::Int(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn expire(expiry: Expiry, rule: ExpireRule, seen: Option<&Seen>, now: UnixMs) -> Decision {
    let Some(seen) = seen else { return (Next::Same, Outcome::Int(0)) };
    let wanted = expiry.deadline(seen.deadline, now);
    let is_later = match (seen.deadline, wanted) {
        (Some(before), Some(wanted)) => wanted > before,
        (Some(_), None) => true,
        (None, _) => false,
    };
    let is_earlier = match (seen.deadline, wanted) {
        (Some(before), Some(wanted)) => wanted < before,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    let admitted = (!rule.missing || seen.deadline.is_none())
        && (!rule.present || seen.deadline.is_some())
        && (!rule.later || is_later)
        && (!rule.earlier || is_earlier);
    if !admitted {
        return (Next::Same, Outcome::Int(0));
    }
    (put(seen.value.clone(), expiry, Some(seen), now), Outcome::Int(1))
}

fn append(tail: &Bytes, seen: Option<&Seen>) -> Decision {
    let head = held(seen);
    if (head.len() + tail.len()) as u64 > VALUE_BYTES_MAX {
        return failed(Failure::TooLong);
    }
    let mut value = BytesMut::with_capacity(head.len() + tail.len());
    value.extend_from_slice(head);
    value.extend_from_slice(tail);
    let outcome = length(value.len());
    (keep_deadline(value.freeze(), seen), outcome)
}

fn overwrite(offset: u64, part: &Bytes, seen: Option<&Seen>) -> Decision {
    let before = held(seen);
    if part.is_empty() {
        return (Next::Same, length(before.len()));
    }
    let end = offset.saturating_add(part.len() as u64);
    let (Ok(begin), Ok(end), true) = (usize::try_from(offset), usize::try_from(end), end <= VALUE_BYTES_MAX)
    else {
        return failed(Failure::TooLong);
    };
    let mut value = BytesMut::with_capacity(end.max(before.len()));
    value.extend_from_slice(before);
    value.resize(end.max(before.len()), 0);
    value[begin..end].copy_from_slice(part);
    let outcome = length(value.len());
    (keep_deadline(value.freeze(), seen), outcome)
}

/// The number that a key holds; a missing key counts as 0.
fn number(seen: Option<&Seen>) -> Result<i64, Failure> {
    seen.map_or(Ok(0), |seen| strict_int(&seen.value).ok_or(Failure::NotInteger))
}

fn add(by: i64, seen: Option<&Seen>) -> Decision {
    let sum = number(seen).and_then(|number| number.checked_add(by).ok_or(Failure::Overflow));
    match sum {
        Ok(sum) => (keep_deadline(sum.to_string().into(), seen), Outcome::Int(sum)),
        Err(failure) => failed(failure),
    }
}

/// The decimal that a key holds; a missing key counts as 0.
fn decimal(seen: Option<&Seen>) -> Result<Decimal, Failure> {
    seen.map_or(Ok(Decimal::ZERO), |seen| Decimal::parse(&seen.value).ok_or(Failure::NotFloat))
}

fn add_float(by: &Bytes, seen: Option<&Seen>) -> Decision {
    let sum = decimal(seen).and_then(|number| {
        let by = Decimal::parse(by).ok_or(Failure::NotFloat)?;
        number.checked_add(by).ok_or(Failure::NanOrInfinity)
    });
    match sum {
        Ok(sum) => {
            let text = Bytes::from(sum.to_string());
            (keep_deadline(text.clone(), seen), Outcome::Bulk(text))
        }
        Err(failure) => failed(failure),
    }
}

fn set_bit(offset: u64, bit: bool, seen: Option<&Seen>) -> Decision {
    let before = held(seen);
    if offset / 8 >= VALUE_BYTES_MAX {
        return failed(Failure::TooLong);
    }
    let old = bits::get(before, offset);
    if old == bit && offset / 8 < before.len() as u64 {
        return (Next::Same, Outcome::Int(i64::from(old)));
    }
    let mut value = BytesMut::from(before);
    bits::set(&mut value, offset, bit);
    (keep_deadline(value.freeze(), seen), Outcome::Int(i64::from(old)))
}

type Stepped = Result<(Option<Bytes>, Outcome), Failure>;

fn bounded_int(by: i64, (low, high): (i64, i64), saturate: bool, seen: Option<&Seen>) -> Stepped {
    let before = number(seen)?;
    let pair = |now: i64, added: i64| Outcome::List(vec![Outcome::Int(now), Outcome::Int(added)]);
    let wanted = i128::from(before) + i128::from(by);
    let fits = (i128::from(low)..=i128::from(high)).contains(&wanted);
    if !fits && !saturate {
        return Ok((None, pair(before, 0)));
    }
    let (low, high) = (i128::from(low), i128::from(high));
    let after = i64::try_from(wanted.min(high).max(low)).map_err(|_| Failure::Overflow)?;
    let added = i64::try_from(i128::from(after) - i128::from(before)).map_err(|_| Failure::Overflow)?;
    Ok((Some(after.to_string().into()), pair(after, added)))
}

fn bounded_float(
    by: &[u8],
    (low, high): (Option<&[u8]>, Option<&[u8]>),
    saturate: bool,
    seen: Option<&Seen>,
) -> Stepped {
    let bound =
        |text: Option<&[u8]>| text.map(|text| Decimal::parse(text).ok_or(Failure::NotFloat)).transpose();
    let (before, by) = (decimal(seen)?, Decimal::parse(by).ok_or(Failure::NotFloat)?);
    let (low, high) = (bound(low)?, bound(high)?);
    let wanted = before.checked_add(by).ok_or(Failure::NanOrInfinity)?;
    let mut after = wanted;
    if let Some(high) = high.filter(|high| after > *high) {
        after = high;
    }
    if let Some(low) = low.filter(|low| after < *low) {
        after = low;
    }
    let text = |number: Decimal| Outcome::Double(number.to_string().into());
    if after != wanted && !saturate {
        return Ok((None, Outcome::List(vec![text(before), text(Decimal::ZERO)])));
    }
    let added = after.checked_sub(before).ok_or(Failure::NanOrInfinity)?;
    Ok((Some(after.to_string().into()), Outcome::List(vec![text(after), text(added)])))
}

/// Redis' `string2ll`: canonical decimal only.
pub(crate) fn strict_int(word: &[u8]) -> Option<i64> {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    let canonical = match digits {
        [] => false,
        [b'0'] => word.len() == 1,
        [first, rest @ ..] => (b'1'..=b'9').contains(first) && rest.iter().all(u8::is_ascii_digit),
    };
    if canonical { std::str::from_utf8(word).ok()?.parse().ok() } else { None }
}
