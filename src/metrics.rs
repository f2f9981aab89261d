//! Every metric of the bridge, declared once: the help text here is what a scraper sees.
//!
//! Series of the ten event types exist from the start at 0, so that a rate over a quiet type is 0 and not absent.
//! No label carries an id, and none a partition: the number of series is fixed by the configuration.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::marks::{DuplicateKind, MarkSet};
use crate::rejection::Rejection;
use butlr_event::{EventType, FieldErrorCode, UnreadableBodyCode};

/// What an event that was received ended as. Each event ends in exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    /// Kafka confirmed it on all in-sync replicas.
    Published,
    /// Kafka has it already.
    Duplicate,
    /// It is on disk, with fsync.
    Spooled,
    /// It is no valid event, and was kept aside.
    Quarantined,
    /// It was not stored, or not known to be; the sender was told so.
    Refused,
}

impl EventOutcome {
    const ALL: [EventOutcome; 5] = [
        EventOutcome::Published,
        EventOutcome::Duplicate,
        EventOutcome::Spooled,
        EventOutcome::Quarantined,
        EventOutcome::Refused,
    ];

    const fn label(self) -> &'static str {
        match self {
            EventOutcome::Published => "published",
            EventOutcome::Duplicate => "duplicate",
            EventOutcome::Spooled => "spooled",
            EventOutcome::Quarantined => "quarantined",
            EventOutcome::Refused => "refused",
        }
    }
}

/// Why a record carries the time of publishing instead of the event's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampReplacement {
    /// The event lies more than `kafka.max_future` ahead.
    Future,
    /// The event lies more than `kafka.max_past` back.
    Past,
}

impl TimestampReplacement {
    /// The metric's label and the value of the header `ce_timereplaced`.
    pub const fn as_str(self) -> &'static str {
        match self {
            TimestampReplacement::Future => "future",
            TimestampReplacement::Past => "past",
        }
    }
}

/// The series of one event type, resolved at start so that the path of an event looks nothing up.
#[derive(Debug)]
pub struct TypeMetrics {
    received: IntCounter,
    outcomes: [IntCounter; 5],
    age: Histogram,
    publish_duration: Option<Histogram>,
    last_received: Gauge,
    last_event_time: Gauge,
    timestamp_replacements: [Option<IntCounter>; 2],
    dedup: Option<DedupCounters>,
}

/// What duplicate detection finds in events of one type.
#[derive(Debug)]
struct DedupCounters {
    duplicates: [IntCounter; 2],
    revisions: IntCounter,
    stale: IntCounter,
    out_of_order: IntCounter,
    id_conflicts: IntCounter,
    unchecked: IntCounter,
}

/// All metrics of a bridge. One instance a bridge: tests run several bridges in one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    types: [TypeMetrics; 10],
    unknown: TypeMetrics,
    requests: IntCounterVec,
    request_codes: [(u16, IntCounter); 11],
    request_duration: [Histogram; 3],
    /// `auth_requests_total{credential, result}`.
    pub auth_requests: IntCounterVec,
    rejections: IntCounterVec,
    field_errors: IntCounterVec,
    /// Deliveries whose report came after the request had been answered `{result="stored"|"failed"}`.
    late_reports: [IntCounter; 2],
    /// What the bridge holds at this moment, with its limits.
    pub in_flight: InFlightGauges,
    /// What is remembered of stored events.
    pub dedup: DedupMetrics,
    /// Kafka as librdkafka sees it.
    pub kafka: KafkaMetrics,
    /// Unix time, s, at which the ingest certificate ends; 0 without TLS.
    pub certificate_expiry: Gauge,
}

/// Gauges of what is held, set when metrics are scraped.
#[derive(Debug)]
pub struct InFlightGauges {
    /// Events taken and not yet answered.
    pub events: IntGauge,
    /// Bytes of request bodies held.
    pub bytes: IntGauge,
    /// The limit of `events`.
    pub events_limit: IntGauge,
    /// The limit of `bytes`.
    pub bytes_limit: IntGauge,
    /// Open connections of the ingest listener.
    pub connections: IntGauge,
    /// The limit of `connections`.
    pub connections_limit: IntGauge,
}

/// What is remembered of stored events, set when metrics are scraped, and how that goes.
#[derive(Debug)]
pub struct DedupMetrics {
    /// Entries: ids and current values.
    pub entries: IntGaugeVec,
    /// 1 while it is being read back from the topics.
    pub rebuilding: IntGauge,
    /// Entries forgotten before their time because the bound was reached.
    pub evictions: IntCounter,
    /// Events that Redis was not there for, and commits that it did not take.
    pub redis_errors: IntCounter,
}

/// From librdkafka's statistics (every 5 s) and from the metadata watch.
#[derive(Debug)]
pub struct KafkaMetrics {
    /// 1 while Kafka answers.
    pub up: IntGauge,
    /// 1 while the topic can be published to.
    pub topic_available: IntGaugeVec,
    /// Brokers with a connection that is up.
    pub brokers_up: IntGauge,
    /// Records in librdkafka's queue or in flight.
    pub queue_messages: IntGauge,
    /// Bytes of these.
    pub queue_bytes: IntGauge,
    /// Requests sent to brokers and not yet answered.
    pub requests_in_flight: IntGauge,
    /// Round trip to the slowest broker, s.
    pub round_trip: GaugeVec,
    transmit_errors: Counter,
    transmit_retries: Counter,
    last_transmit_totals: [AtomicU64; 2],
    /// Producers replaced because librdkafka called them fatal.
    pub producer_replacements: IntCounter,
    /// Records that librdkafka reported as stored although no broker did.
    pub implicit_acks: IntCounter,
}

impl KafkaMetrics {
    /// Takes librdkafka's own running totals, which start again at 0 with each new producer.
    pub fn update_transmit_totals(&self, errors: u64, retries: u64) {
        let advance = |seen: &AtomicU64, counter: &Counter, total: u64| {
            let before = seen.swap(total, Ordering::Relaxed);
            counter.inc_by(total.saturating_sub(if total < before { 0 } else { before }) as f64);
        };
        advance(&self.last_transmit_totals[0], &self.transmit_errors, errors);
        advance(
            &self.last_transmit_totals[1],
            &self.transmit_retries,
            retries,
        );
    }
}

const PREFIX: &str = "butlr_bridge";

/// Seconds from sensing to stored: 10 ms up to a week, since a sender's outage ends in a burst of old events.
const AGE_BUCKETS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
    14_400.0, 86_400.0, 259_200.0, 604_800.0,
];

/// Seconds of work: 100 µs up to the longest bound of an answer.
const DURATION_BUCKETS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0,
    5.0, 10.0, 30.0,
];

/// The statuses that the bridge answers with; others (there are none today) are looked up.
const STATUS_CODES: [u16; 11] = [200, 202, 400, 401, 404, 405, 408, 413, 415, 422, 503];

fn metric_opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(PREFIX)
}

struct MetricsBuilder(Registry);

impl MetricsBuilder {
    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("names and labels of metrics are constants");
        self.0
            .register(Box::new(collector.clone()))
            .expect("each metric is registered once");
        collector
    }
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(metric_opts(name, help), labels))
    }
    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(metric_opts(name, help)))
    }
    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(metric_opts(name, help)))
    }
    fn histograms(&self, name: &str, help: &str, label: &str, buckets: &[f64]) -> HistogramVec {
        let opts = HistogramOpts::from(metric_opts(name, help)).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, &[label]))
    }
}

impl Metrics {
    /// Registers every metric; `topics` are the ten topics in the order of [`EventType::ALL`].
    pub fn new(topics: &[String; 10]) -> Self {
        let builder = MetricsBuilder(Registry::new());
        let received = builder.counters(
            "received_total",
            "Events taken from requests; a request that cannot be read counts as one of type unknown.",
            &["type"],
        );
        let events = builder.counters(
            "events_total",
            "What the events received ended as; each ends in exactly one outcome.",
            &["type", "outcome"],
        );
        let replaced = builder.counters(
            "timestamps_replaced_total",
            "Records stamped with the time of publishing because the event's own lay too far ahead or back.",
            &["type", "reason"],
        );
        let age = builder.histograms(
            "event_age_seconds",
            "From the sensing of an event to its being stored (0 for events ahead of this clock).",
            "type",
            AGE_BUCKETS,
        );
        let publish = builder.histograms(
            "publish_duration_seconds",
            "From handing a record to librdkafka to its delivery report.",
            "topic",
            DURATION_BUCKETS,
        );
        let last_received = builder.register(GaugeVec::new(
            metric_opts(
                "last_received_timestamp_seconds",
                "Unix time at which an event of the type last came; 0 before the first.",
            ),
            &["type"],
        ));
        let last_event_time = builder.register(GaugeVec::new(
            metric_opts(
                "last_event_time_seconds",
                "The time of sensing that the event published last carried; 0 before the first.",
            ),
            &["type"],
        ));
        let duplicates = builder.counters(
            "duplicates_total",
            "Events that are not new: the same event again (redelivery), or an occupancy with the current value (repeat).",
            &["type", "kind"],
        );
        let of_types = |name, help| builder.counters(name, help, &["type"]);
        let revisions = of_types(
            "revisions_total",
            "Events published that replace the current value of their (type, space, timestamp).",
        );
        let stale = of_types(
            "stale_total",
            "Events published that were computed before the current value of their (type, space, timestamp).",
        );
        let out_of_order = of_types(
            "out_of_order_total",
            "Events published that are older than the newest of their space or sensor.",
        );
        let id_conflicts = of_types(
            "id_conflicts_total",
            "Events published under an id of their own because another event is stored under theirs.",
        );
        let unchecked = of_types(
            "dedup_unchecked_total",
            "Events published before the memory of stored events was rebuilt: copies among them were not recognised.",
        );
        let of_type = |name: &str, topic: Option<&str>| TypeMetrics {
            received: received.with_label_values(&[name]),
            outcomes: EventOutcome::ALL.map(|o| events.with_label_values(&[name, o.label()])),
            age: age.with_label_values(&[name]),
            publish_duration: topic.map(|t| publish.with_label_values(&[t])),
            last_received: last_received.with_label_values(&[name]),
            last_event_time: last_event_time.with_label_values(&[name]),
            timestamp_replacements: [TimestampReplacement::Future, TimestampReplacement::Past]
                .map(|r| topic.map(|_| replaced.with_label_values(&[name, r.as_str()]))),
            dedup: topic.map(|_| DedupCounters {
                duplicates: DuplicateKind::ALL
                    .map(|kind| duplicates.with_label_values(&[name, kind.as_str()])),
                revisions: revisions.with_label_values(&[name]),
                stale: stale.with_label_values(&[name]),
                out_of_order: out_of_order.with_label_values(&[name]),
                id_conflicts: id_conflicts.with_label_values(&[name]),
                unchecked: unchecked.with_label_values(&[name]),
            }),
        };
        let types = EventType::ALL.map(|t| of_type(t.name(), Some(&topics[t.index()])));
        let unknown = of_type("unknown", None);

        let requests = builder.counters(
            "requests_total",
            "Requests answered by the ingest listener, by status (400, 408 and 431 of the HTTP layer itself are not seen).",
            &["code"],
        );
        let request_codes =
            STATUS_CODES.map(|code| (code, requests.with_label_values(&[&code.to_string()])));
        let request_duration = builder.histograms(
            "request_duration_seconds",
            "From a request's headers to its answer; outcome published: Kafka has every event; spooled (202): some are on disk, and Kafka gets them later.",
            "outcome",
            DURATION_BUCKETS,
        );
        let late = builder.counters(
            "late_reports_total",
            "Delivery reports that came after the request had been answered with 503: stored (they come again as copies), or failed or unknown.",
            &["result"],
        );
        let build = builder.register(IntGaugeVec::new(
            metric_opts("build_info", "1; the labels tell what runs."),
            &["version", "librdkafka"],
        ));
        build
            .with_label_values(&[
                env!("CARGO_PKG_VERSION"),
                &rdkafka::util::get_rdkafka_version().1,
            ])
            .set(1);
        let topic_available = builder.register(IntGaugeVec::new(
            metric_opts(
                "kafka_topic_available",
                "1 while the topic exists and can be seen; 0 while it is missing, forbidden or not looked up yet.",
            ),
            &["topic"],
        ));
        for topic in topics {
            topic_available.with_label_values(&[topic]);
        }
        let metrics = Self {
            types,
            unknown,
            request_codes,
            request_duration: ["published", "spooled", "refused"]
                .map(|o| request_duration.with_label_values(&[o])),
            requests,
            auth_requests: builder.counters(
                "auth_requests_total",
                "Requests by credential and result; credential is its configured name, none where none came, unknown where it matched none.",
                &["credential", "result"],
            ),
            rejections: builder.counters(
                "rejections_total",
                "Events and requests refused, by the code of their problem.",
                &["code"],
            ),
            field_errors: builder.counters(
                "mistakes_total",
                "Mistakes found in events that are not valid, by their code; an event can have several.",
                &["code"],
            ),
            late_reports: ["stored", "failed"].map(|r| late.with_label_values(&[r])),
            in_flight: InFlightGauges {
                events: builder.gauge("in_flight_events", "Events taken and not yet answered."),
                bytes: builder.gauge("in_flight_bytes", "Bytes of request bodies held."),
                events_limit: builder.gauge("in_flight_events_limit", "Limit of in_flight_events."),
                bytes_limit: builder.gauge("in_flight_bytes_limit", "Limit of in_flight_bytes."),
                connections: builder.gauge("connections", "Open connections of the ingest listener."),
                connections_limit: builder.gauge("connections_limit", "Limit of connections."),
            },
            dedup: DedupMetrics {
                entries: builder.register(IntGaugeVec::new(
                    metric_opts(
                        "dedup_entries",
                        "What is remembered of stored events: ids, current values, and spaces and sensors with their newest.",
                    ),
                    &["kind"],
                )),
                rebuilding: builder.gauge(
                    "dedup_rebuilding",
                    "1 while the memory of stored events is being read back from the topics.",
                ),
                evictions: builder.counter(
                    "dedup_evictions_total",
                    "Entries forgotten before their time because dedup.max_ids or dedup.max_readings was reached.",
                ),
                redis_errors: builder.counter(
                    "redis_errors_total",
                    "Events decided without Redis because it was away or slow, and commits that it did not take.",
                ),
            },
            kafka: KafkaMetrics {
                up: builder.gauge("kafka_up", "1 while Kafka answers."),
                topic_available,
                brokers_up: builder.gauge("kafka_brokers_up", "Brokers with a connection that is up."),
                queue_messages: builder.gauge(
                    "kafka_queue_messages",
                    "Records in librdkafka's queue or in flight.",
                ),
                queue_bytes: builder.gauge("kafka_queue_bytes", "Bytes of these records."),
                requests_in_flight: builder.gauge(
                    "kafka_requests_in_flight",
                    "Requests sent to brokers and not yet answered.",
                ),
                round_trip: builder.register(GaugeVec::new(
                    metric_opts(
                        "kafka_round_trip_seconds",
                        "Round trip to the slowest broker over the last interval of statistics.",
                    ),
                    &["quantile"],
                )),
                transmit_errors: builder.register(Counter::with_opts(metric_opts(
                    "kafka_transmit_errors_total",
                    "Errors in sending to brokers.",
                ))),
                transmit_retries: builder.register(Counter::with_opts(metric_opts(
                    "kafka_transmit_retries_total",
                    "Requests that librdkafka sent again.",
                ))),
                last_transmit_totals: [AtomicU64::new(0), AtomicU64::new(0)],
                producer_replacements: builder.counter(
                    "kafka_producer_replacements_total",
                    "Producers replaced because librdkafka called them fatal, or because they delivered nothing although Kafka was there.",
                ),
                implicit_acks: builder.counter(
                    "kafka_presumed_total",
                    "Records that librdkafka reported as stored although no broker did; what became of them counts as unknown.",
                ),
            },
            certificate_expiry: builder.register(Gauge::with_opts(metric_opts(
                "certificate_expiry_timestamp_seconds",
                "Unix time at which the ingest certificate ends; 0 without TLS.",
            ))),
            registry: builder.0,
        };
        for kind in ["ids", "readings", "sources"] {
            metrics.dedup.entries.with_label_values(&[kind]);
        }
        for quantile in ["0.5", "0.99"] {
            metrics.kafka.round_trip.with_label_values(&[quantile]);
        }
        for credential in ["none", "unknown"] {
            metrics
                .auth_requests
                .with_label_values(&[credential, "rejected"]);
        }
        let unreadable = UnreadableBodyCode::ALL.map(UnreadableBodyCode::as_str);
        for code in Rejection::CODES.iter().chain(&unreadable) {
            metrics.rejections.with_label_values(&[code]);
        }
        for code in FieldErrorCode::ALL {
            metrics.field_errors.with_label_values(&[code.as_str()]);
        }
        #[cfg(target_os = "linux")]
        metrics
            .registry
            .register(Box::new(
                prometheus::process_collector::ProcessCollector::for_self(),
            ))
            .expect("registered once");
        metrics
    }

    /// Exports what a part of the bridge counts by itself, which is not there in every bridge.
    pub fn register(&self, collectors: Vec<Box<dyn Collector>>) {
        for collector in collectors {
            let registered = self.registry.register(collector);
            registered.expect("each metric is registered once");
        }
    }

    fn for_type(&self, event_type: Option<EventType>) -> &TypeMetrics {
        event_type.map_or(&self.unknown, |t| &self.types[t.index()])
    }

    /// Counts an event in that came at `at`. The [`Received`] counts it out: with an outcome, or, should a bug drop it, as refused.
    pub fn count_received(
        &self,
        event_type: Option<EventType>,
        at: SystemTime,
    ) -> PendingOutcome<'_> {
        let of_type = self.for_type(event_type);
        of_type.received.inc();
        of_type.last_received.set(unix_seconds(at));
        PendingOutcome {
            type_metrics: of_type,
            recorded: false,
        }
    }

    /// Counts an event or a request refused, by the code of its problem.
    pub fn count_rejection(&self, code: &str) {
        self.rejections.with_label_values(&[code]).inc();
    }

    /// Counts one mistake in an event.
    pub fn count_field_error(&self, code: &str) {
        self.field_errors.with_label_values(&[code]).inc();
    }

    /// Counts an answer and its duration.
    pub fn record_response(&self, status: u16, duration: Duration) {
        match self.request_codes.iter().find(|(code, _)| *code == status) {
            Some((_, counter)) => counter.inc(),
            None => self
                .requests
                .with_label_values(&[&status.to_string()])
                .inc(),
        }
        let outcome = match status {
            202 => 1,
            200..300 => 0,
            _ => 2,
        };
        self.request_duration[outcome].observe(duration.as_secs_f64());
    }

    /// Counts a replaced timestamp.
    pub fn count_timestamp_replacement(&self, event_type: EventType, reason: TimestampReplacement) {
        if let Some(counter) =
            &self.for_type(Some(event_type)).timestamp_replacements[reason as usize]
        {
            counter.inc();
        }
    }

    /// An event of this type is not new.
    pub fn count_duplicate(&self, event_type: EventType, kind: DuplicateKind) {
        if let Some(counters) = &self.for_type(Some(event_type)).dedup {
            counters.duplicates[kind as usize].inc();
        }
    }

    /// An event of this type was published with these marks.
    pub fn count_marks(&self, event_type: EventType, marks: MarkSet) {
        let Some(counters) = &self.for_type(Some(event_type)).dedup else {
            return;
        };
        if let Some(kind) = marks.duplicate {
            counters.duplicates[kind as usize].inc();
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

    /// A record of this type, handed over at `sent`, is stored: its age, the time Kafka took, and its own time.
    pub fn record_published(
        &self,
        event_type: EventType,
        event_time_ms: i64,
        sent: SystemTime,
        took: Duration,
    ) {
        let of_type = self.for_type(Some(event_type));
        let event_time = event_time_ms as f64 / 1000.0;
        let age = unix_seconds(sent) + took.as_secs_f64() - event_time;
        of_type.age.observe(age.max(0.0));
        of_type.last_event_time.set(event_time);
        if let Some(histogram) = &of_type.publish_duration {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// A delivery report came after its request had been answered.
    pub fn count_late_report(&self, stored: bool) {
        self.late_reports[usize::from(!stored)].inc();
    }

    /// Events received and what they ended as, summed over the types.
    pub fn totals(&self) -> EventTotals {
        let all = || self.types.iter().chain([&self.unknown]);
        EventTotals {
            received: all().map(|t| t.received.get()).sum(),
            outcomes: std::array::from_fn(|i| all().map(|t| t.outcomes[i].get()).sum()),
        }
    }

    /// The ledger of each type with the Unix time, s, at which it was last received.
    pub fn totals_by_type(&self) -> impl Iterator<Item = (&'static str, EventTotals, f64)> + '_ {
        let names = EventType::ALL.iter().map(|t| t.name()).chain(["unknown"]);
        let types = self.types.iter().chain([&self.unknown]);
        names.zip(types).map(|(name, t)| {
            let ledger = EventTotals {
                received: t.received.get(),
                outcomes: std::array::from_fn(|i| t.outcomes[i].get()),
            };
            (name, ledger, t.last_received.get())
        })
    }

    /// The text exposition format.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(32 * 1024);
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to memory");
        text
    }
}

/// Received against outcomes: `received` is counted on the way in, the outcomes on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTotals {
    /// Events taken.
    pub received: u64,
    outcomes: [u64; 5],
}

impl EventTotals {
    /// Events that ended so.
    pub fn count(&self, outcome: EventOutcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Whether each event received has ended. While requests are open, it has not.
    pub fn is_balanced(&self) -> bool {
        self.received == self.outcomes.iter().sum::<u64>()
    }
}

/// An event that was counted in and not yet out.
#[derive(Debug)]
#[must_use]
pub struct PendingOutcome<'m> {
    type_metrics: &'m TypeMetrics,
    recorded: bool,
}

impl PendingOutcome<'_> {
    /// Counts the event out.
    pub fn record(mut self, outcome: EventOutcome) {
        self.recorded = true;
        self.type_metrics.outcomes[outcome as usize].inc();
    }
}

impl Drop for PendingOutcome<'_> {
    fn drop(&mut self) {
        if !self.recorded {
            self.type_metrics.outcomes[EventOutcome::Refused as usize].inc();
        }
    }
}

/// Seconds since 1970.
pub fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(&EventType::ALL.map(|t| format!("t.{}", t.kebab_name())))
    }

    #[test]
    fn every_event_ends_once_even_one_that_was_dropped() {
        let m = metrics();
        m.count_received(Some(EventType::Traffic), SystemTime::now())
            .record(EventOutcome::Published);
        drop(m.count_received(None, SystemTime::now()));
        let ledger = m.totals();
        assert_eq!((ledger.received, ledger.is_balanced()), (2, true));
        assert_eq!(ledger.count(EventOutcome::Published), 1);
        assert_eq!(ledger.count(EventOutcome::Refused), 1);
        let open = m.count_received(None, SystemTime::now());
        assert!(!m.totals().is_balanced());
        drop(open);
        assert!(m.totals().is_balanced());
    }

    #[test]
    fn series_are_there_from_the_start() {
        let text = String::from_utf8(metrics().encode()).unwrap();
        for t in EventType::ALL {
            for outcome in EventOutcome::ALL {
                let series = format!(
                    "butlr_bridge_events_total{{outcome=\"{}\",type=\"{}\"}} 0",
                    outcome.label(),
                    t.name()
                );
                assert!(text.contains(&series), "{series} is missing");
            }
        }
        assert!(text.contains("butlr_bridge_requests_total{code=\"503\"} 0"));
    }

    #[test]
    fn librdkafkas_totals_survive_a_new_producer() {
        let m = metrics();
        m.kafka.update_transmit_totals(5, 0);
        m.kafka.update_transmit_totals(7, 0);
        m.kafka.update_transmit_totals(1, 0);
        assert_eq!(m.kafka.transmit_errors.get(), 8.0);
    }
}
