//! Tests of the log: a disk in memory that loses, tears and fails, and the real file system.

mod basics;
mod crash;
mod faults;
mod golden;
mod model;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use bytes::Bytes;

use super::mem_disk::MemDisk;
use super::state::Tuning;
use super::{Done, LogEntry, LogError, LogOptions, RaftLog, Recovered, Vote};
use crate::config::Durability;
use crate::store::LogId;

const WAIT: Duration = Duration::from_secs(20);

fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: term * 10, index }
}

fn entry(term: u64, index: u64) -> LogEntry {
    LogEntry { id: id(term, index), bytes: Bytes::from(format!("entry {term}/{index}")) }
}

fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<LogEntry> {
    indexes.map(|index| entry(term, index)).collect()
}

fn vote(term: u64) -> Vote {
    Vote { term, node: 7, committed: false }
}

fn options(durability: Durability) -> LogOptions {
    LogOptions {
        dir: PathBuf::new(),
        group: 3,
        segment_bytes: 4096,
        cache_bytes: 1 << 20,
        queue_bytes_max: 1 << 20,
        durability,
    }
}

fn tuning() -> Tuning {
    Tuning {
        sync_interval: Duration::from_millis(5),
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(10),
        ..Tuning::default()
    }
}

fn open_with(disk: &MemDisk, options: &LogOptions) -> (Arc<RaftLog>, Recovered) {
    RaftLog::open_on(Arc::new(disk.clone()), options, tuning()).expect("opens")
}

fn open(disk: &MemDisk) -> (Arc<RaftLog>, Recovered) {
    open_with(disk, &options(Durability::High))
}

fn refuses(disk: &MemDisk) -> LogError {
    match RaftLog::open_on(Arc::new(disk.clone()), &options(Durability::High), tuning()) {
        Ok((_, recovered)) => panic!("opened: {recovered:?}"),
        Err(error) => error,
    }
}

type Answer = Receiver<Result<(), LogError>>;

fn waiter() -> (Done, Answer) {
    super::waiter()
}

fn answer(answer: &Answer) -> Result<(), LogError> {
    answer.recv_timeout(WAIT).expect("an answer in time")
}

fn append(log: &RaftLog, entries: Vec<LogEntry>) -> Answer {
    let (done, answer) = waiter();
    log.append(entries, done);
    answer
}

fn append_ok(log: &RaftLog, entries: Vec<LogEntry>) {
    answer(&append(log, entries)).expect("appended");
}

fn save_vote(log: &RaftLog, vote: Vote) -> Answer {
    let (done, answer) = waiter();
    log.save_vote(vote, done);
    answer
}

fn truncate(log: &RaftLog, last: Option<LogId>) -> Answer {
    let (done, answer) = waiter();
    log.truncate_after(last, done);
    answer
}

/// All live entries.
fn content(log: &RaftLog) -> Vec<LogEntry> {
    let from = log.bounds().purged.map_or(0, |id| id.index + 1);
    log.read(from, u64::MAX, u64::MAX).expect("readable")
}

/// A channel whose sender does not block for `n` messages.
fn channel<T>(n: usize) -> (std::sync::mpsc::SyncSender<T>, Receiver<T>) {
    sync_channel(n)
}

/// Waits until the condition holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = crate::clock::monotonic();
    while !holds() {
        assert!(start.elapsed() < WAIT, "never: {what}");
        std::thread::yield_now();
    }
}
