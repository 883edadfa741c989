//! A cancellation that a connection looks at before each read, for the price of a glance.
//!
//! Awaiting `token.cancelled()`, or asking the token, takes its lock each time. Here a bell is put on the token's list once,
//! and notes that it has rung; the connection looks at the bell.
//!
//! Invariants: the bell has rung before `cancel` returns. Whoever got `Pending` is woken by it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// See the module.
pub(super) struct Signal {
    bell: Arc<Bell>,
    /// Holds the bell's place on the token's list.
    _waiting: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Whom the bell wakes.
    listed: Option<Waker>,
}

#[derive(Default)]
struct Bell {
    has_rung: AtomicBool,
    sleeper: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.sleeper.wake();
    }
}

impl Signal {
    pub(super) fn new(token: CancellationToken) -> Self {
        let bell = Arc::new(Bell::default());
        let mut waiting = Box::pin(token.cancelled_owned());
        if waiting.as_mut().poll(&mut Context::from_waker(&bell.clone().into())).is_ready() {
            bell.wake_by_ref();
        }
        Self { bell, _waiting: waiting, listed: None }
    }

    /// Whether the token is cancelled.
    pub(super) fn is_given(&self) -> bool {
        self.bell.has_rung.load(Ordering::Acquire)
    }

    /// Resolves when the token is cancelled. Cancel safe.
    pub(super) async fn given(&mut self) {
        poll_fn(|context| self.poll(context)).await;
    }

    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        if !self.listed.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.bell.sleeper.register(context.waker());
            self.listed = Some(context.waker().clone());
        }
        // After the registration: a bell that rings in between is seen here.
        if self.is_given() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn it_wakes_whoever_waits_now() {
        let token = CancellationToken::new();
        let mut signal = Signal::new(token.clone());
        // With a waker that does nothing.
        assert!(signal.given().now_or_never().is_none());
        assert!(!signal.is_given());
        // With the one of this task, from the second poll on already on the list.
        let cancel = async {
            tokio::task::yield_now().await;
            token.cancel();
        };
        tokio::join!(signal.given(), cancel);
        assert!(signal.is_given() && signal.given().now_or_never().is_some());
    }

    #[test]
    fn it_knows_of_what_was_before_it_and_of_what_its_parent_does() {
        let token = CancellationToken::new();
        let child = Signal::new(token.child_token());
        assert!(!child.is_given());
        token.cancel();
        assert!(child.is_given() && Signal::new(token).is_given());
    }
}
