//! TRAFFIC: who comes and goes through doors.
//!
//! What goes through a door within one tick is one message, computed in the last tenth of that tick, when nobody walks
//! any more. So at the end of every tick all that happened has been told: the sums agree with where people are.

use super::chance::{self, ChanceTopic};
use super::clock::CityClock;
use super::issuer::MessageIssuer;
use super::simulation::TypeSet;
use crate::message::{CityMessage, CityPlace, MessageData};
use butlr_event::EventType;

/// The counters at all doors.
pub struct DoorCounters {
    seed: u64,
    issuer: MessageIssuer,
    /// Whether TRAFFIC is wanted.
    is_enabled: bool,
    /// By sensor.
    tallies: Vec<DoorTally>,
    /// The sensors that counted someone in this tick.
    active: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
struct DoorTally {
    entered: u32,
    left: u32,
    last_ms: i64,
}

impl DoorCounters {
    /// Nobody has come or gone yet.
    pub fn new(seed: u64, issuer: MessageIssuer, sensors: usize, types: TypeSet) -> Self {
        Self {
            seed,
            issuer,
            is_enabled: types[EventType::Traffic.index()],
            tallies: vec![DoorTally::default(); sensors],
            active: Vec::new(),
        }
    }

    /// Someone comes in through the door with this sensor.
    pub fn enter(&mut self, sensor: u32, at_ms: i64) {
        self.tally_mut(sensor, at_ms).entered += 1;
    }

    /// Someone goes out.
    pub fn leave(&mut self, sensor: u32, at_ms: i64) {
        self.tally_mut(sensor, at_ms).left += 1;
    }

    fn tally_mut(&mut self, sensor: u32, at_ms: i64) -> &mut DoorTally {
        let tally = &mut self.tallies[sensor as usize];
        if tally.entered + tally.left == 0 {
            self.active.push(sensor);
        }
        tally.last_ms = at_ms;
        tally
    }

    /// Tells what was counted in the tick that ends at `end_ms`.
    pub fn report(&mut self, clock: &CityClock, end_ms: i64, out: &mut Vec<CityMessage>) {
        let (from_ms, within_ms) = clock.reporting_window(end_ms);
        for sensor in self.active.drain(..) {
            let tally = std::mem::take(&mut self.tallies[sensor as usize]);
            if !self.is_enabled {
                continue;
            }
            let dice = chance::hash(
                self.seed,
                ChanceTopic::Door,
                [u64::from(sensor), end_ms as u64, 0],
            );
            let computed_ms = from_ms + chance::number_below(dice, within_ms as u64) as i64;
            let (place, timestamp_ms) = (CityPlace::Sensor(sensor), tally.last_ms);
            let data = MessageData::Traffic {
                entered: tally.entered,
                left: tally.left,
            };
            out.push(self.issuer.issue_once(
                EventType::Traffic,
                place,
                timestamp_ms,
                computed_ms,
                data,
            ));
        }
    }
}
