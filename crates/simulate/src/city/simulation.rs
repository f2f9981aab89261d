//! Simulation of the city, tick by tick.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::behaviour::CityBehaviour;
use super::chance::{self, ChanceTopic};
use super::clock::{CityClock, MINUTE_MS};
use super::detections::{self, DetectionSensors};
use super::doors::DoorCounters;
use super::issuer::MessageIssuer;
use super::motion::MotionSensors;
use super::occupancy::OccupancyCalculator;
use super::people::{People, PersonMove};
use super::plan::CityPlan;
use super::presence::{CityScene, Presence};
use crate::message::CityMessage;

/// A city with a running simulated clock.
///
/// Its messages are a function of the plan, the seed, the start and the behaviour.
pub struct CitySimulation {
    plan: Arc<CityPlan>,
    clock: CityClock,
    now_ms: i64,
    people: People,
    presence: Presence,
    doors: DoorCounters,
    motion: MotionSensors,
    detections: DetectionSensors,
    occupancy: OccupancyCalculator,
}

/// True positions of the people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroundTruth {
    /// Time in ms since 1970.
    pub at_ms: i64,
    /// Number of people in each room and on each floor, with the space's id.
    pub spaces: Vec<(String, u32)>,
}

impl CitySimulation {
    /// A city at its start: it is ten o'clock, and everyone is outside.
    pub fn new(plan: Arc<CityPlan>, seed: u64, start_ms: i64, behaviour: CityBehaviour) -> Self {
        let spaces = plan.floors.len() + plan.rooms.len() + plan.zones.len();
        let tick_ms = tick_ms(spaces, plan.sensors.len());
        Self::with_tick_ms(plan, seed, start_ms, behaviour, tick_ms)
    }

    /// Like [`CitySimulation::new`], with ticks of this length.
    pub(super) fn with_tick_ms(
        plan: Arc<CityPlan>,
        seed: u64,
        start_ms: i64,
        behaviour: CityBehaviour,
        tick_ms: i64,
    ) -> Self {
        // Another start gives different days.
        let seed = chance::hash(seed, ChanceTopic::Clock, [start_ms as u64, 0, 0]);
        let clock = CityClock::new(start_ms, tick_ms);
        let issuer = MessageIssuer::new(seed);
        let skews = detections::draw_clock_skews(&plan, seed, behaviour.skewed);
        Self {
            clock,
            now_ms: start_ms,
            people: People::new(&plan, seed, clock.tick_end(start_ms), clock),
            presence: Presence::empty(&plan),
            doors: DoorCounters::new(seed, issuer, plan.sensors.len(), behaviour.types),
            motion: MotionSensors::new(seed, issuer, &plan, &skews, behaviour.types),
            detections: DetectionSensors::new(seed, issuer, &plan, &skews, behaviour.types),
            occupancy: OccupancyCalculator::new(seed, issuer, &plan, &behaviour),
            plan,
        }
    }

    /// Advances by one tick (a second, or less in a huge city) and appends the messages computed in
    /// it, in the order of `computed_ms`. No message of a later tick is computed earlier.
    pub fn advance(&mut self, out: &mut Vec<CityMessage>) {
        let (from_ms, until_ms) = (self.now_ms, self.clock.tick_end(self.now_ms));
        let first = out.len();
        if from_ms % MINUTE_MS == 0 {
            self.occupancy.close_minute(from_ms, &self.presence);
        }
        for reading in self.detections.due_readings(from_ms, until_ms) {
            self.advance_people(reading.at_ms, out);
            let scene = CityScene {
                plan: &self.plan,
                presence: &self.presence,
            };
            self.detections
                .read_sensor(scene, &self.people, reading, out);
        }
        self.advance_people(until_ms, out);
        self.doors.report(&self.clock, until_ms, out);
        self.occupancy.compute(until_ms, out);
        // These are nearly three sorted runs. The sort is stable, so messages of the same
        // millisecond keep their order.
        out[first..].sort_by_key(|message| message.computed_ms);
        self.now_ms = until_ms;
    }

    /// The simulated clock, ms since 1970: exactly the messages computed before it have been
    /// returned.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Current positions of the people.
    pub fn truth(&self) -> GroundTruth {
        let mut rooms = vec![0; self.plan.rooms.len()];
        let mut floors = vec![0; self.plan.floors.len()];
        for zone in self.people.positions().flatten() {
            let room = self.plan.zones[zone as usize].room;
            rooms[room as usize] += 1;
            floors[self.plan.rooms[room as usize].floor as usize] += 1;
        }
        let rooms = self.plan.rooms.iter().map(|room| &room.id).zip(rooms);
        let floors = self.plan.floors.iter().map(|floor| &floor.id).zip(floors);
        GroundTruth {
            at_ms: self.now_ms,
            spaces: rooms
                .chain(floors)
                .map(|(id, people)| (id.clone(), people))
                .collect(),
        }
    }

    /// The plan of the city.
    pub fn plan(&self) -> &Arc<CityPlan> {
        &self.plan
    }

    /// Applies everything that happens before a moment, in order.
    fn advance_people(&mut self, before_ms: i64, out: &mut Vec<CityMessage>) {
        loop {
            let scene = CityScene {
                plan: &self.plan,
                presence: &self.presence,
            };
            let Some(step) = self.people.next_move(before_ms, scene) else {
                break;
            };
            self.apply_move(step, out);
        }
        self.motion.report_still_rooms(before_ms, out);
    }

    /// Moves a person at a single moment, through all doors on the way.
    fn apply_move(&mut self, step: PersonMove, out: &mut Vec<CityMessage>) {
        let PersonMove {
            at_ms,
            person,
            from,
            to,
        } = step;
        let plan = &*self.plan;
        let [old_room, new_room] =
            [from, to].map(|zone| zone.map(|zone| plan.zones[zone as usize].room));
        let [old_floor, new_floor] =
            [old_room, new_room].map(|room| room.map(|room| plan.rooms[room as usize].floor));
        if let Some(zone) = from {
            self.presence.leave(plan, person, zone);
        }
        if let Some(zone) = to {
            self.presence.enter(plan, person, zone);
        }
        if old_room != new_room {
            if let Some(room) = old_room {
                self.doors.leave(plan.rooms[room as usize].door, at_ms);
                if self.presence.people(room).is_empty() {
                    self.motion.vacate(room, at_ms);
                }
            }
            if let Some(room) = new_room {
                self.doors.enter(plan.rooms[room as usize].door, at_ms);
                self.motion.enter(room, at_ms, out);
            }
        }
        if old_floor != new_floor {
            if let Some(floor) = old_floor {
                self.doors.leave(plan.floors[floor as usize].door, at_ms);
            }
            if let Some(floor) = new_floor {
                self.doors.enter(plan.floors[floor as usize].door, at_ms);
            }
        }
    }
}

/// Length of a tick: a second, or less where that would make more than 200,000 messages.
fn tick_ms(spaces: usize, sensors: usize) -> i64 {
    const MESSAGES: usize = 200_000;
    // In the two seconds after each full minute, every space has ten computations.
    let messages_per_second = spaces * 5 + sensors * 3;
    [1_000, 500, 200, 100, 50, 20]
        .into_iter()
        .find(|&tick| messages_per_second * tick / 1_000 <= MESSAGES)
        .unwrap_or(10) as i64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{CityBehaviour, CitySimulation, PersonMove, tick_ms};
    use crate::city::plan::Room;
    use crate::city::{CityPlan, CitySize};
    use crate::message::{CityPlace, MessageData};

    fn plan() -> Arc<CityPlan> {
        let size = CitySize {
            rooms: 30,
            sensors: None,
        };
        Arc::new(CityPlan::generate(1, size))
    }

    #[test]
    fn a_huge_city_takes_shorter_ticks() {
        assert_eq!(tick_ms(3_300, 2_100), 1_000);
        assert_eq!(tick_ms(33_000, 21_000), 500);
        assert_eq!(tick_ms(33_000, 210_000), 200);
        assert_eq!(tick_ms(10_000_000, 10_000_000), 10);
    }

    #[test]
    fn a_move_passes_only_the_doors_on_its_way() {
        let plan = plan();
        let mut city = CitySimulation::new(plan.clone(), 1, 0, CityBehaviour::default());
        let [home, above] = [0, 1].map(|floor| plan.floors[floor].rooms.start as usize);
        let [a, b, c] = [home, home + 1, above].map(|room| &plan.rooms[room]);
        let desk = a.zones.start;
        let doors = |floor: usize, room: &Room| [plan.floors[floor].door, room.door];
        let mut pass = |from, to| {
            let mut messages = Vec::new();
            city.apply_move(
                PersonMove {
                    at_ms: 5,
                    person: 0,
                    from,
                    to,
                },
                &mut messages,
            );
            messages.clear();
            city.doors.report(&city.clock, 1_000, &mut messages);
            let passed = messages
                .into_iter()
                .map(|message| match (message.place, message.data) {
                    (CityPlace::Sensor(door), MessageData::Traffic { entered, left }) => {
                        (door, entered, left)
                    }
                    other => panic!("{other:?}"),
                });
            let mut passed: Vec<_> = passed.collect();
            passed.sort_unstable();
            passed
        };
        let sorted = |mut expected: Vec<(u32, u32, u32)>| {
            expected.sort_unstable();
            expected
        };
        let through = |[floor, room]: [u32; 2], entered, left| {
            [(floor, entered, left), (room, entered, left)]
        };
        assert_eq!(
            pass(None, Some(desk)),
            sorted(through(doors(0, a), 1, 0).to_vec())
        );
        assert_eq!(pass(Some(desk), Some(desk + 1)), []);
        assert_eq!(
            pass(Some(desk + 1), Some(b.zones.start)),
            sorted(vec![(a.door, 0, 1), (b.door, 1, 0)])
        );
        let up = [through(doors(0, b), 0, 1), through(doors(1, c), 1, 0)].concat();
        assert_eq!(pass(Some(b.zones.start), Some(c.zones.start)), sorted(up));
        assert_eq!(
            pass(Some(c.zones.start), None),
            sorted(through(doors(1, c), 0, 1).to_vec())
        );
    }

    #[test]
    fn memory_is_bounded() {
        let plan = plan();
        let behaviour = CityBehaviour {
            types: [false; 10],
            ..CityBehaviour::default()
        };
        let mut city = CitySimulation::new(plan.clone(), 1, 0, behaviour);
        let mut nothing = Vec::new();
        while city.now_ms() < 3 * 86_400_000 {
            city.advance(&mut nothing);
            // A person called to a meeting leaves a void entry on the agenda until its time comes.
            assert!(city.people.agenda.len() <= 2 * city.people.people.len() + plan.rooms.len());
        }
        assert!(nothing.is_empty());
    }
}
