//! TRAFFIC: who comes and goes through doors.
//!
//! What goes through a door within one tick is one message, computed in the last tenth of that tick, when nobody walks
//! any more. So at the end of every tick all that happened has been told: the sums agree with where people are.

use super::chance::{self, Topic};
use super::clock::Clock;
use super::issue::Issuer;
use super::life::TypeSet;
use crate::message::{Data, Message, Place};
use butlr_event::EventType;

/// The counters at all doors.
pub struct Doors {
    seed: u64,
    issuer: Issuer,
    /// Whether TRAFFIC is wanted.
    tell: bool,
    /// By sensor.
    tallies: Vec<Tally>,
    /// The sensors that counted someone in this tick.
    counting: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    entered: u32,
    left: u32,
    last_ms: i64,
}

impl Doors {
    /// Nobody has come or gone yet.
    pub fn new(seed: u64, issuer: Issuer, sensors: usize, types: TypeSet) -> Self {
        Self {
            seed,
            issuer,
            tell: types[EventType::Traffic.index()],
            tallies: vec![Tally::default(); sensors],
            counting: Vec::new(),
        }
    }

    /// Someone comes in through the door with this sensor.
    pub fn enter(&mut self, sensor: u32, at_ms: i64) {
        self.tally(sensor, at_ms).entered += 1;
    }

    /// Someone goes out.
    pub fn leave(&mut self, sensor: u32, at_ms: i64) {
        self.tally(sensor, at_ms).left += 1;
    }

    fn tally(&mut self, sensor: u32, at_ms: i64) -> &mut Tally {
        let tally = &mut self.tallies[sensor as usize];
        if tally.entered + tally.left == 0 {
            self.counting.push(sensor);
        }
        tally.last_ms = at_ms;
        tally
    }

    /// Tells what was counted in the tick that ends at `end_ms`.
    pub fn report(&mut self, clock: &Clock, end_ms: i64, out: &mut Vec<Message>) {
        let (from_ms, within_ms) = clock.reporting(end_ms);
        for sensor in self.counting.drain(..) {
            let tally = std::mem::take(&mut self.tallies[sensor as usize]);
            if !self.tell {
                continue;
            }
            let dice = chance::hash(
                self.seed,
                Topic::Door,
                [u64::from(sensor), end_ms as u64, 0],
            );
            let computed_ms = from_ms + chance::below(dice, within_ms as u64) as i64;
            let (place, timestamp_ms) = (Place::Sensor(sensor), tally.last_ms);
            let data = Data::Traffic {
                entered: tally.entered,
                left: tally.left,
            };
            out.push(
                self.issuer
                    .once(EventType::Traffic, place, timestamp_ms, computed_ms, data),
            );
        }
    }
}
