//! A cancellation that a connection looks at before each read, for the price of a glance.
//!
//! Awaiting `token.cancelled()` anew puts the task on the token's list and takes it off again, under the locks of the
//! token, each time. Here it stays on the list from the first wait on.
//!
//! Invariant: whoever got `Pending` is woken by the cancellation: its waker is on the list, or it is put there.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// See the module.
pub(super) struct Signal {
    token: CancellationToken,
    waiting: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Who is on the token's list.
    listed: Option<Waker>,
}

impl Signal {
    pub(super) fn new(token: CancellationToken) -> Self {
        let waiting = Box::pin(token.clone().cancelled_owned());
        Self { token, waiting, listed: None }
    }

    /// Whether the token is cancelled.
    pub(super) fn is_given(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves when the token is cancelled. Cancel safe.
    pub(super) async fn given(&mut self) {
        poll_fn(|context| self.poll(context)).await;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.token.is_cancelled() {
            return Poll::Ready(());
        }
        if self.listed.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            return Poll::Pending;
        }
        self.listed = Some(context.waker().clone());
        self.waiting.as_mut().poll(context)
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
}
