//! What ends the generator, and what it tells of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// When the generator stops by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunLimits {
    /// After so many deliveries, and the rest.
    pub events: Option<u64>,
    /// After so long.
    pub duration: Option<Duration>,
}

/// What other threads may know of the generator.
#[derive(Debug, Default)]
pub(super) struct GeneratorProgress {
    pub(super) simulated_ms: AtomicI64,
    pub(super) caught_up: AtomicBool,
    pub(super) complete: AtomicBool,
    pub(super) after_end: AtomicU64,
    pub(super) omitted: AtomicU64,
}

impl GeneratorProgress {
    pub(super) fn simulated_ms(&self) -> i64 {
        self.simulated_ms.load(Ordering::Relaxed)
    }

    pub(super) fn has_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Relaxed)
    }

    /// Whether nothing is computed any more.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    /// How many events were made after the end.
    pub(super) fn after_end(&self) -> u64 {
        self.after_end.load(Ordering::Relaxed)
    }

    /// How many would have been needed besides.
    pub(super) fn omitted(&self) -> u64 {
        self.omitted.load(Ordering::Relaxed)
    }
}

/// Ends a run as its duration would: nothing more is computed, the rest is still sent.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Arc<AtomicBool>);

impl StopSignal {
    /// One that nobody has used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the run.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was used.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
