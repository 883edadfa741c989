//! RocksDB as we use it: its errors, and one open database with what is published of it.
//!
//! ```text
//!   Applier (one)                                    readers (many)
//!      | write batch, then publish                      | Live::pin, Live::state
//!      v                                                v
//!   +------------------------- Live --------------------------------+
//!   | db        column families data, scan, meta, expire; no WAL    |
//!   | layers    what is applied and not in db yet, see `gathered.rs` |
//!   | cache     rows of db that were asked for, see `cached.rs`      |
//!   | state     what is applied, replaced with each change           |
//!   | epoch     odd while entries are written past the layers        |
//!   | before    the clean snapshot that readers use meanwhile        |
//!   +---------------------------------------------------------------+
//! ```
//!
//! Invariants
//! - Readers only ever see the state between two entries: what is written past the layers is hidden behind the snapshot
//!   in `before` until its last write. The layers are empty then.
//! - Memtables are never written out by RocksDB itself: they have no size at which it would, there is no WAL to fill,
//!   closing does not flush, and a failed flush is not resumed. The one exception is a full disk, see
//!   `options.rs`.
//! - `state` never runs ahead of `layers` over `db`; `settled` is the state that `db` alone is at.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::{Mutex, RwLock};
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBPinnableSlice,
    ReadOptions, SnapshotWithThreadMode,
};
use self_cell::self_cell;

use super::cached::{CachedRow, ValueCache};
use super::flush::Flushes;
use super::gathered::{Above, Held, Layers, Look};
use super::layout::REMEDY;
use super::meta::{self, State};
use super::options::{self, MEMTABLE_NEVER_FULL};
use super::value::Header;
use super::{Fatal, StoreOptions, key};

/// The column families, all flushed together.
pub(crate) const DATA: &str = "data";
pub(crate) const SCAN: &str = "scan";
pub(crate) const META: &str = "meta";
/// Deadlines in order; came after 0.1.0.
pub(crate) const EXPIRE: &str = "expire";
pub(crate) const FAMILIES: [&str; 4] = [DATA, SCAN, META, EXPIRE];

/// One open database and what is published of it.
pub(crate) struct Live {
    /// Dropped before `home`, so that a removed directory has been closed.
    pub(crate) db: DB,
    home: Home,
    state: ArcSwap<State>,
    pub(crate) layers: RwLock<Layers>,
    pub(crate) cache: ValueCache,
    /// Held while a generation is written, or a snapshot is taken that must fall between two of them.
    pub(crate) settling: Mutex<()>,
    pub(crate) settled: ArcSwap<State>,
    /// Bytes in the active memtables, about.
    pub(crate) memtable_bytes: AtomicUsize,
    epoch: AtomicU64,
    before: ArcSwapOption<Before>,
    pub(crate) flushes: Mutex<Flushes>,
    disk_error: Mutex<Option<String>>,
    /// Rows are written without their place in SCAN's order ([`super::Applier::leave_out_scan_index`]).
    pub(crate) scan_left_out: AtomicBool,
}

/// The directory of a database; removed with the last user once it has been replaced.
struct Home {
    path: PathBuf,
    replaced: AtomicBool,
}

impl Drop for Home {
    fn drop(&mut self) {
        // What cannot be removed now is removed as a left-over by the next open.
        if *self.replaced.get_mut()
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "remove replaced state");
        }
    }
}

/// What readers see while entries are written past the layers.
struct Before {
    pinned: Arc<Pinned>,
    state: Arc<State>,
}

/// Answer of [`Live::get_now`].
pub(crate) enum Found<'a> {
    /// The value, from RocksDB.
    Value(DBPinnableSlice<'a>),
    /// The value, from memory.
    Held(Held),
    /// No such key.
    Nothing,
    /// An op is hidden just now: the caller must [`Live::pin`].
    Unknown,
}

/// A row that RocksDB holds.
pub(crate) enum Stored<'a> {
    /// As the cache has it.
    Held(CachedRow),
    /// Where RocksDB has it.
    Pinned(DBPinnableSlice<'a>),
}

impl std::ops::Deref for Stored<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Stored::Held(raw) => raw,
            Stored::Pinned(raw) => raw,
        }
    }
}

type Snapshot<'a> = SnapshotWithThreadMode<'a, DB>;

self_cell!(
    /// A point in time that keeps its database open.
    pub(crate) struct Pinned {
        owner: Arc<Live>,
        #[covariant]
        dependent: Snapshot,
    }
);

impl Live {
    /// Opens the database in `path`; with `create` it must not exist yet.
    pub(crate) fn open(path: &Path, sizes: StoreOptions, create: bool) -> Result<Arc<Live>, Fatal> {
        let doing = || format!("open state in {}", path.display());
        if !create && !path.join("CURRENT").exists() {
            return Err(Fatal::new(doing(), format!("file CURRENT is missing; {REMEDY}")));
        }
        // `default` cannot be left out; with its own defaults it would ask for 64 MiB of free space as well.
        let names = FAMILIES.into_iter().chain([rocksdb::DEFAULT_COLUMN_FAMILY_NAME]);
        let families = names.map(|name| Ok(ColumnFamilyDescriptor::new(name, options::family(name, sizes)?)));
        let families: Result<Vec<_>, _> = families.collect();
        let families = families.map_err(|error| failed(&doing(), &error))?;
        let options = options::database(create).map_err(|error| failed(&doing(), &error))?;
        let db =
            DB::open_cf_descriptors(&options, path, families).map_err(|error| failed(&doing(), &error))?;
        let home = Home { path: path.to_path_buf(), replaced: AtomicBool::new(false) };
        let live = Live {
            db,
            home,
            state: ArcSwap::from_pointee(State::new(sizes.databases)),
            layers: RwLock::default(),
            cache: ValueCache::new(sizes.value_cache_bytes),
            settling: Mutex::new(()),
            settled: ArcSwap::from_pointee(State::new(sizes.databases)),
            memtable_bytes: AtomicUsize::new(0),
            epoch: AtomicU64::new(0),
            before: ArcSwapOption::empty(),
            flushes: Mutex::new(Flushes::default()),
            disk_error: Mutex::new(None),
            scan_left_out: AtomicBool::new(false),
        };
        // In a simulation they are so from the start: each change has RocksDB write all its options to a file and
        // read it back, which is a good part of what a restart costs.
        if !cfg!(feature = "sim") {
            live.lift_memtable_sizes(sizes)?;
        }
        if create {
            live.write_format()?;
        }
        let meta = live.family(META)?;
        let state = State::load(sizes.databases, |key| {
            live.db.get_cf(meta, key).map_err(|e| live.failed("read meta", &e))
        })?;
        if create {
            live.mark_indexed()?;
        } else {
            live.index_deadlines(&state)?;
        }
        live.flushes.lock().durable = state.applied;
        let state = Arc::new(state);
        live.settled.store(state.clone());
        live.state.store(state);
        Ok(Arc::new(live))
    }

    /// The handle of a column family.
    pub(crate) fn family(&self, name: &str) -> Result<&ColumnFamily, Fatal> {
        self.db.cf_handle(name).ok_or_else(|| Fatal::new(format!("find column family {name}"), REMEDY))
    }

    /// What is applied, as last published.
    pub(crate) fn state(&self) -> arc_swap::Guard<Arc<State>> {
        self.state.load()
    }

    /// Publishes the state after a change. Readers are let through last: with an even epoch, `state` is that of the rows.
    pub(crate) fn publish(&self, state: &Arc<State>) {
        self.state.store(state.clone());
        if self.epoch.load(Ordering::Relaxed) & 1 == 1 {
            self.settled.store(state.clone());
            self.epoch.fetch_add(1, Ordering::AcqRel);
            self.before.store(None);
        }
    }

    /// Keeps readers at the present state until the next [`Live::publish`]. Called by the one writer only, with nothing
    /// gathered, before the first write past the layers; further calls change nothing. A writer that fails before it has finished leaves readers
    /// where they are: what is half done must never be seen.
    pub(crate) fn hide(self: &Arc<Self>) {
        if self.epoch.load(Ordering::Relaxed) & 1 == 1 {
            return;
        }
        let before = Before { pinned: Arc::new(self.snapshot()), state: self.state.load_full() };
        self.before.store(Some(Arc::new(before)));
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.cache.clear();
    }

    /// The newest state between two entries, all of it in RocksDB: what is gathered is written first.
    ///
    /// # Errors
    /// [`Fatal`]: that write failed; the node must stop.
    pub(crate) fn pin(
        self: &Arc<Self>,
        given_up: &impl Fn() -> bool,
    ) -> Result<(Arc<Pinned>, Arc<State>), Fatal> {
        let settling = self.settling.lock();
        self.settle_locked(given_up)?;
        let found = self.between_entries(|| (Arc::new(self.snapshot()), self.settled.load_full()));
        drop(settling);
        Ok(found.unwrap_or_else(|before| (before.pinned.clone(), before.state.clone())))
    }

    /// Some keys with the state at one point in time.
    pub(crate) fn look(self: &Arc<Self>, raw_keys: &[Vec<u8>]) -> Look {
        let found = self.between_entries(|| {
            let ticket = Some(self.cache.ticket());
            let layers = self.layers.read();
            let rows = raw_keys.iter().map(|key| self.in_memory(&layers, key)).collect();
            Look { rows, ticket, pinned: Arc::new(self.snapshot()), state: self.state.load_full() }
        });
        found.unwrap_or_else(|before| Look {
            rows: vec![Above::Nothing; raw_keys.len()],
            ticket: None,
            pinned: before.pinned.clone(),
            state: before.state.clone(),
        })
    }

    /// What `take` finds while nothing is written past the layers; else what readers see meanwhile.
    ///
    /// The epoch is read before and after as in a sequence lock: if it is even and the same, no hidden write began
    /// before `take` was done.
    fn between_entries<T>(&self, take: impl Fn() -> T) -> Result<T, Arc<Before>> {
        loop {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch & 1 == 1 {
                if let Some(before) = self.before.load_full() {
                    return Err(before);
                }
                // The writer has just finished: what is taken now comes after it.
                std::thread::yield_now();
                continue;
            }
            let taken = take();
            if self.unchanged(epoch) {
                return Ok(taken);
            }
        }
    }

    /// Reads one value without a snapshot.
    pub(crate) fn get_now(&self, raw_key: &[u8]) -> Result<Found<'_>, Fatal> {
        let epoch = self.epoch.load(Ordering::Acquire);
        if epoch & 1 == 1 {
            return Ok(Found::Unknown);
        }
        let ticket = self.cache.ticket();
        // What is not here now is beneath, or was written later than this read began.
        let above = self.in_memory(&self.layers.read(), raw_key);
        match above {
            Above::Value(raw) => return Ok(Found::Held(raw)),
            Above::Deleted => return Ok(Found::Nothing),
            Above::Nothing => {}
        }
        let value =
            self.db.get_pinned_cf(self.family(DATA)?, raw_key).map_err(|e| self.failed("read key", &e))?;
        if !self.unchanged(epoch) {
            return Ok(Found::Unknown);
        }
        Ok(value.map_or(Found::Nothing, |raw| {
            self.cache.keep(ticket, raw_key, &raw);
            Found::Value(raw)
        }))
    }

    /// What memory has of a key: the layers, then the cache.
    fn in_memory(&self, layers: &Layers, raw_key: &[u8]) -> Above {
        match layers.above(raw_key) {
            Above::Nothing => {
                self.cache.get(raw_key).map_or(Above::Nothing, |row| Above::Value(Held::Cached(row)))
            }
            above => above,
        }
    }

    /// The row of a key that is not in the layers, for the writer alone: nothing changes beside it.
    pub(crate) fn stored(&self, raw_key: &[u8]) -> Result<Option<Stored<'_>>, Fatal> {
        if let Some(raw) = self.cache.get(raw_key) {
            return Ok(Some(Stored::Held(raw)));
        }
        let ticket = self.cache.ticket();
        let raw =
            self.db.get_pinned_cf(self.family(DATA)?, raw_key).map_err(|e| self.failed("read key", &e))?;
        // What is being written past the layers is not to be seen yet.
        if let Some(raw) = &raw
            && self.epoch.load(Ordering::Relaxed) & 1 == 0
        {
            self.cache.keep(ticket, raw_key, raw);
        }
        Ok(raw.map(Stored::Pinned))
    }

    /// Remembers or forgets why nothing can be written just now.
    pub(crate) fn set_disk_error(&self, error: Option<String>) {
        let mut now = self.disk_error.lock();
        if now.is_some() != error.is_some() {
            let path = self.home.path.display();
            if let Some(error) = &error {
                tracing::error!(%path, error, "state disk refuses writes");
            } else {
                tracing::info!(%path, "state disk accepts writes again");
            }
        }
        *now = error;
    }

    /// Why nothing can be written just now.
    pub(crate) fn disk_error(&self) -> Option<String> {
        self.disk_error.lock().clone()
    }

    /// Marks the database as replaced: its directory goes with its last user, its background work ends now.
    pub(crate) fn replaced(&self) {
        self.home.replaced.store(true, Ordering::Release);
        self.db.cancel_all_background_work(false);
    }

    /// Where the database lies.
    pub(crate) fn path(&self) -> &Path {
        &self.home.path
    }

    /// Builds the error for a failure of RocksDB.
    pub(crate) fn failed(&self, doing: &str, error: &rocksdb::Error) -> Fatal {
        failed(&format!("{doing} in {}", self.home.path.display()), error)
    }

    /// Rewrites the files of a range of `data` and `scan` of one database, so that what was deleted gives its space back.
    pub(crate) fn compact(&self, family: &str, from: &[u8], to: &[u8]) -> Result<(), Fatal> {
        let mut options = CompactOptions::default();
        // Other compactions go on beside it.
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::IfHaveCompactionFilter);
        self.db.compact_range_cf_opt(self.family(family)?, Some(from), Some(to), &options);
        Ok(())
    }

    /// Where to cut a range so that about `files` files lie before the cut; `None` if it holds no more than that.
    pub(crate) fn piece_end(&self, family: &str, from: &[u8], to: &[u8], files: usize) -> Option<Vec<u8>> {
        let live = self.db.live_files().ok()?;
        let mut starts: Vec<Vec<u8>> = live
            .into_iter()
            .filter(|file| file.column_family_name == family)
            .filter_map(|file| file.start_key)
            .filter(|start| start.as_slice() > from && start.as_slice() < to)
            .collect();
        starts.sort();
        starts.into_iter().nth(files)
    }

    /// An integer property, summed over the column families where it is theirs.
    pub(crate) fn property(&self, name: &str) -> Option<u64> {
        let value = |family| self.db.property_int_value_cf(self.db.cf_handle(family)?, name).ok().flatten();
        if name == BACKGROUND_ERRORS {
            // Counted in the family `default`, which we do not use otherwise.
            return self.db.property_int_value(name).ok().flatten();
        }
        if WHOLE_DB.contains(&name) {
            return value(DATA);
        }
        FAMILIES.iter().map(|family| value(family)).sum()
    }

    /// RocksDB as it is now, also between the writes of one entry: for the writer alone.
    pub(crate) fn snapshot(self: &Arc<Self>) -> Pinned {
        Pinned::new(self.clone(), |live| live.db.snapshot())
    }

    fn unchanged(&self, epoch: u64) -> bool {
        fence(Ordering::Acquire);
        self.epoch.load(Ordering::Relaxed) == epoch
    }

    /// Gives the memtables a size that they never reach. Not at open: of the size given there RocksDB wants that much free
    /// space before it resumes after a full disk.
    fn lift_memtable_sizes(&self, sizes: StoreOptions) -> Result<(), Fatal> {
        #[allow(clippy::cast_precision_loss, reason = "a filter size need not be exact")]
        let ratio = options::memtable_filter_bytes(sizes) as f64 / MEMTABLE_NEVER_FULL as f64;
        let (size, ratio) = (MEMTABLE_NEVER_FULL.to_string(), format!("{ratio:.12}"));
        for name in FAMILIES {
            let mut options = vec![("write_buffer_size", size.as_str())];
            if name == DATA {
                options.push(("memtable_prefix_bloom_size_ratio", ratio.as_str()));
            }
            let set = self.db.set_options_cf(self.family(name)?, &options);
            set.map_err(|error| self.failed("set memtable size", &error))?;
        }
        self.renew_memtables()
    }

    /// Replaces the memtables made at open, which keep the size that they were made with and would be flushed by RocksDB
    /// itself, in the middle of an entry and ahead of the log. A flush replaces only what holds something, so each gets
    /// the deletion of a key that cannot exist; the state on disk stays what it was.
    fn renew_memtables(&self) -> Result<(), Fatal> {
        let mut no_wal = rocksdb::WriteOptions::default();
        no_wal.disable_wal(true);
        let mut batch = rocksdb::WriteBatch::default();
        let mut families = Vec::new();
        for name in FAMILIES {
            let family = self.family(name)?;
            batch.delete_cf(family, [u8::MAX]);
            families.push(family);
        }
        let mut options = rocksdb::FlushOptions::default();
        options.set_wait(true);
        self.db
            .write_opt(batch, &no_wal)
            .and_then(|()| self.db.flush_cfs_opt(&families, &options))
            .map_err(|error| self.failed("renew memtables", &error))
    }

    fn write_format(&self) -> Result<(), Fatal> {
        let meta = self.family(META)?;
        let mut no_wal = rocksdb::WriteOptions::default();
        no_wal.disable_wal(true);
        self.db
            .put_cf_opt(meta, meta::FORMAT_KEY, meta::encode_format(), &no_wal)
            .and_then(|()| self.db.flush_cf(meta))
            .map_err(|error| self.failed("write format", &error))
    }
}

impl Pinned {
    /// The database it is of.
    pub(crate) fn live(&self) -> &Arc<Live> {
        self.borrow_owner()
    }

    /// One value.
    pub(crate) fn get(&self, raw_key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, Fatal> {
        let data = self.live().family(DATA)?;
        self.borrow_dependent().get_pinned_cf(data, raw_key).map_err(|e| self.live().failed("read key", &e))
    }

    /// An iterator over `[from, to)` of a column family; `to` of `None` is the end.
    pub(crate) fn iterate(
        &self,
        family: &str,
        from: &[u8],
        to: Option<Vec<u8>>,
        cached: bool,
    ) -> Result<Cursor<'_>, Fatal> {
        let options = range_options(from, to, cached);
        let raw = self.borrow_dependent().raw_iterator_cf_opt(self.live().family(family)?, options);
        Ok(Cursor { raw, live: self.live() })
    }
}

/// Key and value where an iterator stands; `None` at its end.
pub(crate) type Item<'a> = Option<(&'a [u8], &'a [u8])>;

/// An iterator whose end can be told from its failure.
pub(crate) struct Cursor<'a> {
    raw: rocksdb::DBRawIteratorWithThreadMode<'a, DB>,
    live: &'a Live,
}

impl<'a> Cursor<'a> {
    /// Over `[from, to)` of the state as it is now, for the writer.
    pub(crate) fn now(
        live: &'a Live,
        family: &str,
        from: &[u8],
        to: Option<Vec<u8>>,
    ) -> Result<Cursor<'a>, Fatal> {
        let raw = live.db.raw_iterator_cf_opt(live.family(family)?, range_options(from, to, false));
        Ok(Cursor { raw, live })
    }

    /// Goes to the first entry, or with `descending` to the last.
    pub(crate) fn rewind(&mut self, descending: bool) {
        if descending { self.raw.seek_to_last() } else { self.raw.seek_to_first() }
    }

    /// Goes to the next entry, or with `descending` to the one before.
    pub(crate) fn step(&mut self, descending: bool) {
        if descending { self.raw.prev() } else { self.raw.next() }
    }

    /// What is here.
    ///
    /// # Errors
    /// [`Fatal`] if the iterator ended by a failure and not at the end of its range.
    pub(crate) fn item(&self) -> Result<Item<'_>, Fatal> {
        match self.raw.item() {
            Some(item) => Ok(Some(item)),
            None => self.raw.status().map(|()| None).map_err(|error| self.live.failed("read range", &error)),
        }
    }
}

/// Decodes a stored value.
pub(crate) fn split_value(raw: &[u8]) -> Result<(Header, &[u8]), Fatal> {
    Header::split(raw).ok_or_else(|| Fatal::new("decode a stored value", format!("unknown form; {REMEDY}")))
}

/// Splits a stored `data` key.
pub(crate) fn split_key(raw: &[u8]) -> Result<(u8, &[u8]), Fatal> {
    key::split_data(raw).ok_or_else(|| Fatal::new("decode a stored key", format!("it is empty; {REMEDY}")))
}

/// True if RocksDB failed for want of space, from which it recovers by itself.
pub(crate) fn is_no_space(error: &rocksdb::Error) -> bool {
    let text = error.as_ref();
    text.contains("No space left on device") || text.contains("Space limit reached")
}

fn failed(doing: &str, error: &rocksdb::Error) -> Fatal {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => Fatal::new(doing, format!("{error}; {REMEDY}")),
        _ => Fatal::new(doing, error),
    }
}

fn range_options(from: &[u8], to: Option<Vec<u8>>, cached: bool) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    if let Some(to) = to {
        options.set_iterate_upper_bound(to);
    }
    // A pass over everything must not push the hot blocks out of the cache.
    options.fill_cache(cached);
    options
}

/// Property that counts failures of flushes and compactions since open.
pub(crate) const BACKGROUND_ERRORS: &str = "rocksdb.background-errors";

/// Properties of the whole database rather than of a column family.
const WHOLE_DB: &[&str] = &[
    "rocksdb.block-cache-capacity",
    "rocksdb.block-cache-pinned-usage",
    "rocksdb.block-cache-usage",
    "rocksdb.actual-delayed-write-rate",
    "rocksdb.is-write-stopped",
    "rocksdb.num-running-compactions",
    "rocksdb.num-running-flushes",
    "rocksdb.num-snapshots",
];
