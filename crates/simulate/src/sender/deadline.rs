//! Deadlines without a timer per request: one task checks all of them every few milliseconds.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Instant;

/// Deadline of the operation that one task waits for.
#[derive(Default)]
pub(super) struct TaskDeadline {
    at: Cell<Option<Instant>>,
    waker: Cell<Option<Waker>>,
}

impl TaskDeadline {
    pub(super) fn set(&self, at: Instant) {
        self.at.set(Some(at));
    }

    /// Waits for `future` until the deadline; `None` if the deadline passes first.
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

    /// Ends the waiting operation if its deadline has passed.
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
    async fn a_deadline_ends_only_what_is_overdue() {
        let deadline = TaskDeadline::default();
        let now = Instant::now();
        deadline.set(now + Duration::from_secs(1));
        assert_eq!(deadline.race(pin!(async { 3 })).await, Some(3));
        let mut never = pin!(pending::<()>());
        let waiting = deadline.race(never.as_mut());
        let checking = async {
            deadline.expire_if_due(now);
            tokio::task::yield_now().await;
            assert!(deadline.at.get().is_some(), "not yet");
            deadline.expire_if_due(now + Duration::from_secs(1));
        };
        assert_eq!(tokio::join!(waiting, checking).0, None);
    }
}
