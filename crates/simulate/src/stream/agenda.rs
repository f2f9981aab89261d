//! Pending deliveries by due time.

use std::collections::BTreeMap;
use std::vec::IntoIter;

use crate::message::PlannedDelivery;

/// Width of a slot as a power of two of milliseconds: small enough that a tick has several slots.
const SLOT_BITS: u32 = 7;

/// Queue that returns deliveries in the order of their due time, and those of one moment in the
/// order in which they were pushed.
///
/// It is cheaper than a heap, which would move each delivery many times: a delivery waits in its
/// slot of 128 ms, and a slot is sorted once, when its turn comes.
///
/// Invariant: no delivery is pushed that is due before one that may already have been returned.
#[derive(Debug, Default)]
pub(super) struct DeliveryAgenda {
    waiting: BTreeMap<i64, Vec<PlannedDelivery>>,
    ready: IntoIter<PlannedDelivery>,
    /// First slot that is still open for new deliveries.
    first_open: i64,
}

impl DeliveryAgenda {
    /// Adds a delivery. It must not be due before the latest `until_ms` passed to
    /// [`DeliveryAgenda::next_before`].
    pub(super) fn push(&mut self, delivery: PlannedDelivery) {
        let slot = delivery.due_ms >> SLOT_BITS;
        debug_assert!(slot >= self.first_open, "delivery is due in a closed slot");
        self.waiting
            .entry(slot.max(self.first_open))
            .or_default()
            .push(delivery);
    }

    /// The next delivery due before `until_ms`, rounded down to whole slots. `until_ms` must not
    /// decrease, and no delivery due before it may be pushed afterwards.
    pub(super) fn next_before(&mut self, until_ms: i64) -> Option<PlannedDelivery> {
        if let Some(delivery) = self.ready.next() {
            return Some(delivery);
        }
        self.first_open = self.first_open.max(until_ms >> SLOT_BITS);
        let entry = self.waiting.first_entry()?;
        if *entry.key() >= self.first_open {
            return None;
        }
        let slot = entry.remove();
        self.open_slot(slot)
    }

    /// The next delivery, regardless of its due time.
    pub(super) fn next(&mut self) -> Option<PlannedDelivery> {
        if let Some(delivery) = self.ready.next() {
            return Some(delivery);
        }
        let (_, slot) = self.waiting.pop_first()?;
        self.open_slot(slot)
    }

    fn open_slot(&mut self, mut slot: Vec<PlannedDelivery>) -> Option<PlannedDelivery> {
        slot.sort_by_key(|delivery| delivery.due_ms);
        self.ready = slot.into_iter();
        self.ready.next()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{CityMessage, CityPlace, Computation, DeliveryKind, MessageData};
    use butlr_event::EventType;
    use butlr_event::ksuid::Ksuid;

    fn delivery(due_ms: i64, number: u32) -> PlannedDelivery {
        let message = CityMessage {
            event_type: EventType::FloorOccupancy,
            place: CityPlace::Floor(0),
            timestamp_ms: 0,
            computed_ms: 0,
            id: Ksuid::from_bytes([0; 20]),
            data: MessageData::Occupancy(number),
            computation: Computation::First,
        };
        PlannedDelivery {
            due_ms,
            message,
            kind: DeliveryKind::First,
            fault: None,
        }
    }

    proptest! {
        /// Ticks of any length; each pushes deliveries that are due in it or later.
        #[test]
        fn deliveries_are_sorted_by_due_time_and_stable_within_a_moment(
            ticks in prop::collection::vec(
                (0_i64..400, prop::collection::vec(prop_oneof![0_i64..300, 0_i64..5_000], 0..20)),
                0..30,
            ),
        ) {
            let mut agenda = DeliveryAgenda::default();
            let mut now_ms = 1_700_000_000_000;
            let mut expected = Vec::new();
            let mut out = Vec::new();
            for (tick_ms, delays) in ticks {
                for delay in delays {
                    let delivery = delivery(now_ms + delay, expected.len() as u32);
                    expected.push(delivery.clone());
                    agenda.push(delivery);
                }
                now_ms += tick_ms;
                while let Some(delivery) = agenda.next_before(now_ms) {
                    prop_assert!(delivery.due_ms < now_ms);
                    out.push(delivery);
                }
                let over = now_ms - (1 << SLOT_BITS);
                let due = expected.iter().filter(|delivery| delivery.due_ms < over).count();
                prop_assert!(out.len() >= due, "a delivery was held back for longer than a slot");
            }
            out.extend(std::iter::from_fn(|| agenda.next()));
            expected.sort_by_key(|delivery| delivery.due_ms);
            prop_assert_eq!(out, expected);
        }
    }
}
