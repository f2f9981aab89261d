//! Last contact with Kafka.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time of the last contact with Kafka: a metadata response or a confirmed record.
#[derive(Debug)]
pub struct Contact {
    start: Instant,
    /// In milliseconds after `start`, plus one; 0 means never.
    last_contact: AtomicU64,
    /// The last confirmed record, in the same form.
    last_confirmation: AtomicU64,
}

impl Default for Contact {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last_contact: AtomicU64::new(0),
            last_confirmation: AtomicU64::new(0),
        }
    }
}

impl Contact {
    /// Records a response of Kafka.
    pub fn note_contact(&self) {
        self.last_contact.store(self.millis(), Ordering::Relaxed);
    }

    /// Records the confirmation of a record.
    pub fn note_confirmation(&self) {
        let millis = self.millis();
        // Many reports arrive in one millisecond, and reading a shared cache line is cheaper than
        // writing it.
        if self.last_confirmation.load(Ordering::Relaxed) != millis {
            self.last_confirmation.store(millis, Ordering::Relaxed);
            self.last_contact.store(millis, Ordering::Relaxed);
        }
    }

    /// Stamp of the last confirmed record, with a resolution of one millisecond; 0 means never.
    pub(super) fn last_confirmed(&self) -> u64 {
        self.last_confirmation.load(Ordering::Relaxed)
    }

    fn millis(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    /// Time since the last contact; `None` before the first one.
    pub fn age(&self) -> Option<Duration> {
        match self.last_contact.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(
                self.start
                    .elapsed()
                    .saturating_sub(Duration::from_millis(millis - 1)),
            ),
        }
    }
}
