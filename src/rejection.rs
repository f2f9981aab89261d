//! Rejections: every reason for which the bridge does not accept a request or an event.

use std::time::Duration;

use butlr_event::{EventType, FieldError, RejectedItem};

/// Reason why a request, or one event of it, was not stored. Each has a status, a stable code and a
/// title.
#[derive(Clone, Debug, PartialEq)]
pub enum Rejection {
    /// No credentials, or none that are accepted.
    Unauthorized,
    /// Unknown route.
    NotFound,
    /// Any method but POST.
    MethodNotAllowed,
    /// A `Content-Type` other than JSON.
    UnsupportedMediaType,
    /// A `Content-Encoding` other than gzip.
    UnsupportedEncoding,
    /// The body took longer than `http.body_timeout`.
    BodyTimeout,
    /// The body is larger than `http.max_body_bytes`, before or after decompression.
    BodyTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The connection ended, or violated the protocol, before the body was complete.
    IncompleteBody,
    /// `Content-Encoding: gzip`, but the body is not complete, valid gzip.
    InvalidGzip,
    /// The body cannot be read as events at all.
    UnreadableBody(butlr_event::UnreadableBody),
    /// JSON, but not a valid event; lists everything that is wrong with it.
    InvalidEvent(Vec<FieldError>),
    /// The event is larger than `http.max_event_bytes`, or than Kafka accepts.
    EventTooLarge {
        /// Size of the event in bytes.
        bytes: usize,
    },
    /// Too many connections, events or bytes are in flight.
    Overloaded(CapacityLimit),
    /// Too much is in flight for the event's topic, or librdkafka's queue is full.
    TopicOverloaded,
    /// The event's topic does not exist.
    TopicMissing,
    /// The bridge's Kafka user is not allowed to write to the event's topic.
    TopicForbidden,
    /// Kafka did not confirm the event in time. It may be stored.
    KafkaUnconfirmed,
    /// Kafka, or librdkafka, refused the event with this error. It may be stored.
    KafkaRefused(rdkafka::types::RDKafkaErrorCode),
    /// Kafka did not accept the event, and the spool is full.
    SpoolFull,
    /// Kafka did not accept the event, and the spool cannot be written.
    SpoolUnwritable,
    /// Kafka did not accept the event, and the disk did not confirm it in time. It may be stored.
    SpoolUnconfirmed,
}

/// A limit on what is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityLimit {
    /// `http.max_connections`
    Connections,
    /// `http.max_in_flight_events`
    Events,
    /// `http.max_in_flight_bytes`
    Bytes,
}

impl Rejection {
    /// All codes but those of unreadable bodies, which are in [`butlr_event::UnreadableBodyCode`].
    pub const CODES: [&'static str; 22] = [
        "unauthorized",
        "not_found",
        "method_not_allowed",
        "unsupported_media_type",
        "unsupported_encoding",
        "body_timeout",
        "body_too_large",
        "body_broken",
        "not_gzip",
        "event_too_large",
        "too_many_connections",
        "too_many_events_in_flight",
        "too_many_bytes_in_flight",
        "topic_overloaded",
        "topic_missing",
        "topic_forbidden",
        "kafka_unconfirmed",
        "kafka_refused",
        "spool_full",
        "spool_unwritable",
        "spool_unconfirmed",
        "invalid_event",
    ];

    /// Returns status, code and title.
    fn problem_type(&self) -> (u16, &'static str, &'static str) {
        match self {
            Self::UnreadableBody(body) => {
                let status = body.code.status();
                let title = if status == 400 {
                    "Invalid JSON"
                } else {
                    "Array not accepted"
                };
                (status, body.code.as_str(), title)
            }
            Self::IncompleteBody => (400, "body_broken", "Incomplete request body"),
            Self::InvalidGzip => (400, "not_gzip", "Invalid gzip data"),
            Self::Unauthorized => (401, "unauthorized", "Missing or invalid credentials"),
            Self::NotFound => (404, "not_found", "Route not found"),
            Self::MethodNotAllowed => (405, "method_not_allowed", "Method not allowed"),
            Self::BodyTimeout => (408, "body_timeout", "Request body timeout"),
            Self::BodyTooLarge { .. } => (413, "body_too_large", "Request body too large"),
            Self::EventTooLarge { .. } => (413, "event_too_large", "Event too large"),
            Self::UnsupportedMediaType => {
                (415, "unsupported_media_type", "Unsupported content type")
            }
            Self::UnsupportedEncoding => {
                (415, "unsupported_encoding", "Unsupported content encoding")
            }
            Self::InvalidEvent(_) => (422, "invalid_event", "Invalid event"),
            Self::Overloaded(CapacityLimit::Connections) => {
                (503, "too_many_connections", "Too many connections")
            }
            Self::Overloaded(CapacityLimit::Events) => (
                503,
                "too_many_events_in_flight",
                "Too many events in flight",
            ),
            Self::Overloaded(CapacityLimit::Bytes) => {
                (503, "too_many_bytes_in_flight", "Too many bytes in flight")
            }
            Self::TopicOverloaded => (503, "topic_overloaded", "Topic overloaded"),
            Self::TopicMissing => (503, "topic_missing", "Topic does not exist"),
            Self::TopicForbidden => (503, "topic_forbidden", "Topic access denied"),
            Self::KafkaUnconfirmed => (503, "kafka_unconfirmed", "Kafka did not confirm in time"),
            Self::KafkaRefused(_) => (503, "kafka_refused", "Kafka refused the event"),
            Self::SpoolFull => (503, "spool_full", "Spool full"),
            Self::SpoolUnwritable => (503, "spool_unwritable", "Spool not writable"),
            Self::SpoolUnconfirmed => (503, "spool_unconfirmed", "Disk did not confirm in time"),
        }
    }

    /// Returns the HTTP status.
    pub fn status(&self) -> u16 {
        self.problem_type().0
    }

    /// Returns the stable code, as in the problem document and in `rejections_total`.
    pub fn code(&self) -> &'static str {
        self.problem_type().1
    }

    /// Returns the title, which is the same for each occurrence of the problem.
    pub fn title(&self) -> &'static str {
        self.problem_type().2
    }

    /// Returns a sentence about this occurrence: what is wrong and what to do.
    pub fn detail(&self) -> String {
        let text = match self {
            Self::Unauthorized => {
                "send one of the configured API keys in its header, or use HTTP Basic authentication"
            }
            Self::NotFound => {
                "send events to POST /v1/events, or to POST /v1/events/{type} with one of the ten types"
            }
            Self::MethodNotAllowed => "send events with POST",
            Self::UnsupportedMediaType => "send application/json, or no content type",
            Self::UnsupportedEncoding => "send the body uncompressed or with gzip",
            Self::BodyTimeout => "the body was not complete in time; send it without pauses",
            Self::BodyTooLarge { limit } => {
                return format!(
                    "the body is larger than {limit} bytes, before or after decompression (http.max_body_bytes)"
                );
            }
            Self::IncompleteBody => "the body ended before its announced length",
            Self::InvalidGzip => {
                "Content-Encoding is gzip, but the body is not complete, valid gzip"
            }
            Self::UnreadableBody(body) => return body.detail.clone(),
            Self::InvalidEvent(errors) => match errors.as_slice() {
                [error] => return error.detail.clone(),
                errors => return format!("{} errors, listed in errors", errors.len()),
            },
            Self::EventTooLarge { bytes } => {
                return format!("the event has {bytes} bytes, more than can be published");
            }
            Self::Overloaded(limit) => {
                let key = match limit {
                    CapacityLimit::Connections => "http.max_connections",
                    CapacityLimit::Events => "http.max_in_flight_events",
                    CapacityLimit::Bytes => "http.max_in_flight_bytes",
                };
                return format!("the bridge has reached {key}; send again");
            }
            Self::TopicOverloaded => {
                "too many events are in flight for the event's topic; send again"
            }
            Self::TopicMissing => {
                "the event's topic does not exist in Kafka; the operator can create it with `butlr-bridge topics --apply`"
            }
            Self::TopicForbidden => {
                "the bridge's Kafka user may not write to the event's topic; the operator has to grant Write and Describe"
            }
            Self::KafkaUnconfirmed => {
                "Kafka did not confirm the event in time; it may be stored; send again"
            }
            Self::KafkaRefused(code) => {
                return format!("Kafka refused the event ({code}); it may be stored; send again");
            }
            Self::SpoolFull => {
                "Kafka does not accept the event now, and the spool has reached spool.max_bytes or spool.min_free_bytes; send again"
            }
            Self::SpoolUnwritable => {
                "Kafka does not accept the event now, and the spool's disk cannot be written; send again"
            }
            Self::SpoolUnconfirmed => {
                "Kafka does not accept the event now, and the disk did not confirm it in time; it may be stored; send again"
            }
        };
        text.to_owned()
    }

    /// Converts an item that is not a valid event; returns the type that it claims to have, too.
    pub fn of_item(item: RejectedItem<'_>) -> (Option<EventType>, Self) {
        match item {
            RejectedItem::Invalid {
                claimed_type,
                errors,
                ..
            } => (claimed_type, Rejection::InvalidEvent(errors)),
            RejectedItem::TooLarge {
                claimed_type,
                bytes,
            } => (claimed_type, Rejection::EventTooLarge { bytes }),
        }
    }

    /// Returns the time after which the sender should try again; `None` if trying again is of no
    /// use.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = match self {
            Rejection::TopicMissing | Rejection::TopicForbidden | Rejection::SpoolFull => 5,
            _ if self.status() == 503 => 1,
            _ => return None,
        };
        Some(Duration::from_secs(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_declared_once_and_every_503_has_a_retry_delay() {
        let all = [
            Rejection::Unauthorized,
            Rejection::NotFound,
            Rejection::MethodNotAllowed,
            Rejection::UnsupportedMediaType,
            Rejection::UnsupportedEncoding,
            Rejection::BodyTimeout,
            Rejection::BodyTooLarge { limit: 1 },
            Rejection::IncompleteBody,
            Rejection::InvalidGzip,
            Rejection::InvalidEvent(Vec::new()),
            Rejection::EventTooLarge { bytes: 1 },
            Rejection::Overloaded(CapacityLimit::Connections),
            Rejection::Overloaded(CapacityLimit::Events),
            Rejection::Overloaded(CapacityLimit::Bytes),
            Rejection::TopicOverloaded,
            Rejection::TopicMissing,
            Rejection::TopicForbidden,
            Rejection::KafkaUnconfirmed,
            Rejection::KafkaRefused(rdkafka::types::RDKafkaErrorCode::Unknown),
            Rejection::SpoolFull,
            Rejection::SpoolUnwritable,
            Rejection::SpoolUnconfirmed,
        ];
        let mut codes: Vec<_> = all.iter().map(Rejection::code).collect();
        let mut declared = Rejection::CODES.to_vec();
        codes.sort_unstable();
        declared.sort_unstable();
        assert_eq!(codes, declared);
        for rejection in all {
            let retried = rejection.retry_after().is_some();
            assert_eq!(retried, rejection.status() == 503, "{rejection:?}");
        }
    }
}
