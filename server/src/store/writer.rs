//! The pending change: what the ops of some entries have come to, before it is one write batch.
//!
//! ```text
//! op -> overlay[(db, key)] = Slot { stored: is there a row on disk?, now: what the key is after the op }
//!       state              = counts, digests, log time after the op
//! write_out: cleared ranges, then one put or delete per slot, then `meta`
//! ```
//!
//! Invariants
//! - A key is looked up on disk at most once per write; after that the overlay knows it. The last op on a key wins, so
//!   a key that is set a hundred times in one write costs one put.
//! - `scan` gets a key when its row comes into being and loses it with the row; an overwrite does not touch it.
//! - Counts and digests are exact: each slot carries what its key adds to them.
//! - A write that does not end an entry holds no `meta` records and is hidden from readers ([`Live::hide`]). It does
//!   reach the memtable before the applied id does, which is safe because memtables become durable only by
//!   `Applier::flush`, between entries.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{WriteBatch, WriteOptions};

use super::engine::{DATA, Live, META, SCAN, split_value};
use super::meta::{self, Database, State};
use super::value::{self, Header};
use super::{DbIndex, DbStats, Fatal, LogId, TypeTag, key};
use crate::clock::UnixMs;

/// Memory that RocksDB spends on a record besides its bytes: skip list node, sequence number, lengths.
const RECORD_OVERHEAD: usize = 64;
/// Capacity of the overlay that is kept between writes.
const OVERLAY_KEPT: usize = 64 << 10;

/// The change being gathered, and the database it goes to.
pub(crate) struct Writer {
    pub(crate) live: Arc<Live>,
    /// The state after all ops so far.
    pub(crate) state: State,
    overlay: HashMap<(DbIndex, Bytes), Slot>,
    /// Databases emptied in this write, before all that is in the overlay.
    cleared: Vec<DbIndex>,
    /// Databases whose record changed since the last finished write.
    dirty: Vec<DbIndex>,
    membership_changed: bool,
    seed_is_new: bool,
    /// Bytes in the overlay, about.
    pending_bytes: usize,
    /// Bytes in the active memtables, about.
    pub(crate) memtable_bytes: usize,
    raw_key: Vec<u8>,
    raw_value: Vec<u8>,
    no_wal: WriteOptions,
}

/// One key in the overlay.
struct Slot {
    /// A row is on disk (or in a memtable) and not in a cleared range.
    stored: bool,
    /// The key after the ops so far.
    now: Option<Current>,
}

/// A key that exists.
#[derive(Clone)]
pub(crate) struct Current {
    deadline: Option<UnixMs>,
    digest: u128,
    /// Header and payload to write; `None` while it is as stored.
    new: Option<(Header, Bytes)>,
}

impl Writer {
    pub(crate) fn new(live: Arc<Live>) -> Writer {
        let state = State::clone(&live.state());
        let mut no_wal = WriteOptions::default();
        no_wal.disable_wal(true);
        Writer {
            live,
            state,
            overlay: HashMap::new(),
            cleared: Vec::new(),
            dirty: Vec::new(),
            membership_changed: false,
            seed_is_new: false,
            pending_bytes: 0,
            memtable_bytes: 0,
            raw_key: Vec::new(),
            raw_value: Vec::new(),
            no_wal,
        }
    }

    /// Advances the applied id. With the first entry the scan seed is fixed.
    pub(crate) fn begin_entry(&mut self, id: LogId) {
        if self.state.applied.is_none() && self.state.seed == 0 {
            self.state.seed = meta::seed_from(id);
            self.seed_is_new = true;
        }
        self.state.applied = Some(id);
    }

    /// Keeps a membership.
    pub(crate) fn set_membership(&mut self, id: LogId, bytes: Bytes) {
        self.state.membership = Some((id, bytes));
        self.membership_changed = true;
    }

    /// Sets a key. `index` is the entry's.
    pub(crate) fn set(
        &mut self,
        db: DbIndex,
        key: &Bytes,
        payload: &Bytes,
        deadline: Option<UnixMs>,
        index: u64,
    ) -> Result<(), Fatal> {
        let header = Header { tag: TypeTag::String, deadline, index };
        let digest = value::digest(&mut self.raw_value, db, header.tag, deadline, key, payload);
        let current = Current { deadline, digest, new: Some((header, payload.clone())) };
        self.pending_bytes += key.len() + payload.len() + RECORD_OVERHEAD;
        let old = self.replace(db, key, Some(current))?;
        self.account(db, old.as_ref(), Some((deadline, digest)));
        Ok(())
    }

    /// Deletes a key; true if it could be seen. One that has expired is removed but cannot be seen.
    pub(crate) fn delete(&mut self, db: DbIndex, key: &Bytes) -> Result<bool, Fatal> {
        let Some(old) = self.replace(db, key, None)? else { return Ok(false) };
        self.pending_bytes += key.len() + RECORD_OVERHEAD;
        self.account(db, Some(&old), None);
        Ok(!value::expired(old.deadline, self.state.log_time))
    }

    /// Deletes a key that a range read has just met, with what it read; true if it could be seen. Precondition: nothing
    /// is pending for that key.
    pub(crate) fn delete_met(&mut self, db: DbIndex, key: &[u8], raw_value: &[u8]) -> Result<bool, Fatal> {
        let old = stored(&mut self.raw_value, db, key, raw_value)?;
        self.pending_bytes += key.len() + RECORD_OVERHEAD;
        self.overlay.insert((db, Bytes::copy_from_slice(key)), Slot { stored: true, now: None });
        self.account(db, Some(&old), None);
        Ok(!value::expired(old.deadline, self.state.log_time))
    }

    /// True if a key can be seen and `test` holds for its payload.
    pub(crate) fn check(
        &mut self,
        db: DbIndex,
        key: &Bytes,
        test: impl Fn(&[u8]) -> bool,
    ) -> Result<bool, Fatal> {
        let log_time = self.state.log_time;
        match self.overlay.get(&(db, key.clone())) {
            Some(Slot { now: None, .. }) => return Ok(false),
            Some(Slot { now: Some(Current { new: Some((header, payload)), .. }), .. }) => {
                return Ok(!header.expired(log_time) && test(payload));
            }
            None if self.cleared.contains(&db) => return Ok(false),
            // As on disk.
            Some(Slot { now: Some(Current { new: None, .. }), .. }) | None => {}
        }
        key::write_data(&mut self.raw_key, db, key);
        let data = self.live.family(DATA)?;
        let raw =
            self.live.db.get_pinned_cf(data, &self.raw_key).map_err(|e| self.live.failed("read key", &e))?;
        let Some(raw) = raw else { return Ok(false) };
        let (header, payload) = split_value(&raw)?;
        Ok(!header.expired(log_time) && test(payload))
    }

    /// Empties a database; true if it held anything.
    pub(crate) fn clear(&mut self, db: DbIndex, index: u64) -> bool {
        let held = self.database(db).stats.keys > 0;
        if held || self.overlay.keys().any(|(of, _)| *of == db) {
            self.overlay.retain(|(of, _), _| *of != db);
            if !self.cleared.contains(&db) {
                self.cleared.push(db);
            }
        }
        *self.database(db) = Database { stats: DbStats::default(), emptied: index };
        held
    }

    /// Numbers of the databases known of.
    pub(crate) fn databases(&self) -> u8 {
        // There are at most 255: the number 255 does not exist.
        u8::try_from(self.state.databases.len()).unwrap_or(u8::MAX)
    }

    /// Bytes that wait to be written, about.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Writes what is pending before the entry has ended, hidden from readers until [`Writer::finish`].
    pub(crate) fn spill(&mut self, given_up: impl Fn() -> bool) -> Result<(), Fatal> {
        if self.overlay.is_empty() && self.cleared.is_empty() {
            return Ok(());
        }
        self.live.hide();
        let batch = self.drain()?;
        self.write(batch, given_up)
    }

    /// Writes what is pending with the state after it, and publishes both.
    pub(crate) fn finish(&mut self, given_up: impl Fn() -> bool) -> Result<(), Fatal> {
        let mut batch = self.drain()?;
        self.put_state(&mut batch)?;
        self.write(batch, given_up)?;
        self.live.publish(&self.state);
        Ok(())
    }

    /// Puts a new current value in place of the old one, which is returned.
    fn replace(&mut self, db: DbIndex, key: &Bytes, now: Option<Current>) -> Result<Option<Current>, Fatal> {
        match self.overlay.entry((db, key.clone())) {
            Entry::Occupied(mut slot) => Ok(std::mem::replace(&mut slot.get_mut().now, now)),
            Entry::Vacant(slot) => {
                let old = if self.cleared.contains(&db) {
                    None
                } else {
                    key::write_data(&mut self.raw_key, db, key);
                    let data = self.live.family(DATA)?;
                    let raw = self.live.db.get_pinned_cf(data, &self.raw_key);
                    let raw = raw.map_err(|error| self.live.failed("read key", &error))?;
                    raw.map(|raw| stored(&mut self.raw_value, db, key, &raw)).transpose()?
                };
                // Deleting what is not there leaves no trace.
                if old.is_some() || now.is_some() {
                    slot.insert(Slot { stored: old.is_some(), now });
                }
                Ok(old)
            }
        }
    }

    fn account(&mut self, db: DbIndex, old: Option<&Current>, new: Option<(Option<UnixMs>, u128)>) {
        let stats = &mut self.database(db).stats;
        if let Some(old) = old {
            stats.keys -= 1;
            stats.expires -= u64::from(old.deadline.is_some());
            stats.digest = stats.digest.wrapping_sub(old.digest);
        }
        if let Some((deadline, digest)) = new {
            stats.keys += 1;
            stats.expires += u64::from(deadline.is_some());
            stats.digest = stats.digest.wrapping_add(digest);
        }
    }

    /// The record of a database, which counts as changed from now on.
    fn database(&mut self, db: DbIndex) -> &mut Database {
        let at = usize::from(db);
        if at >= self.state.databases.len() {
            self.state.databases.resize(at + 1, Database::default());
        }
        if !self.dirty.contains(&db) {
            self.dirty.push(db);
        }
        &mut self.state.databases[at]
    }

    /// Turns the overlay into a write batch and empties it.
    fn drain(&mut self) -> Result<WriteBatch, Fatal> {
        let (data, scan) = (self.live.family(DATA)?, self.live.family(SCAN)?);
        let mut batch = WriteBatch::with_capacity_bytes(self.pending_bytes + 256);
        for db in self.cleared.drain(..) {
            batch.delete_range_cf(data, &[db], &key::after_db(db));
            batch.delete_range_cf(scan, &[db], &key::after_db(db));
        }
        for ((db, user_key), slot) in self.overlay.drain() {
            match slot {
                Slot { stored, now: Some(Current { new: Some((header, payload)), .. }) } => {
                    key::write_data(&mut self.raw_key, db, &user_key);
                    header.write(&payload, &mut self.raw_value);
                    batch.put_cf(data, &self.raw_key, &self.raw_value);
                    if !stored {
                        let position = key::position(self.state.seed, &user_key);
                        key::write_scan(&mut self.raw_key, db, position, &user_key);
                        batch.put_cf(scan, &self.raw_key, b"");
                    }
                }
                Slot { stored: true, now: None } => {
                    key::write_data(&mut self.raw_key, db, &user_key);
                    batch.delete_cf(data, &self.raw_key);
                    let position = key::position(self.state.seed, &user_key);
                    key::write_scan(&mut self.raw_key, db, position, &user_key);
                    batch.delete_cf(scan, &self.raw_key);
                }
                // Set and deleted again before it was ever written, or still as stored.
                Slot { stored: false, now: None } | Slot { now: Some(Current { new: None, .. }), .. } => {}
            }
        }
        self.overlay.shrink_to(OVERLAY_KEPT);
        self.pending_bytes = 0;
        Ok(batch)
    }

    fn put_state(&mut self, batch: &mut WriteBatch) -> Result<(), Fatal> {
        let meta = self.live.family(META)?;
        for db in self.dirty.drain(..) {
            let record = meta::encode_database(&self.state.databases[usize::from(db)]);
            batch.put_cf(meta, meta::database_key(db), record);
        }
        if std::mem::take(&mut self.membership_changed)
            && let Some((id, bytes)) = &self.state.membership
        {
            batch.put_cf(meta, meta::MEMBERSHIP_KEY, meta::encode_membership(*id, bytes));
        }
        if std::mem::take(&mut self.seed_is_new) {
            batch.put_cf(meta, meta::SEED_KEY, self.state.seed.to_le_bytes());
        }
        if let Some(id) = self.state.applied {
            batch.put_cf(meta, meta::APPLIED_KEY, meta::encode_applied(id, self.state.log_time));
        }
        Ok(())
    }

    /// Writes a batch, waiting while the disk is full.
    fn write(&mut self, batch: WriteBatch, given_up: impl Fn() -> bool) -> Result<(), Fatal> {
        self.memtable_bytes += batch.size_in_bytes() + batch.len() * RECORD_OVERHEAD;
        // The binding takes the batch away with it; a failed one must be written again whole.
        let mut again = WriteBatch::from_data(batch.data());
        let mut result = self.live.db.write_opt(batch, &self.no_wal);
        while let Err(error) = result {
            let applied = self.state.applied.unwrap_or_default();
            self.live.bear(&error, &format!("write state up to entry {applied}"), &given_up)?;
            let next = WriteBatch::from_data(again.data());
            result = self.live.db.write_opt(std::mem::replace(&mut again, next), &self.no_wal);
            if result.is_ok() {
                self.live.set_disk_error(None);
            }
        }
        Ok(())
    }
}

/// What a stored row adds to counts and digest.
fn stored(scratch: &mut Vec<u8>, db: DbIndex, key: &[u8], raw: &[u8]) -> Result<Current, Fatal> {
    let (header, payload) = split_value(raw)?;
    let digest = value::digest(scratch, db, header.tag, header.deadline, key, payload);
    Ok(Current { deadline: header.deadline, digest, new: None })
}
