//! When the bridge last had contact with Kafka.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When Kafka was last heard of: metadata that was answered, or a record that was confirmed.
#[derive(Debug)]
pub struct Contact {
    start: Instant,
    /// Milliseconds after `start`, plus one; 0 means never.
    last: AtomicU64,
    /// When a record was last confirmed; likewise.
    confirmed: AtomicU64,
}

impl Default for Contact {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
        }
    }
}

impl Contact {
    /// Kafka was heard of now.
    pub fn now(&self) {
        self.last.store(self.millis(), Ordering::Relaxed);
    }

    /// Kafka confirmed a record now.
    pub fn confirmed(&self) {
        let millis = self.millis();
        // Most reports come many to a millisecond: reading a shared line is cheaper than writing it.
        if self.confirmed.load(Ordering::Relaxed) != millis {
            self.confirmed.store(millis, Ordering::Relaxed);
            self.last.store(millis, Ordering::Relaxed);
        }
    }

    /// When a record was last confirmed, as a stamp that changes with each new millisecond; 0 means never.
    pub(super) fn last_confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    fn millis(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    /// How long ago Kafka was heard of; `None` before the first time.
    pub fn age(&self) -> Option<Duration> {
        match self.last.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(
                self.start
                    .elapsed()
                    .saturating_sub(Duration::from_millis(millis - 1)),
            ),
        }
    }
}
