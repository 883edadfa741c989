//! Rows of RocksDB in memory, as they were last read or written: a hash table beneath the gathered rows.
//!
//! ```text
//!   gathered.rs   now, writing      newest rows, not in RocksDB yet: whoever looks asks here first
//!   this          young | old       what RocksDB holds of the keys asked for lately
//!   RocksDB       memtables, files  a walk through a skip list, several times as dear as the rest of a GET
//! ```
//!
//! Only a row that was found is kept, never that there is none. A row that was just written is kept as well while that
//! pushes nothing out: the next read of it, or the next change, which needs to know what it replaces, finds it here.
//!
//! Invariants
//! - A row here is the one in RocksDB, or its key is in the generation being written. [`ValueCache::settle`] runs after
//!   the batch and before the generation leaves the layers.
//! - What was read from RocksDB before a change cannot be kept after it: a [`Ticket`] is taken before the layers are
//!   asked, each change of RocksDB makes those before it worthless, and it does so before it touches a row here.
//! - Empty, and refusing, while entries are written past the layers.
//! - Bounded: `young` takes rows, and what is used of `old`, until it holds half of the bytes; then it becomes `old`, and
//!   what was old is forgotten.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

/// Parts with a lock each.
const SHARDS: usize = 16;
/// Memory that a row costs besides its bytes: the head of its allocation, its place in a table that is two thirds full.
const ROW_OVERHEAD: usize = 80;
/// A row above this part of what a shard may hold is not kept: it would push out too many others.
const LARGEST_PART: usize = 16;

/// Says when a read began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// Lookups that found a row and that did not, since the database was opened, and the bytes held now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Found.
    pub hits: u64,
    /// Not found.
    pub misses: u64,
    /// Bytes of keys, rows and their overhead.
    pub bytes: u64,
}

/// See the module.
pub(crate) struct ValueCache {
    shards: [Mutex<Shard>; SHARDS],
    changes: AtomicU64,
    shard_bytes_max: usize,
}

#[derive(Default)]
struct Shard {
    young: Part,
    old: Part,
    hits: u64,
    misses: u64,
}

#[derive(Default)]
struct Part {
    rows: HashSet<CachedRow>,
    bytes: usize,
}

/// A row that is held here, with its key in front: both in one allocation, since each further one is another miss of the
/// processor's caches for whoever looks. In a set it stands for its key.
#[derive(Clone)]
pub(crate) struct CachedRow {
    bytes: Arc<[u8]>,
    key_bytes: usize,
}

impl CachedRow {
    fn new(raw_key: &[u8], raw: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(raw_key.len() + raw.len());
        bytes.extend_from_slice(raw_key);
        bytes.extend_from_slice(raw);
        Self { bytes: bytes.into(), key_bytes: raw_key.len() }
    }

    fn key(&self) -> &[u8] {
        &self.bytes[..self.key_bytes]
    }

    fn cost(&self) -> usize {
        self.bytes.len() + ROW_OVERHEAD
    }
}

/// Header and payload.
impl Deref for CachedRow {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.key_bytes..]
    }
}

impl Borrow<[u8]> for CachedRow {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl Hash for CachedRow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for CachedRow {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for CachedRow {}

fn cost(raw_key: &[u8], raw: &[u8]) -> usize {
    raw_key.len() + raw.len() + ROW_OVERHEAD
}

impl ValueCache {
    /// An empty cache of at most `bytes_max`; with 0 nothing is ever kept.
    pub(crate) fn new(bytes_max: usize) -> ValueCache {
        ValueCache {
            shards: std::array::from_fn(|_| Mutex::default()),
            changes: AtomicU64::new(0),
            shard_bytes_max: bytes_max / SHARDS,
        }
    }

    /// To be taken before the layers are asked.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.changes.load(Ordering::Acquire))
    }

    /// The row of a key, if it is here.
    pub(crate) fn get(&self, raw_key: &[u8]) -> Option<CachedRow> {
        if self.shard_bytes_max == 0 {
            return None;
        }
        let mut shard = self.shard(raw_key).lock();
        let found = shard.find(raw_key, self.shard_bytes_max / 2);
        *(if found.is_some() { &mut shard.hits } else { &mut shard.misses }) += 1;
        found
    }

    /// Keeps what RocksDB gave for a key, unless RocksDB has been changed since the ticket was taken.
    pub(crate) fn keep(&self, ticket: Ticket, raw_key: &[u8], raw: &[u8]) {
        if cost(raw_key, raw) > self.shard_bytes_max / LARGEST_PART {
            return;
        }
        let row = CachedRow::new(raw_key, raw);
        let mut shard = self.shard(raw_key).lock();
        // Under the lock: who changes RocksDB counts first and takes this lock then.
        if self.changes.load(Ordering::Acquire) == ticket.0 {
            shard.old.remove(raw_key);
            shard.insert(row, self.shard_bytes_max / 2);
        }
    }

    /// Takes over rows that RocksDB has just got: they replace what is here of their keys, or are added while there is
    /// room that nothing uses.
    pub(crate) fn settle<'a>(&self, changed: impl Iterator<Item = (&'a [u8], Option<&'a Bytes>)>) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        if self.shard_bytes_max == 0 {
            return;
        }
        for (raw_key, raw) in changed {
            let mut shard = self.shard(raw_key).lock();
            let kept = raw.filter(|raw| cost(raw_key, raw) <= self.shard_bytes_max / LARGEST_PART);
            let was_here = shard.young.change(raw_key, kept) || shard.old.change(raw_key, kept);
            if let Some(raw) = kept
                && !was_here
                && shard.bytes() + cost(raw_key, raw) <= self.shard_bytes_max / 2
            {
                shard.insert(CachedRow::new(raw_key, raw), self.shard_bytes_max / 2);
            }
        }
    }

    /// Forgets everything, and all tickets.
    pub(crate) fn clear(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            let mut shard = shard.lock();
            (shard.young, shard.old) = (Part::default(), Part::default());
        }
    }

    /// What it holds and how it did.
    pub(crate) fn stats(&self) -> CacheStats {
        let mut stats = CacheStats::default();
        for shard in &self.shards {
            let shard = shard.lock();
            stats.hits += shard.hits;
            stats.misses += shard.misses;
            stats.bytes += shard.bytes() as u64;
        }
        stats
    }

    fn shard(&self, raw_key: &[u8]) -> &Mutex<Shard> {
        // Who makes keys for one shard gets a sixteenth of the cache; the tables within hash with a secret.
        &self.shards[crc32c::crc32c(raw_key) as usize % SHARDS]
    }
}

impl Shard {
    fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }

    fn find(&mut self, raw_key: &[u8], young_bytes_max: usize) -> Option<CachedRow> {
        if let Some(row) = self.young.rows.get(raw_key) {
            return Some(row.clone());
        }
        let row = self.old.remove(raw_key)?;
        self.insert(row.clone(), young_bytes_max);
        Some(row)
    }

    fn insert(&mut self, row: CachedRow, young_bytes_max: usize) {
        let added = row.cost();
        if self.young.bytes + added > young_bytes_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += added;
        let before = self.young.rows.replace(row);
        self.young.bytes -= before.map_or(0, |row| row.cost());
    }
}

impl Part {
    fn remove(&mut self, raw_key: &[u8]) -> Option<CachedRow> {
        let row = self.rows.take(raw_key)?;
        self.bytes -= row.cost();
        Some(row)
    }

    /// Replaces a row that is here, or removes it; false if there was none.
    fn change(&mut self, raw_key: &[u8], raw: Option<&Bytes>) -> bool {
        if self.remove(raw_key).is_none() {
            return false;
        }
        if let Some(raw) = raw {
            let row = CachedRow::new(raw_key, raw);
            self.bytes += row.cost();
            self.rows.insert(row);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn got(cache: &ValueCache, key: &str) -> Option<Bytes> {
        cache.get(key.as_bytes()).map(|row| Bytes::copy_from_slice(&row))
    }

    fn put(cache: &ValueCache, key: &str, raw: &str) {
        cache.keep(cache.ticket(), key.as_bytes(), raw.as_bytes());
    }

    #[test]
    fn a_row_read_before_a_change_is_not_kept_after_it() {
        let cache = ValueCache::new(1 << 20);
        let ticket = cache.ticket();
        cache.settle([(b"other".as_slice(), None)].into_iter());
        cache.keep(ticket, b"k", b"old");
        assert_eq!(got(&cache, "k"), None);
        let ticket = cache.ticket();
        cache.clear();
        cache.keep(ticket, b"k", b"old");
        assert_eq!(got(&cache, "k"), None);
        put(&cache, "k", "v");
        assert_eq!(got(&cache, "k"), Some(bytes("v")));
        assert_eq!(cache.stats(), CacheStats { hits: 1, misses: 2, bytes: 2 + ROW_OVERHEAD as u64 });
    }

    #[test]
    fn a_change_replaces_what_is_here_and_is_added_where_there_is_room() {
        let cache = ValueCache::new(1 << 20);
        for key in ["a", "b"] {
            put(&cache, key, "1");
        }
        let (two, three) = (bytes("22"), bytes("3"));
        let changed: [(&[u8], Option<&Bytes>); 3] = [(b"a", Some(&two)), (b"b", None), (b"c", Some(&three))];
        cache.settle(changed.into_iter());
        assert_eq!((got(&cache, "a"), got(&cache, "b"), got(&cache, "c")), (Some(two), None, Some(three)));
        assert_eq!(cache.stats().bytes, 5 + 2 * ROW_OVERHEAD as u64);
    }

    #[test]
    fn what_is_only_written_pushes_nothing_out() {
        let max = SHARDS * 64 * 1024;
        let cache = ValueCache::new(max);
        let keys: Vec<String> = (0..20_000).map(|number| number.to_string()).collect();
        put(&cache, "read", "row");
        let row = bytes("a row that nobody has asked for");
        cache.settle(keys.iter().map(|key| (key.as_bytes(), Some(&row))));
        let held = usize::try_from(cache.stats().bytes).unwrap();
        assert!(held <= max / 2 && held >= max / 3, "{held} of {max}");
        assert!(cache.shards.iter().all(|shard| shard.lock().old.rows.is_empty()), "nothing has become old");
        assert!(cache.get(b"read").is_some());
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let max = SHARDS * 64 * 1024;
        let cache = ValueCache::new(max);
        for number in 0..20_000 {
            put(&cache, "hot", "row");
            put(&cache, &number.to_string(), "a row that nobody asks for again");
            assert!(cache.get(b"hot").is_some(), "{number}");
        }
        let held = usize::try_from(cache.stats().bytes).unwrap();
        assert!(held <= max && held >= max / 3, "{held} of {max}");
        let counted = |part: &Part| part.rows.iter().map(CachedRow::cost).sum::<usize>();
        let counted = cache.shards.iter().map(|shard| {
            let shard = shard.lock();
            counted(&shard.young) + counted(&shard.old)
        });
        assert_eq!(counted.sum::<usize>(), held);
        put(&cache, "large", &"v".repeat(64 * 1024 / LARGEST_PART));
        assert_eq!(got(&cache, "large"), None);
    }

    #[test]
    fn with_no_bytes_it_keeps_nothing() {
        let cache = ValueCache::new(0);
        put(&cache, "k", "v");
        assert_eq!((got(&cache, "k"), cache.stats()), (None, CacheStats::default()));
    }
}
