//! A rehearsal: what ops would do to the state, without the log.
//!
//! ```text
//! script -> op or read -> Rehearsal -> outcome at once     what it has looked at: watched;  what it wants: steps
//!                             `-> Op::Transaction { watched, steps } -> the log
//! ```
//!
//! The transaction does exactly what was rehearsed, or nothing: every key that was looked at is watched with the version
//! that it had. So a script needs no place in the log itself; nothing of its interpreter need be the same on all nodes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;

use super::Fatal;
use super::evaluate::Seen;
use super::keyspace::{self, Keyspace};
use super::op::{Answer, DbIndex, Op, Outcome, Query, Row, Step, Watched};
use crate::clock::UnixMs;

/// Why a rehearsal breaks off.
#[derive(Debug)]
pub enum Stop {
    /// A deadline has come that the log time has not reached ([`Answer::Due`]).
    Due,
    /// The op or read is not one of single keys.
    NotRehearsed,
    /// The node must stop.
    Fatal(Fatal),
}

/// Answers [`Query::Row`] from the state.
pub type Fetch<'a> = Box<dyn FnMut(&Query) -> Result<Answer, Fatal> + 'a>;

/// Ops tried out on top of a state.
pub struct Rehearsal<'a> {
    fetch: Fetch<'a>,
    now: UnixMs,
    rows: HashMap<(DbIndex, Bytes), Option<Seen>>,
    watched: Vec<Watched>,
    steps: Vec<Step>,
    size_bytes: usize,
}

impl<'a> Rehearsal<'a> {
    /// Over the state that `fetch` answers from, at this time.
    #[must_use]
    pub fn new(now: UnixMs, fetch: Fetch<'a>) -> Self {
        Self { fetch, now, rows: HashMap::new(), watched: Vec::new(), steps: Vec::new(), size_bytes: 0 }
    }

    /// True of ops that can be rehearsed: those of single keys.
    #[must_use]
    pub fn takes_op(op: &Op) -> bool {
        match op {
            Op::Set { .. }
            | Op::MSet { .. }
            | Op::Del { .. }
            | Op::Update { .. }
            | Op::MSetIf { .. }
            | Op::Transfer { .. }
            | Op::BitOp { .. } => true,
            Op::DelIf { .. }
            | Op::PDel { .. }
            | Op::FlushDb { .. }
            | Op::FlushAll
            | Op::SwapDb { .. }
            | Op::Reap { .. }
            | Op::Transaction { .. } => false,
        }
    }

    /// True of reads that can be rehearsed: those of single keys.
    #[must_use]
    pub fn takes_query(query: &Query) -> bool {
        match query {
            Query::Get { .. }
            | Query::MGet { .. }
            | Query::Exists { .. }
            | Query::Type { .. }
            | Query::Deadline { .. } => true,
            Query::DbSize { .. }
            | Query::Keys { .. }
            | Query::Scan { .. }
            | Query::RandomKey { .. }
            | Query::Versions { .. }
            | Query::Row { .. } => false,
        }
    }

    /// Bytes of the ops so far, about.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Keys looked at and ops performed.
    #[must_use]
    pub fn finish(self) -> (Vec<Watched>, Vec<Step>) {
        (self.watched, self.steps)
    }

    /// Performs an op.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn perform(&mut self, op: &Op) -> Result<Outcome, Stop> {
        let outcome = match op {
            Op::Set { db, key, value, deadline } => {
                self.set(*db, key, value, *deadline)?;
                Outcome::Ok
            }
            Op::MSet { db, pairs } => {
                for (key, value) in pairs {
                    self.set(*db, key, value, None)?;
                }
                Outcome::Ok
            }
            Op::Del { db, keys } => {
                let mut deleted = 0;
                for key in keys {
                    deleted += i64::from(self.delete(*db, key)?);
                }
                Outcome::Int(deleted)
            }
            op => keyspace::perform(self, op)?.ok_or(Stop::NotRehearsed)?,
        };
        self.size_bytes += op.size_bytes();
        self.steps.push(Step::Write(op.clone()));
        Ok(outcome)
    }

    /// Answers a read.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn read(&mut self, query: &Query) -> Result<Answer, Stop> {
        keyspace::answer(self, query)?.ok_or(Stop::NotRehearsed)
    }
}

impl Keyspace for Rehearsal<'_> {
    type Error = Stop;

    fn now(&self) -> UnixMs {
        self.now
    }

    fn seen(&mut self, db: DbIndex, key: &Bytes) -> Result<Option<Seen>, Stop> {
        let slot = match self.rows.entry((db, key.clone())) {
            Entry::Occupied(slot) => return Ok(slot.get().clone()),
            Entry::Vacant(slot) => slot,
        };
        let row = match (self.fetch)(&Query::Row { db, key: key.clone() }) {
            Ok(Answer::Row(row)) => row,
            Ok(_) => return Err(Stop::Due),
            Err(fatal) => return Err(Stop::Fatal(fatal)),
        };
        let version = row.as_ref().map(|row| row.version);
        self.watched.push(Watched { db, key: key.clone(), version });
        let seen = row.map(|Row { value, deadline, .. }| Seen { value, deadline });
        Ok(slot.insert(seen).clone())
    }

    fn set(&mut self, db: DbIndex, key: &Bytes, value: &Bytes, deadline: Option<UnixMs>) -> Result<(), Stop> {
        self.rows.insert((db, key.clone()), Some(Seen { value: value.clone(), deadline }));
        Ok(())
    }

    fn delete(&mut self, db: DbIndex, key: &Bytes) -> Result<bool, Stop> {
        let was = self.seen(db, key)?.is_some();
        self.rows.insert((db, key.clone()), None);
        Ok(was)
    }
}
