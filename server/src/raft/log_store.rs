//! `RaftLogStorage` over the segments of `raft::log`.
//!
//! The callbacks of the library fire from the log's writer thread, in the order of submission; vote and entries share
//! one queue, so vote-before-entries holds by construction.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::codec;
use super::confirm::Told;
use super::log::{Done, LogError, RaftLog};
use super::types::{
    Entry, RaftLogId, RaftVote, TypeConfig, from_raft, to_raft, vote_from_raft, vote_to_raft,
};
use crate::machine::spawn_blocking;
use crate::store::LogId;

/// Bytes of entries that one append request to a follower carries, and one step of a replay.
const READ_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Cheap handle; every clone reads and writes the same log.
#[derive(Clone)]
pub(super) struct LogStore {
    log: Arc<RaftLog>,
    /// As recovered at open; later values are kept by the library.
    committed_at_open: Option<LogId>,
    told: Arc<Told>,
    tasks: TaskTracker,
}

impl LogStore {
    pub(super) fn new(
        log: Arc<RaftLog>,
        committed_at_open: Option<LogId>,
        told: Arc<Told>,
        tasks: TaskTracker,
    ) -> Self {
        Self { log, committed_at_open, told, tasks }
    }

    fn read_range(&self, from: u64, to_exclusive: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let entries = self.log.read(from, to_exclusive, bytes_max).map_err(io_error)?;
        entries.into_iter().map(|entry| Ok(codec::decode_entry(entry.id, entry.bytes)?)).collect()
    }

    fn clip(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let from = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => at.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(at) => at.saturating_add(1),
            Bound::Excluded(at) => *at,
            Bound::Unbounded => u64::MAX,
        };
        let bounds = self.log.bounds();
        let first = bounds.purged.map_or(0, |id| id.index + 1);
        let end = bounds.last.map_or(0, |id| id.index + 1);
        (from.max(first), to.min(end))
    }
}

pub(super) fn io_error(error: LogError) -> io::Error {
    io::Error::other(error)
}

/// Turns the end of a queued operation into something to await.
fn completion() -> (Done, impl Future<Output = io::Result<()>>) {
    let (tx, rx) = oneshot::channel();
    let done: Done = Box::new(move |result| {
        // A receiver that is gone means that the Raft core stopped; nobody is left to tell.
        let _ = tx.send(result);
    });
    let wait = async move {
        match rx.await {
            Ok(result) => result.map_err(io_error),
            Err(_) => Err(io::Error::other("the log writer stopped before it finished")),
        }
    };
    (done, wait)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = self.clip(&range);
        let mut entries = Vec::new();
        let mut next = from;
        while next < to {
            let chunk = self.read_range(next, to, READ_BYTES_MAX)?;
            if chunk.is_empty() {
                break;
            }
            next += chunk.len() as u64;
            entries.extend(chunk);
        }
        Ok(entries)
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Read lazily: a replay of a long log must not hold all of it in memory.
        let (from, to) = self.clip(&range);
        let store = self.clone();
        stream::try_unfold(from, move |next| {
            let store = store.clone();
            async move {
                if next >= to {
                    return Ok(None);
                }
                let chunk = store.read_range(next, to, READ_BYTES_MAX)?;
                let after = next + chunk.len() as u64;
                if chunk.is_empty() {
                    return Err(io::Error::other(format!("log entry {next} is missing")));
                }
                Ok(Some((stream::iter(chunk.into_iter().map(Ok)), after)))
            }
        })
        .try_flatten()
        .boxed()
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.log.bounds().vote.map(vote_to_raft))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let purged = || self.log.bounds().purged.is_some_and(|purged| purged.index >= start);
        let (from, to) = self.clip(&(start..end));
        let read = if from == start {
            self.read_range(from, to, READ_BYTES_MAX)
        } else {
            Err(io::Error::other(format!("log entry {start} is missing; the log begins at {from}")))
        };
        match read {
            // The library purges nothing that a replication uses, but one that a membership change has replaced may
            // still be about to read. An error would end this node; nothing read is a heartbeat, and then its end.
            Err(_) if purged() => Ok(Vec::new()),
            read => read,
        }
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let bounds = self.log.bounds();
        Ok(LogState {
            last_purged_log_id: bounds.purged.map(to_raft),
            last_log_id: bounds.last.or(bounds.purged).map(to_raft),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let (done, wait) = completion();
        self.log.save_vote(vote_from_raft(vote), done);
        wait.await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        if let Some(id) = committed {
            self.log.save_committed(from_raft(&id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        Ok(self.committed_at_open.map(to_raft))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut members_change = false;
        let encode = |entry: Entry| {
            if matches!(entry.payload, EntryPayload::Membership(_)) {
                members_change = true;
                self.told.members(entry.log_id.index);
            }
            codec::encode_entry(&entry)
        };
        let entries = entries.into_iter().map(encode).collect();
        let done: Done = Box::new(move |result| callback.io_completed(result.map_err(io_error)));
        if members_change {
            // As durable as a vote at every level: a node that has lost its tail must still know whom to ask (`doubt`).
            self.log.append_synced(entries, done);
            crash_point!("membership-appended");
        } else {
            self.log.append(entries, done);
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        let (done, wait) = completion();
        self.log.truncate_after(last.as_ref().map(from_raft), done);
        wait.await
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        let (done, synced) = completion();
        let purged = self.log.begin_purge(from_raft(&upto), done).map_err(io_error)?;
        let log = self.log.clone();
        // The Raft core waits for what this function does, and sends no heartbeat meanwhile: a sync that takes as long
        // as an election timeout, or an unlink, would cost the leadership.
        self.tasks.spawn(async move {
            if synced.await.is_err() {
                return; // The log is dead, and says so to whoever uses it next.
            }
            crash_point!("purge-synced-not-removed");
            if let Ok(Err(error)) = spawn_blocking(move || log.unlink(purged)).await {
                tracing::warn!(%error, "space of the purged log not freed; the next purge tries again");
            }
        });
        Ok(())
    }
}
