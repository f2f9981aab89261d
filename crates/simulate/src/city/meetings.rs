//! Meetings: on the half hour, in meeting rooms, with people of the same building who are at their
//! desks.

use std::ops::Range;

use rand::RngExt as _;

use super::clock::MINUTE_MS;
use super::people::{Activity, People};
use super::plan::CityPlan;
use super::presence::CityScene;

/// Start of meetings, in minutes of the day.
const START_MINUTES: Range<i64> = 9 * 60..16 * 60 + 30;
const HALF_HOUR_MINUTES: i64 = 30;
/// Time before the start at which it is decided if a meeting takes place.
const INVITE_AHEAD_MS: i64 = 3 * MINUTE_MS;
/// Probability that a free room is used at a half hour.
const USE_PROBABILITY: f64 = 0.45;
const MAX_ATTENDEES: u32 = 10;

impl People {
    pub(super) fn plan_first_meeting(&mut self, room: u32, from_ms: i64) {
        let at_ms = self.next_half_hour(from_ms + INVITE_AHEAD_MS);
        self.schedule_meeting(room, at_ms - INVITE_AHEAD_MS);
    }

    /// Calls people to a meeting in a room, or leaves the room empty this time.
    pub(super) fn convene_meeting(&mut self, plan: &CityPlan, room: u32, now_ms: i64) {
        let begins_ms = now_ms + INVITE_AHEAD_MS;
        let mut free_ms = begins_ms + 1;
        if self.rng.random_bool(USE_PROBABILITY) {
            let length = HALF_HOUR_MINUTES * self.rng.random_range(1..=2);
            free_ms = begins_ms + length * MINUTE_MS;
            // Leave five minutes between two meetings.
            self.call_attendees(plan, room, now_ms, free_ms - 5 * MINUTE_MS);
        }
        let next_ms = self.next_half_hour(free_ms);
        self.schedule_meeting(room, next_ms - INVITE_AHEAD_MS);
    }

    fn call_attendees(&mut self, plan: &CityPlan, room: u32, now_ms: i64, until_ms: i64) {
        let capacity = plan.rooms[room as usize].capacity.min(MAX_ATTENDEES);
        let wanted = self.rng.random_range(2..=capacity.max(2));
        let staff = self.building_staff(plan, room);
        let mut called = 0;
        // Some of the candidates are busy, so there are more attempts than seats.
        for _ in 0..3 * wanted {
            if called == wanted || staff.is_empty() {
                break;
            }
            let person = self.rng.random_range(staff.clone());
            let record = &self.people[person as usize];
            if record.next_activity == Activity::Errand
                && record.zone == Some(record.desk)
                && record.leave_ms > until_ms
            {
                called += 1;
                let at_ms = now_ms + self.random_seconds_ms(60..360);
                self.schedule(person, Activity::Meet { room, until_ms }, at_ms);
            }
        }
    }

    /// Goes to a meeting if the room has capacity.
    pub(super) fn attend_meeting(
        &mut self,
        scene: CityScene,
        person: u32,
        room: u32,
        until_ms: i64,
        now_ms: i64,
    ) {
        if !scene.has_capacity(room) {
            return self.work(person, now_ms);
        }
        let zone = self.pick_zone(scene.plan, room);
        self.people[person as usize].zone = Some(zone);
        let at_ms = until_ms + self.random_seconds_ms(0..120);
        self.schedule(person, Activity::Sit, at_ms);
    }

    /// The first half hour at or after a moment at which a meeting may start.
    fn next_half_hour(&self, from_ms: i64) -> i64 {
        let day = self.clock.day(from_ms);
        let midnight_ms = self.clock.moment_at(day, 0);
        let minutes = ((from_ms - midnight_ms) as u64)
            .div_ceil((HALF_HOUR_MINUTES * MINUTE_MS) as u64) as i64
            * HALF_HOUR_MINUTES;
        if minutes < START_MINUTES.end {
            self.clock.moment_at(day, minutes.max(START_MINUTES.start))
        } else {
            self.clock.moment_at(day + 1, START_MINUTES.start)
        }
    }

    fn building_staff(&self, plan: &CityPlan, room: u32) -> Range<u32> {
        let floor = plan.rooms[room as usize].floor;
        self.staff[plan.floors[floor as usize].building as usize].clone()
    }
}
