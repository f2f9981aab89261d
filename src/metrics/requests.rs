//! Metrics of HTTP requests and of rejections.

use std::time::Duration;

use butlr_event::{FieldErrorCode, UnreadableBodyCode};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::registrar::Registrar;
use super::{DURATION_BUCKETS, Metrics};
use crate::rejection::Rejection;

/// Statuses that the bridge responds with. Others, of which there are none today, are looked up.
const STATUS_CODES: [u16; 11] = [200, 202, 400, 401, 404, 405, 408, 413, 415, 422, 503];

#[derive(Debug)]
pub(super) struct RequestMetrics {
    by_status: IntCounterVec,
    known_statuses: [(u16, IntCounter); STATUS_CODES.len()],
    published_duration: Histogram,
    spooled_duration: Histogram,
    refused_duration: Histogram,
    rejections: IntCounterVec,
    field_errors: IntCounterVec,
}

impl RequestMetrics {
    pub(super) fn register(registrar: &Registrar) -> Self {
        let by_status = registrar.counters(
            "requests_total",
            "Responses of the ingest listener, by status (without the 400, 408 and 431 that the HTTP server itself sends).",
            &["code"],
        );
        let duration = registrar.histograms(
            "request_duration_seconds",
            "Time from a request's headers to its response. Outcome published: Kafka has every event; spooled (202): some are on disk and go to Kafka later; refused: any other status.",
            "outcome",
            DURATION_BUCKETS,
        );
        let rejections = registrar.counters(
            "rejections_total",
            "Events and requests refused, by problem code.",
            &["code"],
        );
        let field_errors = registrar.counters(
            "mistakes_total",
            "Errors found in the fields of invalid events, by code; one event can have several.",
            &["code"],
        );
        let unreadable = UnreadableBodyCode::ALL.map(UnreadableBodyCode::as_str);
        for code in Rejection::CODES.iter().chain(&unreadable) {
            rejections.with_label_values(&[code]);
        }
        for code in FieldErrorCode::ALL {
            field_errors.with_label_values(&[code.as_str()]);
        }
        Self {
            known_statuses: STATUS_CODES
                .map(|code| (code, by_status.with_label_values(&[&code.to_string()]))),
            by_status,
            published_duration: duration.with_label_values(&["published"]),
            spooled_duration: duration.with_label_values(&["spooled"]),
            refused_duration: duration.with_label_values(&["refused"]),
            rejections,
            field_errors,
        }
    }
}

impl Metrics {
    /// Counts a response and its duration.
    pub fn record_response(&self, status: u16, duration: Duration) {
        let requests = &self.requests;
        match requests
            .known_statuses
            .iter()
            .find(|(code, _)| *code == status)
        {
            Some((_, counter)) => counter.inc(),
            None => requests
                .by_status
                .with_label_values(&[&status.to_string()])
                .inc(),
        }
        let histogram = match status {
            202 => &requests.spooled_duration,
            200..300 => &requests.published_duration,
            _ => &requests.refused_duration,
        };
        histogram.observe(duration.as_secs_f64());
    }

    /// Counts a rejected event or request by its problem code.
    pub fn count_rejection(&self, code: &str) {
        self.requests.rejections.with_label_values(&[code]).inc();
    }

    /// Counts one field error of an event.
    pub fn count_field_error(&self, code: &str) {
        self.requests.field_errors.with_label_values(&[code]).inc();
    }
}

/// Work that the bridge holds now, with its limits; set when metrics are scraped.
#[derive(Debug)]
pub struct InFlightGauges {
    /// Events without a response yet.
    pub events: IntGauge,
    /// Bytes of request bodies in memory.
    pub bytes: IntGauge,
    /// Limit of `events`.
    pub events_limit: IntGauge,
    /// Limit of `bytes`.
    pub bytes_limit: IntGauge,
    /// Open connections of the ingest listener.
    pub connections: IntGauge,
    /// Limit of `connections`.
    pub connections_limit: IntGauge,
}

impl InFlightGauges {
    pub(super) fn register(registrar: &Registrar) -> Self {
        Self {
            events: registrar.gauge("in_flight_events", "Events without a response yet."),
            bytes: registrar.gauge("in_flight_bytes", "Bytes of request bodies in memory."),
            events_limit: registrar.gauge("in_flight_events_limit", "Limit of in_flight_events."),
            bytes_limit: registrar.gauge("in_flight_bytes_limit", "Limit of in_flight_bytes."),
            connections: registrar.gauge("connections", "Open connections of the ingest listener."),
            connections_limit: registrar.gauge("connections_limit", "Limit of connections."),
        }
    }
}
