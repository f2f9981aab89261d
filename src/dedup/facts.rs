//! What duplicate detection looks at in an event: hashes of what has to be equal.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use butlr_event::{Event, EventType};

/// What is compared of an event. Keys are 64-bit hashes of type-tagged, length-prefixed parts, the same in every process
/// and release: replicas share them.
#[derive(Clone, Copy, Debug)]
pub struct EventFacts<'e> {
    /// The event's id.
    pub id: &'e str,
    /// The key of its id.
    pub id_hash: u64,
    /// The reading: type, space, timestamp and data by value (and the sensor, where the type has one: two sensors of a room
    /// may see the same at the same moment).
    pub reading: u64,
    /// Occupancy: the key of its (type, space, timestamp), for which there is one current value.
    pub occupancy_key: Option<u64>,
    /// The key of what is in order of time: its (type, space), for DETECTIONS and TRAFFIC its (type, sensor).
    pub source_key: u64,
    /// The event's own time, ms since 1970.
    pub timestamp_ms: i64,
    /// Whether that time is near enough to now that it can be the newest of its source.
    pub has_plausible_time: bool,
}

/// What the keys are about; their seeds.
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
    /// The facts of `event`.
    pub fn from_event(event: &'e Event<'_>, plausible_time: bool) -> Self {
        let event_type = event.event_type();
        let timestamp = event.timestamp_ms();
        let space = event.space_id();
        let sensor = event.sensor_id().filter(|_| !event_type.is_occupancy());
        let occupancy_key = event_type
            .is_occupancy()
            .then(|| hash_parts(seed::OCCUPANCY, event_type, &[space], timestamp, 0));
        let sensor_source = match event_type {
            EventType::Detections | EventType::Traffic => sensor.map(|s| (seed::SENSOR, s)),
            _ => None,
        };
        let (kind, name) = sensor_source.unwrap_or((seed::SPACE, space));
        Self {
            id: event.id(),
            id_hash: xxh3_64_with_seed(event.id().as_bytes(), seed::ID),
            reading: hash_parts(
                seed::READING,
                event_type,
                &[space, sensor.unwrap_or_default()],
                timestamp,
                event.data_hash(),
            ),
            occupancy_key,
            source_key: hash_parts(kind, event_type, &[name], 0, 0),
            timestamp_ms: timestamp,
            has_plausible_time: plausible_time,
        }
    }
}

impl EventFacts<'static> {
    /// The facts of bytes that are no valid event: they are the same as others where two hashes of them agree.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            id: "",
            id_hash: xxh3_64_with_seed(bytes, seed::BYTES),
            reading: xxh3_64_with_seed(bytes, seed::BYTES_READING),
            occupancy_key: None,
            source_key: 0,
            timestamp_ms: 0,
            has_plausible_time: false,
        }
    }
}

/// XXH3 over type, timestamp, data and the names with their lengths.
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
        (facts.reading, facts.occupancy_key, facts.source_key)
    }

    #[test]
    fn a_cell_is_a_space_at_a_moment() {
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
    fn sensors_of_a_room_are_told_apart() {
        const DATA: &str = r#"{"local":[],"world":[]}"#;
        let of = |metadata| keys("DETECTIONS", metadata, 1, DATA);
        let one = of(r#"{"room_id":"r","sensor_id":"s"}"#);
        let two = of(r#"{"room_id":"r","sensor_id":"t"}"#);
        assert!(one.1.is_none() && one.0 != two.0 && one.2 != two.2);
        let none = of(r#"{"room_id":"r"}"#);
        let null = of(r#"{"room_id":"r","sensor_id":null}"#);
        assert!(none == null && none.0 != one.0 && none.2 != one.2);
        // Names have a length, so that they cannot run into one another.
        let split = of(r#"{"room_id":"rs","sensor_id":"t"}"#);
        let other = of(r#"{"room_id":"r","sensor_id":"st"}"#);
        assert_ne!(split.0, other.0);
        // PIR is in order by room.
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
    fn keys_of_bytes_mean_the_same_for_ever() {
        let keys = |bytes| {
            let facts = EventFacts::from_bytes(bytes);
            (facts.id_hash, facts.reading)
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
            (None, 0, false)
        );
        // An event's id is another thing.
        assert_ne!(facts.id_hash, xxh3_64_with_seed(b"event_1", seed::ID));
    }

    /// Replicas and releases share keys.
    #[test]
    fn keys_mean_the_same_for_ever() {
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
