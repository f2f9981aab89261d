//! TRAFFIC: people counted at doors.
//!
//! The passages through a door within one tick make one message. It is computed in the last tenth
//! of the tick, when nobody walks any more, so at the end of every tick the sums of entries and
//! exits agree with where people are.

use super::behaviour::TypeSet;
use super::chance::{self, ChanceTopic};
use super::clock::CityClock;
use super::issuer::{MessageIssuer, ReadingRef};
use crate::message::{CityMessage, CityPlace, MessageData};
use butlr_event::EventType;

/// The counters at all doors.
pub struct DoorCounters {
    seed: u64,
    issuer: MessageIssuer,
    is_enabled: bool,
    /// Indexed by sensor.
    tallies: Vec<DoorTally>,
    /// Sensors that have counted someone in this tick.
    active: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
struct DoorTally {
    entered: u32,
    left: u32,
    last_ms: i64,
}

impl DoorCounters {
    /// Counters at zero.
    pub fn new(seed: u64, issuer: MessageIssuer, sensors: usize, types: TypeSet) -> Self {
        Self {
            seed,
            issuer,
            is_enabled: types[EventType::Traffic.index()],
            tallies: vec![DoorTally::default(); sensors],
            active: Vec::new(),
        }
    }

    /// Counts a person who enters through the door with this sensor.
    pub fn enter(&mut self, sensor: u32, at_ms: i64) {
        self.tally_mut(sensor, at_ms).entered += 1;
    }

    /// Counts a person who leaves.
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

    /// Reports the counts of the tick that ends at `end_ms`.
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
            let reading = ReadingRef {
                event_type: EventType::Traffic,
                place: CityPlace::Sensor(sensor),
                timestamp_ms: tally.last_ms,
            };
            let data = MessageData::Traffic {
                entered: tally.entered,
                left: tally.left,
            };
            out.push(self.issuer.issue_once(reading, computed_ms, data));
        }
    }
}
