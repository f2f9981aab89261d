//! Circuit breaker in front of Redis.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// First pause between two attempts. It doubles up to [`RECONNECT_PAUSE_MAX`].
pub const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two attempts.
pub const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Time after an outage in which other replicas report what they stored meanwhile. Longer than two
/// attempts to connect and the pause between them.
const RECOVERY_PERIOD: Duration = Duration::from_secs(6);

/// While the breaker is closed, Redis is asked. The first claim without an answer in time opens it,
/// so that an outage delays one event and not each. An answer in time to a probe closes it again.
#[derive(Debug)]
pub struct CircuitBreaker {
    is_closed: AtomicBool,
    tripped: Notify,
    created_at: Instant,
    /// Milliseconds after `created_at`.
    recovery_ends_ms: AtomicU64,
}

impl CircuitBreaker {
    /// Creates a closed breaker: the first events try Redis.
    pub fn new() -> Self {
        Self {
            is_closed: AtomicBool::new(true),
            tripped: Notify::new(),
            created_at: Instant::now(),
            recovery_ends_ms: AtomicU64::new(0),
        }
    }

    /// Returns `true` if Redis is to be asked.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Opens the breaker because Redis did not answer in time, and wakes the worker.
    pub fn trip(&self) {
        if self.is_closed.swap(false, Ordering::Relaxed) {
            self.tripped.notify_one();
        }
    }

    /// Opens the breaker because Redis is unavailable.
    pub fn open(&self) {
        self.is_closed.store(false, Ordering::Relaxed);
    }

    /// Closes the breaker because Redis answers in time again.
    pub fn close(&self) {
        let ends = (self.created_at.elapsed() + RECOVERY_PERIOD).as_millis();
        let ends = u64::try_from(ends).unwrap_or(u64::MAX);
        self.recovery_ends_ms.store(ends, Ordering::Relaxed);
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if the breaker was open a moment ago, so that other replicas may still have
    /// to report what they stored.
    pub fn is_recovering(&self) -> bool {
        self.created_at.elapsed().as_millis()
            < u128::from(self.recovery_ends_ms.load(Ordering::Relaxed))
    }

    /// Waits until a claim gets no answer in time.
    pub async fn wait_for_trip(&self) {
        self.tripped.notified().await;
    }
}

/// Timer of the probes that test whether Redis is fast enough again.
#[derive(Debug, Default)]
pub struct ProbeTimer {
    due: Option<Instant>,
    pause: Duration,
}

impl ProbeTimer {
    /// Schedules a probe at once.
    pub fn schedule_now(&mut self) {
        self.due = Some(Instant::now());
        self.pause = RECONNECT_PAUSE_MIN;
    }

    /// Cancels the scheduled probe.
    pub fn cancel(&mut self) {
        self.due = None;
    }

    /// Schedules a probe after a pause; each pause is longer than the one before.
    pub fn schedule_later(&mut self) {
        self.due = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(RECONNECT_PAUSE_MAX);
    }

    /// Returns `true` if a probe is due.
    pub fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Returns `true` if a probe is due, and removes it.
    pub fn take_due(&mut self) -> bool {
        let due = self.is_due();
        if due {
            self.due = None;
        }
        due
    }

    /// Waits until a probe is due.
    pub async fn wait_until_due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }
}
