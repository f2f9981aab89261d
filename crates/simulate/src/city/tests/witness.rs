//! Watches a life tick by tick, and panics at the first thing that does not fit.

use std::collections::{HashMap, HashSet};

use super::{HOUR_MS, MINUTE_MS};
use crate::city::{Habits, Life, Plan};
use crate::message::{Computation, Data, Message, Place};
use butlr_event::EventType;

/// What was told so far.
pub struct Witness {
    habits: Habits,
    computed_ms: i64,
    /// The ids of the second that was computed last; others cannot be the same.
    ids: HashSet<[u8; 20]>,
    /// People behind each door, by its sensor, by what doors told.
    behind: Vec<i64>,
    /// By room: whether PIR sees motion, and since when it is empty.
    motion: Vec<bool>,
    empty_since: Vec<Option<i64>>,
    /// The truth at full minutes: floors, rooms.
    truths: HashMap<i64, [Vec<u32>; 2]>,
    /// The computations of each reading of occupancy so far.
    computations: HashMap<(EventType, Place, i64), Vec<u32>>,
    /// The last ones' sums of zones (by room) and of rooms (by floor).
    sums: HashMap<(EventType, Place, i64), u32>,
    pub finished: usize,
    pub revisions: usize,
    pub most_people: u32,
}

impl Witness {
    pub fn new(plan: &Plan, habits: &Habits) -> Self {
        Self {
            habits: habits.clone(),
            computed_ms: 0,
            ids: HashSet::new(),
            behind: vec![0; plan.sensors.len()],
            motion: vec![false; plan.rooms.len()],
            empty_since: vec![None; plan.rooms.len()],
            truths: HashMap::new(),
            computations: HashMap::new(),
            sums: HashMap::new(),
            finished: 0,
            revisions: 0,
            most_people: 0,
        }
    }

    /// Watches a life from its beginning for some hours.
    pub fn watch(mut self, mut life: Life, hours: i64) -> Self {
        let plan = life.plan().clone();
        let until_ms = life.now_ms() + hours * HOUR_MS;
        let mut messages = Vec::new();
        while life.now_ms() < until_ms {
            let from_ms = life.now_ms();
            life.advance(&mut messages);
            self.hear(&plan, &messages, from_ms, life.now_ms());
            let moved = messages
                .iter()
                .any(|message| message.event_type == EventType::Traffic);
            if moved || life.now_ms() % MINUTE_MS == 0 {
                self.look(&life);
            }
            messages.clear();
        }
        self
    }

    fn hear(&mut self, plan: &Plan, messages: &[Message], from_ms: i64, until_ms: i64) {
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
                "twice: {message:?}"
            );
            match (message.event_type, message.place, &message.data) {
                (EventType::Traffic, Place::Sensor(sensor), Data::Traffic { entered, left }) => {
                    assert!(entered + left > 0);
                    assert!(message.timestamp_ms >= from_ms && message.timestamp_ms < computed_ms);
                    self.behind[sensor as usize] += i64::from(*entered) - i64::from(*left);
                }
                (
                    EventType::PirMotion | EventType::PirNoMotion,
                    Place::Sensor(sensor),
                    Data::None,
                ) => {
                    let room = plan.sensors[sensor as usize].room.expect("PIR is in rooms");
                    assert_eq!(sensor, plan.rooms[room as usize].sensors.start);
                    let moves = message.event_type == EventType::PirMotion;
                    assert_ne!(
                        self.motion[room as usize], moves,
                        "twice in a row: {message:?}"
                    );
                    self.motion[room as usize] = moves;
                }
                (_, _, &Data::Occupancy(people)) => self.occupancy(plan, message, people),
                _ => panic!("{message:?}"),
            }
        }
    }

    fn occupancy(&mut self, plan: &Plan, message: &Message, people: u32) {
        let Message {
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
        if before.len() < if self.habits.recompute { 5 } else { 1 } {
            return;
        }

        self.computations.remove(&key);
        self.finished += 1;
        let [floors, rooms] = &self.truths[&timestamp_ms];
        let (whole, of) = match place {
            Place::Floor(floor) => (floors[floor as usize], None),
            Place::Room(room) => (
                rooms[room as usize],
                Some(Place::Floor(plan.rooms[room as usize].floor)),
            ),
            Place::Zone(zone) => (people, Some(Place::Room(plan.zones[zone as usize].room))),
            Place::Sensor(_) => panic!("{message:?}"),
        };
        assert_eq!(people, whole, "{message:?}");
        if let Some(of) = of {
            *self.sums.entry((event_type, of, timestamp_ms)).or_default() += people;
        }
    }

    /// Compares what was told with where people are.
    fn look(&mut self, life: &Life) {
        let plan = life.plan();
        let truth = life.truth();
        assert_eq!(truth.at_ms, life.now_ms());
        let (rooms, floors) = truth.spaces.split_at(plan.rooms.len());
        for ((id, people), room) in rooms.iter().zip(&plan.rooms) {
            assert_eq!(id, &room.id);
            assert!(*people <= room.capacity, "{people} people in {room:?}");
            assert_eq!(
                self.behind[room.door as usize],
                i64::from(*people),
                "{room:?}"
            );
        }
        for ((id, people), floor) in floors.iter().zip(&plan.floors) {
            assert_eq!(id, &floor.id);
            assert_eq!(
                self.behind[floor.door as usize],
                i64::from(*people),
                "{floor:?}"
            );
        }
        let count =
            |spaces: &[(String, u32)]| spaces.iter().map(|space| space.1).collect::<Vec<_>>();
        let (rooms, floors) = (count(rooms), count(floors));
        self.most_people = self.most_people.max(rooms.iter().sum());
        self.motion(plan, &rooms, truth.at_ms);
        if truth.at_ms % MINUTE_MS == 0 {
            self.truths.insert(truth.at_ms, [floors, rooms]);
            self.add_up(plan, truth.at_ms - 5 * MINUTE_MS);
        }
    }

    fn motion(&mut self, plan: &Plan, rooms: &[u32], now_ms: i64) {
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
                let long = since.is_some_and(|since| now_ms - since > 16_000);
                assert!(
                    !long || !self.motion[room] || now_ms < 16_000,
                    "motion in an empty room {room}"
                );
            }
        }
    }

    /// By now, all that was to be computed about this minute has been.
    fn add_up(&mut self, plan: &Plan, minute_ms: i64) {
        let Some([floors, rooms]) = self.truths.remove(&minute_ms) else {
            return;
        };
        use EventType::{RoomOccupancy, RoomOccupancy1Min, ZoneOccupancy, ZoneOccupancy1Min};
        for zones in [ZoneOccupancy, ZoneOccupancy1Min] {
            for (room, people) in (0..).zip(&rooms) {
                assert_eq!(
                    self.sums.remove(&(zones, Place::Room(room), minute_ms)),
                    Some(*people)
                );
            }
        }
        for rooms in [RoomOccupancy, RoomOccupancy1Min] {
            for (floor, people) in (0..).zip(&floors) {
                assert_eq!(
                    self.sums.remove(&(rooms, Place::Floor(floor), minute_ms)),
                    Some(*people)
                );
            }
        }
        let spaces = plan.floors.len() + plan.rooms.len() + plan.zones.len();
        assert!(self.finished >= 2 * spaces);
        assert!(
            self.computations
                .keys()
                .all(|(_, _, at_ms)| *at_ms > minute_ms),
            "something was not computed"
        );
        assert!(self.computations.len() <= 2 * spaces * 5);
    }
}
