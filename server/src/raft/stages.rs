//! Where the time of a proposal went, for the slow log.
//!
//! ```text
//! propose() --queue--> entry leaves --fsync--> on this node's disk --replicate--> committed --apply--> outcomes
//!              `------> sent to the leader --------------------leader-------------------------> outcomes
//! ```
//!
//! A node's sync and the others' appends run side by side: `fsync` ends with the sync here, or with the commit if a
//! majority was quicker; `replicate` is what the commit took beyond it.

use std::time::{Duration, Instant};

/// Durations of the parts; `None` where a part did not take place on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Waiting for room, for a leader, for the entries before it.
    pub queue: Duration,
    /// Until this node's log was synced.
    pub fsync: Option<Duration>,
    /// From then until a majority had it.
    pub replicate: Option<Duration>,
    /// Until it was applied.
    pub apply: Option<Duration>,
    /// All that took place on the leader, and the way there and back, of a write that was forwarded.
    pub leader: Option<Duration>,
}

/// What the apply thread knows of an entry of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moments {
    /// The log was synced up to it; `None` if not yet, or too long ago.
    pub(super) synced: Option<Instant>,
    /// It came to be applied.
    pub(super) committed: Instant,
    /// It was applied.
    pub(super) applied: Instant,
}

impl Stages {
    /// Of an entry that this node has put into its own log at `sent`.
    pub(super) fn here(sent: Instant, moments: Moments) -> Self {
        let Moments { synced, committed, applied } = moments;
        let synced = synced.map(|synced| synced.clamp(sent, committed.max(sent)));
        Self {
            queue: Duration::ZERO,
            fsync: synced.map(|synced| synced - sent),
            replicate: Some(committed.saturating_duration_since(synced.unwrap_or(sent))),
            apply: Some(applied.saturating_duration_since(committed)),
            leader: None,
        }
    }

    /// Of an entry that was sent to the leader at `sent`.
    pub(super) fn there(sent: Instant, answered: Instant) -> Self {
        Self { leader: Some(answered.saturating_duration_since(sent)), ..Self::default() }
    }

    /// The same with the time of one call before its entry left.
    #[must_use]
    pub(super) fn after(self, queue: Duration) -> Self {
        Self { queue, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn the_parts_of_a_write_add_up_to_all_of_it() {
        let sent = clock::monotonic();
        let at = |ms| sent + Duration::from_millis(ms);
        let ms = |ms| Some(Duration::from_millis(ms));
        let moments = Moments { synced: Some(at(3)), committed: at(5), applied: at(6) };
        let stages = Stages::here(sent, moments).after(Duration::from_millis(1));
        assert_eq!((stages.fsync, stages.replicate, stages.apply), (ms(3), ms(2), ms(1)));
        assert_eq!((stages.queue, stages.leader), (Duration::from_millis(1), None));
    }

    #[test]
    fn a_sync_that_nobody_waited_for_takes_no_longer_than_the_commit() {
        let sent = clock::monotonic();
        let at = |ms| sent + Duration::from_millis(ms);
        let ms = |ms| Some(Duration::from_millis(ms));
        let late = Stages::here(sent, Moments { synced: Some(at(9)), committed: at(5), applied: at(6) });
        assert_eq!((late.fsync, late.replicate), (ms(5), ms(0)));
        let none = Stages::here(sent, Moments { synced: None, committed: at(5), applied: at(6) });
        assert_eq!((none.fsync, none.replicate), (None, ms(5)));
    }
}
