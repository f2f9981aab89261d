//! PIR: each room's first presence sensor tells when it begins to see motion, and when it has seen none for a while.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::chance::{self, Topic};
use super::issue::Issuer;
use super::life::TypeSet;
use super::plan::Plan;
use crate::message::{Data, Message, Place};
use butlr_event::EventType;

/// A room must have been empty for this long, give or take [`GIVE_OR_TAKE_MS`], before a sensor sees no motion any more.
const STILL_MS: i64 = 15_000;
const GIVE_OR_TAKE_MS: u64 = 1_000;

/// What the motion sensors see.
pub struct Motion {
    seed: u64,
    issuer: Issuer,
    /// By room.
    rooms: Vec<Seen>,
    /// When which room will have been empty for long enough, unless someone enters before.
    still: BinaryHeap<Reverse<(i64, u32)>>,
    types: TypeSet,
}

#[derive(Clone, Copy)]
struct Seen {
    /// The sensor that tells, and how far its clock is off.
    sensor: Option<(u32, i64)>,
    now: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Still,
    Moving,
    /// Empty since shortly; still from this moment on.
    Calming(i64),
}

impl Motion {
    /// All is still. `skews` are the sensors' clocks' errors.
    pub fn new(seed: u64, issuer: Issuer, plan: &Plan, skews: &[i64], types: TypeSet) -> Self {
        let sensor = |sensors: &std::ops::Range<u32>| {
            (!sensors.is_empty()).then(|| (sensors.start, skews[sensors.start as usize]))
        };
        let rooms = plan
            .rooms
            .iter()
            .map(|room| Seen {
                sensor: sensor(&room.sensors),
                now: State::Still,
            })
            .collect();
        Self {
            seed,
            issuer,
            rooms,
            still: BinaryHeap::new(),
            types,
        }
    }

    /// Someone enters a room.
    pub fn enter(&mut self, room: u32, at_ms: i64, out: &mut Vec<Message>) {
        self.settle(at_ms, out);
        let before = std::mem::replace(&mut self.rooms[room as usize].now, State::Moving);
        if before == State::Still {
            self.tell(EventType::PirMotion, room, at_ms, out);
        }
    }

    /// The last one leaves a room.
    pub fn empty(&mut self, room: u32, at_ms: i64) {
        let dice = chance::hash(self.seed, Topic::Still, [u64::from(room), at_ms as u64, 0]);
        let still_ms = at_ms + STILL_MS - GIVE_OR_TAKE_MS as i64
            + chance::below(dice, 2 * GIVE_OR_TAKE_MS) as i64;
        self.rooms[room as usize].now = State::Calming(still_ms);
        self.still.push(Reverse((still_ms, room)));
    }

    /// Tells of the rooms that become still before a moment.
    pub fn settle(&mut self, before_ms: i64, out: &mut Vec<Message>) {
        while let Some(&Reverse((still_ms, room))) = self.still.peek() {
            if still_ms >= before_ms {
                break;
            }
            self.still.pop();
            // Someone may have entered since.
            if self.rooms[room as usize].now == State::Calming(still_ms) {
                self.rooms[room as usize].now = State::Still;
                self.tell(EventType::PirNoMotion, room, still_ms, out);
            }
        }
    }

    fn tell(&self, event_type: EventType, room: u32, at_ms: i64, out: &mut Vec<Message>) {
        if let Some((sensor, skew_ms)) = self.rooms[room as usize].sensor
            && self.types[event_type.index()]
        {
            out.push(self.issuer.once(
                event_type,
                Place::Sensor(sensor),
                at_ms + skew_ms,
                at_ms,
                Data::None,
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Motion, STILL_MS};
    use crate::city::issue::Issuer;
    use crate::city::{Plan, Size};
    use butlr_event::EventType::{PirMotion, PirNoMotion};

    #[test]
    fn motion_outlasts_short_absences_only() {
        let size = Size {
            rooms: 2,
            sensors: None,
        };
        let plan = Plan::grow(1, size);
        let skews = vec![0; plan.sensors.len()];
        let mut motion = Motion::new(1, Issuer::new(1), &plan, &skews, [true; 10]);
        let mut told = Vec::new();
        motion.enter(0, 1_000, &mut told);
        motion.empty(0, 5_000);
        motion.enter(0, 5_000 + STILL_MS - 2_000, &mut told);
        motion.empty(0, 30_000);
        // By now it has been still for a while, though nobody has asked since.
        motion.enter(0, 50_000, &mut told);
        motion.empty(0, 60_000);
        motion.settle(70_000, &mut told);
        motion.settle(80_000, &mut told);
        let types: Vec<_> = told.iter().map(|message| message.event_type).collect();
        assert_eq!(types, [PirMotion, PirNoMotion, PirMotion, PirNoMotion]);
        for (message, emptied_ms) in [(&told[1], 30_000), (&told[3], 60_000)] {
            let after_ms = message.timestamp_ms - emptied_ms;
            assert!((14_000..16_000).contains(&after_ms), "{after_ms}");
        }
    }
}
