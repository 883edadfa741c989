//! Op by op through committed entries: what each one changes and what it answers.
//!
//! ```text
//! Committed entries -> decode -> ops -> Writer (pending change) -> gathered with the applied id, and published
//! ```
//!
//! Invariants
//! - Each entry is applied exactly once: one at or below the applied id is skipped, one that would leave a gap is
//!   [`Fatal`].
//! - The outcome of an op depends on the state, the op and the log time of its entry, on nothing else; log time never
//!   goes back.
//! - How entries are grouped into calls changes nothing that can be seen.
//! - After a `Fatal` the applier is of no further use and says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use memchr::memmem;

use super::engine::{Cursor, DATA};
use super::gathered::Settler;
use super::layout::Layout;
use super::reclaim::Reclaimer;
use super::writer::Writer;
use super::{Batch, Committed, DbIndex, Fatal, LogId, Op, Outcome, Payload, Store, glob, key};

/// Pending bytes at which entries are written out before the next one begins, and a large op before it ends.
const PENDING_MAX: usize = 4 << 20;
/// The part of the memtables' size at which what is gathered is settled: large enough that sorted rows lie close to each
/// other in the memtable, small enough that two generations are little beside it.
const GATHERED_PART: usize = 8;
/// Deletions of one PDEL from which on its range is compacted; fewer are left to RocksDB.
const RECLAIM_FROM: i64 = 4096;

/// The one writer of the state. Owned by the apply thread.
pub struct Applier {
    pub(crate) store: Arc<Store>,
    pub(crate) layout: Layout,
    /// Number of the database in use.
    pub(crate) number: u64,
    pub(crate) writer: Writer,
    pub(crate) reclaimer: Reclaimer,
    settler: Settler,
    /// Part of the present entry is in the memtables.
    spilled: bool,
    /// What was applied when the last flush began.
    pub(crate) flushed: Option<LogId>,
    failed: bool,
}

impl Applier {
    pub(crate) fn new(store: Arc<Store>, layout: Layout, number: u64) -> Result<Applier, Fatal> {
        let live = store.live();
        let reclaimer = Reclaimer::start()?;
        let settler = Settler::start(store.clone())?;
        let flushed = live.state().applied;
        Ok(Applier {
            store,
            layout,
            number,
            writer: Writer::new(live),
            reclaimer,
            settler,
            flushed,
            spilled: false,
            failed: false,
        })
    }

    /// Applies committed entries in order, in as few write batches as possible; outcomes per entry and op.
    /// Entries at or below the applied id are skipped with no outcomes. While the disk is full it waits
    /// ([`Store::disk_error`], [`Store::give_up_waiting`]).
    ///
    /// # Errors
    /// [`Fatal`]: the node must stop.
    pub fn apply(&mut self, entries: &[Committed]) -> Result<Vec<Vec<Outcome>>, Fatal> {
        self.check()?;
        let result = self.apply_entries(entries);
        self.failed = result.is_err();
        result
    }

    /// Writes rows without their place in SCAN's order from now on, so that SCAN does not find them. For the trial of what
    /// that order costs (`examples/scan_cost.rs`), and for nothing else.
    #[doc(hidden)]
    pub fn leave_out_scan_index(&self) {
        self.writer.live.scan_left_out.store(true, Ordering::Relaxed);
    }

    /// Applied id and membership, as found at open or applied since.
    #[must_use]
    pub fn position(&self) -> (Option<LogId>, Option<(LogId, Bytes)>) {
        (self.writer.state.applied, self.writer.state.membership.clone())
    }

    /// True when enough unflushed state has gathered that [`Applier::flush`] should be called.
    #[must_use]
    pub fn flush_due(&self) -> bool {
        let live = &self.writer.live;
        let bytes = live.memtable_bytes.load(Ordering::Relaxed) + live.gathered_bytes();
        bytes >= self.store.options().memtable_bytes
    }

    /// Starts making everything applied so far durable; [`Store::durable`] tells when it is. With `wait`, returns when it
    /// is. If an earlier flush still runs, it is waited for first: memory holds two generations at most.
    /// Precondition: the Raft log is synced up to the applied id.
    ///
    /// # Errors
    /// [`Fatal`]: the node must stop.
    pub fn flush(&mut self, wait: bool) -> Result<(), Fatal> {
        self.check()?;
        let applied = self.writer.state.applied;
        if applied == self.flushed && !wait {
            return Ok(());
        }
        let store = &self.store;
        let given_up = || store.given_up();
        self.writer.live.settle(&given_up)?;
        self.writer.live.start_flush(applied, wait, given_up)?;
        self.flushed = applied;
        self.writer.live.memtable_bytes.store(0, Ordering::Relaxed);
        self.reclaimer.after_flush(&self.writer.live);
        Ok(())
    }

    /// Looks after a flush that does not end: `RocksDB` repeats one by itself only for want of space. Never waits.
    /// Precondition as for [`Applier::flush`]: what has been applied since may get into the flush.
    ///
    /// # Errors
    /// [`Fatal`] if it failed for anything but want of space: the node must stop.
    pub fn check_flush(&mut self) -> Result<(), Fatal> {
        self.check()?;
        self.writer.live.check_flush()
    }

    /// # Errors
    /// [`Fatal`] if an earlier call has failed.
    pub(crate) fn check(&self) -> Result<(), Fatal> {
        if self.failed {
            return Err(Fatal::new("use the state", "an earlier write failed; restart the node"));
        }
        Ok(())
    }

    fn apply_entries(&mut self, entries: &[Committed]) -> Result<Vec<Vec<Outcome>>, Fatal> {
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut pending = false;
        for entry in entries {
            if !self.follows(entry.id)? {
                outcomes.push(Vec::new());
                continue;
            }
            self.writer.begin_entry(entry.id);
            pending = true;
            outcomes.push(self.entry(entry)?);
            self.store.digests.note(entry.id, &self.writer.state.databases);
            if self.writer.pending_bytes() >= PENDING_MAX {
                self.finish()?;
                pending = false;
            }
        }
        if pending {
            self.finish()?;
        }
        Ok(outcomes)
    }

    /// Writes a row that no entry has: a node that has applied something else than the others.
    #[cfg(test)]
    pub(crate) fn write_past_the_log(&mut self, key: &'static [u8]) {
        let index = self.writer.state.applied.map_or(0, |applied| applied.index);
        self.writer.set(0, &Bytes::from_static(key), &Bytes::from_static(b"1"), None, index).unwrap();
        self.finish().unwrap();
        self.flushed = None;
        self.flush(true).unwrap();
    }

    fn finish(&mut self) -> Result<(), Fatal> {
        let store = &self.store;
        let given_up = || store.given_up();
        let gathered = self.writer.finish(&given_up)?;
        let enough = store.options().memtable_bytes / GATHERED_PART;
        if gathered >= 2 * enough {
            self.writer.live.settle(&given_up)?;
        } else if gathered >= enough {
            self.settler.call(&self.writer.live);
        }
        if std::mem::take(&mut self.spilled) {
            self.reclaimer.release();
        }
        Ok(())
    }

    /// Writes what is pending in the middle of an entry. Nothing may make that durable before [`Applier::finish`].
    pub(super) fn spill(&mut self) -> Result<(), Fatal> {
        if !self.spilled {
            self.reclaimer.hold();
            self.spilled = true;
        }
        let store = &self.store;
        self.writer.spill(&|| store.given_up())
    }

    /// Keeps what a large op has pending within bounds.
    pub(super) fn spill_if_large(&mut self) -> Result<(), Fatal> {
        if self.writer.pending_bytes() >= PENDING_MAX { self.spill() } else { Ok(()) }
    }

    /// True while the space of large deletions is given back: then the memtables may become durable at any moment, so
    /// the caller syncs the Raft log up to the entries that it is about to apply, at every durability level.
    #[must_use]
    pub fn sync_first(&self) -> bool {
        self.reclaimer.active()
    }

    /// Whether an entry is the next one; false if it is applied already.
    fn follows(&self, id: LogId) -> Result<bool, Fatal> {
        // Raft logs begin at 0 or at 1.
        let next = self.writer.state.applied.map_or(0, |applied| applied.index + 1);
        let first = self.writer.state.applied.is_none() && id.index == 1;
        if id.index > next && !first {
            return Err(Fatal::new(
                format!("apply entry {id}"),
                format!("entries from index {next} on are missing before it"),
            ));
        }
        Ok(id.index >= next)
    }

    fn entry(&mut self, entry: &Committed) -> Result<Vec<Outcome>, Fatal> {
        match &entry.payload {
            Payload::Blank => Ok(Vec::new()),
            Payload::Membership(bytes) => {
                // A copy: a slice would keep the whole entry's buffer.
                self.writer.set_membership(entry.id, Bytes::copy_from_slice(bytes));
                Ok(Vec::new())
            }
            Payload::Batch(bytes) => {
                let batch = Batch::decode(bytes.clone())
                    .map_err(|error| Fatal::new(format!("decode entry {}", entry.id), error))?;
                let log_time = &mut self.writer.state.log_time;
                *log_time = batch.at.max(*log_time);
                batch.ops.iter().map(|op| self.op(entry.id.index, op)).collect()
            }
        }
    }

    pub(super) fn op(&mut self, index: u64, op: &Op) -> Result<Outcome, Fatal> {
        match op {
            Op::Set { db, key, value, deadline } => {
                self.writer.set(*db, key, value, *deadline, index)?;
                Ok(Outcome::Ok)
            }
            Op::MSet { db, pairs } => {
                for (key, value) in pairs {
                    self.writer.set(*db, key, value, None, index)?;
                }
                Ok(Outcome::Ok)
            }
            Op::Del { db, keys } => {
                let mut deleted = 0;
                for key in keys {
                    deleted += i64::from(self.writer.delete(*db, key)?);
                }
                Ok(Outcome::Int(deleted))
            }
            Op::DelIf { db, part, keys } => self.delete_if(*db, part, keys),
            Op::PDel { db, pattern } => self.delete_matching(*db, pattern),
            Op::FlushDb { db } => {
                self.clear(*db, index);
                Ok(Outcome::Ok)
            }
            Op::FlushAll => {
                for db in 0..self.writer.databases() {
                    self.clear(db, index);
                }
                Ok(Outcome::Ok)
            }
            Op::Update { .. } | Op::MSetIf { .. } | Op::Transfer { .. } | Op::BitOp { .. } => {
                self.look_and_write(op, index)
            }
            Op::SwapDb { one, two } => self.swap(*one, *two, index),
            Op::Reap { keys } => self.reap(keys),
            Op::Transaction { watched, steps } => self.transaction(watched, steps, index),
        }
    }

    fn delete_if(&mut self, db: DbIndex, part: &[u8], keys: &[Bytes]) -> Result<Outcome, Fatal> {
        let finder = memmem::Finder::new(part);
        let mut deleted = 0;
        for key in keys {
            if self.writer.check(db, key, |payload| finder.find(payload).is_some())? {
                deleted += i64::from(self.writer.delete(db, key)?);
            }
        }
        Ok(Outcome::Int(deleted))
    }

    /// Deletes the keys that match, in portions that fit in memory. The range is read from disk, so what is pending is
    /// written first; readers see none of it before the entry has ended.
    fn delete_matching(&mut self, db: DbIndex, pattern: &Bytes) -> Result<Outcome, Fatal> {
        let (prefix, whole) = glob::literal_prefix(pattern);
        if whole {
            return Ok(Outcome::Int(i64::from(self.writer.delete(db, &prefix.into())?)));
        }
        self.spill()?;
        let live = self.writer.live.clone();
        let from = key::data(db, &prefix);
        let to = key::after_prefix(&from);
        let mut cursor = Cursor::now(&live, DATA, &from, to.clone())?;
        let mut deleted = 0;
        cursor.rewind(false);
        while let Some((raw_key, raw_value)) = cursor.item()? {
            let user_key = &raw_key[1..];
            if glob::matches(pattern, user_key) {
                deleted += i64::from(self.writer.delete_met(db, user_key, raw_value)?);
                if self.writer.pending_bytes() >= PENDING_MAX {
                    self.spill()?;
                }
            }
            cursor.step(false);
        }
        if deleted >= RECLAIM_FROM {
            self.reclaimer.want(db, from, to);
        }
        Ok(Outcome::Int(deleted))
    }

    /// Empties a database by one range deletion: its counts and digest are zero afterwards whatever it held, and SCAN's
    /// index goes the same way, so no key need be looked at.
    pub(super) fn clear(&mut self, db: DbIndex, index: u64) {
        if self.writer.clear(db, index) {
            self.reclaimer.want(db, vec![db], Some(key::after_db(db).to_vec()));
        }
    }
}
