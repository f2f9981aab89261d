//! Spooled attempts whose entry was dropped because the topic already held the event.
//!
//! A restarted bridge looks up the entries in its spool in the topics, by id, and drops those that
//! it finds, whichever attempt stored them. So one record can be enough for several attempts, if
//! the bridge had not yet rebuilt its knowledge and did not recognise them as duplicates. The
//! record of a published attempt is never dropped.

use std::collections::HashMap;

use crate::journal::{DeliveryAttempt, RecordedOutcome};
use crate::verify::record_digest::RecordDigest;
use butlr_event::ksuid::Ksuid;

/// Attempts and records of one event.
#[derive(Default)]
struct RecoveryTally {
    published: u64,
    spooled: u64,
    records: u64,
}

/// Changes the outcome of spooled attempts to unknown, as many as there are records missing, for
/// events with at least one record and one per published attempt. Returns the number of changes.
pub fn release_recovered(attempts: &mut [DeliveryAttempt], records: &[RecordDigest]) -> u64 {
    let mut tallies: HashMap<Ksuid, RecoveryTally> = HashMap::new();
    for attempt in &*attempts {
        let count = match attempt.outcome {
            RecordedOutcome::Published => &mut tallies.entry(attempt.id).or_default().published,
            RecordedOutcome::Spooled => &mut tallies.entry(attempt.id).or_default().spooled,
            _ => continue,
        };
        *count += 1;
    }
    tallies.retain(|_, tally| tally.spooled > 0 && tally.published + tally.spooled > 1);
    if tallies.is_empty() {
        return 0;
    }
    for record in records {
        if let Some(tally) = tallies.get_mut(&record.id) {
            tally.records += 1;
        }
    }
    let mut missing: HashMap<Ksuid, u64> = HashMap::new();
    for (id, tally) in tallies {
        let count = (tally.published + tally.spooled).saturating_sub(tally.records);
        if count > 0 && tally.records >= tally.published.max(1) {
            missing.insert(id, count);
        }
    }
    let mut released = 0;
    // The last attempts first: the records are more likely those of the first ones.
    for attempt in attempts.iter_mut().rev() {
        if attempt.outcome == RecordedOutcome::Spooled
            && let Some(count) = missing.get_mut(&attempt.id)
            && *count > 0
        {
            *count -= 1;
            attempt.outcome = RecordedOutcome::Unknown;
            released += 1;
        }
    }
    released
}
