//! A working day: come, sit, run errands, have lunch, go home. Every day is a working day, so that long runs have load.
//!
//! Whoever finds no place where they want to go stays where they are: capacity is never exceeded.

use std::ops::Range;

use rand::RngExt as _;

use super::clock::MINUTE_MS;
use super::people::{Activity, People};
use super::plan::{CityPlan, RoomUse};
use super::presence::Presence;

/// How likely a person comes on a day.
const ATTENDANCE_PROBABILITY: f64 = 0.85;
/// Within how many seconds after the city's first moment those arrive who are there already at that hour.
const FIRST_ARRIVAL_SECONDS: Range<i64> = 1..85;
/// How likely they run an errand before they sit down, so that a city is at work from its first minutes.
const EARLY_ERRAND_PROBABILITY: f64 = 0.2;

/// Where one goes from one's desk.
enum ErrandDestination {
    /// Another room used so.
    Room(RoomUse),
    /// Any zone of one's own office.
    SameRoom,
    Outside,
}

impl People {
    /// Does what a person had planned, and plans what they do after.
    pub(super) fn act(&mut self, plan: &CityPlan, presence: &Presence, person: u32, now_ms: i64) {
        match self.people[person as usize].next_activity {
            Activity::Sit => self.sit(plan, presence, person, now_ms),
            Activity::Errand => self.run_errand(plan, presence, person, now_ms),
            Activity::Meet { room, until_ms } => {
                self.attend_meeting(plan, presence, person, room, until_ms, now_ms)
            }
            Activity::Lunch => self.have_lunch(plan, presence, person, now_ms),
            Activity::Leave => self.leave(person, now_ms),
        }
    }

    /// The city's first day, on which all who come arrive at once.
    pub(super) fn plan_first_day(&mut self, person: u32, from_ms: i64) {
        if self.rng.random_bool(ATTENDANCE_PROBABILITY) {
            self.plan_hours(person, self.clock.day(from_ms));
            let at_ms = from_ms + self.random_seconds_ms(FIRST_ARRIVAL_SECONDS);
            let next = match self.rng.random_bool(EARLY_ERRAND_PROBABILITY) {
                true => Activity::Errand,
                false => Activity::Sit,
            };
            self.schedule(person, next, at_ms);
        } else {
            self.leave(person, from_ms);
        }
    }

    /// Goes home, until the next day on which they come.
    fn leave(&mut self, person: u32, now_ms: i64) {
        self.people[person as usize].zone = None;
        let mut day = self.clock.day(now_ms) + 1;
        while !self.rng.random_bool(ATTENDANCE_PROBABILITY) {
            day += 1;
        }
        self.plan_hours(person, day);
        // Two dice: most come in the middle of the time.
        let minutes = 7 * 60 + 30;
        let at_ms = self.clock.moment_at(day, minutes)
            + self.random_seconds_ms(0..70 * 60)
            + self.random_seconds_ms(0..70 * 60);
        self.schedule(person, Activity::Sit, at_ms);
    }

    /// When they have lunch and go home on a day: by about 18:30, so that nights are empty.
    fn plan_hours(&mut self, person: u32, day: i64) {
        let lunch_ms = self.clock.moment_at(day, 11 * 60 + 30) + self.random_seconds_ms(0..90 * 60);
        let leave_ms = self.clock.moment_at(day, 16 * 60)
            + self.random_seconds_ms(0..75 * 60)
            + self.random_seconds_ms(0..75 * 60);
        let who = &mut self.people[person as usize];
        (who.lunch_ms, who.leave_ms) = (Some(lunch_ms), leave_ms);
    }

    /// Sits down at the desk, once there is a place.
    fn sit(&mut self, plan: &CityPlan, presence: &Presence, person: u32, now_ms: i64) {
        let who = &mut self.people[person as usize];
        if now_ms >= who.leave_ms {
            return self.leave(person, now_ms);
        }
        let room = plan.zones[who.desk as usize].room;
        let is_there = who
            .zone
            .is_some_and(|zone| plan.zones[zone as usize].room == room);
        if is_there || presence.has_capacity(plan, room) {
            who.zone = Some(who.desk);
            self.work(person, now_ms);
        } else {
            let at_ms = now_ms + self.random_seconds_ms(20..60);
            self.schedule(person, Activity::Sit, at_ms);
        }
    }

    /// Stays where they are until something calls them away.
    pub(super) fn work(&mut self, person: u32, now_ms: i64) {
        let errand_ms = now_ms + self.random_seconds_ms(60..70 * 60);
        let soon_ms = now_ms + self.random_seconds_ms(5..60);
        let who = &self.people[person as usize];
        let (next, at_ms) = match who.lunch_ms {
            _ if who.leave_ms <= errand_ms => (Activity::Leave, who.leave_ms.max(soon_ms)),
            Some(lunch_ms) if lunch_ms <= errand_ms => (Activity::Lunch, lunch_ms.max(soon_ms)),
            _ => (Activity::Errand, errand_ms),
        };
        self.schedule(person, next, at_ms);
    }

    fn run_errand(&mut self, plan: &CityPlan, presence: &Presence, person: u32, now_ms: i64) {
        let (place, minutes) = match self.rng.random_range(0..100) {
            0..35 => (ErrandDestination::Room(RoomUse::Restroom), 2..6),
            35..57 => (ErrandDestination::Room(RoomUse::Kitchen), 3..8),
            57..70 => (ErrandDestination::Room(RoomUse::Office), 2..10),
            70..80 => (ErrandDestination::Room(RoomUse::Booth), 5..20),
            80..88 => (ErrandDestination::Room(RoomUse::Lounge), 5..15),
            88..95 => (ErrandDestination::SameRoom, 1..5),
            _ => (ErrandDestination::Outside, 5..12),
        };
        let home = plan.zones[self.people[person as usize].desk as usize].room;
        let zone = match place {
            ErrandDestination::Room(use_) => {
                self.find_free_zone(plan, presence, home, use_).map(Some)
            }
            ErrandDestination::SameRoom => Some(Some(self.pick_zone(plan, home))),
            ErrandDestination::Outside => Some(None),
        };
        match zone {
            Some(zone) => self.visit(person, zone, now_ms, minutes),
            None => self.work(person, now_ms),
        }
    }

    fn have_lunch(&mut self, plan: &CityPlan, presence: &Presence, person: u32, now_ms: i64) {
        self.people[person as usize].lunch_ms = None;
        let home = plan.zones[self.people[person as usize].desk as usize].room;
        let use_ = match self.rng.random_range(0..100) {
            0..40 => Some(RoomUse::Kitchen),
            40..55 => Some(RoomUse::Lounge),
            _ => None,
        };
        let zone = use_.and_then(|use_| self.find_free_zone(plan, presence, home, use_));
        self.visit(person, zone, now_ms, 25..50);
    }

    /// Goes somewhere (nothing: outside) for some minutes, and then back to the desk.
    fn visit(&mut self, person: u32, zone: Option<u32>, now_ms: i64, minutes: Range<i64>) {
        self.people[person as usize].zone = zone;
        let until_ms = now_ms
            + self
                .rng
                .random_range(minutes.start * MINUTE_MS..minutes.end * MINUTE_MS);
        self.schedule(person, Activity::Sit, until_ms);
    }

    /// A zone in some other room used so that has a place: on the same floor, or else on one of two others.
    fn find_free_zone(
        &mut self,
        plan: &CityPlan,
        presence: &Presence,
        home: u32,
        use_: RoomUse,
    ) -> Option<u32> {
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
                plan.rooms[room as usize].room_use == use_
                    && room != home
                    && presence.has_capacity(plan, room)
            })
        })?;
        Some(self.pick_zone(plan, room))
    }

    pub(super) fn pick_zone(&mut self, plan: &CityPlan, room: u32) -> u32 {
        self.rng
            .random_range(plan.rooms[room as usize].zones.clone())
    }
}
