//! DETECTIONS: every presence sensor tells, one to three times a second, where people are in its part of the room.

use super::chance::{self, Topic};
use super::issue::Issuer;
use super::life::TypeSet;
use super::people::People;
use super::plan::{Plan, Room, SensorMode};
use super::presence::Presence;
use super::stroll;
use crate::message::{Data, Message, Place, Position};
use butlr_event::EventType;

/// `local` is told in steps of a sixteenth of the field of view, as the sensor's pixels are few.
const STEPS: f32 = 16.0;

/// The presence sensors' readings.
pub struct Detections {
    seed: u64,
    issuer: Issuer,
    sensors: Vec<Ticking>,
    /// The positions in a reading; kept for its memory.
    seen: Vec<Position>,
}

/// When a sensor reads: whenever ms since 1970 modulo its period are its phase.
struct Ticking {
    sensor: u32,
    period_ms: i64,
    phase_ms: i64,
    skew_ms: i64,
}

/// That a sensor reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reading {
    /// When.
    pub at_ms: i64,
    /// Which, by its place among the presence sensors.
    nth: u32,
}

impl Detections {
    /// `skews` are the sensors' clocks' errors.
    pub fn new(seed: u64, issuer: Issuer, plan: &Plan, skews: &[i64], types: TypeSet) -> Self {
        let tell = types[EventType::Detections.index()];
        let sensors = plan.sensors.iter().zip(skews).zip(0..);
        let sensors = sensors
            .filter(|((sensor, _), _)| tell && sensor.mode == SensorMode::Presence)
            .map(|((sensor, &skew_ms), index)| Ticking {
                sensor: index,
                period_ms: i64::from(sensor.period_ms),
                phase_ms: i64::from(sensor.phase_ms),
                skew_ms,
            })
            .collect();
        Self {
            seed,
            issuer,
            sensors,
            seen: Vec::new(),
        }
    }

    /// All readings in a time, in order.
    pub fn due(&self, from_ms: i64, until_ms: i64) -> Vec<Reading> {
        let mut due = Vec::new();
        for (sensor, nth) in self.sensors.iter().zip(0..) {
            let mut at_ms = from_ms + (sensor.phase_ms - from_ms).rem_euclid(sensor.period_ms);
            while at_ms < until_ms {
                due.push(Reading { at_ms, nth });
                at_ms += sensor.period_ms;
            }
        }
        due.sort_unstable();
        due
    }

    /// What a sensor sees.
    pub fn read(
        &mut self,
        plan: &Plan,
        presence: &Presence,
        people: &People,
        reading: Reading,
        out: &mut Vec<Message>,
    ) {
        let Ticking {
            sensor: index,
            skew_ms,
            ..
        } = self.sensors[reading.nth as usize];
        let sensor = &plan.sensors[index as usize];
        let room = sensor.room.expect("presence sensors are in rooms");
        self.seen.clear();
        for &person in presence.people(room) {
            let zone = people
                .position(person)
                .expect("who is in a room is in one of its zones");
            let Room { use_, .. } = plan.rooms[room as usize];
            let world = stroll::position(
                self.seed,
                person,
                zone,
                &plan.zones[zone as usize].area,
                use_,
                reading.at_ms,
            );
            if sensor.area.contains(world) {
                let size = sensor.area.size();
                let local = [0, 1].map(|axis| {
                    let share = (world[axis] - sensor.area.min[axis]) / size[axis];
                    (share * STEPS).floor().min(STEPS - 1.0) / STEPS
                });
                self.seen.push(Position { world, local });
            }
        }
        let data = Data::Detections(self.seen.as_slice().into());
        out.push(self.issuer.once(
            EventType::Detections,
            Place::Sensor(index),
            reading.at_ms + skew_ms,
            reading.at_ms,
            data,
        ));
    }
}

/// How far each sensor's clock is off, ms. A share of the presence sensors', up to two hours either way, most only
/// seconds; never a door's. Whole periods, so that the sensors of a room still never tell the same moment.
pub fn skews(plan: &Plan, seed: u64, share: f64) -> Vec<i64> {
    let skew = |(index, period_ms)| {
        let dice = |nth| chance::hash(seed, Topic::Clock, [index, nth, 0]);
        if period_ms == 0 || !chance::happens(dice(0), share) {
            return 0;
        }
        let (least_ms, most_ms) = match chance::below(dice(1), 100) {
            0..70 => (1_000, 30_000),
            70..90 => (30_000, 600_000),
            _ => (600_000, 7_200_000),
        };
        let off_ms = (least_ms + chance::below(dice(2), most_ms - least_ms + 1)) as i64;
        let whole_ms = off_ms - off_ms % period_ms;
        if dice(3) % 2 == 0 {
            whole_ms
        } else {
            -whole_ms
        }
    };
    plan.sensors
        .iter()
        .enumerate()
        .map(|(index, sensor)| skew((index as u64, i64::from(sensor.period_ms))))
        .collect()
}
