//! Tests of each rule through [`parse`].

use serde_json::{Value, json};

use super::*;

const LIMITS: ParseLimits = ParseLimits {
    max_events: 1000,
    max_event_bytes: 256 * 1024,
};

/// The documented sample of each type, in the order of [`EventType::ALL`].
pub(crate) const SAMPLES: [&str; EventType::ALL.len()] = [
    include_str!("../../../tests/events/detections.json"),
    include_str!("../../../tests/events/traffic.json"),
    include_str!("../../../tests/events/floor_occupancy.json"),
    include_str!("../../../tests/events/floor_occupancy_1min.json"),
    include_str!("../../../tests/events/room_occupancy.json"),
    include_str!("../../../tests/events/room_occupancy_1min.json"),
    include_str!("../../../tests/events/zone_occupancy.json"),
    include_str!("../../../tests/events/zone_occupancy_1min.json"),
    include_str!("../../../tests/events/pir_motion.json"),
    include_str!("../../../tests/events/pir_no_motion.json"),
];

fn sample(event_type: EventType) -> Value {
    serde_json::from_str(SAMPLES[event_type.index()]).unwrap()
}

/// JSON of a type's sample after a change.
fn changed(event_type: EventType, change: impl FnOnce(&mut Value)) -> String {
    let mut event = sample(event_type);
    change(&mut event);
    event.to_string()
}

fn without(event_type: EventType, pointer: &str) -> String {
    changed(event_type, |event| {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        event
            .pointer_mut(parent)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .remove(field)
            .unwrap();
    })
}

fn with(event_type: EventType, pointer: &str, value: Value) -> String {
    changed(event_type, |event| {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        event
            .pointer_mut(parent)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .insert(field.to_owned(), value);
    })
}

/// JSON of a type's sample with `literal` at `pointer`; `Value` need not be able to hold it.
fn with_literal(event_type: EventType, pointer: &str, literal: &str) -> String {
    with(event_type, pointer, json!("PLACEHOLDER")).replace("\"PLACEHOLDER\"", literal)
}

fn parse_one_as(body: &str, expected: Option<EventType>) -> ItemResult<'_> {
    match parse(body.as_bytes(), expected, LIMITS) {
        Ok(ParsedBody::Single(event)) => event,
        other => panic!("{other:?} for {body}"),
    }
}

fn parse_one(body: &str) -> ItemResult<'_> {
    parse_one_as(body, None)
}

fn parse_many(body: &str) -> Vec<ItemResult<'_>> {
    match parse(body.as_bytes(), None, LIMITS) {
        Ok(ParsedBody::Array(events)) => events,
        other => panic!("{other:?} for {body}"),
    }
}

fn parse_unreadable(body: &[u8]) -> UnreadableBody {
    match parse(body, None, LIMITS) {
        Err(unreadable) => unreadable,
        other => panic!(
            "{other:?} for {}",
            String::from_utf8_lossy(&body[..body.len().min(200)])
        ),
    }
}

fn errors_of(rejected: RejectedItem<'_>) -> Vec<FieldError> {
    match rejected {
        RejectedItem::Invalid { errors, .. } => errors,
        other => panic!("{other:?}"),
    }
}

fn errors_in(body: &str) -> Vec<FieldError> {
    errors_of(parse_one(body).expect_err(body))
}

/// Pointers and codes of the errors.
fn error_codes_in(body: &str) -> Vec<(String, &'static str)> {
    errors_in(body)
        .into_iter()
        .map(|error| (error.pointer, error.code.as_str()))
        .collect()
}

#[track_caller]
fn assert_errors(body: &str, expected: &[(&str, &str)]) {
    let found = error_codes_in(body);
    let found: Vec<_> = found
        .iter()
        .map(|(pointer, code)| (pointer.as_str(), *code))
        .collect();
    assert_eq!(found, expected, "{body}");
}

#[track_caller]
fn assert_valid(body: &str) {
    if let Err(rejected) = parse_one(body) {
        panic!("{rejected:?} for {body}");
    }
}

const ROOM: EventType = EventType::RoomOccupancy;

#[test]
fn the_documented_events_are_valid() {
    for (event_type, text) in EventType::ALL.into_iter().zip(SAMPLES) {
        let event = parse_one(text).unwrap();
        let value = sample(event_type);
        let metadata = &value["metadata"];
        assert_eq!(event.event_type(), event_type);
        assert_eq!(event.id(), value["id"]);
        assert_eq!(event.timestamp_ms(), 1_727_735_832_000);
        assert_eq!(event.org_id(), metadata["org_id"].as_str());
        assert_eq!(event.sensor_id(), metadata["sensor_id"].as_str());
        let space = match event_type {
            EventType::FloorOccupancy | EventType::FloorOccupancy1Min => "floor_id",
            EventType::ZoneOccupancy | EventType::ZoneOccupancy1Min => "zone_id",
            _ => "room_id",
        };
        assert_eq!(event.space_id(), metadata[space]);
        assert_eq!(event.raw(), text.trim().as_bytes());
        // The alphabetical order of fields: data before type.
        assert_valid(&value.to_string());
        assert_valid(&serde_json::to_string(&value).unwrap());
    }
}

#[test]
fn a_valid_event_borrows_everything() {
    let Event {
        id,
        space_id,
        org_id,
        sensor_id,
        ..
    } = parse_one(SAMPLES[0]).unwrap();
    for text in [id, space_id, org_id.unwrap(), sensor_id.unwrap()] {
        assert!(matches!(text, Cow::Borrowed(_)), "{text}");
    }
}

#[test]
fn every_spelling_of_every_type_is_valid() {
    for event_type in EventType::ALL {
        let upper = event_type.name();
        let short = upper.replace("_1MIN", "_1M");
        for spelling in [upper, &short, &upper.to_lowercase(), &short.to_lowercase()] {
            let body = with(event_type, "/type", json!(spelling));
            assert_eq!(
                parse_one(&body).unwrap().event_type(),
                event_type,
                "{spelling}"
            );
        }
    }
}

#[test]
fn errors_for_unknown_types_list_the_known_ones() {
    for other in ["Traffic", "room-occupancy", "TRAFFIC ", "", "HEADCOUNT"] {
        let errors = errors_in(&with(ROOM, "/type", json!(other)));
        assert_eq!(errors.len(), 1);
        assert_eq!(
            (errors[0].pointer.as_str(), errors[0].code),
            ("/type", FieldErrorCode::UnknownType)
        );
        for event_type in EventType::ALL {
            assert!(
                errors[0].detail.contains(event_type.name()),
                "{}",
                errors[0].detail
            );
        }
    }
    for other in [json!(null), json!(5), json!(["TRAFFIC"])] {
        assert_errors(&with(ROOM, "/type", other), &[("/type", "wrong_type")]);
    }
    assert_errors(&without(ROOM, "/type"), &[("/type", "missing")]);
}

#[test]
fn the_type_must_match_the_url() {
    let body = SAMPLES[ROOM.index()];
    assert!(parse_one_as(body, Some(ROOM)).is_ok());
    let rejected = parse_one_as(body, Some(EventType::Traffic)).unwrap_err();
    assert_eq!(rejected.claimed_type(), Some(ROOM));
    let errors = errors_of(rejected);
    assert_eq!(
        (errors[0].pointer.as_str(), errors[0].code.as_str()),
        ("/type", "type_mismatch")
    );
    assert_eq!(errors.len(), 1);
    // Another spelling is not another type.
    assert!(parse_one_as(&with(ROOM, "/type", json!("room_occupancy")), Some(ROOM)).is_ok());
    // An unknown type is unknown on every URL.
    let rejected = parse_one_as("{\"type\":\"x\"}", Some(ROOM)).unwrap_err();
    assert!(
        errors_of(rejected)
            .iter()
            .any(|error| error.code == FieldErrorCode::UnknownType)
    );
}

#[test]
fn ids() {
    for valid in ["x", &"x".repeat(256), "日本語", "a b/~\"\\", "\u{1f600}"] {
        assert_eq!(
            parse_one(&with(ROOM, "/id", json!(valid))).unwrap().id(),
            valid
        );
        assert_eq!(
            parse_one(&with(ROOM, "/metadata/room_id", json!(valid)))
                .unwrap()
                .space_id(),
            valid
        );
    }
    for pointer in ["/id", "/metadata/room_id"] {
        for (value, code) in [
            (json!(""), "empty"),
            (json!("x".repeat(257)), "too_long"),
            (json!("é".repeat(129)), "too_long"),
            (json!("a\nb"), "control_character"),
            (json!("\u{7f}"), "control_character"),
            (json!("\u{85}"), "control_character"),
            (json!(null), "wrong_type"),
            (json!(5), "wrong_type"),
            (json!(true), "wrong_type"),
            (json!({}), "wrong_type"),
            (json!(["x"]), "wrong_type"),
        ] {
            assert_errors(&with(ROOM, pointer, value), &[(pointer, code)]);
        }
        assert_errors(&without(ROOM, pointer), &[(pointer, "missing")]);
    }
}

#[test]
fn timestamps() {
    for (literal, value) in [
        ("0", 0),
        ("-0", 0),
        ("-0.0", 0),
        ("1.7e12", 1_700_000_000_000),
        ("1727735832000.0", 1_727_735_832_000),
        ("253402300799999", MAX_TIMESTAMP_MS),
        ("2.53402300799999E+14", MAX_TIMESTAMP_MS),
    ] {
        assert_eq!(
            parse_one(&with_literal(ROOM, "/timestamp", literal))
                .unwrap()
                .timestamp_ms(),
            value,
            "{literal}"
        );
    }
    for (literal, code) in [
        ("-1", "out_of_range"),
        ("253402300800000", "out_of_range"),
        ("18446744073709551616", "out_of_range"),
        ("1e999", "out_of_range"),
        ("-1e999", "out_of_range"),
        ("1.5", "not_integral"),
        ("1e-999", "not_integral"),
        ("\"1727735832000\"", "wrong_type"),
        ("null", "wrong_type"),
        ("[]", "wrong_type"),
    ] {
        assert_errors(
            &with_literal(ROOM, "/timestamp", literal),
            &[("/timestamp", code)],
        );
    }
    assert_errors(&without(ROOM, "/timestamp"), &[("/timestamp", "missing")]);
}

#[test]
fn versions() {
    for valid in ["v1", "v1.2", "v1.20.3"] {
        assert_valid(&with(ROOM, "/version", json!(valid)));
    }
    for (value, code) in [
        (json!("v2"), "unsupported_version"),
        (json!("v2.0.0"), "unsupported_version"),
        (json!("v0.1"), "unsupported_version"),
        (json!("V1"), "invalid_version"),
        (json!("1.0.0"), "invalid_version"),
        (json!(""), "invalid_version"),
        (json!(1), "wrong_type"),
        (json!(null), "wrong_type"),
    ] {
        assert_errors(&with(ROOM, "/version", value), &[("/version", code)]);
    }
    assert_errors(&without(ROOM, "/version"), &[("/version", "missing")]);
}

#[test]
fn metadata_is_an_object() {
    assert_errors(&without(ROOM, "/metadata"), &[("/metadata", "missing")]);
    // An array with one item per documented field is not an object either.
    let array = json!(rules::METADATA.as_array().map(|_| "x"));
    for value in [json!(null), json!([]), array, json!("x"), json!(1)] {
        assert_errors(
            &with(ROOM, "/metadata", value),
            &[("/metadata", "wrong_type")],
        );
    }
    assert_errors(
        &with(ROOM, "/metadata", json!({})),
        &[("/metadata/room_id", "missing")],
    );
}

#[test]
fn documented_metadata_are_strings_or_null() {
    for name in rules::METADATA.as_array() {
        let pointer = format!("/metadata/{name}");
        for event_type in EventType::ALL {
            for value in [json!(1), json!(false), json!([]), json!({"a": 1})] {
                assert_errors(
                    &with(event_type, &pointer, value),
                    &[(&pointer, "wrong_type")],
                );
            }
        }
        if *name != "room_id" {
            assert_valid(&with(ROOM, &pointer, json!(null)));
            assert_valid(&with(ROOM, &pointer, json!("any \n thing")));
            assert_valid(&with(ROOM, &pointer, json!("")));
        }
    }
    for value in [json!(1), json!({"org_id": 5}), json!(null)] {
        assert_valid(&with(ROOM, "/metadata/organisation", value));
    }
}

#[test]
fn optional_ids_that_are_null_or_empty_are_none() {
    for value in [json!(null), json!("")] {
        let body = changed(ROOM, |event| {
            event["metadata"]["org_id"] = value.clone();
            event["metadata"]["sensor_id"] = value;
        });
        let event = parse_one(&body).unwrap();
        assert_eq!((event.org_id(), event.sensor_id()), (None, None));
    }
    let body = without(ROOM, "/metadata/org_id");
    assert_eq!(parse_one(&body).unwrap().org_id(), None);
}

#[test]
fn sensors_need_a_room_or_a_floor() {
    for event_type in [EventType::Detections, EventType::Traffic] {
        let floor = sample(event_type)["metadata"]["floor_id"].clone();
        for body in [
            without(event_type, "/metadata/room_id"),
            with(event_type, "/metadata/room_id", json!(null)),
        ] {
            assert_eq!(parse_one(&body).unwrap().space_id(), floor);
        }
        // An empty or wrong room is an error, not an absent room.
        assert_errors(
            &with(event_type, "/metadata/room_id", json!("")),
            &[("/metadata/room_id", "empty")],
        );
        assert_errors(
            &with(event_type, "/metadata/room_id", json!(7)),
            &[("/metadata/room_id", "wrong_type")],
        );
        let bare = with(event_type, "/metadata", json!({"room_id": null}));
        assert_errors(&bare, &[("/metadata/floor_id", "missing")]);
        assert!(errors_in(&bare)[0].detail.contains("room_id"));
        let null = with(event_type, "/metadata", json!({"floor_id": null}));
        assert_errors(&null, &[("/metadata/floor_id", "wrong_type")]);
        // With a room, the floor is optional.
        assert_valid(&with(event_type, "/metadata", json!({"room_id": "r"})));
    }
}

#[test]
fn each_type_needs_its_own_space() {
    for (event_type, field) in [
        (EventType::FloorOccupancy, "floor_id"),
        (EventType::FloorOccupancy1Min, "floor_id"),
        (EventType::RoomOccupancy, "room_id"),
        (EventType::RoomOccupancy1Min, "room_id"),
        (EventType::ZoneOccupancy, "zone_id"),
        (EventType::ZoneOccupancy1Min, "zone_id"),
        (EventType::PirMotion, "room_id"),
        (EventType::PirNoMotion, "room_id"),
    ] {
        let pointer = format!("/metadata/{field}");
        let others = json!({"floor_id": "f", "room_id": "r", "zone_id": "z"});
        let body = with(event_type, "/metadata", others);
        assert_eq!(parse_one(&body).unwrap().space_id(), &field[..1]);
        assert_errors(&without(event_type, &pointer), &[(&pointer, "missing")]);
        assert_errors(
            &with(event_type, &pointer, json!(null)),
            &[(&pointer, "wrong_type")],
        );
        assert_valid(&with(event_type, "/metadata", json!({field: "x"})));
    }
}

const COUNTS: [(&str, Option<&str>); 15] = [
    ("0", None),
    ("-0", None),
    ("4.0", None),
    ("4e0", None),
    ("9007199254740991", None),
    ("9007199254740992", Some("out_of_range")),
    ("-1", Some("out_of_range")),
    ("1e999", Some("out_of_range")),
    ("4.5", Some("not_integral")),
    ("-4.5", Some("not_integral")),
    ("null", Some("wrong_type")),
    ("\"4\"", Some("wrong_type")),
    ("true", Some("wrong_type")),
    ("[4]", Some("wrong_type")),
    ("{}", Some("wrong_type")),
];

#[test]
fn occupancy_is_a_count() {
    for event_type in &EventType::ALL[2..8] {
        for (literal, code) in COUNTS {
            let body = with_literal(*event_type, "/data", literal);
            match code {
                None => assert_valid(&body),
                Some(code) => assert_errors(&body, &[("/data", code)]),
            }
        }
        assert_errors(&without(*event_type, "/data"), &[("/data", "missing")]);
    }
}

#[test]
fn traffic_is_two_counts() {
    const TRAFFIC: EventType = EventType::Traffic;
    for field in ["in", "out"] {
        let pointer = format!("/data/{field}");
        for (literal, code) in COUNTS {
            let body = with_literal(TRAFFIC, &pointer, literal);
            match code {
                None => assert_valid(&body),
                Some(code) => assert_errors(&body, &[(&pointer, code)]),
            }
        }
        assert_errors(&without(TRAFFIC, &pointer), &[(&pointer, "missing")]);
    }
    assert_errors(&without(TRAFFIC, "/data"), &[("/data", "missing")]);
    assert_errors(
        &with(TRAFFIC, "/data", json!({})),
        &[("/data/in", "missing"), ("/data/out", "missing")],
    );
    for value in [json!(null), json!(4), json!([0, 1])] {
        assert_errors(&with(TRAFFIC, "/data", value), &[("/data", "wrong_type")]);
    }
    assert_valid(&with(
        TRAFFIC,
        "/data",
        json!({"in": 1, "out": 2, "net": -1.5, "local": 3}),
    ));
}

#[test]
fn detections_are_two_lists_of_points() {
    const DETECTIONS: EventType = EventType::Detections;
    for valid in [
        r#"{"local":[],"world":[]}"#,
        r#"{"world":[[1,2],[-0.5,1e3],[1E-400,-0]],"local":[]}"#,
        r#"{"local":[[0,0]],"world":[],"height":[1,"x"],"score":1e999}"#,
        r#"{"local":[[1.7976931348623157e308,18446744073709551616]],"world":[]}"#,
    ] {
        assert_valid(&with_literal(DETECTIONS, "/data", valid));
        // The same data after the type, which is read in one pass.
        let (before, after) = SAMPLES[0].split_once("\"data\":").unwrap();
        assert!(after.starts_with(' '));
        assert_valid(&format!("{before}\"data\":{valid}}}"));
    }
    for (data, expected) in [
        (r#"{"local":[]}"#, vec![("/data/world", "missing")]),
        (
            r#"{}"#,
            vec![("/data/local", "missing"), ("/data/world", "missing")],
        ),
        (
            r#"{"local":null,"world":{}}"#,
            vec![("/data/local", "wrong_type"), ("/data/world", "wrong_type")],
        ),
        (
            r#"{"local":[1],"world":[[]]}"#,
            vec![
                ("/data/local/0", "wrong_type"),
                ("/data/world/0", "not_a_pair"),
            ],
        ),
        (
            r#"{"local":[[1,2],[1]],"world":[[1,2,3]]}"#,
            vec![
                ("/data/local/1", "not_a_pair"),
                ("/data/world/0", "not_a_pair"),
            ],
        ),
        (
            r#"{"local":[[1,"2"],[null,1]],"world":[[1e999,-1e999]]}"#,
            vec![
                ("/data/local/0/1", "wrong_type"),
                ("/data/local/1/0", "wrong_type"),
                ("/data/world/0/0", "out_of_range"),
                ("/data/world/0/1", "out_of_range"),
            ],
        ),
        (
            r#"{"local":[["a",2,3]],"world":[]}"#,
            vec![
                ("/data/local/0/0", "wrong_type"),
                ("/data/local/0", "not_a_pair"),
            ],
        ),
        ("[]", vec![("/data", "wrong_type")]),
        ("null", vec![("/data", "wrong_type")]),
        ("4", vec![("/data", "wrong_type")]),
    ] {
        assert_errors(&with_literal(DETECTIONS, "/data", data), &expected);
    }
    assert_errors(&without(DETECTIONS, "/data"), &[("/data", "missing")]);
}

#[test]
fn motion_requires_no_data() {
    for event_type in [EventType::PirMotion, EventType::PirNoMotion] {
        for literal in ["null", "{}", r#"{"in":"x","in":1e999}"#] {
            assert_valid(&with_literal(event_type, "/data", literal));
        }
        for literal in ["0", "[]", "\"\"", "false"] {
            assert_errors(
                &with_literal(event_type, "/data", literal),
                &[("/data", "wrong_type")],
            );
        }
    }
}

#[test]
fn documented_keys_occur_once() {
    let with_repeated_key = |event_type: EventType, key: &str| {
        // Insert the key and its value once more before its first occurrence.
        let text = sample(event_type).to_string();
        let at = text.find(&format!("\"{key}\":")).unwrap();
        let value: &str = serde_json::Deserializer::from_str(&text[at + key.len() + 3..])
            .into_iter::<&serde_json::value::RawValue>()
            .next()
            .unwrap()
            .unwrap()
            .get();
        format!("{}\"{key}\":{value},{}", &text[..at], &text[at..])
    };
    for key in rules::ENVELOPE.as_array() {
        assert_errors(
            &with_repeated_key(ROOM, key),
            &[(&format!("/{key}"), "duplicate_key")],
        );
    }
    for event_type in EventType::ALL {
        for (key, _) in sample(event_type)["metadata"].as_object().unwrap() {
            assert_errors(
                &with_repeated_key(event_type, key),
                &[(&format!("/metadata/{key}"), "duplicate_key")],
            );
        }
    }
    for (event_type, keys) in [
        (EventType::Traffic, ["in", "out"]),
        (EventType::Detections, ["local", "world"]),
    ] {
        for key in keys {
            assert_errors(
                &with_repeated_key(event_type, key),
                &[(&format!("/data/{key}"), "duplicate_key")],
            );
        }
    }
    // In any spelling of the key, and with any second value.
    let text = SAMPLES[ROOM.index()];
    let escaped = text.replacen('{', r#"{"\u0069d":null,"#, 1);
    assert_errors(&escaped, &[("/id", "duplicate_key"), ("/id", "wrong_type")]);
    // Three occurrences are one error.
    assert_errors(
        &text.replacen('{', r#"{"id":"a","id":"b","#, 1),
        &[("/id", "duplicate_key")],
    );
    // Unknown keys may be repeated.
    assert_valid(&text.replacen('{', r#"{"new":1,"new":{"id":1,"id":2},"#, 1));
    assert_valid(&text.replacen("\"org_id\"", r#""new":1,"new":2,"id":1,"id":2,"org_id""#, 1));
}

#[test]
fn keys_and_values_may_be_written_with_escapes() {
    let text = SAMPLES[ROOM.index()]
        .replace("\"id\"", r#""\u0069\u0064""#)
        .replace("\"metadata\"", r#""met\u0061data""#)
        .replace("\"room_id\"", r#""room\u005fid""#)
        .replace("\"ROOM_OCCUPANCY\"", r#""ROOM\u005fOCCUPANCY""#)
        .replace("\"v1.0.0\"", r#""\u00761.0.0""#)
        .replace("\"room_2p", r#""\/\ud83d\ude00room_2p"#);
    let event = parse_one(&text).unwrap();
    assert_eq!(event.event_type(), ROOM);
    assert!(event.space_id().starts_with("/\u{1f600}room_2p"));
    assert_eq!(event.raw(), text.trim().as_bytes());
    assert_errors(
        &text.replace("1.0.0", "x"),
        &[("/version", "invalid_version")],
    );
    // An escaped control character is still a control character.
    assert_errors(
        &SAMPLES[4].replace("\"event_", r#""\u0000event_"#),
        &[("/id", "control_character")],
    );
}

#[test]
fn all_errors_are_reported_in_the_order_of_the_fields() {
    let body = r#"{
        "data": {"in": -1, "in": 0},
        "metadata": {"zone_name": 1, "org_id": [], "room_id": "", "floor_id": {}},
        "version": "v3",
        "timestamp": 0.5,
        "type": "TRAFFIC",
        "id": ""
    }"#;
    assert_errors(
        body,
        &[
            ("/id", "empty"),
            ("/timestamp", "not_integral"),
            ("/version", "unsupported_version"),
            ("/metadata/org_id", "wrong_type"),
            ("/metadata/floor_id", "wrong_type"),
            ("/metadata/room_id", "empty"),
            ("/metadata/zone_name", "wrong_type"),
            ("/data/in", "duplicate_key"),
            ("/data/in", "out_of_range"),
            ("/data/out", "missing"),
        ],
    );
    assert_eq!(
        parse_one(body).unwrap_err().claimed_type(),
        Some(EventType::Traffic)
    );
    assert_errors(
        "{}",
        &[
            ("/id", "missing"),
            ("/type", "missing"),
            ("/timestamp", "missing"),
            ("/version", "missing"),
            ("/metadata", "missing"),
        ],
    );
    // Rules that do not depend on the type are checked without a known type.
    assert_errors(
        r#"{"type":"X","id":1,"timestamp":-1,"metadata":{"room_id":5},"data":"?"}"#,
        &[
            ("/id", "wrong_type"),
            ("/type", "unknown_type"),
            ("/timestamp", "out_of_range"),
            ("/version", "missing"),
            ("/metadata/room_id", "wrong_type"),
        ],
    );
}

#[test]
fn errors_are_limited() {
    let points = "[\"x\"],".repeat(20_000) + "[1,2]";
    let body = with_literal(
        EventType::Detections,
        "/data",
        &format!(r#"{{"local":[{points}],"world":[{points}]}}"#),
    );
    let errors = error_codes_in(&body);
    assert_eq!(errors.len(), MAX_FIELD_ERRORS);
    assert_eq!(errors[0], ("/data/local/0/0".to_owned(), "wrong_type"));
    let fields: Vec<_> = rules::METADATA
        .as_array()
        .iter()
        .map(|name| format!("\"{name}\":1,\"{name}\":2"))
        .collect();
    let body = format!("{{\"metadata\":{{{}}}}}", fields.join(","));
    assert_eq!(errors_in(&body).len(), MAX_FIELD_ERRORS);
}

#[test]
fn details_are_single_line_sentences_with_short_quotes() {
    let bodies = [
        with(ROOM, "/id", json!("\u{1b}[2J\r\n\u{202e}".repeat(1000))),
        with(ROOM, "/id", json!("\u{7f}\n\u{2028}\u{9b}1m")),
        with(ROOM, "/type", json!("\n\u{0}FAKE LOG LINE".repeat(1000))),
        with(ROOM, "/version", json!("\n\u{9b}".repeat(1000))),
        with_literal(ROOM, "/timestamp", &"9".repeat(10_000)),
        with_literal(ROOM, "/data", &format!("0.{}", "9".repeat(10_000))),
        with(ROOM, "/metadata/org_id", json!(["\n".repeat(1000)])),
        with(ROOM, "/metadata", json!("\n".repeat(1000))),
        "{}".to_owned(),
        "\"\\n\"".to_owned(),
    ];
    for body in bodies {
        for error in errors_in(&body) {
            let detail = &error.detail;
            assert!(detail.len() < 400, "{detail}");
            assert!(detail.ends_with('.'), "{detail}");
            assert!(
                !detail
                    .chars()
                    .any(|c| c.is_control() || "\u{2028}\u{202e}".contains(c)),
                "{detail:?}"
            );
            assert!(!error.to_string().contains('\n'));
        }
    }
}

#[test]
fn errors_are_serialised_for_the_response() {
    let errors = errors_in(&with(ROOM, "/data", json!(-4)));
    assert_eq!(
        serde_json::to_value(&errors).unwrap(),
        json!([{
            "pointer": "/data",
            "code": "out_of_range",
            "detail": "data of ROOM_OCCUPANCY must be a whole number from 0 to 9007199254740991 (2^53 - 1), \
                       but it is the number -4.",
        }])
    );
}

#[test]
fn json_other_than_an_object_is_not_an_event() {
    for body in ["5", "null", "true", "\"x\"", "-0.5e3", " 5 ", "1e999"] {
        assert_errors(body, &[("", "wrong_type")]);
        assert_eq!(parse_one(body).unwrap_err().claimed_type(), None);
    }
}

#[test]
fn unknown_parts_are_kept_as_received() {
    let text = SAMPLES[ROOM.index()].replacen(
        '{',
        r#"{ "new" : [1e999, -1E-999, {"id":1,"id":2}, "\ud83d\ude00", 18446744073709551616], "": {} ,"#,
        1,
    );
    let body = format!("\r\n\t {text} \n");
    assert_eq!(parse_one(&body).unwrap().raw(), text.trim().as_bytes());
}

#[test]
fn numbers_too_large_for_a_double_matter_only_in_known_fields() {
    assert_errors(
        &with_literal(ROOM, "/data", "1e999"),
        &[("/data", "out_of_range")],
    );
    assert_valid(&with_literal(ROOM, "/new", "1e999"));
    assert_valid(&with_literal(ROOM, "/metadata/new", "-1e999"));
    assert_errors(
        &with_literal(ROOM, "/metadata/org_id", "1e999"),
        &[("/metadata/org_id", "wrong_type")],
    );
}

#[test]
fn text_that_is_not_json() {
    let good = SAMPLES[ROOM.index()];
    for body in [
        "",
        " \n",
        "{",
        "[",
        "{]",
        "nul",
        "NaN",
        "Infinity",
        "-",
        "01",
        "1.",
        ".5",
        "+1",
        "0x10",
        "'a'",
        "{}{}",
        "{} x",
        "{},",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "[1,]",
        "// x\n{}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "\u{a0}{}",
        "{\"data\":NaN}",
        "{\"new\":NaN}",
        "{\"data\":01}",
        "\"",
        "\0",
    ] {
        let error = parse_unreadable(body.as_bytes());
        assert_eq!(
            (error.code.as_str(), error.code.status()),
            ("not_json", 400),
            "{body}"
        );
        assert!(
            error.detail.ends_with('.') && error.detail.len() < 200,
            "{}",
            error.detail
        );
    }
    for literal in ["NaN", "-Infinity", "007", "1.", "\"\t\"", "'4'"] {
        for pointer in [
            "/data",
            "/new",
            "/metadata/new",
            "/timestamp",
            "/metadata/org_id",
        ] {
            let body = with_literal(ROOM, pointer, literal);
            assert_eq!(
                parse_unreadable(body.as_bytes()).code,
                UnreadableBodyCode::NotJson,
                "{body}"
            );
            let body = format!("[{good},{body}]");
            assert_eq!(
                parse_unreadable(body.as_bytes()).code,
                UnreadableBodyCode::NotJson,
                "{body}"
            );
        }
    }
    assert!(parse_unreadable(b"").detail.contains("empty"));
    assert!(parse_unreadable(b"{\"id\":").detail.contains("cut off"));
    // The position is in the body, not in the event.
    let error = parse_unreadable(b"\n\n {\"id\":x}");
    assert!(error.detail.contains("line 3 column 8"), "{}", error.detail);
    let error = parse_unreadable(format!("[{},\n{{\"id\":x}}]", good.trim()).as_bytes());
    let line = good.trim().lines().count() + 1;
    assert!(
        error.detail.contains(&format!("line {line} column 7")),
        "{}",
        error.detail
    );
}

#[test]
fn bytes_that_are_not_utf8_or_have_a_byte_order_mark() {
    let mut body = SAMPLES[0].as_bytes().to_vec();
    body[20] = 0xff;
    assert_eq!(parse_unreadable(&body).code, UnreadableBodyCode::NotUtf8);
    // Also in parts that are not read: Latin-1, overlong, and as an encoded surrogate.
    for bytes in [
        &b"{\"new\":\"\xe9\"}"[..],
        b"{\"\xc0\x80\":1}",
        b"{\"a\":\"\xed\xa0\x80\"}",
        b"[{},\"\xf8\"]",
    ] {
        assert_eq!(parse_unreadable(bytes).code, UnreadableBodyCode::NotUtf8);
    }
    let error = parse_unreadable(b"\xef\xbb\xbf{}");
    assert_eq!(
        (error.code.as_str(), error.code.status()),
        ("byte_order_mark", 400)
    );
    assert_eq!(
        parse_unreadable(b"\xff\xfe{\0}\0").code,
        UnreadableBodyCode::NotUtf8
    );
}

#[test]
fn lone_surrogates_are_rejected_everywhere() {
    let good = SAMPLES[ROOM.index()];
    for bad in [
        good.replace("\"event_", r#""\ud800event_"#),
        good.replacen('{', r#"{"new":"\udfff","#, 1),
        good.replacen('{', r#"{"\udfff":1,"#, 1),
        good.replacen('{', r#"{"new":{"a":["\ud83d\ud83d"]},"#, 1),
        format!(r#"[{good},{{"a":"\ud83d"}}]"#),
    ] {
        let error = parse_unreadable(bad.as_bytes());
        assert_eq!(
            (error.code.as_str(), error.code.status()),
            ("lone_surrogate", 400),
            "{bad}"
        );
        assert!(error.detail.contains("line "), "{}", error.detail);
    }
    assert_valid(&good.replacen('{', r#"{"\ud83d\ude00":"\ud83d\ude00","#, 1));
}

#[test]
fn nesting_is_limited() {
    let good = SAMPLES[ROOM.index()];
    let nested = |levels: usize| {
        format!(
            "{}{}",
            "[{\"a\":".repeat(levels / 2),
            "}]".repeat(levels / 2)
        )
    };
    let with_depth = |levels: usize| {
        let inner = format!("{}1{}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        good.replacen('{', &format!("{{\"new\":{inner},"), 1)
    };
    assert_valid(&with_depth(64));
    assert_eq!(
        parse_unreadable(with_depth(65).as_bytes()).code,
        UnreadableBodyCode::TooDeep
    );
    // An array of events is a level.
    assert!(
        parse_many(&format!("[{},{}]", with_depth(63), good))
            .iter()
            .all(Result::is_ok)
    );
    assert_eq!(
        parse_unreadable(format!("[{good},{}]", with_depth(64)).as_bytes()).code,
        UnreadableBodyCode::TooDeep
    );
    // Brackets next to each other or in strings are not nested.
    let points = vec!["[1,2]"; 1000].join(",");
    assert_valid(&with_literal(
        EventType::Detections,
        "/data",
        &format!(r#"{{"local":[{points}],"world":[]}}"#),
    ));
    assert_valid(&with(ROOM, "/new", json!("[{\"".repeat(1000))));
    // Bombs, complete and cut off.
    for bomb in [
        "[".repeat(10_000_000),
        "{\"a\":".repeat(2_000_000),
        nested(1_000_000),
        "[".repeat(65),
    ] {
        assert_eq!(
            parse_unreadable(bomb.as_bytes()).code,
            UnreadableBodyCode::TooDeep
        );
    }
    let within = format!("[{good},{}]", nested(1000).replace("{\"a\":}", "{}"));
    assert_eq!(
        parse_unreadable(within.as_bytes()).code,
        UnreadableBodyCode::TooDeep
    );
}

#[test]
fn every_sample_cut_off_anywhere_is_unreadable() {
    for text in SAMPLES {
        let text = text.trim();
        for end in 0..text.len() {
            let error = parse_unreadable(&text.as_bytes()[..end]);
            assert_eq!(error.code, UnreadableBodyCode::NotJson);
        }
    }
    let array = format!("[{},{}]", SAMPLES[0].trim(), r#"{"é":"\ud83d\ude00\n"}"#);
    for end in 0..array.len() {
        assert_eq!(
            parse_unreadable(&array.as_bytes()[..end]).code.status(),
            400
        );
    }
}

#[test]
fn items_of_an_array_are_checked_one_by_one() {
    let body = format!(
        " [\n{} , {{}} ,5, [{{}}],\t{}] ",
        SAMPLES[0].trim(),
        SAMPLES[4].trim()
    );
    let events = parse_many(&body);
    assert_eq!(events.len(), 5);
    assert_eq!(
        events[0].as_ref().unwrap().raw(),
        SAMPLES[0].trim().as_bytes()
    );
    assert_eq!(
        events[4].as_ref().unwrap().raw(),
        SAMPLES[4].trim().as_bytes()
    );
    assert_eq!(errors_of(events[1].clone().unwrap_err()).len(), 5);
    for item in [&events[2], &events[3]] {
        let errors = errors_of(item.clone().unwrap_err());
        assert_eq!(
            (errors[0].pointer.as_str(), errors[0].code),
            ("", FieldErrorCode::WrongType)
        );
        assert_eq!(errors.len(), 1);
    }
}

#[test]
fn arrays_hold_at_least_one_event_and_not_too_many() {
    for body in ["[]", " [ ] "] {
        let error = parse_unreadable(body.as_bytes());
        assert_eq!(
            (error.code.as_str(), error.code.status()),
            ("empty_array", 422)
        );
    }
    let array = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
    assert_eq!(parse_many(&array(1000)).len(), 1000);
    let error = parse_unreadable(array(1001).as_bytes());
    assert_eq!(
        (error.code.as_str(), error.code.status()),
        ("too_many_events", 422)
    );
    let error = parse_unreadable(array(5000).as_bytes());
    assert!(
        error.detail.contains("5000") && error.detail.contains("1000"),
        "{}",
        error.detail
    );
    // A syntax error comes before the limit.
    assert_eq!(
        parse_unreadable(array(5000).replace("{}]", "{]").as_bytes()).code,
        UnreadableBodyCode::NotJson
    );
    let deep = format!(
        "[{},{}]",
        vec!["{}"; 2000].join(","),
        "[".repeat(70) + &"]".repeat(70)
    );
    assert_eq!(
        parse_unreadable(deep.as_bytes()).code,
        UnreadableBodyCode::TooDeep
    );
}

#[test]
fn events_larger_than_allowed() {
    let text = SAMPLES[ROOM.index()].trim();
    let body = format!("  {text}\n\n");
    let limits = |max_event_bytes| ParseLimits {
        max_events: 10,
        max_event_bytes,
    };
    let parsed = parse(body.as_bytes(), None, limits(text.len()));
    assert!(matches!(parsed, Ok(ParsedBody::Single(Ok(_)))));
    let Ok(ParsedBody::Single(Err(rejected))) =
        parse(body.as_bytes(), None, limits(text.len() - 1))
    else {
        panic!()
    };
    assert_eq!(
        rejected,
        RejectedItem::TooLarge {
            claimed_type: Some(ROOM),
            bytes: text.len()
        }
    );
    let array = format!("[{text}, {{}}, \"{}\"]", "x".repeat(text.len()));
    let Ok(ParsedBody::Array(events)) = parse(array.as_bytes(), None, limits(text.len() - 1))
    else {
        panic!()
    };
    assert_eq!(
        *events[0].as_ref().unwrap_err(),
        RejectedItem::TooLarge {
            claimed_type: Some(ROOM),
            bytes: text.len()
        }
    );
    assert!(matches!(events[1], Err(RejectedItem::Invalid { .. })));
    assert_eq!(
        *events[2].as_ref().unwrap_err(),
        RejectedItem::TooLarge {
            claimed_type: None,
            bytes: text.len() + 2
        }
    );
    // Too large, and not JSON.
    assert!(parse(&body.as_bytes()[..body.len() - 5], None, limits(10)).is_err());
    assert!(parse(b"\"0123456789", None, limits(10)).is_err());
}

#[test]
fn the_claimed_type_is_known_despite_other_errors() {
    let claimed = |body: &str| parse_one(body).unwrap_err().claimed_type();
    assert_eq!(
        claimed(r#"{"type":"room_occupancy_1m"}"#),
        Some(EventType::RoomOccupancy1Min)
    );
    assert_eq!(
        claimed(r#"{"data":[],"type":"\u0054RAFFIC"}"#),
        Some(EventType::Traffic)
    );
    assert_eq!(
        claimed(r#"{"type":"TRAFFIC","type":5}"#),
        Some(EventType::Traffic)
    );
    assert_eq!(claimed(r#"{"type":["TRAFFIC"]}"#), None);
    assert_eq!(claimed("{}"), None);
}
