//! Deadlines without a timer for each request: one task looks at all of them every few milliseconds.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Instant;

/// The deadline of what one task waits for.
#[derive(Default)]
pub(super) struct TaskDeadline {
    at: Cell<Option<Instant>>,
    waker: Cell<Option<Waker>>,
}

impl TaskDeadline {
    pub(super) fn set(&self, at: Instant) {
        self.at.set(Some(at));
    }

    /// Waits for `future`, but not beyond the deadline; `None` when that is over.
    pub(super) async fn race<F: Future>(&self, mut future: Pin<&mut F>) -> Option<F::Output> {
        let output = poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if self.at.get().is_none() {
                return Poll::Ready(None);
            }
            let waker = self.waker.take();
            let waker = waker.filter(|waker| waker.will_wake(cx.waker()));
            self.waker
                .set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
            Poll::Pending
        });
        output.await
    }

    /// Ends what waits, if it is time.
    pub(super) fn expire_if_due(&self, now: Instant) {
        if self.at.get().is_some_and(|at| at <= now) {
            self.at.set(None);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_is_over_ends_and_what_is_done_does_not() {
        let deadline = TaskDeadline::default();
        let now = Instant::now();
        deadline.set(now + Duration::from_secs(1));
        assert_eq!(deadline.race(pin!(async { 3 })).await, Some(3));
        let mut waits = pin!(pending::<()>());
        let waiting = deadline.race(waits.as_mut());
        let looking = async {
            deadline.expire_if_due(now);
            tokio::task::yield_now().await;
            assert!(deadline.at.get().is_some(), "not yet");
            deadline.expire_if_due(now + Duration::from_secs(1));
        };
        assert_eq!(tokio::join!(waiting, looking).0, None);
    }
}
