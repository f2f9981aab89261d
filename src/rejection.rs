//! Every reason for which the bridge does not promise an event, with its status and its stable code.

use std::time::Duration;

use butlr_event::{EventType, FieldError, RejectedItem};

/// Why a request, or one event of it, was not stored. Each has one status and one stable code; see [`Rejection::status`].
#[derive(Clone, Debug, PartialEq)]
pub enum Rejection {
    /// Credentials are missing or match none.
    Unauthorized,
    /// No such route.
    NotFound,
    /// The route takes POST only.
    MethodNotAllowed,
    /// A `Content-Type` other than JSON.
    UnsupportedMediaType,
    /// A `Content-Encoding` other than gzip.
    UnsupportedEncoding,
    /// The body did not come within `http.body_timeout`.
    BodyTimeout,
    /// The body, also after decompression, is larger than `http.max_body_bytes`.
    BodyTooLarge {
        /// The limit, bytes.
        limit: usize,
    },
    /// The client's connection ended, or broke the protocol, within the body.
    IncompleteBody,
    /// `Content-Encoding: gzip` over something else.
    InvalidGzip,
    /// The body as a whole cannot be read as events.
    UnreadableBody(butlr_event::UnreadableBody),
    /// JSON, but not a valid event: all that is wrong with it.
    InvalidEvent(Vec<FieldError>),
    /// One event larger than `http.max_event_bytes`, or than Kafka takes.
    EventTooLarge {
        /// Its size, bytes.
        bytes: usize,
    },
    /// Too many connections, events or bytes are open.
    Overloaded(CapacityLimit),
    /// Too much is in flight for this event's topic, or librdkafka's queue is full.
    TopicOverloaded,
    /// The event's topic does not exist.
    TopicMissing,
    /// The bridge's Kafka user may not use the event's topic.
    TopicForbidden,
    /// Kafka did not confirm the event in time. It may have been stored after all.
    KafkaUnconfirmed,
    /// Kafka, or librdkafka, refused the event with this error. It may have been stored after all.
    KafkaRefused(rdkafka::types::RDKafkaErrorCode),
    /// Kafka did not take the event, and the spool is full.
    SpoolFull,
    /// Kafka did not take the event, and the spool cannot be written.
    SpoolUnwritable,
    /// Kafka did not take the event, and the disk did not confirm it in time. It may have been stored after all.
    SpoolUnconfirmed,
}

/// Which limit a request met.
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
    /// The codes of rejections; those of bodies that cannot be read are in [`butlr_event::UnreadableCode`].
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

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Rejection::InvalidGzip | Rejection::IncompleteBody => 400,
            Rejection::UnreadableBody(unreadable) => unreadable.code.status(),
            Rejection::Unauthorized => 401,
            Rejection::NotFound => 404,
            Rejection::MethodNotAllowed => 405,
            Rejection::BodyTimeout => 408,
            Rejection::BodyTooLarge { .. } | Rejection::EventTooLarge { .. } => 413,
            Rejection::UnsupportedMediaType | Rejection::UnsupportedEncoding => 415,
            Rejection::InvalidEvent(_) => 422,
            Rejection::Overloaded(_)
            | Rejection::TopicOverloaded
            | Rejection::TopicMissing
            | Rejection::TopicForbidden
            | Rejection::KafkaUnconfirmed
            | Rejection::KafkaRefused(_)
            | Rejection::SpoolFull
            | Rejection::SpoolUnwritable
            | Rejection::SpoolUnconfirmed => 503,
        }
    }

    /// The stable code: of the problem document and of `rejections_total`.
    pub fn code(&self) -> &'static str {
        match self {
            Rejection::Unauthorized => "unauthorized",
            Rejection::NotFound => "not_found",
            Rejection::MethodNotAllowed => "method_not_allowed",
            Rejection::UnsupportedMediaType => "unsupported_media_type",
            Rejection::UnsupportedEncoding => "unsupported_encoding",
            Rejection::BodyTimeout => "body_timeout",
            Rejection::BodyTooLarge { .. } => "body_too_large",
            Rejection::IncompleteBody => "body_broken",
            Rejection::InvalidGzip => "not_gzip",
            Rejection::UnreadableBody(unreadable) => unreadable.code.as_str(),
            Rejection::InvalidEvent(_) => "invalid_event",
            Rejection::EventTooLarge { .. } => "event_too_large",
            Rejection::Overloaded(CapacityLimit::Connections) => "too_many_connections",
            Rejection::Overloaded(CapacityLimit::Events) => "too_many_events_in_flight",
            Rejection::Overloaded(CapacityLimit::Bytes) => "too_many_bytes_in_flight",
            Rejection::TopicOverloaded => "topic_overloaded",
            Rejection::TopicMissing => "topic_missing",
            Rejection::TopicForbidden => "topic_forbidden",
            Rejection::KafkaUnconfirmed => "kafka_unconfirmed",
            Rejection::KafkaRefused(_) => "kafka_refused",
            Rejection::SpoolFull => "spool_full",
            Rejection::SpoolUnwritable => "spool_unwritable",
            Rejection::SpoolUnconfirmed => "spool_unconfirmed",
        }
    }

    /// A short name of the problem, the same for each occurrence.
    pub fn title(&self) -> &'static str {
        match self {
            Rejection::Unauthorized => "Credentials missing or wrong",
            Rejection::NotFound => "No such route",
            Rejection::MethodNotAllowed => "Method not allowed",
            Rejection::UnsupportedMediaType => "Content type not supported",
            Rejection::UnsupportedEncoding => "Content encoding not supported",
            Rejection::BodyTimeout => "Body too slow",
            Rejection::BodyTooLarge { .. } => "Body too large",
            Rejection::IncompleteBody => "Body broken off",
            Rejection::InvalidGzip => "Not gzip",
            Rejection::UnreadableBody(unreadable) if unreadable.code.status() == 400 => "Not JSON",
            Rejection::UnreadableBody(_) => "Not an array that can be taken",
            Rejection::InvalidEvent(_) => "Not a valid event",
            Rejection::EventTooLarge { .. } => "Event too large",
            Rejection::Overloaded(_) => "Too much in flight",
            Rejection::TopicOverloaded => "Too much in flight for this topic",
            Rejection::TopicMissing => "Topic missing",
            Rejection::TopicForbidden => "Topic forbidden",
            Rejection::KafkaUnconfirmed => "Kafka did not confirm in time",
            Rejection::KafkaRefused(_) => "Kafka refused",
            Rejection::SpoolFull => "Spool full",
            Rejection::SpoolUnwritable => "Spool not writable",
            Rejection::SpoolUnconfirmed => "Disk did not confirm in time",
        }
    }

    /// One sentence for this occurrence: what is wrong, and what to do.
    pub fn detail(&self) -> String {
        match self {
            Rejection::Unauthorized => {
                "send one of the configured API keys in its header, or HTTP basic auth".into()
            }
            Rejection::NotFound => {
                "events go to POST /v1/events, or to POST /v1/events/{type} with one of the ten types"
                    .into()
            }
            Rejection::MethodNotAllowed => "events are sent with POST".into(),
            Rejection::UnsupportedMediaType => {
                "send application/json (or no content type)".into()
            }
            Rejection::UnsupportedEncoding => "send the body as it is, or with gzip".into(),
            Rejection::BodyTimeout => {
                "the body was not complete in time; send it without pauses".into()
            }
            Rejection::BodyTooLarge { limit } => format!(
                "the body, also after decompression, may have {limit} bytes (http.max_body_bytes)"
            ),
            Rejection::IncompleteBody => "the body ended before its announced length".into(),
            Rejection::InvalidGzip => {
                "the body says Content-Encoding: gzip and is not complete, valid gzip".into()
            }
            Rejection::UnreadableBody(unreadable) => unreadable.detail.clone(),
            Rejection::InvalidEvent(mistakes) => match mistakes.as_slice() {
                [one] => one.detail.clone(),
                all => format!("{} mistakes, listed in errors", all.len()),
            },
            Rejection::EventTooLarge { bytes } => {
                format!("the event has {bytes} bytes, more than can be published")
            }
            Rejection::Overloaded(limit) => {
                let key = match limit {
                    CapacityLimit::Connections => "http.max_connections",
                    CapacityLimit::Events => "http.max_in_flight_events",
                    CapacityLimit::Bytes => "http.max_in_flight_bytes",
                };
                format!("the bridge holds as much as {key} allows; send again")
            }
            Rejection::TopicOverloaded => {
                "as much as is allowed is in flight for the event's topic; send again".into()
            }
            Rejection::TopicMissing => {
                "the event's topic does not exist in Kafka; the operator creates it with `butlr-bridge topics --apply`"
                    .into()
            }
            Rejection::TopicForbidden => {
                "the bridge's Kafka user may not write to the event's topic; the operator grants Write and Describe"
                    .into()
            }
            Rejection::KafkaUnconfirmed => {
                "Kafka did not confirm the event in time; it may be stored; send again".into()
            }
            Rejection::KafkaRefused(code) => {
                format!("Kafka refused the event ({code}); it may be stored; send again")
            }
            Rejection::SpoolFull => {
                "Kafka does not take the event now, and the spool is as large as spool.max_bytes or spool.min_free_bytes allow; send again"
                    .into()
            }
            Rejection::SpoolUnwritable => {
                "Kafka does not take the event now, and the spool's disk cannot be written; send again"
                    .into()
            }
            Rejection::SpoolUnconfirmed => {
                "Kafka does not take the event now, and the disk did not confirm it in time; it may be stored; send again"
                    .into()
            }
        }
    }

    /// The rejection of an item that is not a valid event, with the type it claims to have.
    pub fn of_item(refused: RejectedItem<'_>) -> (Option<EventType>, Self) {
        match refused {
            RejectedItem::Invalid {
                claimed_type: claimed,
                errors,
                ..
            } => (claimed, Rejection::InvalidEvent(errors)),
            RejectedItem::TooLarge {
                claimed_type: claimed,
                bytes,
            } => (claimed, Rejection::EventTooLarge { bytes }),
        }
    }

    /// How long the sender waits before it tries again; `None` where trying again is of no use.
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
    fn every_code_is_declared_once_and_a_503_says_when_to_come_back() {
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
