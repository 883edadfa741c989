//! The only place that reads a clock; with the feature `sim` it is that of the simulated node.
//!
//! Invariant: `store` never sees a clock. Time reaches it as the [`UnixMs`] inside a log entry, so that every
//! replica decides the same (decision 10: the entry carries the leader's log time, apply reads no clock).

use std::fmt;
#[cfg(not(feature = "sim"))]
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub u64);

impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// Reads the wall clock. A clock set before 1970 reads as 0.
#[cfg(not(feature = "sim"))]
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Reads the monotonic clock, for durations and deadlines inside one process.
#[cfg(not(feature = "sim"))]
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one reader of the monotonic clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

#[cfg(feature = "sim")]
pub use crate::sim::{monotonic, wall};
