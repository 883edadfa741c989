//! A run: consecutive requests of one connection that are served by one proposal or one read barrier.

use std::time::Duration;

use bytes::Bytes;

use super::access::Refused;
use super::counters::Counters;
use crate::command::View;
use crate::config::Config;
use crate::resp::Reply;
use crate::store::{DbIndex, Op, Query};

/// Keys of one read above which it leaves the async threads.
const INLINE_KEYS_MAX: usize = 64;

/// GETs that may stand among the writes of one run. A run with writes is answered to its end, so this bounds what it adds
/// to the output.
const MIXED_READS_MAX: usize = 32;

/// What a planned request waits for.
pub(super) enum Step {
    /// The reply is known.
    Ready(Reply),
    /// The next outcome of the run's proposal.
    Write,
    /// It is refused.
    Refused(Refused),
    /// A query behind the run's barrier.
    Read(Query, View),
}

/// One request of a run.
pub(super) struct Item {
    /// Row; `None` if there is none, and for requests that were refused before execution.
    pub(super) slot: Option<usize>,
    pub(super) step: Step,
}

/// Consecutive requests that are served together.
#[derive(Default)]
pub(super) struct Run {
    pub(super) items: Vec<Item>,
    pub(super) ops: Vec<Op>,
    ops_bytes: usize,
    pub(super) reads: bool,
    /// Keys of the first GETs; `other_reads` if there are reads of another kind.
    got: Vec<(DbIndex, Bytes)>,
    other_reads: bool,
}

impl Run {
    pub(super) fn admits_write(&self, op: &Op, config: &Config) -> bool {
        let fits = self.ops.len() < config.limits.entry_ops_max
            && self.ops_bytes + op.size_bytes() <= config.limits.entry_bytes_max;
        (!self.reads || self.may_follow_gets(op)) && (self.ops.is_empty() || fits)
    }

    /// All reads of a run are answered after all its writes. That is the order of the pipeline to whoever looks, as long
    /// as no write touches a key that was read before it.
    fn may_follow_gets(&self, op: &Op) -> bool {
        if self.other_reads || self.got.len() > MIXED_READS_MAX {
            return false;
        }
        let mut apart = true;
        // Few: to compare them costs less than to hash each key of each run.
        let was_got = |db, key: &Bytes| self.got.iter().any(|(at, got)| *at == db && got == key);
        let known = op.each_key(&mut |db, key| apart &= !was_got(db, key));
        known && apart
    }

    pub(super) fn admits_read(&self, query: &Query) -> bool {
        self.ops.is_empty() || (matches!(query, Query::Get { .. }) && self.got.len() < MIXED_READS_MAX)
    }

    pub(super) fn push_write(&mut self, slot: usize, op: Op) {
        self.ops_bytes += op.size_bytes();
        self.ops.push(op);
        self.items.push(Item { slot: Some(slot), step: Step::Write });
    }

    /// A reply that is known rides along, unless it is a table and writes wait: a run with writes is answered to its end,
    /// so what it adds to the output must stay small beside its requests.
    pub(super) fn admits_ready(&self, reply: &Reply) -> bool {
        self.ops.is_empty() || !matches!(reply, Reply::Array(_) | Reply::Map(_))
    }

    pub(super) fn push_ready(&mut self, slot: Option<usize>, reply: Reply) {
        self.items.push(Item { slot, step: Step::Ready(reply) });
    }

    pub(super) fn push_refused(&mut self, refused: Refused) {
        self.items.push(Item { slot: None, step: Step::Refused(refused) });
    }

    pub(super) fn push_read(&mut self, slot: usize, query: Query, view: View) {
        self.reads = true;
        match &query {
            // One more than may be mixed says that there are too many.
            Query::Get { db, key } => {
                if self.got.len() <= MIXED_READS_MAX {
                    self.got.push((*db, key.clone()));
                }
            }
            _ => self.other_reads = true,
        }
        self.items.push(Item { slot: Some(slot), step: Step::Read(query, view) });
    }
}

/// Latencies of a run, gathered so that equal neighbours cost one addition.
#[derive(Default)]
pub(super) struct Tally {
    slot: Option<usize>,
    calls: u64,
    failed: u64,
}

impl Tally {
    pub(super) fn add(&mut self, counters: &Counters, slot: Option<usize>, failed: bool, latency: Duration) {
        if self.slot != slot {
            self.flush(counters, latency);
            self.slot = slot;
        }
        self.calls += 1;
        self.failed += u64::from(failed);
    }

    pub(super) fn flush(&mut self, counters: &Counters, latency: Duration) {
        if let Some(slot) = self.slot.filter(|_| self.calls > 0) {
            counters.executed(slot, self.calls, self.failed, latency);
        }
        *self = Self::default();
    }
}

/// True if a query touches few keys, so that it may run on an async thread.
pub(super) fn is_short(query: &Query) -> bool {
    match query {
        Query::Get { .. } | Query::Type { .. } | Query::Deadline { .. } | Query::Row { .. } => true,
        Query::MGet { keys, .. } | Query::Exists { keys, .. } => keys.len() <= INLINE_KEYS_MAX,
        Query::Versions { keys } => keys.len() <= INLINE_KEYS_MAX,
        // A range may have to wait for what is gathered to be written, and so may a count.
        Query::Scan { .. } | Query::Keys { .. } | Query::RandomKey { .. } | Query::DbSize { .. } => false,
    }
}
