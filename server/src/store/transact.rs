//! Ops that look before they write: changes of one string, of several keys, and transactions.
//!
//! ```text
//! Transaction   each watched key still has its version?  no -> Nil
//!               each step: a write as any op, a read of the state so far, all at the entry's log time -> List
//! ```
//!
//! Invariants
//! - What a step sees is what the steps before it left, of this entry too, and nothing that came later.
//! - A read of a range writes out what is pending first (`Applier::spill`); readers outside see none of it before the
//!   entry has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::bits::{self, BitOperation};
use super::change::{Change, Condition, Expiry, WriteAnswer};
use super::engine::{DATA, split_value};
use super::evaluate::{self, Next, Seen, VALUE_BYTES_MAX};
use super::op::{Answer, Failure, Query, Step, Transfer, Watched};
use super::value::Header;
use super::{Applier, DbIndex, Fatal, Outcome, key, query};
use crate::clock::UnixMs;

/// One end of a transfer.
pub(super) type Place<'a> = (DbIndex, &'a Bytes);

impl Applier {
    fn now(&self) -> UnixMs {
        self.writer.state.log_time
    }

    /// Header and value of a key, if it can be seen.
    fn visible(&mut self, db: DbIndex, key: &Bytes) -> Result<Option<(Header, Bytes)>, Fatal> {
        let now = self.now();
        Ok(self.writer.load(db, key)?.filter(|(header, _)| !header.expired(now)))
    }

    /// Sets a key, unless its deadline is past already: then it is not there.
    fn put(
        &mut self,
        (db, key): Place<'_>,
        value: &Bytes,
        deadline: Option<UnixMs>,
        index: u64,
    ) -> Result<(), Fatal> {
        if deadline.is_some_and(|deadline| deadline <= self.now()) {
            return self.writer.delete(db, key).map(drop);
        }
        self.writer.set(db, key, value, deadline, index)
    }

    pub(super) fn update(
        &mut self,
        (db, key): Place<'_>,
        change: &Change,
        index: u64,
    ) -> Result<Outcome, Fatal> {
        let now = self.now();
        // The value before makes no difference: the most frequent case, SET with a deadline.
        if let Change::Write { value, expiry, condition: Condition::Always, answer: WriteAnswer::Done } =
            change
            && *expiry != Expiry::Keep
        {
            self.put((db, key), value, expiry.deadline(None, now), index)?;
            return Ok(Outcome::Ok);
        }
        let seen = self.visible(db, key)?.map(|(header, value)| Seen { value, deadline: header.deadline });
        let (next, outcome) = evaluate::change(change, seen.as_ref(), now);
        match next {
            Next::Same => {}
            Next::Put(value, deadline) => self.writer.set(db, key, &value, deadline, index)?,
            Next::Gone => drop(self.writer.delete(db, key)?),
        }
        Ok(outcome)
    }

    pub(super) fn set_all_if(
        &mut self,
        (db, pairs): (DbIndex, &[(Bytes, Bytes)]),
        condition: &Condition,
        expiry: Expiry,
        index: u64,
    ) -> Result<Outcome, Fatal> {
        for (key, _) in pairs {
            let seen =
                self.visible(db, key)?.map(|(header, value)| Seen { value, deadline: header.deadline });
            if !evaluate::holds(condition, seen.as_ref()) {
                return Ok(Outcome::Int(0));
            }
        }
        for (key, value) in pairs {
            let before = self.visible(db, key)?.and_then(|(header, _)| header.deadline);
            let deadline = expiry.deadline(before, self.now());
            self.put((db, key), value, deadline, index)?;
        }
        Ok(Outcome::Int(1))
    }

    pub(super) fn transfer(
        &mut self,
        from: Place<'_>,
        to: Place<'_>,
        how: Transfer,
        index: u64,
    ) -> Result<Outcome, Fatal> {
        let Some((header, value)) = self.visible(from.0, from.1)? else {
            let missing = Outcome::Failed(Failure::NoSuchKey);
            return Ok(if how.must_exist { missing } else { Outcome::Int(0) });
        };
        if !how.replaces && self.visible(to.0, to.1)?.is_some() {
            return Ok(Outcome::Int(0));
        }
        if from != to {
            if how.removes {
                self.writer.delete(from.0, from.1)?;
            }
            self.writer.set(to.0, to.1, &value, header.deadline, index)?;
        }
        // What must exist and replaces cannot but be done.
        Ok(if how.must_exist && how.replaces { Outcome::Ok } else { Outcome::Int(1) })
    }

    /// Rewrites both databases, in portions that fit in memory.
    pub(super) fn swap(&mut self, one: DbIndex, two: DbIndex, index: u64) -> Result<Outcome, Fatal> {
        if one == two {
            return Ok(Outcome::Ok);
        }
        self.spill()?;
        let before = self.writer.live.snapshot();
        self.clear(one, index);
        self.clear(two, index);
        for (from, to) in [(one, two), (two, one)] {
            let mut rows = before.iterate(DATA, &[from], Some(key::after_db(from).to_vec()), false)?;
            rows.rewind(false);
            while let Some((raw_key, raw_value)) = rows.item()? {
                let (header, payload) = split_value(raw_value)?;
                let (user_key, payload) =
                    (Bytes::copy_from_slice(&raw_key[1..]), Bytes::copy_from_slice(payload));
                self.writer.set(to, &user_key, &payload, header.deadline, index)?;
                self.spill_if_large()?;
                rows.step(false);
            }
        }
        Ok(Outcome::Ok)
    }

    pub(super) fn bit_op(
        &mut self,
        operation: BitOperation,
        (db, to): Place<'_>,
        keys: &[Bytes],
        index: u64,
    ) -> Result<Outcome, Fatal> {
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.visible(db, key)?.map(|(_, value)| value).unwrap_or_default());
        }
        let values: Vec<&[u8]> = values.iter().map(|value| &value[..]).collect();
        let result = Bytes::from(bits::combine(operation, &values));
        if result.len() as u64 > VALUE_BYTES_MAX {
            return Ok(Outcome::Failed(Failure::TooLong));
        }
        if result.is_empty() {
            self.writer.delete(db, to)?;
        } else {
            self.writer.set(db, to, &result, None, index)?;
        }
        Ok(Outcome::Int(i64::try_from(result.len()).unwrap_or(i64::MAX)))
    }

    pub(super) fn reap(&mut self, keys: &[(DbIndex, Bytes)]) -> Result<Outcome, Fatal> {
        let now = self.now();
        let mut removed = 0;
        for (db, key) in keys {
            if self.writer.header(*db, key)?.is_some_and(|header| header.expired(now)) {
                self.writer.delete(*db, key)?;
                removed += 1;
            }
        }
        self.store.reaped.fetch_add(u64::try_from(removed).unwrap_or(0), Ordering::Relaxed);
        Ok(Outcome::Int(removed))
    }

    pub(super) fn transaction(
        &mut self,
        watched: &[Watched],
        steps: &[Step],
        index: u64,
    ) -> Result<Outcome, Fatal> {
        let now = self.now();
        for Watched { db, key, version } in watched {
            let header = self.writer.header(*db, key)?.filter(|header| !header.expired(now));
            if header.map(|header| header.index) != *version {
                return Ok(Outcome::Nil);
            }
        }
        let mut outcomes = Vec::with_capacity(steps.len());
        for step in steps {
            outcomes.push(match step {
                Step::Write(op) => self.op(index, op)?,
                Step::Read(query) => Outcome::Answer(self.read(query)?),
            });
            self.spill_if_large()?;
        }
        Ok(Outcome::List(outcomes))
    }

    /// Answers a read from the state so far.
    fn read(&mut self, query: &Query) -> Result<Answer, Fatal> {
        let now = self.now();
        Ok(match query {
            Query::Get { db, key } => Answer::Value(self.visible(*db, key)?.map(|(_, value)| value)),
            Query::MGet { db, keys, size_bytes_max } => {
                let mut page = query::Values::new(*size_bytes_max);
                for key in keys {
                    let value = self.visible(*db, key)?.map(|(_, value)| value);
                    if !page.push(value.as_deref()) {
                        return Ok(Answer::TooLarge);
                    }
                }
                page.answer()
            }
            Query::Exists { db, keys } => {
                let mut count = 0;
                for key in keys {
                    count += i64::from(self.version(*db, key)?.is_some());
                }
                Answer::Int(count)
            }
            Query::Type { db, key } => Answer::Type(self.visible(*db, key)?.map(|(header, _)| header.tag)),
            Query::Deadline { db, key } => {
                let header = self.writer.header(*db, key)?.filter(|header| !header.expired(now));
                Answer::Deadline { deadline: header.map(|header| header.deadline), now }
            }
            Query::Versions { keys } => {
                let versions = keys.iter().map(|(db, key)| self.version(*db, key));
                Answer::Versions(versions.collect::<Result<_, _>>()?)
            }
            Query::DbSize { .. } | Query::Keys { .. } | Query::Scan { .. } | Query::RandomKey { .. } => {
                self.spill()?;
                let (live, state) = (&self.writer.live, Arc::new(self.writer.state.clone()));
                query::answer_at(Arc::new(live.snapshot()), state, query)?
            }
        })
    }

    /// Log index of the last change of a key that can be seen.
    fn version(&mut self, db: DbIndex, key: &Bytes) -> Result<Option<u64>, Fatal> {
        let now = self.now();
        let header = self.writer.header(db, key)?.filter(|header| !header.expired(now));
        Ok(header.map(|header| header.index))
    }
}
