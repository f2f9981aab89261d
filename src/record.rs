//! Kafka records of events and rejected items: topic, key, value, timestamp and headers.
//!
//! Everything here is a pure function of the event, the settings and the time; nothing touches the
//! network or a counter.

use std::borrow::Cow;
use std::io::Write;
use std::ops::Deref;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rdkafka::message::{Header, OwnedHeaders};
use xxhash_rust::xxh3::xxh3_128;

use crate::config::{self, TimestampMode};
use crate::marks::{DuplicateKind, Marks, Revision};
use crate::metrics::TimestampReplacement;
use crate::provenance::{QuarantineDetails, ReplayOrigin};
use butlr_event::clock::unix_ms;
use butlr_event::{Event, EventType};

/// Rules for the timestamp of a record.
#[derive(Clone, Copy, Debug)]
pub struct TimestampPolicy {
    /// Source of the timestamp: the event, or its receipt.
    pub mode: TimestampMode,
    /// A timestamp further ahead of publishing is replaced by the time of publishing.
    pub max_future: Duration,
    /// A timestamp longer before publishing is replaced by the time of publishing.
    pub max_past: Duration,
}

impl TimestampPolicy {
    /// Takes the rules from the configuration.
    pub fn from_config(kafka: &config::KafkaConfig) -> Self {
        Self {
            mode: kafka.timestamp,
            max_future: kafka.max_future,
            max_past: kafka.max_past,
        }
    }

    /// Replaces every timestamp by the time of publishing.
    pub fn with_publish_time(self) -> Self {
        Self {
            max_future: Duration::ZERO,
            max_past: Duration::ZERO,
            ..self
        }
    }

    /// Returns `true` if an event's timestamp is close enough to `now` to be believed.
    /// Implausible timestamps are ignored: one far in the future would make every later event out
    /// of order.
    pub fn is_plausible(&self, event_ms: i64, now: SystemTime) -> bool {
        choose_timestamp(event_ms, unix_ms(now), *self).1.is_none()
    }
}

/// Circumstances in which a record is published.
#[derive(Clone, Copy, Debug)]
pub struct PublishContext<'t, 'o> {
    /// Topic of the record.
    pub topic: &'t str,
    /// Rules for its timestamp.
    pub policy: TimestampPolicy,
    /// Receipt of the request.
    pub received_at: SystemTime,
    /// Time of publishing.
    pub now: SystemTime,
    /// `true` if the item was in the spool.
    pub is_spooled: bool,
    /// Quarantined record from which the event is replayed.
    pub replayed_from: Option<&'o ReplayOrigin>,
}

/// Kafka record that borrows from the event or rejected item that it carries.
#[derive(Debug)]
pub struct ProducerRecord<'e> {
    /// Topic.
    pub topic: &'e str,
    /// Space id of an event, as UTF-8; hash of a rejected item's value.
    pub key: Cow<'e, str>,
    /// JSON exactly as received, without surrounding white space.
    pub value: &'e [u8],
    /// CreateTime, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Reason why the timestamp is not the event's own.
    pub timestamp_replacement: Option<TimestampReplacement>,
    /// CloudEvents 1.0 in binary content mode. Every header is an attribute, because SDKs drop
    /// others.
    pub headers: OwnedHeaders,
}

impl<'e> ProducerRecord<'e> {
    /// Builds the record of an event; `marks` describe its relation to the stored events.
    pub fn from_event(
        event: &'e Event<'_>,
        marks: Option<&Marks>,
        context: PublishContext<'e, '_>,
    ) -> Self {
        let own_ms = match context.policy.mode {
            TimestampMode::Received => unix_ms(context.received_at),
            TimestampMode::Event => event.timestamp_ms(),
        };
        let (timestamp_ms, replacement) =
            choose_timestamp(own_ms, unix_ms(context.now), context.policy);
        Self {
            topic: context.topic,
            key: Cow::Borrowed(event.space_id()),
            value: event.raw(),
            // To librdkafka 0 means now.
            timestamp_ms: timestamp_ms.max(1),
            timestamp_replacement: replacement,
            headers: event_headers(event, replacement, marks, &context),
        }
    }

    /// Builds the record of a rejected item; `value` is the item as received. It is not a
    /// CloudEvent, because the item is not an event.
    pub fn from_quarantined(
        quarantined: &QuarantineDetails,
        value: &'e [u8],
        context: PublishContext<'e, '_>,
    ) -> Self {
        let received_ms = unix_ms(context.received_at);
        let (timestamp_ms, _) = choose_timestamp(received_ms, unix_ms(context.now), context.policy);
        let headers = HeaderBuilder::with_capacity(8)
            .add("butlr-error-codes", &quarantined.codes.join(","))
            .add("butlr-error-detail", &quarantined.detail)
            .add("butlr-received-at", &format_rfc3339(received_ms))
            .add("butlr-path", &quarantined.path)
            .add("butlr-credential", &quarantined.credential)
            .add_optional("butlr-claimed-type", quarantined.claimed_type.as_deref())
            .add_flag("butlr-spooled", context.is_spooled)
            .add_optional("content-type", quarantined.content_type.as_deref());
        Self {
            topic: context.topic,
            key: Cow::Owned(format!("{:032x}", xxh3_128(value))),
            value,
            timestamp_ms: timestamp_ms.max(1),
            timestamp_replacement: None,
            headers: headers.0,
        }
    }
}

/// Unreserved characters of RFC 3986 stay as they are.
const URI_ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

fn event_headers(
    event: &Event<'_>,
    replacement: Option<TimestampReplacement>,
    marks: Option<&Marks>,
    context: &PublishContext<'_, '_>,
) -> OwnedHeaders {
    let mut source = String::with_capacity(48);
    source.push_str("/butlr");
    if let Some(org) = event.org_id() {
        source.push('/');
        source.extend(utf8_percent_encode(org, URI_ESCAPED));
    }
    let own_id = marks.and_then(|marks| marks.conflict_id(event.id()));
    let mut headers = HeaderBuilder::with_capacity(9)
        .add("ce_specversion", "1.0")
        .add("ce_id", own_id.as_deref().unwrap_or(event.id()))
        .add("ce_source", &source)
        .add("ce_type", cloud_event_type(event.event_type()))
        .add("ce_time", &format_rfc3339(event.timestamp_ms()))
        .add("ce_subject", event.space_id())
        .add(
            "ce_receivedat",
            &format_rfc3339(unix_ms(context.received_at)),
        )
        .add("content-type", "application/json")
        .add_optional(
            "ce_timereplaced",
            replacement.map(TimestampReplacement::as_str),
        )
        .add_flag("ce_spooled", context.is_spooled);
    if let Some(ReplayOrigin {
        topic,
        partition,
        offset,
    }) = context.replayed_from
    {
        headers = headers.add("ce_replayedfrom", &format!("{topic}/{partition}/{offset}"));
    }
    match marks {
        Some(marks) if !marks.is_plain() => headers.add_marks(marks, event.id()).0,
        _ => headers.0,
    }
}

/// Headers under construction.
struct HeaderBuilder(OwnedHeaders);

impl HeaderBuilder {
    fn with_capacity(headers: usize) -> Self {
        Self(OwnedHeaders::new_with_capacity(headers))
    }

    fn add(self, key: &str, value: &str) -> Self {
        Self(self.0.insert(Header {
            key,
            value: Some(value),
        }))
    }

    fn add_optional(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.add(key, value),
            None => self,
        }
    }

    /// Adds the value `true`, or no header.
    fn add_flag(self, key: &str, is_set: bool) -> Self {
        self.add_optional(key, is_set.then_some("true"))
    }

    #[cold]
    fn add_marks(mut self, marks: &Marks, id: &str) -> Self {
        if let Some(Revision { number, supersedes }) = &marks.revision {
            self = self
                .add("ce_revision", &number.to_string())
                .add("ce_supersedes", &supersedes.to_string());
        }
        self = self
            .add_flag("ce_stale", marks.stale)
            .add_optional("ce_duplicate", marks.duplicate.map(DuplicateKind::as_str))
            .add_flag("ce_outoforder", marks.out_of_order);
        if marks.conflict.is_some() {
            self = self.add("ce_idconflict", "true").add("ce_originalid", id);
        }
        self
    }
}

/// Chooses the record's timestamp: `own_ms`, unless it is too far from the time of publishing.
/// Retention goes by the timestamp, and brokers reject one that is too far ahead.
fn choose_timestamp(
    own_ms: i64,
    now_ms: i64,
    policy: TimestampPolicy,
) -> (i64, Option<TimestampReplacement>) {
    let future = i64::try_from(policy.max_future.as_millis()).unwrap_or(i64::MAX);
    let past = i64::try_from(policy.max_past.as_millis()).unwrap_or(i64::MAX);
    if own_ms > now_ms.saturating_add(future) {
        (now_ms, Some(TimestampReplacement::Future))
    } else if own_ms < now_ms.saturating_sub(past) {
        (now_ms, Some(TimestampReplacement::Past))
    } else {
        (own_ms, None)
    }
}

/// Value of `ce_type`: `io.butlr.<type in kebab case>.v1`, the same for every spelling of the type.
const fn cloud_event_type(event_type: EventType) -> &'static str {
    match event_type {
        EventType::Detections => "io.butlr.detections.v1",
        EventType::Traffic => "io.butlr.traffic.v1",
        EventType::FloorOccupancy => "io.butlr.floor-occupancy.v1",
        EventType::FloorOccupancy1Min => "io.butlr.floor-occupancy-1min.v1",
        EventType::RoomOccupancy => "io.butlr.room-occupancy.v1",
        EventType::RoomOccupancy1Min => "io.butlr.room-occupancy-1min.v1",
        EventType::ZoneOccupancy => "io.butlr.zone-occupancy.v1",
        EventType::ZoneOccupancy1Min => "io.butlr.zone-occupancy-1min.v1",
        EventType::PirMotion => "io.butlr.pir-motion.v1",
        EventType::PirNoMotion => "io.butlr.pir-no-motion.v1",
    }
}

/// Time in RFC 3339, in UTC with milliseconds. The length is fixed, so no allocation is needed;
/// every event's record has two of them.
struct Rfc3339Text([u8; 24]);

/// Formats a time between 1970 and the end of the year 9999, which every valid event has.
fn format_rfc3339(ms: i64) -> Rfc3339Text {
    let time = UNIX_EPOCH + Duration::from_millis(ms.max(0).unsigned_abs());
    let mut text = [0; 24];
    let formatted = humantime::format_rfc3339_millis(time);
    write!(&mut text[..], "{formatted}").expect("the year has four digits");
    Rfc3339Text(text)
}

impl Deref for Rfc3339Text {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the text is ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use butlr_event::{ParseLimits, ParsedBody, parse};
    use rdkafka::message::Headers;

    const POLICY: TimestampPolicy = TimestampPolicy {
        mode: TimestampMode::Event,
        max_future: Duration::from_secs(60),
        max_past: Duration::from_secs(3 * 86_400),
    };
    const LIMITS: ParseLimits = ParseLimits {
        max_events: 1,
        max_event_bytes: 10_000,
    };
    const NOW: i64 = 1_800_000_000_000;

    fn at(ms: i64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs())
    }

    /// Context of a request received at `received_ms` and published at [`NOW`].
    fn context(policy: TimestampPolicy, received_ms: i64) -> PublishContext<'static, 'static> {
        PublishContext {
            topic: "topic",
            policy,
            received_at: at(received_ms),
            now: at(NOW),
            is_spooled: false,
            replayed_from: None,
        }
    }

    fn headers_of(body: &str, policy: TimestampPolicy) -> (i64, Vec<(String, String)>) {
        let Ok(ParsedBody::Single(Ok(event))) = parse(body.as_bytes(), None, LIMITS) else {
            panic!("not valid: {body}");
        };
        let record = ProducerRecord::from_event(&event, None, context(policy, NOW - 5));
        let headers = record.headers;
        let text = |v: Option<&[u8]>| String::from_utf8(v.unwrap().to_vec()).unwrap();
        (
            record.timestamp_ms,
            headers
                .iter()
                .map(|h| (h.key.to_owned(), text(h.value)))
                .collect(),
        )
    }

    fn event(timestamp: i64, org: &str) -> String {
        format!(
            r#"{{"id":"event_1","type":"room_occupancy_1m","timestamp":{timestamp},"version":"v1.0.0",
               "metadata":{{"org_id":{org},"room_id":"room_ü"}},"data":4}}"#
        )
    }

    #[test]
    fn headers_are_cloud_event_attributes() {
        let (timestamp, headers) = headers_of(&event(NOW - 1_234, r#""org_ä/1""#), POLICY);
        assert_eq!(timestamp, NOW - 1_234);
        let expected = [
            ("ce_specversion", "1.0"),
            ("ce_id", "event_1"),
            ("ce_source", "/butlr/org_%C3%A4%2F1"),
            ("ce_type", "io.butlr.room-occupancy-1min.v1"),
            ("ce_time", "2027-01-15T07:59:58.766Z"),
            ("ce_subject", "room_ü"),
            ("ce_receivedat", "2027-01-15T07:59:59.995Z"),
            ("content-type", "application/json"),
        ];
        let expected: Vec<_> = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(headers, expected);
        let (_, headers) = headers_of(&event(NOW, "null"), POLICY);
        assert!(headers.contains(&("ce_source".into(), "/butlr".into())));
    }

    #[test]
    fn a_timestamp_is_replaced_only_beyond_the_limits() {
        let replaced = |ms| {
            let (timestamp, headers) = headers_of(&event(ms, "null"), POLICY);
            let header = headers.into_iter().find(|(k, _)| k == "ce_timereplaced");
            (timestamp, header.map(|(_, v)| v))
        };
        let past = 3 * 86_400_000;
        assert_eq!(replaced(NOW + 60_000), (NOW + 60_000, None));
        assert_eq!(replaced(NOW + 60_001), (NOW, Some("future".into())));
        assert_eq!(replaced(NOW - past), (NOW - past, None));
        assert_eq!(replaced(NOW - past - 1), (NOW, Some("past".into())));
        assert_eq!(replaced(253_402_300_799_999), (NOW, Some("future".into())));
        assert_eq!(replaced(0), (NOW, Some("past".into())));
    }

    #[test]
    fn the_last_millisecond_of_the_year_9999_can_be_formatted() {
        let (_, headers) = headers_of(&event(253_402_300_799_999, "null"), POLICY);
        assert!(headers.contains(&("ce_time".into(), "9999-12-31T23:59:59.999Z".into())));
    }

    #[test]
    fn the_time_of_receipt_can_be_the_timestamp() {
        let policy = TimestampPolicy {
            mode: TimestampMode::Received,
            ..POLICY
        };
        let (timestamp, headers) = headers_of(&event(0, "null"), policy);
        assert_eq!(timestamp, NOW - 5);
        assert!(headers.iter().all(|(k, _)| k != "ce_timereplaced"));
    }

    /// A record older than its topic's retention would be deleted at once.
    #[test]
    fn a_time_of_receipt_too_long_ago_is_replaced() {
        let past = POLICY.max_past.as_millis() as i64;
        let policy = TimestampPolicy {
            mode: TimestampMode::Received,
            ..POLICY
        };
        let body = event(NOW, "null");
        let Ok(ParsedBody::Single(Ok(event))) = parse(body.as_bytes(), None, LIMITS) else {
            panic!("not valid: {body}");
        };
        let invalid = QuarantineDetails::default();
        let timestamp_of = |received_ms: i64| {
            let record = ProducerRecord::from_event(&event, None, context(policy, received_ms));
            let quarantined =
                ProducerRecord::from_quarantined(&invalid, b"x", context(POLICY, received_ms));
            assert_eq!(record.timestamp_ms, quarantined.timestamp_ms);
            let received_header = quarantined
                .headers
                .iter()
                .find(|h| h.key == "butlr-received-at");
            let expected = format_rfc3339(received_ms);
            assert_eq!(received_header.unwrap().value, Some(expected.as_bytes()));
            (record.timestamp_ms, record.timestamp_replacement)
        };
        assert_eq!(timestamp_of(NOW - past), (NOW - past, None));
        assert_eq!(
            timestamp_of(NOW - past - 1),
            (NOW, Some(TimestampReplacement::Past))
        );
        assert_eq!(
            timestamp_of(NOW + 3_600_000),
            (NOW, Some(TimestampReplacement::Future))
        );
    }

    #[test]
    fn cloud_event_types_match_topic_names() {
        for t in EventType::ALL {
            assert_eq!(
                cloud_event_type(t),
                format!("io.butlr.{}.v1", t.kebab_name())
            );
        }
    }
}
