//! A limit on the bytes of unfinished requests, summed over all connections.
//!
//! Each connection may buffer [`FREE_BYTES`] without asking, so that small commands are served however many large
//! requests are under way. Beyond that it holds permits of [`UNIT_BYTES`] each, and waits before reading more when there
//! are none.
//!
//! Invariant: a connection that holds permits and waits for bytes or for more permits does so for a limited time
//! (its caller's duty), so that half-sent requests cannot hold the budget for ever.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that every connection may buffer without a permit.
pub const FREE_BYTES: usize = 16 * 1024;

/// Bytes that one permit stands for.
pub const UNIT_BYTES: usize = 4 * 1024;

/// The budget of a process.
#[derive(Clone, Debug)]
pub struct Budget {
    permits: Arc<Semaphore>,
}

impl Budget {
    /// A budget of `bytes` beyond the free allowance of each connection.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(units)) }
    }

    /// A share that holds nothing yet.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { permits: Arc::clone(&self.permits), held: None }
    }
}

/// What one connection holds of a [`Budget`]; given back on drop.
#[derive(Debug)]
pub struct Share {
    permits: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Takes permits until `bytes` are covered, if they are there at once.
    pub fn try_cover(&mut self, bytes: usize) -> bool {
        let missing = self.missing_units(bytes);
        if missing == 0 {
            return true;
        }
        match Arc::clone(&self.permits).try_acquire_many_owned(missing) {
            Ok(permit) => {
                self.add(permit);
                true
            }
            Err(_) => false,
        }
    }

    /// Waits for permits until `bytes` are covered.
    ///
    /// # Cancel safety
    /// Cancel safe: what is not complete is not taken.
    pub async fn cover(&mut self, bytes: usize) {
        let missing = self.missing_units(bytes);
        if missing > 0
            && let Ok(permit) = Arc::clone(&self.permits).acquire_many_owned(missing).await
        {
            self.add(permit);
        }
    }

    /// Gives back what is not needed to cover `bytes`.
    pub fn release_to(&mut self, bytes: usize) {
        let needed = units(bytes);
        if let Some(held) = &mut self.held {
            let surplus = held.num_permits().saturating_sub(needed);
            drop(held.split(surplus));
            if needed == 0 {
                self.held = None;
            }
        }
    }

    /// Whether permits are held.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    fn missing_units(&self, bytes: usize) -> u32 {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        u32::try_from(units(bytes).saturating_sub(held)).unwrap_or(u32::MAX)
    }

    fn add(&mut self, permit: OwnedSemaphorePermit) {
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
    }
}

/// Permits that cover `bytes`.
fn units(bytes: usize) -> usize {
    bytes.saturating_sub(FREE_BYTES).div_ceil(UNIT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::{Budget, FREE_BYTES, UNIT_BYTES};

    #[test]
    fn small_needs_cost_nothing_and_large_ones_are_given_back() {
        let budget = Budget::new(2 * UNIT_BYTES);
        let mut first = budget.share();
        let mut second = budget.share();
        assert!(first.try_cover(FREE_BYTES) && !first.is_holding());
        assert!(first.try_cover(FREE_BYTES + 2 * UNIT_BYTES) && first.is_holding());
        assert!(second.try_cover(FREE_BYTES));
        assert!(!second.try_cover(FREE_BYTES + 1));
        first.release_to(FREE_BYTES + 1);
        assert!(second.try_cover(FREE_BYTES + 1));
        assert!(!first.try_cover(FREE_BYTES + UNIT_BYTES + 1));
        drop(second);
        assert!(first.try_cover(FREE_BYTES + UNIT_BYTES + 1));
        first.release_to(0);
        assert!(!first.is_holding());
        assert_eq!(budget.permits.available_permits(), 2);
    }

    #[tokio::test]
    async fn a_waiter_is_served_when_another_is_dropped() {
        let budget = Budget::new(UNIT_BYTES);
        let mut first = budget.share();
        let mut second = budget.share();
        assert!(first.try_cover(FREE_BYTES + 1));
        let mut waiter = Box::pin(second.cover(FREE_BYTES + 1));
        tokio::select! {
            biased;
            () = &mut waiter => panic!("the budget was spent"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        waiter.await;
        assert!(second.is_holding());
    }
}
