//! The people of the city and their agenda.
//!
//! The agenda holds one pending activity per person, so nobody is visited before their time. A
//! person who is called to a meeting gets another entry; the older one is void because its time no
//! longer equals the person's own `next_ms`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

use super::clock::CityClock;
use super::plan::{CityPlan, RoomUse};
use super::presence::CityScene;

/// All people of a city and their agenda.
pub struct People {
    pub(super) people: Vec<Person>,
    /// People who work in each building.
    pub(super) staff: Vec<Range<u32>>,
    pub(super) agenda: BinaryHeap<Reverse<(i64, AgendaEntry)>>,
    pub(super) rng: Pcg64Mcg,
    pub(super) clock: CityClock,
}

pub(super) struct Person {
    /// Zone of the desk.
    pub desk: u32,
    /// Current zone; `None` outside.
    pub zone: Option<u32>,
    pub next_activity: Activity,
    pub next_ms: i64,
    /// Time of lunch; `None` once it is over.
    pub lunch_ms: Option<i64>,
    /// Time to go home.
    pub leave_ms: i64,
}

/// Pending activity of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// Go to the desk.
    Sit,
    /// Run an errand away from the desk.
    Errand,
    /// Go to a meeting in this room.
    Meet { room: u32, until_ms: i64 },
    /// Go to lunch.
    Lunch,
    /// Go home.
    Leave,
}

/// Subject of an agenda entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AgendaEntry {
    Person(u32),
    /// A meeting room in which a meeting may be held.
    Meeting(u32),
}

/// A person's move from one zone to another; `None` stands for outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PersonMove {
    /// Moment of the move; it takes no time.
    pub at_ms: i64,
    /// Index of the person.
    pub person: u32,
    /// Zone before.
    pub from: Option<u32>,
    /// Zone after.
    pub to: Option<u32>,
}

impl People {
    /// Everyone is outside; those who come on the first day arrive soon after `from_ms`.
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

    /// Assigns people to most desks of an office; the rest of its capacity is for visitors.
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

    /// The next move before a moment, if any. `scene` must include all earlier moves.
    pub fn next_move(&mut self, before_ms: i64, scene: CityScene) -> Option<PersonMove> {
        while let Some(&Reverse((at_ms, due))) = self.agenda.peek() {
            if at_ms >= before_ms {
                break;
            }
            self.agenda.pop();
            match due {
                AgendaEntry::Meeting(room) => self.convene_meeting(scene.plan, room, at_ms),
                AgendaEntry::Person(person) if self.people[person as usize].next_ms == at_ms => {
                    let from = self.people[person as usize].zone;
                    self.act(scene, person, at_ms);
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

    /// The zone of each person, indexed by person.
    pub fn positions(&self) -> impl Iterator<Item = Option<u32>> {
        self.people.iter().map(|person| person.zone)
    }

    /// The zone of a person.
    pub fn position(&self, person: u32) -> Option<u32> {
        self.people[person as usize].zone
    }

    /// Replaces a person's pending activity.
    pub(super) fn schedule(&mut self, person: u32, next: Activity, at_ms: i64) {
        let next_ms = self.clock.walking_moment(at_ms);
        let record = &mut self.people[person as usize];
        (record.next_activity, record.next_ms) = (next, next_ms);
        self.agenda
            .push(Reverse((next_ms, AgendaEntry::Person(person))));
    }

    pub(super) fn schedule_meeting(&mut self, room: u32, at_ms: i64) {
        self.agenda
            .push(Reverse((at_ms, AgendaEntry::Meeting(room))));
    }

    /// A random duration within a range of seconds, in ms.
    pub(super) fn random_seconds_ms(&mut self, range: Range<i64>) -> i64 {
        self.rng.random_range(range.start * 1000..range.end * 1000)
    }
}
