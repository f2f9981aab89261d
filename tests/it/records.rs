//! Contents of a record: topic, key, value, timestamp and headers, on either kind of Kafka.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use butlr_event::EventType;

use crate::harness::{
    BridgeSetup, TestBridge, TestRecord, clock_ms, minimal_event, sample, spellings, trials,
    unique_ms,
};

trials! {
    "records": [
        every_sample_becomes_the_record_of_the_contract,
        a_current_events_own_time_is_the_records,
        space_and_organisation_may_be_any_unicode,
        a_value_is_what_was_sent_byte_for_byte,
        every_spelling_of_a_type_goes_to_its_topic,
        an_event_without_organisation_has_a_source,
        an_event_far_ahead_is_stamped_with_the_time_of_publishing,
        the_bounds_of_event_time_can_be_set,
        the_time_of_receipt_can_stamp_all_records,
        an_arrays_items_are_records_of_their_own,
    ],
}

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// Timestamp of the samples.
pub const SAMPLE_TIME: i64 = 1_727_735_832_000;
/// Organisation of the samples.
pub const SAMPLE_ORG: &str = "org_2pn2hw57pZIhZccwNV1MaqgF3dE";

/// Returns the space of a type's sample: the most specific one in its metadata.
pub fn sample_space(event_type: EventType) -> &'static str {
    use EventType::*;
    match event_type {
        FloorOccupancy | FloorOccupancy1Min => "space_2p9XmFRHOU30QKJlhnvrR22UFKs",
        ZoneOccupancy | ZoneOccupancy1Min => "zone_2pT5dq3TzOUCxhL5Vpzt1Bx0cHm",
        Detections | Traffic | RoomOccupancy | RoomOccupancy1Min | PirMotion | PirNoMotion => {
            "room_2pEPJsoyqg4pCQfnO3NWMQTjHa2"
        }
    }
}

/// Returns the headers required by the contract, except `ce_receivedat`, which depends on the
/// clock. `org` is percent-encoded.
pub fn expected_headers(
    event_type: EventType,
    id: &str,
    time_ms: i64,
    org: &str,
    space: &str,
) -> BTreeMap<String, String> {
    let time = UNIX_EPOCH + Duration::from_millis(time_ms.unsigned_abs());
    [
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", id.to_owned()),
        ("ce_source", format!("/butlr/{org}")),
        (
            "ce_type",
            format!("io.butlr.{}.v1", event_type.kebab_name()),
        ),
        (
            "ce_time",
            humantime::format_rfc3339_millis(time).to_string(),
        ),
        ("ce_subject", space.to_owned()),
        ("content-type", "application/json".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Checks all headers; `ce_receivedat` must lie in `between` (ms). Each name occurs once.
#[track_caller]
pub fn received_headers(
    headers: &[(String, Vec<u8>)],
    between: (i64, i64),
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8(value.clone()).expect("headers are UTF-8");
        assert_eq!(all.insert(name.clone(), value), None, "{name} twice");
    }
    let received = all.remove("ce_receivedat").expect("ce_receivedat");
    let time = humantime::parse_rfc3339(&received).expect("RFC 3339");
    let ms = time.duration_since(UNIX_EPOCH).expect("after 1970");
    assert_within(ms.as_millis() as i64, between);
    assert!(
        received.ends_with('Z') && received.contains('.'),
        "in UTC, with milliseconds: {received}"
    );
    all
}

#[track_caller]
fn assert_within(ms: i64, (from, to): (i64, i64)) {
    assert!((from..=to).contains(&ms), "{ms} is not in {from} to {to}");
}

/// Sends one event and reads its record, with the times before and after.
#[track_caller]
fn publish_one(bridge: &TestBridge, event_type: EventType, body: &str) -> (TestRecord, (i64, i64)) {
    let from = clock_ms();
    let response = bridge.send(body);
    let between = (from, clock_ms());
    response.expect(200);
    let reply = response.json();
    let records = bridge.records(event_type);
    let mut here = records
        .into_iter()
        .filter(|r| reply["partition"] == r.partition && reply["offset"] == r.offset);
    let record = here
        .next()
        .expect("a record at the position in the response");
    assert_eq!(reply["topic"], record.topic);
    (record, between)
}

fn every_sample_becomes_the_record_of_the_contract() {
    let bridge = BridgeSetup::default().start();
    for event_type in EventType::ALL {
        let sent = sample(event_type);
        let (record, between) = publish_one(&bridge, event_type, &sent);
        let space = sample_space(event_type);
        assert_eq!(record.topic, bridge.topic(event_type));
        assert!(record.topic.contains(event_type.kebab_name()));
        assert_eq!(record.key.as_deref(), Some(space.as_bytes()));
        assert_eq!(record.text(), sent.trim());
        // The samples are from 2024.
        assert_within(record.timestamp.expect("a timestamp"), between);
        let event: serde_json::Value = serde_json::from_str(&sent).expect("JSON");
        let id = event["id"].as_str().expect("an id");
        let mut headers = expected_headers(event_type, id, SAMPLE_TIME, SAMPLE_ORG, space);
        headers.insert("ce_timereplaced".into(), "past".into());
        assert_eq!(headers["ce_time"], "2024-09-30T22:37:12.000Z");
        assert_eq!(received_headers(&record.headers, between), headers);
        assert_eq!(bridge.records(event_type).len(), 1);
    }
}

fn a_current_events_own_time_is_the_records() {
    let bridge = BridgeSetup::default().start();
    for event_type in EventType::ALL {
        let time = unique_ms() - 1_234;
        let id = format!("event_{event_type}");
        let body = minimal_event(event_type, &id, time, "space_now");
        let (record, between) = publish_one(&bridge, event_type, &body);
        assert_eq!(record.timestamp, Some(time));
        assert_eq!(
            received_headers(&record.headers, between),
            expected_headers(event_type, &id, time, "org_1", "space_now")
        );
    }
    assert_eq!(
        bridge.metric_sum("butlr_bridge_timestamps_replaced_total", ""),
        0.0
    );
}

fn space_and_organisation_may_be_any_unicode() {
    let bridge = BridgeSetup::default().start();
    let unicode = "Besprechung Ü/3 · 東京 🏢 \u{301}e";
    // As characters and as JSON escapes, beyond Latin-1 and beyond the BMP.
    let escaped = r#"Besprechung \u00dc\/3 \u00b7 \u6771\u4eac \ud83c\udfe2 \u0301e"#;
    for (number, space) in [unicode, escaped].into_iter().enumerate() {
        let (id, time) = (format!("event_{number}_ß€"), unique_ms());
        let body = minimal_event(EventType::RoomOccupancy, &id, time, space)
            .replace("org_1", r"a b/\u00e9%東~._-é");
        let (record, between) = publish_one(&bridge, EventType::RoomOccupancy, &body);
        assert_eq!(record.key.as_deref(), Some(unicode.as_bytes()));
        assert_eq!(record.text(), body);
        let org = "a%20b%2F%C3%A9%25%E6%9D%B1~._-%C3%A9";
        assert_eq!(
            received_headers(&record.headers, between),
            expected_headers(EventType::RoomOccupancy, &id, time, org, unicode)
        );
    }
    let records = bridge.records(EventType::RoomOccupancy);
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].partition, records[1].partition, "one key");
}

fn a_value_is_what_was_sent_byte_for_byte() {
    let bridge = BridgeSetup::default().start();
    let time = unique_ms();
    let odd = format!(
        "{{ \"data\" : 4.0e0,\t\"unknown\":[1e999,-0.0,1.10,\"\\u00e9é\\/\"], \"dup\":1,\"dup\":2,\r\n\"version\":\"v1.7\",\
         \"metadata\":{{\"room_id\":\"r\", \"new\":{{}} }},\"timestamp\": {time}.0 ,\"type\":\"ROOM_OCCUPANCY\",\"id\":\"e\"}}"
    );
    let around = format!(" \r\n\t{odd}\n ");
    let (record, _) = publish_one(&bridge, EventType::RoomOccupancy, &around);
    assert_eq!(record.text(), odd);
    assert_eq!(record.timestamp, Some(time));
}

fn every_spelling_of_a_type_goes_to_its_topic() {
    let bridge = BridgeSetup::default().start();
    for event_type in EventType::ALL {
        for spelling in spellings(event_type) {
            let id = format!("event_{spelling}");
            let body = minimal_event(event_type, &id, unique_ms(), "s").replace(
                &format!("\"type\":\"{event_type}\""),
                &format!("\"type\":\"{spelling}\""),
            );
            assert!(body.contains(&format!("\"{spelling}\"")));
            let (record, _) = publish_one(&bridge, event_type, &body);
            assert_eq!(record.text(), body);
            let canonical = format!("io.butlr.{}.v1", event_type.kebab_name());
            assert_eq!(record.header("ce_type"), Some(canonical.as_str()));
        }
    }
}

fn an_event_without_organisation_has_a_source() {
    let bridge = BridgeSetup::default().start();
    for org in ["", r#""org_id":null,"#] {
        let body = minimal_event(EventType::Traffic, "e", unique_ms(), "s");
        let body = body.replace(r#""org_id":"org_1","#, org);
        let (record, _) = publish_one(&bridge, EventType::Traffic, &body);
        assert_eq!(record.text(), body);
        assert_eq!(record.header("ce_source"), Some("/butlr"));
    }
}

fn an_event_far_ahead_is_stamped_with_the_time_of_publishing() {
    let bridge = BridgeSetup::default().start();
    let event_type = EventType::ZoneOccupancy1Min;
    let time = unique_ms() + 2 * HOUR;
    let body = minimal_event(event_type, "event_ahead", time, "zone");
    let (record, between) = publish_one(&bridge, event_type, &body);
    assert_within(record.timestamp.expect("a timestamp"), between);
    assert_eq!(record.text(), body);
    let mut headers = expected_headers(event_type, "event_ahead", time, "org_1", "zone");
    headers.insert("ce_timereplaced".into(), "future".into());
    assert_eq!(received_headers(&record.headers, between), headers);
    let replaced = "butlr_bridge_timestamps_replaced_total";
    let series = format!("{replaced}{{reason=\"future\",type=\"{event_type}\"}}");
    assert_eq!(bridge.metric(&series), 1.0);
    assert_eq!(bridge.metric_sum(replaced, ""), 1.0);
}

fn the_bounds_of_event_time_can_be_set() {
    let bridge = BridgeSetup::default()
        .set("kafka.max_future", "30m")
        .set("kafka.max_past", "6d")
        .start();
    let now = unique_ms();
    for (time, replaced) in [
        (now + HOUR / 2 - 30_000, None),
        (now + HOUR / 2 + 30_000, Some("future")),
        (now - 6 * DAY + 30_000, None),
        (now - 6 * DAY - 30_000, Some("past")),
    ] {
        let body = minimal_event(EventType::PirMotion, "e", time, "s");
        let (record, between) = publish_one(&bridge, EventType::PirMotion, &body);
        assert_eq!(record.header("ce_timereplaced"), replaced);
        match replaced {
            None => assert_eq!(record.timestamp, Some(time)),
            Some(_) => assert_within(record.timestamp.expect("a timestamp"), between),
        }
    }
}

fn the_time_of_receipt_can_stamp_all_records() {
    let bridge = BridgeSetup::default()
        .set("kafka.timestamp", "received")
        .start();
    let now = unique_ms();
    for time in [SAMPLE_TIME, now - HOUR, now + 2 * HOUR] {
        let id = format!("event_{time}");
        let body = minimal_event(EventType::Detections, &id, time, "s");
        let (record, between) = publish_one(&bridge, EventType::Detections, &body);
        assert_within(record.timestamp.expect("a timestamp"), between);
        assert_eq!(
            received_headers(&record.headers, between),
            expected_headers(EventType::Detections, &id, time, "org_1", "s"),
            "the timestamp is not replaced if configured so"
        );
    }
}

fn an_arrays_items_are_records_of_their_own() {
    let bridge = BridgeSetup::default().start();
    let time = unique_ms();
    let bodies: Vec<String> = EventType::ALL
        .iter()
        .enumerate()
        .map(|(n, &t)| {
            minimal_event(t, &format!("event_{n}"), time - n as i64, "s").replace(':', " : ")
        })
        .collect();
    let response = bridge.send(format!("\n[ {} ]\n", bodies.join(" ,\r\n\t")));
    response.expect(200);
    let results = response.json()["results"].clone();
    for (n, (event_type, body)) in EventType::ALL.into_iter().zip(&bodies).enumerate() {
        let records = bridge.records(event_type);
        let [record] = records.as_slice() else {
            panic!("{event_type}: {records:?}");
        };
        assert_eq!(record.text(), body);
        assert_eq!(record.timestamp, Some(time - n as i64));
        assert_eq!(results[n]["topic"], record.topic);
        assert_eq!(results[n]["partition"], record.partition);
        assert_eq!(results[n]["offset"], record.offset);
        let id = format!("event_{n}");
        assert_eq!(record.header("ce_id"), Some(id.as_str()));
        assert_eq!(results[n]["id"], id);
    }
}
