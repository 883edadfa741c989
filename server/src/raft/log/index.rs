//! Where each entry is: its id, its place in a file, and the newest ones in memory.
//!
//! Three views of the same log, all behind one lock:
//!
//! ```text
//!                 purged            written               last
//!  ids     ........|--------------------|------------------|     what a caller has appended
//!  places  ........|--------------------|                        what the writer has written
//!  cache   ............|---------------------------------|       everything not written, and what fits of the rest
//! ```
//!
//! Invariants
//! - An entry that is not in the cache is written, and its place is that of this very entry: a truncation that is still
//!   queued can only concern entries that are newer than it.
//! - `places` is contiguous and its segments ascend.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::store::LogId;

/// Ids of the live entries, one item per run of the same leader.
#[derive(Debug, Default)]
pub(super) struct Ids {
    purged: Option<LogId>,
    last: Option<LogId>,
    runs: VecDeque<LogId>,
}

impl Ids {
    /// No entries known, the log ending at `last`.
    pub(super) fn new(purged: Option<LogId>, last: Option<LogId>) -> Self {
        Self { purged, last, runs: VecDeque::new() }
    }

    /// Says how the log ends, where the entry itself is in no file any more (used by recovery).
    pub(super) fn set_last(&mut self, last: Option<LogId>) {
        self.last = last;
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// Last entry, or the purge point when there is none behind it.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last
    }

    /// Index of the first entry that may be there.
    pub(super) fn first_index(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    /// Index of the next entry.
    pub(super) fn next_index(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }

    /// Adds the entry behind the last one.
    pub(super) fn push(&mut self, id: LogId) {
        let same = |run: &LogId| run.term == id.term && run.node == id.node;
        if !self.runs.back().is_some_and(same) {
            self.runs.push_back(id);
        }
        self.last = Some(id);
    }

    /// Id at an index, the purge point included.
    pub(super) fn get(&self, index: u64) -> Option<LogId> {
        if self.purged.is_some_and(|id| id.index == index) {
            return self.purged;
        }
        if index < self.first_index() || index >= self.next_index() {
            return None;
        }
        let after = self.runs.partition_point(|run| run.index <= index);
        self.runs.get(after.checked_sub(1)?).map(|run| LogId { index, ..*run })
    }

    /// Keeps the entries below `next`.
    pub(super) fn truncate(&mut self, next: u64) {
        if next >= self.next_index() {
            return;
        }
        let next = next.max(self.first_index());
        self.last = next.checked_sub(1).and_then(|index| self.get(index));
        while self.runs.back().is_some_and(|run| run.index >= next) {
            self.runs.pop_back();
        }
    }

    /// Drops everything up to `upto`; when that is at or behind the last entry, the log is empty and goes on after it.
    pub(super) fn purge(&mut self, upto: LogId) {
        if upto.index + 1 >= self.next_index() {
            self.runs.clear();
            self.last = Some(upto);
        }
        self.purged = Some(upto);
        while self.runs.get(1).is_some_and(|run| run.index <= upto.index + 1) {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut() {
            run.index = run.index.max(upto.index + 1);
        }
    }
}

/// Place of an entry's frame in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Offset of the frame; segments are smaller than 4 GiB.
    pub(super) offset: u32,
    /// Bytes of the payload.
    pub(super) bytes: u32,
}

/// Places of the written live entries.
#[derive(Debug, Default)]
pub(super) struct Places {
    first: u64,
    list: VecDeque<Place>,
    /// (first index, sequence of the segment)
    runs: VecDeque<(u64, u64)>,
}

impl Places {
    /// Index behind the last place.
    pub(super) fn next_index(&self) -> u64 {
        self.first + self.list.len() as u64
    }

    /// Index of the first place, if there is one.
    pub(super) fn first_index(&self) -> Option<u64> {
        (!self.list.is_empty()).then_some(self.first)
    }

    /// Adds the place behind the last one (or the first one at all).
    pub(super) fn push(&mut self, index: u64, segment: u64, place: Place) {
        if self.list.is_empty() {
            self.first = index;
            self.runs.clear();
        }
        debug_assert_eq!(index, self.next_index(), "places are contiguous");
        if self.runs.back().is_none_or(|(_, sequence)| *sequence != segment) {
            self.runs.push_back((index, segment));
        }
        self.list.push_back(place);
    }

    /// Segment and place of an entry.
    pub(super) fn get(&self, index: u64) -> Option<(u64, Place)> {
        let place = self.list.get(usize::try_from(index.checked_sub(self.first)?).ok()?)?;
        let after = self.runs.partition_point(|(start, _)| *start <= index);
        self.runs.get(after.checked_sub(1)?).map(|(_, segment)| (*segment, *place))
    }

    /// Keeps the entries below `next`.
    pub(super) fn truncate(&mut self, next: u64) {
        let keep = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.list.truncate(keep);
        while self.runs.back().is_some_and(|(start, _)| *start >= next) {
            self.runs.pop_back();
        }
    }

    /// Drops the entries up to and with `upto`.
    pub(super) fn purge(&mut self, upto: u64) {
        let Some(drop) = (upto + 1).checked_sub(self.first) else { return };
        let drop = usize::try_from(drop).unwrap_or(usize::MAX).min(self.list.len());
        self.list.drain(..drop);
        self.first += drop as u64;
        if self.list.is_empty() {
            self.runs.clear();
        }
        while self.runs.get(1).is_some_and(|(start, _)| *start <= self.first) {
            self.runs.pop_front();
        }
        if let Some((start, _)) = self.runs.front_mut() {
            *start = self.first.max(*start);
        }
        // A big purge gives its memory back.
        if self.list.capacity() > 1024 && self.list.len() < self.list.capacity() / 4 {
            self.list.shrink_to(self.list.len() * 2);
        }
    }

    /// Oldest segment that holds a live entry.
    pub(super) fn oldest_segment(&self) -> Option<u64> {
        self.runs.front().map(|(_, segment)| *segment)
    }

    /// Indexes (from, to exclusive) of the live entries in a segment.
    pub(super) fn range_of(&self, segment: u64) -> Option<(u64, u64)> {
        let at = self.runs.binary_search_by_key(&segment, |(_, sequence)| *sequence).ok()?;
        let to = self.runs.get(at + 1).map_or_else(|| self.next_index(), |(start, _)| *start);
        self.runs.get(at).map(|(from, _)| (*from, to))
    }
}

struct Cached {
    bytes: Bytes,
    /// Number of the queued operation that writes it.
    ticket: u64,
}

/// The newest entries in memory.
pub(super) struct Cache {
    first: u64,
    entries: VecDeque<Cached>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(super) fn new(bytes_max: usize, first: u64) -> Self {
        Self { first, entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the entry behind the last one (or the first one at all).
    pub(super) fn push(&mut self, index: u64, bytes: Bytes, ticket: u64) {
        if self.entries.is_empty() {
            self.first = index;
        }
        debug_assert_eq!(index, self.first + self.entries.len() as u64, "the cache is contiguous");
        self.bytes += bytes.len();
        self.entries.push_back(Cached { bytes, ticket });
    }

    pub(super) fn get(&self, index: u64) -> Option<&Bytes> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.entries.get(at).map(|cached| &cached.bytes)
    }

    /// Keeps the entries below `next`.
    pub(super) fn truncate(&mut self, next: u64) {
        while !self.entries.is_empty() && self.first + self.entries.len() as u64 > next {
            self.bytes -= self.entries.pop_back().map_or(0, |cached| cached.bytes.len());
        }
    }

    /// Drops the entries up to and with `upto`.
    pub(super) fn purge(&mut self, upto: u64) {
        while self.first <= upto && !self.entries.is_empty() {
            self.pop_front();
        }
    }

    /// Drops the oldest entries above the limit, of those that are written.
    pub(super) fn evict(&mut self, written: u64) {
        while self.bytes > self.bytes_max
            && self.entries.front().is_some_and(|cached| cached.ticket <= written)
        {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(cached) = self.entries.pop_front() {
            self.bytes -= cached.bytes.len();
            self.first += 1;
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
