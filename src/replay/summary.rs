//! Counts of a replay, and the report that the command prints.

use std::collections::BTreeMap;
use std::fmt;

use super::batch::ReplayWork;
use super::publisher::ReplayOutcome;

/// Result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplaySummary {
    /// The run only counted and sent nothing.
    pub dry_run: bool,
    /// The topic was read to its end as of the start.
    pub is_whole: bool,
    /// Counts of quarantined records.
    pub records: ReplayRecordCounts,
    /// Counts of events.
    pub events: ReplayEventCounts,
}

/// Counts of records of the quarantine topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayRecordCounts {
    /// Records read.
    pub read: u64,
    /// Records that match the command's filters.
    pub matched: u64,
    /// Matching records that were replayed completely before.
    pub already_replayed: u64,
    /// Matching records that are still not valid, by code.
    pub invalid: BTreeMap<&'static str, u64>,
}

/// Counts of events in the matching records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayEventCounts {
    /// Events that are valid now and were not replayed before.
    pub valid: u64,
    /// Valid events that were published by this run.
    pub published: u64,
    /// Valid events that the topics held already.
    pub duplicates: u64,
    /// Valid events that could not be stored, by problem code. Some may be stored nevertheless; the
    /// next run looks for them.
    pub failed: BTreeMap<&'static str, u64>,
}

impl ReplaySummary {
    pub(super) fn count_work(&mut self, work: &ReplayWork<'_>) {
        self.events.valid += work.items.len() as u64;
        if work.items.is_empty() && !work.has_invalid {
            self.records.already_replayed += 1;
        }
        for code in &work.codes {
            *self.records.invalid.entry(code).or_default() += 1;
        }
    }

    pub(super) fn count_outcome(&mut self, outcome: &ReplayOutcome) {
        match outcome {
            ReplayOutcome::Published => self.events.published += 1,
            ReplayOutcome::Duplicate => self.events.duplicates += 1,
            ReplayOutcome::Failed(code) => *self.events.failed.entry(code).or_default() += 1,
        }
    }

    /// Returns `true` if every valid event was stored.
    pub fn is_complete(&self) -> bool {
        self.events.failed.is_empty()
    }
}

impl fmt::Display for ReplaySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            records, events, ..
        } = self;
        let mut line = |name: &str, count: u64| writeln!(f, "{name:<24}{count:>10}");
        line("records read", records.read)?;
        line("records matched", records.matched)?;
        line("  replayed before", records.already_replayed)?;
        for (code, count) in &records.invalid {
            line(&format!("  still {code}"), *count)?;
        }
        line("events valid now", events.valid)?;
        if self.dry_run {
            return write!(f, "nothing was sent: this was a dry run");
        }
        line("  published", events.published)?;
        line("  duplicates", events.duplicates)?;
        let failed = events.failed.values().sum();
        line("  failed", failed)?;
        for (code, count) in &events.failed {
            line(&format!("    {code}"), *count)?;
        }
        f.write_str(if !self.is_whole {
            "the topic was not read to its end: run the command again"
        } else if failed == 0 {
            "every valid event is stored"
        } else {
            "the next run tries the failed events again"
        })
    }
}
