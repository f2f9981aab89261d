//! Metrics of the Kafka client: librdkafka's statistics (every 5 s), the metadata watch, and the
//! producer.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{Counter, GaugeVec, IntCounter, IntGauge, IntGaugeVec};

use super::Metrics;
use super::registrar::Registrar;

/// State of the Kafka client.
#[derive(Debug)]
pub struct KafkaMetrics {
    /// 1 while Kafka responds.
    pub up: IntGauge,
    /// 1 while the topic can be published to.
    pub topic_available: IntGaugeVec,
    /// Brokers with an open connection.
    pub brokers_up: IntGauge,
    /// Records in librdkafka's queue or in flight.
    pub queue_messages: IntGauge,
    /// Bytes of these records.
    pub queue_bytes: IntGauge,
    /// Requests to brokers without a response yet.
    pub requests_in_flight: IntGauge,
    /// Round trip to the slowest broker, in seconds.
    pub round_trip: GaugeVec,
    transmit_errors: TotalCounter,
    transmit_retries: TotalCounter,
    /// Producers replaced after a fatal error.
    pub producer_replacements: IntCounter,
    /// Records reported as stored although no broker confirmed them.
    pub implicit_acks: IntCounter,
    late_stored: IntCounter,
    late_failed: IntCounter,
}

/// Running totals of one librdkafka producer.
#[derive(Clone, Copy, Debug)]
pub struct TransmitTotals {
    /// Errors in sending to brokers.
    pub errors: u64,
    /// Requests sent again.
    pub retries: u64,
}

/// Result of a delivery report that came after the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateReport {
    /// Kafka has the record. The sender will send the event again.
    Stored,
    /// The record failed, or its state is unknown.
    Failed,
}

/// Counter over totals that start at 0 again with each new producer.
#[derive(Debug)]
struct TotalCounter {
    counter: Counter,
    last_total: AtomicU64,
}

impl TotalCounter {
    fn new(counter: Counter) -> Self {
        Self {
            counter,
            last_total: AtomicU64::new(0),
        }
    }

    fn advance_to(&self, total: u64) {
        let last = self.last_total.swap(total, Ordering::Relaxed);
        let is_new_producer = total < last;
        let increment = if is_new_producer { total } else { total - last };
        self.counter.inc_by(increment as f64);
    }
}

impl KafkaMetrics {
    pub(super) fn register(registrar: &Registrar, topics: &[String]) -> Self {
        let topic_available = registrar.gauges(
            "kafka_topic_available",
            "1 while the topic exists and is visible; 0 while it is missing, forbidden or not looked up yet.",
            &["topic"],
        );
        for topic in topics {
            topic_available.with_label_values(&[topic]);
        }
        let round_trip = registrar.float_gauges(
            "kafka_round_trip_seconds",
            "Round trip to the slowest broker over the last statistics interval.",
            "quantile",
        );
        for quantile in ["0.5", "0.99"] {
            round_trip.with_label_values(&[quantile]);
        }
        let late_reports = registrar.counters(
            "late_reports_total",
            "Delivery reports that came after the request had got a 503: stored (the sender sends these events again, as duplicates), or failed or unknown.",
            &["result"],
        );
        Self {
            up: registrar.gauge("kafka_up", "1 while Kafka responds."),
            topic_available,
            brokers_up: registrar.gauge("kafka_brokers_up", "Brokers with an open connection."),
            queue_messages: registrar.gauge(
                "kafka_queue_messages",
                "Records in librdkafka's queue or in flight.",
            ),
            queue_bytes: registrar.gauge(
                "kafka_queue_bytes",
                "Bytes of the records in librdkafka's queue or in flight.",
            ),
            requests_in_flight: registrar.gauge(
                "kafka_requests_in_flight",
                "Requests to brokers without a response yet.",
            ),
            round_trip,
            transmit_errors: TotalCounter::new(registrar.float_counter(
                "kafka_transmit_errors_total",
                "Errors in sending to brokers.",
            )),
            transmit_retries: TotalCounter::new(registrar.float_counter(
                "kafka_transmit_retries_total",
                "Requests that librdkafka sent again.",
            )),
            producer_replacements: registrar.counter(
                "kafka_producer_replacements_total",
                "Producers replaced because librdkafka reported a fatal error, or because they delivered nothing although Kafka was available.",
            ),
            implicit_acks: registrar.counter(
                "kafka_presumed_total",
                "Records that librdkafka reported as stored although no broker confirmed them; their state counts as unknown.",
            ),
            late_stored: late_reports.with_label_values(&["stored"]),
            late_failed: late_reports.with_label_values(&["failed"]),
        }
    }

    /// Takes over librdkafka's running totals.
    pub fn update_transmit_totals(&self, totals: TransmitTotals) {
        self.transmit_errors.advance_to(totals.errors);
        self.transmit_retries.advance_to(totals.retries);
    }
}

impl Metrics {
    /// Counts a delivery report that came after the response to its request.
    pub fn count_late_report(&self, report: LateReport) {
        match report {
            LateReport::Stored => self.kafka.late_stored.inc(),
            LateReport::Failed => self.kafka.late_failed.inc(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_survive_a_new_producer() {
        let registrar = Registrar(prometheus::Registry::new());
        let kafka = KafkaMetrics::register(&registrar, &[]);
        for (errors, retries) in [(5, 0), (7, 2), (1, 1)] {
            kafka.update_transmit_totals(TransmitTotals { errors, retries });
        }
        assert_eq!(kafka.transmit_errors.counter.get(), 8.0);
        assert_eq!(kafka.transmit_retries.counter.get(), 3.0);
    }
}
