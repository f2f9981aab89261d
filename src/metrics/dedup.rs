//! Metrics of the dedup window.

use prometheus::{IntCounter, IntGauge, IntGaugeVec};

use super::registrar::Registrar;

/// Size and state of the dedup window; the gauges are set when metrics are scraped.
#[derive(Debug)]
pub struct DedupMetrics {
    /// Entries by kind: ids, current values, and newest timestamps.
    pub entries: IntGaugeVec,
    /// 1 while the window is being read back from the topics.
    pub rebuilding: IntGauge,
    /// Entries evicted early because the limit was reached.
    pub evictions: IntCounter,
    /// Failed decisions and commits in Redis.
    pub redis_errors: IntCounter,
}

impl DedupMetrics {
    pub(super) fn register(registrar: &Registrar) -> Self {
        let entries = registrar.gauges(
            "dedup_entries",
            "Entries in the dedup window: event ids (ids), current values (readings), and spaces and sensors with their newest timestamp (sources).",
            &["kind"],
        );
        for kind in ["ids", "readings", "sources"] {
            entries.with_label_values(&[kind]);
        }
        Self {
            entries,
            rebuilding: registrar.gauge(
                "dedup_rebuilding",
                "1 while the dedup window is being read back from the topics.",
            ),
            evictions: registrar.counter(
                "dedup_evictions_total",
                "Entries evicted from the dedup window early because dedup.max_ids or dedup.max_readings was reached.",
            ),
            redis_errors: registrar.counter(
                "redis_errors_total",
                "Events decided without Redis because it was unavailable or slow, and commits that it did not accept.",
            ),
        }
    }
}
