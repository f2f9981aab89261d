//! Destinations of records: one topic per event type, and the quarantine.

use crate::EventType;

/// Topic that a record goes to, by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Topic of one event type.
    Events(EventType),
    /// Topic of the rejected items.
    Quarantine,
}

impl Destination {
    /// Number of destinations.
    pub const COUNT: usize = EventType::ALL.len() + 1;

    /// Every destination, in the order of [`Destination::index`].
    pub fn all() -> [Destination; Self::COUNT] {
        std::array::from_fn(|index| Self::from_index(index).expect("the indexes have no gap"))
    }

    /// Index in arrays with one item per destination, and in the spool's files.
    ///
    /// The files outlive a release, so an index never changes and is never used again. The
    /// quarantine has had 10 since there were ten event types; the eleventh type gets 11.
    pub const fn index(self) -> usize {
        match self {
            Destination::Events(EventType::Detections) => 0,
            Destination::Events(EventType::Traffic) => 1,
            Destination::Events(EventType::FloorOccupancy) => 2,
            Destination::Events(EventType::FloorOccupancy1Min) => 3,
            Destination::Events(EventType::RoomOccupancy) => 4,
            Destination::Events(EventType::RoomOccupancy1Min) => 5,
            Destination::Events(EventType::ZoneOccupancy) => 6,
            Destination::Events(EventType::ZoneOccupancy1Min) => 7,
            Destination::Events(EventType::PirMotion) => 8,
            Destination::Events(EventType::PirNoMotion) => 9,
            Destination::Quarantine => 10,
        }
    }

    /// The destination with this index; `None` from [`Destination::COUNT`] on.
    pub const fn from_index(index: usize) -> Option<Self> {
        if index == Destination::Quarantine.index() {
            return Some(Destination::Quarantine);
        }
        let mut n = 0;
        while n < EventType::ALL.len() {
            let destination = Destination::Events(EventType::ALL[n]);
            if destination.index() == index {
                return Some(destination);
            }
            n += 1;
        }
        None
    }

    /// The type's name, or `quarantine`, as commands and `/status` show it.
    pub fn name(self) -> &'static str {
        match self {
            Destination::Events(event_type) => event_type.name(),
            Destination::Quarantine => "quarantine",
        }
    }
}

// The indexes 0 to COUNT - 1 are each used once: arrays with one item per destination rely on it.
const _: () = {
    let mut index = 0;
    while index < Destination::COUNT {
        assert!(
            Destination::from_index(index).is_some(),
            "the indexes of the destinations have a gap, or two destinations share one"
        );
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Only add to this list: the spool's files hold these indexes.
    #[test]
    fn indexes_stay_the_same_in_every_release() {
        let names = Destination::all().map(Destination::name);
        let expected = [
            "DETECTIONS",
            "TRAFFIC",
            "FLOOR_OCCUPANCY",
            "FLOOR_OCCUPANCY_1MIN",
            "ROOM_OCCUPANCY",
            "ROOM_OCCUPANCY_1MIN",
            "ZONE_OCCUPANCY",
            "ZONE_OCCUPANCY_1MIN",
            "PIR_MOTION",
            "PIR_NO_MOTION",
            "quarantine",
        ];
        assert_eq!(names, expected);
        assert_eq!(Destination::Quarantine.index(), 10);
    }

    #[test]
    fn from_index_is_the_inverse_of_index() {
        for (index, destination) in Destination::all().into_iter().enumerate() {
            assert_eq!(destination.index(), index);
            assert_eq!(Destination::from_index(index), Some(destination));
        }
        assert_eq!(Destination::from_index(Destination::COUNT), None);
    }
}
