//! Occupancy: how many people are where at each full minute, computed again each minute over the last five.
//!
//! The last computation of a reading tells the truth; some of the earlier ones are off by one.

use std::collections::VecDeque;
use std::ops::Range;

use super::chance::{self, ChanceTopic};
use super::clock::MINUTE_MS;
use super::issuer::{self, MessageIssuer};
use super::plan::CityPlan;
use super::presence::Presence;
use super::simulation::{CityBehaviour, TypeSet};
use crate::message::{CityMessage, CityPlace, Computation, MessageData};
use butlr_event::EventType;

/// How often each reading is computed: once for each minute of the window.
pub const COMPUTATIONS: usize = 5;

/// A space's occupancy is computed so long after each full minute, ms.
const COMPUTED_AFTER_MS: i64 = 1_000;
const COMPUTED_WITHIN_MS: u64 = 2_000;

/// How early computations can be off, first to last.
const MISCOUNTS: [[i32; COMPUTATIONS]; 8] = [
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
pub struct OccupancyCalculator {
    seed: u64,
    issuer: MessageIssuer,
    revised: f64,
    /// How many minutes there are at most: five, or one without recomputation.
    window: usize,
    /// The spaces whose occupancy is wanted, as they stand in a [`Minute`].
    groups: Vec<SpaceGroup>,
    /// The last full minutes, the newest first.
    minutes: VecDeque<MinuteCounts>,
    /// When which space is computed from these, ms after the last full minute, in order; and how many have been.
    due: Vec<(i64, u32)>,
    done_count: usize,
}

/// The occupancies at a full minute: of all floors, then rooms, then zones.
struct MinuteCounts {
    at_ms: i64,
    people: Vec<u32>,
}

/// Floors, rooms or zones, and the types that tell their occupancy.
struct SpaceGroup {
    spaces: Range<u32>,
    place: fn(u32) -> CityPlace,
    types: Vec<EventType>,
}

impl OccupancyCalculator {
    /// No minute has passed yet.
    pub fn new(seed: u64, issuer: MessageIssuer, plan: &CityPlan, habits: &CityBehaviour) -> Self {
        Self {
            seed,
            issuer,
            revised: if habits.recompute {
                habits.revised
            } else {
                0.0
            },
            window: if habits.recompute { COMPUTATIONS } else { 1 },
            groups: space_groups(plan, habits.types),
            minutes: VecDeque::new(),
            due: Vec::new(),
            done_count: 0,
        }
    }

    /// A minute is full: `presence` is how it is at its end, and what is to be computed from it is due from now on.
    pub fn close_minute(&mut self, at_ms: i64, presence: &Presence) {
        debug_assert!(at_ms % MINUTE_MS == 0 && self.done_count == self.due.len());
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
        self.minutes.push_front(MinuteCounts { at_ms, people });

        self.due.clear();
        self.done_count = 0;
        for space in self.groups.iter().flat_map(|group| group.spaces.clone()) {
            let dice = chance::hash(
                self.seed,
                ChanceTopic::Computation,
                [u64::from(space), at_ms as u64, 0],
            );
            self.due.push((
                COMPUTED_AFTER_MS + chance::number_below(dice, COMPUTED_WITHIN_MS) as i64,
                space,
            ));
        }
        self.due.sort_unstable();
    }

    /// Computes what is due before a moment.
    pub fn compute(&mut self, before_ms: i64, out: &mut Vec<CityMessage>) {
        let Some(newest) = self.minutes.front() else {
            return;
        };
        while let Some(&(after_ms, space)) = self.due.get(self.done_count) {
            let computed_ms = newest.at_ms + after_ms;
            if computed_ms >= before_ms {
                break;
            }
            self.done_count += 1;
            self.compute_space(space, computed_ms, out);
        }
    }

    /// Computes a space's occupancy at each minute of the window.
    fn compute_space(&self, space: u32, computed_ms: i64, out: &mut Vec<CityMessage>) {
        let group = self
            .groups
            .iter()
            .find(|group| group.spaces.contains(&space))
            .expect("only spaces of a group are due");
        let place = (group.place)(space - group.spaces.start);
        for &event_type in &group.types {
            for (nth, minute) in self.minutes.iter().enumerate() {
                let (people, computation) = self.computed_value(
                    event_type,
                    place,
                    minute.people[space as usize],
                    minute.at_ms,
                    nth,
                );
                let data = MessageData::Occupancy(people);
                out.push(self.issuer.issue(
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
    fn computed_value(
        &self,
        event_type: EventType,
        place: CityPlace,
        truth: u32,
        at_ms: i64,
        nth: usize,
    ) -> (u32, Computation) {
        let slips = self.miscounts(event_type, place, at_ms);
        // Where nobody is, nobody can be missed: there it is one too many.
        let found = |nth: usize| truth.checked_add_signed(slips[nth]).unwrap_or(truth + 1);
        let computation = match nth.checked_sub(1) {
            None => Computation::First,
            Some(before) if found(before) == found(nth) => Computation::Repeat,
            Some(_) => Computation::Revision,
        };
        (found(nth), computation)
    }

    fn miscounts(
        &self,
        event_type: EventType,
        place: CityPlace,
        at_ms: i64,
    ) -> [i32; COMPUTATIONS] {
        if self.revised == 0.0 {
            return [0; COMPUTATIONS];
        }
        let dice = |nth| {
            chance::hash(
                self.seed,
                ChanceTopic::Miscount,
                [issuer::subject_code(event_type, place), at_ms as u64, nth],
            )
        };
        match chance::happens(dice(0), self.revised) {
            true => MISCOUNTS[chance::number_below(dice(1), MISCOUNTS.len() as u64) as usize],
            false => [0; COMPUTATIONS],
        }
    }
}

fn space_groups(plan: &CityPlan, types: TypeSet) -> Vec<SpaceGroup> {
    let (floors, rooms, zones) = (
        plan.floors.len() as u32,
        plan.rooms.len() as u32,
        plan.zones.len() as u32,
    );
    let group = |spaces, place, each: [EventType; 2]| SpaceGroup {
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
            CityPlace::Floor,
            [EventType::FloorOccupancy, EventType::FloorOccupancy1Min],
        ),
        group(
            floors..floors + rooms,
            CityPlace::Room,
            [EventType::RoomOccupancy, EventType::RoomOccupancy1Min],
        ),
        group(
            floors + rooms..floors + rooms + zones,
            CityPlace::Zone,
            [EventType::ZoneOccupancy, EventType::ZoneOccupancy1Min],
        ),
    ];
    all.into_iter()
        .filter(|group| !group.types.is_empty())
        .collect()
}
