use std::borrow::Cow;

use super::*;
use crate::marks::{DuplicateKind, Revision};
use crate::provenance::QuarantineDetails;
use butlr_event::EventType;
use butlr_event::event_id::EventId;

const ROOM: Destination = Destination::Events(EventType::RoomOccupancy);
const EVENT: &str = r#"{
  "id": "event_1", "type": "ROOM_OCCUPANCY", "timestamp": 1700000000000, "version": "v1.0.0",
  "metadata": {"org_id": "org_1", "room_id": "room_1"}, "data": 4
}"#;

fn encoded(marks: Marks, replayed_from: Option<ReplayOrigin>, value: &str) -> Vec<u8> {
    let content = EntryContent::Event {
        marks,
        replayed_from,
    };
    let value = Cow::Borrowed(value.as_bytes());
    SpoolEntry {
        received_ms: 1_700_000_000_123,
        in_doubt: true,
        content,
        value,
    }
    .encode()
}

fn marked() -> Marks {
    Marks {
        duplicate: Some(DuplicateKind::Repeat),
        revision: Some(Revision {
            number: 2,
            supersedes: EventId::new("event_0"),
        }),
        stale: true,
        out_of_order: true,
        conflict: Some(0xdead_beef << 32),
    }
}

fn quarantined(value: &[u8]) -> Vec<u8> {
    let details = QuarantineDetails {
        codes: vec!["not_json".to_owned(), "x\u{1b}[2J".to_owned()],
        ..QuarantineDetails::default()
    };
    let content = EntryContent::Quarantined(details);
    SpoolEntry {
        received_ms: 0,
        in_doubt: false,
        content,
        value: Cow::Borrowed(value),
    }
    .encode()
}

fn json(line: &str) -> Value {
    assert!(!line.contains('\n'), "not one line: {line}");
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn all_fields_are_exported_with_the_value_on_the_same_line() {
    let origin = ReplayOrigin {
        topic: "q".to_owned(),
        partition: 1,
        offset: 7,
    };
    let bytes = encoded(marked(), Some(origin), EVENT);
    let line = json(&EntryDescription::from_spooled(ROOM, 9, &bytes, Some(9)).json_line());
    let value: Value = serde_json::from_str(EVENT).unwrap();
    let expected = json!({
        "destination": "ROOM_OCCUPANCY", "seq": 9, "received_at": "2023-11-14T22:13:20.123Z", "bytes": EVENT.len(),
        "in_doubt": true, "handed_over": true, "id": "event_1~deadbeef", "space_id": "room_1",
        "marks": { "duplicate": "repeat", "revision": 2, "supersedes": "event_0", "stale": true, "outoforder": true, "idconflict": true },
        "replayed_from": { "topic": "q", "partition": 1, "offset": 7 },
        "value": value,
    });
    assert_eq!(line, expected);
    let plain = encoded(Marks::default(), None, EVENT);
    let line = json(&EntryDescription::from_spooled(ROOM, 9, &plain, Some(8)).json_line());
    assert_eq!(
        (&line["handed_over"], &line["marks"]),
        (&json!(false), &json!({}))
    );
}

#[test]
fn numbers_and_repeated_keys_are_exported_unchanged() {
    let value = "{\"a\":1.000000000000000000001,\"a\":12345678901234567890123,\r\n\"b\":\"\\n\"}";
    let bytes = quarantined(value.as_bytes());
    let line = EntryDescription::from_spooled(Destination::Quarantine, 1, &bytes, None).json_line();
    json(&line);
    let expected = value.replace("\r\n", "  ");
    assert!(
        line.ends_with(&format!(",\"value\":{expected}}}")),
        "{line}"
    );
}

#[test]
fn values_that_are_not_json_are_exported_in_base64() {
    for value in [&b"\xff\x00{"[..], b"", b"{\"a\":", b"\"\xff\""] {
        let bytes = quarantined(value);
        let line = json(
            &EntryDescription::from_spooled(Destination::Quarantine, 1, &bytes, None).json_line(),
        );
        let decoded = STANDARD
            .decode(line["value_base64"].as_str().unwrap())
            .unwrap();
        assert_eq!((decoded.as_slice(), line.get("value")), (value, None));
        assert_eq!(line["quarantined"]["codes"][0], "not_json");
    }
}

#[test]
fn an_entry_of_a_later_release_is_exported_whole() {
    let mut bytes = quarantined(b"x");
    bytes[0] = 9;
    let described = EntryDescription::from_spooled(Destination::Quarantine, 1, &bytes, None);
    assert!(
        described
            .decode_error()
            .is_some_and(|reason| reason.contains("format 9"))
    );
    let line = json(&described.json_line());
    assert_eq!(
        STANDARD
            .decode(line["entry_base64"].as_str().unwrap())
            .unwrap(),
        bytes
    );
    assert!(described.text_line().contains("cannot be read"));
}

#[test]
fn text_lines_spell_out_marks_and_escape_control_characters() {
    let bytes = encoded(marked(), None, EVENT);
    let line = EntryDescription::from_spooled(ROOM, 9, &bytes, Some(9)).text_line();
    for remark in [
        "ROOM_OCCUPANCY",
        "2023-11-14T22:13:20.123Z",
        "in doubt",
        "handed over",
        "duplicate (repeat)",
        "revision 2",
        "stale",
        "out of order",
        "id conflict",
    ] {
        assert!(line.contains(remark), "{remark:?} is not in {line}");
    }
    let bytes = quarantined(b"\n");
    let line = EntryDescription::from_spooled(Destination::Quarantine, 1, &bytes, None).text_line();
    assert!(
        line.contains("not_json x\\u{1b}[2J") && !line.contains('\u{1b}'),
        "{line}"
    );
}

#[test]
fn dead_letters_show_their_reason() {
    let letter = DeadLetter {
        destination: ROOM,
        seq: 3,
        reason: "too large\nfor Kafka".to_owned(),
        at_ms: 1_700_000_000_000,
        value: encoded(Marks::default(), None, EVENT),
    };
    let described = EntryDescription::from_dead_letter(&letter);
    assert_eq!(
        json(&described.json_line())["set_aside"]["reason"],
        "too large\nfor Kafka"
    );
    assert!(
        described
            .text_line()
            .ends_with("set aside 2023-11-14T22:13:20.000Z: too large\\nfor Kafka")
    );
}

#[test]
fn every_time_can_be_formatted() {
    assert_eq!(format_timestamp(-1), "1970-01-01T00:00:00.000Z");
    assert_eq!(format_timestamp(i64::MAX), "9999-12-31T23:59:59.999Z");
}
