//! Handshakes that came to nothing: counted, and told without letting a stranger fill the log.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Use;
use crate::clock;

/// One line in this time; the others are counted in it.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Refusals of one use.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    count: AtomicU64,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    at: Option<Instant>,
    unsaid: u64,
}

impl Refusals {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Someone hung up before a handshake was done, as a probe of the port does: nothing to tell.
    pub(super) fn gone(&self, usage: Use, from: IpAddr) {
        self.count.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(listener = usage.label(), %from, "TLS handshake given up by the other side");
    }

    /// True if it was told.
    pub(super) fn note(&self, usage: Use, from: IpAddr, why: &dyn fmt::Display) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        let Some(unsaid) = self.take_turn(clock::monotonic()) else { return false };
        tracing::warn!(listener = usage.label(), %from, %why, others_unsaid = unsaid, "TLS handshake refused");
        true
    }

    /// How many were not told since the last line, if it is time for the next one.
    fn take_turn(&self, now: Instant) -> Option<u64> {
        let mut said = self.said.lock();
        if said.at.is_some_and(|at| now.duration_since(at) < LINE_EVERY) {
            said.unsaid += 1;
            return None;
        }
        said.at = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_gets_one_line_in_ten_seconds_and_every_attempt_is_counted() {
        let refusals = Refusals::default();
        let from = IpAddr::from([127, 0, 0, 1]);
        assert!(refusals.note(Use::Peers, from, &"first"));
        assert!(!refusals.note(Use::Peers, from, &"second"));
        assert!(!refusals.note(Use::Peers, from, &"third"));
        assert_eq!(refusals.count(), 3);
        let later = clock::monotonic() + LINE_EVERY;
        assert_eq!(refusals.take_turn(later), Some(2), "what was held back is told with the next line");
        assert_eq!(refusals.take_turn(later), None);
    }
}
