//! What callers and the writer thread share, behind one lock that is never held over I/O or a callback.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::disk::Disk;
use super::error::LogError;
use super::index::{Cache, Ids, Places};
use super::segment::{Segment, index_of};
use super::stats::LogStats;
use super::{Done, LogEntry, Vote};
use crate::clock;
use crate::store::LogId;

/// One queued operation.
pub(super) enum Op {
    /// An entry; the last one of an append carries its callback.
    Entry(LogEntry, Option<Done>),
    Vote(Vote, Done),
    /// The last id that stays.
    Truncate(Option<LogId>, Done),
    Purge(LogId, Done),
    /// Everything before it synced.
    Sync(Done),
    /// Everything before it written.
    Barrier(Done),
}

impl Op {
    /// Its share of the queue's bytes.
    pub(super) fn queue_bytes(&self) -> usize {
        64 + match self {
            Self::Entry(entry, _) => entry.bytes.len(),
            _ => 0,
        }
    }

    /// Must be on disk before it is answered, at every durability level.
    pub(super) fn always_synced(&self) -> bool {
        !matches!(self, Self::Entry(..) | Self::Barrier(_))
    }

    /// Takes the callback out.
    pub(super) fn done(self) -> Option<Done> {
        match self {
            Self::Entry(_, done) => done,
            Self::Vote(_, done)
            | Self::Truncate(_, done)
            | Self::Purge(_, done)
            | Self::Sync(done)
            | Self::Barrier(done) => Some(done),
        }
    }
}

/// An operation and its number.
pub(super) struct Queued {
    pub(super) ticket: u64,
    pub(super) op: Op,
}

impl Queued {
    /// True for an entry of the log.
    pub(super) fn is_entry(&self) -> bool {
        matches!(self.op, Op::Entry(..))
    }
}

/// What the log is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Open,
    /// `close` was called: the writer drains the queue, marks the log clean and ends.
    Draining,
    /// Dropped without `close`: the writer ends as a killed process would.
    Abandoned,
}

/// Times and sizes that tests make smaller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    /// Bytes taken from the queue for one batch.
    pub(super) batch_bytes_max: usize,
    /// Longest time that a written entry stays unsynced at durability medium.
    pub(super) sync_interval: Duration,
    /// First and longest pause between two attempts to get space.
    pub(super) retry_min: Duration,
    pub(super) retry_max: Duration,
    /// Bytes at the end of each segment that entries may not use, see the module head.
    pub(super) reserve_bytes: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            batch_bytes_max: 4 << 20,
            sync_interval: Duration::from_secs(1),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(2),
            reserve_bytes: 64 << 10,
        }
    }
}

pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) inner: Mutex<Inner>,
    /// Something is queued, or the log is to end.
    pub(super) work: Condvar,
    /// The queue got shorter.
    pub(super) room: Condvar,
    /// A purge may have freed space.
    pub(super) space: Condvar,
}

/// Ends of syncs that are remembered: more than can be in flight.
const SYNCS_KEPT: usize = 64;

pub(super) struct Inner {
    pub(super) ids: Ids,
    pub(super) places: Places,
    pub(super) cache: Cache,
    /// Ascending; the last one is being written.
    pub(super) segments: VecDeque<Segment>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    /// Last synced id that no queued truncation takes away.
    pub(super) flushed: Option<LogId>,
    /// When the newest syncs ended: last index, moment; ascending.
    pub(super) synced_at: VecDeque<(u64, Instant)>,
    pub(super) queue: VecDeque<Queued>,
    pub(super) queue_bytes: usize,
    /// Number of the last operation queued, and of the last one written.
    pub(super) tickets: u64,
    pub(super) written: u64,
    /// Truncations not yet written: number and last id that stays.
    pub(super) truncations: VecDeque<(u64, Option<LogId>)>,
    pub(super) life: Life,
    pub(super) failed: Option<LogError>,
    pub(super) stats: LogStats,
}

impl Inner {
    /// Why the log takes nothing more, if so.
    pub(super) fn check(&self) -> Result<(), LogError> {
        match (&self.failed, self.life) {
            (Some(error), _) => Err(error.clone()),
            (None, Life::Open) => Ok(()),
            (None, Life::Draining | Life::Abandoned) => Err(LogError::Closed),
        }
    }

    /// Queues an operation and returns its number.
    pub(super) fn push(&mut self, op: Op) -> u64 {
        self.tickets += 1;
        self.queue_bytes += op.queue_bytes();
        self.queue.push_back(Queued { ticket: self.tickets, op });
        self.tickets
    }

    /// Notes that everything up to `last` is synced.
    pub(super) fn set_flushed(&mut self, last: Option<LogId>) {
        let pending = self.truncations.iter().map(|(_, keep)| *keep);
        self.flushed = pending
            .fold(last, |flushed, keep| if index_of(keep) < index_of(flushed) { keep } else { flushed });
        let index = index_of(self.flushed).unwrap_or(0);
        // What was truncated is written again, so its old moments are not those of what stands there now.
        while self.synced_at.back().is_some_and(|(synced, _)| *synced > index) {
            self.synced_at.pop_back();
        }
        if self.synced_at.back().is_none_or(|(synced, _)| *synced < index) {
            if self.synced_at.len() >= SYNCS_KEPT {
                self.synced_at.pop_front();
            }
            self.synced_at.push_back((index, clock::monotonic()));
        }
    }

    /// When the log was first known to be synced up to this index; `None` if it is not, or too long ago.
    pub(super) fn synced_at(&self, index: u64) -> Option<Instant> {
        let at = self.synced_at.partition_point(|(synced, _)| *synced < index);
        // The oldest one kept may stand for a sync before it.
        if at == 0 && self.synced_at.len() >= SYNCS_KEPT {
            return None;
        }
        self.synced_at.get(at).map(|(_, moment)| *moment)
    }
}
