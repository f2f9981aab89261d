//! Copies that nobody asked for, but that the documentation announces.

use std::collections::{HashMap, HashSet};

use butlr_simulate::journal::RecordedOutcome;

use crate::chaos::evidence::{TopicRecord, TrialEvidence};
use crate::chaos::refusals::is_during_kafka_trouble;

/// Records that are there twice by one receipt: the bridge, or librdkafka in it, sent them again because it did not know that
/// they were stored.
#[derive(Default)]
pub struct DocumentedCopies {
    /// Events that are there more often than tries account for, only because of such.
    pub events: u64,
    /// Of those beyond the first: as they were sent the first time, by librdkafka itself.
    pub same_path: u64,
    /// … from the spool.
    pub from_spool: u64,
}

impl DocumentedCopies {
    /// README, "Where duplicates can still be": only where Kafka's answer can have been lost. The bridge looks in the topics
    /// for what it finds on its disk, so that it was killed is no excuse; nor is any for what was sent when all was well.
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
