//! Who listens for the answer to a try that timed out. Until it comes, or nobody listens any more, nothing else about the
//! same reading is sent: the server may still be at that try.

use std::time::{Duration, Instant};

use super::Dispatcher;

/// For each slot.
const MAX_LISTENING: usize = 4;

impl Dispatcher {
    /// One more listens for a late answer to the job with this key, if not too many do.
    pub(in crate::sender) fn begin_listening(&self, key: u64) -> bool {
        let listening = self.listener_count.get();
        let free = listening < MAX_LISTENING * self.deadlines.len();
        if free {
            self.listener_count.set(listening + 1);
            self.queue.borrow_mut().hold(key);
        }
        free
    }

    pub(in crate::sender) fn end_listening(&self, key: u64) {
        self.listener_count.set(self.listener_count.get() - 1);
        let ready = self.queue.borrow_mut().release(key);
        self.wake_slots(ready);
        self.wake_admission();
    }

    /// At the end of a run, what waits only for late answers waits as long as for an answer in time.
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

    /// Waits for late answers once more, as long as for an answer in time; then nobody listens any more.
    pub(in crate::sender) async fn await_late_answers(&self) {
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
