//! The event types and their spellings.

use std::fmt;

/// One of the ten types of event that Butlr sends.
///
/// Butlr's documentation spells them in upper case, in lower case in its field tables, and with
/// `1M` instead of `1MIN` in its changelog. [`EventType::parse`] accepts all of these.
///
/// A new type goes last in this enum; [`EventType::index`] and [`Destination::index`] of the others
/// must not change, because dedup keys and the spool's files hold them. To add a type, change these
/// files (the compiler finds those marked with *):
///
/// * `crates/event/src/event_type.rs`*: the variant, `ALL`, `is_occupancy`, the names and spellings
/// * `crates/event/src/destination.rs`*: the index on disk, and its test
/// * `crates/event/src/rules.rs`*: the field with the space id, and the kind of `data`
/// * `crates/event/src/tests.rs`*: the sample, which is in `tests/events`
/// * `src/record.rs`*: the CloudEvents type
/// * `src/spool/store/file.rs`*: the table in a segment
/// * `crates/simulate/src/verify/contract.rs`*: the verifier's own copy of the names
/// * `crates/simulate/src/verify/parsed_value.rs`*: the verifier's own copy of the rules
/// * `crates/event/src/event_reader.rs`: the check of `data`, if it is of a new kind
/// * `crates/event/src/diagnosis.rs`: the errors of that check
/// * `bench/harness.py`: `TOPIC_TYPES`
/// * `docs/events.md`: the page on events
///
/// [`Destination::index`]: crate::destination::Destination::index
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum EventType {
    /// `DETECTIONS`: positions of people, from one sensor.
    Detections = 0,
    /// `TRAFFIC`: numbers of people who entered and left, from one sensor.
    Traffic = 1,
    /// `FLOOR_OCCUPANCY`: number of people on a floor.
    FloorOccupancy = 2,
    /// `FLOOR_OCCUPANCY_1MIN`: number of people on a floor, every minute.
    FloorOccupancy1Min = 3,
    /// `ROOM_OCCUPANCY`: number of people in a room.
    RoomOccupancy = 4,
    /// `ROOM_OCCUPANCY_1MIN`: number of people in a room, every minute.
    RoomOccupancy1Min = 5,
    /// `ZONE_OCCUPANCY`: number of people in a zone.
    ZoneOccupancy = 6,
    /// `ZONE_OCCUPANCY_1MIN`: number of people in a zone, every minute.
    ZoneOccupancy1Min = 7,
    /// `PIR_MOTION`: a motion sensor started to see motion.
    PirMotion = 8,
    /// `PIR_NO_MOTION`: a motion sensor stopped seeing motion.
    PirNoMotion = 9,
}

/// One value for each event type, in the order of [`EventType::index`].
pub type PerType<T> = [T; EventType::ALL.len()];

impl EventType {
    /// Every type, in the order of [`EventType::index`].
    pub const ALL: [EventType; 10] = [
        EventType::Detections,
        EventType::Traffic,
        EventType::FloorOccupancy,
        EventType::FloorOccupancy1Min,
        EventType::RoomOccupancy,
        EventType::RoomOccupancy1Min,
        EventType::ZoneOccupancy,
        EventType::ZoneOccupancy1Min,
        EventType::PirMotion,
        EventType::PirNoMotion,
    ];

    /// Index in [`EventType::ALL`] and in arrays with one item per type. It never changes.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns `true` if the type counts the people in a space. Butlr computes these values again
    /// and again, so they have revisions.
    pub const fn is_occupancy(self) -> bool {
        match self {
            EventType::FloorOccupancy
            | EventType::FloorOccupancy1Min
            | EventType::RoomOccupancy
            | EventType::RoomOccupancy1Min
            | EventType::ZoneOccupancy
            | EventType::ZoneOccupancy1Min => true,
            EventType::Detections
            | EventType::Traffic
            | EventType::PirMotion
            | EventType::PirNoMotion => false,
        }
    }

    /// Canonical name, as in events and in metric labels: `ROOM_OCCUPANCY_1MIN`.
    pub const fn name(self) -> &'static str {
        match self {
            EventType::Detections => "DETECTIONS",
            EventType::Traffic => "TRAFFIC",
            EventType::FloorOccupancy => "FLOOR_OCCUPANCY",
            EventType::FloorOccupancy1Min => "FLOOR_OCCUPANCY_1MIN",
            EventType::RoomOccupancy => "ROOM_OCCUPANCY",
            EventType::RoomOccupancy1Min => "ROOM_OCCUPANCY_1MIN",
            EventType::ZoneOccupancy => "ZONE_OCCUPANCY",
            EventType::ZoneOccupancy1Min => "ZONE_OCCUPANCY_1MIN",
            EventType::PirMotion => "PIR_MOTION",
            EventType::PirNoMotion => "PIR_NO_MOTION",
        }
    }

    /// Name in topics and in `ce_type`: `room-occupancy-1min`.
    pub const fn kebab_name(self) -> &'static str {
        match self {
            EventType::Detections => "detections",
            EventType::Traffic => "traffic",
            EventType::FloorOccupancy => "floor-occupancy",
            EventType::FloorOccupancy1Min => "floor-occupancy-1min",
            EventType::RoomOccupancy => "room-occupancy",
            EventType::RoomOccupancy1Min => "room-occupancy-1min",
            EventType::ZoneOccupancy => "zone-occupancy",
            EventType::ZoneOccupancy1Min => "zone-occupancy-1min",
            EventType::PirMotion => "pir-motion",
            EventType::PirNoMotion => "pir-no-motion",
        }
    }

    /// Parses a spelling: all upper or all lower case, with `_1MIN` or `_1M`. Anything else (mixed
    /// case, kebab case, surrounding white space) is not a type.
    pub fn parse(spelling: &str) -> Option<Self> {
        Some(match spelling {
            "DETECTIONS" | "detections" => EventType::Detections,
            "TRAFFIC" | "traffic" => EventType::Traffic,
            "FLOOR_OCCUPANCY" | "floor_occupancy" => EventType::FloorOccupancy,
            "FLOOR_OCCUPANCY_1MIN"
            | "floor_occupancy_1min"
            | "FLOOR_OCCUPANCY_1M"
            | "floor_occupancy_1m" => EventType::FloorOccupancy1Min,
            "ROOM_OCCUPANCY" | "room_occupancy" => EventType::RoomOccupancy,
            "ROOM_OCCUPANCY_1MIN"
            | "room_occupancy_1min"
            | "ROOM_OCCUPANCY_1M"
            | "room_occupancy_1m" => EventType::RoomOccupancy1Min,
            "ZONE_OCCUPANCY" | "zone_occupancy" => EventType::ZoneOccupancy,
            "ZONE_OCCUPANCY_1MIN"
            | "zone_occupancy_1min"
            | "ZONE_OCCUPANCY_1M"
            | "zone_occupancy_1m" => EventType::ZoneOccupancy1Min,
            "PIR_MOTION" | "pir_motion" => EventType::PirMotion,
            "PIR_NO_MOTION" | "pir_no_motion" => EventType::PirNoMotion,
            _ => return None,
        })
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::EventType;

    #[test]
    fn index_is_the_position_in_all() {
        for (position, event_type) in EventType::ALL.into_iter().enumerate() {
            assert_eq!(event_type.index(), position);
        }
    }

    /// The files that the doc comment of [`EventType`] names for a new type exist.
    #[test]
    fn files_to_change_for_a_new_type_exist() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let listed: Vec<_> = include_str!("event_type.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("/// * `")?.split('`').next())
            .collect();
        assert!(listed.len() >= 8, "{listed:?}");
        for file in listed {
            assert!(workspace.join(file).is_file(), "{file} does not exist");
        }
    }

    #[test]
    fn every_spelling_is_parsed() {
        for event_type in EventType::ALL {
            let upper = event_type.name();
            assert_eq!(EventType::parse(upper), Some(event_type));
            assert_eq!(EventType::parse(&upper.to_lowercase()), Some(event_type));
            if let Some(stem) = upper.strip_suffix("_1MIN") {
                assert_eq!(EventType::parse(&format!("{stem}_1M")), Some(event_type));
                assert_eq!(
                    EventType::parse(&format!("{}_1m", stem.to_lowercase())),
                    Some(event_type)
                );
            }
            assert_eq!(
                event_type.kebab_name(),
                upper.to_lowercase().replace('_', "-")
            );
            assert_eq!(event_type.to_string(), upper);
        }
    }

    #[test]
    fn other_spellings_are_rejected() {
        for spelling in [
            "",
            "Room_Occupancy",
            "room-occupancy",
            " TRAFFIC",
            "TRAFFIC_1MIN",
            "traffic_1m",
            "ROOM_OCCUPANCY_1m",
            "PIR",
        ] {
            assert_eq!(EventType::parse(spelling), None, "{spelling}");
        }
    }
}
