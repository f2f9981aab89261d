//! Property tests of the parser, above all that `event_reader` and `diagnosis` agree.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::tests::SAMPLES;
use super::*;

const LIMITS: ParseLimits = ParseLimits {
    max_events: 20,
    max_event_bytes: 4096,
};

/// Any JSON value. Documented keys and values are mixed in, so that some come close to an event.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!("v1.0.0")),
        Just(json!("DETECTIONS")),
        Just(json!("TRAFFIC")),
        Just(json!("ROOM_OCCUPANCY")),
        Just(json!(1_727_735_832_000_i64)),
        Just(json!([1.5, 2])),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((any_key(), inner), 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => ".{0,5}",
        4 => prop::sample::select(
            ["id", "type", "timestamp", "version", "metadata", "data", "in", "out", "local", "world", "room_id", "floor_id"]
                .map(str::to_owned)
                .to_vec()
        ),
    ]
}

/// Valid JSON literal near the limits of the rules.
fn edge_literal() -> impl Strategy<Value = String> {
    let edge = [
        "null",
        "true",
        "0",
        "-0",
        "-0.0",
        "4.0",
        "1e999",
        "-1",
        "1.5",
        "1.7e12",
        "253402300799999",
        "253402300800000",
        "9007199254740991",
        "9007199254740992",
        "1e-999",
        "9007199254740991.5",
        "1.7976931348623158e308",
        "1.7976931348623159e308",
        "\"\"",
        "\"x\"",
        "\"\\u0000\"",
        "\"\u{85}\"",
        "\"v1\"",
        "\"v2\"",
        "\"v1.x\"",
        "\"TRAFFIC\"",
        "\"detections\"",
        "\"ROOM_OCCUPANCY_1M\"",
        "\"PIR_MOTION\"",
        "\"nothing\"",
        "[]",
        "{}",
        "[[1,2]]",
        "[[1]]",
        "[1,2]",
        "[[1,2],[1e999,0]]",
        "[[1,2,3]]",
        "{\"in\":1,\"out\":2}",
        "{\"in\":1,\"in\":1,\"out\":2}",
        "{\"local\":[],\"world\":[[0,-1.5]]}",
        "{\"local\":[],\"\\u006cocal\":[],\"world\":[]}",
        "{\"room_id\":\"r\"}",
        "{\"floor_id\":\"f\",\"zone_id\":\"z\"}",
        "{\"room_id\":null,\"floor_id\":\"f\"}",
        "{\"room_id\":\"r\",\"room_id\":\"r\"}",
    ];
    prop_oneof![
        8 => prop::sample::select(edge.map(str::to_owned).to_vec()),
        1 => Just(format!("\"{}\"", "x".repeat(256))),
        1 => Just(format!("\"{}\"", "x".repeat(257))),
        2 => any_json().prop_map(|value| value.to_string()),
        1 => "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
    ]
}

/// Fields of an object as text, so that keys can be repeated and reordered.
type FieldTexts = Vec<(String, String)>;

fn write_object(fields: &FieldTexts) -> String {
    let fields: Vec<_> = fields
        .iter()
        .map(|(key, value)| format!("{}:{value}", json!(key)))
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn read_fields(object: &Value) -> FieldTexts {
    let object = object.as_object().unwrap();
    object
        .iter()
        .map(|(key, value)| (key.clone(), value.to_string()))
        .collect()
}

#[derive(Clone, Debug)]
enum FieldMutation {
    Drop(prop::sample::Index),
    Replace(prop::sample::Index, String),
    Repeat(prop::sample::Index, String),
    Add(String, String),
    Swap(prop::sample::Index, prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = FieldMutation> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        index().prop_map(FieldMutation::Drop),
        (index(), edge_literal()).prop_map(|(at, value)| FieldMutation::Replace(at, value)),
        (index(), edge_literal()).prop_map(|(at, value)| FieldMutation::Repeat(at, value)),
        (any_key(), edge_literal()).prop_map(|(key, value)| FieldMutation::Add(key, value)),
        (index(), index()).prop_map(|(a, b)| FieldMutation::Swap(a, b)),
    ]
}

fn mutate(fields: &mut FieldTexts, mutation: FieldMutation) {
    if fields.is_empty() && !matches!(mutation, FieldMutation::Add(..)) {
        return;
    }
    let len = fields.len();
    match mutation {
        FieldMutation::Drop(at) => drop(fields.remove(at.index(len))),
        FieldMutation::Replace(at, value) => fields[at.index(len)].1 = value,
        FieldMutation::Repeat(at, value) => fields.push((fields[at.index(len)].0.clone(), value)),
        FieldMutation::Add(key, value) => fields.push((key, value)),
        FieldMutation::Swap(a, b) => fields.swap(a.index(len), b.index(len)),
    }
}

/// Sample with up to one change each to its envelope, its metadata and its data.
fn mutated_event() -> impl Strategy<Value = String> {
    let mutations = || prop::collection::vec(mutation(), 0..2);
    (0..SAMPLES.len(), mutations(), mutations(), mutations()).prop_map(
        |(sample, envelope, metadata, data)| {
            let event: Value = serde_json::from_str(SAMPLES[sample]).unwrap();
            let mut fields = read_fields(&event);
            for (key, mutations) in [("metadata", metadata), ("data", data)] {
                let Some(field) = fields.iter_mut().find(|(name, _)| name == key) else {
                    continue;
                };
                if event[key].is_object() {
                    let mut inner = read_fields(&event[key]);
                    mutations
                        .into_iter()
                        .for_each(|mutation| mutate(&mut inner, mutation));
                    field.1 = write_object(&inner);
                }
            }
            envelope
                .into_iter()
                .for_each(|mutation| mutate(&mut fields, mutation));
            write_object(&fields)
        },
    )
}

fn any_type() -> impl Strategy<Value = EventType> {
    prop::sample::select(EventType::ALL.to_vec())
}

/// Id that follows the rules.
fn valid_id() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,8}_[A-Za-z0-9]{27}", "\\PC{1,64}"]
        .prop_filter("a valid id", |id| rules::check_id(id).is_ok())
}

/// Generated event with the values that the parser must find.
#[derive(Clone, Debug)]
struct GeneratedEvent {
    body: String,
    id: String,
    event_type: EventType,
    timestamp_ms: i64,
    space_id: String,
    org_id: Option<String>,
}

fn valid_event() -> impl Strategy<Value = GeneratedEvent> {
    let points = || prop::collection::vec(prop::array::uniform2(-1e300..1e300_f64), 0..40);
    (
        (
            any_type(),
            any::<bool>(),
            valid_id(),
            valid_id(),
            prop::option::of("\\PC{1,20}"),
        ),
        (
            0..=MAX_TIMESTAMP_MS,
            0..=MAX_COUNT,
            0..=MAX_COUNT,
            points(),
            points(),
        ),
        (
            prop::sample::select(vec!["v1", "v1.0", "v1.7.13"]),
            any_json(),
            any::<bool>(),
            "[ \t\r\n]{0,3}",
            any::<bool>(),
        ),
    )
        .prop_map(|(names, numbers, rest)| {
            let (event_type, lower, id, space_id, org_id) = names;
            let (timestamp_ms, one, two, local, world) = numbers;
            let (version, extra, on_the_floor, space, indented) = rest;
            let field = match rules::space_id_field(event_type) {
                rules::SpaceIdField::RoomOrFloor if on_the_floor => "floor_id",
                rules::SpaceIdField::RoomOrFloor => "room_id",
                rules::SpaceIdField::Named(index) => rules::METADATA.as_array()[index],
            };
            let name = event_type.name();
            let mut event = json!({
                "id": id,
                "type": if lower { name.to_lowercase() } else { name.to_owned() },
                "timestamp": timestamp_ms,
                "version": version,
                "metadata": {field: space_id, "org_id": org_id, "extra": extra, "room_name": "é\n"},
                "extra": extra,
            });
            match rules::data_kind(event_type) {
                rules::DataKind::Count => event["data"] = json!(one),
                rules::DataKind::Traffic => {
                    event["data"] = json!({"in": one, "out": two, "extra": extra})
                }
                rules::DataKind::Detections => {
                    event["data"] = json!({"local": local, "world": world, "extra": extra})
                }
                rules::DataKind::OptionalObject => {}
            }
            let text = if indented {
                serde_json::to_string_pretty(&event)
            } else {
                serde_json::to_string(&event)
            };
            let body = format!("{space}{}{space}", text.unwrap());
            GeneratedEvent {
                body,
                id,
                event_type,
                timestamp_ms,
                space_id,
                org_id,
            }
        })
}

fn with_cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn parse_only(body: &str, expected: Option<EventType>) -> ItemResult<'_> {
    match parse(
        body.as_bytes(),
        expected,
        ParseLimits {
            max_events: 1,
            max_event_bytes: usize::MAX,
        },
    ) {
        Ok(ParsedBody::Single(event)) => event,
        other => panic!("{other:?} for {body}"),
    }
}

proptest! {
    #![proptest_config(with_cases(2000))]

    #[test]
    fn any_bytes_are_parsed_without_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&body, None, LIMITS);
    }

    #[test]
    fn anything_like_json_is_parsed_without_panic(body in "[\\[\\]{}\",:\\\\/ubfnrtdDcC0-9.eE+ -]{0,60}") {
        let _ = parse(body.as_bytes(), Some(EventType::Traffic), LIMITS);
    }

    #[test]
    fn samples_with_changed_bytes_are_parsed_without_panic(
        sample in 0..SAMPLES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = SAMPLES[sample].as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Ok(ParsedBody::Single(Err(RejectedItem::Invalid { errors, .. }))) = parse(&body, None, LIMITS) {
            prop_assert!(errors.iter().all(|error| error.code != FieldErrorCode::Invalid), "{errors:?}");
        }
    }

    /// A body is rejected as not JSON exactly if serde_json cannot read it.
    #[test]
    fn syntax_is_that_of_json(body in "[\\[\\]{}\",:\\\\u0-9.eE+ truefalsn-]{0,20}") {
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok();
        let is_rejected = matches!(parse(body.as_bytes(), None, LIMITS), Err(error) if error.code.status() == 400);
        prop_assert_eq!(is_json, !is_rejected);
    }
}

proptest! {
    #![proptest_config(with_cases(1000))]

    #[test]
    fn any_json_is_accepted_or_has_errors(value in any_json(), expected in prop::option::of(any_type())) {
        let body = value.to_string();
        match parse(body.as_bytes(), expected, LIMITS) {
            Ok(ParsedBody::Single(Err(RejectedItem::Invalid { errors, .. }))) => {
                prop_assert!((1..=MAX_FIELD_ERRORS).contains(&errors.len()));
                prop_assert!(errors.iter().all(|error| error.code != FieldErrorCode::Invalid), "{errors:?}");
            }
            Ok(ParsedBody::Array(events)) => prop_assert_eq!(events.len(), value.as_array().unwrap().len()),
            Ok(ParsedBody::Single(_)) => {}
            Err(error) => prop_assert_eq!(error.code.status(), if value.is_array() { 422 } else { 400 }),
        }
    }

    /// The invariant: `event_reader` accepts an event exactly if `diagnosis` finds no error.
    #[test]
    fn reader_and_diagnosis_agree(body in mutated_event(), expected in prop::option::weighted(0.1, any_type())) {
        let accepted = event_reader::read_event(&body, expected).is_some();
        let Ok(RejectedItem::Invalid { errors, .. }) = diagnosis::diagnose(&body, expected) else {
            return Err(TestCaseError::fail("not JSON"));
        };
        prop_assert!(!errors.is_empty() && errors.len() <= MAX_FIELD_ERRORS);
        // The diagnosis uses this code if it finds no error.
        let found_none = errors[0].code == FieldErrorCode::Invalid;
        prop_assert_eq!(accepted, found_none, "{:?}", errors);
        // Each error's pointer leads to a value, unless the field is missing. (Of a repeated key,
        // `Value` keeps the last one, and it cannot hold numbers too large for a double.)
        let has_duplicate = errors.iter().any(|error| error.code == FieldErrorCode::DuplicateKey);
        if !found_none
            && !has_duplicate
            && let Ok(value) = serde_json::from_str::<Value>(&body)
        {
            for error in &errors {
                let exists = value.pointer(&error.pointer).is_some();
                prop_assert_eq!(exists, error.code != FieldErrorCode::Missing, "{}", error);
            }
        }
        let limits = ParseLimits { max_events: 1, max_event_bytes: usize::MAX };
        let parsed = parse(body.as_bytes(), expected, limits);
        prop_assert!(matches!(parsed, Ok(ParsedBody::Single(event)) if event.is_ok() == accepted));
    }

    #[test]
    fn valid_events_are_read_with_all_values(generated in valid_event()) {
        let event = parse_only(&generated.body, Some(generated.event_type));
        prop_assert!(event.is_ok(), "{event:?}");
        let event = event.unwrap();
        prop_assert_eq!(event.id(), &generated.id);
        prop_assert_eq!(event.event_type(), generated.event_type);
        prop_assert_eq!(event.timestamp_ms(), generated.timestamp_ms);
        prop_assert_eq!(event.space_id(), &generated.space_id);
        prop_assert_eq!(event.org_id(), generated.org_id.as_deref());
        prop_assert_eq!(event.raw(), generated.body.trim_matches([' ', '\t', '\r', '\n']).as_bytes());
    }

    /// An event in an array has the same result and the same bytes as on its own.
    #[test]
    fn events_in_an_array_do_not_affect_each_other(bodies in prop::collection::vec(mutated_event(), 1..6), space in "[ \t\r\n]{0,2}") {
        let array = format!("{space}[{space}{}{space}]", bodies.join(&format!("{space},{space}")));
        let limits = ParseLimits { max_events: 6, max_event_bytes: usize::MAX };
        let Ok(ParsedBody::Array(events)) = parse(array.as_bytes(), None, limits) else {
            return Err(TestCaseError::fail("not an array"));
        };
        prop_assert_eq!(events.len(), bodies.len());
        for (event, body) in events.into_iter().zip(&bodies) {
            match (event, parse_only(body, None)) {
                (Ok(event), Ok(alone)) => {
                    prop_assert_eq!(event.raw(), body.as_bytes());
                    prop_assert_eq!(event.id(), alone.id());
                }
                (Err(rejected), Err(alone)) => prop_assert_eq!(rejected, alone),
                _ => return Err(TestCaseError::fail("another result in an array")),
            }
        }
    }
}
