//! What becomes of every entry, counted where it happens.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts};

/// Seconds of a commit: an fsync takes 50 µs on a good disk and seconds on a bad one.
const COMMIT_BUCKETS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0,
];

/// The spool's metrics. What is counted starts at 0 with the process; gauges are set when metrics are scraped.
#[derive(Debug)]
pub struct SpoolMetrics {
    /// Entries found at the start.
    pub recovered: IntCounter,
    /// Entries written.
    pub spooled: IntCounter,
    /// Entries that Kafka confirmed after they were handed over.
    pub drained: IntCounter,
    /// Entries whose record, handed over before they were written, was confirmed after all.
    pub confirmed_late: IntCounter,
    /// Entries of before whose records were found in their topics.
    pub already_stored: IntCounter,
    /// Entries that Kafka refuses for good, or that cannot be published.
    pub dead_letters: IntCounter,
    /// Entries on disk.
    pub events: IntGauge,
    /// Bytes on disk.
    pub bytes: IntGauge,
    /// Their limit.
    pub limit_bytes: IntGauge,
    /// Age of about the oldest entry, s; 0 where there is none.
    pub oldest_age: Gauge,
    /// 1 while nothing can be written.
    pub poisoned: IntGauge,
    /// Entries that lie set aside.
    pub dead_letter_events: IntGauge,
    /// Seconds a commit took.
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
                "Entries of the spool that were found at the start.",
            ),
            spooled: counter(
                "spool_spooled_total",
                "Events written to the spool because Kafka did not confirm them in time.",
            ),
            drained: counter(
                "spool_drained_total",
                "Entries of the spool that were published and confirmed by Kafka.",
            ),
            confirmed_late: counter(
                "spool_confirmed_late_total",
                "Entries of the spool that Kafka confirmed late, without their being published again.",
            ),
            already_stored: counter(
                "spool_already_stored_total",
                "Entries found at the start whose records their topics held already.",
            ),
            dead_letters: counter(
                "spool_set_aside_total",
                "Entries of the spool that Kafka refuses for good; they are kept aside on disk.",
            ),
            events: gauge("spool_events", "Entries in the spool."),
            bytes: gauge("spool_bytes", "Bytes that the spool takes on disk."),
            limit_bytes: gauge("spool_limit_bytes", "Limit of spool_bytes."),
            oldest_age: Gauge::with_opts(opts(
                "spool_oldest_age_seconds",
                "Age of about the oldest entry in the spool; 0 where there is none.",
            ))
            .expect("names of metrics are constants"),
            poisoned: gauge(
                "spool_poisoned",
                "1 while nothing can be written to the spool because the disk failed.",
            ),
            dead_letter_events: gauge(
                "spool_set_aside_events",
                "Entries that Kafka refused for good and that lie aside on disk, those from before the start included.",
            ),
            commit_duration: Histogram::with_opts(
                HistogramOpts::from(opts(
                    "spool_commit_duration_seconds",
                    "Duration of a commit to the spool: one fsync for all events that waited.",
                ))
                .buckets(COMMIT_BUCKETS.to_vec()),
            )
            .expect("names of metrics are constants"),
        };
        metrics.limit_bytes.set(to_i64(limit_bytes));
        metrics
    }

    /// All of them, for registering.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let counters = [
            &self.recovered,
            &self.spooled,
            &self.drained,
            &self.confirmed_late,
            &self.already_stored,
            &self.dead_letters,
        ];
        let gauges = [
            &self.events,
            &self.bytes,
            &self.limit_bytes,
            &self.poisoned,
            &self.dead_letter_events,
        ];
        let counters = counters.map(|c| Box::new(c.clone()) as Box<dyn Collector>);
        let gauges = gauges.map(|g| Box::new(g.clone()) as Box<dyn Collector>);
        let mut all: Vec<_> = counters.into_iter().chain(gauges).collect();
        all.push(Box::new(self.oldest_age.clone()));
        all.push(Box::new(self.commit_duration.clone()));
        all
    }

    pub(super) fn set_gauges(
        &self,
        events: u64,
        bytes: u64,
        oldest_age: Option<Duration>,
        poisoned: bool,
        set_aside: u64,
    ) {
        self.dead_letter_events.set(to_i64(set_aside));
        self.events.set(to_i64(events));
        self.bytes.set(to_i64(bytes));
        self.oldest_age
            .set(oldest_age.unwrap_or_default().as_secs_f64());
        self.poisoned.set(poisoned.into());
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

/// Where all entries are that this process ever had. Each number is counted by itself; exact while nothing is under way.
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
    /// Found in their topics.
    pub already_stored: u64,
    /// Kept aside, with the reason.
    pub dead_letters: u64,
    /// Counted, then found to be damaged.
    pub lost: u64,
    /// On disk.
    pub present: u64,
}

impl EntryLedger {
    /// Whether each entry is in exactly one place.
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
