//! The writer thread: takes everything that is queued, writes it as one batch, syncs once, answers in order.
//!
//! ```text
//! take (<= 4 MiB) -> make room (rotate) -> encode -> one vectored write -> fdatasync? -> settle under the lock -> callbacks
//! ```
//!
//! Two kinds of failure, never mixed up:
//! - the device fails (any error of a sync, any error of a write but "no space"): the log is dead from here on,
//!   everything waiting and everything later gets the error; the caller ends the process. Nothing is tried twice;
//! - no space: the batch in hand is kept, nothing is answered, and the same step is tried again until it works.
//!   Purges are served meanwhile out of the reserve, because they are what frees space.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::{DiskFile, write_all};
use super::error::{LogError, is_full};
use super::frame::{BATCH_END_BYTES, BatchEncoder, CONTROL_BYTES_MAX, Kind, SEAL_BYTES, entry_bytes};
use super::index::Place;
use super::segment::{HEADER_BYTES, Header, Marks, Segment, Step, UNFINISHED, create_segment, index_of};
use super::state::{Inner, Life, Op, Queued, Shared, Tuning};
use super::windows;
use crate::clock;
use crate::config::Durability;
use crate::store::LogId;

/// The segment being written.
pub(super) struct Active {
    pub(super) sequence: u64,
    pub(super) name: String,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) salt: u64,
    /// End of the last batch.
    pub(super) end: u64,
    /// Everything before this is synced.
    pub(super) synced: u64,
    /// Length of the file.
    pub(super) capacity: u64,
}

/// Why a batch was not written.
enum Halt {
    /// The log is dead.
    Dead(LogError),
    /// The log is to end while the disk is full.
    Full(LogError),
}

/// Why a step failed.
pub(super) enum Trouble {
    NoSpace { name: String, cause: String },
    Dead(LogError),
}

/// What there is to do.
enum Work {
    Batch { ops: Vec<Queued>, committed: Option<LogId> },
    SyncDue,
    End { clean: bool },
}

/// A batch ready to be written.
struct Encoded {
    batch: BatchEncoder,
    places: Vec<Place>,
    marks: Marks,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) tuning: Tuning,
    pub(super) durability: Durability,
    pub(super) group: u32,
    pub(super) segment_bytes: u64,
    pub(super) active: Active,
    pub(super) marks: Marks,
    /// Since when something is written and not synced.
    pub(super) unsynced_since: Option<Instant>,
}

impl Writer {
    /// Runs until the log is closed, dropped or dead.
    pub(super) fn run(mut self) {
        loop {
            let work = self.take();
            if !self.perform(work) {
                return;
            }
        }
    }

    /// Does what there is to do now, without waiting. False once the log has ended.
    #[cfg(feature = "sim")]
    pub(super) fn step(&mut self) -> bool {
        let work = self.ready(&mut self.shared.inner.lock());
        work.is_none_or(|work| self.perform(work))
    }

    /// Something is queued.
    #[cfg(feature = "sim")]
    pub(super) fn has_work(&self) -> bool {
        !self.shared.inner.lock().queue.is_empty()
    }

    /// Does one piece of work. False once the log has ended.
    fn perform(&mut self, work: Work) -> bool {
        match work {
            Work::Batch { mut ops, committed } => match self.commit(&mut ops, committed) {
                Ok(()) => true,
                Err(Halt::Dead(error)) => self.die(ops, &error),
                Err(Halt::Full(error)) => {
                    self.refuse(ops, &error);
                    let draining = self.shared.inner.lock().life == Life::Draining;
                    self.end(draining)
                }
            },
            Work::SyncDue => match self.sync() {
                Ok(()) => true,
                Err(error) => self.die(Vec::new(), &error),
            },
            Work::End { clean } => self.end(clean),
        }
    }

    /// Waits for work.
    fn take(&self) -> Work {
        let mut inner = self.shared.inner.lock();
        loop {
            if let Some(work) = self.ready(&mut inner) {
                return work;
            }
            match self.sync_due_in() {
                None => self.shared.work.wait(&mut inner),
                Some(left) => {
                    self.shared.work.wait_for(&mut inner, left);
                }
            }
        }
    }

    /// Work that need not be waited for.
    fn ready(&self, inner: &mut Inner) -> Option<Work> {
        if inner.life == Life::Abandoned {
            return Some(Work::End { clean: false });
        }
        if !inner.queue.is_empty() {
            let mut ops = Vec::new();
            let mut bytes = 0;
            while bytes < self.tuning.batch_bytes_max
                && let Some(queued) = inner.queue.pop_front()
            {
                bytes += queued.op.queue_bytes();
                ops.push(queued);
            }
            return Some(Work::Batch { ops, committed: inner.committed });
        }
        if inner.life == Life::Draining {
            return Some(Work::End { clean: true });
        }
        self.sync_due_in().is_some_and(|left| left.is_zero()).then_some(Work::SyncDue)
    }

    /// At durability medium, how long the unsynced bytes may still wait.
    pub(super) fn sync_due_in(&self) -> Option<Duration> {
        let since = self.unsynced_since.filter(|_| self.durability == Durability::Medium)?;
        Some(self.tuning.sync_interval.saturating_sub(clock::monotonic().duration_since(since)))
    }

    /// Writes the operations as one batch, syncs if one of them asks for it, and answers them in order.
    fn commit(&mut self, ops: &mut Vec<Queued>, committed: Option<LogId>) -> Result<(), Halt> {
        crash_point!("log-taken-not-written", ops.iter().any(Queued::is_entry));
        let encoded = self.write_batch(ops, committed)?;
        windows::written(ops);
        let asked = ops.iter().any(|queued| queued.op.always_synced());
        let high = self.durability == Durability::High;
        let due = self.sync_due_in().is_some_and(|left| left.is_zero());
        let mut syncs = asked || high || due;
        if planted!("vote-not-synced") {
            syncs &= !ops.iter().all(|queued| matches!(queued.op, Op::Vote(..)));
        }
        if syncs && !planted!("sync-left-out") {
            self.sync().map_err(Halt::Dead)?;
        }
        windows::synced(ops);
        self.settle(ops, encoded);
        for queued in ops.drain(..) {
            if let Some(done) = queued.op.done() {
                done(Ok(()));
            }
        }
        Ok(())
    }

    /// Writes the batch, waiting for space as long as it takes. `None`: there was nothing to write.
    fn write_batch(
        &mut self,
        ops: &mut Vec<Queued>,
        committed: Option<LogId>,
    ) -> Result<Option<Encoded>, Halt> {
        let mut pause = self.tuning.retry_min;
        loop {
            let trouble = match self.make_room(ops) {
                Ok(()) => {
                    let encoded = self.encode(ops, committed);
                    if encoded.batch.count() == 0 {
                        return Ok(None);
                    }
                    match self.write(&encoded.batch) {
                        Ok(()) => {
                            self.marks = encoded.marks;
                            return Ok(Some(encoded));
                        }
                        Err(trouble) => trouble,
                    }
                }
                Err(trouble) => trouble,
            };
            match trouble {
                Trouble::Dead(error) => return Err(Halt::Dead(error)),
                Trouble::NoSpace { name, cause } => self.wait_for_space(ops, &name, cause, &mut pause)?,
            }
        }
    }

    /// Makes sure that the active segment can take the batch.
    fn make_room(&mut self, ops: &[Queued]) -> Result<(), Trouble> {
        let mut need = BATCH_END_BYTES + CONTROL_BYTES_MAX;
        let mut entries = false;
        if ops.iter().all(|queued| matches!(queued.op, Op::Sync(_) | Op::Barrier(_))) {
            return Ok(());
        }
        for queued in ops {
            need += match &queued.op {
                Op::Entry(entry, _) => {
                    entries = true;
                    entry_bytes(entry.bytes.len())
                }
                _ => CONTROL_BYTES_MAX,
            };
        }
        let margin = if entries { self.tuning.reserve_bytes } else { SEAL_BYTES };
        if self.active.end + need + margin > self.active.capacity {
            self.rotate(need)?;
        }
        Ok(())
    }

    fn encode(&self, ops: &[Queued], committed: Option<LogId>) -> Encoded {
        let mut batch = BatchEncoder::new(self.active.salt, self.active.end);
        let mut marks = self.marks;
        let mut places = Vec::new();
        for queued in ops {
            match &queued.op {
                Op::Entry(entry, _) => {
                    let offset = batch.entry(entry);
                    // Segments and entries are limited to less than 4 GiB when they are made.
                    let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                    places
                        .push(Place { offset, bytes: u32::try_from(entry.bytes.len()).unwrap_or(u32::MAX) });
                    marks.last = Some(entry.id);
                }
                Op::Vote(vote, _) => {
                    batch.vote(*vote);
                    marks.vote = Some(*vote);
                }
                Op::Truncate(..) if planted!("truncation-not-written") => {}
                Op::Truncate(last, _) => {
                    batch.id(Kind::Truncate, *last);
                    marks.truncate(*last);
                }
                Op::Purge(upto, _) => {
                    batch.id(Kind::Purge, Some(*upto));
                    marks.purge(*upto);
                }
                Op::Sync(_) | Op::Barrier(_) => {}
            }
        }
        if batch.count() > 0 {
            Self::encode_committed(&mut batch, &mut marks, committed);
            batch.finish(self.active.synced);
        }
        Encoded { batch, places, marks }
    }

    /// Adds the committed id if it moved, but never one that is ahead of the entries in the file.
    fn encode_committed(batch: &mut BatchEncoder, marks: &mut Marks, committed: Option<LogId>) {
        if committed.is_some() && committed != marks.committed && index_of(committed) <= index_of(marks.last)
        {
            batch.id(Kind::Committed, committed);
            marks.committed = committed;
        }
    }

    pub(super) fn write(&mut self, batch: &BatchEncoder) -> Result<(), Trouble> {
        let mut parts = batch.slices();
        write_all(self.active.file.as_ref(), &mut parts, self.active.end)
            .map_err(|error| self.trouble("write", &self.active.name, &error))?;
        let mut inner = self.shared.inner.lock();
        inner.stats.bytes_written += batch.end() - self.active.end;
        inner.stats.batches += 1;
        self.active.end = batch.end();
        self.unsynced_since.get_or_insert_with(clock::monotonic);
        if let Some(segment) = inner.segments.back_mut() {
            segment.end = self.active.end;
        }
        Ok(())
    }

    fn trouble(&self, doing: &'static str, name: &str, error: &std::io::Error) -> Trouble {
        if is_full(error) {
            Trouble::NoSpace { name: name.to_owned(), cause: error.to_string() }
        } else {
            Trouble::Dead(LogError::io(doing, self.shared.disk.path(name), error))
        }
    }

    /// Syncs what is written; an error is final, also "no space" (delayed allocation failed: the pages are gone).
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        if self.active.synced == self.active.end {
            self.unsynced_since = None;
            self.note_flushed();
            return Ok(());
        }
        let start = clock::monotonic();
        let result = self.active.file.sync_data();
        let took = clock::monotonic().duration_since(start);
        result.map_err(|error| LogError::io("sync", self.shared.disk.path(&self.active.name), &error))?;
        self.active.synced = self.active.end;
        self.unsynced_since = None;
        self.shared.inner.lock().stats.observe_sync(took);
        self.note_flushed();
        Ok(())
    }

    fn note_flushed(&self) {
        self.shared.inner.lock().set_flushed(self.marks.last);
    }

    /// Makes what is in the file visible to readers: places, the written number, room in the queue.
    fn settle(&self, ops: &[Queued], encoded: Option<Encoded>) {
        let mut inner = self.shared.inner.lock();
        let inner = &mut *inner;
        let mut places = encoded.map(|encoded| encoded.places).unwrap_or_default().into_iter();
        let mut bytes = 0;
        for queued in ops {
            bytes += queued.op.queue_bytes();
            match &queued.op {
                Op::Entry(entry, _) => {
                    inner.stats.entries += 1;
                    let place = places.next();
                    // Purged while it was queued: nobody can ask for it any more.
                    if let Some(place) = place.filter(|_| entry.id.index >= inner.ids.first_index()) {
                        inner.places.push(entry.id.index, self.active.sequence, place);
                    }
                }
                Op::Truncate(last, _) => {
                    inner.places.truncate(last.map_or(0, |id| id.index + 1));
                    inner.truncations.retain(|(ticket, _)| *ticket > queued.ticket);
                }
                Op::Vote(..) | Op::Purge(..) | Op::Sync(_) | Op::Barrier(_) => {}
            }
        }
        inner.written = ops.last().map_or(inner.written, |queued| queued.ticket);
        inner.queue_bytes -= bytes;
        inner.stats.disk_full = None;
        inner.cache.evict(inner.written);
        if self.active.synced == self.active.end {
            inner.set_flushed(self.marks.last);
        }
        self.shared.room.notify_all();
    }

    /// Goes on in a new segment, which is whole and durable under its name before a byte goes into it.
    pub(super) fn rotate(&mut self, need: u64) -> Result<(), Trouble> {
        self.sync().map_err(Trouble::Dead)?;
        let capacity = self.segment_bytes.max(HEADER_BYTES + need + self.tuning.reserve_bytes);
        let header = Header {
            group: self.group,
            sequence: self.active.sequence + 1,
            salt: self.shared.disk.salt(),
            previous_end: self.active.end,
            marks: self.marks,
        };
        let (name, file) = self.create(&header, capacity)?;
        crash_point!("segment-made-not-sealed");
        self.seal(header.sequence)?;
        let segment = Segment {
            sequence: header.sequence,
            name: name.clone(),
            salt: header.salt,
            file: Arc::clone(&file),
            end: HEADER_BYTES,
        };
        let Header { sequence, salt, .. } = header;
        self.active =
            Active { sequence, name, file, salt, end: HEADER_BYTES, synced: HEADER_BYTES, capacity };
        let mut inner = self.shared.inner.lock();
        inner.segments.push_back(segment);
        inner.stats.segments_created += 1;
        inner.stats.bytes_written += HEADER_BYTES;
        Ok(())
    }

    fn create(&self, header: &Header, capacity: u64) -> Result<(String, Arc<dyn DiskFile>), Trouble> {
        let disk = &self.shared.disk;
        create_segment(disk.as_ref(), header, capacity).map_err(|(step, name, error)| {
            // The half-made file would hold space that is short; recovery removes it too.
            let _ = disk.remove(&format!("{name}{UNFINISHED}"));
            match step {
                Step::Make => self.trouble("make", &name, &error),
                Step::Sync => Trouble::Dead(LogError::io("sync", disk.path(&name), &error)),
            }
        })
    }

    /// Marks the full segment as one that has a successor, and gives its unused rest back.
    fn seal(&self, next: u64) -> Result<(), Trouble> {
        let Active { file, end, salt, name, .. } = &self.active;
        let seal = BatchEncoder::seal(*salt, *end, next);
        let failed = |error| self.trouble("seal", name, &error);
        match write_all(file.as_ref(), &mut [std::io::IoSlice::new(&seal)], *end) {
            // The seal only tells that the successor exists, which the successor itself does too.
            Err(error) if is_full(&error) => return Ok(()),
            result => result.map_err(failed)?,
        }
        crash_point!("segment-sealed-not-synced");
        file.set_len(end + SEAL_BYTES).map_err(failed)?;
        file.sync_data()
            .map_err(|error| Trouble::Dead(LogError::io("sync", self.shared.disk.path(name), &error)))
    }

    /// Says that the disk is full, serves purges, and waits a little (longer each time) or until a purge.
    fn wait_for_space(
        &mut self,
        ops: &mut Vec<Queued>,
        name: &str,
        cause: String,
        pause: &mut Duration,
    ) -> Result<(), Halt> {
        let error = LogError::DiskFull { path: self.shared.disk.path(name), cause };
        self.shared.inner.lock().stats.disk_full = Some(error.to_string());
        if self.serve_purges(ops)? {
            return Ok(());
        }
        let mut inner = self.shared.inner.lock();
        if inner.life == Life::Open {
            self.shared.space.wait_for(&mut inner, *pause);
        }
        *pause = (*pause * 2).min(self.tuning.retry_max);
        if inner.life == Life::Open { Ok(()) } else { Err(Halt::Full(error)) }
    }

    /// Writes the purges that only concern entries already in the file, out of the reserve. True if there were any.
    fn serve_purges(&mut self, ops: &mut Vec<Queued>) -> Result<bool, Halt> {
        let last = index_of(self.marks.last);
        let mut behind_truncate = false;
        let mut early = |queued: &mut Queued| {
            behind_truncate |= matches!(queued.op, Op::Truncate(..));
            matches!(&queued.op, Op::Purge(upto, _) if !behind_truncate && Some(upto.index) <= last)
        };
        let mut purges: Vec<Queued> = ops.extract_if(.., &mut early).collect();
        let mut later = VecDeque::new();
        let mut inner = self.shared.inner.lock();
        while let Some(mut queued) = inner.queue.pop_front() {
            if early(&mut queued) { purges.push(queued) } else { later.push_back(queued) }
        }
        inner.queue = later;
        drop(inner);
        let need = BATCH_END_BYTES + CONTROL_BYTES_MAX * (purges.len() as u64 + 1);
        let fits = self.active.end + need + SEAL_BYTES <= self.active.capacity;
        if purges.is_empty() {
            return Ok(false);
        }
        let encoded = self.encode(&purges, None);
        match fits.then(|| self.write(&encoded.batch)) {
            Some(Ok(())) => self.marks = encoded.marks,
            Some(Err(Trouble::Dead(error))) => {
                ops.extend(purges);
                return Err(Halt::Dead(error));
            }
            // Not even the reserve is left: they wait with the rest.
            None | Some(Err(Trouble::NoSpace { .. })) => {
                ops.splice(0..0, purges);
                return Ok(false);
            }
        }
        if let Err(error) = self.sync() {
            ops.extend(purges);
            return Err(Halt::Dead(error));
        }
        let bytes: usize = purges.iter().map(|queued| queued.op.queue_bytes()).sum();
        self.shared.inner.lock().queue_bytes -= bytes;
        self.shared.room.notify_all();
        for done in purges.into_iter().filter_map(|queued| queued.op.done()) {
            done(Ok(()));
        }
        Ok(true)
    }

    /// Syncs and, if asked, leaves the mark that this log was closed and not torn off.
    fn end(&mut self, clean: bool) -> bool {
        let result = if clean { self.mark_clean() } else { Ok(()) };
        let error = result.err().unwrap_or(LogError::Closed);
        self.die(Vec::new(), &error)
    }

    fn mark_clean(&mut self) -> Result<(), LogError> {
        // First everything else: the mark must never be on disk without what stands before it.
        self.sync()?;
        let mut batch = BatchEncoder::new(self.active.salt, self.active.end);
        let committed = self.shared.inner.lock().committed;
        let mut marks = self.marks;
        Self::encode_committed(&mut batch, &mut marks, committed);
        batch.mark(Kind::Clean);
        batch.finish(self.active.synced);
        if batch.end() + SEAL_BYTES > self.active.capacity {
            self.rotate(CONTROL_BYTES_MAX + BATCH_END_BYTES).map_err(|trouble| self.give_up(trouble))?;
            return self.mark_clean();
        }
        self.write(&batch).map_err(|trouble| self.give_up(trouble))?;
        self.marks = marks;
        crash_point!("clean-mark-written-not-synced");
        self.sync()
    }

    pub(super) fn give_up(&self, trouble: Trouble) -> LogError {
        match trouble {
            Trouble::Dead(error) => error,
            Trouble::NoSpace { name, cause } => {
                LogError::DiskFull { path: self.shared.disk.path(&name), cause }
            }
        }
    }

    /// Ends the log: these operations and all that are queued get the error, and so does every later one.
    fn die(&self, ops: Vec<Queued>, error: &LogError) -> bool {
        self.shared.fail(error);
        self.refuse(ops, error);
        false
    }

    fn refuse(&self, ops: Vec<Queued>, error: &LogError) {
        self.shared.refuse(ops, error);
    }
}

impl Shared {
    /// Answers these operations and all that are queued with the error.
    pub(super) fn refuse(&self, ops: Vec<Queued>, error: &LogError) {
        let queued: Vec<_> = {
            let mut inner = self.inner.lock();
            inner.queue_bytes = 0;
            inner.queue.drain(..).collect()
        };
        self.room.notify_all();
        for done in ops.into_iter().chain(queued).filter_map(|queued| queued.op.done()) {
            done(Err(error.clone()));
        }
    }

    /// From here on every operation gets this error.
    pub(super) fn fail(&self, error: &LogError) {
        self.inner.lock().failed.get_or_insert_with(|| error.clone());
        self.room.notify_all();
    }
}
