//! Occupancy: how many people are where at each full minute, computed again each minute over the last five.
//!
//! The last computation of a reading tells the truth; some of the earlier ones are off by one.

use std::collections::VecDeque;
use std::ops::Range;

use super::chance::{self, Topic};
use super::clock::MINUTE_MS;
use super::issue::{self, Issuer};
use super::life::{Habits, TypeSet};
use super::plan::Plan;
use super::presence::Presence;
use crate::message::{Computation, Data, Message, Place};
use butlr_event::EventType;

/// How often each reading is computed: once for each minute of the window.
pub const COMPUTATIONS: usize = 5;

/// A space's occupancy is computed so long after each full minute, ms.
const COMPUTED_AFTER_MS: i64 = 1_000;
const COMPUTED_WITHIN_MS: u64 = 2_000;

/// How early computations can be off, first to last.
const SLIPS: [[i32; COMPUTATIONS]; 8] = [
    [1, 0, 0, 0, 0],
    [-1, 0, 0, 0, 0],
    [0, 1, 0, 0, 0],
    [0, -1, 0, 0, 0],
    [-1, -1, 0, 0, 0],
    [1, 1, 1, 0, 0],
    [1, -1, 0, 0, 0],
    [0, 0, 0, 1, 0],
];

/// The last minutes, and what is still to be computed from them.
pub struct Occupancy {
    seed: u64,
    issuer: Issuer,
    revised: f64,
    /// How many minutes there are at most: five, or one without recomputation.
    window: usize,
    /// The spaces whose occupancy is wanted, as they stand in a [`Minute`].
    groups: Vec<Group>,
    /// The last full minutes, the newest first.
    minutes: VecDeque<Minute>,
    /// When which space is computed from these, ms after the last full minute, in order; and how many have been.
    due: Vec<(i64, u32)>,
    done: usize,
}

/// The occupancies at a full minute: of all floors, then rooms, then zones.
struct Minute {
    at_ms: i64,
    people: Vec<u32>,
}

/// Floors, rooms or zones, and the types that tell their occupancy.
struct Group {
    spaces: Range<u32>,
    place: fn(u32) -> Place,
    types: Vec<EventType>,
}

impl Occupancy {
    /// No minute has passed yet.
    pub fn new(seed: u64, issuer: Issuer, plan: &Plan, habits: &Habits) -> Self {
        Self {
            seed,
            issuer,
            revised: if habits.recompute {
                habits.revised
            } else {
                0.0
            },
            window: if habits.recompute { COMPUTATIONS } else { 1 },
            groups: groups(plan, habits.types),
            minutes: VecDeque::new(),
            due: Vec::new(),
            done: 0,
        }
    }

    /// A minute is full: `presence` is how it is at its end, and what is to be computed from it is due from now on.
    pub fn turn(&mut self, at_ms: i64, presence: &Presence) {
        debug_assert!(at_ms % MINUTE_MS == 0 && self.done == self.due.len());
        if self.groups.is_empty() {
            return;
        }
        let mut people = match self.minutes.len() == self.window {
            true => self
                .minutes
                .pop_back()
                .map(|oldest| oldest.people)
                .unwrap_or_default(),
            false => Vec::new(),
        };
        people.clear();
        people.extend(presence.counts());
        self.minutes.push_front(Minute { at_ms, people });

        self.due.clear();
        self.done = 0;
        for space in self.groups.iter().flat_map(|group| group.spaces.clone()) {
            let dice = chance::hash(
                self.seed,
                Topic::Computation,
                [u64::from(space), at_ms as u64, 0],
            );
            self.due.push((
                COMPUTED_AFTER_MS + chance::below(dice, COMPUTED_WITHIN_MS) as i64,
                space,
            ));
        }
        self.due.sort_unstable();
    }

    /// Computes what is due before a moment.
    pub fn compute(&mut self, before_ms: i64, out: &mut Vec<Message>) {
        let Some(newest) = self.minutes.front() else {
            return;
        };
        while let Some(&(after_ms, space)) = self.due.get(self.done) {
            let computed_ms = newest.at_ms + after_ms;
            if computed_ms >= before_ms {
                break;
            }
            self.done += 1;
            self.space(space, computed_ms, out);
        }
    }

    /// Computes a space's occupancy at each minute of the window.
    fn space(&self, space: u32, computed_ms: i64, out: &mut Vec<Message>) {
        let group = self
            .groups
            .iter()
            .find(|group| group.spaces.contains(&space))
            .expect("only spaces of a group are due");
        let place = (group.place)(space - group.spaces.start);
        for &event_type in &group.types {
            for (nth, minute) in self.minutes.iter().enumerate() {
                let (people, computation) = self.value(
                    event_type,
                    place,
                    minute.people[space as usize],
                    minute.at_ms,
                    nth,
                );
                let data = Data::Occupancy(people);
                out.push(self.issuer.message(
                    event_type,
                    place,
                    minute.at_ms,
                    computed_ms,
                    data,
                    computation,
                ));
            }
        }
    }

    /// The value that the `nth` computation of a reading finds, and what that is to the one before.
    fn value(
        &self,
        event_type: EventType,
        place: Place,
        truth: u32,
        at_ms: i64,
        nth: usize,
    ) -> (u32, Computation) {
        let slips = self.slips(event_type, place, at_ms);
        // Where nobody is, nobody can be missed: there it is one too many.
        let found = |nth: usize| truth.checked_add_signed(slips[nth]).unwrap_or(truth + 1);
        let computation = match nth.checked_sub(1) {
            None => Computation::First,
            Some(before) if found(before) == found(nth) => Computation::Repeat,
            Some(_) => Computation::Revision,
        };
        (found(nth), computation)
    }

    fn slips(&self, event_type: EventType, place: Place, at_ms: i64) -> [i32; COMPUTATIONS] {
        if self.revised == 0.0 {
            return [0; COMPUTATIONS];
        }
        let dice = |nth| {
            chance::hash(
                self.seed,
                Topic::Slip,
                [issue::subject(event_type, place), at_ms as u64, nth],
            )
        };
        match chance::happens(dice(0), self.revised) {
            true => SLIPS[chance::below(dice(1), SLIPS.len() as u64) as usize],
            false => [0; COMPUTATIONS],
        }
    }
}

fn groups(plan: &Plan, types: TypeSet) -> Vec<Group> {
    let (floors, rooms, zones) = (
        plan.floors.len() as u32,
        plan.rooms.len() as u32,
        plan.zones.len() as u32,
    );
    let group = |spaces, place, each: [EventType; 2]| Group {
        spaces,
        place,
        types: each
            .into_iter()
            .filter(|event_type| types[event_type.index()])
            .collect(),
    };
    let all = [
        group(
            0..floors,
            Place::Floor,
            [EventType::FloorOccupancy, EventType::FloorOccupancy1Min],
        ),
        group(
            floors..floors + rooms,
            Place::Room,
            [EventType::RoomOccupancy, EventType::RoomOccupancy1Min],
        ),
        group(
            floors + rooms..floors + rooms + zones,
            Place::Zone,
            [EventType::ZoneOccupancy, EventType::ZoneOccupancy1Min],
        ),
    ];
    all.into_iter()
        .filter(|group| !group.types.is_empty())
        .collect()
}
