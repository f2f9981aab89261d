//! Where records go: a topic for each type of event, and one for what is no valid event.

use crate::EventType;

/// One of the bridge's topics, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The topic of a type of event.
    Events(EventType),
    /// The topic of what is no valid event.
    Quarantine,
}

impl Destination {
    /// How many there are.
    pub const COUNT: usize = EventType::ALL.len() + 1;

    /// All of them, in the order of [`Destination::index`]: the types, then the quarantine.
    pub fn all() -> [Destination; Self::COUNT] {
        std::array::from_fn(|index| Self::from_index(index).expect("one for each index"))
    }

    /// Its place among all: 0 to 9 as [`EventType::index`], then 10. Stays the same from release to release.
    pub const fn index(self) -> usize {
        match self {
            Destination::Events(event_type) => event_type.index(),
            Destination::Quarantine => EventType::ALL.len(),
        }
    }

    /// The one at this place.
    pub fn from_index(index: usize) -> Option<Self> {
        match EventType::ALL.get(index) {
            Some(event_type) => Some(Destination::Events(*event_type)),
            None => (index == EventType::ALL.len()).then_some(Destination::Quarantine),
        }
    }

    /// The type's name, or `quarantine`: as commands and `/status` show it.
    pub fn name(self) -> &'static str {
        match self {
            Destination::Events(event_type) => event_type.name(),
            Destination::Quarantine => "quarantine",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_fixed() {
        for (index, destination) in Destination::all().into_iter().enumerate() {
            assert_eq!(destination.index(), index);
            assert_eq!(Destination::from_index(index), Some(destination));
        }
        assert_eq!(Destination::from_index(Destination::COUNT), None);
        assert_eq!(Destination::Quarantine.index(), 10);
    }
}
