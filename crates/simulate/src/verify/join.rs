//! Joins the journal with the records, bucket by bucket.
//!
//! Some problems cannot be decided within one bucket: a record whose changed value points to a
//! different reading, an event without its record. They are collected and paired at the end, so
//! that one changed record is one violation and not two.

use std::cmp::Ordering;

use super::checker::{RecordIssues, UnmatchedRecord};
use super::options::JudgmentRules;
use super::order::NOTHING_NEWER;
use super::record_digest::{DuplicateHeader, RecordDigest, RecordPosition};
use super::report::{Property, VerificationReport, Violation};
use crate::city::GroundTruth;
use crate::journal::{DeliveryAttempt, RecordedOutcome, ReportedPosition};
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

/// The topics that are compared with the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicSet {
    /// The topics that the run wrote to.
    Originals,
    /// Copies of them, in which records have different offsets.
    Copies,
}

/// Joins the attempts and the records of a run.
pub struct JournalJoin<'a> {
    issues: &'a RecordIssues,
    report: VerificationReport,
    topics: TopicSet,
    /// The rules for classifications; `None` if they are not judged.
    rules: Option<JudgmentRules>,
    unmatched: Vec<UnmatchedRecord>,
    incomplete: Vec<IncompleteEvent>,
    /// Entered minus left, per space of the ground truth.
    net_by_space: Vec<i64>,
    /// TRAFFIC events with an intact record.
    traffic_present: u64,
    /// TRAFFIC events that are missing or changed.
    traffic_lost: u64,
}

impl<'a> JournalJoin<'a> {
    /// Creates a join without any buckets yet.
    pub fn new(
        report: VerificationReport,
        issues: &'a RecordIssues,
        topics: TopicSet,
        rules: Option<JudgmentRules>,
        truth: &GroundTruth,
    ) -> Self {
        Self {
            issues,
            report,
            topics,
            rules,
            unmatched: Vec::new(),
            incomplete: Vec::new(),
            net_by_space: vec![0; truth.spaces.len()],
            traffic_present: 0,
            traffic_lost: 0,
        }
    }

    /// Joins one bucket: all attempts and all records of its keys.
    pub fn join_bucket(
        &mut self,
        mut attempts: Vec<DeliveryAttempt>,
        mut digests: Vec<RecordDigest>,
    ) {
        self.report.attempts += attempts.len() as u64;
        attempts.iter().for_each(|a| self.check_response(a));
        let readings = collect_readings(&attempts, &digests);
        if self.rules.is_some_and(JudgmentRules::has_recovered_spool) {
            self.report.already_stored += recovered::release_recovered(&mut attempts, &digests);
        }
        let repeats = self.judge_bucket(&mut attempts, &mut digests);
        // A stable sort keeps the attempts of an event in the order in which they were recorded.
        attempts.sort_by_key(|a| a.id);
        digests.sort_unstable_by_key(|e| (e.id, e.position));

        let mut attempts_by_id = attempts.chunk_by(|a, b| a.id == b.id).peekable();
        let mut records_by_id = digests.chunk_by(|a, b| a.id == b.id).peekable();
        loop {
            let order = match (attempts_by_id.peek(), records_by_id.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(r)) => a[0].id.cmp(&r[0].id),
            };
            let attempts = attempts_by_id
                .next_if(|_| order.is_le())
                .unwrap_or_default();
            let records = records_by_id.next_if(|_| order.is_ge()).unwrap_or_default();
            let wrong = attempts.first().and_then(|a| repeats.wrong.get(&a.id));
            if let Some(reason) = wrong {
                self.add_violation(Property::Stored, attempts[0].id, None, || {
                    let event_type = attempts[0].event_type;
                    format!("{event_type} was answered duplicate (repeat), but is none: {reason}")
                });
            }
            match (attempts, records) {
                ([], records) => records.iter().for_each(|r| self.add_unmatched(r)),
                (attempts, []) => self.check_absent(attempts, &readings, &repeats),
                (attempts, records) => self.check_present(attempts, records),
            }
        }
    }

    /// Checks a response by itself.
    fn check_response(&mut self, attempt: &DeliveryAttempt) {
        let report = &mut self.report;
        if attempt.outcome == RecordedOutcome::Published {
            report.published += 1;
            report.reported_positions += u64::from(attempt.reported_position.is_some());
        }
        report.accepted += u64::from(attempt.outcome.is_accepted());
        if attempt.outcome.is_accepted() || attempt.outcome == RecordedOutcome::Quarantined {
            report.count_checked(Property::ResponseConsistency, 1);
        }
        if attempt.contradictory {
            let outcome = attempt.outcome.name();
            self.add_violation(Property::ResponseConsistency, attempt.id, None, || {
                format!("was answered {outcome}, with a status code that means something else")
            });
        }
    }

    /// Checks an event that has records.
    fn check_present(&mut self, attempts: &[DeliveryAttempt], records: &[RecordDigest]) {
        let id = attempts[0].id;
        self.report
            .count_checked(Property::Sent, records.len() as u64);
        let was_rejected = |a: &DeliveryAttempt| {
            matches!(
                a.outcome,
                RecordedOutcome::Refused | RecordedOutcome::Quarantined
            )
        };
        if attempts.iter().all(was_rejected) {
            for record in records {
                self.add_violation(Property::Sent, id, Some(record.position), || {
                    "has a record although it was refused (4xx) or quarantined".to_owned()
                });
            }
            return;
        }
        self.report.count_checked(Property::Stored, 1);
        let mut counted = false;
        for record in records {
            self.report.count_checked(Property::Intact, 1);
            if attempts.iter().all(|a| a.value_hash != record.value_hash) {
                self.add_violation(Property::Intact, id, Some(record.position), || {
                    "its bytes differ from those sent with this id".to_owned()
                });
                continue;
            }
            self.check_contract(record, attempts);
            if let Some(space) = record.space_index.filter(|_| !counted) {
                self.net_by_space[space as usize] += i64::from(record.net);
                self.traffic_present += 1;
                counted = true;
            }
        }
        if attempts[0].event_type == EventType::Traffic && !counted {
            self.traffic_lost += 1;
        }
        self.check_count(attempts, records);
        self.check_reported_positions(attempts, records);
        count_causes(attempts, records.len() as u64, &mut self.report.copies);
    }

    /// Reports violations of topic, key, partition, headers and timestamp. They were found when the
    /// record was read, but count only now that its value is known to be the one that was sent.
    fn check_contract(&mut self, record: &RecordDigest, attempts: &[DeliveryAttempt]) {
        let issues = self.issues;
        let marked = &mut self.report.verdicts[record.event_type.index()].marked;
        marked.redelivery += u64::from(record.duplicate == Some(DuplicateHeader::Redelivery));
        marked.repeat += u64::from(record.duplicate == Some(DuplicateHeader::Repeat));
        marked.revision += u64::from(record.supersedes.is_some());
        marked.stale += u64::from(record.stale);
        marked.out_of_order += u64::from(record.out_of_order);
        let unjustified =
            record.out_of_order && issues.unjustified_marks.contains(&record.position);
        let wrong_headers = record.wrong_headers || unjustified;
        let findings = [
            (Property::Placement, record.misplaced, &issues.misplaced),
            (Property::Headers, wrong_headers, &issues.wrong_headers),
        ];
        for (property, is_violated, texts) in findings {
            self.report.count_checked(property, 1);
            if is_violated {
                self.add_violation(property, record.id, Some(record.position), || {
                    let text = texts.get(&record.position).map(String::as_str);
                    let text = text.or(unjustified.then_some(NOTHING_NEWER));
                    text.map_or_else(
                        || "violates the contract".to_owned(),
                        |text| format!("expected {text}"),
                    )
                });
            }
        }
        let may_be_spooled = |a: &DeliveryAttempt| {
            matches!(
                a.outcome,
                RecordedOutcome::Spooled | RecordedOutcome::Unknown
            )
        };
        if record.spooled && !attempts.iter().any(may_be_spooled) {
            self.add_violation(Property::Headers, record.id, Some(record.position), || {
                "expected no ce_spooled, as no attempt can have been spooled".to_owned()
            });
        }
    }

    fn check_count(&mut self, attempts: &[DeliveryAttempt], records: &[RecordDigest]) {
        let stored = count_attempts(attempts, is_stored);
        let unknown = count_attempts(attempts, |a| a.outcome == RecordedOutcome::Unknown);
        let found = records.len() as u64;
        self.report.count_checked(Property::RecordCount, 1);
        if found < stored {
            self.add_incomplete(attempts, found, stored - found);
        } else if found > stored + unknown {
            let last = records[records.len() - 1].position;
            self.add_violation(Property::RecordCount, attempts[0].id, Some(last), || {
                format!(
                    "is stored {}, but was published or spooled {}, with an unknown outcome {}",
                    format_times(found),
                    format_times(stored),
                    format_times(unknown)
                )
            });
        }
    }

    fn check_reported_positions(&mut self, attempts: &[DeliveryAttempt], records: &[RecordDigest]) {
        // Events with missing records are reported elsewhere, and copies have different offsets.
        let is_complete = records.len() as u64 >= count_attempts(attempts, is_stored);
        if !is_complete || self.topics == TopicSet::Copies {
            return;
        }
        for attempt in attempts {
            if attempt.outcome == RecordedOutcome::Published
                && let Some(reported) = attempt.reported_position
            {
                self.report.count_checked(Property::ReportedPosition, 1);
                if records.iter().any(|r| r.position.matches(reported)) {
                    continue;
                }
                let found = Some(records[0].position);
                self.add_violation(Property::ReportedPosition, attempt.id, found, || {
                    let ReportedPosition { partition, offset } = reported;
                    format!("the response named partition {partition}, offset {offset}")
                });
            }
        }
    }

    /// Checks an event that has no records.
    fn check_absent(
        &mut self,
        attempts: &[DeliveryAttempt],
        readings: &StoredReadings,
        repeats: &RepeatFindings,
    ) {
        let has_outcome = |outcome| attempts.iter().any(|a| a.outcome == outcome);
        let stored = count_attempts(attempts, is_stored);
        let is_repeat = has_outcome(RecordedOutcome::Repeat);
        if stored == 0 && !is_repeat && !has_outcome(RecordedOutcome::Redelivery) {
            // Refused or given up, so it needs no record. `traffic_complete` accounts for TRAFFIC
            // that was given up.
            return;
        }
        let id = attempts[0].id;
        if stored == 0 && repeats.before_run.contains(&id) {
            self.report.repeats_before_run += 1;
            return;
        }
        self.report.count_checked(Property::Stored, 1);
        if stored == 0 && is_repeat {
            // Another event's record stands for it. Wrong repeats are reported by `join_bucket`.
            return;
        }
        // A redelivery can be one of a repeat, if the response to that repeat was lost.
        let has_equal = || readings.contains(&(attempts[0].reading_key, attempts[0].data_hash));
        if stored == 0 && has_outcome(RecordedOutcome::Unknown) && has_equal() {
            return;
        }
        self.add_incomplete(attempts, 0, stored.max(1));
    }

    fn add_violation(
        &mut self,
        property: Property,
        id: Ksuid,
        position: Option<RecordPosition>,
        describe: impl FnOnce() -> String,
    ) {
        self.report.add_violation(property, || Violation {
            id: Some(format!("event_{id}")),
            position,
            text: describe(),
        });
    }

    /// Pairs unmatched records with incomplete events, and adds up TRAFFIC. To be called after the
    /// last bucket.
    pub fn finish(mut self, truth: &GroundTruth, traffic_complete: bool) -> VerificationReport {
        self.pair_unmatched();
        if self.rules.is_none() {
            let reason = "no response and no header shows any";
            self.report
                .mark_unchecked(Property::Classification, reason.to_owned());
        }
        self.report.records_before_run += self.issues.before_run;
        let reason = match self.topics {
            TopicSet::Copies => Some("copies of the topics have different offsets"),
            TopicSet::Originals => (self.report.reported_positions == 0
                && self.report.published > 0)
                .then_some("no response named any"),
        };
        if let Some(reason) = reason {
            self.report
                .mark_unchecked(Property::ReportedPosition, reason.to_owned());
        }
        let reason = if !traffic_complete {
            Some("not every TRAFFIC event was sent and accepted".to_owned())
        } else if self.traffic_lost > 0 {
            Some(format!(
                "{} TRAFFIC events are missing or changed (see above)",
                self.traffic_lost
            ))
        } else if self.traffic_present == 0 && truth.spaces.iter().all(|(_, people)| *people == 0) {
            Some("nobody moved".to_owned())
        } else {
            None
        };
        match reason {
            Some(reason) => self.report.mark_unchecked(Property::Occupancy, reason),
            None => self.check_occupancy(truth),
        }
        self.report
    }

    fn check_occupancy(&mut self, truth: &GroundTruth) {
        for ((space, people), sum) in truth.spaces.iter().zip(&self.net_by_space) {
            self.report.count_checked(Property::Occupancy, 1);
            if i64::from(*people) != *sum {
                self.report
                    .add_violation(Property::Occupancy, || Violation {
                        id: Some(space.clone()),
                        position: None,
                        text: format!("{people} people are there, but TRAFFIC adds up to {sum}"),
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

fn count_attempts(attempts: &[DeliveryAttempt], matches: impl Fn(&DeliveryAttempt) -> bool) -> u64 {
    attempts.iter().filter(|a| matches(a)).count() as u64
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
