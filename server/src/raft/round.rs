//! Where reads wait for a round: one place for all that leave together, so that waiting costs no memory per read.
//!
//! ```text
//! reads ---join---> next round ---leave---> round on its way ---answer---> all of its reads
//!                   (rings for its first)   (its reads still hold it)
//! ```
//!
//! Invariants: a round that has left takes no more reads. Every round is answered: at the latest when it is dropped on its
//! way, or when the gate closes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::group::ReadError;
use crate::clock;

/// What comes of a read.
pub(super) type Outcome = Result<(), ReadError>;

/// What the reads of one round share.
#[derive(Debug, Default)]
pub(super) struct Round {
    outcome: OnceLock<Outcome>,
    answered: Notify,
}

impl Round {
    /// Waits for what comes of the round. Cancel safe.
    pub(super) async fn outcome(&self) -> Outcome {
        // Before the look: whoever exists by the time of the call is woken, polled or not.
        let answered = self.answered.notified();
        if let Some(outcome) = self.outcome.get() {
            return outcome.clone();
        }
        answered.await;
        self.outcome.get().cloned().unwrap_or(Err(ReadError::ShuttingDown))
    }

    fn answer(&self, outcome: Outcome) {
        // The first answer stands.
        let _ = self.outcome.set(outcome);
        self.answered.notify_waiters();
    }
}

/// A round on its way.
#[derive(Debug)]
pub(super) struct Leaving {
    round: Arc<Round>,
    /// How many reads it carries; those that were given up since are counted.
    pub(super) reads: usize,
    /// When the first of them came.
    pub(super) since: Instant,
}

impl Leaving {
    /// Tells all its reads.
    pub(super) fn answer(self, outcome: Outcome) {
        self.round.answer(outcome);
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if self.round.outcome.get().is_none() {
            self.round.answer(Err(ReadError::ShuttingDown));
        }
    }
}

/// Where reads join the next round.
#[derive(Debug)]
pub(super) struct Gate {
    next: Mutex<Next>,
    bell: Notify,
    /// Set under the lock of `next`.
    is_closed: AtomicBool,
}

#[derive(Debug)]
struct Next {
    round: Arc<Round>,
    reads: usize,
    since: Instant,
}

impl Gate {
    pub(super) fn new() -> Self {
        let next = Next { round: Arc::default(), reads: 0, since: clock::monotonic() };
        Self { next: Mutex::new(next), bell: Notify::new(), is_closed: AtomicBool::new(false) }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Joins the next round, or `None` once the gate is closed.
    pub(super) fn join(&self) -> Option<Arc<Round>> {
        let mut next = self.next.lock();
        if self.is_closed() {
            return None;
        }
        next.reads += 1;
        if next.reads == 1 {
            next.since = clock::monotonic();
            self.bell.notify_one();
        }
        Some(next.round.clone())
    }

    /// Resolves once a read has begun to wait since the last call, at once if one has already. Cancel safe.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Takes the reads that wait, if there are any.
    pub(super) fn leave(&self) -> Option<Leaving> {
        let mut next = self.next.lock();
        if next.reads == 0 {
            return None;
        }
        let leaving =
            Leaving { round: std::mem::take(&mut next.round), reads: next.reads, since: next.since };
        next.reads = 0;
        Some(leaving)
    }

    /// Lets nobody in any more, and answers whoever waits.
    pub(super) fn close(&self) {
        let next = self.next.lock();
        self.is_closed.store(true, Ordering::Release);
        drop(next);
        drop(self.leave());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn reads_that_came_before_it_left_share_a_round() {
        let gate = Gate::new();
        assert!(gate.leave().is_none(), "nobody waits");
        let (first, second) = (gate.join().unwrap(), gate.join().unwrap());
        let leaving = gate.leave().expect("two wait");
        assert_eq!(leaving.reads, 2);
        let third = gate.join().unwrap();
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &third));
        let waits = first.outcome();
        tokio::pin!(waits);
        assert!(waits.as_mut().now_or_never().is_none());
        leaving.answer(Ok(()));
        assert_eq!(waits.now_or_never(), Some(Ok(())), "who waited");
        assert_eq!(second.outcome().now_or_never(), Some(Ok(())), "who comes to wait afterwards");
        assert_eq!(third.outcome().now_or_never(), None, "who joined too late");
    }

    #[test]
    fn the_bell_rings_for_the_first_read_of_a_round() {
        let gate = Gate::new();
        assert!(gate.rung().now_or_never().is_none());
        gate.join().unwrap();
        gate.join().unwrap();
        assert!(gate.rung().now_or_never().is_some() && gate.rung().now_or_never().is_none());
        drop(gate.leave());
        gate.join().unwrap();
        assert!(gate.rung().now_or_never().is_some());
    }

    #[test]
    fn nobody_waits_for_a_round_that_is_gone() {
        let gate = Gate::new();
        let (on_its_way, waiting) = (gate.join().unwrap(), {
            drop(gate.leave());
            gate.join().unwrap()
        });
        let gone = Some(Err(ReadError::ShuttingDown));
        assert_eq!(on_its_way.outcome().now_or_never(), gone);
        gate.close();
        assert_eq!(waiting.outcome().now_or_never(), gone);
        assert!(gate.is_closed() && gate.join().is_none());
    }
}
