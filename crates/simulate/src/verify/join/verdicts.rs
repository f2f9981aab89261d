//! Judges the outcomes and marks of each (type, space, timestamp) by the oracle.

use std::collections::{HashMap, HashSet};

use super::hypotheses::{AttemptGroup, Explanation, Hypotheses, ObservedOutcome, RecordMark};
use super::{JournalJoin, TopicSet, is_stored};
use crate::journal::{DeliveryAttempt, RecordedOutcome};
use crate::oracle::OracleVerdict;
use crate::verify::contract::is_occupancy;
use crate::verify::options::JudgmentRules;
use crate::verify::record_digest::{DuplicateHeader, RecordDigest};
use crate::verify::report::Property;
use butlr_event::ksuid::Ksuid;

/// Hashes of (type, space, timestamp) and of `data`.
pub type StoredReadings = HashSet<(u64, u64)>;

/// Findings about the repeats of a bucket.
#[derive(Debug, Default)]
pub struct RepeatFindings {
    /// Events wrongly answered as a repeat, with the reason.
    pub wrong: HashMap<Ksuid, &'static str>,
    /// Repeats of readings from before the run.
    pub before_run: HashSet<Ksuid>,
}

/// Collects the readings that repeats can refer to: those that are stored, and those that must be.
/// (If one of the latter is missing, that is reported for itself and not for its repeats.) Empty if
/// no attempt was a duplicate.
pub fn collect_readings(attempts: &[DeliveryAttempt], records: &[RecordDigest]) -> StoredReadings {
    let is_duplicate = |a: &DeliveryAttempt| {
        matches!(
            a.outcome,
            RecordedOutcome::Redelivery | RecordedOutcome::Repeat
        )
    };
    if !attempts.iter().any(is_duplicate) {
        return HashSet::new();
    }
    let found = records.iter().map(|r| (r.reading_key, r.data_hash));
    let required = attempts.iter().filter(|a| is_stored(a));
    found
        .chain(required.map(|a| (a.reading_key, a.data_hash)))
        .collect()
}

impl JournalJoin<'_> {
    /// Judges the attempts of a bucket, which are in the order in which they were recorded.
    pub(super) fn judge_bucket(
        &mut self,
        attempts: &mut [DeliveryAttempt],
        records: &mut [RecordDigest],
    ) -> RepeatFindings {
        let mut repeats = RepeatFindings::default();
        let Some(rules) = self.rules else {
            return repeats;
        };
        // A stable sort keeps the attempts of a reading in their order.
        attempts.sort_by_key(|a| a.reading_key);
        records.sort_unstable_by_key(|r| (r.reading_key, r.id, r.position));
        let mut rest = &*records;
        for attempts in attempts.chunk_by(|a, b| a.reading_key == b.reading_key) {
            let key = attempts[0].reading_key;
            let from = rest.partition_point(|r| r.reading_key < key);
            let until = rest.partition_point(|r| r.reading_key <= key);
            let reading = JoinedReading {
                attempts,
                records: &rest[from..until],
            };
            rest = &rest[until..];
            self.judge_reading(reading, rules, &mut repeats);
        }
        repeats
    }

    fn judge_reading(
        &mut self,
        reading: JoinedReading<'_>,
        rules: JudgmentRules,
        repeats: &mut RepeatFindings,
    ) {
        let mut hypotheses = Hypotheses::new();
        for attempts in reading.attempts.chunk_by(|a, b| a.id == b.id) {
            let group = reading.build_group(attempts, self.topics);
            let explanation = hypotheses.observe(&group);
            let verdicts = &mut self.report.verdicts[group.event_type.index()];
            verdicts.unknown += u64::from(group.has_unknown);
            let answered = group.answered.len() as u64;
            let expected = match explanation {
                Explanation::BeforeRun => {
                    repeats.before_run.insert(group.id);
                    verdicts.unjudged += answered;
                    continue;
                }
                Explanation::Undetermined => {
                    verdicts.unjudged += answered;
                    continue;
                }
                Explanation::Consistent(verdict)
                | Explanation::ForgotRepeat(verdict)
                | Explanation::Unrecognised(verdict)
                | Explanation::Contradicted(verdict) => verdict,
            };
            for outcome in &group.answered {
                verdicts.by_verdict[reported_verdict(*outcome, expected) as usize] += 1;
            }
            let explanation = match explanation {
                Explanation::Contradicted(_) if is_excused(&group, expected, reading, rules) => {
                    Explanation::Unrecognised(expected)
                }
                explanation => explanation,
            };
            match explanation {
                Explanation::ForgotRepeat(_) => verdicts.forgotten_repeats += 1,
                Explanation::Unrecognised(_) => verdicts.unrecognised += 1,
                _ => {}
            }
            self.report
                .count_checked(Property::Classification, answered);
            let has_outcome = |outcome| attempts.iter().any(|a| a.outcome == outcome);
            match explanation {
                Explanation::Unrecognised(_) if rules.is_required(expected) => {
                    self.report_misjudged(&group, expected);
                }
                // By the rules the last attempts are redeliveries, whatever the first one was.
                Explanation::ForgotRepeat(_) if rules.has_repeat_ids() => {
                    self.report_misjudged(&group, OracleVerdict::Redelivery);
                }
                Explanation::Contradicted(_) if has_outcome(RecordedOutcome::Repeat) => {
                    let reason = if is_occupancy(group.event_type) {
                        "the reading had a different value then"
                    } else {
                        "readings of this type are never repeated"
                    };
                    repeats.wrong.insert(group.id, reason);
                }
                Explanation::Contradicted(_) if attempts.iter().any(is_stored) => {
                    self.report_misjudged(&group, expected);
                }
                // Wrong redeliveries are reported by `check_absent` and `check_count`.
                _ => {}
            }
        }
    }

    fn report_misjudged(&mut self, group: &AttemptGroup, expected: OracleVerdict) {
        self.add_violation(Property::Classification, group.id, None, || {
            let mut outcomes: Vec<_> = group
                .answered
                .iter()
                .copied()
                .map(describe_outcome)
                .collect();
            if group.has_unknown {
                outcomes.push("and of unknown outcome");
            }
            let (expected, outcomes) = (expected.name(), outcomes.join(", "));
            format!("expected verdict {expected}, but it was {outcomes}")
        });
    }
}

/// All attempts and all records of one (type, space, timestamp).
#[derive(Clone, Copy)]
struct JoinedReading<'a> {
    attempts: &'a [DeliveryAttempt],
    records: &'a [RecordDigest],
}

impl JoinedReading<'_> {
    /// Assigns records to the attempts of one event, which are a part of all attempts.
    fn build_group(self, group: &[DeliveryAttempt], topics: TopicSet) -> AttemptGroup {
        let id = group[0].id;
        let from = self.records.partition_point(|r| r.id < id);
        let until = self.records.partition_point(|r| r.id <= id);
        let records = &self.records[from..until];
        let reported_record = |attempt: &DeliveryAttempt| {
            let reported = attempt
                .reported_position
                .filter(|_| topics == TopicSet::Originals && is_stored(attempt))?;
            records.iter().find(|r| r.position.matches(reported))
        };
        let attempts_of_id = || self.attempts.iter().filter(|a| a.id == id);
        let reported: Vec<_> = attempts_of_id()
            .filter_map(reported_record)
            .map(|r| r.position)
            .collect();
        let unassigned = attempts_of_id()
            .filter(|a| is_stored(a) && reported_record(a).is_none())
            .count();
        let remaining: Vec<&RecordDigest> = records
            .iter()
            .filter(|r| !reported.contains(&r.position))
            .collect();
        // The record of an attempt without a reported position must be one of the remaining ones.
        // With a single such attempt, it does not matter which one if all have the same marks.
        let only = match (unassigned, &remaining[..]) {
            (1, [only, others @ ..]) if others.iter().all(|r| has_same_marks(r, only)) => {
                Some(*only)
            }
            _ => None,
        };
        let observe = |attempt: &DeliveryAttempt| match attempt.outcome {
            RecordedOutcome::Published | RecordedOutcome::Spooled => {
                let record = reported_record(attempt).or(only);
                Some(match record.and_then(|r| r.duplicate) {
                    Some(DuplicateHeader::Redelivery) => ObservedOutcome::Redelivery,
                    Some(DuplicateHeader::Repeat) => ObservedOutcome::Repeat,
                    None => ObservedOutcome::Stored(record.and_then(record_mark)),
                })
            }
            RecordedOutcome::Redelivery => Some(ObservedOutcome::Redelivery),
            RecordedOutcome::Repeat => Some(ObservedOutcome::Repeat),
            RecordedOutcome::Refused | RecordedOutcome::Quarantined | RecordedOutcome::Unknown => {
                None
            }
        };
        AttemptGroup {
            id,
            event_type: group[0].event_type,
            data: group[0].data_hash,
            answered: group.iter().filter_map(observe).collect(),
            has_unknown: group.iter().any(|a| a.outcome == RecordedOutcome::Unknown),
            unanswered: match (unassigned, only) {
                (0, _) => remaining.into_iter().map(record_mark).collect(),
                (_, Some(_)) => remaining.into_iter().skip(1).map(record_mark).collect(),
                _ => None,
            },
        }
    }

    /// Returns `true` if the value of `group` was spooled before, with another id.
    fn has_spooled_before(self, group: &AttemptGroup) -> bool {
        self.attempts
            .iter()
            .take_while(|a| a.id != group.id)
            .any(|a| a.outcome == RecordedOutcome::Spooled && a.data_hash == group.data)
    }
}

/// Returns `true` if the rules allow these outcomes although they contradict the expected verdict.
fn is_excused(
    group: &AttemptGroup,
    expected: OracleVerdict,
    reading: JoinedReading<'_>,
    rules: JudgmentRules,
) -> bool {
    let is_revision = |outcome: &ObservedOutcome| {
        matches!(
            outcome,
            ObservedOutcome::Stored(Some(RecordMark::Revision(_)))
        )
    };
    let as_revision = rules.can_excuse_revision(expected) && group.answered.iter().any(is_revision);
    let as_repeat = expected == OracleVerdict::Revision
        && rules.can_excuse_repeat()
        && group.answered.contains(&ObservedOutcome::Repeat)
        && reading.has_spooled_before(group);
    as_revision || as_repeat
}

/// Returns `true` if two records have the same marks.
fn has_same_marks(one: &RecordDigest, other: &RecordDigest) -> bool {
    let marks = |r: &RecordDigest| (r.duplicate, record_mark(r));
    marks(one) == marks(other)
}

/// Returns the mark of a record; `None` if its headers cannot be trusted.
fn record_mark(record: &RecordDigest) -> Option<RecordMark> {
    if record.wrong_headers {
        return None;
    }
    Some(match (record.supersedes, record.stale) {
        (Some(superseded), _) => RecordMark::Revision(superseded),
        (None, true) => RecordMark::Stale,
        (None, false) => RecordMark::Plain,
    })
}

/// Returns the bridge's verdict according to an outcome.
fn reported_verdict(outcome: ObservedOutcome, expected: OracleVerdict) -> OracleVerdict {
    match outcome {
        ObservedOutcome::Redelivery => OracleVerdict::Redelivery,
        ObservedOutcome::Repeat => OracleVerdict::Repeat,
        ObservedOutcome::Stored(Some(RecordMark::Plain)) => OracleVerdict::First,
        ObservedOutcome::Stored(Some(RecordMark::Revision(_))) => OracleVerdict::Revision,
        ObservedOutcome::Stored(Some(RecordMark::Stale)) => OracleVerdict::Stale,
        ObservedOutcome::Stored(None) if expected.is_duplicate() => OracleVerdict::First,
        ObservedOutcome::Stored(None) => expected,
    }
}

fn describe_outcome(outcome: ObservedOutcome) -> &'static str {
    match outcome {
        ObservedOutcome::Redelivery => "answered duplicate (redelivery)",
        ObservedOutcome::Repeat => "answered duplicate (repeat)",
        ObservedOutcome::Stored(Some(RecordMark::Plain)) => "stored without a mark",
        ObservedOutcome::Stored(Some(RecordMark::Revision(_))) => "stored as a revision",
        ObservedOutcome::Stored(Some(RecordMark::Stale)) => "stored as stale",
        ObservedOutcome::Stored(None) => "stored",
    }
}

#[cfg(test)]
mod tests;
