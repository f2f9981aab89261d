//! Why an event is there more than once.

use super::{how_many, stored};
use crate::journal::{Answer, Attempt, Cause};
use crate::verify::report::Copies;

/// Adds what is there beyond the first record of an event to its causes: those of the tries that stored it, as far as
/// there are as many records also of those whose answer is unknown.
pub fn explain(tries: &[Attempt], found: u64, copies: &mut Copies) {
    if found < 2 {
        return;
    }
    copies.all += found - 1;
    let mut unheard = found.saturating_sub(how_many(tries, stored));
    let mut causes = Vec::new();
    for attempt in tries {
        let unknown = attempt.answer == Answer::Unknown && unheard > 0;
        unheard -= u64::from(unknown);
        if unknown || stored(attempt) {
            causes.push(attempt.cause);
        }
    }
    // The original is the planned one; where that one left no record, whichever came first.
    let planned = causes.iter().position(|c| *c == Cause::Planned);
    if !causes.is_empty() {
        causes.remove(planned.unwrap_or(0));
    }
    let further = usize::try_from(found - 1).unwrap_or(usize::MAX);
    for cause in causes.into_iter().take(further) {
        match cause {
            Cause::Planned => {}
            Cause::Redelivery => copies.redelivery += 1,
            Cause::AfterTimeout => copies.after_timeout += 1,
            Cause::AfterFailure => copies.after_failure += 1,
        }
    }
}
