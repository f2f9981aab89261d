//! What the sender delivers, in the order in which it would: the messages of a life, with the sender's quirks.
//!
//! A function of the life, the seed and the [`Behaviour`] alone: no clock is looked at, and how answers turn out changes
//! nothing.

mod agenda;
mod behaviour;
mod outages;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use behaviour::{OutageSettings, SenderBehaviour};

use super::city::{CityBehaviour, CityPlan, CitySimulation, CitySize, GroundTruth};
use super::message::{CityMessage, CityPlace, Computation, DeliveryKind, PlannedDelivery};
use agenda::DeliveryAgenda;
use behaviour::{CompanionMessage, DeliveryPlan};
use outages::OutageCalendar;

/// Deliveries, sorted by when they are due. Endless until [`Stream::end`].
///
/// Holds the messages of one tick and those that wait: for their delay, or for the end of an outage.
pub struct DeliveryStream {
    city: CitySimulation,
    seed: u64,
    behaviour: SenderBehaviour,
    outages: Option<OutageCalendar>,
    agenda: DeliveryAgenda,
    /// The messages of a tick; empty in between.
    tick_messages: Vec<CityMessage>,
    ended: bool,
}

impl DeliveryStream {
    /// The deliveries of a city that grows, lives and is heard of by one seed.
    pub fn from_seed(
        seed: u64,
        size: CitySize,
        start_ms: i64,
        habits: CityBehaviour,
        behaviour: SenderBehaviour,
    ) -> Self {
        let plan = Arc::new(CityPlan::generate(seed, size));
        Self::new(
            CitySimulation::new(plan, seed, start_ms, habits),
            seed,
            behaviour,
        )
    }

    /// The deliveries of what `life` computes from now on.
    pub fn new(life: CitySimulation, seed: u64, behaviour: SenderBehaviour) -> Self {
        let outages = behaviour.outages.map(|habit| {
            OutageCalendar::new(life.plan().buildings.len(), seed, life.now_ms(), habit)
        });
        Self {
            city: life,
            seed,
            behaviour,
            outages,
            agenda: DeliveryAgenda::default(),
            tick_messages: Vec::new(),
            ended: false,
        }
    }

    /// From now on nothing is computed any more. What waits comes out without waiting, in order and due at
    /// [`Stream::now_ms`] at the latest, so that everything that [`Stream::truth`] is made of was told.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The next delivery, unless the simulated clock would have to pass `until_ms` for it by a tick or more: `None` then,
    /// and after the end when everything is out. (At night hours may go by without a delivery of some types.)
    pub fn next_until(&mut self, until_ms: i64) -> Option<PlannedDelivery> {
        loop {
            let delivery = self.next_ready();
            if delivery.is_some() || self.ended || self.city.now_ms() >= until_ms {
                return delivery;
            }
            self.compute();
        }
    }

    /// The next delivery, if it is known without [`Stream::compute`]; that takes no time worth speaking of.
    pub fn next_ready(&mut self) -> Option<PlannedDelivery> {
        if !self.ended {
            // Whatever comes next is computed from now on, and so due later.
            return self.agenda.next_before(self.city.now_ms());
        }
        let mut delivery = self.agenda.next()?;
        delivery.due_ms = delivery.due_ms.min(self.city.now_ms());
        Some(delivery)
    }

    /// How far the simulated clock is, ms since 1970: everything until then is computed.
    pub fn now_ms(&self) -> i64 {
        self.city.now_ms()
    }

    /// Who is where at [`Stream::now_ms`].
    pub fn truth(&self) -> GroundTruth {
        self.city.truth()
    }

    /// The city that it is about.
    pub fn plan(&self) -> &Arc<CityPlan> {
        self.city.plan()
    }

    /// Lets the city live for a tick, which takes a while where it is large. Nothing happens after the end.
    pub fn compute(&mut self) {
        if self.ended {
            return;
        }
        let mut computed = std::mem::take(&mut self.tick_messages);
        self.city.advance(&mut computed);
        for message in computed.drain(..) {
            self.plan_delivery(message);
        }
        self.tick_messages = computed;
    }

    /// Decides what becomes of a message.
    fn plan_delivery(&mut self, message: CityMessage) {
        let DeliveryPlan {
            late,
            delay_ms,
            redelivery_after_ms: again_after_ms,
            invalid,
        } = self.behaviour.draw_plan(self.seed, &message);
        let outage = self.outages.as_mut().and_then(|outages| {
            outages.outage_end(
                building_of(self.city.plan(), message.place),
                message.computed_ms,
            )
        });
        // What piles up in an outage keeps its order: it is neither late nor shuffled on top.
        let due_ms = outage.unwrap_or(message.computed_ms + delay_ms);
        let kind = match message.computation {
            _ if late && outage.is_none() => DeliveryKind::Late,
            Computation::First => DeliveryKind::First,
            Computation::Repeat => DeliveryKind::Repeat,
            Computation::Revision => DeliveryKind::Revision,
        };
        if let Some((fault, id)) = invalid {
            self.agenda.push(PlannedDelivery {
                due_ms,
                message: CityMessage {
                    id,
                    ..message.clone()
                },
                kind: DeliveryKind::Invalid,
                fault: Some(fault),
            });
        }
        for companion in self.behaviour.draw_companions(self.seed, &message) {
            let CompanionMessage {
                after_ms,
                kind,
                message,
            } = companion;
            let again_after_ms = self
                .behaviour
                .draw_plan(self.seed, &message)
                .redelivery_after_ms;
            self.push_message(due_ms + after_ms, message, kind, again_after_ms);
        }
        self.push_message(due_ms, message, kind, again_after_ms);
    }

    /// Puts in what is delivered of a valid message: it, its overlapping copy, and one so long after it.
    fn push_message(
        &mut self,
        due_ms: i64,
        message: CityMessage,
        kind: DeliveryKind,
        again_after_ms: Option<i64>,
    ) {
        let delivery = |due_ms, kind, message| PlannedDelivery {
            due_ms,
            message,
            kind,
            fault: None,
        };
        if let Some(after_ms) = again_after_ms {
            let again = delivery(due_ms + after_ms, DeliveryKind::Redelivery, message.clone());
            self.agenda.push(again);
        }
        let overlapping = self
            .behaviour
            .is_overlapping(self.seed, &message)
            .then(|| delivery(due_ms, DeliveryKind::Overlapping, message.clone()));
        self.agenda.push(delivery(due_ms, kind, message));
        // Right behind it: nothing else of the same moment comes in between.
        if let Some(copy) = overlapping {
            self.agenda.push(copy);
        }
    }

    /// How long at most it is from one delivery about a reading to the next, on the simulated clock.
    pub fn max_reading_span_ms(&self) -> i64 {
        // Five computations, of which one is late, and copies of that.
        const USUAL_MS: i64 = 30 * 60_000;
        let outage = self.behaviour.outages.map_or(0, |outages| {
            i64::try_from(outages.length.as_millis() * 2).unwrap_or(i64::MAX / 4)
        });
        USUAL_MS + outage
    }
}

impl Iterator for DeliveryStream {
    type Item = PlannedDelivery;

    fn next(&mut self) -> Option<PlannedDelivery> {
        self.next_until(i64::MAX)
    }
}

/// The building that a place is in.
fn building_of(plan: &CityPlan, place: CityPlace) -> u32 {
    let floor = match place {
        CityPlace::Floor(floor) => floor,
        CityPlace::Room(room) => plan.rooms[room as usize].floor,
        CityPlace::Zone(zone) => plan.rooms[plan.zones[zone as usize].room as usize].floor,
        CityPlace::Sensor(sensor) => plan.sensors[sensor as usize].floor,
    };
    plan.floors[floor as usize].building
}
