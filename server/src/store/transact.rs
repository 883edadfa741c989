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

use super::engine::{DATA, split_value};
use super::evaluate::Seen;
use super::keyspace::{self, Head, Keyspace};
use super::op::{Answer, Query, Row, Step, Watched};
use super::value::Header;
use super::{Applier, DbIndex, Fatal, Op, Outcome, key, query};
use crate::clock::UnixMs;

/// The state in the midst of an entry.
struct Entry<'a> {
    applier: &'a mut Applier,
    index: u64,
}

impl Keyspace for Entry<'_> {
    type Error = Fatal;

    fn now(&self) -> UnixMs {
        self.applier.now()
    }

    fn seen(&mut self, db: DbIndex, key: &Bytes) -> Result<Option<Seen>, Fatal> {
        let visible = self.applier.visible(db, key)?;
        Ok(visible.map(|(header, value)| Seen { value, deadline: header.deadline }))
    }

    fn head(&mut self, db: DbIndex, key: &Bytes) -> Result<Option<Head>, Fatal> {
        let now = self.now();
        let header = self.applier.writer.header(db, key)?.filter(|header| !header.expired(now));
        Ok(header.map(|header| Head { deadline: header.deadline }))
    }

    fn set(
        &mut self,
        db: DbIndex,
        key: &Bytes,
        value: &Bytes,
        deadline: Option<UnixMs>,
    ) -> Result<(), Fatal> {
        self.applier.writer.set(db, key, value, deadline, self.index)
    }

    fn delete(&mut self, db: DbIndex, key: &Bytes) -> Result<bool, Fatal> {
        self.applier.writer.delete(db, key)
    }
}

impl Applier {
    fn now(&self) -> UnixMs {
        self.writer.state.log_time
    }

    /// Header and value of a key, if it can be seen.
    fn visible(&mut self, db: DbIndex, key: &Bytes) -> Result<Option<(Header, Bytes)>, Fatal> {
        let now = self.now();
        Ok(self.writer.load(db, key)?.filter(|(header, _)| !header.expired(now)))
    }

    /// Ops on single keys, in the midst of an entry.
    pub(super) fn look_and_write(&mut self, op: &Op, index: u64) -> Result<Outcome, Fatal> {
        let done = keyspace::perform(&mut Entry { applier: self, index }, op)?;
        done.ok_or_else(|| Fatal::new("apply an op of single keys", "it is none"))
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
                Step::Read(query) => Outcome::Answer(self.read(query, index)?),
            });
            self.spill_if_large()?;
        }
        Ok(Outcome::List(outcomes))
    }

    /// Answers a read from the state so far.
    fn read(&mut self, query: &Query, index: u64) -> Result<Answer, Fatal> {
        if let Some(answer) = keyspace::answer(&mut Entry { applier: self, index }, query)? {
            return Ok(answer);
        }
        Ok(match query {
            Query::Row { db, key } => Answer::Row(self.visible(*db, key)?.map(|(header, value)| Row {
                value,
                deadline: header.deadline,
                version: header.index,
            })),
            Query::Versions { keys } => {
                let versions = keys.iter().map(|(db, key)| self.version(*db, key));
                Answer::Versions(versions.collect::<Result<_, _>>()?)
            }
            // Anything else, from what is written out first.
            query => {
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
