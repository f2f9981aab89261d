use std::borrow::Cow;

use super::*;
use crate::verify::record_digest::RecordPosition;
use butlr_event::EventType;

const NOW: i64 = 1_800_000_000_000;

const EXPECTED: HeaderExpectations = HeaderExpectations {
    timestamps: TimestampBasis::Event,
    received_ms: (NOW - 10_000, NOW),
    max_past_ms: 3 * 86_400_000,
    max_future_ms: 60_000,
};

/// A record with these headers, published by [`NOW`].
fn record<'r>(headers: &'r HeaderList<'r>, timestamp_ms: Option<i64>) -> ConsumedRecord<'r> {
    ConsumedRecord {
        position: RecordPosition {
            topic: EventType::RoomOccupancy1Min,
            partition: 0,
            offset: 0,
        },
        timestamp_ms,
        latest_publish_ms: NOW,
        key: None,
        value: None,
        headers: Some(headers),
    }
}

/// Checks the headers of a record with the event's time as timestamp.
fn check_headers(headers: &HeaderList<'_>) -> Result<HeaderMarks, String> {
    check(
        &record(headers, Some(NOW - 1_234)),
        &parsed_value(),
        &EXPECTED,
    )
}

fn parsed_value() -> ParsedValue<'static> {
    ParsedValue {
        id: Cow::Borrowed("event_1"),
        event_type: EventType::RoomOccupancy1Min,
        timestamp_ms: NOW - 1_234,
        space: Cow::Borrowed("room_ü"),
        org: Some(Cow::Borrowed("org_ä/1")),
        data_hash: 0,
        source_hash: 0,
        net: 0,
    }
}

const GOOD: [(&str, &str); REQUIRED_COUNT] = [
    ("ce_specversion", "1.0"),
    ("ce_id", "event_1"),
    ("ce_source", "/butlr/org_%C3%A4%2F1"),
    ("ce_type", "io.butlr.room-occupancy-1min.v1"),
    ("ce_time", "2027-01-15T07:59:58.766Z"),
    ("ce_subject", "room_ü"),
    ("ce_receivedat", "2027-01-15T07:59:59.995Z"),
    ("content-type", "application/json"),
];

/// Checks the good headers, with these instead or in addition.
fn check_with(
    changes: &[(&str, &str)],
    timestamp_ms: i64,
    parsed: &ParsedValue<'_>,
    expected: &HeaderExpectations,
) -> Result<(), String> {
    let mut headers: Vec<_> = GOOD.to_vec();
    for (name, value) in changes {
        match headers.iter_mut().find(|(n, _)| n == name) {
            Some(header) => header.1 = value,
            None => headers.push((name, value)),
        }
    }
    let headers: Vec<_> = headers
        .iter()
        .map(|(n, v)| (*n, Some(v.as_bytes())))
        .collect();
    check(&record(&headers, Some(timestamp_ms)), parsed, expected).map(drop)
}

fn check_changed(changes: &[(&str, &str)]) -> Result<(), String> {
    check_with(changes, NOW - 1_234, &parsed_value(), &EXPECTED)
}

#[test]
fn headers_by_the_contract_are_accepted() {
    assert_eq!(check_changed(&[]), Ok(()));
    let without_org = ParsedValue {
        org: None,
        ..parsed_value()
    };
    let source = [("ce_source", "/butlr")];
    assert_eq!(
        check_with(&source, NOW - 1_234, &without_org, &EXPECTED),
        Ok(())
    );
    assert!(check_with(&[], NOW - 1_234, &without_org, &EXPECTED).is_err());
}

#[test]
fn each_required_header_is_present_once_with_its_value() {
    for (missing, (name, value)) in GOOD.iter().enumerate() {
        let mut headers: Vec<_> = GOOD.map(|(n, v)| (n, Some(v.as_bytes()))).to_vec();
        headers.remove(missing);
        let error = check_headers(&headers).unwrap_err();
        assert!(error.contains(name), "{error}");
        headers.push((name, Some(value.as_bytes())));
        assert_eq!(check_headers(&headers), Ok(HeaderMarks::default()));
        headers.push((name, Some(value.as_bytes())));
        let error = check_headers(&headers).unwrap_err();
        assert!(error.contains(name) && error.contains("twice"), "{error}");
        let other = format!("{value}x");
        let error = check_changed(&[(name, &other)]).unwrap_err();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn optional_headers_have_only_allowed_values() {
    for (name, good, bad) in [
        ("ce_replayedfrom", "spool", ""),
        ("ce_stale", "true", "false"),
        ("ce_duplicate", "repeat", "yes"),
        ("ce_outoforder", "true", "1"),
        ("ce_spooled", "true", ""),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        ),
    ] {
        assert_eq!(check_changed(&[(name, good)]), Ok(()));
        assert!(check_changed(&[(name, bad)]).unwrap_err().contains(name));
    }
    assert!(
        check_changed(&[("x-other", "1")])
            .unwrap_err()
            .contains("x-other")
    );
}

#[test]
fn only_occupancy_is_revised_and_a_revision_names_what_it_replaces() {
    let revision = |n, id| check_changed(&[("ce_revision", n), ("ce_supersedes", id)]);
    assert_eq!(revision("1", "event_0"), Ok(()));
    assert_eq!(revision("12", "event_0"), Ok(()));
    assert!(revision("0", "event_0").is_err());
    assert!(revision("012", "event_0").is_err());
    assert!(revision("1", "").is_err());
    assert!(check_changed(&[("ce_revision", "1")]).is_err());
    assert!(check_changed(&[("ce_supersedes", "event_0")]).is_err());
    let motion = ParsedValue {
        event_type: EventType::PirMotion,
        ..parsed_value()
    };
    let mut headers = vec![("ce_type", "io.butlr.pir-motion.v1")];
    assert_eq!(
        check_with(&headers, NOW - 1_234, &motion, &EXPECTED),
        Ok(())
    );
    headers.extend([("ce_revision", "1"), ("ce_supersedes", "event_0")]);
    let error = check_with(&headers, NOW - 1_234, &motion, &EXPECTED).unwrap_err();
    assert!(error.contains("ce_revision"), "{error}");
}

#[test]
fn id_conflicts_are_rejected() {
    for changes in [
        &[
            ("ce_id", "event_1~0123abcd"),
            ("ce_idconflict", "true"),
            ("ce_originalid", "event_1"),
        ][..],
        &[("ce_id", "event_1~0123abcd")],
        &[("ce_idconflict", "true")],
        &[("ce_originalid", "event_1")],
    ] {
        assert!(check_changed(changes).is_err(), "{changes:?}");
    }
}

#[test]
fn marks_are_returned() {
    let marks = |more: &[(&'static str, &'static str)]| {
        let mut headers: Vec<_> = GOOD.map(|(n, v)| (n, Some(v.as_bytes()))).to_vec();
        headers.extend(more.iter().map(|(n, v)| (*n, Some(v.as_bytes()))));
        check_headers(&headers)
    };
    let none = HeaderMarks::default();
    let cases: [(&[_], HeaderMarks); 6] = [
        (
            &[("ce_spooled", "true")],
            HeaderMarks {
                spooled: true,
                ..none
            },
        ),
        (
            &[("ce_stale", "true")],
            HeaderMarks {
                stale: true,
                ..none
            },
        ),
        (
            &[("ce_outoforder", "true")],
            HeaderMarks {
                out_of_order: true,
                ..none
            },
        ),
        (
            &[("ce_duplicate", "redelivery")],
            HeaderMarks {
                duplicate: Some(DuplicateHeader::Redelivery),
                ..none
            },
        ),
        (
            &[("ce_duplicate", "repeat")],
            HeaderMarks {
                duplicate: Some(DuplicateHeader::Repeat),
                ..none
            },
        ),
        (
            &[("ce_revision", "1"), ("ce_supersedes", "event_0")],
            HeaderMarks {
                supersedes: Some(EventIdHash::new("event_0")),
                ..none
            },
        ),
    ];
    for (headers, expected) in cases {
        assert_eq!(marks(headers), Ok(expected), "{headers:?}");
    }
    assert!(marks(&[("ce_duplicate", "true")]).is_err());
}

#[test]
fn marks_exclude_each_other() {
    let all = [
        &[("ce_revision", "1"), ("ce_supersedes", "event_0")][..],
        &[("ce_stale", "true")],
        &[("ce_duplicate", "repeat")],
        &[("ce_outoforder", "true")],
    ];
    for (n, one) in all.iter().enumerate() {
        assert_eq!(check_changed(one), Ok(()));
        for other in &all[n + 1..] {
            let error = check_changed(&[*one, *other].concat()).unwrap_err();
            assert!(error.contains("not both"), "{error}");
        }
    }
    let motion = ParsedValue {
        event_type: EventType::PirMotion,
        ..parsed_value()
    };
    let stale = [("ce_type", "io.butlr.pir-motion.v1"), ("ce_stale", "true")];
    let error = check_with(&stale, NOW - 1_234, &motion, &EXPECTED).unwrap_err();
    assert!(error.contains("ce_stale"), "{error}");
}

#[test]
fn values_are_utf8() {
    for value in [None, Some(&[0xff_u8][..])] {
        let mut headers: Vec<_> = GOOD.map(|(n, v)| (n, Some(v.as_bytes()))).to_vec();
        headers.push(("ce_stale", value));
        let error = check_headers(&headers).unwrap_err();
        assert!(error.contains("ce_stale"), "{error}");
    }
}

#[test]
fn the_time_of_receipt_is_within_the_run() {
    for (time, good) in [
        ("2027-01-15T08:00:00.000Z", true),
        ("2027-01-15T08:00:00.001Z", false),
        ("2027-01-15T07:59:50.000Z", true),
        ("2027-01-15T07:59:49.999Z", false),
        ("2027-01-15T07:59:59Z", false),
        ("2027-01-15 07:59:59.995Z", false),
    ] {
        assert_eq!(
            check_changed(&[("ce_receivedat", time)]).is_ok(),
            good,
            "{time}"
        );
    }
}

#[test]
fn the_timestamp_is_the_events_or_replaced_with_the_right_reason() {
    let at = |timestamp_ms, replaced: Option<&str>, event_ms| {
        let parsed = ParsedValue {
            timestamp_ms: event_ms,
            ..parsed_value()
        };
        let time = humantime::format_rfc3339_millis(
            UNIX_EPOCH + std::time::Duration::from_millis(event_ms as u64),
        );
        let time = time.to_string();
        let mut changes = vec![("ce_time", time.as_str())];
        changes.extend(replaced.map(|r| ("ce_timereplaced", r)));
        check_with(&changes, timestamp_ms, &parsed, &EXPECTED).is_ok()
    };
    assert!(at(NOW - 5, None, NOW - 5));
    assert!(!at(NOW - 4, None, NOW - 5));
    let old = NOW - 4 * 86_400_000;
    assert!(at(NOW - 5, Some("past"), old));
    assert!(!at(NOW - 5, Some("future"), old));
    assert!(!at(old, Some("past"), old));
    assert!(!at(NOW + 1, Some("past"), old));
    assert!(at(NOW - 5, Some("future"), NOW + 90_000));
    assert!(!at(NOW - 5, Some("past"), NOW + 90_000));
    assert!(!at(NOW - 5, Some("elsewhere"), old));
    // Within the limits nothing is replaced, beyond them everything is.
    let day = 86_400_000;
    assert!(!at(NOW - 5, Some("past"), NOW - day));
    assert!(!at(NOW - 5, Some("past"), NOW - 5 - 3 * day));
    assert!(at(NOW - 5, Some("past"), NOW - 6 - 3 * day));
    assert!(!at(NOW - 5, Some("future"), NOW - 5 + 60_000));
    assert!(at(NOW - 5, Some("future"), NOW - 4 + 60_000));
    assert!(at(NOW - 5 - 3 * day, None, NOW - 5 - 3 * day));
    assert!(!at(NOW - 6 - 3 * day, None, NOW - 6 - 3 * day));
    assert!(at(NOW + 60_000, None, NOW + 60_000));
    assert!(!at(NOW + 60_001, None, NOW + 60_001));
    // A record cannot be published before it was received.
    assert!(!at(NOW - 6, Some("past"), old));
    let good: Vec<_> = GOOD.map(|(n, v)| (n, Some(v.as_bytes()))).to_vec();
    assert!(check(&record(&good, None), &parsed_value(), &EXPECTED).is_err());
}

#[test]
fn the_time_of_receipt_can_be_the_timestamp() {
    let expected = HeaderExpectations {
        timestamps: TimestampBasis::Received,
        ..EXPECTED
    };
    assert_eq!(check_with(&[], NOW - 5, &parsed_value(), &expected), Ok(()));
    assert!(check_with(&[], NOW - 1_234, &parsed_value(), &expected).is_err());
    assert!(
        check_with(
            &[("ce_timereplaced", "past")],
            NOW - 5,
            &parsed_value(),
            &expected
        )
        .is_err()
    );
}

#[test]
fn timestamp_0_becomes_1() {
    let expected = HeaderExpectations {
        max_past_ms: i64::MAX,
        ..EXPECTED
    };
    let first = ParsedValue {
        timestamp_ms: 0,
        ..parsed_value()
    };
    let time = [("ce_time", "1970-01-01T00:00:00.000Z")];
    assert_eq!(check_with(&time, 1, &first, &expected), Ok(()));
    assert!(check_with(&time, 0, &first, &expected).is_err());
}
