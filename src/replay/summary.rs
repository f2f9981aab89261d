//! What a replay came to.

use std::collections::BTreeMap;
use std::fmt;

use super::batch::ReplayWork;
use super::publisher::ReplayOutcome;

/// The figures of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplaySummary {
    /// Nothing was sent.
    pub dry_run: bool,
    /// The topic was read to its end as of the start.
    pub is_whole: bool,
    /// Records of the quarantine topic.
    pub read: u64,
    /// Those of them that were asked for.
    pub matched: u64,
    /// Those of them that were replayed before, as a whole.
    pub already_replayed: u64,
    /// Records that are still no valid event, by code.
    pub invalid: BTreeMap<&'static str, u64>,
    /// Events that are valid now and were not replayed before.
    pub valid: u64,
    /// Events of them that are published now.
    pub published: u64,
    /// Events of them that the topics have already.
    pub duplicates: u64,
    /// Events of them that could not be stored, by the problem's code. Some may be: the next run looks for them.
    pub failed: BTreeMap<&'static str, u64>,
}

impl ReplaySummary {
    pub(super) fn count_work(&mut self, work: &ReplayWork<'_>) {
        self.valid += work.items.len() as u64;
        if work.items.is_empty() && !work.has_invalid {
            self.already_replayed += 1;
        }
        for code in &work.codes {
            *self.invalid.entry(code).or_default() += 1;
        }
    }

    pub(super) fn count_outcome(&mut self, sent: &ReplayOutcome) {
        match sent {
            ReplayOutcome::Published => self.published += 1,
            ReplayOutcome::Duplicate => self.duplicates += 1,
            ReplayOutcome::Failed(code) => *self.failed.entry(code).or_default() += 1,
        }
    }

    /// Whether all that is valid was stored.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for ReplaySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, count: u64| writeln!(f, "{name:<24}{count:>10}");
        line("records read", self.read)?;
        line("records matched", self.matched)?;
        line("  replayed before", self.already_replayed)?;
        for (code, count) in &self.invalid {
            line(&format!("  still {code}"), *count)?;
        }
        line("events valid now", self.valid)?;
        if self.dry_run {
            return write!(f, "nothing was sent: this was a dry run");
        }
        line("  published", self.published)?;
        line("  duplicates", self.duplicates)?;
        let failed = self.failed.values().sum();
        line("  failed", failed)?;
        for (code, count) in &self.failed {
            line(&format!("    {code}"), *count)?;
        }
        match failed {
            _ if !self.is_whole => write!(f, "not all records were looked at: run it again"),
            0 => write!(f, "all of them that are valid now are stored"),
            _ => write!(f, "what failed is tried by the next run"),
        }
    }
}
