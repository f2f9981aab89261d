//! Whether Redis is asked at all.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Between two attempts; doubled up to the longest.
pub const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// See [`FIRST_PAUSE`].
pub const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// After an outage: by then the other replicas, too, have told what they stored meanwhile. Longer than two attempts to
/// connect and the pause between them.
const RECOVERY_PERIOD: Duration = Duration::from_secs(6);

/// Closed: Redis is asked. Opened by the first question that gets no answer in time, so that an outage costs time once and
/// not with each event; closed again by an answer in time to a question of no consequence.
#[derive(Debug)]
pub struct CircuitBreaker {
    is_closed: AtomicBool,
    tripped: Notify,
    created_at: Instant,
    /// Since it was made, ms.
    recovery_ends_ms: AtomicU64,
}

impl CircuitBreaker {
    /// A closed one: at the start the first events try.
    pub fn new() -> Self {
        Self {
            is_closed: AtomicBool::new(true),
            tripped: Notify::new(),
            created_at: Instant::now(),
            recovery_ends_ms: AtomicU64::new(0),
        }
    }

    /// Whether Redis is to be asked.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Redis did not answer in time.
    pub fn trip(&self) {
        if self.is_closed.swap(false, Ordering::Relaxed) {
            self.tripped.notify_one();
        }
    }

    /// Redis is known to be away.
    pub fn open(&self) {
        self.is_closed.store(false, Ordering::Relaxed);
    }

    /// Redis answers in time, again.
    pub fn close(&self) {
        let ends = (self.created_at.elapsed() + RECOVERY_PERIOD).as_millis();
        let ends = u64::try_from(ends).unwrap_or(u64::MAX);
        self.recovery_ends_ms.store(ends, Ordering::Relaxed);
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// Whether it was open a moment ago, so that other replicas may still have to tell Redis what they stored.
    pub fn is_recovering(&self) -> bool {
        self.created_at.elapsed().as_millis()
            < u128::from(self.recovery_ends_ms.load(Ordering::Relaxed))
    }

    /// Waits until somebody got no answer in time.
    pub async fn wait_for_trip(&self) {
        self.tripped.notified().await;
    }
}

/// When Redis is asked whether it is fast enough again.
#[derive(Debug, Default)]
pub struct ProbeTimer {
    due: Option<Instant>,
    pause: Duration,
}

impl ProbeTimer {
    /// At once.
    pub fn schedule_now(&mut self) {
        self.due = Some(Instant::now());
        self.pause = FIRST_PAUSE;
    }

    /// Not for now.
    pub fn cancel(&mut self) {
        self.due = None;
    }

    /// After a pause, each longer than the one before.
    pub fn schedule_later(&mut self) {
        self.due = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Whether it is.
    pub fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Whether it is due; if so, it is done.
    pub fn take_due(&mut self) -> bool {
        let due = self.is_due();
        if due {
            self.due = None;
        }
        due
    }

    /// Waits until it is due.
    pub async fn wait_until_due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }
}
