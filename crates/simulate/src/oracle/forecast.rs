//! What the deliveries of a stream will be when each of them is stored: as many of each verdict as the ledger expects.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::{Current, Verdict};
use crate::hash::AsItIs;
use crate::message::{Data, Kind, Message};

type Values = HashMap<u64, Current, BuildHasherDefault<AsItIs>>;

/// The current values of what is being told. Whatever was not told for longer than the stream goes on about it is
/// forgotten: about 50 bytes for each reading of occupancy of the last hour of the simulated clock.
pub struct Forecast {
    /// How long at most it is from one delivery about a reading to the next, ms.
    span_ms: i64,
    /// When the young ones become the old ones.
    turn_ms: i64,
    pub(super) young: Values,
    pub(super) old: Values,
}

impl Forecast {
    /// Nothing was told yet.
    pub fn new(span_ms: i64) -> Self {
        Self {
            span_ms,
            turn_ms: i64::MIN,
            young: Values::default(),
            old: Values::default(),
        }
    }

    /// What the next delivery will be: of `message`, about the reading with this key, as this kind. `None` for an invalid
    /// one. The due times never go back.
    pub fn next(
        &mut self,
        due_ms: i64,
        key: u64,
        message: &Message,
        kind: Kind,
    ) -> Option<Verdict> {
        match kind {
            Kind::Invalid => return None,
            // It goes out behind the event that it is a copy of.
            Kind::Redelivery | Kind::Overlapping => return Some(Verdict::Redelivery),
            _ => {}
        }
        let Data::Occupancy(people) = message.data else {
            return Some(Verdict::First);
        };
        if due_ms >= self.turn_ms {
            self.old = std::mem::take(&mut self.young);
            self.turn_ms = due_ms + self.span_ms;
        }
        let (id, data) = (message.id, u64::from(people));
        let current = self.young.get(&key).copied();
        let current = current.or_else(|| self.old.remove(&key));
        let verdict = current.map_or(Verdict::First, |current| current.judge(id, data));
        let current = match (verdict, current) {
            (Verdict::Repeat | Verdict::Stale, Some(current)) => current,
            _ => Current { data, id },
        };
        self.young.insert(key, current);
        Some(verdict)
    }
}
