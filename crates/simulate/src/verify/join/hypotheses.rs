//! Hypotheses about what the bridge knows of one (type, space, timestamp): all those consistent
//! with the outcomes so far.
//!
//! As long as every outcome is known, there is exactly one hypothesis, and the oracle says what
//! must come next. An attempt of unknown outcome may have been stored, at any later time, or never.
//! That makes two hypotheses, and later outcomes show which of them is true.

use crate::oracle::{IdStatus, OracleVerdict, ReadingState};
use crate::verify::contract::is_occupancy;
use crate::verify::record_digest::EventIdHash;
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// With more hypotheses than this, outcomes are not judged.
const MAX_HYPOTHESES: usize = 64;

/// The mark in a record's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordMark {
    /// No mark.
    Plain,
    /// A revision of the event with this id.
    Revision(EventIdHash),
    /// Stale.
    Stale,
}

/// The outcome of an attempt, including the mark of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObservedOutcome {
    /// A duplicate of an event with the same id.
    Redelivery,
    /// A duplicate of an event with the same value.
    Repeat,
    /// Stored, with this mark if the record is known.
    Stored(Option<RecordMark>),
}

/// Attempts of one event that were made one after the other or overlapping, without another event
/// about the same reading in between. The order in which the bridge received them is unknown.
#[derive(Clone, Debug)]
pub struct AttemptGroup {
    /// The event.
    pub id: Ksuid,
    /// Its type.
    pub event_type: EventType,
    /// Hash of its `data`.
    pub data: u64,
    /// The known outcomes.
    pub answered: Vec<ObservedOutcome>,
    /// There are further attempts, of unknown outcome.
    pub has_unknown: bool,
    /// The marks of this event's records that belong to no known outcome; `None` if not all records
    /// are known.
    pub unanswered: Option<Vec<RecordMark>>,
}

/// A possible state of the bridge's knowledge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hypothesis {
    reading: ReadingState,
    /// Events that may still be stored.
    pending: Vec<PendingEvent>,
}

/// An event that may still be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PendingEvent {
    id: Ksuid,
    event_type: EventType,
    data: u64,
    /// One of the event's records may be that of the pending attempt.
    may_have_record: bool,
}

/// The part of its knowledge that a bridge seems to have forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgotten {
    Id,
    Value,
    IdAndValue,
}

/// An explanation of the outcomes of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// The outcomes follow the rules.
    Consistent(OracleVerdict),
    /// The outcomes follow the rules for a bridge that forgot the id of a repeat, which has no
    /// record.
    ForgotRepeat(OracleVerdict),
    /// The bridge acted as if it did not know a stored event. By the rules the verdict is this one.
    Unrecognised(OracleVerdict),
    /// The outcomes depend on an event from before the run.
    BeforeRun,
    /// The outcomes contradict the rules. By the rules the verdict is this one.
    Contradicted(OracleVerdict),
    /// Too much is unknown.
    Undetermined,
}

/// All hypotheses that are consistent with the outcomes so far. Never empty.
#[derive(Clone, Debug)]
pub struct Hypotheses(Vec<Hypothesis>);

impl Hypotheses {
    /// Starts with the hypothesis that nothing is stored.
    pub fn new() -> Self {
        Self(vec![Hypothesis::default()])
    }

    /// Explains the next group, and drops the hypotheses that do not.
    pub fn observe(&mut self, group: &AttemptGroup) -> Explanation {
        self.expand_pending();
        if self.0.len() > MAX_HYPOTHESES {
            self.assume_answered(group);
            return Explanation::Undetermined;
        }
        let expected = self.0[0]
            .reading
            .classify(group.event_type, group.id, group.data);
        if group.answered.is_empty() && !group.has_unknown {
            return Explanation::Consistent(expected);
        }
        let any_records = AttemptGroup {
            unanswered: None,
            ..group.clone()
        };
        // The records show which attempts were stored, unless some are missing. Missing records are
        // reported elsewhere, so the second try ignores the records.
        for group in [group, &any_records] {
            if let Some(verdict) = self.retain_explaining(group, Hypothesis::clone) {
                return Explanation::Consistent(verdict);
            }
        }
        let id = group.id;
        let without_repeat = |hypothesis: &Hypothesis| match hypothesis.reading.id_status(id) {
            Some(IdStatus::Repeat) => hypothesis.without(Forgotten::Id, id),
            _ => hypothesis.clone(),
        };
        let one_repeat =
            any_records.deduplicate_answers(|outcome| outcome == ObservedOutcome::Repeat);
        if self
            .retain_explaining(&one_repeat, without_repeat)
            .is_some()
        {
            return Explanation::ForgotRepeat(expected);
        }
        if self.is_before_run(group) {
            self.assume_answered(group);
            return Explanation::BeforeRun;
        }
        let without_plain = any_records
            .deduplicate_answers(|outcome| outcome != ObservedOutcome::Redelivery)
            .without_plain();
        if without_plain.answered.len() < group.answered.len()
            && self
                .retain_explaining(&without_plain, Hypothesis::clone)
                .is_some()
        {
            return Explanation::Unrecognised(OracleVerdict::Redelivery);
        }
        for (forgotten, group) in [
            (Forgotten::Id, &without_plain),
            (Forgotten::Value, &any_records),
            (Forgotten::IdAndValue, &without_plain),
        ] {
            if self
                .retain_explaining(group, |hypothesis| hypothesis.without(forgotten, id))
                .is_some()
            {
                return Explanation::Unrecognised(expected);
            }
        }
        self.assume_answered(group);
        Explanation::Contradicted(expected)
    }

    /// Retains the hypotheses that explain a group after they are changed by `assume`. Returns the
    /// verdict in the first of them. If none explains the group, all are retained unchanged.
    fn retain_explaining(
        &mut self,
        group: &AttemptGroup,
        assume: impl Fn(&Hypothesis) -> Hypothesis,
    ) -> Option<OracleVerdict> {
        let mut successors: Vec<Hypothesis> = Vec::new();
        let mut first_verdict = None;
        for hypothesis in &self.0 {
            let hypothesis = assume(hypothesis);
            let verdict = hypothesis
                .reading
                .classify(group.event_type, group.id, group.data);
            let before = successors.len();
            hypothesis.push_successors(group, verdict, &mut successors);
            if successors.len() > before {
                first_verdict = first_verdict.or(Some(verdict));
            }
        }
        if first_verdict.is_some() {
            self.0 = deduplicate(successors);
        }
        first_verdict
    }

    /// Returns `true` if the outcomes can only depend on a value from before the run.
    fn is_before_run(&self, group: &AttemptGroup) -> bool {
        let knows_nothing = |hypothesis: &Hypothesis| {
            let reading = &hypothesis.reading;
            reading.current.is_none() && reading.id_status(group.id).is_none()
        };
        let needs_value = |outcome: &ObservedOutcome| match outcome {
            ObservedOutcome::Repeat => true,
            ObservedOutcome::Stored(Some(mark)) => *mark != RecordMark::Plain,
            _ => false,
        };
        is_occupancy(group.event_type)
            && self.0.iter().any(knows_nothing)
            && group.answered.iter().any(needs_value)
    }

    /// Assumes that the outcomes are right, whatever the rules say.
    fn assume_answered(&mut self, group: &AttemptGroup) {
        let verdict = group.answered.iter().find_map(|outcome| match outcome {
            ObservedOutcome::Redelivery => None,
            ObservedOutcome::Repeat => Some(OracleVerdict::First),
            ObservedOutcome::Stored(Some(RecordMark::Stale)) => Some(OracleVerdict::Stale),
            ObservedOutcome::Stored(_) => Some(OracleVerdict::First),
        });
        for hypothesis in &mut self.0 {
            hypothesis.pending.retain(|pending| pending.id != group.id);
            if let Some(verdict) = verdict {
                hypothesis.reading.apply(verdict, group.id, group.data);
            }
        }
        self.0 = deduplicate(std::mem::take(&mut self.0));
        self.0.truncate(MAX_HYPOTHESES);
    }

    /// Adds the hypotheses in which pending events have been stored by now.
    fn expand_pending(&mut self) {
        let mut n = 0;
        while n < self.0.len() && self.0.len() <= MAX_HYPOTHESES {
            for index in 0..self.0[n].pending.len() {
                let mut hypothesis = self.0[n].clone();
                let PendingEvent {
                    id,
                    event_type,
                    data,
                    may_have_record,
                } = hypothesis.pending.remove(index);
                let verdict = hypothesis.reading.classify(event_type, id, data);
                hypothesis.reading.apply(verdict, id, data);
                let is_possible = may_have_record || verdict.is_duplicate();
                if is_possible && !self.0.contains(&hypothesis) {
                    self.0.push(hypothesis);
                }
            }
            n += 1;
        }
    }
}

impl AttemptGroup {
    /// Returns the group with each known outcome that `matches` only once.
    fn deduplicate_answers(&self, matches: impl Fn(ObservedOutcome) -> bool) -> Self {
        let mut answered: Vec<ObservedOutcome> = Vec::with_capacity(self.answered.len());
        for outcome in &self.answered {
            if !matches(*outcome) || !answered.contains(outcome) {
                answered.push(*outcome);
            }
        }
        Self {
            answered,
            ..self.clone()
        }
    }

    /// Returns the group without the attempts that were classified as new, if others were
    /// classified as a repeat, a revision or stale.
    fn without_plain(&self) -> Self {
        let is_plain = |outcome: &ObservedOutcome| {
            matches!(
                outcome,
                ObservedOutcome::Stored(Some(RecordMark::Plain) | None)
            )
        };
        let is_other = |outcome: &ObservedOutcome| {
            !is_plain(outcome) && *outcome != ObservedOutcome::Redelivery
        };
        let mut group = self.clone();
        if group.answered.iter().any(is_other) {
            group.answered.retain(|outcome| !is_plain(outcome));
        }
        group
    }
}

impl Hypothesis {
    /// Returns the hypothesis without this id, or without the current value.
    fn without(&self, forgotten: Forgotten, id: Ksuid) -> Self {
        let mut hypothesis = self.clone();
        if matches!(forgotten, Forgotten::Id | Forgotten::IdAndValue) {
            hypothesis.reading.ids.retain(|(known, _)| *known != id);
        }
        if matches!(forgotten, Forgotten::Value | Forgotten::IdAndValue) {
            hypothesis.reading.current = None;
        }
        hypothesis
    }

    /// Pushes the hypotheses that can follow from this one after a group whose event has this
    /// verdict; none if the verdict does not explain the outcomes.
    fn push_successors(
        mut self,
        group: &AttemptGroup,
        verdict: OracleVerdict,
        successors: &mut Vec<Hypothesis>,
    ) {
        let is_redelivery = |outcome: &&ObservedOutcome| **outcome == ObservedOutcome::Redelivery;
        let redelivered = group.answered.iter().filter(is_redelivery).count();
        if verdict == OracleVerdict::Redelivery {
            if redelivered == group.answered.len() {
                successors.push(self);
            }
            return;
        }
        let consistent = group
            .answered
            .iter()
            .filter(|outcome| self.is_consistent(**outcome, verdict))
            .count();
        if consistent + redelivered != group.answered.len() || consistent > 1 {
            return;
        }
        let (id, data) = (group.id, group.data);
        if consistent == 0 {
            if !group.has_unknown {
                return;
            }
            if redelivered == 0 {
                let mut hypothesis = self.clone();
                hypothesis.pending.retain(|pending| pending.id != id);
                hypothesis.pending.push(PendingEvent {
                    id,
                    event_type: group.event_type,
                    data,
                    may_have_record: group
                        .unanswered
                        .as_ref()
                        .is_none_or(|marks| !marks.is_empty()),
                });
                // Sorted, so that equal hypotheses compare as equal.
                hypothesis
                    .pending
                    .sort_unstable_by_key(|pending| pending.id);
                successors.push(hypothesis);
            }
            // An attempt of unknown outcome was the first one.
            let has_its_record = |marks: &Vec<RecordMark>| {
                marks
                    .iter()
                    .any(|mark| self.is_consistent(ObservedOutcome::Stored(Some(*mark)), verdict))
            };
            if !verdict.is_duplicate() && !group.unanswered.as_ref().is_none_or(has_its_record) {
                return;
            }
        }
        self.pending.retain(|pending| pending.id != id);
        self.reading.apply(verdict, id, data);
        successors.push(self);
    }

    /// Returns `true` if an event with this verdict has this outcome.
    fn is_consistent(&self, outcome: ObservedOutcome, verdict: OracleVerdict) -> bool {
        match (verdict, outcome) {
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
            (
                OracleVerdict::Revision,
                ObservedOutcome::Stored(Some(RecordMark::Revision(superseded))),
            ) => {
                let current = self.reading.current.as_ref();
                current.is_some_and(|current| superseded == hash_event_id(current.id))
            }
            _ => false,
        }
    }
}

/// Returns the hash of an id as it appears in headers.
pub fn hash_event_id(id: Ksuid) -> EventIdHash {
    EventIdHash::new(&format!("event_{id}"))
}

fn deduplicate(hypotheses: Vec<Hypothesis>) -> Vec<Hypothesis> {
    let mut distinct: Vec<Hypothesis> = Vec::with_capacity(hypotheses.len());
    for hypothesis in hypotheses {
        if !distinct.contains(&hypothesis) {
            distinct.push(hypothesis);
        }
    }
    distinct
}

#[cfg(test)]
mod tests;
