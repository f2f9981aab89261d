//! DETECTIONS: positions of the people in each presence sensor's part of the room, reported one to
//! three times a second.

use super::behaviour::TypeSet;
use super::chance::{self, ChanceTopic};
use super::issuer::{MessageIssuer, ReadingRef};
use super::people::People;
use super::plan::{CityPlan, SensorMode};
use super::presence::CityScene;
use super::stroll::Walker;
use crate::message::{CityMessage, CityPlace, DetectedPosition, MessageData};
use butlr_event::EventType;

/// Resolution of `local`: a sixteenth of the field of view, because the sensor has few pixels.
const STEPS: f32 = 16.0;

/// The presence sensors' readings.
pub struct DetectionSensors {
    seed: u64,
    issuer: MessageIssuer,
    sensors: Vec<SensorSchedule>,
    /// Scratch buffer for the positions of one reading.
    positions: Vec<DetectedPosition>,
}

/// Schedule of a sensor: it reads whenever ms since 1970, modulo its period, equal its phase.
struct SensorSchedule {
    sensor: u32,
    period_ms: i64,
    phase_ms: i64,
    skew_ms: i64,
}

/// A reading that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueReading {
    /// Moment of the reading.
    pub at_ms: i64,
    /// Index into [`DetectionSensors::sensors`].
    nth: u32,
}

impl DetectionSensors {
    /// `skews` holds the clock error of each sensor.
    pub fn new(
        seed: u64,
        issuer: MessageIssuer,
        plan: &CityPlan,
        skews: &[i64],
        types: TypeSet,
    ) -> Self {
        let is_enabled = types[EventType::Detections.index()];
        let sensors = plan.sensors.iter().zip(skews).zip(0..);
        let sensors = sensors
            .filter(|((sensor, _), _)| is_enabled && sensor.mode == SensorMode::Presence)
            .map(|((sensor, &skew_ms), index)| SensorSchedule {
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
            positions: Vec::new(),
        }
    }

    /// All readings in a period, in order.
    pub fn due_readings(&self, from_ms: i64, until_ms: i64) -> Vec<DueReading> {
        let mut due = Vec::new();
        for (sensor, nth) in self.sensors.iter().zip(0..) {
            let mut at_ms = from_ms + (sensor.phase_ms - from_ms).rem_euclid(sensor.period_ms);
            while at_ms < until_ms {
                due.push(DueReading { at_ms, nth });
                at_ms += sensor.period_ms;
            }
        }
        due.sort_unstable();
        due
    }

    /// Takes a sensor's reading.
    pub fn read_sensor(
        &mut self,
        scene: CityScene,
        people: &People,
        reading: DueReading,
        out: &mut Vec<CityMessage>,
    ) {
        let SensorSchedule {
            sensor: index,
            skew_ms,
            ..
        } = self.sensors[reading.nth as usize];
        let sensor = &scene.plan.sensors[index as usize];
        let room = sensor.room.expect("presence sensors are in rooms");
        self.positions.clear();
        let room_use = scene.plan.rooms[room as usize].room_use;
        for &person in scene.presence.people(room) {
            let zone = people
                .position(person)
                .expect("a person in a room is in one of its zones");
            let walker = Walker {
                seed: self.seed,
                person,
                zone,
            };
            let area = &scene.plan.zones[zone as usize].area;
            let world = walker.position(area, room_use, reading.at_ms);
            if sensor.area.contains(world) {
                let size = sensor.area.size();
                let local = [0, 1].map(|axis| {
                    let share = (world[axis] - sensor.area.min[axis]) / size[axis];
                    (share * STEPS).floor().min(STEPS - 1.0) / STEPS
                });
                self.positions.push(DetectedPosition { world, local });
            }
        }
        let data = MessageData::Detections(self.positions.as_slice().into());
        let reading_ref = ReadingRef {
            event_type: EventType::Detections,
            place: CityPlace::Sensor(index),
            timestamp_ms: reading.at_ms + skew_ms,
        };
        out.push(self.issuer.issue_once(reading_ref, reading.at_ms, data));
    }
}

/// Clock error of each sensor, ms. A share of the presence sensors is off by up to two hours either
/// way, most of them by seconds only; doors never are. Errors are whole periods, so that two
/// sensors of a room still never report the same moment.
pub fn draw_clock_skews(plan: &CityPlan, seed: u64, share: f64) -> Vec<i64> {
    let skew = |(index, period_ms)| {
        let dice = |nth| chance::hash(seed, ChanceTopic::Clock, [index, nth, 0]);
        if period_ms == 0 || !chance::happens(dice(0), share) {
            return 0;
        }
        let (least_ms, most_ms) = match chance::number_below(dice(1), 100) {
            0..70 => (1_000, 30_000),
            70..90 => (30_000, 600_000),
            _ => (600_000, 7_200_000),
        };
        let off_ms = (least_ms + chance::number_below(dice(2), most_ms - least_ms + 1)) as i64;
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
