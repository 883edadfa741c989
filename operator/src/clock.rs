//! The only place that reads a clock.
//!
//! Invariant: `plan` and what lies below it get the time as an argument. Decisions about the past of *this* process
//! (how long ago was the lease seen to change) use the monotonic clock; the wall clock is only ever shown or written
//! down, because clocks of two machines may differ by anything.

use std::time::Instant;

use k8s_openapi::jiff::Timestamp;

/// Reads the wall clock.
#[must_use]
pub fn wall() -> Timestamp {
    // jiff reads it inside; the lint cannot see it, the rule is the same.
    Timestamp::now()
}

/// Reads the monotonic clock, for durations and deadlines inside one process. It is tokio's, so that timers and
/// instants agree, also where a test has paused the time.
#[must_use]
pub fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}
