//! The oracle: the verdict on each delivery of a reading (type, space, timestamp) by the rules that
//! the bridge promises to follow.
//!
//! A sequential model: it takes deliveries in the order in which they are sent and returns
//! verdicts. With the bridge it shares the rules, `EventType`, and the decoding of a KSUID's second
//! (`butlr_event::ksuid`, tested against vectors of the reference implementation), but no other
//! code.
//!
//! A verdict is what a bridge sees; [`DeliveryKind`](super::message::DeliveryKind) is what the
//! simulator intended. The two differ: a late delivery, for instance, may be a first one or a stale
//! one.

mod forecast;

pub use forecast::Forecast;

use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// Verdict on a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OracleVerdict {
    /// A new event; for occupancy, also the first one of its reading.
    First,
    /// The same event is stored, or was recognised as a repeat.
    Redelivery,
    /// Another event with the current value.
    Repeat,
    /// Another event with a value that replaces the current one.
    Revision,
    /// Another event with another value that was computed before the current one and does not
    /// replace it.
    Stale,
}

impl OracleVerdict {
    /// All verdicts, in the column order of the ledger.
    pub const ALL: [OracleVerdict; 5] = [
        OracleVerdict::First,
        OracleVerdict::Redelivery,
        OracleVerdict::Repeat,
        OracleVerdict::Revision,
        OracleVerdict::Stale,
    ];

    /// Name in the summary.
    pub const fn name(self) -> &'static str {
        match self {
            OracleVerdict::First => "first",
            OracleVerdict::Redelivery => "redelivery",
            OracleVerdict::Repeat => "repeat",
            OracleVerdict::Revision => "revision",
            OracleVerdict::Stale => "stale",
        }
    }

    /// Returns `true` if the bridge does not publish the event.
    pub const fn is_duplicate(self) -> bool {
        matches!(self, OracleVerdict::Redelivery | OracleVerdict::Repeat)
    }
}

/// Current value of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadingValue {
    /// Number or hash that is equal where `data` is equal.
    pub data: u64,
    /// Id of the event that set the value.
    pub id: Ksuid,
}

impl ReadingValue {
    /// Verdict on another event of the same reading.
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

/// Status of an event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdStatus {
    /// The event was published.
    Published,
    /// The event was a repeat, so there is no record of it.
    Repeat,
}

/// State of one reading (type, space, timestamp).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadingState {
    /// Current value; occupancy only.
    pub current: Option<ReadingValue>,
    /// Known ids, sorted.
    pub ids: Vec<(Ksuid, IdStatus)>,
}

impl ReadingState {
    /// Verdict on the next delivery.
    pub fn classify(&self, event_type: EventType, id: Ksuid, data: u64) -> OracleVerdict {
        match (self.id_status(id), &self.current) {
            (Some(_), _) => OracleVerdict::Redelivery,
            (None, Some(current)) if event_type.is_occupancy() => current.classify(id, data),
            _ => OracleVerdict::First,
        }
    }

    /// Status of an id, if it is known.
    pub fn id_status(&self, id: Ksuid) -> Option<IdStatus> {
        let index = self.ids.binary_search_by_key(&id, |(other, _)| *other);
        index.ok().map(|index| self.ids[index].1)
    }

    /// Records that a delivery was stored or recognised with this verdict.
    pub fn apply(&mut self, verdict: OracleVerdict, id: Ksuid, data: u64) {
        let status = match verdict {
            OracleVerdict::Redelivery => return,
            OracleVerdict::Repeat => IdStatus::Repeat,
            OracleVerdict::First | OracleVerdict::Revision => {
                self.current = Some(ReadingValue { data, id });
                IdStatus::Published
            }
            OracleVerdict::Stale => IdStatus::Published,
        };
        match self.ids.binary_search_by_key(&id, |(other, _)| *other) {
            Ok(index) => self.ids[index].1 = status,
            Err(index) => self.ids.insert(index, (id, status)),
        }
    }
}

#[cfg(test)]
mod tests;
