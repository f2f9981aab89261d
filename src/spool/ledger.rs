//! The ledger of entries and the spool's metrics: each entry is counted where its outcome is
//! decided.

use prometheus::core::Collector;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts};

use super::SpoolState;

/// Commit durations in seconds: an fsync takes 50 µs on a good disk and seconds on a bad one.
const COMMIT_BUCKETS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0,
];

/// The spool's metrics. Counters start at 0 with the process; gauges are set by
/// [`Spool::set_gauges`](super::Spool::set_gauges).
#[derive(Debug)]
pub struct SpoolMetrics {
    /// Entries found at the start.
    pub recovered: IntCounter,
    /// Entries written.
    pub spooled: IntCounter,
    /// Entries that the drain sent and Kafka confirmed.
    pub drained: IntCounter,
    /// Entries in doubt whose earlier record was confirmed after all.
    pub confirmed_late: IntCounter,
    /// Recovered entries whose records were found in their topics.
    pub already_stored: IntCounter,
    /// Entries that Kafka refuses for good, or that cannot be published.
    pub dead_letters: IntCounter,
    /// Entries on disk.
    pub events: IntGauge,
    /// Bytes on disk.
    pub bytes: IntGauge,
    /// Limit of `bytes`.
    pub limit_bytes: IntGauge,
    /// Approximate age of the oldest entry in seconds; 0 without entries.
    pub oldest_age: Gauge,
    /// 1 while nothing can be written.
    pub poisoned: IntGauge,
    /// Dead letters on disk.
    pub dead_letter_events: IntGauge,
    /// Duration of a commit in seconds.
    pub commit_duration: Histogram,
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("butlr_bridge")
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::with_opts(opts(name, help)).expect("names of metrics are constants")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::with_opts(opts(name, help)).expect("names of metrics are constants")
}

impl SpoolMetrics {
    pub(super) fn new(limit_bytes: u64) -> Self {
        let metrics = Self {
            recovered: counter(
                "spool_recovered_total",
                "Spooled entries found at the start.",
            ),
            spooled: counter(
                "spool_spooled_total",
                "Events written to the spool because Kafka did not confirm them in time.",
            ),
            drained: counter(
                "spool_drained_total",
                "Spooled entries that were published and confirmed by Kafka.",
            ),
            confirmed_late: counter(
                "spool_confirmed_late_total",
                "Spooled entries that Kafka confirmed late, so that they were not published again.",
            ),
            already_stored: counter(
                "spool_already_stored_total",
                "Spooled entries found at the start whose records were in their topics already.",
            ),
            dead_letters: counter(
                "spool_set_aside_total",
                "Spooled entries that Kafka refuses for good; they are kept on disk as dead letters.",
            ),
            events: gauge("spool_events", "Entries in the spool."),
            bytes: gauge("spool_bytes", "Size of the spool on disk in bytes."),
            limit_bytes: gauge("spool_limit_bytes", "Limit of spool_bytes."),
            oldest_age: Gauge::with_opts(opts(
                "spool_oldest_age_seconds",
                "Approximate age of the oldest entry in the spool; 0 if it is empty.",
            ))
            .expect("names of metrics are constants"),
            poisoned: gauge(
                "spool_poisoned",
                "1 while nothing can be written to the spool because the disk failed.",
            ),
            dead_letter_events: gauge(
                "spool_set_aside_events",
                "Dead letters on disk: entries that Kafka refused for good, also before the start.",
            ),
            commit_duration: Histogram::with_opts(
                HistogramOpts::from(opts(
                    "spool_commit_duration_seconds",
                    "Duration of a commit to the spool: one fsync for all waiting events.",
                ))
                .buckets(COMMIT_BUCKETS.to_vec()),
            )
            .expect("names of metrics are constants"),
        };
        metrics.limit_bytes.set(to_i64(limit_bytes));
        metrics
    }

    /// Returns all metrics, to be registered.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.recovered.clone()),
            Box::new(self.spooled.clone()),
            Box::new(self.drained.clone()),
            Box::new(self.confirmed_late.clone()),
            Box::new(self.already_stored.clone()),
            Box::new(self.dead_letters.clone()),
            Box::new(self.events.clone()),
            Box::new(self.bytes.clone()),
            Box::new(self.limit_bytes.clone()),
            Box::new(self.poisoned.clone()),
            Box::new(self.dead_letter_events.clone()),
            Box::new(self.oldest_age.clone()),
            Box::new(self.commit_duration.clone()),
        ]
    }

    pub(super) fn set_gauges(&self, state: &SpoolState) {
        let present = state.destinations.iter().map(|each| each.present);
        self.events.set(to_i64(present.sum()));
        self.dead_letter_events.set(to_i64(state.dead_letters));
        self.bytes.set(to_i64(state.bytes));
        let oldest_age = state.oldest_age.unwrap_or_default();
        self.oldest_age.set(oldest_age.as_secs_f64());
        self.poisoned.set(state.poison_reason.is_some().into());
    }

    pub(super) fn ledger(&self, present: u64, lost: u64) -> EntryLedger {
        EntryLedger {
            recovered: self.recovered.get(),
            spooled: self.spooled.get(),
            drained: self.drained.get(),
            confirmed_late: self.confirmed_late.get(),
            already_stored: self.already_stored.get(),
            dead_letters: self.dead_letters.get(),
            lost,
            present,
        }
    }
}

fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Number of entries by outcome, for all entries that this process ever had. The numbers are
/// counted independently, so their sum is exact only while no entry is being processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryLedger {
    /// Found at the start.
    pub recovered: u64,
    /// Written.
    pub spooled: u64,
    /// Published and confirmed.
    pub drained: u64,
    /// Confirmed without being published again.
    pub confirmed_late: u64,
    /// Found in their topics after a start.
    pub already_stored: u64,
    /// Refused by Kafka for good.
    pub dead_letters: u64,
    /// Lost to damage after they were counted.
    pub lost: u64,
    /// On disk.
    pub present: u64,
}

impl EntryLedger {
    /// Returns `true` if each entry has exactly one outcome.
    pub fn is_balanced(&self) -> bool {
        self.recovered + self.spooled
            == self.drained
                + self.confirmed_late
                + self.already_stored
                + self.dead_letters
                + self.lost
                + self.present
    }
}
