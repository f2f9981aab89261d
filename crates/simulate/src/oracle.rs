//! The oracle: what each delivery about one (type, space, timestamp) is, by the rules that the bridge promises to follow.
//!
//! A plain sequential model: deliveries go in in the order in which they are sent, verdicts come out. With the bridge it
//! shares the rules, `EventType`, and how a KSUID tells its second (`butlr_event::ksuid`, held to vectors of the reference
//! implementation by its tests); no other code.

mod forecast;

pub use forecast::Forecast;

use super::verify::contract::is_occupancy;
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// What a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OracleVerdict {
    /// Nothing like it is stored.
    First,
    /// The same event is stored, or was found to be a repeat.
    Redelivery,
    /// Another event with the current value.
    Repeat,
    /// Another value than the current one, which it replaces.
    Revision,
    /// Another value than the current one, and computed before it: it does not replace it.
    Stale,
}

impl OracleVerdict {
    /// Every verdict, in the order of the ledger.
    pub const ALL: [OracleVerdict; 5] = [
        OracleVerdict::First,
        OracleVerdict::Redelivery,
        OracleVerdict::Repeat,
        OracleVerdict::Revision,
        OracleVerdict::Stale,
    ];

    /// As the ledger writes it.
    pub const fn name(self) -> &'static str {
        match self {
            OracleVerdict::First => "first",
            OracleVerdict::Redelivery => "redelivery",
            OracleVerdict::Repeat => "repeat",
            OracleVerdict::Revision => "revision",
            OracleVerdict::Stale => "stale",
        }
    }

    /// Whether it is not published again.
    pub const fn is_duplicate(self) -> bool {
        matches!(self, OracleVerdict::Redelivery | OracleVerdict::Repeat)
    }
}

/// The value that a reading is taken to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadingValue {
    /// Stands for its `data`: equal where that is.
    pub data: u64,
    /// Whose it is.
    pub id: Ksuid,
}

impl ReadingValue {
    /// What another event about the same reading is.
    pub fn classify(&self, id: Ksuid, data: u64) -> OracleVerdict {
        if self.data == data {
            OracleVerdict::Repeat
        } else if id.seconds() < self.id.seconds() {
            OracleVerdict::Stale
        } else {
            OracleVerdict::Revision
        }
    }
}

/// What is known of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdStatus {
    /// It was published.
    Published,
    /// It was a repeat, so that no record tells of it.
    Repeat,
}

/// What is known of one (type, space, timestamp).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadingState {
    /// The value, where there is one. Only occupancy has.
    pub current: Option<ReadingValue>,
    /// The ids, in their order.
    pub ids: Vec<(Ksuid, IdStatus)>,
}

impl ReadingState {
    /// What the next delivery is.
    pub fn classify(&self, event_type: EventType, id: Ksuid, data: u64) -> OracleVerdict {
        match (self.id_status(id), &self.current) {
            (Some(_), _) => OracleVerdict::Redelivery,
            (None, Some(current)) if is_occupancy(event_type) => current.classify(id, data),
            _ => OracleVerdict::First,
        }
    }

    /// What is known of this id.
    pub fn id_status(&self, id: Ksuid) -> Option<IdStatus> {
        let place = self.ids.binary_search_by_key(&id, |(other, _)| *other);
        place.ok().map(|place| self.ids[place].1)
    }

    /// The delivery was stored, or recognised, as that.
    pub fn apply(&mut self, verdict: OracleVerdict, id: Ksuid, data: u64) {
        let known = match verdict {
            OracleVerdict::Redelivery => return,
            OracleVerdict::Repeat => IdStatus::Repeat,
            OracleVerdict::First | OracleVerdict::Revision => {
                self.current = Some(ReadingValue { data, id });
                IdStatus::Published
            }
            OracleVerdict::Stale => IdStatus::Published,
        };
        match self.ids.binary_search_by_key(&id, |(other, _)| *other) {
            Ok(place) => self.ids[place].1 = known,
            Err(place) => self.ids.insert(place, (id, known)),
        }
    }
}

#[cfg(test)]
mod tests;
