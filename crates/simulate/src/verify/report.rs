//! What was proved: one line a property, the first ten violations of each, and what was published more than once.

use std::time::Duration;

use serde::Serialize;

use super::entry::Position;
use crate::oracle::Verdict;
use butlr_event::EventType;

mod show;

/// So many violations of a property are told one by one.
const TOLD: usize = 10;

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
    Placed,
    /// Headers and timestamp.
    Headed,
    /// Duplicates, revisions and stale ones are told apart.
    Judged,
    /// As often as published.
    Counted,
    /// Where the answers said.
    Named,
    /// TRAFFIC adds up to the model's occupancy.
    Occupancy,
    /// Answers are consistent in themselves.
    Answered,
}

impl Property {
    /// Every property, in the order of the report.
    pub const ALL: [Property; 10] = [
        Property::Stored,
        Property::Intact,
        Property::Sent,
        Property::Placed,
        Property::Headed,
        Property::Judged,
        Property::Counted,
        Property::Named,
        Property::Occupancy,
        Property::Answered,
    ];

    /// As programs name it.
    pub const fn name(self) -> &'static str {
        match self {
            Property::Stored => "stored",
            Property::Intact => "intact",
            Property::Sent => "sent",
            Property::Placed => "placed",
            Property::Headed => "headed",
            Property::Judged => "judged",
            Property::Counted => "counted",
            Property::Named => "named",
            Property::Occupancy => "occupancy",
            Property::Answered => "answered",
        }
    }

    const fn claim(self) -> &'static str {
        match self {
            Property::Stored => "everything answered 2xx is there",
            Property::Intact => "bytes are those that were sent",
            Property::Sent => "nothing is there that was not sent, or only refused or quarantined",
            Property::Placed => "topic, key and partition are the contract's",
            Property::Headed => "headers and timestamp are such as the contract allows",
            Property::Judged => "redeliveries, repeats, revisions and stale ones are told as such",
            Property::Counted => "nothing is there more or less often than published",
            Property::Named => "partition and offset are those of the answers",
            Property::Occupancy => "TRAFFIC adds up to the model's occupancy",
            Property::Answered => "status and word of each 2xx mean the same",
        }
    }

    const fn counts(self) -> &'static str {
        match self {
            Property::Stored | Property::Counted => "events",
            Property::Judged | Property::Named | Property::Answered => "answers",
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
    pub position: Option<Position>,
    /// What was expected, and what there is instead.
    pub text: String,
}

/// What was found of one property.
#[derive(Clone, Debug, Default)]
pub struct Finding {
    /// How many were looked at.
    pub checked: u64,
    /// How many of those violate it.
    pub violations: u64,
    /// The first ten that do.
    pub first: Vec<Violation>,
    /// Why it was not checked, where it was not.
    pub unchecked: Option<String>,
}

/// Why events are there more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Records beyond the first of their event.
    pub all: u64,
    /// Of those: the sender sent it again although nothing went wrong.
    pub redelivery: u64,
    /// … after no answer in time.
    pub after_timeout: u64,
    /// … after an answer that was no 2xx, or a broken connection.
    pub after_failure: u64,
}

impl Copies {
    /// Those for which no try accounts.
    pub fn unexplained(&self) -> u64 {
        self.all - self.redelivery - self.after_timeout - self.after_failure
    }
}

/// What the bridge took events of one type for, and how that fits the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Known answers, with the marks of their records, by [`Verdict`].
    pub told: [u64; Verdict::ALL.len()],
    /// Events sent with tries whose answer is not known: for each, a verdict that nobody heard of, or none.
    pub unknown: u64,
    /// Known answers that rest on what came before the run, or on too much that is not known, and are not judged.
    pub unjudged: u64,
    /// Redeliveries of repeats that were not taken as such, but were otherwise right: no record tells of a repeat, so that
    /// a bridge that was started again does not know its id.
    pub forgotten: u64,
    /// Events that were taken for something new, or for something else, as if what they repeat or revise were not known.
    pub unrecognised: u64,
    /// What the headers of the records say.
    pub marked: Marked,
}

/// Records by their marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Marked {
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
pub struct Report {
    /// The topics' names, by [`EventType::index`].
    pub topics: [String; EventType::ALL.len()],
    /// Requests that were answered or given up.
    pub attempts: u64,
    /// Records read.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// What reading and joining took.
    pub took: Duration,
    /// What is there more than once.
    pub copies: Copies,
    /// What duplicates were taken for, by [`EventType::index`].
    pub verdicts: [Verdicts; EventType::ALL.len()],
    /// Answers that promise that an event is there.
    pub accepted: u64,
    /// Answers `published`.
    pub published: u64,
    /// Those of them that named partition and offset.
    pub named: u64,
    /// Events that were answered `repeat`, of readings of which no answer of this run tells.
    pub repeats_before: u64,
    /// Answers `spooled` without a record of their own, of events that are there: a bridge that was started again drops what
    /// its spool holds of what the topics hold already.
    pub already_stored: u64,
    /// Records that nobody sent and that came before the run.
    pub earlier: u64,
    /// Records that had to be marked as out of order, because something newer was known for long; see
    /// [`Options::known_after`](super::Options::known_after).
    pub long_older: u64,
    /// Why more records were to come, but were not waited for any longer.
    pub gave_up: Option<String>,
    findings: [Finding; Property::ALL.len()],
}

impl Report {
    /// Nothing found yet.
    pub fn new(topics: [String; EventType::ALL.len()]) -> Self {
        Self {
            topics,
            attempts: 0,
            records: 0,
            bytes: 0,
            took: Duration::ZERO,
            copies: Copies::default(),
            verdicts: Default::default(),
            accepted: 0,
            published: 0,
            named: 0,
            repeats_before: 0,
            already_stored: 0,
            earlier: 0,
            long_older: 0,
            gave_up: None,
            findings: Default::default(),
        }
    }

    /// What was found of the verdicts of all types together.
    pub fn all_verdicts(&self) -> Verdicts {
        let mut all = Verdicts::default();
        for of_type in &self.verdicts {
            let Verdicts {
                told,
                unknown,
                unjudged,
                forgotten,
                unrecognised,
                marked,
            } = of_type;
            all.told.iter_mut().zip(told).for_each(|(all, n)| *all += n);
            all.unknown += unknown;
            all.unjudged += unjudged;
            all.forgotten += forgotten;
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
    pub fn finding(&self, property: Property) -> &Finding {
        &self.findings[property as usize]
    }

    /// Whether something was proved, and no property is violated.
    pub fn holds(&self) -> bool {
        self.nothing_proved().is_none() && self.findings.iter().all(|f| f.violations == 0)
    }

    /// Why nothing was proved, one way or the other.
    pub fn nothing_proved(&self) -> Option<&'static str> {
        // That answers are consistent says nothing of what is there.
        let about_records = Property::ALL.iter().filter(|p| **p != Property::Answered);
        if self.accepted == 0 {
            Some("nothing was accepted: there is nothing to prove")
        } else if about_records.map(|p| self.finding(*p)).all(|f| {
            let proved = f.checked > 0 && f.unchecked.is_none();
            !proved && f.violations == 0
        }) {
            Some("nothing at all was proved")
        } else {
            None
        }
    }

    /// Counts what was looked at.
    pub(super) fn checked(&mut self, property: Property, how_many: u64) {
        self.findings[property as usize].checked += how_many;
    }

    /// Notes why a property is not checked.
    pub(super) fn unchecked(&mut self, property: Property, why: String) {
        self.findings[property as usize].unchecked = Some(why);
    }

    /// Notes a violation; `what` makes the text only when it is told.
    pub(super) fn violated(&mut self, property: Property, what: impl FnOnce() -> Violation) {
        let finding = &mut self.findings[property as usize];
        finding.violations += 1;
        if finding.first.len() < TOLD {
            finding.first.push(what());
        }
    }
}

#[cfg(test)]
mod tests;
