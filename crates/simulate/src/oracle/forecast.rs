//! Forecast of the verdicts on a stream, assuming that every delivery is stored. The ledger reports
//! the sums as `expected`.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::{OracleVerdict, ReadingValue};
use crate::hash::IdentityHasher;
use crate::message::{CityMessage, DeliveryKind, MessageData};

type ValuesByReading = HashMap<u64, ReadingValue, BuildHasherDefault<IdentityHasher>>;

/// Current values of the readings in the stream. Readings are forgotten once the stream delivers
/// nothing more about them: about 50 bytes per occupancy reading of the last hour of the simulated
/// clock.
pub struct Forecast {
    /// Longest time between two deliveries of a reading, ms.
    span_ms: i64,
    /// Simulated time at which `recent` becomes `aging`.
    rotate_at_ms: i64,
    pub(super) recent: ValuesByReading,
    pub(super) aging: ValuesByReading,
}

impl Forecast {
    /// A forecast without any readings.
    pub fn new(span_ms: i64) -> Self {
        Self {
            span_ms,
            rotate_at_ms: i64::MIN,
            recent: ValuesByReading::default(),
            aging: ValuesByReading::default(),
        }
    }

    /// Predicts the verdict on the next delivery; `None` for an invalid item. Due times must not
    /// decrease.
    pub fn predict(
        &mut self,
        due_ms: i64,
        key: u64,
        message: &CityMessage,
        kind: DeliveryKind,
    ) -> Option<OracleVerdict> {
        match kind {
            DeliveryKind::Invalid => return None,
            // A copy is sent after its original.
            kind if kind.is_copy() => return Some(OracleVerdict::Redelivery),
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
