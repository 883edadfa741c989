//! What time it is to the log: a guess that tells when the log must be asked.
//!
//! A key expires by the log time alone (decision 10), and that stands still while nothing is written. So a read that meets
//! a deadline which seems to have come first has the log time brought forward, by an entry without keys. The guess needs
//! no agreement: one that is late shows a key up to as much longer as this clock is behind, one that is early costs
//! an entry a second, and no guess ever makes a key invisible.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::{UnixMs, monotonic, wall};

/// A log time that was seen is good for this long; then the wall clock is asked again.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// The last log time that a leader gave, and when.
#[derive(Debug, Default)]
pub(super) struct LogClock {
    seen: Mutex<Option<(UnixMs, Instant)>>,
    /// Held by the one that asks.
    pub(super) asking: tokio::sync::Mutex<()>,
}

impl LogClock {
    /// The guess.
    pub(super) fn now(&self) -> UnixMs {
        let seen = *self.seen.lock();
        match seen.map(|(time, at)| (time, monotonic().duration_since(at))) {
            Some((time, age)) if age < GOOD_FOR => {
                UnixMs(time.0.saturating_add(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
            }
            _ => wall(),
        }
    }

    /// Notes a log time that a leader has just given.
    pub(super) fn note(&self, time: UnixMs) {
        *self.seen.lock() = Some((time, monotonic()));
    }

    /// True if one was noted since `moment`.
    pub(super) fn is_newer_than(&self, moment: Instant) -> bool {
        self.seen.lock().is_some_and(|(_, at)| at > moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_time_that_was_seen_goes_before_the_wall_clock() {
        let clock = LogClock::default();
        let before = monotonic();
        assert!(clock.now() >= UnixMs(1_700_000_000_000), "the wall clock");
        assert!(!clock.is_newer_than(before));
        clock.note(UnixMs(5));
        assert!(clock.now() < UnixMs(2_000), "what a leader said, and the time since");
        assert!(clock.is_newer_than(before));
    }
}
