//! Copies that the documentation announces.

use std::collections::{HashMap, HashSet};

use butlr_simulate::journal::RecordedOutcome;

use crate::chaos::evidence::{TopicRecord, TrialEvidence};
use crate::chaos::refusals::is_during_kafka_trouble;

/// Records that are stored twice with the same time of receipt: the bridge or librdkafka sent them
/// again because it did not know that they were stored.
#[derive(Default)]
pub struct DocumentedCopies {
    /// Events with more records than attempts, only because of such copies.
    pub events: u64,
    /// Copies sent by librdkafka itself.
    pub same_path: u64,
    /// Copies sent from the spool.
    pub from_spool: u64,
}

impl DocumentedCopies {
    /// Finds the copies that the documentation allows: only if a response from Kafka may have been
    /// lost. The bridge searches the topics for the entries in its spool, so a kill is no excuse;
    /// nor is there one for events sent after all faults had ended.
    pub fn from_evidence(evidence: &TrialEvidence) -> Self {
        let mut twins = Self::default();
        let after = evidence
            .recovery_attempts()
            .map(|a| format!("event_{}", a.id));
        let after: HashSet<_> = after.collect();
        let mut by_id: HashMap<&str, Vec<&TopicRecord>> = HashMap::new();
        let excused = |record: &&TopicRecord| {
            !after.contains(&record.id) && is_during_kafka_trouble(evidence, &record.received_at)
        };
        for record in evidence.records.iter().filter(excused) {
            by_id.entry(&record.id).or_default().push(record);
        }
        let tries = evidence.attempts_by_id();
        for (id, records) in by_id.into_iter().filter(|(_, all)| all.len() > 1) {
            let receipts = |spooled: &[bool]| {
                let some = records.iter().filter(|r| spooled.contains(&r.spooled));
                some.map(|r| &r.received_at).collect::<HashSet<_>>().len() as u64
            };
            let found = records.len() as u64;
            let different = receipts(&[true, false]);
            let same = found - receipts(&[true]) - receipts(&[false]);
            twins.same_path += same;
            twins.from_spool += found - different - same;
            let may_be = tries.get(id).into_iter().flatten().filter(|t| {
                matches!(
                    t.outcome,
                    RecordedOutcome::Published
                        | RecordedOutcome::Spooled
                        | RecordedOutcome::Unknown
                )
            });
            let may_be = may_be.count() as u64;
            twins.events += u64::from(found > may_be && different <= may_be);
        }
        twins
    }

    pub fn total(&self) -> u64 {
        self.same_path + self.from_spool
    }
}
