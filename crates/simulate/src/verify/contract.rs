//! The contract's names for the ten event types, written out a second time so that a mistake in the
//! bridge's own names is found.

use butlr_event::EventType;

/// Returns the text that replaces `{type}` in a topic's name.
pub const fn kebab(event_type: EventType) -> &'static str {
    match event_type {
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

/// Returns the value of the header `ce_type`.
pub const fn ce_type(event_type: EventType) -> &'static str {
    match event_type {
        EventType::Detections => "io.butlr.detections.v1",
        EventType::Traffic => "io.butlr.traffic.v1",
        EventType::FloorOccupancy => "io.butlr.floor-occupancy.v1",
        EventType::FloorOccupancy1Min => "io.butlr.floor-occupancy-1min.v1",
        EventType::RoomOccupancy => "io.butlr.room-occupancy.v1",
        EventType::RoomOccupancy1Min => "io.butlr.room-occupancy-1min.v1",
        EventType::ZoneOccupancy => "io.butlr.zone-occupancy.v1",
        EventType::ZoneOccupancy1Min => "io.butlr.zone-occupancy-1min.v1",
        EventType::PirMotion => "io.butlr.pir-motion.v1",
        EventType::PirNoMotion => "io.butlr.pir-no-motion.v1",
    }
}

/// Returns `true` if later computations of a reading may repeat or revise it.
pub const fn is_occupancy(event_type: EventType) -> bool {
    matches!(
        event_type,
        EventType::FloorOccupancy
            | EventType::FloorOccupancy1Min
            | EventType::RoomOccupancy
            | EventType::RoomOccupancy1Min
            | EventType::ZoneOccupancy
            | EventType::ZoneOccupancy1Min
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_consistent() {
        for event_type in EventType::ALL {
            let kebab = kebab(event_type);
            assert_eq!(kebab.replace('-', "_").to_uppercase(), event_type.name());
            assert_eq!(ce_type(event_type), format!("io.butlr.{kebab}.v1"));
            let occupancy = event_type.name().contains("OCCUPANCY");
            assert_eq!(is_occupancy(event_type), occupancy);
        }
    }
}
