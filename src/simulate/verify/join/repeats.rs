//! Which answers `duplicate (repeat)` are right: a repeat tells what its reading is taken to be at that moment.

use std::collections::{HashMap, HashSet};

use super::stored;
use crate::simulate::journal::{Answer, Attempt};
use crate::simulate::ksuid::Ksuid;
use crate::simulate::verify::entry::Entry;
use crate::simulate::verify::names::is_occupancy;

/// (type, space, timestamp) and `data`, both hashed.
pub type Readings = HashSet<(u64, u64)>;

/// What was found of the repeats of a bucket.
#[derive(Debug, Default)]
pub struct Repeats {
    /// Those that are none, and why.
    pub wrong: HashMap<Ksuid, &'static str>,
    /// Those of readings of which no answer of this run tells.
    pub before: HashSet<Ksuid>,
}

impl Repeats {
    /// Of the tries of all readings of a bucket, in the order in which they were noted. `there`: what is there or must be.
    pub fn of(attempts: &mut [Attempt], there: &Readings) -> Self {
        let mut repeats = Self::default();
        if !attempts.iter().any(is_duplicate) {
            return repeats;
        }
        // Stable: the tries of a reading stay in their order.
        attempts.sort_by_key(|a| a.key);
        for tries in attempts.chunk_by(|a, b| a.key == b.key) {
            repeats.walk(tries, there);
        }
        repeats
    }

    fn walk(&mut self, tries: &[Attempt], there: &Readings) {
        // Nobody knows when a request that was given up had its effect.
        let late = tries
            .iter()
            .filter(|t| t.late && t.answer != Answer::Refused);
        let mut maybe: Vec<u64> = late.map(|t| t.data).collect();
        let mut current = Current::default();
        for attempt in tries {
            let data = attempt.data;
            match attempt.answer {
                Answer::Published | Answer::Spooled if !attempt.late => current.set(attempt),
                Answer::Unknown => maybe.push(data),
                Answer::Repeat => {
                    let unheard = maybe.contains(&data) && there.contains(&(attempt.key, data));
                    if !is_occupancy(attempt.event_type) {
                        self.wrong
                            .insert(attempt.id, "no type of which readings are repeated");
                    } else if !current.is(data) && !unheard {
                        match current.last {
                            None => drop(self.before.insert(attempt.id)),
                            Some(_) => {
                                let why = "the reading's value was another one then";
                                self.wrong.insert(attempt.id, why);
                            }
                        }
                    }
                    if !attempt.late {
                        current.last = Some(data);
                    }
                }
                _ => {}
            }
        }
    }
}

/// What a reading is taken to be.
#[derive(Default)]
struct Current {
    /// By the last answer.
    last: Option<u64>,
    /// By the computation that is the newest: one that arrives after a newer one need not count.
    newest: Option<(i64, u64)>,
}

impl Current {
    fn set(&mut self, attempt: &Attempt) {
        self.last = Some(attempt.data);
        let seconds = attempt.id.seconds();
        if self.newest.is_none_or(|(newest, _)| newest <= seconds) {
            self.newest = Some((seconds, attempt.data));
        }
    }

    fn is(&self, data: u64) -> bool {
        self.last == Some(data) || self.newest.is_some_and(|(_, newest)| newest == data)
    }
}

fn is_duplicate(attempt: &Attempt) -> bool {
    matches!(attempt.answer, Answer::Redelivery | Answer::Repeat)
}

/// What repeats are compared with: all that is there, and all that must be: when one of those is missing, that is told of
/// itself and not of its repeats. Empty when no event needs it.
pub fn readings(attempts: &[Attempt], entries: &[Entry]) -> Readings {
    if !attempts.iter().any(is_duplicate) {
        return HashSet::new();
    }
    let there = entries.iter().map(|e| (e.key, e.data));
    let must_be = attempts.iter().filter(|a| stored(a));
    there.chain(must_be.map(|a| (a.key, a.data))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventType;
    use crate::simulate::journal::Cause;
    use crate::simulate::verify::samples::Sample;

    const ROOM: EventType = EventType::RoomOccupancy;

    /// Tries of one reading, each an event of its own; those of `late` are noted late. Whether the last one, a repeat, is
    /// right: `None` where it cannot be told.
    fn last(
        event_type: EventType,
        tries: &[(&'static str, Answer)],
        late: &[usize],
    ) -> Option<bool> {
        let reading = Sample::new(1, event_type, "");
        let tries = tries.iter().zip(0..).map(|((data, answer), n)| {
            let id = Sample::new(n, event_type, data).id;
            let sample = Sample {
                id,
                data,
                ..reading.clone()
            };
            Attempt {
                late: late.contains(&(n as usize)),
                ..sample.answered(Cause::Planned, *answer, None)
            }
        });
        let mut tries: Vec<Attempt> = tries.collect();
        let id = tries[tries.len() - 1].id;
        let there = readings(&tries, &[]);
        let repeats = Repeats::of(&mut tries, &there);
        match (
            repeats.wrong.contains_key(&id),
            repeats.before.contains(&id),
        ) {
            (false, true) => None,
            (wrong, _) => Some(!wrong),
        }
    }

    #[test]
    fn a_repeat_tells_the_current_value() {
        use Answer::{Published, Refused, Repeat, Spooled, Unknown};
        let is_right = |tries: &[(&'static str, Answer)]| last(ROOM, tries, &[]);
        assert_eq!(is_right(&[("4", Published), ("4", Repeat)]), Some(true));
        assert_eq!(is_right(&[("4", Spooled), ("4", Repeat)]), Some(true));
        assert_eq!(is_right(&[("4", Published), ("5", Repeat)]), Some(false));
        let back = [("4", Published), ("5", Published), ("4", Repeat)];
        assert_eq!(is_right(&back), Some(false));
        let again = [("4", Published), ("5", Published), ("5", Repeat)];
        assert_eq!(is_right(&again), Some(true));
        // One whose fate is not known may count, if it is there.
        let unheard = [("4", Published), ("5", Unknown), ("4", Repeat)];
        assert_eq!(is_right(&unheard), Some(true));
        let unheard = [("5", Unknown), ("4", Published), ("5", Repeat)];
        assert_eq!(is_right(&unheard), Some(false));
        let refused = [("4", Published), ("5", Refused), ("5", Repeat)];
        assert_eq!(is_right(&refused), Some(false));
    }

    #[test]
    fn one_of_before_the_run_is_not_judged_but_fixes_the_value() {
        use Answer::{Published, Repeat, Unknown};
        let is_right = |tries: &[(&'static str, Answer)]| last(ROOM, tries, &[]);
        assert_eq!(is_right(&[("4", Repeat)]), None);
        assert_eq!(is_right(&[("5", Unknown), ("4", Repeat)]), None);
        assert_eq!(is_right(&[("4", Repeat), ("4", Repeat)]), Some(true));
        assert_eq!(is_right(&[("4", Repeat), ("5", Repeat)]), Some(false));
        let back = [("4", Repeat), ("5", Published), ("4", Repeat)];
        assert_eq!(is_right(&back), Some(false));
    }

    #[test]
    fn what_is_answered_late_may_have_counted_at_any_time() {
        use Answer::{Published, Repeat};
        let tries = [("5", Published), ("4", Published), ("5", Repeat)];
        assert_eq!(last(ROOM, &tries, &[]), Some(false));
        assert_eq!(last(ROOM, &tries, &[0]), Some(true));
        let tries = [("5", Published), ("4", Published), ("5", Repeat)];
        assert_eq!(last(ROOM, &tries, &[1]), Some(true));
    }

    #[test]
    fn only_occupancy_is_repeated() {
        let tries = [("4", Answer::Published), ("4", Answer::Repeat)];
        for event_type in EventType::ALL {
            let right = Some(is_occupancy(event_type));
            assert_eq!(last(event_type, &tries, &[]), right, "{event_type}");
        }
    }
}
