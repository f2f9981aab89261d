//! What the bridge may know of one (type, space, timestamp): all that is consistent with the answers so far.
//!
//! As long as every answer is known, that is one world, and the oracle tells exactly what comes next. A try without a known
//! answer may have been stored, at any time from then on, or not: then there are two, and what is answered later tells
//! which it was.

use crate::hash;
use crate::oracle::{IdStatus, OracleVerdict, ReadingState};
use crate::verify::names::is_occupancy;
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// Of so many at most it is known what comes next.
const MAX_HYPOTHESES: usize = 64;

/// What a record's headers say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordMark {
    /// Nothing.
    Plain,
    /// It is a revision of the event with this (hashed) id.
    Revision(u64),
    /// It is stale.
    Stale,
}

/// What was answered to a try, and what its record adds to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObservedOutcome {
    /// It is the same event again.
    Redelivery,
    /// It is the same value again.
    Repeat,
    /// It was stored; marked so, where its record is known.
    Stored(Option<RecordMark>),
}

/// All tries of one event that went out one after the other, or overlapping, with nothing about the reading in between. In
/// which order the bridge had them is not known.
#[derive(Clone, Debug)]
pub struct AttemptGroup {
    /// The event.
    pub id: Ksuid,
    /// Its type.
    pub event_type: EventType,
    /// Its value.
    pub data: u64,
    /// What was answered, as far as it is known.
    pub answered: Vec<ObservedOutcome>,
    /// Whether there are tries besides whose answer is not known.
    pub has_unknown: bool,
    /// The marks of this event's records to which no answer belongs; `None` where not all records are known.
    pub unanswered: Option<Vec<RecordMark>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hypothesis {
    reading: ReadingState,
    /// Events that may still be stored.
    pending: Vec<PendingEvent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PendingEvent {
    id: Ksuid,
    event_type: EventType,
    data: u64,
    /// Whether there may be a record of it.
    may_have_record: bool,
}

/// How a group fits what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// As the rules say.
    Consistent(OracleVerdict),
    /// So, if the bridge had forgotten the id of a repeat, which no record tells.
    ForgotRepeat(OracleVerdict),
    /// As if the bridge had not known of what is stored; the rules say this.
    Unrecognised(OracleVerdict),
    /// It rests on something from before the run.
    BeforeRun,
    /// Nothing explains it; the rules say this.
    Contradicted(OracleVerdict),
    /// Too much is not known.
    Undetermined,
}

/// All that may be.
#[derive(Clone, Debug)]
pub struct Hypotheses(Vec<Hypothesis>);

impl Hypotheses {
    /// Nothing is stored yet.
    pub fn new() -> Self {
        Self(vec![Hypothesis::default()])
    }

    /// The next group. Afterwards only the worlds are left that explain it.
    pub fn observe(&mut self, group: &AttemptGroup) -> Explanation {
        self.expand_pending();
        if self.0.len() > MAX_HYPOTHESES {
            self.assume_answered(group);
            return Explanation::Undetermined;
        }
        let says = self.0[0]
            .reading
            .classify(group.event_type, group.id, group.data);
        if group.answered.is_empty() && !group.has_unknown {
            return Explanation::Consistent(says);
        }
        let unhindered = AttemptGroup {
            unanswered: None,
            ..group.clone()
        };
        // What is there and what is not tells which tries were stored; unless records are missing, which is told elsewhere.
        for group in [group, &unhindered] {
            if let Some(verdict) = self.retain_explaining(group, Hypothesis::clone) {
                return Explanation::Consistent(verdict);
            }
        }
        let id = group.id;
        let no_repeat = |w: &Hypothesis| match w.reading.id_status(id) {
            Some(IdStatus::Repeat) => w.without(Some(id), false),
            _ => w.clone(),
        };
        let once = unhindered.deduplicate_answers(|heard| heard == ObservedOutcome::Repeat);
        if self.retain_explaining(&once, no_repeat).is_some() {
            return Explanation::ForgotRepeat(says);
        }
        if self.is_before_run(group) {
            self.assume_answered(group);
            return Explanation::BeforeRun;
        }
        let once = unhindered.deduplicate_answers(|heard| heard != ObservedOutcome::Redelivery);
        let all_but_plain = once.without_plain();
        if all_but_plain.answered.len() < group.answered.len()
            && self
                .retain_explaining(&all_but_plain, Hypothesis::clone)
                .is_some()
        {
            return Explanation::Unrecognised(OracleVerdict::Redelivery);
        }
        for (known, value) in [(true, false), (false, true), (true, true)] {
            let (id, group) = match known {
                true => (Some(id), &all_but_plain),
                false => (None, &unhindered),
            };
            if self
                .retain_explaining(group, |w| w.without(id, value))
                .is_some()
            {
                return Explanation::Unrecognised(says);
            }
        }
        self.assume_answered(group);
        Explanation::Contradicted(says)
    }

    /// Keeps the worlds that explain a group, once they are `seen` so; what it is in the first of them. Where none does,
    /// all stay.
    fn retain_explaining(
        &mut self,
        group: &AttemptGroup,
        seen: impl Fn(&Hypothesis) -> Hypothesis,
    ) -> Option<OracleVerdict> {
        let mut after: Vec<Hypothesis> = Vec::new();
        let mut verdict = None;
        for world in &self.0 {
            let world = seen(world);
            let told = world
                .reading
                .classify(group.event_type, group.id, group.data);
            let before = after.len();
            world.push_successors(group, told, &mut after);
            if after.len() > before {
                verdict = verdict.or(Some(told));
            }
        }
        if verdict.is_some() {
            self.0 = deduplicate(after);
        }
        verdict
    }

    /// Whether what was heard can only rest on a value from before the run.
    fn is_before_run(&self, group: &AttemptGroup) -> bool {
        let none =
            |w: &Hypothesis| w.reading.current.is_none() && w.reading.id_status(group.id).is_none();
        let rests = |heard: &ObservedOutcome| match heard {
            ObservedOutcome::Repeat => true,
            ObservedOutcome::Stored(Some(mark)) => *mark != RecordMark::Plain,
            _ => false,
        };
        is_occupancy(group.event_type)
            && self.0.iter().any(none)
            && group.answered.iter().any(rests)
    }

    /// Takes for granted what was heard, whatever explains it.
    fn assume_answered(&mut self, group: &AttemptGroup) {
        let verdict = group.answered.iter().find_map(|heard| match heard {
            ObservedOutcome::Redelivery => None,
            ObservedOutcome::Repeat => Some(OracleVerdict::First),
            ObservedOutcome::Stored(Some(RecordMark::Stale)) => Some(OracleVerdict::Stale),
            ObservedOutcome::Stored(_) => Some(OracleVerdict::First),
        });
        for world in &mut self.0 {
            world.pending.retain(|pending| pending.id != group.id);
            if let Some(verdict) = verdict {
                world.reading.apply(verdict, group.id, group.data);
            }
        }
        self.0 = deduplicate(std::mem::take(&mut self.0));
        self.0.truncate(MAX_HYPOTHESES);
    }

    /// What is pending may have been stored by now.
    fn expand_pending(&mut self) {
        let mut n = 0;
        while n < self.0.len() && self.0.len() <= MAX_HYPOTHESES {
            for place in 0..self.0[n].pending.len() {
                let mut world = self.0[n].clone();
                let PendingEvent {
                    id,
                    event_type,
                    data,
                    may_have_record: recorded,
                } = world.pending.remove(place);
                let verdict = world.reading.classify(event_type, id, data);
                world.reading.apply(verdict, id, data);
                let may_be = recorded || verdict.is_duplicate();
                if may_be && !self.0.contains(&world) {
                    self.0.push(world);
                }
            }
            n += 1;
        }
    }
}

impl AttemptGroup {
    /// As if what was heard twice of such had been heard once.
    fn deduplicate_answers(&self, of: impl Fn(ObservedOutcome) -> bool) -> Self {
        let mut heard: Vec<ObservedOutcome> = Vec::with_capacity(self.answered.len());
        for each in &self.answered {
            if !of(*each) || !heard.contains(each) {
                heard.push(*each);
            }
        }
        Self {
            answered: heard,
            ..self.clone()
        }
    }

    /// As if tries had not been that were taken for something new, beside others that were not.
    fn without_plain(&self) -> Self {
        let plain = |heard: &ObservedOutcome| {
            matches!(
                heard,
                ObservedOutcome::Stored(Some(RecordMark::Plain) | None)
            )
        };
        let other =
            |heard: &ObservedOutcome| !plain(heard) && *heard != ObservedOutcome::Redelivery;
        let mut group = self.clone();
        if group.answered.iter().any(other) {
            group.answered.retain(|heard| !plain(heard));
        }
        group
    }
}

impl Hypothesis {
    /// As if this id, or the value, were not known.
    fn without(&self, id: Option<Ksuid>, value: bool) -> Self {
        let mut world = self.clone();
        world.reading.ids.retain(|(known, _)| Some(*known) != id);
        if value {
            world.reading.current = None;
        }
        world
    }

    /// Adds the worlds that this one can be after a group, if the event is `verdict` in it.
    fn push_successors(
        mut self,
        group: &AttemptGroup,
        verdict: OracleVerdict,
        all: &mut Vec<Hypothesis>,
    ) {
        let again = |heard: &&ObservedOutcome| **heard == ObservedOutcome::Redelivery;
        let redelivered = group.answered.iter().filter(again).count();
        if verdict == OracleVerdict::Redelivery {
            if redelivered == group.answered.len() {
                all.push(self);
            }
            return;
        }
        let fitting = group
            .answered
            .iter()
            .filter(|heard| self.is_consistent(**heard, verdict))
            .count();
        if fitting + redelivered != group.answered.len() || fitting > 1 {
            return;
        }
        let (id, data) = (group.id, group.data);
        if fitting == 0 {
            if !group.has_unknown {
                return;
            }
            if redelivered == 0 {
                let mut world = self.clone();
                world.pending.retain(|pending| pending.id != id);
                world.pending.push(PendingEvent {
                    id,
                    event_type: group.event_type,
                    data,
                    may_have_record: group
                        .unanswered
                        .as_ref()
                        .is_none_or(|marks| !marks.is_empty()),
                });
                // One order, so that equal worlds are found to be so.
                world.pending.sort_unstable_by_key(|pending| pending.id);
                all.push(world);
            }
            // One that nobody heard of was the first.
            let left = |marks: &Vec<RecordMark>| {
                marks
                    .iter()
                    .any(|mark| self.is_consistent(ObservedOutcome::Stored(Some(*mark)), verdict))
            };
            if !verdict.is_duplicate() && !group.unanswered.as_ref().is_none_or(left) {
                return;
            }
        }
        self.pending.retain(|pending| pending.id != id);
        self.reading.apply(verdict, id, data);
        all.push(self);
    }

    /// Whether that is what is heard of such an event.
    fn is_consistent(&self, heard: ObservedOutcome, verdict: OracleVerdict) -> bool {
        match (verdict, heard) {
            (OracleVerdict::Repeat, ObservedOutcome::Repeat) => true,
            (
                OracleVerdict::First | OracleVerdict::Revision | OracleVerdict::Stale,
                ObservedOutcome::Stored(None),
            ) => true,
            (OracleVerdict::First, ObservedOutcome::Stored(Some(mark))) => {
                mark == RecordMark::Plain
            }
            (OracleVerdict::Stale, ObservedOutcome::Stored(Some(mark))) => {
                mark == RecordMark::Stale
            }
            (OracleVerdict::Revision, ObservedOutcome::Stored(Some(RecordMark::Revision(of)))) => {
                let current = self.reading.current.as_ref();
                current.is_some_and(|current| of == hash_superseded_id(current.id))
            }
            _ => false,
        }
    }
}

/// How an id stands in [`Mark::Revision`].
pub fn hash_superseded_id(id: Ksuid) -> u64 {
    hash::hash_bytes(format!("event_{id}").as_bytes())
}

fn deduplicate(worlds: Vec<Hypothesis>) -> Vec<Hypothesis> {
    let mut distinct: Vec<Hypothesis> = Vec::with_capacity(worlds.len());
    for world in worlds {
        if !distinct.contains(&world) {
            distinct.push(world);
        }
    }
    distinct
}

#[cfg(test)]
mod tests;
