//! The Raft log on disk: append-only segments, one writer thread, one `fdatasync` per drained batch.
//!
//! Bytes, ids and u64 indexes only; openraft is not named here.
//!
//! ```text
//!   append  save_vote  truncate_after  purge  sync           read  id_at  bounds
//!      |        |            |           |      |               ^
//!      v        v            v           v      v               |
//!   [ one queue, bounded in bytes ]-------> ids + cache --------+        (in memory, at once)
//!      |  everything queued, <= 4 MiB                           |
//!      v                                                        |
//!   writer thread: one vectored write -> one fdatasync -> callbacks, in order
//!      |                                                        |
//!      v                                                        |
//!   raft-0-0000000001-...0.log   SEAL| raft-0-0000000002-...917.log ----+ (checked reads)
//! ```
//!
//! A segment, byte by byte (frames in `frame.rs`, the head in `segment.rs`):
//!
//! ```text
//!   head 256 | ENTRY ENTRY VOTE COMMITTED BATCH_END | ENTRY BATCH_END | ... | SEAL |  zeros (preallocated)
//!            |<------------ one batch ------------->|                      ^ only once the next segment exists
//! ```
//!
//! Invariants
//! - Vote and entries share one queue and one file: what was asked first is on disk first.
//! - A callback with `Ok` runs only after the write is as durable as the level says; callbacks run in order, on the
//!   writer thread, outside of locks. A vote, a truncation and a purge are synced at every level.
//! - A batch is kept or dropped as a whole. It is dropped only where a power cut may have torn it: at the very end.
//!   Damage anywhere else refuses to open.
//! - Every segment repeats vote, purge point and committed id in its head, so unlinking old segments loses none.
//! - After one failed sync or write nothing is tried again and nothing more is answered with `Ok`.
//! - No space is not a failure: it shows when a segment is made (segments are preallocated); the batch waits. The last
//!   64 KiB of each segment are a reserve that entries never use: votes and purges still go through then.
//!
//! What a crash of the process and a power cut leave, by durability level:
//!
//! ```text
//!            process killed      power cut
//!   high     all acknowledged    all acknowledged
//!   medium   all acknowledged    all but at most the last second
//!   low      all acknowledged    what the kernel had written; at least all before the last vote, truncation or segment
//! ```
//!
//! Not done here: the directory lock, purge policy, meaning of an entry's bytes.

mod disk;
mod error;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub(in crate::raft) mod fuzz;
mod index;
#[cfg(any(test, feature = "sim"))]
#[cfg_attr(not(test), expect(dead_code, reason = "the tests of the log ask for more of it"))]
pub(crate) mod mem_disk;
mod open;
#[cfg(not(feature = "sim"))]
mod os_disk;
mod read;
mod recovery;
mod runner;
mod segment;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod windows;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use crate::config::Durability;
use crate::store::LogId;

pub use error::LogError;
pub use stats::LogStats;

use runner::Runner;
use segment::index_of;
use state::{Inner, Life, Op, Shared};

/// Largest entry.
const ENTRY_BYTES_MAX: usize = 1 << 30;

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Directory of this group's segments; made if it is not there.
    pub dir: PathBuf,
    /// Raft group, stamped into every file.
    pub group: u32,
    /// Size of a segment file (at least 4 KiB, at most 2 GiB; a larger batch gets a larger file).
    pub segment_bytes: u64,
    /// Entries kept in memory; those not yet written are kept on top of it.
    pub cache_bytes: usize,
    /// Bytes that may wait for the writer before [`RaftLog::append`] blocks.
    pub queue_bytes_max: usize,
    /// When an append is answered.
    pub durability: Durability,
}

/// One entry. The bytes are not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its id.
    pub id: LogId,
    /// Its content.
    pub bytes: Bytes,
}

/// The Raft vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Term voted in.
    pub term: u64,
    /// Node voted for.
    pub node: u64,
    /// A quorum has granted it.
    pub committed: bool,
}

/// What [`RaftLog::open`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Last vote.
    pub vote: Option<Vote>,
    /// Newest committed id known; never beyond `last`, at least the purge point.
    pub committed: Option<LogId>,
    /// Entries up to here are gone.
    pub purged: Option<LogId>,
    /// Last entry; the purge point when there is none behind it.
    pub last: Option<LogId>,
    /// Closed by [`RaftLog::close`], or new: nothing that was acknowledged can be missing at any durability level.
    pub clean: bool,
    /// Bytes of a torn batch at the end that were dropped.
    pub dropped_bytes: u64,
}

/// Where the log starts and ends, entries not yet written included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Entries up to here are gone.
    pub purged: Option<LogId>,
    /// Last entry; the purge point when there is none behind it.
    pub last: Option<LogId>,
    /// Last vote.
    pub vote: Option<Vote>,
}

/// Told once when an operation is as durable as its level says, or why it never will be.
///
/// Runs on the writer thread (or, when refused at once, on the caller's): must not block, must not call back into
/// the blocking methods of the log.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// A purge that has begun: which files it lets go.
#[derive(Clone, Copy, Debug)]
pub struct Purged {
    /// Segments with a lower sequence held only what is purged when it began. Later purges do not move this: theirs may
    /// not be synced yet.
    below: u64,
}

/// An open log. Shared by `Arc`.
pub struct RaftLog {
    shared: Arc<Shared>,
    queue_bytes_max: usize,
    /// One at a time removes files.
    unlinking: Mutex<()>,
    runner: Runner,
}

impl RaftLog {
    /// Appends entries behind the last one. They can be read on return; `done` is told when they are durable (high),
    /// or written (medium, low). Blocks while the queue holds more than `queue_bytes_max`.
    ///
    /// `done` gets [`LogError::Misuse`] if the ids do not continue the log; nothing is appended then.
    pub fn append(&self, entries: Vec<LogEntry>, done: Done) {
        let bytes: usize = entries.iter().map(|entry| entry.bytes.len() + 64).sum();
        let mut inner = self.shared.inner.lock();
        while inner.check().is_ok()
            && inner.queue_bytes > 0
            && inner.queue_bytes + bytes > self.queue_bytes_max
        {
            self.shared.room.wait(&mut inner);
        }
        if let Err(error) = inner.check().and_then(|()| check_continues(&inner, &entries)) {
            drop(inner);
            return done(Err(error));
        }
        let Some(last) = entries.len().checked_sub(1) else {
            inner.push(Op::Barrier(done));
            return self.wake(inner);
        };
        let mut done = Some(done);
        for (at, entry) in entries.into_iter().enumerate() {
            let LogEntry { id, bytes } = entry.clone();
            let ticket = inner.push(Op::Entry(entry, if at == last { done.take() } else { None }));
            inner.ids.push(id);
            inner.cache.push(id.index, bytes, ticket);
        }
        let written = inner.written;
        inner.cache.evict(written);
        self.wake(inner);
    }

    /// As [`RaftLog::append`], but synced before `done` is told, at every durability level.
    pub fn append_synced(&self, entries: Vec<LogEntry>, done: Done) {
        let appended = Arc::new(Mutex::new(Ok(())));
        let result = Arc::clone(&appended);
        self.append(entries, Box::new(move |appended| *result.lock() = appended));
        let synced: Done =
            Box::new(move |synced| done(std::mem::replace(&mut *appended.lock(), Ok(())).and(synced)));
        let mut inner = self.shared.inner.lock();
        if let Err(error) = inner.check() {
            drop(inner);
            return synced(Err(error));
        }
        inner.push(Op::Sync(synced));
        self.wake(inner);
    }

    /// Saves the vote, synced at every durability level, in order with the entries.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        let mut inner = self.shared.inner.lock();
        if let Err(error) = inner.check() {
            drop(inner);
            return done(Err(error));
        }
        inner.vote = Some(vote);
        inner.push(Op::Vote(vote, done));
        self.wake(inner);
    }

    /// The vote as saved last: what it is from the moment on that [`RaftLog::save_vote`] was called.
    #[must_use]
    pub fn vote(&self) -> Option<Vote> {
        self.shared.inner.lock().vote
    }

    /// Remembers the committed id. It is written together with the next write and never costs a sync of its own, so
    /// an older one may come back after a crash.
    pub fn save_committed(&self, id: LogId) {
        let mut inner = self.shared.inner.lock();
        if index_of(inner.committed) < Some(id.index) {
            inner.committed = Some(id);
        }
    }

    /// Drops the entries behind `last` (all for `None`); told when that is synced. Later appends continue after it.
    ///
    /// `done` gets [`LogError::Misuse`] if `last` is not in the log.
    pub fn truncate_after(&self, last: Option<LogId>, done: Done) {
        let mut inner = self.shared.inner.lock();
        if let Err(error) = inner.check().and_then(|()| check_truncate(&inner, last)) {
            drop(inner);
            return done(Err(error));
        }
        let next = last.map_or(0, |id| id.index + 1);
        inner.ids.truncate(next);
        inner.cache.truncate(next);
        let keep = inner.ids.last();
        let ticket = inner.push(Op::Truncate(keep, done));
        inner.truncations.push_back((ticket, keep));
        let flushed = inner.flushed;
        inner.set_flushed(flushed);
        self.wake(inner);
    }

    /// Drops the entries up to and with `upto`; beyond the end, the log is empty and continues after it. Blocks until
    /// the purge point is synced, then unlinks the segments that hold nothing else. Does nothing below the purge point.
    ///
    /// # Errors
    /// [`LogError::Misuse`] if another id stands at that index. [`LogError::Io`] also when only an unlink failed: the purge
    /// point holds, and the next purge or start tries again.
    pub fn purge(&self, upto: LogId) -> Result<(), LogError> {
        let (done, wait) = waiter();
        let purged = self.begin_purge(upto, done)?;
        self.runner.wait(&wait)?;
        self.unlink(purged)
    }

    /// As [`RaftLog::purge`] up to the unlinking, but never waits for the disk: `done` is told when the purge point is
    /// synced, and only then may what this returns be given to [`RaftLog::unlink`].
    ///
    /// # Errors
    /// As [`RaftLog::purge`]; `done` is not told then.
    pub fn begin_purge(&self, upto: LogId, done: Done) -> Result<Purged, LogError> {
        let mut inner = self.shared.inner.lock();
        inner.check()?;
        if Some(upto.index) > index_of(inner.ids.purged()) {
            if let Some(other) = inner.ids.get(upto.index).filter(|id| *id != upto) {
                return Err(LogError::Misuse(format!("purge up to {upto}, but entry {other} stands there")));
            }
            inner.ids.purge(upto);
            inner.cache.purge(upto.index);
            inner.places.purge(upto.index);
        }
        // An earlier purge that went further may still be on its way: its point is written again, which says nothing new.
        let point = inner.ids.purged().unwrap_or(upto);
        inner.push(Op::Purge(point, done));
        let active = inner.segments.back().map_or(0, |segment| segment.sequence);
        let below = inner.places.oldest_segment().unwrap_or(active);
        self.shared.space.notify_all();
        self.wake(inner);
        Ok(Purged { below })
    }

    /// Unlinks the segments that hold nothing but what this purge dropped; its `done` has been told `Ok`.
    ///
    /// # Errors
    /// [`LogError::Io`]: the purge point holds, and the next purge or start tries again.
    pub fn unlink(&self, purged: Purged) -> Result<(), LogError> {
        let _one = self.unlinking.lock();
        loop {
            let name = match self.shared.inner.lock().segments.front() {
                Some(segment) if segment.sequence < purged.below => segment.name.clone(),
                _ => break,
            };
            let disk = &self.shared.disk;
            disk.remove(&name).map_err(|error| LogError::io("unlink", disk.path(&name), &error))?;
            self.shared.inner.lock().segments.pop_front();
            crash_point!("purge-file-removed");
        }
        self.shared.space.notify_all();
        Ok(())
    }

    /// Id at an index; also that of the purge point. `None` outside.
    #[must_use]
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        self.shared.inner.lock().ids.get(index)
    }

    /// Where the log starts and ends.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let inner = self.shared.inner.lock();
        Bounds { purged: inner.ids.purged(), last: inner.ids.last(), vote: inner.vote }
    }

    /// When the entry at this index was first known to be synced; `None` if it is not, or long ago.
    pub(super) fn synced_at(&self, index: u64) -> Option<Instant> {
        self.shared.inner.lock().synced_at(index)
    }

    /// Last id that is synced, not merely written; never one that a queued truncation takes away.
    #[must_use]
    pub fn flushed(&self) -> Option<LogId> {
        self.shared.inner.lock().flushed
    }

    /// Blocks until everything appended so far is synced, at any durability level.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::Closed`].
    pub fn sync(&self) -> Result<(), LogError> {
        let mut inner = self.shared.inner.lock();
        inner.check()?;
        let (done, wait) = waiter();
        inner.push(Op::Sync(done));
        self.wake(inner);
        self.runner.wait(&wait)
    }

    /// Bytes in all segments.
    #[must_use]
    pub fn retained_bytes(&self) -> u64 {
        self.shared.inner.lock().segments.iter().map(|segment| segment.end).sum()
    }

    /// Newest synced id such that at least `keep_bytes` of segments stay behind it. `None` if there is none.
    #[must_use]
    pub fn purge_candidate(&self, keep_bytes: u64) -> Option<LogId> {
        let inner = self.shared.inner.lock();
        let mut newer = 0;
        let found = inner.segments.iter().rev().find_map(|segment| {
            let found = newest_with_behind(&inner, segment, keep_bytes.saturating_sub(newer));
            newer += segment.end - segment::HEADER_BYTES;
            found
        })?;
        let index = found.min(index_of(inner.flushed)?);
        inner.ids.get(index).filter(|id| Some(id.index) > index_of(inner.ids.purged()))
    }

    /// Counters since the start, and what is queued now.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let inner = self.shared.inner.lock();
        LogStats {
            queue_bytes: inner.queue_bytes as u64,
            cache_bytes: inner.cache.bytes() as u64,
            ..inner.stats.clone()
        }
    }

    /// Writes what is queued, syncs, leaves the clean mark and ends the writer thread. Safe to call again.
    ///
    /// # Errors
    /// [`LogError::Io`] if the log is dead; [`LogError::DiskFull`] if there was not even space for the mark. What could not
    /// be written was never acknowledged.
    pub fn close(&self) -> Result<(), LogError> {
        self.stop(Life::Draining);
        match &self.shared.inner.lock().failed {
            None | Some(LogError::Closed) => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    fn stop(&self, life: Life) {
        {
            let mut inner = self.shared.inner.lock();
            if inner.life == Life::Open {
                inner.life = life;
            }
        }
        self.shared.work.notify_all();
        self.shared.space.notify_all();
        self.shared.room.notify_all();
        self.runner.end();
    }

    fn wake(&self, inner: MutexGuard<'_, Inner>) {
        drop(inner);
        self.runner.wake(&self.shared);
    }
}

impl Drop for RaftLog {
    /// Without [`RaftLog::close`] the log ends as if the process were killed: what is queued is not written.
    fn drop(&mut self) {
        self.stop(Life::Abandoned);
    }
}

/// A callback, and where its answer arrives.
fn waiter() -> (Done, mpsc::Receiver<Result<(), LogError>>) {
    let (sender, receiver) = mpsc::sync_channel(1);
    // The receiver is gone only if the waiting caller is.
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

fn check_continues(inner: &Inner, entries: &[LogEntry]) -> Result<(), LogError> {
    let next = inner.ids.next_index();
    for (expected, entry) in (next..).zip(entries) {
        if entry.id.index != expected {
            return Err(LogError::Misuse(format!(
                "append entry {}, but index {expected} comes next",
                entry.id
            )));
        }
        if entry.bytes.len() > ENTRY_BYTES_MAX {
            return Err(LogError::Misuse(format!("entry {} has {} bytes", entry.id, entry.bytes.len())));
        }
    }
    Ok(())
}

fn check_truncate(inner: &Inner, last: Option<LogId>) -> Result<(), LogError> {
    let known = match last {
        None => inner.ids.purged().is_none(),
        Some(last) => inner.ids.get(last.index) == Some(last),
    };
    if known {
        return Ok(());
    }
    let last = last.map_or_else(|| "nothing".to_owned(), |id| id.to_string());
    Err(LogError::Misuse(format!("truncate to {last}, which is not in the log")))
}

/// Newest index in a segment with at least `keep` bytes of it behind.
fn newest_with_behind(inner: &Inner, segment: &segment::Segment, keep: u64) -> Option<u64> {
    let (from, to) = inner.places.range_of(segment.sequence)?;
    let behind = |index: u64| {
        let end = inner
            .places
            .get(index)
            .map_or(0, |(_, place)| u64::from(place.offset) + frame::entry_bytes(place.bytes as usize));
        segment.end.saturating_sub(end)
    };
    // `behind` falls with the index: binary search for the last one that is still large enough.
    let (mut low, mut high) = (from, to);
    while low < high {
        let middle = low + (high - low) / 2;
        if behind(middle) >= keep { low = middle + 1 } else { high = middle }
    }
    (low > from).then(|| low - 1)
}
