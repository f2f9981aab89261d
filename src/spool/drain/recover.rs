//! After a start: which of the entries found does Kafka hold already? Each destination is looked at by a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::mailbox::{Found, Word};
use super::publish;
use crate::spool::Shared;
use crate::spool::suspects::{Outcome, Suspect};
use butlr_event::destination::Destination;

/// [`suspects::stored`](crate::spool::suspects::stored), for the consumer at hand.
pub(in crate::spool) type Look =
    dyn Fn(&str, Vec<Suspect>, &[(i32, i64)], Duration, &AtomicBool) -> Outcome + Send + Sync;

/// Of one read.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;

/// Most that are looked for: about a hundred bytes each. Only a spool whose manifest is lost can have more.
const MOST: usize = 2_000_000;

struct Suspects {
    list: Vec<Suspect>,
    /// Offsets before which none of them can be, where that is known.
    since: Vec<(i32, i64)>,
}

/// Looks for the entries of `to`; the answer comes by the mailbox, also when nothing was suspicious.
pub(super) fn look(
    shared: &Arc<Shared>,
    to: Destination,
    look: &Arc<Look>,
    stop: &Arc<AtomicBool>,
) {
    let (shared, look, stop) = (Arc::clone(shared), Arc::clone(look), Arc::clone(stop));
    let run = move || {
        let mailbox = Arc::clone(&shared.mailbox);
        let topic = shared.lanes[to.index()].topic().to_owned();
        let within = shared.settings.recover_within;
        let suspects = suspects(&shared, to, &stop);
        // The store is not kept open by a Kafka that is away.
        drop(shared);
        let looked = AssertUnwindSafe(|| match suspects {
            Ok(Suspects { list, .. }) if list.is_empty() => Found {
                suspects: 0,
                outcome: Outcome::default(),
            },
            Ok(Suspects { list, since }) => Found {
                suspects: list.len(),
                outcome: look(&topic, list, &since, within, &stop),
            },
            Err(why) => Found {
                suspects: 0,
                outcome: Outcome {
                    why_not: Some(why),
                    ..Outcome::default()
                },
            },
        });
        // Without an answer nothing would ever be drained.
        let found = catch_unwind(looked).unwrap_or_else(|_| Found {
            suspects: 0,
            outcome: Outcome {
                why_not: Some("the search broke off".to_owned()),
                ..Outcome::default()
            },
        });
        mailbox.push(Word::Looked { to, found });
    };
    let thread = std::thread::Builder::new().name("spool-suspects".into());
    thread.spawn(run).expect("the system can start a thread");
}

/// Those that were in doubt, and those up to what was handed over.
fn suspects(shared: &Shared, to: Destination, stop: &AtomicBool) -> Result<Suspects, String> {
    let handed = shared.store.handed(to);
    let upto = handed.as_ref().map(|handed| handed.upto);
    let mut list = Vec::new();
    let mut any_in_doubt = false;
    let mut from = 0;
    while from < shared.recovered_end && list.len() < MOST && !stop.load(Ordering::Relaxed) {
        let read = shared.store.read(to, from, BATCH, BATCH_BYTES);
        let read = read.map_err(|error| error.to_string())?;
        let Some((last, _)) = read.last() else { break };
        from = last + 1;
        let of_before = read.iter().filter(|(seq, _)| *seq < shared.recovered_end);
        for (seq, bytes) in of_before {
            if let Some((suspect, in_doubt)) = publish::suspect(*seq, bytes)
                && (in_doubt || upto.is_some_and(|upto| *seq <= upto))
            {
                any_in_doubt |= in_doubt;
                list.push(suspect);
            }
        }
    }
    if list.len() >= MOST {
        tracing::warn!(
            destination = to.name(),
            looked_for = list.len(),
            "not all entries of before are looked for in their topic: some may be stored twice"
        );
    }
    // What was in doubt was handed over before anything was marked.
    let since = match handed {
        Some(handed) if !any_in_doubt => handed.tails,
        _ => Vec::new(),
    };
    Ok(Suspects { list, since })
}
