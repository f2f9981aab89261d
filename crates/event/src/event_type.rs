//! The ten types of event, and how they are spelled.

use std::fmt;

/// What an event tells: one of the sender's ten types.
///
/// The sender's documentation spells them in upper case, in lower case in its field tables, and in its changelog with
/// `1M` instead of `1MIN`. All of these are accepted ([`EventType::parse`]) and mean the same type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum EventType {
    /// `DETECTIONS`: the positions of people, from one sensor.
    Detections,
    /// `TRAFFIC`: how many people went in and out, from one sensor.
    Traffic,
    /// `FLOOR_OCCUPANCY`: how many people are on a floor.
    FloorOccupancy,
    /// `FLOOR_OCCUPANCY_1MIN`: the same, each minute.
    FloorOccupancy1Min,
    /// `ROOM_OCCUPANCY`: how many people are in a room.
    RoomOccupancy,
    /// `ROOM_OCCUPANCY_1MIN`: the same, each minute.
    RoomOccupancy1Min,
    /// `ZONE_OCCUPANCY`: how many people are in a zone.
    ZoneOccupancy,
    /// `ZONE_OCCUPANCY_1MIN`: the same, each minute.
    ZoneOccupancy1Min,
    /// `PIR_MOTION`: a motion sensor began to see motion.
    PirMotion,
    /// `PIR_NO_MOTION`: a motion sensor sees no motion any more.
    PirNoMotion,
}

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

    /// Its place in [`EventType::ALL`], 0 to 9: for arrays with one entry a type.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether it tells how many people are in a space: the sender computes such values again and again.
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

    /// The canonical name, as in the sender's events and in the metrics' labels: `ROOM_OCCUPANCY_1MIN`.
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

    /// The name as it stands in topics and in `ce_type`: `room-occupancy-1min`.
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

    /// The type with this spelling: all upper or all lower case, with `_1MIN` or `_1M`. Anything else (mixed case,
    /// kebab, white space around it) is no type.
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
    use super::EventType;

    #[test]
    fn index_is_the_place_in_all() {
        for (place, event_type) in EventType::ALL.into_iter().enumerate() {
            assert_eq!(event_type.index(), place);
        }
    }

    #[test]
    fn every_spelling_means_its_type() {
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
    fn other_spellings_mean_none() {
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
