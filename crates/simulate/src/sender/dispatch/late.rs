//! Who listens for the answer to a try that timed out. Until it comes, or nobody listens any more, nothing else about the
//! same reading is sent: the server may still be at that try.

use std::time::{Duration, Instant};

use super::Dispatch;

/// For each slot.
const MAX_LISTENING: usize = 4;

impl Dispatch {
    /// One more listens for a late answer to the job with this key, if not too many do.
    pub(in crate::sender) fn begin_listening(&self, key: u64) -> bool {
        let listening = self.listening.get();
        let free = listening < MAX_LISTENING * self.deadlines.len();
        if free {
            self.listening.set(listening + 1);
            self.queue.borrow_mut().hold(key);
        }
        free
    }

    pub(in crate::sender) fn end_listening(&self, key: u64) {
        self.listening.set(self.listening.get() - 1);
        let ready = self.queue.borrow_mut().release(key);
        self.wake(ready);
        self.admit_more();
    }

    /// At the end of a run, what waits only for late answers waits as long as for an answer in time.
    pub(super) fn hold_up_no_longer(&self, now: Instant) {
        if !self.queue.borrow().is_held_up() {
            self.held_up_since.set(None);
            return;
        }
        let since = self.held_up_since.get().unwrap_or(now);
        self.held_up_since.set(Some(since));
        if now >= since + self.timings.http_timeout {
            self.hang_up.notify_waiters();
        }
    }

    /// Waits for late answers once more, as long as for an answer in time; then nobody listens any more.
    pub(in crate::sender) async fn hear_the_last(&self) {
        let until = Instant::now() + self.timings.http_timeout;
        while self.listening.get() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while self.listening.get() > 0 {
            self.hang_up.notify_waiters();
            tokio::task::yield_now().await;
        }
    }
}
