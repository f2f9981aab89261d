//! The result of a verification: a finding per property with its first ten violations, and counts
//! of verdicts and copies.

use std::time::Duration;

use serde::Serialize;

use super::record_digest::RecordPosition;
use crate::oracle::OracleVerdict;
use butlr_event::PerType;

mod display;

/// Number of violations per property that are listed.
const MAX_LISTED_VIOLATIONS: usize = 10;

/// A property that is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Property {
    /// Every event answered 2xx is in Kafka.
    Stored,
    /// Values are byte for byte as sent.
    Intact,
    /// Every record's event was sent, and not just refused.
    Sent,
    /// Topic, key and partition follow the contract.
    Placement,
    /// Headers and timestamp follow the contract.
    Headers,
    /// Duplicates, revisions and stale events are recognised.
    Classification,
    /// Each event has as many records as it was published.
    RecordCount,
    /// Records are at the positions named in the responses.
    ReportedPosition,
    /// TRAFFIC adds up to the model's occupancy.
    Occupancy,
    /// The parts of a response do not contradict each other.
    ResponseConsistency,
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
        Property::ResponseConsistency,
    ];

    /// Returns the name used in JSON.
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
            Property::ResponseConsistency => "answered",
        }
    }

    const fn claim(self) -> &'static str {
        match self {
            Property::Stored => "every event answered 2xx is in Kafka",
            Property::Intact => "values are byte for byte as sent",
            Property::Sent => "every record's event was sent, and not just refused or quarantined",
            Property::Placement => "topic, key and partition follow the contract",
            Property::Headers => "headers and timestamp follow the contract",
            Property::Classification => {
                "redeliveries, repeats, revisions and stale events are recognised"
            }
            Property::RecordCount => "each event has as many records as it was published",
            Property::ReportedPosition => "records are at the positions named in the responses",
            Property::Occupancy => "TRAFFIC adds up to the model's occupancy",
            Property::ResponseConsistency => "status code and status field of each 2xx agree",
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Property::Stored | Property::RecordCount => "events",
            Property::Classification
            | Property::ReportedPosition
            | Property::ResponseConsistency => "responses",
            Property::Occupancy => "spaces",
            _ => "records",
        }
    }
}

/// A violation of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The id of the event (`event_…`) or, for occupancy, of the space.
    pub id: Option<String>,
    /// The record's position, if there is a record.
    pub position: Option<RecordPosition>,
    /// The expectation, and what was found instead.
    pub text: String,
}

/// The findings about one property.
#[derive(Clone, Debug, Default)]
pub struct PropertyFinding {
    /// Number of checks.
    pub checked: u64,
    /// Number of violations.
    pub violations: u64,
    /// The first ten violations.
    pub first: Vec<Violation>,
    /// The reason why the property was not checked, if it was not.
    pub unchecked_reason: Option<String>,
}

/// Records beyond the first of their event, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyCounts {
    /// All of them.
    pub all: u64,
    /// The sender repeated the event although nothing went wrong.
    pub redelivery: u64,
    /// The sender got no response in time.
    pub after_timeout: u64,
    /// The sender got an error response, or its connection broke.
    pub after_failure: u64,
}

impl CopyCounts {
    /// Returns the number that no attempt accounts for.
    pub fn unexplained(&self) -> u64 {
        self.all - self.redelivery - self.after_timeout - self.after_failure
    }
}

/// The bridge's classification of events, and how it compares with the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerdictCounts {
    /// Known outcomes, with the marks of their records, by [`OracleVerdict`].
    pub by_verdict: [u64; OracleVerdict::ALL.len()],
    /// Events with attempts of unknown outcome, which may or may not have got a verdict.
    pub unknown: u64,
    /// Known outcomes that cannot be judged, because they depend on events from before the run or
    /// on too many unknown outcomes.
    pub unjudged: u64,
    /// Redeliveries of repeats that were not recognised, but are right otherwise. A repeat has no
    /// record, so a restarted bridge does not know its id.
    pub forgotten_repeats: u64,
    /// Events classified as if the event that they repeat or revise were unknown.
    pub unrecognised: u64,
    /// Marks in the headers of the records.
    pub marked: MarkCounts,
}

/// Number of records by their marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MarkCounts {
    /// `ce_duplicate: redelivery`.
    pub redelivery: u64,
    /// `ce_duplicate: repeat`.
    pub repeat: u64,
    /// `ce_revision`.
    pub revision: u64,
    /// `ce_stale`.
    pub stale: u64,
    /// `ce_outoforder`.
    pub out_of_order: u64,
}

/// The result of a verification.
#[derive(Clone, Debug)]
pub struct VerificationReport {
    /// Names of the topics.
    pub topics: PerType<String>,
    /// Requests that got a response or were given up.
    pub attempts: u64,
    /// Number of records read.
    pub records: u64,
    /// Size of their values in bytes.
    pub bytes: u64,
    /// Time taken by reading and joining.
    pub elapsed: Duration,
    /// Records beyond the first of their event.
    pub copies: CopyCounts,
    /// Verdicts per type.
    pub verdicts: PerType<VerdictCounts>,
    /// Responses that promise that the event is stored.
    pub accepted: u64,
    /// Responses `published`.
    pub published: u64,
    /// Responses `published` with partition and offset.
    pub reported_positions: u64,
    /// Events answered `repeat` whose reading was not stored by an event of this run.
    pub repeats_before_run: u64,
    /// Responses `spooled` without a record of their own, although the event has a record: a
    /// restarted bridge drops spooled entries that the topics already hold.
    pub already_stored: u64,
    /// Unknown records from before the run.
    pub records_before_run: u64,
    /// Records that had to be marked as out of order according to
    /// [`Options::known_after`](super::Options::known_after).
    pub required_marks: u64,
    /// The reason for giving up, if more records were expected.
    pub gave_up_reason: Option<String>,
    findings: [PropertyFinding; Property::ALL.len()],
}

impl VerificationReport {
    /// Creates an empty report.
    pub fn new(topics: PerType<String>) -> Self {
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

    /// Returns the sum of the verdicts of all types.
    pub fn all_verdicts(&self) -> VerdictCounts {
        let mut all = VerdictCounts::default();
        for counts in &self.verdicts {
            let VerdictCounts {
                by_verdict,
                unknown,
                unjudged,
                forgotten_repeats,
                unrecognised,
                marked,
            } = counts;
            all.by_verdict
                .iter_mut()
                .zip(by_verdict)
                .for_each(|(all, n)| *all += n);
            all.unknown += unknown;
            all.unjudged += unjudged;
            all.forgotten_repeats += forgotten_repeats;
            all.unrecognised += unrecognised;
            all.marked.redelivery += marked.redelivery;
            all.marked.repeat += marked.repeat;
            all.marked.revision += marked.revision;
            all.marked.stale += marked.stale;
            all.marked.out_of_order += marked.out_of_order;
        }
        all
    }

    /// Returns the findings about a property.
    pub fn finding(&self, property: Property) -> &PropertyFinding {
        &self.findings[property as usize]
    }

    /// Returns `true` if something was proved and no property is violated.
    pub fn is_proved(&self) -> bool {
        self.unproved_reason().is_none() && self.findings.iter().all(|f| f.violations == 0)
    }

    /// Returns the reason why nothing was proved or refuted, if so.
    pub fn unproved_reason(&self) -> Option<&'static str> {
        // Consistent responses prove nothing about records.
        let about_records = Property::ALL
            .iter()
            .filter(|p| **p != Property::ResponseConsistency);
        if self.accepted == 0 {
            Some("no event was accepted, so there is nothing to prove")
        } else if about_records.map(|p| self.finding(*p)).all(|f| {
            let proved = f.checked > 0 && f.unchecked_reason.is_none();
            !proved && f.violations == 0
        }) {
            Some("no property could be proved")
        } else {
            None
        }
    }

    /// Counts checks of a property.
    pub(super) fn count_checked(&mut self, property: Property, count: u64) {
        self.findings[property as usize].checked += count;
    }

    /// Records the reason why a property is not checked.
    pub(super) fn mark_unchecked(&mut self, property: Property, reason: String) {
        self.findings[property as usize].unchecked_reason = Some(reason);
    }

    /// Counts a violation. `describe` is called only if the violation is listed.
    pub(super) fn add_violation(
        &mut self,
        property: Property,
        describe: impl FnOnce() -> Violation,
    ) {
        let finding = &mut self.findings[property as usize];
        finding.violations += 1;
        if finding.first.len() < MAX_LISTED_VIOLATIONS {
            finding.first.push(describe());
        }
    }
}

#[cfg(test)]
mod tests;
