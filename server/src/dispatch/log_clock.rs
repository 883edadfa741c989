//! What time it is to the log: a guess that tells when the log must be asked.
//!
//! A key expires by the log time alone (decision 10), and that stands still while nothing is written. So a read that meets
//! a deadline which seems to have come first has the log time brought forward, by an entry without keys. The guess needs
//! no agreement: one that is late shows a key up to as much longer as this clock is behind, one that is early costs
//! an entry a second, and no guess ever makes a key invisible.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::{UnixMs, monotonic, wall};

/// A time that was seen is good for this long; then the wall clock is asked again.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// What the log or the wall clock showed last, and when.
#[derive(Debug, Default)]
pub(super) struct LogClock {
    seen: Mutex<Option<Seen>>,
    /// Held by the one that asks.
    pub(super) asking: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    time: UnixMs,
    at: Instant,
    /// Given by a leader, not by the wall clock.
    is_of_log: bool,
}

impl LogClock {
    /// The guess for a moment that is now, or was just now.
    pub(super) fn at(&self, moment: Instant) -> UnixMs {
        let mut seen = self.seen.lock();
        if let Some(Seen { time, at, .. }) = *seen {
            let age = moment.saturating_duration_since(at);
            if age < GOOD_FOR {
                return UnixMs(time.0.saturating_add(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
            }
        }
        let time = wall();
        *seen = Some(Seen { time, at: moment, is_of_log: false });
        time
    }

    /// Notes a log time that a leader has just given.
    pub(super) fn note(&self, time: UnixMs) {
        *self.seen.lock() = Some(Seen { time, at: monotonic(), is_of_log: true });
    }

    /// True if one was noted since `moment`.
    pub(super) fn is_newer_than(&self, moment: Instant) -> bool {
        self.seen.lock().is_some_and(|seen| seen.is_of_log && seen.at > moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_time_that_was_seen_goes_before_the_wall_clock() {
        let clock = LogClock::default();
        let before = monotonic();
        assert!(clock.at(monotonic()) >= UnixMs(1_700_000_000_000), "the wall clock");
        assert!(!clock.is_newer_than(before));
        clock.note(UnixMs(5));
        assert!(clock.at(monotonic()) < UnixMs(2_000), "what a leader said, and the time since");
        assert!(clock.is_newer_than(before));
    }
}
