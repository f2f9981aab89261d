//! Metrics per event type: received, outcomes, publishing and duplicate detection.
//!
//! The series are resolved at start, so the path of an event looks nothing up.

use std::time::{Duration, SystemTime};

use butlr_event::clock::unix_seconds;
use butlr_event::{EventType, PerType};
use prometheus::{Gauge, Histogram, IntCounter};

use super::registrar::Registrar;
use super::{DURATION_BUCKETS, EventOutcome, Metrics, TimestampReplacement};
use crate::marks::{DuplicateKind, MarkSet};

/// Seconds from sensing to stored: 10 ms to one week, because the sender delivers old events in a
/// burst after an outage.
const AGE_BUCKETS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
    14_400.0, 86_400.0, 259_200.0, 604_800.0,
];

/// Value of the label `type` for events whose type cannot be read.
const UNKNOWN: &str = "unknown";

#[derive(Debug)]
pub(super) struct EventMetrics {
    types: PerType<TypeMetrics>,
    unknown: TypeMetrics,
    publishing: PerType<PublishMetrics>,
    dedup: PerType<DedupCounters>,
}

/// Metrics of one event type, or of events of unknown type.
#[derive(Debug)]
struct TypeMetrics {
    received: IntCounter,
    /// By [`EventOutcome`].
    outcomes: [IntCounter; EventOutcome::ALL.len()],
    age: Histogram,
    last_received: Gauge,
    last_event_time: Gauge,
}

#[derive(Debug)]
struct PublishMetrics {
    duration: Histogram,
    replaced_future: IntCounter,
    replaced_past: IntCounter,
}

/// Findings of duplicate detection.
#[derive(Debug)]
struct DedupCounters {
    redeliveries: IntCounter,
    repeats: IntCounter,
    revisions: IntCounter,
    stale: IntCounter,
    out_of_order: IntCounter,
    id_conflicts: IntCounter,
    unchecked: IntCounter,
}

impl EventMetrics {
    /// Registers the metrics; `topics` is in the order of [`EventType::ALL`].
    pub(super) fn register(registrar: &Registrar, topics: &PerType<String>) -> Self {
        let (types, unknown) = TypeMetrics::register(registrar);
        Self {
            types,
            unknown,
            publishing: PublishMetrics::register(registrar, topics),
            dedup: DedupCounters::register(registrar),
        }
    }

    fn for_type(&self, event_type: Option<EventType>) -> &TypeMetrics {
        event_type.map_or(&self.unknown, |event_type| &self.types[event_type.index()])
    }

    fn all(&self) -> impl Iterator<Item = &TypeMetrics> {
        self.types.iter().chain([&self.unknown])
    }
}

impl TypeMetrics {
    fn register(registrar: &Registrar) -> (PerType<Self>, Self) {
        let received = registrar.counters(
            "received_total",
            "Events received. A request that cannot be read counts as one event of type unknown.",
            &["type"],
        );
        let outcomes = registrar.counters(
            "events_total",
            "Outcomes of the events received; every event has exactly one.",
            &["type", "outcome"],
        );
        let age = registrar.histograms(
            "event_age_seconds",
            "Time from the sensing of an event until Kafka stored it (0 if its timestamp is ahead of the bridge's clock).",
            "type",
            AGE_BUCKETS,
        );
        let last_received = registrar.float_gauges(
            "last_received_timestamp_seconds",
            "Unix time at which the last event of the type was received; 0 before the first.",
            "type",
        );
        let last_event_time = registrar.float_gauges(
            "last_event_time_seconds",
            "Timestamp of the event published last, as Unix time; 0 before the first.",
            "type",
        );
        let metrics_for = |name: &str| Self {
            received: received.with_label_values(&[name]),
            outcomes: EventOutcome::ALL
                .map(|outcome| outcomes.with_label_values(&[name, outcome.label()])),
            age: age.with_label_values(&[name]),
            last_received: last_received.with_label_values(&[name]),
            last_event_time: last_event_time.with_label_values(&[name]),
        };
        let types = EventType::ALL.map(|event_type| metrics_for(event_type.name()));
        (types, metrics_for(UNKNOWN))
    }

    fn totals(&self) -> EventTotals {
        EventTotals {
            received: self.received.get(),
            outcomes: std::array::from_fn(|outcome| self.outcomes[outcome].get()),
        }
    }
}

impl PublishMetrics {
    fn register(registrar: &Registrar, topics: &PerType<String>) -> PerType<Self> {
        let duration = registrar.histograms(
            "publish_duration_seconds",
            "Time from handing a record to librdkafka until its delivery report.",
            "topic",
            DURATION_BUCKETS,
        );
        let replaced = registrar.counters(
            "timestamps_replaced_total",
            "Records that carry the time of publishing because the event's timestamp was too far in the future or the past.",
            &["type", "reason"],
        );
        EventType::ALL.map(|event_type| {
            let replaced_for = |reason: TimestampReplacement| {
                replaced.with_label_values(&[event_type.name(), reason.as_str()])
            };
            Self {
                duration: duration.with_label_values(&[&topics[event_type.index()]]),
                replaced_future: replaced_for(TimestampReplacement::Future),
                replaced_past: replaced_for(TimestampReplacement::Past),
            }
        })
    }
}

impl DedupCounters {
    fn register(registrar: &Registrar) -> PerType<Self> {
        let duplicates = registrar.counters(
            "duplicates_total",
            "Events that are not new: the same event again (redelivery), or an occupancy event with the current value (repeat).",
            &["type", "kind"],
        );
        let by_type = |name, help| registrar.counters(name, help, &["type"]);
        let revisions = by_type(
            "revisions_total",
            "Published events that replace the current value of their (type, space, timestamp).",
        );
        let stale = by_type(
            "stale_total",
            "Published events that were computed before the current value of their (type, space, timestamp).",
        );
        let out_of_order = by_type(
            "out_of_order_total",
            "Published events that are older than the newest event of their space or sensor.",
        );
        let id_conflicts = by_type(
            "id_conflicts_total",
            "Events published under a new id because another event is stored under their own.",
        );
        let unchecked = by_type(
            "dedup_unchecked_total",
            "Events published before the dedup window was rebuilt; duplicates among them were not detected.",
        );
        EventType::ALL.map(|event_type| {
            let name = &[event_type.name()];
            let duplicates_of = |kind: DuplicateKind| {
                duplicates.with_label_values(&[event_type.name(), kind.as_str()])
            };
            Self {
                redeliveries: duplicates_of(DuplicateKind::Redelivery),
                repeats: duplicates_of(DuplicateKind::Repeat),
                revisions: revisions.with_label_values(name),
                stale: stale.with_label_values(name),
                out_of_order: out_of_order.with_label_values(name),
                id_conflicts: id_conflicts.with_label_values(name),
                unchecked: unchecked.with_label_values(name),
            }
        })
    }

    fn count_duplicate(&self, kind: DuplicateKind) {
        match kind {
            DuplicateKind::Redelivery => self.redeliveries.inc(),
            DuplicateKind::Repeat => self.repeats.inc(),
        }
    }
}

impl Metrics {
    /// Counts an event received at `at`. Its outcome is counted through the returned
    /// [`PendingOutcome`], or as refused if a bug drops that.
    pub fn count_received(
        &self,
        event_type: Option<EventType>,
        at: SystemTime,
    ) -> PendingOutcome<'_> {
        let type_metrics = self.events.for_type(event_type);
        type_metrics.received.inc();
        type_metrics.last_received.set(unix_seconds(at));
        PendingOutcome {
            type_metrics,
            is_recorded: false,
        }
    }

    /// Records a stored event: its age, its timestamp, and the time from `sent` to the delivery
    /// report.
    pub fn record_published(
        &self,
        event_type: EventType,
        event_time_ms: i64,
        sent: SystemTime,
        duration: Duration,
    ) {
        let type_metrics = self.events.for_type(Some(event_type));
        let event_time = event_time_ms as f64 / 1000.0;
        let age = unix_seconds(sent) + duration.as_secs_f64() - event_time;
        type_metrics.age.observe(age.max(0.0));
        type_metrics.last_event_time.set(event_time);
        let publishing = &self.events.publishing[event_type.index()];
        publishing.duration.observe(duration.as_secs_f64());
    }

    /// Counts a replaced timestamp.
    pub fn count_timestamp_replacement(&self, event_type: EventType, reason: TimestampReplacement) {
        let publishing = &self.events.publishing[event_type.index()];
        match reason {
            TimestampReplacement::Future => publishing.replaced_future.inc(),
            TimestampReplacement::Past => publishing.replaced_past.inc(),
        }
    }

    /// Counts an event that is not new and is not published.
    pub fn count_duplicate(&self, event_type: EventType, kind: DuplicateKind) {
        self.events.dedup[event_type.index()].count_duplicate(kind);
    }

    /// Counts the marks of a published event.
    pub fn count_marks(&self, event_type: EventType, marks: MarkSet) {
        let counters = &self.events.dedup[event_type.index()];
        if let Some(kind) = marks.duplicate {
            counters.count_duplicate(kind);
        }
        for (is_set, counter) in [
            (marks.revision, &counters.revisions),
            (marks.stale, &counters.stale),
            (marks.out_of_order, &counters.out_of_order),
            (marks.conflict, &counters.id_conflicts),
            (marks.unchecked, &counters.unchecked),
        ] {
            if is_set {
                counter.inc();
            }
        }
    }

    /// Returns the totals over all types.
    pub fn totals(&self) -> EventTotals {
        let types = || self.events.all().map(TypeMetrics::totals);
        EventTotals {
            received: types().map(|totals| totals.received).sum(),
            outcomes: std::array::from_fn(|outcome| {
                types().map(|totals| totals.outcomes[outcome]).sum()
            }),
        }
    }

    /// Returns each type's name, totals, and the Unix time in seconds of its last event.
    pub fn totals_by_type(&self) -> impl Iterator<Item = (&'static str, EventTotals, f64)> + '_ {
        let names = EventType::ALL.iter().map(|event_type| event_type.name());
        let types = self.events.all();
        names
            .chain([UNKNOWN])
            .zip(types)
            .map(|(name, metrics)| (name, metrics.totals(), metrics.last_received.get()))
    }
}

/// Events received and their outcomes. An event is counted as received when it comes in, and with
/// its outcome when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTotals {
    /// Events received.
    pub received: u64,
    outcomes: [u64; EventOutcome::ALL.len()],
}

impl EventTotals {
    /// Number of events with this outcome.
    pub fn count(&self, outcome: EventOutcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Returns `true` if every event received has an outcome, so not while a request is open.
    pub fn is_balanced(&self) -> bool {
        self.received == self.outcomes.iter().sum::<u64>()
    }
}

/// Outcome still to be counted for a received event.
#[derive(Debug)]
#[must_use]
pub struct PendingOutcome<'m> {
    type_metrics: &'m TypeMetrics,
    is_recorded: bool,
}

impl PendingOutcome<'_> {
    /// Counts the outcome.
    pub fn record(mut self, outcome: EventOutcome) {
        self.is_recorded = true;
        self.type_metrics.outcomes[outcome as usize].inc();
    }
}

impl Drop for PendingOutcome<'_> {
    fn drop(&mut self) {
        if !self.is_recorded {
            self.type_metrics.outcomes[EventOutcome::Refused as usize].inc();
        }
    }
}
