//! Occupancy at each full minute, recomputed every minute for the last five.
//!
//! The last computation of a reading is the truth; some of the earlier ones are off by one.

use std::collections::VecDeque;
use std::ops::Range;

use super::behaviour::{CityBehaviour, TypeSet};
use super::chance::{self, ChanceTopic};
use super::clock::MINUTE_MS;
use super::issuer::{MessageIssuer, ReadingRef};
use super::plan::CityPlan;
use super::presence::Presence;
use crate::message::{CityMessage, CityPlace, Computation, MessageData};
use butlr_event::EventType;

/// Number of computations of each reading: one per minute of the window.
pub const COMPUTATIONS: usize = 5;

/// Delay of a computation after the full minute, ms.
const COMPUTED_AFTER_MS: i64 = 1_000;
const COMPUTED_WITHIN_MS: u64 = 2_000;

/// Possible errors of the computations of a reading, first to last.
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

/// The last full minutes and the computations that are due from them.
pub struct OccupancyCalculator {
    seed: u64,
    issuer: MessageIssuer,
    revised: f64,
    /// Maximum number of minutes: five, or one without recomputation.
    window: usize,
    /// The spaces to compute, in the order of [`MinuteCounts::people`].
    groups: Vec<SpaceGroup>,
    /// The last full minutes, the newest first.
    minutes: VecDeque<MinuteCounts>,
    /// Computations due after the last full minute: delay in ms and space, sorted.
    due: Vec<(i64, u32)>,
    /// Number of entries of `due` that are done.
    done_count: usize,
}

/// Occupancy at a full minute.
struct MinuteCounts {
    at_ms: i64,
    /// All floors, then all rooms, then all zones.
    people: Vec<u32>,
}

/// Floors, rooms or zones, and the types that report their occupancy.
struct SpaceGroup {
    spaces: Range<u32>,
    place: fn(u32) -> CityPlace,
    types: Vec<EventType>,
}

impl OccupancyCalculator {
    pub fn new(
        seed: u64,
        issuer: MessageIssuer,
        plan: &CityPlan,
        behaviour: &CityBehaviour,
    ) -> Self {
        Self {
            seed,
            issuer,
            revised: if behaviour.recompute {
                behaviour.revised
            } else {
                0.0
            },
            window: if behaviour.recompute { COMPUTATIONS } else { 1 },
            groups: space_groups(plan, behaviour.types),
            minutes: VecDeque::new(),
            due: Vec::new(),
            done_count: 0,
        }
    }

    /// Records the presence at the end of a minute and schedules the computations for it.
    pub fn close_minute(&mut self, at_ms: i64, presence: &Presence) {
        debug_assert!(at_ms % MINUTE_MS == 0 && self.done_count == self.due.len());
        if self.groups.is_empty() {
            return;
        }
        let mut people = Vec::new();
        if self.minutes.len() == self.window
            && let Some(oldest) = self.minutes.pop_back()
        {
            people = oldest.people;
            people.clear();
        }
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

    /// Runs the computations that are due before a moment.
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
                let reading = ReadingRef {
                    event_type,
                    place,
                    timestamp_ms: minute.at_ms,
                };
                let truth = minute.people[space as usize];
                let (people, computation) = self.computed_value(reading, truth, nth);
                let data = MessageData::Occupancy(people);
                let message = self.issuer.issue(reading, computed_ms, data, computation);
                out.push(message);
            }
        }
    }

    /// The value of the `nth` computation of a reading, and its relation to the one before.
    fn computed_value(&self, reading: ReadingRef, truth: u32, nth: usize) -> (u32, Computation) {
        let errors = self.miscounts(reading);
        // An empty space cannot lose a person, so the error becomes one too many.
        let found = |nth: usize| truth.checked_add_signed(errors[nth]).unwrap_or(truth + 1);
        let computation = match nth.checked_sub(1) {
            None => Computation::First,
            Some(before) if found(before) == found(nth) => Computation::Repeat,
            Some(_) => Computation::Revision,
        };
        (found(nth), computation)
    }

    fn miscounts(&self, reading: ReadingRef) -> [i32; COMPUTATIONS] {
        if self.revised == 0.0 {
            return [0; COMPUTATIONS];
        }
        let dice = |nth| {
            let subject = [reading.subject_code(), reading.timestamp_ms as u64, nth];
            chance::hash(self.seed, ChanceTopic::Miscount, subject)
        };
        if !chance::happens(dice(0), self.revised) {
            return [0; COMPUTATIONS];
        }
        MISCOUNTS[chance::number_below(dice(1), MISCOUNTS.len() as u64) as usize]
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
