//! Why an event is there more than once.

use super::{count_attempts, is_stored};
use crate::journal::{AttemptCause, DeliveryAttempt, RecordedOutcome};
use crate::verify::report::CopyCounts;

/// Adds what is there beyond the first record of an event to its causes: those of the tries that stored it, as far as
/// there are as many records also of those whose answer is unknown.
pub fn count_causes(tries: &[DeliveryAttempt], found: u64, copies: &mut CopyCounts) {
    if found < 2 {
        return;
    }
    copies.all += found - 1;
    let mut unanswered = found.saturating_sub(count_attempts(tries, is_stored));
    let mut causes = Vec::new();
    for attempt in tries {
        let unknown = attempt.outcome == RecordedOutcome::Unknown && unanswered > 0;
        unanswered -= u64::from(unknown);
        if unknown || is_stored(attempt) {
            causes.push(attempt.cause);
        }
    }
    // The original is the planned one; where that one left no record, whichever came first.
    let planned = causes.iter().position(|c| *c == AttemptCause::Planned);
    if !causes.is_empty() {
        causes.remove(planned.unwrap_or(0));
    }
    let further = usize::try_from(found - 1).unwrap_or(usize::MAX);
    for cause in causes.into_iter().take(further) {
        match cause {
            AttemptCause::Planned => {}
            AttemptCause::Redelivery => copies.redelivery += 1,
            AttemptCause::AfterTimeout => copies.after_timeout += 1,
            AttemptCause::AfterFailure => copies.after_failure += 1,
        }
    }
}
