//! Settings for the city's sensors and computers.

use butlr_event::EventType;

/// Set of event types, indexed by [`EventType::index`].
pub type TypeSet = [bool; EventType::ALL.len()];

/// Settings for the city's sensors and computers.
#[derive(Clone, Debug, PartialEq)]
pub struct CityBehaviour {
    /// Probability that an occupancy reading is revised, 0 to 1.
    pub revised: f64,
    /// Share of the presence sensors whose clock is off, 0 to 1.
    pub skewed: f64,
    /// Recomputes each occupancy reading every minute, five times in all. If `false`, it is
    /// computed once, and correctly.
    pub recompute: bool,
    /// Types to compute at all. Leaving some out changes nothing about the others.
    pub types: TypeSet,
}

impl Default for CityBehaviour {
    fn default() -> Self {
        Self {
            revised: 0.03,
            skewed: 0.01,
            recompute: true,
            types: [true; EventType::ALL.len()],
        }
    }
}
