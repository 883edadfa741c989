//! Counters per row of the command table, and of the node as a whole: for INFO, and for the metrics of the admin API.
//!
//! Relaxed atomics only: a reader may see a call before its latency. Requests that shared one log entry or read barrier
//! are added in one go per run of the same command.
//!
//! INFO shows what was counted since CONFIG RESETSTAT, metrics must never go back: RESETSTAT remembers a base line.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::command::table;
/// Upper bounds of the latency buckets in microseconds; one more bucket holds the rest.
pub use crate::metrics::BOUNDS_US as BUCKETS_US;

/// Counters of one command, as read at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandCount {
    /// Executed, with success or not.
    pub calls: u64,
    /// Of these, answered with an error.
    pub failed: u64,
    /// Refused before execution (arity, syntax).
    pub rejected: u64,
    /// Sum of the latencies of calls, microseconds.
    pub usec: u64,
    /// Calls per bucket of [`BUCKETS_US`], not cumulative; the last one holds what took longer.
    pub buckets: [u64; BUCKETS_US.len() + 1],
}

#[derive(Debug, Default)]
struct PerCommand {
    calls: AtomicU64,
    failed: AtomicU64,
    rejected: AtomicU64,
    usec: AtomicU64,
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
}

impl PerCommand {
    fn read(&self) -> CommandCount {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CommandCount {
            calls: get(&self.calls),
            failed: get(&self.failed),
            rejected: get(&self.rejected),
            usec: get(&self.usec),
            buckets: std::array::from_fn(|at| self.buckets.get(at).map_or(0, get)),
        }
    }
}

/// Requests of the last full second, without a sampling task.
#[derive(Debug, Default)]
pub struct Rate {
    second: AtomicU64,
    current: AtomicU64,
    previous: AtomicU64,
}

impl Rate {
    /// Adds requests in this second of the process' life.
    pub fn add(&self, second: u64, requests: u64) {
        let old = self.second.load(Ordering::Relaxed);
        let moved = old < second
            && self.second.compare_exchange(old, second, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if moved {
            let last = self.current.swap(0, Ordering::Relaxed);
            self.previous.store(if old + 1 == second { last } else { 0 }, Ordering::Relaxed);
        }
        self.current.fetch_add(requests, Ordering::Relaxed);
    }

    /// Requests in the second before this one.
    #[must_use]
    pub fn per_second(&self, second: u64) -> u64 {
        let counted = self.second.load(Ordering::Relaxed);
        if counted == second {
            self.previous.load(Ordering::Relaxed)
        } else if counted + 1 == second {
            self.current.load(Ordering::Relaxed)
        } else {
            0
        }
    }
}

/// Counters of the node that are not per command, as read at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests taken up, known or not.
    pub commands: u64,
    /// Error replies.
    pub errors: u64,
    /// Keys found by GET and MGET.
    pub hits: u64,
    /// Keys not found by GET and MGET.
    pub misses: u64,
}

#[derive(Debug, Default)]
struct Baseline {
    commands: Vec<CommandCount>,
    totals: Totals,
    errors: BTreeMap<String, u64>,
}

/// All counters of dispatch.
#[derive(Debug)]
pub struct Counters {
    slots: Vec<PerCommand>,
    commands: AtomicU64,
    errors: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    /// Per error code. All codes are ours, so the map is bounded by the code, not by clients.
    codes: Mutex<BTreeMap<String, u64>>,
    baseline: Mutex<Baseline>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            slots: (0..table::SLOTS).map(|_| PerCommand::default()).collect(),
            commands: AtomicU64::default(),
            errors: AtomicU64::default(),
            hits: AtomicU64::default(),
            misses: AtomicU64::default(),
            codes: Mutex::default(),
            baseline: Mutex::default(),
        }
    }
}

impl Counters {
    /// Adds `calls` executions of the command in `slot`, each of this latency, of which `failed` ended in an error.
    pub fn executed(&self, slot: usize, calls: u64, failed: u64, latency: Duration) {
        let Some(counter) = self.slots.get(slot) else { return };
        let usec = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        counter.calls.fetch_add(calls, Ordering::Relaxed);
        counter.usec.fetch_add(usec.saturating_mul(calls), Ordering::Relaxed);
        if failed > 0 {
            counter.failed.fetch_add(failed, Ordering::Relaxed);
        }
        let bucket = BUCKETS_US.partition_point(|bound| *bound < usec);
        if let Some(bucket) = counter.buckets.get(bucket) {
            bucket.fetch_add(calls, Ordering::Relaxed);
        }
    }

    /// Counts a request refused before execution; `None` if no row was found.
    pub fn rejected(&self, slot: Option<usize>) {
        if let Some(counter) = slot.and_then(|slot| self.slots.get(slot)) {
            counter.rejected.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts requests taken up.
    pub fn taken(&self, requests: u64) {
        self.commands.fetch_add(requests, Ordering::Relaxed);
    }

    /// Counts an error reply by the code that its text begins with.
    pub fn error(&self, text: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let code = text.split(' ').next().unwrap_or("ERR");
        let mut codes = self.codes.lock();
        match codes.get_mut(code) {
            Some(count) => *count += 1,
            None => {
                codes.insert(code.to_owned(), 1);
            }
        }
    }

    /// Counts keys looked up.
    pub fn looked_up(&self, hits: u64, misses: u64) {
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.misses.fetch_add(misses, Ordering::Relaxed);
    }

    /// Counters of every row since the start, with the row's name.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, CommandCount)> + '_ {
        table::rows().map(|spec| spec.name).zip(self.slots.iter().map(PerCommand::read))
    }

    /// Totals since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            commands: get(&self.commands),
            errors: get(&self.errors),
            hits: get(&self.hits),
            misses: get(&self.misses),
        }
    }

    /// Error replies per code since the start.
    #[must_use]
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.codes.lock().clone()
    }

    /// CONFIG RESETSTAT: the `_since_reset` readings begin at zero.
    pub fn reset(&self) {
        let fresh = Baseline {
            commands: self.slots.iter().map(PerCommand::read).collect(),
            totals: self.totals(),
            errors: self.errors(),
        };
        *self.baseline.lock() = fresh;
    }

    /// Rows that were called or refused since the last reset: name, calls, failed, rejected, microseconds.
    #[must_use]
    pub fn commands_since_reset(&self) -> Vec<(&'static str, CommandCount)> {
        let baseline = self.baseline.lock();
        let mut list = Vec::new();
        for (slot, (name, now)) in self.commands().enumerate() {
            let then = baseline.commands.get(slot).copied().unwrap_or_default();
            let since = CommandCount {
                calls: now.calls.saturating_sub(then.calls),
                failed: now.failed.saturating_sub(then.failed),
                rejected: now.rejected.saturating_sub(then.rejected),
                usec: now.usec.saturating_sub(then.usec),
                buckets: std::array::from_fn(|at| {
                    let bucket = |count: &CommandCount| count.buckets.get(at).copied().unwrap_or(0);
                    bucket(&now).saturating_sub(bucket(&then))
                }),
            };
            if since.calls > 0 || since.rejected > 0 {
                list.push((name, since));
            }
        }
        list
    }

    /// Totals since the last reset.
    #[must_use]
    pub fn totals_since_reset(&self) -> Totals {
        let (now, then) = (self.totals(), self.baseline.lock().totals);
        Totals {
            commands: now.commands.saturating_sub(then.commands),
            errors: now.errors.saturating_sub(then.errors),
            hits: now.hits.saturating_sub(then.hits),
            misses: now.misses.saturating_sub(then.misses),
        }
    }

    /// Error replies per code since the last reset, without zeros.
    #[must_use]
    pub fn errors_since_reset(&self) -> Vec<(String, u64)> {
        let baseline = self.baseline.lock();
        let since = |(code, count): (String, u64)| {
            let then = baseline.errors.get(&code).copied().unwrap_or(0);
            (code, count.saturating_sub(then))
        };
        self.errors().into_iter().map(since).filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_falls_into_the_bucket_that_bounds_it() {
        let counters = Counters::default();
        let slot = table::find(b"get").unwrap().slot;
        counters.executed(slot, 3, 1, Duration::from_micros(50));
        counters.executed(slot, 1, 0, Duration::from_micros(51));
        counters.executed(slot, 1, 0, Duration::from_mins(10));
        let (_, count) = counters.commands().find(|(name, _)| *name == "GET").unwrap();
        assert_eq!((count.calls, count.failed, count.usec), (5, 1, 3 * 50 + 51 + 600_000_000));
        assert_eq!((count.buckets[1], count.buckets[2], count.buckets[BUCKETS_US.len()]), (3, 1, 1));
    }

    #[test]
    fn the_rate_is_that_of_the_last_full_second() {
        let rate = Rate::default();
        rate.add(1, 5);
        rate.add(1, 5);
        assert_eq!((rate.per_second(1), rate.per_second(2), rate.per_second(3)), (0, 10, 0));
        rate.add(2, 1);
        assert_eq!((rate.per_second(2), rate.per_second(3)), (10, 1));
        rate.add(9, 1);
        assert_eq!(rate.per_second(9), 0);
    }

    #[test]
    fn a_reset_hides_the_past_from_info_but_not_from_metrics() {
        let counters = Counters::default();
        let slot = table::find(b"get").unwrap().slot;
        counters.executed(slot, 2, 0, Duration::from_micros(1));
        counters.error("ERR x");
        counters.error("MOVED 1 a:1");
        counters.taken(4);
        counters.reset();
        assert!(counters.commands_since_reset().is_empty());
        assert!(counters.errors_since_reset().is_empty());
        assert_eq!(counters.totals_since_reset(), Totals::default());
        counters.executed(slot, 1, 0, Duration::from_micros(1));
        counters.error("ERR y");
        assert_eq!(
            counters.commands_since_reset().first().map(|(name, count)| (*name, count.calls)),
            Some(("GET", 1))
        );
        assert_eq!(counters.errors_since_reset(), [("ERR".to_owned(), 1)]);
        assert_eq!((counters.totals().commands, counters.totals().errors), (4, 3));
    }
}
