//! Reference model: checks a simulation tick by tick and panics at the first inconsistency.

use std::collections::{HashMap, HashSet};

use super::{HOUR_MS, MINUTE_MS};
use crate::city::{CityBehaviour, CityPlan, CitySimulation};
use crate::message::{CityMessage, CityPlace, Computation, MessageData};
use butlr_event::EventType;

/// State derived from the messages so far.
pub struct CityReferenceModel {
    behaviour: CityBehaviour,
    computed_ms: i64,
    /// Ids of the latest second; older ids cannot collide with new ones.
    ids: HashSet<[u8; 20]>,
    /// Number of people behind each door according to TRAFFIC, indexed by sensor.
    people_behind_door: Vec<i64>,
    /// Motion according to PIR, and the time since when the room is empty, indexed by room.
    motion: Vec<bool>,
    empty_since: Vec<Option<i64>>,
    /// True occupancy at full minutes: floors and rooms.
    truths: HashMap<i64, [Vec<u32>; 2]>,
    /// Computations of each occupancy reading so far.
    computations: HashMap<(EventType, CityPlace, i64), Vec<u32>>,
    /// Sums of the final values: zones by room, and rooms by floor.
    sums: HashMap<(EventType, CityPlace, i64), u32>,
    pub finished_readings: usize,
    pub revisions: usize,
    pub most_people: u32,
}

impl CityReferenceModel {
    pub fn new(plan: &CityPlan, behaviour: &CityBehaviour) -> Self {
        Self {
            behaviour: behaviour.clone(),
            computed_ms: 0,
            ids: HashSet::new(),
            people_behind_door: vec![0; plan.sensors.len()],
            motion: vec![false; plan.rooms.len()],
            empty_since: vec![None; plan.rooms.len()],
            truths: HashMap::new(),
            computations: HashMap::new(),
            sums: HashMap::new(),
            finished_readings: 0,
            revisions: 0,
            most_people: 0,
        }
    }

    /// Checks a simulation from its start for some hours.
    pub fn watch(mut self, mut city: CitySimulation, hours: i64) -> Self {
        let plan = city.plan().clone();
        let until_ms = city.now_ms() + hours * HOUR_MS;
        let mut messages = Vec::new();
        while city.now_ms() < until_ms {
            let from_ms = city.now_ms();
            city.advance(&mut messages);
            self.check_messages(&plan, &messages, from_ms, city.now_ms());
            let moved = messages
                .iter()
                .any(|message| message.event_type == EventType::Traffic);
            if moved || city.now_ms() % MINUTE_MS == 0 {
                self.check_truth(&city);
            }
            messages.clear();
        }
        self
    }

    fn check_messages(
        &mut self,
        plan: &CityPlan,
        messages: &[CityMessage],
        from_ms: i64,
        until_ms: i64,
    ) {
        for message in messages {
            let computed_ms = message.computed_ms;
            assert!((from_ms..until_ms).contains(&computed_ms), "{message:?}");
            assert!(computed_ms >= self.computed_ms, "{message:?}");
            if computed_ms / 1000 != self.computed_ms / 1000 {
                self.ids.clear();
            }
            self.computed_ms = computed_ms;
            assert_eq!(message.id.seconds(), computed_ms.div_euclid(1000));
            assert!(
                self.ids.insert(*message.id.as_bytes()),
                "duplicate id: {message:?}"
            );
            match (message.event_type, message.place, &message.data) {
                (
                    EventType::Traffic,
                    CityPlace::Sensor(sensor),
                    MessageData::Traffic { entered, left },
                ) => {
                    assert!(entered + left > 0);
                    assert!(message.timestamp_ms >= from_ms && message.timestamp_ms < computed_ms);
                    self.people_behind_door[sensor as usize] +=
                        i64::from(*entered) - i64::from(*left);
                }
                (
                    EventType::PirMotion | EventType::PirNoMotion,
                    CityPlace::Sensor(sensor),
                    MessageData::None,
                ) => {
                    let room = plan.sensors[sensor as usize]
                        .room
                        .expect("PIR sensors are in rooms");
                    assert_eq!(sensor, plan.rooms[room as usize].sensors.start);
                    let moves = message.event_type == EventType::PirMotion;
                    assert_ne!(
                        self.motion[room as usize], moves,
                        "twice in a row: {message:?}"
                    );
                    self.motion[room as usize] = moves;
                }
                (_, _, &MessageData::Occupancy(people)) => {
                    self.check_occupancy(plan, message, people)
                }
                _ => panic!("{message:?}"),
            }
        }
    }

    fn check_occupancy(&mut self, plan: &CityPlan, message: &CityMessage, people: u32) {
        let CityMessage {
            event_type,
            place,
            timestamp_ms,
            computed_ms,
            ..
        } = *message;
        let key = (event_type, place, timestamp_ms);
        let before = self.computations.entry(key).or_default();
        let expected = match before.last() {
            None => Computation::First,
            Some(&last) if last == people => Computation::Repeat,
            Some(_) => Computation::Revision,
        };
        assert_eq!(
            message.computation, expected,
            "{message:?} after {before:?}"
        );
        self.revisions += usize::from(expected == Computation::Revision);
        let after_ms = computed_ms - timestamp_ms - before.len() as i64 * MINUTE_MS;
        assert!(
            (1_000..3_000).contains(&after_ms),
            "{message:?} is the {}th",
            before.len()
        );
        before.push(people);
        if before.len() < if self.behaviour.recompute { 5 } else { 1 } {
            return;
        }

        self.computations.remove(&key);
        self.finished_readings += 1;
        let [floors, rooms] = &self.truths[&timestamp_ms];
        let (truth, parent) = match place {
            CityPlace::Floor(floor) => (floors[floor as usize], None),
            CityPlace::Room(room) => (
                rooms[room as usize],
                Some(CityPlace::Floor(plan.rooms[room as usize].floor)),
            ),
            CityPlace::Zone(zone) => (
                people,
                Some(CityPlace::Room(plan.zones[zone as usize].room)),
            ),
            CityPlace::Sensor(_) => panic!("{message:?}"),
        };
        assert_eq!(people, truth, "{message:?}");
        if let Some(parent) = parent {
            *self
                .sums
                .entry((event_type, parent, timestamp_ms))
                .or_default() += people;
        }
    }

    /// Compares the messages with the true positions.
    fn check_truth(&mut self, city: &CitySimulation) {
        let plan = city.plan();
        let truth = city.truth();
        assert_eq!(truth.at_ms, city.now_ms());
        let (rooms, floors) = truth.spaces.split_at(plan.rooms.len());
        for ((id, people), room) in rooms.iter().zip(&plan.rooms) {
            assert_eq!(id, &room.id);
            assert!(*people <= room.capacity, "{people} people in {room:?}");
            assert_eq!(
                self.people_behind_door[room.door as usize],
                i64::from(*people),
                "{room:?}"
            );
        }
        for ((id, people), floor) in floors.iter().zip(&plan.floors) {
            assert_eq!(id, &floor.id);
            assert_eq!(
                self.people_behind_door[floor.door as usize],
                i64::from(*people),
                "{floor:?}"
            );
        }
        let count =
            |spaces: &[(String, u32)]| spaces.iter().map(|space| space.1).collect::<Vec<_>>();
        let (rooms, floors) = (count(rooms), count(floors));
        self.most_people = self.most_people.max(rooms.iter().sum());
        self.check_motion(plan, &rooms, truth.at_ms);
        if truth.at_ms % MINUTE_MS == 0 {
            self.truths.insert(truth.at_ms, [floors, rooms]);
            self.check_sums(plan, truth.at_ms - 5 * MINUTE_MS);
        }
    }

    fn check_motion(&mut self, plan: &CityPlan, rooms: &[u32], now_ms: i64) {
        for (room, &people) in rooms.iter().enumerate() {
            let since = &mut self.empty_since[room];
            *since = if people > 0 {
                None
            } else {
                since.or(Some(now_ms))
            };
            if !plan.rooms[room].sensors.is_empty() {
                assert!(
                    people == 0 || self.motion[room],
                    "people and no motion in room {room}"
                );
                let is_long_empty = since.is_some_and(|since| now_ms - since > 16_000);
                assert!(
                    !is_long_empty || !self.motion[room] || now_ms < 16_000,
                    "motion in an empty room {room}"
                );
            }
        }
    }

    /// Checks the sums of a minute whose computations are all done.
    fn check_sums(&mut self, plan: &CityPlan, minute_ms: i64) {
        let Some([floors, rooms]) = self.truths.remove(&minute_ms) else {
            return;
        };
        use EventType::{RoomOccupancy, RoomOccupancy1Min, ZoneOccupancy, ZoneOccupancy1Min};
        for zones in [ZoneOccupancy, ZoneOccupancy1Min] {
            for (room, people) in (0..).zip(&rooms) {
                assert_eq!(
                    self.sums.remove(&(zones, CityPlace::Room(room), minute_ms)),
                    Some(*people)
                );
            }
        }
        for rooms in [RoomOccupancy, RoomOccupancy1Min] {
            for (floor, people) in (0..).zip(&floors) {
                assert_eq!(
                    self.sums
                        .remove(&(rooms, CityPlace::Floor(floor), minute_ms)),
                    Some(*people)
                );
            }
        }
        let spaces = plan.floors.len() + plan.rooms.len() + plan.zones.len();
        assert!(self.finished_readings >= 2 * spaces);
        assert!(
            self.computations
                .keys()
                .all(|(_, _, at_ms)| *at_ms > minute_ms),
            "a reading was not computed"
        );
        assert!(self.computations.len() <= 2 * spaces * 5);
    }
}
