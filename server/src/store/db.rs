//! The database handle: readers share a [`Store`], one [`Applier`] writes.

use std::path::Path;

use super::{Answer, Committed, Fatal, LogId, Outcome, Query, Record};
use crate::clock::UnixMs;
use bytes::Bytes;

/// Sizes that the store is opened with.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Databases that exist.
    pub databases: u8,
    /// State bytes in memory at which [`Applier::flush_due`] becomes true.
    pub memtable_bytes: usize,
    /// RocksDB block cache.
    pub block_cache_bytes: usize,
}

/// Shared read side of the state; cheap to clone through its `Arc`.
pub struct Store {}

/// The one writer of the state. Owned by the apply thread.
pub struct Applier {}

/// Running facts of one database, kept in the same batch as the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DbStats {
    /// Keys.
    pub keys: u64,
    /// Keys with a deadline.
    pub expires: u64,
    /// Order-free content digest: the sum modulo 2^128 of a 128-bit hash over (database, type, key, value, deadline).
    pub digest: u128,
}

/// What a point-in-time view says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewMeta {
    /// Last applied entry.
    pub applied: Option<LogId>,
    /// Log time applied.
    pub log_time: UnixMs,
    /// Membership (its log id and its encoding).
    pub membership: Option<(LogId, Bytes)>,
    /// Per database, index = database number.
    pub databases: Vec<DbStats>,
}

/// A consistent point in time of the whole content; holding it does not stall writes.
pub struct View {}

impl View {
    /// What this view holds.
    ///
    /// # Errors
    /// [`Fatal`] on I/O or corruption.
    pub fn meta(&self) -> Result<ViewMeta, Fatal> {
        todo!("store room")
    }

    /// All records in order of (database, key), read lazily with bounded memory.
    pub fn records(&self) -> impl Iterator<Item = Result<Record, Fatal>> + '_ {
        std::iter::empty()
    }
}

impl Store {
    /// Opens or creates the state in `dir`.
    ///
    /// # Errors
    /// [`Fatal`] with file and remedy when the directory is damaged, of a newer format, or cannot be used.
    pub fn open(_dir: &Path, _options: StoreOptions) -> Result<(std::sync::Arc<Store>, Applier), Fatal> {
        todo!("store room")
    }

    /// Answers a read from one point in time.
    ///
    /// # Errors
    /// [`Fatal`] on I/O or corruption.
    pub fn query(&self, _query: &Query) -> Result<Answer, Fatal> {
        todo!("store room")
    }

    /// Takes a point-in-time view.
    #[must_use]
    pub fn view(&self) -> View {
        todo!("store room")
    }

    /// Last applied entry (in memory, lock-free).
    #[must_use]
    pub fn applied(&self) -> Option<LogId> {
        todo!("store room")
    }

    /// Last entry whose effects a finished flush has made durable.
    #[must_use]
    pub fn durable(&self) -> Option<LogId> {
        todo!("store room")
    }

    /// Running facts of a database (in memory).
    #[must_use]
    pub fn stats(&self, _db: u8) -> DbStats {
        todo!("store room")
    }

    /// An integer property of the engine for metrics, e.g. `rocksdb.estimate-live-data-size`.
    #[must_use]
    pub fn engine_property(&self, _name: &str) -> Option<u64> {
        todo!("store room")
    }
}

/// A built checkpoint: a directory of immutable files.
#[derive(Clone, Debug)]
pub struct CheckpointInfo {
    /// Last entry that it contains.
    pub applied: LogId,
    /// Membership in it.
    pub membership: Option<(LogId, Bytes)>,
    /// File names with sizes in bytes, sorted.
    pub files: Vec<(String, u64)>,
}

impl Applier {
    /// Applies committed entries in order, in as few write batches as possible; outcomes per entry and op.
    /// Entries at or below the applied id are skipped with no outcomes.
    ///
    /// # Errors
    /// [`Fatal`]: the node must stop.
    pub fn apply(&mut self, _entries: &[Committed]) -> Result<Vec<Vec<Outcome>>, Fatal> {
        todo!("store room")
    }

    /// Applied id and membership, as found at open or applied since.
    #[must_use]
    pub fn position(&self) -> (Option<LogId>, Option<(LogId, Bytes)>) {
        todo!("store room")
    }

    /// True when enough unflushed state has gathered that [`Applier::flush`] should be called.
    #[must_use]
    pub fn flush_due(&self) -> bool {
        todo!("store room")
    }

    /// Starts making everything applied so far durable; [`Store::durable`] tells when it is. With `wait`, returns when it
    /// is. Precondition: the Raft log is synced up to the applied id.
    ///
    /// # Errors
    /// [`Fatal`]: the node must stop.
    pub fn flush(&mut self, _wait: bool) -> Result<(), Fatal> {
        todo!("store room")
    }

    /// Builds a checkpoint in `into` (hard links). Precondition as for [`Applier::flush`].
    ///
    /// # Errors
    /// [`Fatal`]: the node must stop.
    pub fn checkpoint(&mut self, _into: &Path) -> Result<CheckpointInfo, Fatal> {
        todo!("store room")
    }

    /// Replaces the whole state by the checkpoint in `from` (moved, not copied), crash-safe by one rename.
    /// Readers see the old state or the new one.
    ///
    /// # Errors
    /// [`Fatal`]: the node must stop.
    pub fn install(&mut self, _from: &Path) -> Result<(), Fatal> {
        todo!("store room")
    }
}
