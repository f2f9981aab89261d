//! A working day: arrive, sit, run errands, have lunch, go home. Every day is a working day, so
//! that long runs have load.
//!
//! A person who finds their destination full stays where they are, so capacity is never exceeded.

use std::ops::Range;

use rand::RngExt as _;

use super::clock::MINUTE_MS;
use super::people::{Activity, People};
use super::plan::{CityPlan, RoomUse};
use super::presence::CityScene;

/// Probability that a person comes on a given day.
const ATTENDANCE_PROBABILITY: f64 = 0.85;
/// Arrival of the people who would already be there at the start, in seconds after the start.
const FIRST_ARRIVAL_SECONDS: Range<i64> = 1..85;
/// Probability of an errand before sitting down on the first day, so that a city is active from its
/// first minutes.
const EARLY_ERRAND_PROBABILITY: f64 = 0.2;

/// Destination of an errand.
enum ErrandDestination {
    /// Another room with this use.
    Room(RoomUse),
    /// Any zone of the own office.
    SameRoom,
    Outside,
}

impl People {
    /// Carries out a person's pending activity and schedules the next one.
    pub(super) fn act(&mut self, scene: CityScene, person: u32, now_ms: i64) {
        match self.people[person as usize].next_activity {
            Activity::Sit => self.sit(scene, person, now_ms),
            Activity::Errand => self.run_errand(scene, person, now_ms),
            Activity::Meet { room, until_ms } => {
                self.attend_meeting(scene, person, room, until_ms, now_ms)
            }
            Activity::Lunch => self.have_lunch(scene, person, now_ms),
            Activity::Leave => self.leave(person, now_ms),
        }
    }

    /// Plans the first day, on which everyone who comes arrives at about the same time.
    pub(super) fn plan_first_day(&mut self, person: u32, from_ms: i64) {
        if self.rng.random_bool(ATTENDANCE_PROBABILITY) {
            self.plan_hours(person, self.clock.day(from_ms));
            let at_ms = from_ms + self.random_seconds_ms(FIRST_ARRIVAL_SECONDS);
            let next = if self.rng.random_bool(EARLY_ERRAND_PROBABILITY) {
                Activity::Errand
            } else {
                Activity::Sit
            };
            self.schedule(person, next, at_ms);
        } else {
            self.leave(person, from_ms);
        }
    }

    /// Sends a person home until the next day on which they come.
    fn leave(&mut self, person: u32, now_ms: i64) {
        self.people[person as usize].zone = None;
        let mut day = self.clock.day(now_ms) + 1;
        while !self.rng.random_bool(ATTENDANCE_PROBABILITY) {
            day += 1;
        }
        self.plan_hours(person, day);
        // The sum of two draws: most people arrive in the middle of the range.
        let minutes = 7 * 60 + 30;
        let at_ms = self.clock.moment_at(day, minutes)
            + self.random_seconds_ms(0..70 * 60)
            + self.random_seconds_ms(0..70 * 60);
        self.schedule(person, Activity::Sit, at_ms);
    }

    /// Draws the times of lunch and of going home. Everyone leaves by about 18:30, so nights are
    /// empty.
    fn plan_hours(&mut self, person: u32, day: i64) {
        let lunch_ms = self.clock.moment_at(day, 11 * 60 + 30) + self.random_seconds_ms(0..90 * 60);
        let leave_ms = self.clock.moment_at(day, 16 * 60)
            + self.random_seconds_ms(0..75 * 60)
            + self.random_seconds_ms(0..75 * 60);
        let record = &mut self.people[person as usize];
        (record.lunch_ms, record.leave_ms) = (Some(lunch_ms), leave_ms);
    }

    /// Sits down at the desk, or tries again later if the office is full.
    fn sit(&mut self, scene: CityScene, person: u32, now_ms: i64) {
        let record = &mut self.people[person as usize];
        if now_ms >= record.leave_ms {
            return self.leave(person, now_ms);
        }
        let room = scene.plan.zones[record.desk as usize].room;
        let is_there = record
            .zone
            .is_some_and(|zone| scene.plan.zones[zone as usize].room == room);
        if is_there || scene.has_capacity(room) {
            record.zone = Some(record.desk);
            self.work(person, now_ms);
        } else {
            let at_ms = now_ms + self.random_seconds_ms(20..60);
            self.schedule(person, Activity::Sit, at_ms);
        }
    }

    /// Stays until the next activity calls.
    pub(super) fn work(&mut self, person: u32, now_ms: i64) {
        let errand_ms = now_ms + self.random_seconds_ms(60..70 * 60);
        let soon_ms = now_ms + self.random_seconds_ms(5..60);
        let record = &self.people[person as usize];
        let (next, at_ms) = match record.lunch_ms {
            _ if record.leave_ms <= errand_ms => (Activity::Leave, record.leave_ms.max(soon_ms)),
            Some(lunch_ms) if lunch_ms <= errand_ms => (Activity::Lunch, lunch_ms.max(soon_ms)),
            _ => (Activity::Errand, errand_ms),
        };
        self.schedule(person, next, at_ms);
    }

    fn run_errand(&mut self, scene: CityScene, person: u32, now_ms: i64) {
        let (destination, minutes) = match self.rng.random_range(0..100) {
            0..35 => (ErrandDestination::Room(RoomUse::Restroom), 2..6),
            35..57 => (ErrandDestination::Room(RoomUse::Kitchen), 3..8),
            57..70 => (ErrandDestination::Room(RoomUse::Office), 2..10),
            70..80 => (ErrandDestination::Room(RoomUse::Booth), 5..20),
            80..88 => (ErrandDestination::Room(RoomUse::Lounge), 5..15),
            88..95 => (ErrandDestination::SameRoom, 1..5),
            _ => (ErrandDestination::Outside, 5..12),
        };
        let home = scene.plan.zones[self.people[person as usize].desk as usize].room;
        let zone = match destination {
            ErrandDestination::Room(room_use) => {
                self.find_free_zone(scene, home, room_use).map(Some)
            }
            ErrandDestination::SameRoom => Some(Some(self.pick_zone(scene.plan, home))),
            ErrandDestination::Outside => Some(None),
        };
        match zone {
            Some(zone) => self.visit(person, zone, now_ms, minutes),
            None => self.work(person, now_ms),
        }
    }

    fn have_lunch(&mut self, scene: CityScene, person: u32, now_ms: i64) {
        self.people[person as usize].lunch_ms = None;
        let home = scene.plan.zones[self.people[person as usize].desk as usize].room;
        let room_use = match self.rng.random_range(0..100) {
            0..40 => Some(RoomUse::Kitchen),
            40..55 => Some(RoomUse::Lounge),
            _ => None,
        };
        let zone = room_use.and_then(|room_use| self.find_free_zone(scene, home, room_use));
        self.visit(person, zone, now_ms, 25..50);
    }

    /// Visits a zone (`None`: outside) for some minutes, then goes back to the desk.
    fn visit(&mut self, person: u32, zone: Option<u32>, now_ms: i64, minutes: Range<i64>) {
        self.people[person as usize].zone = zone;
        let until_ms = now_ms
            + self
                .rng
                .random_range(minutes.start * MINUTE_MS..minutes.end * MINUTE_MS);
        self.schedule(person, Activity::Sit, until_ms);
    }

    /// A zone with free capacity in another room with this use: on the same floor, or else on one
    /// of two others.
    fn find_free_zone(&mut self, scene: CityScene, home: u32, room_use: RoomUse) -> Option<u32> {
        let plan = scene.plan;
        let own = plan.rooms[home as usize].floor;
        let floors = plan.buildings[plan.floors[own as usize].building as usize]
            .floors
            .clone();
        let others = [
            self.rng.random_range(floors.clone()),
            self.rng.random_range(floors),
        ];
        let room = [own, others[0], others[1]].into_iter().find_map(|floor| {
            let rooms = plan.floors[floor as usize].rooms.clone();
            let first = self.rng.random_range(rooms.clone());
            (first..rooms.end).chain(rooms.start..first).find(|&room| {
                plan.rooms[room as usize].room_use == room_use
                    && room != home
                    && scene.has_capacity(room)
            })
        })?;
        Some(self.pick_zone(plan, room))
    }

    pub(super) fn pick_zone(&mut self, plan: &CityPlan, room: u32) -> u32 {
        self.rng
            .random_range(plan.rooms[room as usize].zones.clone())
    }
}
