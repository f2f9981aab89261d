//! Limits of a run.

use std::time::Duration;

/// Limits at which a run ends by itself; without any, it runs until it is stopped.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunLimits {
    /// Number of deliveries, not counting those sent after the end to complete the totals.
    pub events: Option<u64>,
    /// Duration on the wall clock.
    pub duration: Option<Duration>,
}
