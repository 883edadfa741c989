//! Applied changes that are not in RocksDB yet: a hash table above it that takes writes at memory speed.
//!
//! ```text
//! Writer::finish -- gather --> now      key -> newest row       <- readers and the writer look here first,
//!                               | settle                        <- then here,
//!                               v
//!                            writing -- sorted, one batch with the state after it --> memtables   <- then there
//! ```
//!
//! A memtable is a skip list: each insert of a random key is a walk through cold memory, several times as dear as all
//! the rest of a SET. Gathered rows go there sorted, each beside the one before, and a key that is set a hundred times
//! goes there once.
//!
//! Invariants
//! - `now` over `writing` over RocksDB (and its rows in `cached.rs`) is, together with the published state, one point in
//!   time: [`Live::gather`] changes rows and state under the lock. A row leaves here only when it is in RocksDB.
//! - Generations are written whole, in order, one at a time; the records of `meta` in the batch are the state after it.
//! - Nothing here is durable, as nothing in a memtable is: a flush settles first.
//! - Bounded: the applier settles itself when twice the size at which the settler is called has gathered.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use rocksdb::{DBPinnableSlice, WriteBatch, WriteOptions};

use super::cached::{CachedRow, Ticket};
use super::engine::{DATA, EXPIRE, Live, META, Pinned, SCAN};
use super::meta::{self, State};
use super::{DbIndex, Fatal, Store, key, value};

/// Memory that a row costs besides its bytes.
const ROW_OVERHEAD: usize = 160;
/// Memory that RocksDB spends on a record besides its bytes: skip list node, sequence number, lengths.
const RECORD_OVERHEAD: usize = 64;

/// The newest change of one key.
pub(crate) struct Row {
    /// Header and payload; `None` if the key is deleted.
    pub(crate) raw: Option<Bytes>,
    /// What the key adds to its database's digest.
    pub(crate) digest: u128,
    /// What lies beneath this generation.
    below: Below,
}

/// What a key has in the layer beneath a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Below {
    /// A row.
    pub(crate) exists: bool,
    /// Its deadline as the value header keeps it; 0 = none.
    pub(crate) deadline: u64,
}

/// Which records of `meta` have changed.
#[derive(Default)]
pub(crate) struct Marks {
    /// Databases whose counts changed.
    pub(crate) databases: Vec<DbIndex>,
    pub(crate) membership: bool,
    pub(crate) seed: bool,
}

impl Marks {
    /// Notes that a database's record changed.
    pub(crate) fn database(&mut self, db: DbIndex) {
        if !self.databases.contains(&db) {
            self.databases.push(db);
        }
    }

    fn merge(&mut self, other: Marks) {
        for db in other.databases {
            self.database(db);
        }
        self.membership |= other.membership;
        self.seed |= other.seed;
    }
}

/// Rows that are written together.
#[derive(Default)]
pub(crate) struct Generation {
    rows: HashMap<Box<[u8]>, Row>,
    size_bytes: usize,
    marks: Marks,
    /// The state after the last entry in it; `None` while it holds nothing, or ends in the middle of an entry.
    state: Option<Arc<State>>,
}

impl Generation {
    /// Takes a change. `below` says what the key had before it.
    pub(crate) fn change(&mut self, key: &[u8], raw: Option<Bytes>, digest: u128, below: Below) {
        let added = raw.as_ref().map_or(0, Bytes::len);
        match self.rows.entry(key.into()) {
            Entry::Occupied(mut entry) => {
                let row = entry.get_mut();
                self.size_bytes -= row.raw.as_ref().map_or(0, Bytes::len);
                (row.raw, row.digest) = (raw, digest);
            }
            Entry::Vacant(entry) => {
                self.size_bytes += key.len() + ROW_OVERHEAD;
                entry.insert(Row { raw, digest, below });
            }
        }
        self.size_bytes += added;
    }

    /// Ends the generation at a state.
    pub(crate) fn end(&mut self, marks: Marks, state: Arc<State>) {
        self.marks.merge(marks);
        self.state = Some(state);
    }

    /// Adds everything to a batch, in key order.
    pub(crate) fn write_into(&self, batch: &mut WriteBatch, live: &Live, seed: u64) -> Result<(), Fatal> {
        let (data, scan, expire) = (live.family(DATA)?, live.family(SCAN)?, live.family(EXPIRE)?);
        let mut rows: Vec<(&[u8], &Row)> = self.rows.iter().map(|(key, row)| (&**key, row)).collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        let (mut positions, mut deadlines) = (Vec::new(), Vec::new());
        let scans = !live.scan_left_out.load(Ordering::Relaxed);
        for (raw_key, row) in rows {
            match &row.raw {
                Some(raw) => batch.put_cf(data, raw_key, raw),
                None if row.below.exists => batch.delete_cf(data, raw_key),
                None => {}
            }
            let deadline = row.raw.as_ref().map_or(0, |raw| value::stored_deadline(raw));
            if row.raw.is_some() == row.below.exists && deadline == row.below.deadline {
                continue;
            }
            let Some((db, user_key)) = key::split_data(raw_key) else { continue };
            if scans && row.raw.is_some() != row.below.exists {
                let mut place = Vec::new();
                key::write_scan(&mut place, db, key::position(seed, user_key), user_key);
                positions.push((place, row.raw.is_some()));
            }
            if deadline != row.below.deadline {
                let place = |deadline| (deadline > 0).then(|| key::expire(db, deadline, user_key));
                deadlines.extend(place(row.below.deadline).map(|place| (place, false)));
                deadlines.extend(place(deadline).map(|place| (place, true)));
            }
        }
        for (family, mut places) in [(scan, positions), (expire, deadlines)] {
            places.sort_unstable();
            for (place, present) in places {
                if present { batch.put_cf(family, place, b"") } else { batch.delete_cf(family, place) }
            }
        }
        self.write_state(batch, live)
    }

    fn write_state(&self, batch: &mut WriteBatch, live: &Live) -> Result<(), Fatal> {
        let Some(state) = &self.state else { return Ok(()) };
        let meta = live.family(META)?;
        for db in &self.marks.databases {
            if let Some(database) = state.databases.get(usize::from(*db)) {
                batch.put_cf(meta, meta::database_key(*db), meta::encode_database(database));
            }
        }
        if self.marks.membership
            && let Some((id, bytes)) = &state.membership
        {
            batch.put_cf(meta, meta::MEMBERSHIP_KEY, meta::encode_membership(*id, bytes));
        }
        if self.marks.seed {
            batch.put_cf(meta, meta::SEED_KEY, state.seed.to_le_bytes());
        }
        if let Some(id) = state.applied {
            batch.put_cf(meta, meta::APPLIED_KEY, meta::encode_applied(id, state.log_time));
            if planted!("applied-id-one-ahead") {
                let ahead = super::LogId { index: id.index + 1, ..id };
                batch.put_cf(meta, meta::APPLIED_KEY, meta::encode_applied(ahead, state.log_time));
            }
        }
        Ok(())
    }
}

/// What lies above RocksDB.
#[derive(Default)]
pub(crate) struct Layers {
    now: Generation,
    writing: Option<Arc<Generation>>,
}

impl Layers {
    /// What is here of a key, to keep.
    pub(crate) fn above(&self, raw_key: &[u8]) -> Above {
        match self.find(raw_key) {
            Some(Row { raw: Some(raw), .. }) => Above::Value(Held::Gathered(raw.clone())),
            Some(Row { raw: None, .. }) => Above::Deleted,
            None => Above::Nothing,
        }
    }

    /// The newest change of a key, if there is one here.
    pub(crate) fn find(&self, raw_key: &[u8]) -> Option<&Row> {
        let older = || self.writing.as_ref().and_then(|generation| generation.rows.get(raw_key));
        self.now.rows.get(raw_key).or_else(older)
    }
}

/// A row, header and payload, that memory holds.
#[derive(Clone)]
pub(crate) enum Held {
    /// In the layers.
    Gathered(Bytes),
    /// In the cache beneath them.
    Cached(CachedRow),
}

impl std::ops::Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Held::Gathered(raw) => raw,
            Held::Cached(row) => row,
        }
    }
}

/// What memory has of a key.
#[derive(Clone)]
pub(crate) enum Above {
    /// Its newest value.
    Value(Held),
    /// It is deleted.
    Deleted,
    /// Nothing: RocksDB knows.
    Nothing,
}

/// Some keys and the state at one point in time.
pub(crate) struct Look {
    /// Per key asked for.
    pub(crate) rows: Vec<Above>,
    /// To keep what RocksDB gives for the others; `None` if that is not the newest.
    pub(crate) ticket: Option<Ticket>,
    /// RocksDB beneath it.
    pub(crate) pinned: Arc<Pinned>,
    pub(crate) state: Arc<State>,
}

impl Look {
    /// The row of a key of which memory has nothing.
    pub(crate) fn get(&self, raw_key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, Fatal> {
        let found = self.pinned.get(raw_key)?;
        if let (Some(ticket), Some(raw)) = (self.ticket, &found) {
            self.pinned.live().cache.keep(ticket, raw_key, raw);
        }
        Ok(found)
    }
}

impl Live {
    /// Takes the changes of whole entries and publishes the state after them. Returns the bytes gathered.
    pub(crate) fn gather(
        &self,
        fill: impl FnOnce(&mut Generation),
        marks: Marks,
        state: &Arc<State>,
    ) -> usize {
        let mut layers = self.layers.write();
        fill(&mut layers.now);
        layers.now.end(marks, state.clone());
        self.publish(state);
        layers.now.size_bytes
    }

    /// Bytes gathered and not being written yet.
    pub(crate) fn gathered_bytes(&self) -> usize {
        self.layers.read().now.size_bytes
    }

    /// Writes everything gathered so far to RocksDB, waiting while the disk is full.
    ///
    /// # Errors
    /// [`Fatal`]: the node must stop. The rows stay visible.
    pub(crate) fn settle(&self, given_up: &impl Fn() -> bool) -> Result<(), Fatal> {
        let settling = self.settling.lock();
        self.settle_locked(given_up)?;
        drop(settling);
        Ok(())
    }

    /// As [`Live::settle`], for who holds the lock `settling`.
    pub(crate) fn settle_locked(&self, given_up: &impl Fn() -> bool) -> Result<(), Fatal> {
        // One that an earlier call failed to write, then the present one.
        loop {
            let (generation, last) = {
                let mut layers = self.layers.write();
                let last = layers.writing.is_none();
                if last {
                    if layers.now.state.is_none() {
                        return Ok(());
                    }
                    layers.writing = Some(Arc::new(std::mem::take(&mut layers.now)));
                }
                (layers.writing.clone(), last)
            };
            let Some(generation) = generation else { return Ok(()) };
            let Some(state) = &generation.state else { return Ok(()) };
            let mut batch = WriteBatch::with_capacity_bytes(generation.size_bytes + 256);
            generation.write_into(&mut batch, self, state.seed)?;
            self.write(batch, state, given_up)?;
            crash_point!("gathered-written-not-noted");
            self.settled.store(state.clone());
            self.cache.settle(generation.rows.iter().map(|(key, row)| (&**key, row.raw.as_ref())));
            self.layers.write().writing = None;
            if last {
                return Ok(());
            }
        }
    }

    /// Writes a batch, waiting while the disk is full. `state` is what it leads to, for the message.
    pub(crate) fn write(
        &self,
        batch: WriteBatch,
        state: &State,
        given_up: &impl Fn() -> bool,
    ) -> Result<(), Fatal> {
        let mut no_wal = WriteOptions::default();
        no_wal.disable_wal(true);
        self.memtable_bytes
            .fetch_add(batch.size_in_bytes() + batch.len() * RECORD_OVERHEAD, Ordering::Relaxed);
        // The binding takes the batch away with it; a failed one must be written again whole.
        let mut again = WriteBatch::from_data(batch.data());
        let mut result = self.db.write_opt(batch, &no_wal);
        while let Err(error) = result {
            let applied = state.applied.unwrap_or_default();
            self.bear(&error, &format!("write state up to entry {applied}"), given_up)?;
            let next = WriteBatch::from_data(again.data());
            result = self.db.write_opt(std::mem::replace(&mut again, next), &no_wal);
            if result.is_ok() {
                self.set_disk_error(None);
            }
        }
        Ok(())
    }
}

/// The thread that settles while the applier goes on; ends when dropped.
pub(crate) struct Settler {
    calls: Option<SyncSender<Arc<Live>>>,
    thread: Option<JoinHandle<()>>,
}

impl Settler {
    /// Starts the thread.
    pub(crate) fn start(store: Arc<Store>) -> Result<Settler, Fatal> {
        let (calls, queue) = sync_channel::<Arc<Live>>(1);
        let run = move || {
            for live in queue {
                // It stays where it is after an error, and the applier meets the same one when it settles itself.
                if let Err(error) = live.settle(&|| store.given_up()) {
                    tracing::error!(%error, "settle state");
                }
            }
        };
        let thread = std::thread::Builder::new().name("kvnode-settle".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Fatal::new("start thread kvnode-settle", error))?;
        Ok(Settler { calls: Some(calls), thread: Some(thread) })
    }

    /// Has a database settled, soon.
    pub(crate) fn call(&self, live: &Arc<Live>) {
        if cfg!(feature = "sim") {
            // There are no threads in the simulation.
            if let Err(error) = live.settle(&|| false) {
                tracing::error!(%error, "settle state");
            }
            return;
        }
        if let Some(calls) = &self.calls {
            // A full queue holds a call that does as well.
            let _ = calls.try_send(live.clone());
        }
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread kvnode-settle panicked");
        }
    }
}
