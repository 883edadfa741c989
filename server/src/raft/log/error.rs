//! What can go wrong in the log, grouped by what the caller should do.

use std::io;
use std::path::PathBuf;

/// Why an operation on the log failed.
///
/// Cloneable, because one failed sync is the answer to everything that was waiting for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The device failed. The log refuses everything from here on: end the process. Never retried, because after a
    /// failed sync the kernel may have dropped the pages and would report the next sync as good.
    #[error("log: {doing} {}: {cause}", path.display())]
    Io {
        /// What was being done, e.g. "sync".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's words.
        cause: String,
    },
    /// The files do not hold what was once durable. The node must not start from them.
    #[error("log: {} at byte {offset}: {what}; {remedy}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Byte offset of the first thing that is wrong.
        offset: u64,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// No space for a new segment. Answered only when the log is closed (or opened) while the disk is full;
    /// until then the writer keeps what is queued and tries again.
    #[error("log: no space to write {}: {cause}", path.display())]
    DiskFull {
        /// The file that could not be made or extended.
        path: PathBuf,
        /// The kernel's words.
        cause: String,
    },
    /// The caller asked for what cannot be: a gap, an id that is not in the log. Nothing was changed.
    #[error("log: {0}")]
    Misuse(String),
    /// The entry asked for is behind the purge point.
    #[error("log: entry {index} is purged (up to {upto})")]
    Purged {
        /// The index asked for.
        index: u64,
        /// Index of the last purged entry.
        upto: u64,
    },
    /// The log was closed.
    #[error("log: closed")]
    Closed,
}

/// The remedy for damage of what was durable: this copy of the log must not vote again.
pub(super) const REBUILD: &str = "the node must not start from this log: restore the file from the same disk, or move the \
     data directory away and let the node come back as a new member";

impl LogError {
    pub(super) fn io(doing: &'static str, path: PathBuf, cause: &io::Error) -> Self {
        Self::Io { doing, path, cause: cause.to_string() }
    }

    pub(super) fn damaged(path: PathBuf, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { path, offset, what: what.into(), remedy: REBUILD }
    }
}

/// True for "no space" and "quota exceeded": conditions that pass, unlike a failing device.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
