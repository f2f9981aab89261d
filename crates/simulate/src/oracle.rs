//! The oracle: what each delivery about one (type, space, timestamp) is, by the rules that the bridge promises to follow.
//!
//! A plain sequential model: deliveries go in in the order in which they are sent, verdicts come out. With the bridge it
//! shares the rules, `EventType`, and how a KSUID tells its second (`butlr_event::ksuid`, held to vectors of the reference
//! implementation by its tests); no other code.

mod forecast;

pub use forecast::Forecast;

use super::verify::names::is_occupancy;
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// What a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
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

impl Verdict {
    /// Every verdict, in the order of the ledger.
    pub const ALL: [Verdict; 5] = [
        Verdict::First,
        Verdict::Redelivery,
        Verdict::Repeat,
        Verdict::Revision,
        Verdict::Stale,
    ];

    /// As the ledger writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::First => "first",
            Verdict::Redelivery => "redelivery",
            Verdict::Repeat => "repeat",
            Verdict::Revision => "revision",
            Verdict::Stale => "stale",
        }
    }

    /// Whether it is not published again.
    pub const fn is_duplicate(self) -> bool {
        matches!(self, Verdict::Redelivery | Verdict::Repeat)
    }
}

/// The value that a reading is taken to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Current {
    /// Stands for its `data`: equal where that is.
    pub data: u64,
    /// Whose it is.
    pub id: Ksuid,
}

impl Current {
    /// What another event about the same reading is.
    pub fn judge(&self, id: Ksuid, data: u64) -> Verdict {
        if self.data == data {
            Verdict::Repeat
        } else if id.seconds() < self.id.seconds() {
            Verdict::Stale
        } else {
            Verdict::Revision
        }
    }
}

/// What is known of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Known {
    /// It was published.
    Published,
    /// It was a repeat, so that no record tells of it.
    Repeat,
}

/// What is known of one (type, space, timestamp).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The value, where there is one. Only occupancy has.
    pub current: Option<Current>,
    /// The ids, in their order.
    pub ids: Vec<(Ksuid, Known)>,
}

impl Reading {
    /// What the next delivery is.
    pub fn judge(&self, event_type: EventType, id: Ksuid, data: u64) -> Verdict {
        match (self.known(id), &self.current) {
            (Some(_), _) => Verdict::Redelivery,
            (None, Some(current)) if is_occupancy(event_type) => current.judge(id, data),
            _ => Verdict::First,
        }
    }

    /// What is known of this id.
    pub fn known(&self, id: Ksuid) -> Option<Known> {
        let place = self.ids.binary_search_by_key(&id, |(other, _)| *other);
        place.ok().map(|place| self.ids[place].1)
    }

    /// The delivery was stored, or recognised, as that.
    pub fn take(&mut self, verdict: Verdict, id: Ksuid, data: u64) {
        let known = match verdict {
            Verdict::Redelivery => return,
            Verdict::Repeat => Known::Repeat,
            Verdict::First | Verdict::Revision => {
                self.current = Some(Current { data, id });
                Known::Published
            }
            Verdict::Stale => Known::Published,
        };
        match self.ids.binary_search_by_key(&id, |(other, _)| *other) {
            Ok(place) => self.ids[place].1 = known,
            Err(place) => self.ids.insert(place, (id, known)),
        }
    }
}

#[cfg(test)]
mod tests;
