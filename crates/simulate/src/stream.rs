//! The sender's deliveries in order: the messages of a city, with the sender's quirks.
//!
//! They are a function of the city, the seed and the [`SenderBehaviour`] alone: neither the wall
//! clock nor the responses have any influence.

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

/// Deliveries sorted by due time. Endless until [`DeliveryStream::end`].
///
/// Holds the messages of one tick and those that wait for their delay or for the end of an outage.
pub struct DeliveryStream {
    city: CitySimulation,
    seed: u64,
    behaviour: SenderBehaviour,
    outages: Option<OutageCalendar>,
    agenda: DeliveryAgenda,
    /// Scratch buffer for the messages of a tick.
    tick_messages: Vec<CityMessage>,
    ended: bool,
}

impl DeliveryStream {
    /// The deliveries of a city that is generated from the same seed.
    pub fn from_seed(
        seed: u64,
        size: CitySize,
        start_ms: i64,
        city_behaviour: CityBehaviour,
        behaviour: SenderBehaviour,
    ) -> Self {
        let plan = Arc::new(CityPlan::generate(seed, size));
        Self::new(
            CitySimulation::new(plan, seed, start_ms, city_behaviour),
            seed,
            behaviour,
        )
    }

    /// The deliveries of the messages that `city` computes from now on.
    pub fn new(city: CitySimulation, seed: u64, behaviour: SenderBehaviour) -> Self {
        let outages = behaviour.outages.map(|settings| {
            OutageCalendar::new(city.plan().buildings.len(), seed, city.now_ms(), settings)
        });
        Self {
            city,
            seed,
            behaviour,
            outages,
            agenda: DeliveryAgenda::default(),
            tick_messages: Vec::new(),
            ended: false,
        }
    }

    /// Stops the computation. Waiting deliveries come out at once, in order and due at
    /// [`DeliveryStream::now_ms`] at the latest, so that everything that [`DeliveryStream::truth`]
    /// includes is delivered.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The next delivery. Returns `None` if the simulated clock would have to pass `until_ms` by a
    /// tick or more (at night, hours may pass without a delivery of some types), or if the stream
    /// has ended and is empty.
    pub fn next_until(&mut self, until_ms: i64) -> Option<PlannedDelivery> {
        loop {
            let delivery = self.next_ready();
            if delivery.is_some() || self.ended || self.city.now_ms() >= until_ms {
                return delivery;
            }
            self.compute();
        }
    }

    /// The next delivery if it is known without [`DeliveryStream::compute`]; this takes negligible
    /// time.
    pub fn next_ready(&mut self) -> Option<PlannedDelivery> {
        if !self.ended {
            // Messages yet to be computed are due later.
            return self.agenda.next_before(self.city.now_ms());
        }
        let mut delivery = self.agenda.next()?;
        delivery.due_ms = delivery.due_ms.min(self.city.now_ms());
        Some(delivery)
    }

    /// The simulated clock, ms since 1970: everything before it is computed.
    pub fn now_ms(&self) -> i64 {
        self.city.now_ms()
    }

    /// True positions at [`DeliveryStream::now_ms`].
    pub fn truth(&self) -> GroundTruth {
        self.city.truth()
    }

    /// The plan of the city.
    pub fn plan(&self) -> &Arc<CityPlan> {
        self.city.plan()
    }

    /// Advances the city by one tick, which takes a while if it is large. Does nothing after the
    /// end.
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

    /// Schedules the deliveries of a message.
    fn plan_delivery(&mut self, message: CityMessage) {
        let DeliveryPlan {
            late,
            delay_ms,
            redelivery_after_ms,
            invalid,
        } = self.behaviour.draw_plan(self.seed, &message);
        let outage = self.outages.as_mut().and_then(|outages| {
            outages.outage_end(
                building_of(self.city.plan(), message.place),
                message.computed_ms,
            )
        });
        // Messages held back by an outage keep their order: they are not late or shuffled in
        // addition.
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
            let redelivery_after_ms = self
                .behaviour
                .draw_plan(self.seed, &message)
                .redelivery_after_ms;
            self.push_message(due_ms + after_ms, message, kind, redelivery_after_ms);
        }
        self.push_message(due_ms, message, kind, redelivery_after_ms);
    }

    /// Schedules the deliveries of a valid message: the message, its overlapping copy and its
    /// redelivery.
    fn push_message(
        &mut self,
        due_ms: i64,
        message: CityMessage,
        kind: DeliveryKind,
        redelivery_after_ms: Option<i64>,
    ) {
        let delivery = |due_ms, kind, message| PlannedDelivery {
            due_ms,
            message,
            kind,
            fault: None,
        };
        if let Some(after_ms) = redelivery_after_ms {
            let copy = delivery(due_ms + after_ms, DeliveryKind::Redelivery, message.clone());
            self.agenda.push(copy);
        }
        let overlapping = self
            .behaviour
            .is_overlapping(self.seed, &message)
            .then(|| delivery(due_ms, DeliveryKind::Overlapping, message.clone()));
        self.agenda.push(delivery(due_ms, kind, message));
        // Directly after the original: nothing else of the same moment comes in between.
        if let Some(copy) = overlapping {
            self.agenda.push(copy);
        }
    }

    /// Longest time between two deliveries of a reading, on the simulated clock.
    pub fn max_reading_span_ms(&self) -> i64 {
        // Covers five computations, a late delivery, and its copies.
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

/// The building that contains a place.
fn building_of(plan: &CityPlan, place: CityPlace) -> u32 {
    let floor = match place {
        CityPlace::Floor(floor) => floor,
        CityPlace::Room(room) => plan.rooms[room as usize].floor,
        CityPlace::Zone(zone) => plan.rooms[plan.zones[zone as usize].room as usize].floor,
        CityPlace::Sensor(sensor) => plan.sensors[sensor as usize].floor,
    };
    plan.floors[floor as usize].building
}
