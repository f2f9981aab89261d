//! What the deliveries of a stream will be when each of them is stored: as many of each verdict as the ledger expects.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::{OracleVerdict, ReadingValue};
use crate::hash::IdentityHasher;
use crate::message::{CityMessage, DeliveryKind, MessageData};

type ValuesByReading = HashMap<u64, ReadingValue, BuildHasherDefault<IdentityHasher>>;

/// The current values of what is being told. Whatever was not told for longer than the stream goes on about it is
/// forgotten: about 50 bytes for each reading of occupancy of the last hour of the simulated clock.
pub struct Forecast {
    /// How long at most it is from one delivery about a reading to the next, ms.
    span_ms: i64,
    /// When the young ones become the old ones.
    rotate_at_ms: i64,
    pub(super) recent: ValuesByReading,
    pub(super) aging: ValuesByReading,
}

impl Forecast {
    /// Nothing was told yet.
    pub fn new(span_ms: i64) -> Self {
        Self {
            span_ms,
            rotate_at_ms: i64::MIN,
            recent: ValuesByReading::default(),
            aging: ValuesByReading::default(),
        }
    }

    /// What the next delivery will be: of `message`, about the reading with this key, as this kind. `None` for an invalid
    /// one. The due times never go back.
    pub fn predict(
        &mut self,
        due_ms: i64,
        key: u64,
        message: &CityMessage,
        kind: DeliveryKind,
    ) -> Option<OracleVerdict> {
        match kind {
            DeliveryKind::Invalid => return None,
            // It goes out behind the event that it is a copy of.
            DeliveryKind::Redelivery | DeliveryKind::Overlapping => {
                return Some(OracleVerdict::Redelivery);
            }
            _ => {}
        }
        let MessageData::Occupancy(people) = message.data else {
            return Some(OracleVerdict::First);
        };
        if due_ms >= self.rotate_at_ms {
            self.aging = std::mem::take(&mut self.recent);
            self.rotate_at_ms = due_ms + self.span_ms;
        }
        let (id, data) = (message.id, u64::from(people));
        let current = self.recent.get(&key).copied();
        let current = current.or_else(|| self.aging.remove(&key));
        let verdict = current.map_or(OracleVerdict::First, |current| current.classify(id, data));
        let current = match (verdict, current) {
            (OracleVerdict::Repeat | OracleVerdict::Stale, Some(current)) => current,
            _ => ReadingValue { data, id },
        };
        self.recent.insert(key, current);
        Some(verdict)
    }
}
