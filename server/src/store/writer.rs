//! The pending change: what the ops of some entries have come to, before it is one write batch.
//!
//! ```text
//! op -> overlay[(db, key)] = Slot { below: what the key had before, now: what it is after the op }
//!       state              = counts, digests, log time after the op
//! finish: the slots join what is gathered (`gathered.rs`), or are written past it
//! ```
//!
//! Invariants
//! - A key is looked up beneath at most once per change; after that the overlay knows it. The last op on a key wins.
//! - `scan` gets a key when its row comes into being and loses it with the row; an overwrite does not touch it.
//! - Range deletions, and changes too large for memory, are written past the layers: those are settled first, and
//!   readers are kept at the state before it until the last write ([`Live::hide`]).
//! - Counts and digests are exact: each slot carries what its key adds to them.
//! - A write that does not end an entry holds no `meta` records. It does reach the memtable before the applied id does,
//!   which is safe because memtables become durable only by `Applier::flush`, between entries.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::WriteBatch;

use super::engine::{DATA, EXPIRE, Live, SCAN, split_key, split_value};
use super::gathered::{Below, Generation, Marks};
use super::meta::{self, Database, State};
use super::value::{self, Header};
use super::{DbIndex, DbStats, Fatal, LogId, TypeTag, key};
use crate::clock::UnixMs;

/// Memory that a pending record costs besides its bytes, about.
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
    /// Records of `meta` that changed since the last finished change.
    marks: Marks,
    /// This change goes past the layers, which are settled already.
    direct: bool,
    /// Bytes in the overlay, about.
    pending_bytes: usize,
    raw_key: Vec<u8>,
    raw_value: Vec<u8>,
}

/// One key in the overlay.
struct Slot {
    /// What the key had before this change; nothing in a cleared range.
    below: Below,
    /// The key after the ops so far.
    now: Option<Current>,
}

/// A key that exists.
#[derive(Clone)]
pub(crate) struct Current {
    deadline: Option<UnixMs>,
    digest: u128,
    /// Header and payload, unless it is as stored and nobody has asked for it.
    held: Option<(Header, Bytes)>,
    /// `held` is to be written.
    changed: bool,
}

impl Current {
    fn below(old: Option<&Self>) -> Below {
        old.map_or_else(Below::default, |old| Below {
            exists: true,
            deadline: value::raw_deadline(old.deadline),
        })
    }
}

impl Writer {
    pub(crate) fn new(live: Arc<Live>) -> Writer {
        let state = State::clone(&live.state());
        Writer {
            live,
            state,
            overlay: HashMap::new(),
            cleared: Vec::new(),
            marks: Marks::default(),
            direct: false,
            pending_bytes: 0,
            raw_key: Vec::new(),
            raw_value: Vec::new(),
        }
    }

    /// Advances the applied id. With the first entry the scan seed is fixed.
    pub(crate) fn begin_entry(&mut self, id: LogId) {
        if self.state.applied.is_none() && self.state.seed == 0 {
            self.state.seed = meta::seed_from(id);
            self.marks.seed = true;
        }
        self.state.applied = Some(id);
    }

    /// Keeps a membership.
    pub(crate) fn set_membership(&mut self, id: LogId, bytes: Bytes) {
        self.state.membership = Some((id, bytes));
        self.marks.membership = true;
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
        let held = Some((header, payload.clone()));
        let current = Current { deadline, digest, held, changed: true };
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
        let below = Current::below(Some(&old));
        self.overlay.insert((db, Bytes::copy_from_slice(key)), Slot { below, now: None });
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
            Some(Slot { now: Some(Current { held: Some((header, payload)), .. }), .. }) => {
                return Ok(!header.expired(log_time) && test(payload));
            }
            None if self.cleared.contains(&db) => return Ok(false),
            // As beneath.
            Some(Slot { now: Some(Current { held: None, .. }), .. }) | None => {}
        }
        key::write_data(&mut self.raw_key, db, key);
        if let Some(row) = self.live.layers.read().find(&self.raw_key) {
            let Some(raw) = &row.raw else { return Ok(false) };
            let (header, payload) = split_value(raw)?;
            return Ok(!header.expired(log_time) && test(payload));
        }
        let Some(raw) = self.live.stored(&self.raw_key)? else { return Ok(false) };
        let (header, payload) = split_value(&raw)?;
        Ok(!header.expired(log_time) && test(payload))
    }

    /// Header and payload of a key, also of one that has expired; it is kept at hand for the change that follows.
    pub(crate) fn load(&mut self, db: DbIndex, key: &Bytes) -> Result<Option<(Header, Bytes)>, Fatal> {
        match self.overlay.get(&(db, key.clone())) {
            Some(Slot { now: None, .. }) => return Ok(None),
            Some(Slot { now: Some(Current { held: Some(held), .. }), .. }) => return Ok(Some(held.clone())),
            None if self.cleared.contains(&db) => return Ok(None),
            // As beneath.
            Some(Slot { now: Some(Current { held: None, .. }), .. }) | None => {}
        }
        key::write_data(&mut self.raw_key, db, key);
        let found = self.live.layers.read().find(&self.raw_key).map(|row| (row.raw.clone(), row.digest));
        let loaded = match found {
            Some((None, _)) => None,
            Some((Some(raw), digest)) => {
                let (header, _) = split_value(&raw)?;
                Some((header, raw.slice(value::HEADER..), digest))
            }
            None => self.load_stored(db, key)?,
        };
        let now = loaded.map(|(header, payload, digest)| Current {
            deadline: header.deadline,
            digest,
            held: Some((header, payload)),
            changed: false,
        });
        let below = Current::below(now.as_ref());
        let held = now.as_ref().and_then(|now| now.held.clone());
        self.pending_bytes +=
            key.len() + RECORD_OVERHEAD + held.as_ref().map_or(0, |(_, payload)| payload.len());
        self.overlay.insert((db, key.clone()), Slot { below, now });
        Ok(held)
    }

    /// Header of a key, also of one that has expired; its value is not copied.
    pub(crate) fn header(&mut self, db: DbIndex, key: &Bytes) -> Result<Option<Header>, Fatal> {
        match self.overlay.get(&(db, key.clone())) {
            Some(Slot { now: None, .. }) => return Ok(None),
            Some(Slot { now: Some(Current { held: Some((header, _)), .. }), .. }) => {
                return Ok(Some(*header));
            }
            None if self.cleared.contains(&db) => return Ok(None),
            // As beneath.
            Some(Slot { now: Some(Current { held: None, .. }), .. }) | None => {}
        }
        key::write_data(&mut self.raw_key, db, key);
        if let Some(row) = self.live.layers.read().find(&self.raw_key) {
            return row.raw.as_ref().map(|raw| split_value(raw).map(|(header, _)| header)).transpose();
        }
        let raw = self.live.stored(&self.raw_key)?;
        raw.map(|raw| split_value(&raw).map(|(header, _)| header)).transpose()
    }

    fn load_stored(&mut self, db: DbIndex, key: &[u8]) -> Result<Option<(Header, Bytes, u128)>, Fatal> {
        let Some(raw) = self.live.stored(&self.raw_key)? else { return Ok(None) };
        let (header, payload) = split_value(&raw)?;
        let digest = value::digest(&mut self.raw_value, db, header.tag, header.deadline, key, payload);
        Ok(Some((header, Bytes::copy_from_slice(payload), digest)))
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
    pub(crate) fn spill(&mut self, given_up: &impl Fn() -> bool) -> Result<(), Fatal> {
        self.go_past_the_layers(given_up)?;
        if self.overlay.is_empty() && self.cleared.is_empty() {
            return Ok(());
        }
        let (batch, _) = self.batch(None)?;
        self.live.write(batch, &self.state, given_up)?;
        crash_point!("entry-half-written");
        Ok(())
    }

    /// Ends entries: what is pending, and the state after it, is published. Returns the bytes gathered.
    pub(crate) fn finish(&mut self, given_up: &impl Fn() -> bool) -> Result<usize, Fatal> {
        let state = Arc::new(self.state.clone());
        if !self.direct && self.cleared.is_empty() {
            let (live, marks) = (self.live.clone(), std::mem::take(&mut self.marks));
            return Ok(live.gather(|generation| self.drain(generation), marks, &state));
        }
        self.go_past_the_layers(given_up)?;
        crash_point!("clear-not-written", !self.cleared.is_empty());
        let (batch, state) = self.batch(Some(state))?;
        self.live.write(batch, &self.state, given_up)?;
        crash_point!("clear-written-not-published");
        if let Some(state) = state {
            self.live.publish(&state);
        }
        self.direct = false;
        Ok(0)
    }

    fn go_past_the_layers(&mut self, given_up: &impl Fn() -> bool) -> Result<(), Fatal> {
        if !self.direct {
            self.live.settle(given_up)?;
            self.live.hide();
            self.direct = true;
        }
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
                    beneath(&self.live, &self.raw_key, &mut self.raw_value)?
                };
                // Deleting what is not there leaves no trace.
                if old.is_some() || now.is_some() {
                    slot.insert(Slot { below: Current::below(old.as_ref()), now });
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
        self.marks.database(db);
        &mut self.state.databases[at]
    }

    /// Moves the overlay into a generation.
    fn drain(&mut self, generation: &mut Generation) {
        for ((db, user_key), slot) in self.overlay.drain() {
            key::write_data(&mut self.raw_key, db, &user_key);
            match slot {
                Slot {
                    below,
                    now: Some(Current { held: Some((header, payload)), digest, changed: true, .. }),
                } => {
                    let mut raw = Vec::with_capacity(value::HEADER + payload.len());
                    header.write(&payload, &mut raw);
                    generation.change(&self.raw_key, Some(raw.into()), digest, below);
                }
                Slot { below, now: None } if below.exists => generation.change(&self.raw_key, None, 0, below),
                // Set and deleted again before anyone saw it, looked for and not found, or still as it was.
                Slot { .. } => {}
            }
        }
        self.overlay.shrink_to(OVERLAY_KEPT);
        self.pending_bytes = 0;
    }

    /// Turns what is pending into a write batch that goes past the layers; with a state, it ends there.
    fn batch(&mut self, state: Option<Arc<State>>) -> Result<(WriteBatch, Option<Arc<State>>), Fatal> {
        let live = self.live.clone();
        let (data, scan, expire) = (live.family(DATA)?, live.family(SCAN)?, live.family(EXPIRE)?);
        let mut batch = WriteBatch::with_capacity_bytes(self.pending_bytes + 256);
        for db in self.cleared.drain(..) {
            batch.delete_range_cf(data, &[db], &key::after_db(db));
            batch.delete_range_cf(scan, &[db], &key::after_db(db));
            batch.delete_range_cf(expire, &[db], &key::after_db(db));
        }
        let mut generation = Generation::default();
        self.drain(&mut generation);
        if let Some(state) = &state {
            generation.end(std::mem::take(&mut self.marks), state.clone());
        }
        generation.write_into(&mut batch, &self.live, self.state.seed)?;
        Ok((batch, state))
    }
}

/// What a key adds to counts and digest as it lies beneath a change; `None` if it does not exist.
fn beneath(live: &Live, raw_key: &[u8], scratch: &mut Vec<u8>) -> Result<Option<Current>, Fatal> {
    if let Some(row) = live.layers.read().find(raw_key) {
        let Some(raw) = &row.raw else { return Ok(None) };
        let (header, _) = split_value(raw)?;
        return Ok(Some(Current {
            deadline: header.deadline,
            digest: row.digest,
            held: None,
            changed: false,
        }));
    }
    let Some(raw) = live.stored(raw_key)? else { return Ok(None) };
    let (db, user_key) = split_key(raw_key)?;
    stored(scratch, db, user_key, &raw).map(Some)
}

/// What a stored row adds to counts and digest.
fn stored(scratch: &mut Vec<u8>, db: DbIndex, key: &[u8], raw: &[u8]) -> Result<Current, Fatal> {
    let (header, payload) = split_value(raw)?;
    let digest = value::digest(scratch, db, header.tag, header.deadline, key, payload);
    Ok(Current { deadline: header.deadline, digest, held: None, changed: false })
}
