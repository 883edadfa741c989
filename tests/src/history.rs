//! What clients saw: each operation with the times of its call and of its end.
//!
//! A read that brought no answer is not recorded: it says nothing. A write that brought none is *unknown*: it may take
//! effect at any time after its call, or never. A write that was refused before it was proposed is not recorded.

use std::sync::Mutex;
use std::time::Instant;

/// A register's content; each SET of a history writes another value. `None` is a missing key.
pub type Content = Option<u64>;

/// What was done, with what was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// SET of a value that no other SET of the history writes.
    Set(u64),
    /// DEL; `Some(found)` is its reply, `None` if there was none.
    Del(Option<bool>),
    /// GET and its reply.
    Get(Content),
}

/// One operation on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who did it.
    pub client: usize,
    /// On which key.
    pub key: usize,
    /// What.
    pub action: Action,
    /// Nanoseconds from the start of the history to the call.
    pub call: u64,
    /// Nanoseconds to the reply; `None` = unknown outcome.
    pub end: Option<u64>,
}

/// Only these errors say for certain that nothing was proposed; every other one leaves the outcome unknown.
#[must_use]
pub fn was_never_proposed(error: &str) -> bool {
    ["LOADING ", "TRY ", "MOVED ", "OOM ", "BUSY "].iter().any(|prefix| error.starts_with(prefix))
}

/// A history that several clients write.
pub struct History {
    start: Instant,
    operations: Mutex<Vec<Operation>>,
}

impl Default for History {
    fn default() -> Self {
        Self { start: Instant::now(), operations: Mutex::new(Vec::new()) }
    }
}

impl History {
    /// Nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds one operation.
    ///
    /// # Panics
    /// If another client panicked while adding.
    pub fn add(&self, operation: Operation) {
        self.operations.lock().expect("no client panics while adding").push(operation);
    }

    /// Operations so far.
    ///
    /// # Panics
    /// If a client panicked while adding.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.lock().expect("no client panics while adding").len()
    }

    /// True before the first operation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All operations of each key, `keys` of them.
    ///
    /// # Panics
    /// If a client panicked while adding.
    #[must_use]
    pub fn by_key(&self, keys: usize) -> Vec<Vec<Operation>> {
        let mut parts = vec![Vec::new(); keys];
        for &operation in self.operations.lock().expect("no client panics while adding").iter() {
            parts[operation.key].push(operation);
        }
        parts
    }

    /// Longest time without an acknowledged write, in milliseconds.
    #[must_use]
    pub fn longest_write_gap_ms(&self, keys: usize) -> u64 {
        let writes =
            self.by_key(keys).into_iter().flatten().filter(|op| !matches!(op.action, Action::Get(_)));
        let mut ends: Vec<u64> = writes.filter_map(|op| op.end).collect();
        ends.sort_unstable();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) / 1_000_000
    }
}
