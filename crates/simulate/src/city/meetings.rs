//! Meetings: at half hours, in meeting rooms, with people of the same building who sit at their desks.

use std::ops::Range;

use rand::RngExt as _;

use super::clock::MINUTE_MS;
use super::people::{Next, People};
use super::plan::Plan;
use super::presence::Presence;

/// Meetings begin within these minutes of the day.
const HOURS: Range<i64> = 9 * 60..16 * 60 + 30;
const HALF_HOUR: i64 = 30;
/// So long before one begins, it is decided whether there is one.
const AHEAD_MS: i64 = 3 * MINUTE_MS;
/// How likely a free room is used at a half hour.
const USED: f64 = 0.45;
const MOST: u32 = 10;

impl People {
    pub(super) fn first_meeting(&mut self, room: u32, from_ms: i64) {
        let at_ms = self.next_half_hour(from_ms + AHEAD_MS);
        self.plan_meeting(room, at_ms - AHEAD_MS);
    }

    /// Calls people away from their desks to a meeting in a room, or leaves it empty this time.
    pub(super) fn invite(&mut self, plan: &Plan, room: u32, now_ms: i64) {
        let begins_ms = now_ms + AHEAD_MS;
        let mut free_ms = begins_ms + 1;
        if self.rng.random_bool(USED) {
            let length = HALF_HOUR * self.rng.random_range(1..=2);
            free_ms = begins_ms + length * MINUTE_MS;
            // Five minutes between two meetings.
            self.call(plan, room, now_ms, free_ms - 5 * MINUTE_MS);
        }
        let next_ms = self.next_half_hour(free_ms);
        self.plan_meeting(room, next_ms - AHEAD_MS);
    }

    fn call(&mut self, plan: &Plan, room: u32, now_ms: i64, until_ms: i64) {
        let capacity = plan.rooms[room as usize].capacity.min(MOST);
        let wanted = self.rng.random_range(2..=capacity.max(2));
        let staff = self.staff_of(plan, room);
        let mut called = 0;
        // Some of those who are asked are busy: there are more tries than places.
        for _ in 0..3 * wanted {
            if called == wanted || staff.is_empty() {
                break;
            }
            let person = self.rng.random_range(staff.clone());
            let who = &self.people[person as usize];
            if who.next == Next::Errand && who.at == Some(who.desk) && who.leave_ms > until_ms {
                called += 1;
                let at_ms = now_ms + self.seconds(60..360);
                self.plan(person, Next::Meet { room, until_ms }, at_ms);
            }
        }
    }

    /// Goes to a meeting if there still is a place.
    pub(super) fn meet(
        &mut self,
        plan: &Plan,
        presence: &Presence,
        person: u32,
        room: u32,
        until_ms: i64,
        now_ms: i64,
    ) {
        if !presence.has_place(plan, room) {
            return self.work(person, now_ms);
        }
        let zone = self.zone_in(plan, room);
        self.people[person as usize].at = Some(zone);
        let at_ms = until_ms + self.seconds(0..120);
        self.plan(person, Next::Sit, at_ms);
    }

    /// The first half hour at or after a moment at which meetings may begin.
    fn next_half_hour(&self, from_ms: i64) -> i64 {
        let day = self.clock.day(from_ms);
        let midnight_ms = self.clock.at(day, 0);
        let minutes = ((from_ms - midnight_ms) as u64).div_ceil((HALF_HOUR * MINUTE_MS) as u64)
            as i64
            * HALF_HOUR;
        if minutes < HOURS.end {
            self.clock.at(day, minutes.max(HOURS.start))
        } else {
            self.clock.at(day + 1, HOURS.start)
        }
    }

    fn staff_of(&self, plan: &Plan, room: u32) -> Range<u32> {
        let floor = plan.rooms[room as usize].floor;
        self.staff[plan.floors[floor as usize].building as usize].clone()
    }
}
