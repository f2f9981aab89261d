//! Metrics of the bridge. Each subsystem has a struct that declares its metrics once, with the help
//! text that a scraper sees. The spool registers its own ([`Metrics::register`]).
//!
//! Series exist from the start, at 0, so the rate of a quiet event type is 0 and not absent. No
//! label holds an id or a partition: the configuration fixes the number of series.

mod dedup;
mod events;
mod kafka;
mod registrar;
mod requests;

use butlr_event::EventType;
use prometheus::core::Collector;
use prometheus::{Encoder, Gauge, IntCounterVec, Registry, TextEncoder};

use self::events::EventMetrics;
use self::registrar::Registrar;
use self::requests::RequestMetrics;

pub use self::dedup::DedupMetrics;
pub use self::events::{EventTotals, PendingOutcome};
pub use self::kafka::{KafkaMetrics, LateReport, TransmitTotals};
pub use self::requests::InFlightGauges;

/// Seconds of work: 100 µs up to the longest response deadline.
const DURATION_BUCKETS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0,
    5.0, 10.0, 30.0,
];

/// Outcome of a received event. Every event has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    /// Kafka confirmed it on all in-sync replicas.
    Published,
    /// Kafka already has it.
    Duplicate,
    /// It is on disk, with fsync.
    Spooled,
    /// It is not a valid event and went to the quarantine.
    Quarantined,
    /// It was not stored, or possibly not; the sender got an error.
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

/// Reason why a record carries the time of publishing instead of the event's timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampReplacement {
    /// The timestamp is more than `kafka.max_future` ahead.
    Future,
    /// The timestamp is more than `kafka.max_past` ago.
    Past,
}

impl TimestampReplacement {
    /// Label of the metric, and value of the header `ce_timereplaced`.
    pub const fn as_str(self) -> &'static str {
        match self {
            TimestampReplacement::Future => "future",
            TimestampReplacement::Past => "past",
        }
    }
}

/// All metrics of one bridge. Tests run several bridges in one process, so each has its own
/// registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    events: EventMetrics,
    requests: RequestMetrics,
    /// `auth_requests_total{credential, result}`.
    pub auth_requests: IntCounterVec,
    /// Work that the bridge holds now.
    pub in_flight: InFlightGauges,
    /// The dedup window.
    pub dedup: DedupMetrics,
    /// The Kafka client.
    pub kafka: KafkaMetrics,
    /// Unix time in seconds at which the ingest certificate expires; 0 without TLS.
    pub certificate_expiry: Gauge,
}

impl Metrics {
    /// Registers every metric; `topics` is in the order of [`EventType::ALL`].
    pub fn new(topics: &[String; EventType::ALL.len()]) -> Self {
        let registrar = Registrar(Registry::new());
        let build_info = registrar.gauges(
            "build_info",
            "1; the labels hold the versions of the bridge and of librdkafka.",
            &["version", "librdkafka"],
        );
        let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
        build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION"), &librdkafka])
            .set(1);
        let auth_requests = registrar.counters(
            "auth_requests_total",
            "Requests by credential and result. The credential is its configured name, none if the request had none, or unknown if no credential matched.",
            &["credential", "result"],
        );
        for credential in ["none", "unknown"] {
            auth_requests.with_label_values(&[credential, "rejected"]);
        }
        let metrics = Self {
            events: EventMetrics::register(&registrar, topics),
            requests: RequestMetrics::register(&registrar),
            auth_requests,
            in_flight: InFlightGauges::register(&registrar),
            dedup: DedupMetrics::register(&registrar),
            kafka: KafkaMetrics::register(&registrar, topics),
            certificate_expiry: registrar.float_gauge(
                "certificate_expiry_timestamp_seconds",
                "Unix time at which the ingest certificate expires; 0 without TLS.",
            ),
            registry: registrar.0,
        };
        #[cfg(target_os = "linux")]
        metrics.register(vec![Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        )]);
        metrics
    }

    /// Registers the metrics of an optional part of the bridge.
    pub fn register(&self, collectors: Vec<Box<dyn Collector>>) {
        for collector in collectors {
            let registered = self.registry.register(collector);
            registered.expect("each metric is registered once");
        }
    }

    /// Encodes all metrics in the text exposition format.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(32 * 1024);
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to memory");
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(&EventType::ALL.map(|t| format!("t.{}", t.kebab_name())))
    }

    #[test]
    fn every_event_has_one_outcome_even_if_it_is_dropped() {
        let m = metrics();
        m.count_received(Some(EventType::Traffic), SystemTime::now())
            .record(EventOutcome::Published);
        drop(m.count_received(None, SystemTime::now()));
        let totals = m.totals();
        assert_eq!((totals.received, totals.is_balanced()), (2, true));
        assert_eq!(totals.count(EventOutcome::Published), 1);
        assert_eq!(totals.count(EventOutcome::Refused), 1);
        let open = m.count_received(None, SystemTime::now());
        assert!(!m.totals().is_balanced());
        drop(open);
        assert!(m.totals().is_balanced());
    }

    #[test]
    fn series_exist_from_the_start() {
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
}
