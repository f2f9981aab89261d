//! The facts about an event that duplicate detection compares: hashes of the parts that must be
//! equal.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::keys::{IdHash, OccupancyKey, ReadingHash, SourceKey};
use butlr_event::{Event, EventType};

/// The compared parts of an event. Keys are 64-bit hashes of type-tagged, length-prefixed parts.
/// They are the same in every process and release, because replicas share them.
#[derive(Clone, Copy, Debug)]
pub struct EventFacts<'e> {
    /// The event's id.
    pub id: &'e str,
    /// The event's type; `None` for a rejected item.
    pub event_type: Option<EventType>,
    /// Hash of its id.
    pub id_hash: IdHash,
    /// Hash of its reading: type, space, timestamp and data by value, and the sensor if the type
    /// has one, since two sensors of a room may see the same at the same moment.
    pub reading: ReadingHash,
    /// Occupancy only: hash of its (type, space, timestamp), which has one current value.
    pub occupancy_key: Option<OccupancyKey>,
    /// Hash of its source: (type, space), but (type, sensor) for DETECTIONS and TRAFFIC.
    pub source_key: SourceKey,
    /// The event's own time, ms since 1970.
    pub timestamp_ms: i64,
    /// That time is near enough to now to be the newest of its source.
    pub has_plausible_time: bool,
}

/// Time of an event of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceTime {
    /// The source.
    pub source_key: SourceKey,
    /// The event's own time, ms since 1970.
    pub timestamp_ms: i64,
}

/// Seeds, one for each kind of key.
mod seed {
    pub const ID: u64 = 1;
    pub const READING: u64 = 2;
    pub const OCCUPANCY: u64 = 3;
    pub const SPACE: u64 = 4;
    pub const SENSOR: u64 = 5;
    pub const BYTES: u64 = 6;
    pub const BYTES_READING: u64 = 7;
}

impl<'e> EventFacts<'e> {
    /// The facts about `event`.
    pub fn from_event(event: &'e Event<'_>, has_plausible_time: bool) -> Self {
        let event_type = event.event_type();
        let timestamp_ms = event.timestamp_ms();
        let space = event.space_id();
        let sensor = event.sensor_id().filter(|_| !event_type.is_occupancy());
        let occupancy_key = event_type
            .is_occupancy()
            .then(|| hash_parts(seed::OCCUPANCY, event_type, &[space], timestamp_ms, 0));
        let reading = hash_parts(
            seed::READING,
            event_type,
            &[space, sensor.unwrap_or_default()],
            timestamp_ms,
            event.data_hash(),
        );
        let sensor_source = match event_type {
            EventType::Detections | EventType::Traffic => sensor.map(|s| (seed::SENSOR, s)),
            _ => None,
        };
        let (kind, name) = sensor_source.unwrap_or((seed::SPACE, space));
        Self {
            id: event.id(),
            event_type: Some(event_type),
            id_hash: IdHash(xxh3_64_with_seed(event.id().as_bytes(), seed::ID)),
            reading: ReadingHash(reading),
            occupancy_key: occupancy_key.map(OccupancyKey),
            source_key: SourceKey(hash_parts(kind, event_type, &[name], 0, 0)),
            timestamp_ms,
            has_plausible_time,
        }
    }

    /// The event's source and time, if it can be the newest of its source.
    pub fn source_time(&self) -> Option<SourceTime> {
        self.has_plausible_time.then_some(SourceTime {
            source_key: self.source_key,
            timestamp_ms: self.timestamp_ms,
        })
    }
}

impl EventFacts<'static> {
    /// The facts about a rejected item: it equals another one if two hashes of the bytes agree.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            id: "",
            event_type: None,
            id_hash: IdHash(xxh3_64_with_seed(bytes, seed::BYTES)),
            reading: ReadingHash(xxh3_64_with_seed(bytes, seed::BYTES_READING)),
            occupancy_key: None,
            source_key: SourceKey(0),
            timestamp_ms: 0,
            has_plausible_time: false,
        }
    }
}

/// XXH3 over the type, the timestamp, the data's hash, and the names with their lengths.
fn hash_parts(seed: u64, event_type: EventType, names: &[&str], timestamp: i64, data: u64) -> u64 {
    const HEAD: usize = 17;
    let length = HEAD + names.iter().map(|name| 8 + name.len()).sum::<usize>();
    let mut small = [0; 240];
    let mut large = Vec::new();
    let bytes = match small.get_mut(..length) {
        Some(bytes) => bytes,
        None => {
            large.resize(length, 0);
            &mut large[..]
        }
    };
    bytes[0] = event_type.index() as u8;
    bytes[1..9].copy_from_slice(&timestamp.to_le_bytes());
    bytes[9..HEAD].copy_from_slice(&data.to_le_bytes());
    let mut at = HEAD;
    for name in names {
        bytes[at..at + 8].copy_from_slice(&(name.len() as u64).to_le_bytes());
        at += 8;
        bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        at += name.len();
    }
    xxh3_64_with_seed(bytes, seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use butlr_event::{ParseLimits, ParsedBody, parse};

    fn keys(
        event_type: &str,
        metadata: &str,
        timestamp: i64,
        data: &str,
    ) -> (u64, Option<u64>, u64) {
        let body = format!(
            r#"{{"id":"event_1","type":"{event_type}","timestamp":{timestamp},"version":"v1","metadata":{metadata},"data":{data}}}"#
        );
        let limits = ParseLimits {
            max_events: 1,
            max_event_bytes: 10_000,
        };
        let Ok(ParsedBody::Single(Ok(event))) = parse(body.as_bytes(), None, limits) else {
            panic!("not valid: {body}");
        };
        let facts = EventFacts::from_event(&event, true);
        (
            facts.reading.0,
            facts.occupancy_key.map(u64::from),
            facts.source_key.0,
        )
    }

    #[test]
    fn an_occupancy_key_is_a_space_at_a_moment() {
        let base = keys(
            "ROOM_OCCUPANCY",
            r#"{"room_id":"r","sensor_id":"s"}"#,
            1,
            "4",
        );
        assert_eq!(base, keys("room_occupancy", r#"{"room_id":"r"}"#, 1, "4.0"));
        let other_value = keys("ROOM_OCCUPANCY", r#"{"room_id":"r"}"#, 1, "5");
        assert_eq!((base.1, base.2), (other_value.1, other_value.2));
        assert_ne!(base.0, other_value.0);
        let later = keys("ROOM_OCCUPANCY", r#"{"room_id":"r"}"#, 2, "4");
        assert_ne!(base.1, later.1);
        assert_eq!(base.2, later.2);
        for other in [
            keys("ROOM_OCCUPANCY_1MIN", r#"{"room_id":"r"}"#, 1, "4"),
            keys("ROOM_OCCUPANCY", r#"{"room_id":"q"}"#, 1, "4"),
        ] {
            assert!(base.0 != other.0 && base.1 != other.1 && base.2 != other.2);
        }
    }

    #[test]
    fn sensors_of_a_room_have_different_readings() {
        const DATA: &str = r#"{"local":[],"world":[]}"#;
        let of = |metadata| keys("DETECTIONS", metadata, 1, DATA);
        let one = of(r#"{"room_id":"r","sensor_id":"s"}"#);
        let two = of(r#"{"room_id":"r","sensor_id":"t"}"#);
        assert!(one.1.is_none() && one.0 != two.0 && one.2 != two.2);
        let none = of(r#"{"room_id":"r"}"#);
        let null = of(r#"{"room_id":"r","sensor_id":null}"#);
        assert!(none == null && none.0 != one.0 && none.2 != one.2);
        // Names are length-prefixed, so their boundary matters.
        let split = of(r#"{"room_id":"rs","sensor_id":"t"}"#);
        let other = of(r#"{"room_id":"r","sensor_id":"st"}"#);
        assert_ne!(split.0, other.0);
        // PIR events are in order by room, not by sensor.
        let pir = |metadata| keys("PIR_MOTION", metadata, 1, "null");
        let (one, two) = (
            pir(r#"{"room_id":"r","sensor_id":"s"}"#),
            pir(r#"{"room_id":"r"}"#),
        );
        assert!(one.2 == two.2 && one.0 != two.0);
    }

    #[test]
    fn long_names_are_hashed_whole() {
        let of = |end: char| {
            let name = "x".repeat(250);
            let metadata = format!(r#"{{"room_id":"{name}{end}","sensor_id":"{name}"}}"#);
            keys("TRAFFIC", &metadata, 1, r#"{"in":1,"out":1}"#)
        };
        assert_eq!(of('a'), of('a'));
        assert_ne!(of('a').0, of('b').0);
    }

    /// Replicas and releases share keys.
    #[test]
    fn keys_of_rejected_items_never_change() {
        let keys = |bytes| {
            let facts = EventFacts::from_bytes(bytes);
            (facts.id_hash.0, facts.reading.0)
        };
        assert_eq!(
            keys(b""),
            (7_476_342_439_517_437_825, 10_464_923_555_624_353_464)
        );
        assert_eq!(
            keys(b"{\"id\":"),
            (18_185_210_649_458_751_749, 11_530_214_583_630_879_847)
        );
        let facts = EventFacts::from_bytes(b"event_1");
        assert_eq!(
            (
                facts.occupancy_key,
                facts.source_key,
                facts.has_plausible_time
            ),
            (None, SourceKey(0), false)
        );
        // An event's id is hashed with another seed.
        assert_ne!(facts.id_hash.0, xxh3_64_with_seed(b"event_1", seed::ID));
    }

    /// Replicas and releases share keys.
    #[test]
    fn keys_never_change() {
        let keys = keys(
            "ZONE_OCCUPANCY",
            r#"{"zone_id":"zone_1"}"#,
            1_727_735_832_000,
            "4",
        );
        let expected = (
            9_252_772_326_894_930_616,
            Some(10_556_885_993_090_134_740),
            18_427_732_010_301_927_168,
        );
        assert_eq!(keys, expected);
    }
}
