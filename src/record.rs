//! From an event to the Kafka record that carries it: topic, key, value, timestamp, CloudEvents headers.
//!
//! Decided purely, from the event, the settings and the moment; nothing here touches the network or a counter.

use std::borrow::Cow;
use std::io::Write;
use std::ops::Deref;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rdkafka::message::{Header, OwnedHeaders};
use xxhash_rust::xxh3::xxh3_128;

use crate::config::{self, TimestampMode};
use crate::marks::{Marks, Revision};
use crate::metrics::TimestampReplacement;
use crate::provenance::{QuarantineDetails, ReplayOrigin};
use butlr_event::clock::unix_ms;
use butlr_event::{Event, EventType};

/// Which time a record is stamped with.
#[derive(Clone, Copy, Debug)]
pub struct TimestampPolicy {
    /// The event's own time, or that of receipt.
    pub mode: TimestampMode,
    /// A time further ahead of publishing than this is replaced by that of publishing.
    pub max_future: Duration,
    /// One further back than this likewise.
    pub max_past: Duration,
}

/// Which way an event came to be published.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishOrigin<'o> {
    /// It waited on disk.
    pub spooled: bool,
    /// It was quarantined, and lies there.
    pub replayed_from: Option<&'o ReplayOrigin>,
}

/// A record, borrowed from the event it carries.
#[derive(Debug)]
pub struct ProducerRecord<'e> {
    /// Its topic.
    pub topic: &'e str,
    /// The space id, raw UTF-8.
    pub key: Cow<'e, str>,
    /// The event's JSON exactly as received, without white space around it.
    pub value: &'e [u8],
    /// CreateTime, ms since 1970.
    pub timestamp_ms: i64,
    /// Why that is not the event's own time.
    pub timestamp_replacement: Option<TimestampReplacement>,
    /// CloudEvents 1.0, binary content mode. Every header is an attribute, because SDKs drop others.
    pub headers: OwnedHeaders,
}

/// Unreserved characters of RFC 3986 stay as they are.
const URI_ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

impl TimestampPolicy {
    /// As it is configured.
    pub fn from_config(kafka: &config::KafkaConfig) -> Self {
        Self {
            mode: kafka.timestamp,
            max_future: kafka.max_future,
            max_past: kafka.max_past,
        }
    }

    /// The time of publishing, whatever an event says.
    pub fn with_publish_time(self) -> Self {
        Self {
            max_future: Duration::ZERO,
            max_past: Duration::ZERO,
            ..self
        }
    }

    /// Whether an event's time is near enough to now to be believed: else no event would be in order after it.
    pub fn is_plausible(&self, event_ms: i64, now: SystemTime) -> bool {
        choose_timestamp(event_ms, unix_ms(now), *self).1.is_none()
    }
}

impl<'e> ProducerRecord<'e> {
    /// The record of `event`, received at `received_at` and published at `now`; `marks`: what it is to what is stored.
    pub fn from_event(
        event: &'e Event<'_>,
        topic: &'e str,
        stamping: TimestampPolicy,
        marks: Option<&Marks>,
        received_at: SystemTime,
        now: SystemTime,
        origin: PublishOrigin<'_>,
    ) -> Self {
        let own_ms = match stamping.mode {
            TimestampMode::Received => unix_ms(received_at),
            TimestampMode::Event => event.timestamp_ms(),
        };
        let (timestamp_ms, replaced) = choose_timestamp(own_ms, unix_ms(now), stamping);
        Self {
            topic,
            key: Cow::Borrowed(event.space_id()),
            value: event.raw(),
            // To librdkafka 0 means now.
            timestamp_ms: timestamp_ms.max(1),
            timestamp_replacement: replaced,
            headers: event_headers(event, replaced, marks, received_at, origin),
        }
    }

    /// The record of what is no valid event: `value` as it was received at `received_at` and is published at `now`;
    /// `spooled`: it waited on disk. No CloudEvent, for it is none.
    pub fn from_quarantined(
        of: &QuarantineDetails,
        value: &'e [u8],
        topic: &'e str,
        stamping: TimestampPolicy,
        received_at: SystemTime,
        now: SystemTime,
        spooled: bool,
    ) -> Self {
        let received_ms = unix_ms(received_at);
        let codes = of.codes.join(",");
        let received = format_rfc3339(received_ms);
        let mut headers = OwnedHeaders::new_with_capacity(7);
        headers = add_header(headers, "butlr-error-codes", &codes);
        headers = add_header(headers, "butlr-error-detail", &of.detail);
        headers = add_header(headers, "butlr-received-at", &received);
        headers = add_header(headers, "butlr-path", &of.path);
        headers = add_header(headers, "butlr-credential", &of.credential);
        if let Some(claimed) = &of.claimed_type {
            headers = add_header(headers, "butlr-claimed-type", claimed);
        }
        if spooled {
            headers = add_header(headers, "butlr-spooled", "true");
        }
        if let Some(content_type) = &of.content_type {
            headers = add_header(headers, "content-type", content_type);
        }
        Self {
            topic,
            key: Cow::Owned(format!("{:032x}", xxh3_128(value))),
            value,
            timestamp_ms: choose_timestamp(received_ms, unix_ms(now), stamping)
                .0
                .max(1),
            timestamp_replacement: None,
            headers,
        }
    }
}

fn event_headers(
    event: &Event<'_>,
    replaced: Option<TimestampReplacement>,
    marks: Option<&Marks>,
    received_at: SystemTime,
    origin: PublishOrigin<'_>,
) -> OwnedHeaders {
    let time = format_rfc3339(event.timestamp_ms());
    let received = format_rfc3339(unix_ms(received_at));
    let mut source = String::with_capacity(48);
    source.push_str("/butlr");
    if let Some(org) = event.org_id() {
        source.push('/');
        source.extend(utf8_percent_encode(org, URI_ESCAPED));
    }
    let own_id = marks.and_then(|marks| marks.conflict_id(event.id()));
    let mut headers = OwnedHeaders::new_with_capacity(9);
    headers = add_header(headers, "ce_specversion", "1.0");
    headers = add_header(headers, "ce_id", own_id.as_deref().unwrap_or(event.id()));
    headers = add_header(headers, "ce_source", &source);
    headers = add_header(headers, "ce_type", cloud_event_type(event.event_type()));
    headers = add_header(headers, "ce_time", &time);
    headers = add_header(headers, "ce_subject", event.space_id());
    headers = add_header(headers, "ce_receivedat", &received);
    headers = add_header(headers, "content-type", "application/json");
    if let Some(reason) = replaced {
        headers = add_header(headers, "ce_timereplaced", reason.as_str());
    }
    if origin.spooled {
        headers = add_header(headers, "ce_spooled", "true");
    }
    if let Some(place) = origin.replayed_from {
        let ReplayOrigin {
            topic,
            partition,
            offset,
        } = place;
        let place = format!("{topic}/{partition}/{offset}");
        headers = add_header(headers, "ce_replayedfrom", &place);
    }
    match marks {
        Some(marks) if !marks.is_plain() => add_mark_headers(headers, marks, event.id()),
        _ => headers,
    }
}

/// What an event is to what is stored. Most are nothing.
#[cold]
fn add_mark_headers(mut headers: OwnedHeaders, marks: &Marks, id: &str) -> OwnedHeaders {
    if let Some(Revision { number, supersedes }) = &marks.revision {
        headers = add_header(headers, "ce_revision", &number.to_string());
        headers = add_header(headers, "ce_supersedes", &supersedes.to_string());
    }
    if marks.stale {
        headers = add_header(headers, "ce_stale", "true");
    }
    if let Some(kind) = marks.duplicate {
        headers = add_header(headers, "ce_duplicate", kind.as_str());
    }
    if marks.out_of_order {
        headers = add_header(headers, "ce_outoforder", "true");
    }
    if marks.conflict.is_some() {
        headers = add_header(headers, "ce_idconflict", "true");
        headers = add_header(headers, "ce_originalid", id);
    }
    headers
}

fn add_header(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header {
        key,
        value: Some(value),
    })
}

/// The time of an event, or of its receipt, as long as that is near enough to the time of publishing: retention goes by it,
/// and brokers refuse what lies too far ahead.
fn choose_timestamp(
    own_ms: i64,
    now_ms: i64,
    stamping: TimestampPolicy,
) -> (i64, Option<TimestampReplacement>) {
    let future = i64::try_from(stamping.max_future.as_millis()).unwrap_or(i64::MAX);
    let past = i64::try_from(stamping.max_past.as_millis()).unwrap_or(i64::MAX);
    if own_ms > now_ms.saturating_add(future) {
        (now_ms, Some(TimestampReplacement::Future))
    } else if own_ms < now_ms.saturating_sub(past) {
        (now_ms, Some(TimestampReplacement::Past))
    } else {
        (own_ms, None)
    }
}

/// `io.butlr.<type in kebab>.v1`, the same for every spelling of the type.
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

/// A time in RFC 3339, in UTC with milliseconds. Of fixed length, and so made without an allocation: each event's record has two.
struct Rfc3339Text([u8; 24]);

/// `ms` lies between 1970 and the end of year 9999 (an event's rule).
fn format_rfc3339(ms: i64) -> Rfc3339Text {
    let time = UNIX_EPOCH + Duration::from_millis(ms.max(0).unsigned_abs());
    let mut text = [0; 24];
    let formatted = humantime::format_rfc3339_millis(time);
    write!(&mut text[..], "{formatted}").expect("a year has four digits");
    Rfc3339Text(text)
}

impl Deref for Rfc3339Text {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits and letters")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use butlr_event::{ParseLimits, ParsedBody, parse};
    use rdkafka::message::Headers;

    const STAMPING: TimestampPolicy = TimestampPolicy {
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

    fn headers_of(body: &str, stamping: TimestampPolicy) -> (i64, Vec<(String, String)>) {
        let Ok(ParsedBody::Single(Ok(event))) = parse(body.as_bytes(), None, LIMITS) else {
            panic!("not valid: {body}");
        };
        let record = ProducerRecord::from_event(
            &event,
            "topic",
            stamping,
            None,
            at(NOW - 5),
            at(NOW),
            PublishOrigin::default(),
        );
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
    fn headers_are_cloud_events_attributes() {
        let (timestamp, headers) = headers_of(&event(NOW - 1_234, r#""org_ä/1""#), STAMPING);
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
        let (_, headers) = headers_of(&event(NOW, "null"), STAMPING);
        assert!(headers.contains(&("ce_source".into(), "/butlr".into())));
    }

    #[test]
    fn a_timestamp_is_replaced_only_beyond_the_bounds() {
        let replaced = |ms| {
            let (timestamp, headers) = headers_of(&event(ms, "null"), STAMPING);
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
    fn the_last_millisecond_of_year_9999_has_a_time() {
        let (_, headers) = headers_of(&event(253_402_300_799_999, "null"), STAMPING);
        assert!(headers.contains(&("ce_time".into(), "9999-12-31T23:59:59.999Z".into())));
    }

    #[test]
    fn the_time_of_receipt_can_stamp_everything() {
        let stamping = TimestampPolicy {
            mode: TimestampMode::Received,
            ..STAMPING
        };
        let (timestamp, headers) = headers_of(&event(0, "null"), stamping);
        assert_eq!(timestamp, NOW - 5);
        assert!(headers.iter().all(|(k, _)| k != "ce_timereplaced"));
    }

    /// What waited for longer than a topic keeps its records would be deleted as soon as it is there.
    #[test]
    fn a_time_of_receipt_that_is_too_long_ago_is_replaced_as_well() {
        let past = STAMPING.max_past.as_millis() as i64;
        let stamping = TimestampPolicy {
            mode: TimestampMode::Received,
            ..STAMPING
        };
        let body = event(NOW, "null");
        let Ok(ParsedBody::Single(Ok(event))) = parse(body.as_bytes(), None, LIMITS) else {
            panic!("not valid: {body}");
        };
        let invalid = QuarantineDetails::default();
        let stamped = |received_ms: i64| {
            let (received, now, origin) = (at(received_ms), at(NOW), PublishOrigin::default());
            let record =
                ProducerRecord::from_event(&event, "t", stamping, None, received, now, origin);
            let quarantined = ProducerRecord::from_quarantined(
                &invalid, b"x", "q", STAMPING, received, now, true,
            );
            assert_eq!(record.timestamp_ms, quarantined.timestamp_ms);
            let received_header = quarantined
                .headers
                .iter()
                .find(|h| h.key == "butlr-received-at");
            let expected = format_rfc3339(received_ms);
            assert_eq!(received_header.unwrap().value, Some(expected.as_bytes()));
            (record.timestamp_ms, record.timestamp_replacement)
        };
        assert_eq!(stamped(NOW - past), (NOW - past, None));
        assert_eq!(
            stamped(NOW - past - 1),
            (NOW, Some(TimestampReplacement::Past))
        );
        assert_eq!(
            stamped(NOW + 3_600_000),
            (NOW, Some(TimestampReplacement::Future))
        );
    }

    #[test]
    fn types_agree_with_the_names_of_topics() {
        for t in EventType::ALL {
            assert_eq!(
                cloud_event_type(t),
                format!("io.butlr.{}.v1", t.kebab_name())
            );
        }
    }
}
