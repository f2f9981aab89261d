//! What was proved: one line a property, the first ten violations of each, and what was published more than once.

use std::time::Duration;

use serde::Serialize;

use super::record_digest::RecordPosition;
use crate::oracle::OracleVerdict;
use butlr_event::EventType;

mod display;

/// So many violations of a property are told one by one.
const MAX_LISTED_VIOLATIONS: usize = 10;

/// What is proved, each for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Property {
    /// Everything answered 2xx is there.
    Stored,
    /// The bytes are those that were sent.
    Intact,
    /// Nothing is there that was not sent, or that was only refused.
    Sent,
    /// Topic, key and partition.
    Placement,
    /// Headers and timestamp.
    Headers,
    /// Duplicates, revisions and stale ones are told apart.
    Classification,
    /// As often as published.
    RecordCount,
    /// Where the answers said.
    ReportedPosition,
    /// TRAFFIC adds up to the model's occupancy.
    Occupancy,
    /// Answers are consistent in themselves.
    AnswerConsistency,
}

impl Property {
    /// Every property, in the order of the report.
    pub const ALL: [Property; 10] = [
        Property::Stored,
        Property::Intact,
        Property::Sent,
        Property::Placement,
        Property::Headers,
        Property::Classification,
        Property::RecordCount,
        Property::ReportedPosition,
        Property::Occupancy,
        Property::AnswerConsistency,
    ];

    /// As programs name it.
    pub const fn name(self) -> &'static str {
        match self {
            Property::Stored => "stored",
            Property::Intact => "intact",
            Property::Sent => "sent",
            Property::Placement => "placed",
            Property::Headers => "headed",
            Property::Classification => "judged",
            Property::RecordCount => "counted",
            Property::ReportedPosition => "named",
            Property::Occupancy => "occupancy",
            Property::AnswerConsistency => "answered",
        }
    }

    const fn claim(self) -> &'static str {
        match self {
            Property::Stored => "everything answered 2xx is there",
            Property::Intact => "bytes are those that were sent",
            Property::Sent => "nothing is there that was not sent, or only refused or quarantined",
            Property::Placement => "topic, key and partition are the contract's",
            Property::Headers => "headers and timestamp are such as the contract allows",
            Property::Classification => {
                "redeliveries, repeats, revisions and stale ones are told as such"
            }
            Property::RecordCount => "nothing is there more or less often than published",
            Property::ReportedPosition => "partition and offset are those of the answers",
            Property::Occupancy => "TRAFFIC adds up to the model's occupancy",
            Property::AnswerConsistency => "status and word of each 2xx mean the same",
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Property::Stored | Property::RecordCount => "events",
            Property::Classification | Property::ReportedPosition | Property::AnswerConsistency => {
                "answers"
            }
            Property::Occupancy => "spaces",
            _ => "records",
        }
    }
}

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The event (`event_…`) or, for occupancy, the space.
    pub id: Option<String>,
    /// The record, where there is one.
    pub position: Option<RecordPosition>,
    /// What was expected, and what there is instead.
    pub text: String,
}

/// What was found of one property.
#[derive(Clone, Debug, Default)]
pub struct PropertyFinding {
    /// How many were looked at.
    pub checked: u64,
    /// How many of those violate it.
    pub violations: u64,
    /// The first ten that do.
    pub first: Vec<Violation>,
    /// Why it was not checked, where it was not.
    pub unchecked_reason: Option<String>,
}

/// Why events are there more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyCounts {
    /// Records beyond the first of their event.
    pub all: u64,
    /// Of those: the sender sent it again although nothing went wrong.
    pub redelivery: u64,
    /// … after no answer in time.
    pub after_timeout: u64,
    /// … after an answer that was no 2xx, or a broken connection.
    pub after_failure: u64,
}

impl CopyCounts {
    /// Those for which no try accounts.
    pub fn unexplained(&self) -> u64 {
        self.all - self.redelivery - self.after_timeout - self.after_failure
    }
}

/// What the bridge took events of one type for, and how that fits the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerdictCounts {
    /// Known answers, with the marks of their records, by [`Verdict`].
    pub by_verdict: [u64; OracleVerdict::ALL.len()],
    /// Events sent with tries whose answer is not known: for each, a verdict that nobody heard of, or none.
    pub unknown: u64,
    /// Known answers that rest on what came before the run, or on too much that is not known, and are not judged.
    pub unjudged: u64,
    /// Redeliveries of repeats that were not taken as such, but were otherwise right: no record tells of a repeat, so that
    /// a bridge that was started again does not know its id.
    pub forgotten_repeats: u64,
    /// Events that were taken for something new, or for something else, as if what they repeat or revise were not known.
    pub unrecognised: u64,
    /// What the headers of the records say.
    pub marked: MarkCounts,
}

/// Records by their marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MarkCounts {
    /// `ce_duplicate` redelivery.
    pub redelivery: u64,
    /// `ce_duplicate` repeat.
    pub repeat: u64,
    /// `ce_revision`.
    pub revision: u64,
    /// `ce_stale`.
    pub stale: u64,
    /// `ce_outoforder`.
    pub out_of_order: u64,
}

/// The result.
#[derive(Clone, Debug)]
pub struct VerificationReport {
    /// The topics' names, by [`EventType::index`].
    pub topics: [String; EventType::ALL.len()],
    /// Requests that were answered or given up.
    pub attempts: u64,
    /// Records read.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// What reading and joining took.
    pub elapsed: Duration,
    /// What is there more than once.
    pub copies: CopyCounts,
    /// What duplicates were taken for, by [`EventType::index`].
    pub verdicts: [VerdictCounts; EventType::ALL.len()],
    /// Answers that promise that an event is there.
    pub accepted: u64,
    /// Answers `published`.
    pub published: u64,
    /// Those of them that named partition and offset.
    pub reported_positions: u64,
    /// Events that were answered `repeat`, of readings of which no answer of this run tells.
    pub repeats_before_run: u64,
    /// Answers `spooled` without a record of their own, of events that are there: a bridge that was started again drops what
    /// its spool holds of what the topics hold already.
    pub already_stored: u64,
    /// Records that nobody sent and that came before the run.
    pub records_before_run: u64,
    /// Records that had to be marked as out of order, because something newer was known for long; see
    /// [`Options::known_after`](super::Options::known_after).
    pub required_marks: u64,
    /// Why more records were to come, but were not waited for any longer.
    pub gave_up_reason: Option<String>,
    findings: [PropertyFinding; Property::ALL.len()],
}

impl VerificationReport {
    /// Nothing found yet.
    pub fn new(topics: [String; EventType::ALL.len()]) -> Self {
        Self {
            topics,
            attempts: 0,
            records: 0,
            bytes: 0,
            elapsed: Duration::ZERO,
            copies: CopyCounts::default(),
            verdicts: Default::default(),
            accepted: 0,
            published: 0,
            reported_positions: 0,
            repeats_before_run: 0,
            already_stored: 0,
            records_before_run: 0,
            required_marks: 0,
            gave_up_reason: None,
            findings: Default::default(),
        }
    }

    /// What was found of the verdicts of all types together.
    pub fn all_verdicts(&self) -> VerdictCounts {
        let mut all = VerdictCounts::default();
        for of_type in &self.verdicts {
            let VerdictCounts {
                by_verdict: told,
                unknown,
                unjudged,
                forgotten_repeats: forgotten,
                unrecognised,
                marked,
            } = of_type;
            all.by_verdict
                .iter_mut()
                .zip(told)
                .for_each(|(all, n)| *all += n);
            all.unknown += unknown;
            all.unjudged += unjudged;
            all.forgotten_repeats += forgotten;
            all.unrecognised += unrecognised;
            all.marked.redelivery += marked.redelivery;
            all.marked.repeat += marked.repeat;
            all.marked.revision += marked.revision;
            all.marked.stale += marked.stale;
            all.marked.out_of_order += marked.out_of_order;
        }
        all
    }

    /// What was found of a property.
    pub fn finding(&self, property: Property) -> &PropertyFinding {
        &self.findings[property as usize]
    }

    /// Whether something was proved, and no property is violated.
    pub fn is_proved(&self) -> bool {
        self.unproved_reason().is_none() && self.findings.iter().all(|f| f.violations == 0)
    }

    /// Why nothing was proved, one way or the other.
    pub fn unproved_reason(&self) -> Option<&'static str> {
        // That answers are consistent says nothing of what is there.
        let about_records = Property::ALL
            .iter()
            .filter(|p| **p != Property::AnswerConsistency);
        if self.accepted == 0 {
            Some("nothing was accepted: there is nothing to prove")
        } else if about_records.map(|p| self.finding(*p)).all(|f| {
            let proved = f.checked > 0 && f.unchecked_reason.is_none();
            !proved && f.violations == 0
        }) {
            Some("nothing at all was proved")
        } else {
            None
        }
    }

    /// Counts what was looked at.
    pub(super) fn count_checked(&mut self, property: Property, how_many: u64) {
        self.findings[property as usize].checked += how_many;
    }

    /// Notes why a property is not checked.
    pub(super) fn mark_unchecked(&mut self, property: Property, why: String) {
        self.findings[property as usize].unchecked_reason = Some(why);
    }

    /// Notes a violation; `what` makes the text only when it is told.
    pub(super) fn add_violation(&mut self, property: Property, what: impl FnOnce() -> Violation) {
        let finding = &mut self.findings[property as usize];
        finding.violations += 1;
        if finding.first.len() < MAX_LISTED_VIOLATIONS {
            finding.first.push(what());
        }
    }
}

#[cfg(test)]
mod tests;
