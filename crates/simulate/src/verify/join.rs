//! The journal against the records, bucket by bucket.
//!
//! What cannot be told from one bucket (a record whose changed value points elsewhere, an event that lacks one) is put
//! aside and brought together at the end, so that one changed record is one violation and not two.

use std::cmp::Ordering;

use super::checker::{RecordIssues, UnmatchedRecord};
use super::options::JudgmentRules;
use super::order::NOTHING_NEWER;
use super::record_digest::{DuplicateHeader, RecordDigest, RecordPosition};
use super::report::{Property, VerificationReport, Violation};
use crate::city::GroundTruth;
use crate::journal::{DeliveryAttempt, RecordedOutcome};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

mod copies;
mod hypotheses;
mod recovered;
mod unmatched;
mod verdicts;

use copies::count_causes;
use unmatched::IncompleteEvent;
use verdicts::{RepeatFindings, StoredReadings, collect_readings};

/// The join of a run.
pub struct JournalJoin<'a> {
    issues: &'a RecordIssues,
    report: VerificationReport,
    /// The topics are those that the answers named.
    reads_originals: bool,
    /// Which duplicates are to be recognised, where that is judged at all.
    rules: Option<JudgmentRules>,
    unmatched: Vec<UnmatchedRecord>,
    incomplete: Vec<IncompleteEvent>,
    /// In less out, by the truth's spaces.
    net_by_space: Vec<i64>,
    /// TRAFFIC events that are there.
    traffic_present: u64,
    /// TRAFFIC events that are not there as sent.
    traffic_lost: u64,
}

impl<'a> JournalJoin<'a> {
    /// Nothing joined yet. `originals`: not copies, so that offsets are those of the answers.
    pub fn new(
        report: VerificationReport,
        aside: &'a RecordIssues,
        originals: bool,
        judging: Option<JudgmentRules>,
        truth: &GroundTruth,
    ) -> Self {
        Self {
            issues: aside,
            report,
            reads_originals: originals,
            rules: judging,
            unmatched: Vec::new(),
            incomplete: Vec::new(),
            net_by_space: vec![0; truth.spaces.len()],
            traffic_present: 0,
            traffic_lost: 0,
        }
    }

    /// Joins one bucket: all tries and all records of its keys.
    pub fn join_bucket(
        &mut self,
        mut attempts: Vec<DeliveryAttempt>,
        mut entries: Vec<RecordDigest>,
    ) {
        self.report.attempts += attempts.len() as u64;
        attempts.iter().for_each(|a| self.check_answer(a));
        let readings = collect_readings(&attempts, &entries);
        if self.rules.is_some_and(JudgmentRules::has_recovered_spool) {
            self.report.already_stored += recovered::release_recovered(&mut attempts, &entries);
        }
        let repeats = self.judge_bucket(&mut attempts, &mut entries);
        // Stable: the tries of an event stay in the order in which they were noted.
        attempts.sort_by_key(|a| a.id);
        entries.sort_unstable_by_key(|e| (e.id, e.position));

        let mut attempts = attempts.chunk_by(|a, b| a.id == b.id).peekable();
        let mut entries = entries.chunk_by(|a, b| a.id == b.id).peekable();
        loop {
            let order = match (attempts.peek(), entries.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(e)) => a[0].id.cmp(&e[0].id),
            };
            let tries = attempts.next_if(|_| order.is_le()).unwrap_or_default();
            let records = entries.next_if(|_| order.is_ge()).unwrap_or_default();
            let wrong = tries.first().and_then(|t| repeats.wrong.get(&t.id));
            if let Some(why) = wrong {
                self.add_violation(Property::Stored, tries[0].id, None, || {
                    let event_type = tries[0].event_type;
                    format!("{event_type} was answered duplicate (repeat), but is none: {why}")
                });
            }
            match (tries, records) {
                ([], records) => records.iter().for_each(|e| self.add_unmatched(e)),
                (tries, []) => self.check_absent(tries, &readings, &repeats),
                (tries, records) => self.check_present(tries, records),
            }
        }
    }

    /// An answer by itself.
    fn check_answer(&mut self, attempt: &DeliveryAttempt) {
        let report = &mut self.report;
        if attempt.outcome == RecordedOutcome::Published {
            report.published += 1;
            report.reported_positions += u64::from(attempt.reported_position.is_some());
        }
        report.accepted += u64::from(attempt.outcome.is_accepted());
        if attempt.outcome.is_accepted() || attempt.outcome == RecordedOutcome::Quarantined {
            report.count_checked(Property::AnswerConsistency, 1);
        }
        if attempt.contradictory {
            let answer = attempt.outcome.name();
            self.add_violation(Property::AnswerConsistency, attempt.id, None, || {
                format!("was answered {answer}, with a status that does not mean that")
            });
        }
    }

    /// An event that is there.
    fn check_present(&mut self, tries: &[DeliveryAttempt], records: &[RecordDigest]) {
        let id = tries[0].id;
        self.report
            .count_checked(Property::Sent, records.len() as u64);
        let turned_away = |t: &DeliveryAttempt| {
            matches!(
                t.outcome,
                RecordedOutcome::Refused | RecordedOutcome::Quarantined
            )
        };
        if tries.iter().all(turned_away) {
            for entry in records {
                self.add_violation(Property::Sent, id, Some(entry.position), || {
                    "was only refused (4xx) or quarantined, and is there".to_owned()
                });
            }
            return;
        }
        self.report.count_checked(Property::Stored, 1);
        let mut counted_in = false;
        for entry in records {
            self.report.count_checked(Property::Intact, 1);
            if tries.iter().all(|t| t.value_hash != entry.value_hash) {
                self.add_violation(Property::Intact, id, Some(entry.position), || {
                    "other bytes than were sent under this id".to_owned()
                });
                continue;
            }
            self.check_contract(entry, tries);
            if let Some(space) = entry.space_index.filter(|_| !counted_in) {
                self.net_by_space[space as usize] += i64::from(entry.net);
                self.traffic_present += 1;
                counted_in = true;
            }
        }
        if tries[0].event_type == EventType::Traffic && !counted_in {
            self.traffic_lost += 1;
        }
        self.check_count(tries, records);
    }

    /// Topic, key, partition, headers, timestamp: found when it was read, reported now that the value is known to be
    /// what was sent.
    fn check_contract(&mut self, entry: &RecordDigest, tries: &[DeliveryAttempt]) {
        let aside = self.issues;
        let marked = &mut self.report.verdicts[entry.event_type.index()].marked;
        marked.redelivery += u64::from(entry.duplicate == Some(DuplicateHeader::Redelivery));
        marked.repeat += u64::from(entry.duplicate == Some(DuplicateHeader::Repeat));
        marked.revision += u64::from(entry.supersedes.is_some());
        marked.stale += u64::from(entry.stale);
        marked.out_of_order += u64::from(entry.out_of_order);
        let unjustified = entry.out_of_order && aside.unjustified_marks.contains(&entry.position);
        let misheaded = entry.wrong_headers || unjustified;
        let parts = [
            (Property::Placement, entry.misplaced, &aside.misplaced),
            (Property::Headers, misheaded, &aside.wrong_headers),
        ];
        for (property, wrong, kept) in parts {
            self.report.count_checked(property, 1);
            if wrong {
                self.add_violation(property, entry.id, Some(entry.position), || {
                    let text = kept.get(&entry.position).map(String::as_str);
                    let text = text.or(unjustified.then_some(NOTHING_NEWER));
                    text.map_or_else(
                        || "not as the contract says".to_owned(),
                        |text| format!("expected {text}"),
                    )
                });
            }
        }
        let may_wait = |t: &DeliveryAttempt| {
            matches!(
                t.outcome,
                RecordedOutcome::Spooled | RecordedOutcome::Unknown
            )
        };
        if entry.spooled && !tries.iter().any(may_wait) {
            self.add_violation(Property::Headers, entry.id, Some(entry.position), || {
                "expected no ce_spooled, as no answer lets it have waited on disk".to_owned()
            });
        }
    }

    /// How many records there are, where, and why more than one.
    fn check_count(&mut self, tries: &[DeliveryAttempt], records: &[RecordDigest]) {
        let id = tries[0].id;
        let stored = count_attempts(tries, is_stored);
        let unknown = count_attempts(tries, |t| t.outcome == RecordedOutcome::Unknown);
        let found = records.len() as u64;
        self.report.count_checked(Property::RecordCount, 1);
        if found < stored {
            self.add_incomplete(tries, found, stored - found);
        } else if found > stored + unknown {
            self.add_violation(
                Property::RecordCount,
                id,
                Some(records[records.len() - 1].position),
                || {
                    format!(
                        "is there {}, answered published or spooled {}, without a known answer {}",
                        format_times(found),
                        format_times(stored),
                        format_times(unknown)
                    )
                },
            );
        }
        if found >= stored && self.reads_originals {
            let named = tries
                .iter()
                .filter(|t| t.outcome == RecordedOutcome::Published);
            for (partition, offset) in named.filter_map(|t| t.reported_position) {
                self.report.count_checked(Property::ReportedPosition, 1);
                let there = |e: &RecordDigest| {
                    (e.position.partition, e.position.offset) == (partition, offset)
                };
                if !records.iter().any(there) {
                    self.add_violation(
                        Property::ReportedPosition,
                        id,
                        Some(records[0].position),
                        || format!("the answer named partition {partition}, offset {offset}"),
                    );
                }
            }
        }
        count_causes(tries, found, &mut self.report.copies);
    }

    /// An event that is not there.
    fn check_absent(
        &mut self,
        tries: &[DeliveryAttempt],
        readings: &StoredReadings,
        repeats: &RepeatFindings,
    ) {
        let answered = |answer| tries.iter().any(|t| t.outcome == answer);
        let stored = count_attempts(tries, is_stored);
        let repeat = answered(RecordedOutcome::Repeat);
        if stored == 0 && !repeat && !answered(RecordedOutcome::Redelivery) {
            // Refused, or given up: it need not be there. TRAFFIC that was given up is in `traffic_complete`.
            return;
        }
        let id = tries[0].id;
        if stored == 0 && repeats.before_run.contains(&id) {
            self.report.repeats_before_run += 1;
            return;
        }
        self.report.count_checked(Property::Stored, 1);
        if stored == 0 && repeat {
            // Answered by another's record; whether rightly so, `repeats` tells.
            return;
        }
        // A redelivery may be one of a repeat that was told to a try which did not hear it.
        let equal = || readings.contains(&(tries[0].reading_key, tries[0].data_hash));
        if stored == 0 && answered(RecordedOutcome::Unknown) && equal() {
            return;
        }
        self.add_incomplete(tries, 0, stored.max(1));
    }

    fn add_violation(
        &mut self,
        property: Property,
        id: Ksuid,
        position: Option<RecordPosition>,
        text: impl FnOnce() -> String,
    ) {
        self.report.add_violation(property, || Violation {
            id: Some(format!("event_{id}")),
            position,
            text: text(),
        });
    }

    /// After the last bucket: brings together what is left over, and adds up TRAFFIC.
    pub fn finish(mut self, truth: &GroundTruth, traffic_complete: bool) -> VerificationReport {
        self.pair_unmatched();
        if self.rules.is_none() {
            let why = "no answer and no header tells of any";
            self.report
                .mark_unchecked(Property::Classification, why.to_owned());
        }
        self.report.records_before_run += self.issues.before_run;
        if self.reads_originals && self.report.reported_positions == 0 && self.report.published > 0
        {
            let why = "no answer named them";
            self.report
                .mark_unchecked(Property::ReportedPosition, why.to_owned());
        }
        if !self.reads_originals {
            let why = "copies of the topics have offsets of their own";
            self.report
                .mark_unchecked(Property::ReportedPosition, why.to_owned());
        }
        let why = if !traffic_complete {
            Some("not every TRAFFIC event was sent and taken".to_owned())
        } else if self.traffic_lost > 0 {
            Some(format!(
                "{} TRAFFIC events are missing or changed (see above)",
                self.traffic_lost
            ))
        } else if self.traffic_present == 0 && truth.spaces.iter().all(|(_, people)| *people == 0) {
            Some("nobody went anywhere".to_owned())
        } else {
            None
        };
        match why {
            Some(why) => self.report.mark_unchecked(Property::Occupancy, why),
            None => self.check_occupancy(truth),
        }
        self.report
    }

    fn check_occupancy(&mut self, truth: &GroundTruth) {
        for ((space, there), sum) in truth.spaces.iter().zip(&self.net_by_space) {
            self.report.count_checked(Property::Occupancy, 1);
            if i64::from(*there) != *sum {
                self.report
                    .add_violation(Property::Occupancy, || Violation {
                        id: Some(space.clone()),
                        position: None,
                        text: format!("{there} people are there, TRAFFIC adds up to {sum}"),
                    });
            }
        }
    }
}

fn is_stored(attempt: &DeliveryAttempt) -> bool {
    matches!(
        attempt.outcome,
        RecordedOutcome::Published | RecordedOutcome::Spooled
    )
}

fn count_attempts(tries: &[DeliveryAttempt], which: impl Fn(&DeliveryAttempt) -> bool) -> u64 {
    tries.iter().filter(|t| which(t)).count() as u64
}

fn format_times(n: u64) -> String {
    match n {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        n => format!("{n} times"),
    }
}

#[cfg(test)]
mod tests;
