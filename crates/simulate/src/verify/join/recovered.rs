//! Tries that were answered spooled, and whose entry was dropped because the topic held the event already.
//!
//! A bridge that was started again looks for what it finds in its spool in the topics, by id, and removes what is there:
//! whichever try stored it. Of several tries that it did not recognise, as what it had stored was not known again yet, one
//! record is then enough. That of a try that was answered published is never dropped.

use std::collections::HashMap;

use crate::journal::{DeliveryAttempt, RecordedOutcome};
use crate::verify::record_digest::RecordDigest;
use butlr_event::ksuid::Ksuid;

/// Of an event.
#[derive(Default)]
struct RecoveryTally {
    published: u64,
    spooled: u64,
    records: u64,
}

/// Takes so many tries that were answered spooled for such whose record may be there or not as there are too few records,
/// where each event is there at least once, and as often as it was answered published. Returns how many.
pub fn release_recovered(attempts: &mut [DeliveryAttempt], entries: &[RecordDigest]) -> u64 {
    let mut tallies: HashMap<Ksuid, RecoveryTally> = HashMap::new();
    for attempt in &*attempts {
        let tally = match attempt.outcome {
            RecordedOutcome::Published => &mut tallies.entry(attempt.id).or_default().published,
            RecordedOutcome::Spooled => &mut tallies.entry(attempt.id).or_default().spooled,
            _ => continue,
        };
        *tally += 1;
    }
    tallies.retain(|_, tally| tally.spooled > 0 && tally.published + tally.spooled > 1);
    if tallies.is_empty() {
        return 0;
    }
    for entry in entries {
        if let Some(tally) = tallies.get_mut(&entry.id) {
            tally.records += 1;
        }
    }
    let mut missing: HashMap<Ksuid, u64> = HashMap::new();
    for (id, tally) in tallies {
        let lacks = (tally.published + tally.spooled).saturating_sub(tally.records);
        if lacks > 0 && tally.records >= tally.published.max(1) {
            missing.insert(id, lacks);
        }
    }
    let mut set_free = 0;
    // The last ones: what is there is the first one's more likely than not.
    for attempt in attempts.iter_mut().rev() {
        if attempt.outcome == RecordedOutcome::Spooled
            && let Some(lacks) = missing.get_mut(&attempt.id)
            && *lacks > 0
        {
            *lacks -= 1;
            attempt.outcome = RecordedOutcome::Unknown;
            set_free += 1;
        }
    }
    set_free
}
