//! Step 6: the deterministic key/value machine. No tokio, no Raft, no RESP, no clock, no randomness.
//!
//! ```text
//!            Committed entries, in log order            Query (a read)
//!                        |                                   |
//!                  Applier::apply                       Store::query
//!                        |                                   |
//!                  RocksDB  (no WAL; one WriteBatch carries effects + applied id)
//! ```
//!
//! Invariants
//! - The same entries give the same content, the same outcomes and the same digest on every node, also after a replay.
//! - What a client may see is an [`Outcome`], also an error such as a wrong type; [`Fatal`] stops the node.
//! - The content on disk is exactly the state at its own stored applied id: all column families are flushed
//!   atomically, and only when [`Applier::flush`] is called. The caller syncs the Raft log first, so the state never
//!   becomes durable beyond the local log.

pub mod bits;
pub mod change;
pub mod codec;
pub mod db;
pub mod glob;
pub mod op;
pub mod rehearsal;

mod apply;
mod cached;
mod checkpoint;
mod decimal;
mod digests;
mod engine;
mod evaluate;
mod expire;
mod flush;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod gathered;
mod key;
mod keyspace;
mod layout;
mod loading;
mod meta;
mod options;
mod query;
mod reclaim;
mod sorted;
mod transact;
mod value;
mod writer;

#[cfg(test)]
mod tests;

pub use apply::Applier;
pub use cached::CacheStats;
pub use change::{Change, Condition, Expiry};
pub use checkpoint::CheckpointInfo;
pub use codec::DecodeError;
pub use db::{DbStats, Store, StoreOptions, View, ViewMeta};
pub use digests::Digest;
pub use expire::Visible;
pub use loading::RecordOrder;
pub use op::{
    Answer, Batch, Committed, DbIndex, Failure, Op, Outcome, Payload, Pivot, Query, Record, Step, Transfer,
    TypeTag, Watched,
};
pub use value::record_hash;

use std::fmt;
use std::str::FromStr;

/// True if a text is a finite decimal number, as INCRBYFLOAT takes it.
#[must_use]
pub fn is_float(text: &[u8]) -> bool {
    decimal::Decimal::parse(text).is_some()
}

/// Position of an entry in the Raft log: the leader's term and node id, and the index.
///
/// Ordered by term, then node, then index, as Raft orders log ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that appended the entry.
    pub term: u64,
    /// Node id of that leader.
    pub node: u64,
    /// Index of the entry; the first one is 0.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}-{}", self.term, self.node, self.index)
    }
}

impl FromStr for LogId {
    type Err = ();

    /// Reads what [`LogId`] displays, `<term>-<node in hex>-<index>`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let mut part = || parts.next().ok_or(());
        let id = LogId {
            term: part()?.parse().map_err(drop)?,
            node: u64::from_str_radix(part()?, 16).map_err(drop)?,
            index: part()?.parse().map_err(drop)?,
        };
        parts.next().is_none().then_some(id).ok_or(())
    }
}

/// An error after which the node must stop: I/O, corruption, an entry that cannot be decoded.
///
/// It never depends on what a client asked for, only on this one machine (or a bug), so it is never replicated.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct Fatal {
    /// What the store was doing, e.g. "write batch up to 3-1f-900".
    pub doing: String,
    /// The cause, in the words of the layer below.
    pub cause: String,
}

impl Fatal {
    /// Builds the error from what was being done and the cause.
    pub fn new(doing: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self { doing: doing.into(), cause: cause.to_string() }
    }
}
