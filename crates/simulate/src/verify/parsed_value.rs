//! The event in a record's value, parsed by a small typed pass that is independent of the bridge's
//! parser.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::hash;
use butlr_event::EventType;

/// An event as it appears in a value.
#[derive(Debug, PartialEq)]
pub struct ParsedValue<'v> {
    /// Its id, `event_…`.
    pub id: Cow<'v, str>,
    /// Its type.
    pub event_type: EventType,
    /// Its time, ms since 1970.
    pub timestamp_ms: i64,
    /// The most specific space for its type.
    pub space: Cow<'v, str>,
    /// Its organisation.
    pub org: Option<Cow<'v, str>>,
    /// [`hash::hash_bytes`] of its `data`; of the empty string if it has none.
    pub data_hash: u64,
    /// [`hash::hash_bytes`] of the source within which order matters: the sensor for DETECTIONS and
    /// TRAFFIC, the space for all other types.
    pub source_hash: u64,
    /// TRAFFIC: number of people that entered minus those that left.
    pub net: i32,
}

#[derive(Deserialize)]
struct ValueJson<'v> {
    #[serde(borrow)]
    id: Cow<'v, str>,
    #[serde(rename = "type", borrow)]
    event_type: Cow<'v, str>,
    timestamp: i64,
    #[serde(borrow)]
    metadata: MetadataJson<'v>,
    #[serde(borrow)]
    data: Option<&'v RawValue>,
}

#[derive(Deserialize)]
struct MetadataJson<'v> {
    #[serde(borrow)]
    org_id: Option<TextJson<'v>>,
    #[serde(borrow)]
    floor_id: Option<TextJson<'v>>,
    #[serde(borrow)]
    room_id: Option<TextJson<'v>>,
    #[serde(borrow)]
    zone_id: Option<TextJson<'v>>,
    #[serde(borrow)]
    sensor_id: Option<TextJson<'v>>,
}

/// A string that serde borrows inside an `Option`, which it does not do for a plain `Cow`.
#[derive(Deserialize)]
#[serde(transparent)]
struct TextJson<'v>(#[serde(borrow)] Cow<'v, str>);

#[derive(Deserialize)]
struct TrafficJson {
    #[serde(rename = "in")]
    entered: u32,
    #[serde(rename = "out")]
    left: u32,
}

/// Parses a value.
///
/// # Errors
/// The reason why it is not an event.
pub fn parse(value: &[u8]) -> Result<ParsedValue<'_>, String> {
    // One check of the whole value is faster than one per string.
    let value = std::str::from_utf8(value).map_err(|e| e.to_string())?;
    let value: ValueJson<'_> = serde_json::from_str(value).map_err(|e| e.to_string())?;
    let event_type = EventType::parse(&value.event_type)
        .ok_or_else(|| format!("its type is {:?}", value.event_type))?;
    let metadata = value.metadata;
    let (space, field) = match event_type {
        EventType::FloorOccupancy | EventType::FloorOccupancy1Min => {
            (metadata.floor_id, "floor_id")
        }
        EventType::ZoneOccupancy | EventType::ZoneOccupancy1Min => (metadata.zone_id, "zone_id"),
        EventType::Detections | EventType::Traffic => (
            metadata.room_id.or(metadata.floor_id),
            "room_id or floor_id",
        ),
        EventType::RoomOccupancy
        | EventType::RoomOccupancy1Min
        | EventType::PirMotion
        | EventType::PirNoMotion => (metadata.room_id, "room_id"),
    };
    let data = value.data.map_or("", RawValue::get);
    let net = match event_type {
        EventType::Traffic => {
            let TrafficJson { entered, left } =
                serde_json::from_str(data).map_err(|e| format!("its data: {e}"))?;
            i32::try_from(i64::from(entered) - i64::from(left))
                .map_err(|_| "its data: too many people".to_owned())?
        }
        _ => 0,
    };
    let space = space.ok_or_else(|| format!("it has no {field}"))?.0;
    let sensor = match event_type {
        EventType::Detections | EventType::Traffic => metadata.sensor_id,
        _ => None,
    };
    let source = sensor.as_ref().map_or(&*space, |sensor| &*sensor.0);
    let source_hash = hash::hash_bytes(source.as_bytes());
    Ok(ParsedValue {
        id: value.id,
        event_type,
        timestamp_ms: value.timestamp,
        space,
        source_hash,
        org: metadata.org_id.map(|text| text.0),
        data_hash: hash::hash_bytes(data.as_bytes()),
        net,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event_type: &str, metadata: &str, data: &str) -> String {
        format!(
            r#"{{"id":"event_1","type":"{event_type}","timestamp":17,"version":"v1.0.0","metadata":{metadata},"data":{data}}}"#
        )
    }

    #[test]
    fn each_type_has_its_space() {
        let all = r#"{"org_id":"o","floor_id":"f","room_id":"r","zone_id":"z","x":[1]}"#;
        for event_type in EventType::ALL {
            let text = event(event_type.name(), all, r#"{"in":3,"out":5}"#);
            let parsed = parse(text.as_bytes()).unwrap();
            let expected = match event_type.name().split('_').next() {
                Some("FLOOR") => "f",
                Some("ZONE") => "z",
                _ => "r",
            };
            assert_eq!((parsed.event_type, &*parsed.space), (event_type, expected));
            assert_eq!(
                (parsed.org.as_deref(), parsed.timestamp_ms),
                (Some("o"), 17)
            );
            assert_eq!(parsed.data_hash, hash::hash_bytes(br#"{"in":3,"out":5}"#));
            let net = if event_type == EventType::Traffic {
                -2
            } else {
                0
            };
            assert_eq!(parsed.net, net);
            assert!(matches!(parsed.space, Cow::Borrowed(_)));
        }
        let hash_of_source = |event_type: &str| {
            let metadata = r#"{"room_id":"r","sensor_id":"s"}"#;
            let text = event(event_type, metadata, r#"{"in":1,"out":0}"#);
            parse(text.as_bytes()).unwrap().source_hash
        };
        assert_eq!(hash_of_source("TRAFFIC"), hash::hash_bytes(b"s"));
        assert_eq!(hash_of_source("DETECTIONS"), hash::hash_bytes(b"s"));
        assert_eq!(hash_of_source("PIR_MOTION"), hash::hash_bytes(b"r"));
        let floor = event("TRAFFIC", r#"{"floor_id":"f"}"#, r#"{"in":1,"out":0}"#);
        assert_eq!(parse(floor.as_bytes()).unwrap().space, "f");
    }

    #[test]
    fn data_is_hashed_as_written() {
        let text = event("ROOM_OCCUPANCY", r#"{"room_id":"\u00e9"}"#, " 4 ");
        let parsed = parse(text.as_bytes()).unwrap();
        assert_eq!(
            (parsed.data_hash, &*parsed.space),
            (hash::hash_bytes(b"4"), "é")
        );
        let none =
            r#"{"id":"event_1","type":"PIR_MOTION","timestamp":1,"metadata":{"room_id":"r"}}"#;
        assert_eq!(
            parse(none.as_bytes()).unwrap().data_hash,
            hash::hash_bytes(b"")
        );
    }

    #[test]
    fn invalid_events_are_rejected() {
        for (text, reason) in [
            (String::new(), "EOF"),
            ("{".to_owned(), "EOF"),
            ("[]".to_owned(), "invalid length"),
            (event("NEW", "{}", "1"), "type"),
            (event("ROOM_OCCUPANCY", "{}", "1"), "room_id"),
            (event("TRAFFIC", r#"{"room_id":"r"}"#, "1"), "data"),
            (
                event("TRAFFIC", r#"{"room_id":"r"}"#, r#"{"in":-1,"out":0}"#),
                "data",
            ),
            (
                event(
                    "TRAFFIC",
                    r#"{"room_id":"r"}"#,
                    r#"{"in":4294967295,"out":0}"#,
                ),
                "too many",
            ),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(parse(&[b'"', 0xff, b'"']).is_err());
    }
}
