//! Control and progress of the generator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Progress of the generator, for other threads.
#[derive(Debug, Default)]
pub(super) struct GeneratorProgress {
    simulated_ms: AtomicI64,
    caught_up: AtomicBool,
    ended: AtomicBool,
    after_end: AtomicU64,
    omitted: AtomicU64,
}

impl GeneratorProgress {
    pub(super) fn simulated_ms(&self) -> i64 {
        self.simulated_ms.load(Ordering::Relaxed)
    }

    /// Returns `true` if the simulated clock has caught up with the wall clock.
    pub(super) fn has_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Relaxed)
    }

    /// Returns `true` once nothing more is computed.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Number of events generated after the end.
    pub(super) fn after_end(&self) -> u64 {
        self.after_end.load(Ordering::Relaxed)
    }

    /// Number of further events that would have been needed after the end.
    pub(super) fn omitted(&self) -> u64 {
        self.omitted.load(Ordering::Relaxed)
    }

    pub(super) fn set_simulated_ms(&self, simulated_ms: i64) {
        self.simulated_ms.store(simulated_ms, Ordering::Relaxed);
    }

    pub(super) fn set_caught_up(&self, caught_up: bool) {
        self.caught_up.store(caught_up, Ordering::Relaxed);
    }

    pub(super) fn set_ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn count_after_end(&self) {
        self.after_end.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_omitted(&self) {
        self.omitted.fetch_add(1, Ordering::Relaxed);
    }
}

/// Signal that ends a run as its duration would: nothing more is computed, and the rest is still
/// sent.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Arc<AtomicBool>);

impl StopSignal {
    /// A signal that has not been given.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the run.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if the run is to end.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
