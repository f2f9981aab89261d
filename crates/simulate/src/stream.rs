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

pub use behaviour::{Behaviour, Outages};

use super::city::{Habits, Life, Plan, Size, Truth};
use super::message::{Computation, Delivery, Kind, Message, Place};
use agenda::Agenda;
use behaviour::{Companion, Fate};
use outages::Calendar;

/// Deliveries, sorted by when they are due. Endless until [`Stream::end`].
///
/// Holds the messages of one tick and those that wait: for their delay, or for the end of an outage.
pub struct Stream {
    life: Life,
    seed: u64,
    behaviour: Behaviour,
    outages: Option<Calendar>,
    agenda: Agenda,
    /// The messages of a tick; empty in between.
    computed: Vec<Message>,
    ended: bool,
}

impl Stream {
    /// The deliveries of a city that grows, lives and is heard of by one seed.
    pub fn grow(
        seed: u64,
        size: Size,
        start_ms: i64,
        habits: Habits,
        behaviour: Behaviour,
    ) -> Self {
        let plan = Arc::new(Plan::grow(seed, size));
        Self::new(Life::begin(plan, seed, start_ms, habits), seed, behaviour)
    }

    /// The deliveries of what `life` computes from now on.
    pub fn new(life: Life, seed: u64, behaviour: Behaviour) -> Self {
        let outages = behaviour
            .outages
            .map(|habit| Calendar::new(life.plan().buildings.len(), seed, life.now_ms(), habit));
        Self {
            life,
            seed,
            behaviour,
            outages,
            agenda: Agenda::default(),
            computed: Vec::new(),
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
    pub fn next_until(&mut self, until_ms: i64) -> Option<Delivery> {
        loop {
            let delivery = self.next_known();
            if delivery.is_some() || self.ended || self.life.now_ms() >= until_ms {
                return delivery;
            }
            self.compute();
        }
    }

    /// The next delivery, if it is known without [`Stream::compute`]; that takes no time worth speaking of.
    pub fn next_known(&mut self) -> Option<Delivery> {
        if !self.ended {
            // Whatever comes next is computed from now on, and so due later.
            return self.agenda.next_before(self.life.now_ms());
        }
        let mut delivery = self.agenda.next()?;
        delivery.due_ms = delivery.due_ms.min(self.life.now_ms());
        Some(delivery)
    }

    /// How far the simulated clock is, ms since 1970: everything until then is computed.
    pub fn now_ms(&self) -> i64 {
        self.life.now_ms()
    }

    /// Who is where at [`Stream::now_ms`].
    pub fn truth(&self) -> Truth {
        self.life.truth()
    }

    /// The city that it is about.
    pub fn plan(&self) -> &Arc<Plan> {
        self.life.plan()
    }

    /// Lets the city live for a tick, which takes a while where it is large. Nothing happens after the end.
    pub fn compute(&mut self) {
        if self.ended {
            return;
        }
        let mut computed = std::mem::take(&mut self.computed);
        self.life.advance(&mut computed);
        for message in computed.drain(..) {
            self.plan_delivery(message);
        }
        self.computed = computed;
    }

    /// Decides what becomes of a message.
    fn plan_delivery(&mut self, message: Message) {
        let Fate {
            late,
            delay_ms,
            again_after_ms,
            invalid,
        } = self.behaviour.fate(self.seed, &message);
        let outage = self.outages.as_mut().and_then(|outages| {
            outages.end_at(
                building(self.life.plan(), message.place),
                message.computed_ms,
            )
        });
        // What piles up in an outage keeps its order: it is neither late nor shuffled on top.
        let due_ms = outage.unwrap_or(message.computed_ms + delay_ms);
        let kind = match message.computation {
            _ if late && outage.is_none() => Kind::Late,
            Computation::First => Kind::First,
            Computation::Repeat => Kind::Repeat,
            Computation::Revision => Kind::Revision,
        };
        if let Some((fault, id)) = invalid {
            self.agenda.put(Delivery {
                due_ms,
                message: Message {
                    id,
                    ..message.clone()
                },
                kind: Kind::Invalid,
                fault: Some(fault),
            });
        }
        for companion in self.behaviour.companions(self.seed, &message) {
            let Companion {
                after_ms,
                kind,
                message,
            } = companion;
            let again_after_ms = self.behaviour.fate(self.seed, &message).again_after_ms;
            self.put(due_ms + after_ms, message, kind, again_after_ms);
        }
        self.put(due_ms, message, kind, again_after_ms);
    }

    /// Puts in what is delivered of a valid message: it, its overlapping copy, and one so long after it.
    fn put(&mut self, due_ms: i64, message: Message, kind: Kind, again_after_ms: Option<i64>) {
        let delivery = |due_ms, kind, message| Delivery {
            due_ms,
            message,
            kind,
            fault: None,
        };
        if let Some(after_ms) = again_after_ms {
            let again = delivery(due_ms + after_ms, Kind::Redelivery, message.clone());
            self.agenda.put(again);
        }
        let overlapping = self
            .behaviour
            .overlaps(self.seed, &message)
            .then(|| delivery(due_ms, Kind::Overlapping, message.clone()));
        self.agenda.put(delivery(due_ms, kind, message));
        // Right behind it: nothing else of the same moment comes in between.
        if let Some(copy) = overlapping {
            self.agenda.put(copy);
        }
    }

    /// How long at most it is from one delivery about a reading to the next, on the simulated clock.
    pub fn span_ms(&self) -> i64 {
        // Five computations, of which one is late, and copies of that.
        const USUAL_MS: i64 = 30 * 60_000;
        let outage = self.behaviour.outages.map_or(0, |outages| {
            i64::try_from(outages.length.as_millis() * 2).unwrap_or(i64::MAX / 4)
        });
        USUAL_MS + outage
    }
}

impl Iterator for Stream {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        self.next_until(i64::MAX)
    }
}

/// The building that a place is in.
fn building(plan: &Plan, place: Place) -> u32 {
    let floor = match place {
        Place::Floor(floor) => floor,
        Place::Room(room) => plan.rooms[room as usize].floor,
        Place::Zone(zone) => plan.rooms[plan.zones[zone as usize].room as usize].floor,
        Place::Sensor(sensor) => plan.sensors[sensor as usize].floor,
    };
    plan.floors[floor as usize].building
}
