//! PIR: each room's first presence sensor reports when motion begins, and when there has been none
//! for a while.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::behaviour::TypeSet;
use super::chance::{self, ChanceTopic};
use super::issuer::{MessageIssuer, ReadingRef};
use super::plan::CityPlan;
use crate::message::{CityMessage, CityPlace, MessageData};
use butlr_event::EventType;

/// Time for which a room must be empty, give or take [`STILL_JITTER_MS`], before its sensor reports
/// no motion.
const STILL_MS: i64 = 15_000;
const STILL_JITTER_MS: u64 = 1_000;

/// The motion state of all rooms.
pub struct MotionSensors {
    seed: u64,
    issuer: MessageIssuer,
    /// Indexed by room.
    rooms: Vec<RoomMotion>,
    /// Moments at which rooms become still unless someone enters before, earliest first.
    pending_still: BinaryHeap<Reverse<(i64, u32)>>,
    types: TypeSet,
}

#[derive(Clone, Copy)]
struct RoomMotion {
    /// The reporting sensor and its clock error.
    sensor: Option<(u32, i64)>,
    state: MotionState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MotionState {
    Still,
    Moving,
    /// Empty for a short time; still from this moment on.
    Calming(i64),
}

impl MotionSensors {
    /// All rooms are still. `skews` holds the clock error of each sensor.
    pub fn new(
        seed: u64,
        issuer: MessageIssuer,
        plan: &CityPlan,
        skews: &[i64],
        types: TypeSet,
    ) -> Self {
        let sensor = |sensors: &std::ops::Range<u32>| {
            (!sensors.is_empty()).then(|| (sensors.start, skews[sensors.start as usize]))
        };
        let rooms = plan
            .rooms
            .iter()
            .map(|room| RoomMotion {
                sensor: sensor(&room.sensors),
                state: MotionState::Still,
            })
            .collect();
        Self {
            seed,
            issuer,
            rooms,
            pending_still: BinaryHeap::new(),
            types,
        }
    }

    /// Records that a person enters a room.
    pub fn enter(&mut self, room: u32, at_ms: i64, out: &mut Vec<CityMessage>) {
        self.report_still_rooms(at_ms, out);
        let before = std::mem::replace(&mut self.rooms[room as usize].state, MotionState::Moving);
        if before == MotionState::Still {
            self.emit(EventType::PirMotion, room, at_ms, out);
        }
    }

    /// Records that the last person leaves a room.
    pub fn vacate(&mut self, room: u32, at_ms: i64) {
        let dice = chance::hash(
            self.seed,
            ChanceTopic::MotionEnd,
            [u64::from(room), at_ms as u64, 0],
        );
        let still_ms = at_ms + STILL_MS - STILL_JITTER_MS as i64
            + chance::number_below(dice, 2 * STILL_JITTER_MS) as i64;
        self.rooms[room as usize].state = MotionState::Calming(still_ms);
        self.pending_still.push(Reverse((still_ms, room)));
    }

    /// Reports the rooms that become still before a moment.
    pub fn report_still_rooms(&mut self, before_ms: i64, out: &mut Vec<CityMessage>) {
        while let Some(&Reverse((still_ms, room))) = self.pending_still.peek() {
            if still_ms >= before_ms {
                break;
            }
            self.pending_still.pop();
            // Someone may have entered in the meantime.
            if self.rooms[room as usize].state == MotionState::Calming(still_ms) {
                self.rooms[room as usize].state = MotionState::Still;
                self.emit(EventType::PirNoMotion, room, still_ms, out);
            }
        }
    }

    fn emit(&self, event_type: EventType, room: u32, at_ms: i64, out: &mut Vec<CityMessage>) {
        if let Some((sensor, skew_ms)) = self.rooms[room as usize].sensor
            && self.types[event_type.index()]
        {
            let reading = ReadingRef {
                event_type,
                place: CityPlace::Sensor(sensor),
                timestamp_ms: at_ms + skew_ms,
            };
            let message = self.issuer.issue_once(reading, at_ms, MessageData::None);
            out.push(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MotionSensors, STILL_MS};
    use crate::city::issuer::MessageIssuer;
    use crate::city::{CityPlan, CitySize};
    use butlr_event::EventType::{PirMotion, PirNoMotion};

    #[test]
    fn motion_outlasts_short_absences_only() {
        let size = CitySize {
            rooms: 2,
            sensors: None,
        };
        let plan = CityPlan::generate(1, size);
        let skews = vec![0; plan.sensors.len()];
        let mut motion = MotionSensors::new(1, MessageIssuer::new(1), &plan, &skews, [true; 10]);
        let mut messages = Vec::new();
        motion.enter(0, 1_000, &mut messages);
        motion.vacate(0, 5_000);
        motion.enter(0, 5_000 + STILL_MS - 2_000, &mut messages);
        motion.vacate(0, 30_000);
        // The room became still at 45,000, although no call has reported it yet.
        motion.enter(0, 50_000, &mut messages);
        motion.vacate(0, 60_000);
        motion.report_still_rooms(70_000, &mut messages);
        motion.report_still_rooms(80_000, &mut messages);
        let types: Vec<_> = messages.iter().map(|message| message.event_type).collect();
        assert_eq!(types, [PirMotion, PirNoMotion, PirMotion, PirNoMotion]);
        for (message, emptied_ms) in [(&messages[1], 30_000), (&messages[3], 60_000)] {
            let after_ms = message.timestamp_ms - emptied_ms;
            assert!((14_000..16_000).contains(&after_ms), "{after_ms}");
        }
    }
}
