//! The apply thread: the one writer of the state, fed in log order.
//!
//! ```text
//! state_machine (async) --Job--> [bounded queue] --> apply thread --> store::Applier
//!                                                        |--> Resolver (own batches get their outcomes here)
//!                                                        `--> `applied` watch (reads wait on it)
//! ```
//!
//! Invariant: before any flush or checkpoint the Raft log is synced, so the state on disk never reaches beyond the
//! log on disk, at every durability level (openraft may apply what this node has not flushed yet).

mod runner;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use self::runner::Runner;
use super::log::RaftLog;
use super::resolver::Resolver;
use super::stages::Moments;
use crate::clock;
use crate::store::{Applier, Batch, CheckpointInfo, Committed, Fatal, LogId, Outcome, Payload};

/// Jobs that may wait; the library sends one at a time, housekeeping and checkpoints add a few.
const JOBS_MAX: usize = 64;

type Reply<T> = oneshot::Sender<Result<T, Fatal>>;

/// Applied id and membership, as the store keeps them.
pub(super) type Position = (Option<LogId>, Option<(LogId, Bytes)>);

enum Job {
    /// `committed`: when the library let the entries go.
    Apply {
        entries: Vec<Committed>,
        committed: Instant,
        reply: Reply<Vec<Vec<Outcome>>>,
    },
    Flush {
        reply: Reply<Position>,
    },
    CheckFlush {
        reply: Reply<()>,
    },
    Checkpoint {
        into: PathBuf,
        reply: Reply<CheckpointInfo>,
    },
    Install {
        from: PathBuf,
        reply: Reply<Position>,
    },
    Stop {
        reply: Reply<()>,
    },
}

/// Sends jobs to the apply thread.
#[derive(Clone)]
pub(super) struct ApplyHandle {
    runner: Runner,
    applied: watch::Receiver<Option<LogId>>,
}

/// What the thread needs beside its jobs.
struct Worker {
    applier: Applier,
    log: Arc<RaftLog>,
    resolver: Arc<Resolver>,
    applied: watch::Sender<Option<LogId>>,
}

impl ApplyHandle {
    /// Starts the thread.
    pub(super) fn spawn(
        applier: Applier,
        log: Arc<RaftLog>,
        resolver: Arc<Resolver>,
    ) -> std::io::Result<Self> {
        let (progress, seen) = watch::channel(applier.position().0);
        let worker = Worker { applier, log, resolver, applied: progress };
        Ok(Self { runner: Runner::start(worker)?, applied: seen })
    }

    /// Last applied entry, as something to wait on.
    pub(super) fn applied(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.clone()
    }

    /// Last applied entry.
    pub(super) fn applied_now(&self) -> Option<LogId> {
        *self.applied.borrow()
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, Fatal> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Fatal::new("reach the apply thread", "it has stopped");
        self.runner.send(job(reply)).await.map_err(|()| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    pub(super) async fn apply(&self, entries: Vec<Committed>) -> Result<Vec<Vec<Outcome>>, Fatal> {
        let committed = clock::monotonic();
        self.ask(|reply| Job::Apply { entries, committed, reply }).await
    }

    /// Starts to make everything applied so far durable and returns what that is.
    pub(super) async fn flush(&self) -> Result<Position, Fatal> {
        self.ask(|reply| Job::Flush { reply }).await
    }

    /// See [`Applier::check_flush`].
    pub(super) async fn check_flush(&self) -> Result<(), Fatal> {
        self.ask(|reply| Job::CheckFlush { reply }).await
    }

    pub(super) async fn checkpoint(&self, into: PathBuf) -> Result<CheckpointInfo, Fatal> {
        self.ask(|reply| Job::Checkpoint { into, reply }).await
    }

    pub(super) async fn install(&self, from: PathBuf) -> Result<Position, Fatal> {
        self.ask(|reply| Job::Install { from, reply }).await
    }

    /// Makes everything durable, ends the thread and waits for its end. Cancel safe.
    pub(super) async fn stop(&self) -> Result<(), Fatal> {
        let stopped = self.ask(|reply| Job::Stop { reply }).await;
        self.runner.ended().await;
        stopped
    }
}

impl Worker {
    /// Does one job. False once it was the last.
    fn perform(&mut self, job: Job) -> bool {
        match job {
            Job::Apply { entries, committed, reply } => {
                let result = self.apply(&entries, committed);
                let _ = reply.send(result);
            }
            Job::Flush { reply } => {
                let result = self.flush(false).map(|()| self.applier.position());
                let _ = reply.send(result);
            }
            Job::CheckFlush { reply } => {
                let _ = reply.send(self.sync_log().and_then(|()| self.applier.check_flush()));
            }
            Job::Checkpoint { into, reply } => {
                let result = self.sync_log().and_then(|()| self.applier.checkpoint(&into));
                let _ = reply.send(result);
            }
            Job::Install { from, reply } => {
                let result = self.applier.install(&from).map(|()| {
                    self.resolver.skipped();
                    self.publish();
                    self.applier.position()
                });
                let _ = reply.send(result);
            }
            Job::Stop { reply } => {
                let _ = reply.send(self.flush(true));
                return false;
            }
        }
        true
    }

    fn apply(&mut self, entries: &[Committed], committed: Instant) -> Result<Vec<Vec<Outcome>>, Fatal> {
        if self.applier.sync_first() {
            self.sync_log()?;
        }
        crash_point!("committed-not-applied");
        let mut outcomes = self.applier.apply(entries)?;
        crash_point!("applied-not-answered");
        self.publish();
        let applied = clock::monotonic();
        for (entry, outcomes) in entries.iter().zip(&mut outcomes) {
            if let Payload::Batch(bytes) = &entry.payload {
                let (origin, sequence, _at) =
                    Batch::peek(bytes).map_err(|e| Fatal::new(format!("read entry {}", entry.id), e))?;
                let moments = || Moments { synced: self.log.synced_at(entry.id.index), committed, applied };
                let theirs = self.resolver.applied(origin, sequence, std::mem::take(outcomes), moments);
                *outcomes = theirs.unwrap_or_default();
            }
        }
        if let Some(last) = entries.last() {
            self.resolver.passed(last.id);
        }
        if self.applier.flush_due() {
            self.flush(false)?;
        }
        Ok(outcomes)
    }

    fn publish(&self) {
        self.applied.send_replace(self.applier.position().0);
    }

    fn sync_log(&self) -> Result<(), Fatal> {
        if planted!("state-ahead-of-log") {
            return Ok(());
        }
        self.log.sync().map_err(|e| Fatal::new("sync the log before a flush of the state", e))
    }

    fn flush(&mut self, wait: bool) -> Result<(), Fatal> {
        self.sync_log()?;
        crash_point!("log-synced-state-not-flushed");
        self.applier.flush(wait)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::config::{Durability, Limits};
    use crate::raft::log::LogOptions;
    use crate::store::{Store, StoreOptions};

    /// RocksDB must be let go before the process ends: its own clean-up at the exit aborts a process that still uses it.
    #[tokio::test]
    async fn a_stop_waits_for_the_end_of_the_thread() {
        let dir = TempDir::new().unwrap();
        let limits = Limits::default();
        let log = RaftLog::open(LogOptions {
            dir: dir.path().to_owned(),
            group: 0,
            segment_bytes: 64 << 10,
            cache_bytes: limits.log_cache_bytes,
            queue_bytes_max: limits.queue_bytes_max,
            durability: Durability::High,
        });
        let sizes = StoreOptions {
            databases: 1,
            memtable_bytes: 1 << 20,
            block_cache_bytes: 8 << 20,
            value_cache_bytes: 1 << 20,
        };
        let resolver = Arc::new(Resolver::new(1));
        let (_store, applier) = Store::open(&dir.path().join("state"), sizes).unwrap();
        let apply = ApplyHandle::spawn(applier, log.unwrap().0, resolver.clone()).unwrap();
        apply.stop().await.unwrap();
        assert_eq!(Arc::strong_count(&resolver), 1, "what the thread held is gone");
        assert!(apply.stop().await.is_err(), "stopped once");
    }
}
