//! The people: who they are, what each does next, and when.
//!
//! Nobody is looked at before their time has come: one agenda holds, for each person, the one next thing they will do.
//! A person who is called away to a meeting gets another entry, and the one before is void because it no longer says
//! what the person's own `next_ms` says.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

use super::clock::CityClock;
use super::plan::{CityPlan, RoomUse};
use super::presence::Presence;

/// All the people of a city, and all that they still have to do.
pub struct People {
    pub(super) people: Vec<Person>,
    /// Those who work in each building.
    pub(super) staff: Vec<Range<u32>>,
    pub(super) agenda: BinaryHeap<Reverse<(i64, AgendaEntry)>>,
    pub(super) rng: Pcg64Mcg,
    pub(super) clock: CityClock,
}

/// One person.
pub(super) struct Person {
    /// The zone that their desk is in.
    pub desk: u32,
    /// The zone that they are in; nothing outside.
    pub zone: Option<u32>,
    /// What they do next, and when.
    pub next_activity: Activity,
    pub next_ms: i64,
    /// When they go to lunch; nothing once they have.
    pub lunch_ms: Option<i64>,
    /// When they go home.
    pub leave_ms: i64,
}

/// What a person does when their time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// To the desk, from wherever they are.
    Sit,
    /// Some errand away from the desk.
    Errand,
    /// To a meeting in this room.
    Meet { room: u32, until_ms: i64 },
    /// To lunch.
    Lunch,
    /// Home.
    Leave,
}

/// Whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AgendaEntry {
    Person(u32),
    /// A meeting room, to be filled or not.
    Meeting(u32),
}

/// Someone goes from one zone to another; nothing stands for outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PersonMove {
    /// The moment at which they are no longer in the one and already in the other.
    pub at_ms: i64,
    /// Who.
    pub person: u32,
    /// Where they were.
    pub from: Option<u32>,
    /// Where they are now.
    pub to: Option<u32>,
}

impl People {
    /// Everybody is outside; who comes today comes soon after `from_ms`.
    pub fn new(plan: &CityPlan, seed: u64, from_ms: i64, clock: CityClock) -> Self {
        let mut people = Self {
            people: Vec::new(),
            staff: Vec::new(),
            agenda: BinaryHeap::new(),
            rng: Pcg64Mcg::seed_from_u64(seed),
            clock,
        };
        for building in &plan.buildings {
            let first = people.people.len() as u32;
            let floors = &plan.floors[building.floors.start as usize..building.floors.end as usize];
            for room in floors.iter().flat_map(|floor| floor.rooms.clone()) {
                match plan.rooms[room as usize].room_use {
                    RoomUse::Office => people.add_staff(plan, room, from_ms),
                    RoomUse::Meeting => people.plan_first_meeting(room, from_ms),
                    _ => {}
                }
            }
            people.staff.push(first..people.people.len() as u32);
        }
        people
    }

    /// Most of an office's desks have someone; the rest of its capacity is for visitors.
    fn add_staff(&mut self, plan: &CityPlan, room: u32, from_ms: i64) {
        let office = &plan.rooms[room as usize];
        let desks = office.capacity * self.rng.random_range(70..=90) / 100;
        for nth in 0..desks {
            let person = self.people.len() as u32;
            self.people.push(Person {
                desk: office.zones.start + nth % office.zones.len() as u32,
                zone: None,
                next_activity: Activity::Sit,
                next_ms: 0,
                lunch_ms: None,
                leave_ms: 0,
            });
            self.plan_first_day(person, from_ms);
        }
    }

    /// The next move before a moment, if there is any. `presence` must know all moves so far.
    pub fn next_move(
        &mut self,
        before_ms: i64,
        plan: &CityPlan,
        presence: &Presence,
    ) -> Option<PersonMove> {
        while let Some(&Reverse((at_ms, due))) = self.agenda.peek() {
            if at_ms >= before_ms {
                break;
            }
            self.agenda.pop();
            match due {
                AgendaEntry::Meeting(room) => self.convene_meeting(plan, room, at_ms),
                AgendaEntry::Person(person) if self.people[person as usize].next_ms == at_ms => {
                    let from = self.people[person as usize].zone;
                    self.act(plan, presence, person, at_ms);
                    let to = self.people[person as usize].zone;
                    if from != to {
                        return Some(PersonMove {
                            at_ms,
                            person,
                            from,
                            to,
                        });
                    }
                }
                AgendaEntry::Person(_) => {}
            }
        }
        None
    }

    /// The zone that each person is in, by person.
    pub fn positions(&self) -> impl Iterator<Item = Option<u32>> {
        self.people.iter().map(|person| person.zone)
    }

    /// The zone that a person is in.
    pub fn position(&self, person: u32) -> Option<u32> {
        self.people[person as usize].zone
    }

    /// From now on, this is what a person does next.
    pub(super) fn schedule(&mut self, person: u32, next: Activity, at_ms: i64) {
        let next_ms = self.clock.walking_moment(at_ms);
        let who = &mut self.people[person as usize];
        (who.next_activity, who.next_ms) = (next, next_ms);
        self.agenda
            .push(Reverse((next_ms, AgendaEntry::Person(person))));
    }

    pub(super) fn schedule_meeting(&mut self, room: u32, at_ms: i64) {
        self.agenda
            .push(Reverse((at_ms, AgendaEntry::Meeting(room))));
    }

    /// A duration between two numbers of seconds, in ms.
    pub(super) fn random_seconds_ms(&mut self, range: Range<i64>) -> i64 {
        self.rng.random_range(range.start * 1000..range.end * 1000)
    }
}
