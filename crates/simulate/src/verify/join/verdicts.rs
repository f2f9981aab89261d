//! The answers and marks of each (type, space, timestamp), held against the oracle.

use std::collections::{HashMap, HashSet};

use super::hypotheses::{AttemptGroup, Explanation, Hypotheses, ObservedOutcome, RecordMark};
use super::{JournalJoin, is_stored};
use crate::journal::{DeliveryAttempt, RecordedOutcome};
use crate::oracle::OracleVerdict;
use crate::verify::names::is_occupancy;
use crate::verify::options::JudgmentRules;
use crate::verify::record_digest::{DuplicateHeader, RecordDigest};
use crate::verify::report::Property;
use butlr_event::ksuid::Ksuid;

/// (type, space, timestamp) and `data`, both hashed.
pub type StoredReadings = HashSet<(u64, u64)>;

/// What was found of the repeats of a bucket.
#[derive(Debug, Default)]
pub struct RepeatFindings {
    /// Those that are none, and why.
    pub wrong: HashMap<Ksuid, &'static str>,
    /// Those of readings of which no answer of this run tells.
    pub before_run: HashSet<Ksuid>,
}

/// What repeats are compared with: all that is there, and all that must be: when one of those is missing, that is told of
/// itself and not of its repeats. Empty when no event needs it.
pub fn collect_readings(attempts: &[DeliveryAttempt], entries: &[RecordDigest]) -> StoredReadings {
    let is_duplicate = |a: &DeliveryAttempt| {
        matches!(
            a.outcome,
            RecordedOutcome::Redelivery | RecordedOutcome::Repeat
        )
    };
    if !attempts.iter().any(is_duplicate) {
        return HashSet::new();
    }
    let there = entries.iter().map(|e| (e.reading_key, e.data_hash));
    let must_be = attempts.iter().filter(|a| is_stored(a));
    there
        .chain(must_be.map(|a| (a.reading_key, a.data_hash)))
        .collect()
}

impl JournalJoin<'_> {
    /// Judges the answers of a bucket, which are in the order in which they were noted.
    pub(super) fn judge_bucket(
        &mut self,
        attempts: &mut [DeliveryAttempt],
        entries: &mut [RecordDigest],
    ) -> RepeatFindings {
        let mut repeats = RepeatFindings::default();
        let Some(judging) = self.rules else {
            return repeats;
        };
        // Stable: the tries of a reading stay in their order.
        attempts.sort_by_key(|a| a.reading_key);
        entries.sort_unstable_by_key(|e| (e.reading_key, e.id, e.position));
        let mut rest = &*entries;
        for tries in attempts.chunk_by(|a, b| a.reading_key == b.reading_key) {
            let key = tries[0].reading_key;
            let from = rest.partition_point(|e| e.reading_key < key);
            let until = rest.partition_point(|e| e.reading_key <= key);
            let records = &rest[from..until];
            rest = &rest[until..];
            self.judge_reading(tries, records, judging, &mut repeats);
        }
        repeats
    }

    /// All tries and all records of one reading.
    fn judge_reading(
        &mut self,
        tries: &[DeliveryAttempt],
        records: &[RecordDigest],
        judging: JudgmentRules,
        repeats: &mut RepeatFindings,
    ) {
        let mut worlds = Hypotheses::new();
        for group in tries.chunk_by(|a, b| a.id == b.id) {
            let (attempt, own) = (&group[0], group);
            let group = self.build_group(own, tries, records);
            let fit = worlds.observe(&group);
            let verdicts = &mut self.report.verdicts[attempt.event_type.index()];
            verdicts.unknown += u64::from(group.has_unknown);
            let heard = group.answered.len() as u64;
            let says = match fit {
                Explanation::BeforeRun => {
                    repeats.before_run.insert(group.id);
                    verdicts.unjudged += heard;
                    continue;
                }
                Explanation::Undetermined => {
                    verdicts.unjudged += heard;
                    continue;
                }
                Explanation::Consistent(says) | Explanation::ForgotRepeat(says) => says,
                Explanation::Unrecognised(says) | Explanation::Contradicted(says) => says,
            };
            for heard in &group.answered {
                verdicts.by_verdict[reported_verdict(*heard, says) as usize] += 1;
            }
            let as_revision = |heard: &ObservedOutcome| {
                matches!(
                    heard,
                    ObservedOutcome::Stored(Some(RecordMark::Revision(_)))
                )
            };
            let fit = match fit {
                Explanation::Contradicted(says)
                    if judging.can_excuse_revision(says)
                        && group.answered.iter().any(as_revision) =>
                {
                    Explanation::Unrecognised(says)
                }
                Explanation::Contradicted(OracleVerdict::Revision)
                    if judging.can_excuse_repeat()
                        && group.answered.contains(&ObservedOutcome::Repeat)
                        && has_spooled_before(tries, attempt) =>
                {
                    Explanation::Unrecognised(OracleVerdict::Revision)
                }
                fit => fit,
            };
            match fit {
                Explanation::ForgotRepeat(_) => verdicts.forgotten_repeats += 1,
                Explanation::Unrecognised(_) => verdicts.unrecognised += 1,
                _ => {}
            }
            self.report.count_checked(Property::Classification, heard);
            match fit {
                Explanation::Unrecognised(says) if judging.is_required(says) => {
                    self.report_misjudged(&group, says)
                }
                // By the rules its last tries are redeliveries, whatever the first one was.
                Explanation::ForgotRepeat(_) if judging.has_repeat_ids() => {
                    self.report_misjudged(&group, OracleVerdict::Redelivery);
                }
                Explanation::Contradicted(_)
                    if own.iter().any(|t| t.outcome == RecordedOutcome::Repeat) =>
                {
                    let why = match is_occupancy(group.event_type) {
                        true => "the reading's value was another one then",
                        false => "no type of which readings are repeated",
                    };
                    repeats.wrong.insert(group.id, why);
                }
                Explanation::Contradicted(says) if own.iter().any(is_stored) => {
                    self.report_misjudged(&group, says)
                }
                // Of what was answered redelivery and is none, `absent` and `count` tell.
                _ => {}
            }
        }
    }

    fn report_misjudged(&mut self, group: &AttemptGroup, says: OracleVerdict) {
        let heard: Vec<_> = group
            .answered
            .iter()
            .map(|heard| describe_outcome(*heard))
            .collect();
        let unknown = if group.has_unknown {
            ", and unknown"
        } else {
            ""
        };
        self.add_violation(Property::Classification, group.id, None, || {
            let heard = heard.join(", ");
            format!(
                "is a {} by the rules, and was {heard}{unknown}",
                says.name()
            )
        });
    }

    /// What is known of tries of one event, of all `tries` and `records` of its reading.
    fn build_group(
        &self,
        group: &[DeliveryAttempt],
        tries: &[DeliveryAttempt],
        records: &[RecordDigest],
    ) -> AttemptGroup {
        let id = group[0].id;
        let from = records.partition_point(|e| e.id < id);
        let until = records.partition_point(|e| e.id <= id);
        let records = &records[from..until];
        let at = |attempt: &DeliveryAttempt| {
            let (partition, offset) = attempt
                .reported_position
                .filter(|_| self.reads_originals && is_stored(attempt))?;
            let place = |e: &&RecordDigest| {
                (e.position.partition, e.position.offset) == (partition, offset)
            };
            records.iter().find(place)
        };
        let of_id = || tries.iter().filter(|t| t.id == id);
        let named: Vec<_> = of_id().filter_map(at).map(|e| e.position).collect();
        let unnamed = of_id().filter(|t| is_stored(t) && at(t).is_none()).count();
        let left = records.iter().filter(|e| !named.contains(&e.position));
        let left: Vec<&RecordDigest> = left.collect();
        // Without a place in the answer, only what is left over can be its record. Which one, matters only where they differ.
        let only = match (unnamed, &left[..]) {
            (1, [only, others @ ..]) if others.iter().all(|e| has_same_marks(e, only)) => {
                Some(*only)
            }
            _ => None,
        };
        let heard = |attempt: &DeliveryAttempt| match attempt.outcome {
            RecordedOutcome::Published | RecordedOutcome::Spooled => {
                let entry = at(attempt).or(only);
                Some(match entry.and_then(|e| e.duplicate) {
                    Some(DuplicateHeader::Redelivery) => ObservedOutcome::Redelivery,
                    Some(DuplicateHeader::Repeat) => ObservedOutcome::Repeat,
                    None => ObservedOutcome::Stored(entry.and_then(record_mark)),
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
            answered: group.iter().filter_map(heard).collect(),
            has_unknown: group.iter().any(|t| t.outcome == RecordedOutcome::Unknown),
            unanswered: match (unnamed, only) {
                (0, _) => left.into_iter().map(record_mark).collect(),
                (_, Some(_)) => left.into_iter().skip(1).map(record_mark).collect(),
                _ => None,
            },
        }
    }
}

/// Whether the same value was spooled before, under another id.
fn has_spooled_before(tries: &[DeliveryAttempt], attempt: &DeliveryAttempt) -> bool {
    let before = tries.iter().take_while(|t| t.id != attempt.id);
    let mut spooled = before.filter(|t| t.outcome == RecordedOutcome::Spooled);
    spooled.any(|t| t.data_hash == attempt.data_hash)
}

/// Whether two records say the same of what their event is.
fn has_same_marks(one: &RecordDigest, other: &RecordDigest) -> bool {
    let said = |e: &RecordDigest| (e.duplicate, record_mark(e));
    said(one) == said(other)
}

/// `None` where the headers are not to be trusted.
fn record_mark(entry: &RecordDigest) -> Option<RecordMark> {
    if entry.wrong_headers {
        return None;
    }
    Some(match (entry.supersedes, entry.stale) {
        (Some(of), _) => RecordMark::Revision(of),
        (None, true) => RecordMark::Stale,
        (None, false) => RecordMark::Plain,
    })
}

/// What the bridge took it for.
fn reported_verdict(heard: ObservedOutcome, says: OracleVerdict) -> OracleVerdict {
    match heard {
        ObservedOutcome::Redelivery => OracleVerdict::Redelivery,
        ObservedOutcome::Repeat => OracleVerdict::Repeat,
        ObservedOutcome::Stored(Some(RecordMark::Plain)) => OracleVerdict::First,
        ObservedOutcome::Stored(Some(RecordMark::Revision(_))) => OracleVerdict::Revision,
        ObservedOutcome::Stored(Some(RecordMark::Stale)) => OracleVerdict::Stale,
        ObservedOutcome::Stored(None) if says.is_duplicate() => OracleVerdict::First,
        ObservedOutcome::Stored(None) => says,
    }
}

fn describe_outcome(heard: ObservedOutcome) -> &'static str {
    match heard {
        ObservedOutcome::Redelivery => "answered duplicate (redelivery)",
        ObservedOutcome::Repeat => "answered duplicate (repeat)",
        ObservedOutcome::Stored(Some(RecordMark::Plain)) => "stored without a mark",
        ObservedOutcome::Stored(Some(RecordMark::Revision(_))) => "stored as a revision",
        ObservedOutcome::Stored(Some(RecordMark::Stale)) => "stored as a stale one",
        ObservedOutcome::Stored(None) => "stored",
    }
}

#[cfg(test)]
mod tests;
