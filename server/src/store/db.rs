//! The database handle: readers share a [`Store`], one [`Applier`] writes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::digests::{Digest, Digests};
use super::engine::{Cursor, DATA, Live, Pinned, split_key, split_value};
use super::layout::{Active, Layout};
use super::meta::State;
use super::{Answer, Applier, CacheStats, Fatal, LogId, Query, Record, query};
use crate::clock::UnixMs;

/// Sizes that the store is opened with.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Databases that exist.
    pub databases: u8,
    /// State bytes in memory at which [`Applier::flush_due`] becomes true.
    pub memtable_bytes: usize,
    /// RocksDB block cache.
    pub block_cache_bytes: usize,
    /// Rows in memory; 0 = none.
    pub value_cache_bytes: usize,
}

/// Shared read side of the state; cheap to clone through its `Arc`.
pub struct Store {
    live: ArcSwap<Live>,
    options: StoreOptions,
    closing: AtomicBool,
    /// Flushes of databases that have been replaced since.
    flushes_before: AtomicU64,
    /// Keys that [`super::Op::Reap`] has removed since the start.
    pub(crate) reaped: AtomicU64,
    pub(super) digests: Digests,
}

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
///
/// It may be sent to another thread and outlives an install: it keeps its database open, and with it the disk space of
/// what has been overwritten since.
pub struct View {
    pinned: Arc<Pinned>,
    state: Arc<State>,
}

impl View {
    /// What this view holds.
    #[must_use]
    pub fn meta(&self) -> ViewMeta {
        self.state.view_meta()
    }

    /// All records in order of (database, key), read lazily with bounded memory. Expired keys that no sweep has removed
    /// yet are among them, as they are in the counts and digests of [`View::meta`].
    pub fn records(&self) -> impl Iterator<Item = Result<Record, Fatal>> + Send + '_ {
        Records { view: self, cursor: None, done: false }
    }
}

struct Records<'a> {
    view: &'a View,
    cursor: Option<Cursor<'a>>,
    done: bool,
}

impl Records<'_> {
    fn advance(&mut self) -> Result<Option<Record>, Fatal> {
        let cursor = if let Some(cursor) = &mut self.cursor {
            cursor.step(false);
            cursor
        } else {
            let mut cursor = self.view.pinned.iterate(DATA, b"", None, false)?;
            cursor.rewind(false);
            self.cursor.insert(cursor)
        };
        let Some((raw_key, raw_value)) = cursor.item()? else { return Ok(None) };
        let (db, key) = split_key(raw_key)?;
        let (header, payload) = split_value(raw_value)?;
        Ok(Some(Record {
            db,
            key: Bytes::copy_from_slice(key),
            tag: header.tag,
            deadline: header.deadline,
            value: Bytes::copy_from_slice(payload),
        }))
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Fatal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.advance().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

impl Store {
    /// Opens or creates the state in `dir`.
    ///
    /// # Errors
    /// [`Fatal`] with file and remedy when the directory is damaged, of a newer format, or cannot be used.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<(Arc<Store>, Applier), Fatal> {
        let (layout, active) = Layout::open(dir)?;
        let (number, live) = match active {
            Active::Complete(number) => {
                // Before anything changes that an older release could not read.
                layout.activate(number)?;
                (number, Live::open(&layout.database(number), options, false)?)
            }
            Active::Empty(number) => {
                layout.begin(number)?;
                let live = Live::open(&layout.database(number), options, true)?;
                layout.activate(number)?;
                (number, live)
            }
        };
        let closing = AtomicBool::new(false);
        let flushes_before = AtomicU64::new(0);
        let reaped = AtomicU64::new(0);
        let live = ArcSwap::new(live);
        let store =
            Arc::new(Store { live, options, closing, flushes_before, reaped, digests: Digests::default() });
        let applier = Applier::new(store.clone(), layout, number)?;
        Ok((store, applier))
    }

    /// Answers a read from one point in time, which is that of the call or later.
    ///
    /// # Errors
    /// [`Fatal`] on I/O or corruption.
    pub fn query(&self, query: &Query) -> Result<Answer, Fatal> {
        self.query_at(query, UnixMs(0))
    }

    /// As [`Store::query`], for who thinks that it is `now`: a deadline that has come by then and not by the log time
    /// gives [`Answer::Due`], so that the caller has the log time brought forward and asks again. Relative deadlines are
    /// told as of the later of the two.
    ///
    /// # Errors
    /// [`Fatal`] on I/O or corruption.
    pub fn query_at(&self, query: &Query, now: UnixMs) -> Result<Answer, Fatal> {
        query::answer(&self.live(), query, now, &|| self.given_up())
    }

    /// Takes a point-in-time view. May wait for what is gathered to reach the engine, so it is no call for async code.
    ///
    /// # Errors
    /// [`Fatal`] if that fails.
    pub fn view(&self) -> Result<View, Fatal> {
        let (pinned, state) = self.live().pin(&|| self.given_up())?;
        Ok(View { pinned, state })
    }

    /// Last applied entry (in memory, lock-free).
    #[must_use]
    pub fn applied(&self) -> Option<LogId> {
        self.live.load().state().applied
    }

    /// Last entry whose effects a finished flush has made durable. While a flush runs this looks whether it has ended,
    /// which costs a few microseconds.
    #[must_use]
    pub fn durable(&self) -> Option<LogId> {
        self.live.load().durable()
    }

    /// Digests of the content at entries behind this index, for other nodes to compare; the last one is that of this moment.
    #[must_use]
    pub fn digests_since(&self, index: u64) -> Vec<Digest> {
        self.digests.since(index, &self.live.load().state())
    }

    /// Log time applied (in memory, lock-free).
    #[must_use]
    pub fn log_time(&self) -> UnixMs {
        self.live.load().state().log_time
    }

    /// Running facts of a database (in memory).
    #[must_use]
    pub fn stats(&self, db: u8) -> DbStats {
        self.live
            .load()
            .state()
            .databases
            .get(usize::from(db))
            .map(|database| database.stats)
            .unwrap_or_default()
    }

    /// Keys removed because they had expired, since the start; a replay counts again.
    #[must_use]
    pub fn reaped(&self) -> u64 {
        self.reaped.load(Ordering::Relaxed)
    }

    /// Flushes of the state that have ended since the start.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        let before = self.flushes_before.load(Ordering::Relaxed);
        before + self.live.load().flushes.lock().ended
    }

    /// How the cache of values does.
    #[must_use]
    pub fn value_cache(&self) -> CacheStats {
        self.live.load().cache.stats()
    }

    /// An integer property of the engine for metrics, e.g. `rocksdb.estimate-live-data-size`; summed over the column
    /// families where it is theirs.
    #[must_use]
    pub fn engine_property(&self, name: &str) -> Option<u64> {
        self.live.load().property(name)
    }

    /// Why the state cannot be written just now: its disk is full. `None` as soon as it can be again; reads go on
    /// meanwhile, [`Applier::apply`] and [`Applier::flush`] wait.
    #[must_use]
    pub fn disk_error(&self) -> Option<String> {
        let live = self.live.load();
        let _ = live.durable();
        live.disk_error()
    }

    /// Ends waiting for a full disk: [`Applier::apply`] and [`Applier::flush`] then fail in place of waiting. For
    /// shutdown.
    pub fn give_up_waiting(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(crate) fn options(&self) -> StoreOptions {
        self.options
    }

    pub(crate) fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Puts a database in place of the present one, for every read that begins from now on.
    pub(crate) fn replace(&self, live: Arc<Live>) {
        let old = self.live.swap(live);
        self.flushes_before.fetch_add(old.flushes.lock().ended, Ordering::Relaxed);
        old.replaced();
    }

    pub(crate) fn given_up(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}
