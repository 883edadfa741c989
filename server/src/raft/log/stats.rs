//! Counters of the log, for metrics and INFO.

use std::time::Duration;

use crate::metrics::BOUNDS_US;

/// Counters since the log was opened, and what is queued now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogStats {
    /// Syncs of segment files.
    pub syncs: u64,
    /// Syncs per bucket of [`BOUNDS_US`] (not cumulative), the last one for slower ones.
    pub sync_buckets: [u64; BOUNDS_US.len() + 1],
    /// Sum of all sync times.
    pub sync_time: Duration,
    /// Bytes written to segments, heads included.
    pub bytes_written: u64,
    /// Entries written.
    pub entries: u64,
    /// Batches written (each one vectored write and, at durability high, one sync).
    pub batches: u64,
    /// Segments made.
    pub segments_created: u64,
    /// Bytes appended and not yet written.
    pub queue_bytes: u64,
    /// Bytes of entries held in memory.
    pub cache_bytes: u64,
    /// Why nothing is acknowledged at the moment, if the disk is full.
    pub disk_full: Option<String>,
}

impl LogStats {
    pub(super) fn observe_sync(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < micros);
        self.syncs += 1;
        self.sync_buckets[bucket] += 1;
        self.sync_time += took;
    }
}
