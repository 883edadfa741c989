//! What happened, line by line; two runs of one seed must give the same bytes.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The record of one run, and its global time.
#[derive(Clone, Default)]
pub struct Trace(Arc<Inner>);

#[derive(Default)]
struct Inner {
    now_ms: AtomicU64,
    events: AtomicU64,
    lines: Mutex<String>,
}

impl Trace {
    /// Adds a line.
    pub fn note(&self, line: impl Display) {
        use std::fmt::Write as _;
        let mut lines = self.0.lines.lock();
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{:>7} {line}", self.now_ms());
    }

    /// Global milliseconds since the start.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.0.now_ms.load(Ordering::Relaxed)
    }

    /// Sets the global time.
    pub fn set_now(&self, now_ms: u64) {
        self.0.now_ms.store(now_ms, Ordering::Relaxed);
        self.0.events.store(0, Ordering::Relaxed);
    }

    /// A moment of the history, in nanoseconds: later events of the same millisecond have later ones.
    #[must_use]
    pub fn moment(&self) -> u64 {
        self.now_ms() * 1_000_000 + self.0.events.fetch_add(1, Ordering::Relaxed)
    }

    /// All lines.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.lines.lock().clone()
    }
}
