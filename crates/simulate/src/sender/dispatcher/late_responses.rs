//! Late responses to tries that timed out.
//!
//! Until the response arrives, or nobody waits for it any more, no other delivery of the same
//! reading is sent: the server may still be working on that try.

use std::time::{Duration, Instant};

use super::Dispatcher;

/// Maximum number of waiting tasks per slot.
const MAX_LISTENERS_PER_SLOT: usize = 4;

impl Dispatcher {
    /// Registers a listener for the late response to the job with this key. Returns `false` if
    /// there are too many already.
    pub(in crate::sender) fn begin_listening(&self, key: u64) -> bool {
        let listeners = self.listener_count.get();
        let has_room = listeners < MAX_LISTENERS_PER_SLOT * self.deadlines.len();
        if has_room {
            self.listener_count.set(listeners + 1);
            self.queue.borrow_mut().hold(key);
        }
        has_room
    }

    pub(in crate::sender) fn end_listening(&self, key: u64) {
        self.listener_count.set(self.listener_count.get() - 1);
        let ready = self.queue.borrow_mut().release(key);
        self.wake_slots(ready);
        self.wake_admission();
    }

    /// At the end of a run, ends the listeners if all work has waited for late responses for as
    /// long as the HTTP timeout.
    pub(super) fn release_blocked_work(&self, now: Instant) {
        if !self.queue.borrow().is_blocked() {
            self.blocked_since.set(None);
            return;
        }
        let since = self.blocked_since.get().unwrap_or(now);
        self.blocked_since.set(Some(since));
        if now >= since + self.timings.http_timeout {
            self.stop_listening.notify_waiters();
        }
    }

    /// Waits for late responses for as long as the HTTP timeout, then ends the remaining listeners.
    pub(in crate::sender) async fn await_late_responses(&self) {
        let until = Instant::now() + self.timings.http_timeout;
        while self.listener_count.get() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while self.listener_count.get() > 0 {
            self.stop_listening.notify_waiters();
            tokio::task::yield_now().await;
        }
    }
}
