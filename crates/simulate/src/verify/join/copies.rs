//! Causes of records beyond the first of an event.

use super::{count_attempts, is_stored};
use crate::journal::{AttemptCause, DeliveryAttempt, RecordedOutcome};
use crate::verify::report::CopyCounts;

/// Adds the causes of an event's records beyond the first: those of the attempts that were stored,
/// and of as many attempts of unknown outcome as there are further records.
pub fn count_causes(attempts: &[DeliveryAttempt], found: u64, copies: &mut CopyCounts) {
    if found < 2 {
        return;
    }
    copies.all += found - 1;
    let mut unexplained = found.saturating_sub(count_attempts(attempts, is_stored));
    let mut causes = Vec::new();
    for attempt in attempts {
        let was_stored = attempt.outcome == RecordedOutcome::Unknown && unexplained > 0;
        unexplained -= u64::from(was_stored);
        if was_stored || is_stored(attempt) {
            causes.push(attempt.cause);
        }
    }
    // The original is the planned attempt or, if that one left no record, the first of the others.
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
