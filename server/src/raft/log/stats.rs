//! Counters of the log, for metrics and INFO.

use std::time::Duration;

/// Upper bounds in seconds of the histogram of sync times; one more bucket takes what is slower.
pub const SYNC_SECONDS: [f64; 15] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

/// Counters since the log was opened, and what is queued now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogStats {
    /// Syncs of segment files.
    pub syncs: u64,
    /// Syncs per bucket of [`SYNC_SECONDS`] (not cumulative), the last one for slower ones.
    pub sync_buckets: [u64; SYNC_SECONDS.len() + 1],
    /// Sum of all sync times in seconds.
    pub sync_seconds: f64,
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
        let seconds = took.as_secs_f64();
        let bucket = SYNC_SECONDS.partition_point(|bound| *bound < seconds);
        self.syncs += 1;
        self.sync_buckets[bucket] += 1;
        self.sync_seconds += seconds;
    }
}
