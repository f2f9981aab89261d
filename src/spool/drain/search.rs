//! After a start: which of the entries found does Kafka hold already? Each destination is looked at by a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::mailbox::{DrainMessage, InDoubtSearchResult};
use super::publish;
use crate::spool::SpoolShared;
use crate::spool::in_doubt::{InDoubtEntry, SearchOutcome};
use butlr_event::destination::Destination;

/// [`suspects::stored`](crate::spool::suspects::stored), for the consumer at hand.
pub(in crate::spool) type InDoubtSearch = dyn Fn(&str, Vec<InDoubtEntry>, &[(i32, i64)], Duration, &AtomicBool) -> SearchOutcome
    + Send
    + Sync;

/// Of one read.
const BATCH_ENTRIES: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;

/// Most that are looked for: about a hundred bytes each. Only a spool whose manifest is lost can have more.
const MAX_CANDIDATES: usize = 2_000_000;

struct SearchCandidates {
    entries: Vec<InDoubtEntry>,
    /// Offsets before which none of them can be, where that is known.
    floors: Vec<(i32, i64)>,
}

/// Looks for the entries of `to`; the answer comes by the mailbox, also when nothing was suspicious.
pub(super) fn start_search(
    shared: &Arc<SpoolShared>,
    to: Destination,
    search: &Arc<InDoubtSearch>,
    stop: &Arc<AtomicBool>,
) {
    let (shared, look, stop) = (Arc::clone(shared), Arc::clone(search), Arc::clone(stop));
    let run = move || {
        let mailbox = Arc::clone(&shared.mailbox);
        let topic = shared.lanes[to.index()].topic().to_owned();
        let within = shared.settings.recover_within;
        let suspects = collect_candidates(&shared, to, &stop);
        // The store is not kept open by a Kafka that is away.
        drop(shared);
        let run_search = AssertUnwindSafe(|| match suspects {
            Ok(SearchCandidates { entries: list, .. }) if list.is_empty() => InDoubtSearchResult {
                in_doubt: 0,
                outcome: SearchOutcome::default(),
            },
            Ok(SearchCandidates {
                entries: list,
                floors: since,
            }) => InDoubtSearchResult {
                in_doubt: list.len(),
                outcome: look(&topic, list, &since, within, &stop),
            },
            Err(why) => InDoubtSearchResult {
                in_doubt: 0,
                outcome: SearchOutcome {
                    incomplete_reason: Some(why),
                    ..SearchOutcome::default()
                },
            },
        });
        // Without an answer nothing would ever be drained.
        let found = catch_unwind(run_search).unwrap_or_else(|_| InDoubtSearchResult {
            in_doubt: 0,
            outcome: SearchOutcome {
                incomplete_reason: Some("the search broke off".to_owned()),
                ..SearchOutcome::default()
            },
        });
        mailbox.push(DrainMessage::SearchFinished { to, found });
    };
    let thread = std::thread::Builder::new().name("spool-suspects".into());
    thread.spawn(run).expect("the system can start a thread");
}

/// Those that were in doubt, and those up to what was handed over.
fn collect_candidates(
    shared: &SpoolShared,
    to: Destination,
    stop: &AtomicBool,
) -> Result<SearchCandidates, String> {
    let handed = shared.store.handover_mark(to);
    let upto = handed.as_ref().map(|handed| handed.upto);
    let mut list = Vec::new();
    let mut any_in_doubt = false;
    let mut from = 0;
    while from < shared.recovered_end
        && list.len() < MAX_CANDIDATES
        && !stop.load(Ordering::Relaxed)
    {
        let read = shared.store.read(to, from, BATCH_ENTRIES, BATCH_BYTES);
        let read = read.map_err(|error| error.to_string())?;
        let Some((last, _)) = read.last() else { break };
        from = last + 1;
        let of_before = read.iter().filter(|(seq, _)| *seq < shared.recovered_end);
        for (seq, bytes) in of_before {
            if let Some((suspect, in_doubt)) = publish::to_in_doubt_entry(*seq, bytes)
                && (in_doubt || upto.is_some_and(|upto| *seq <= upto))
            {
                any_in_doubt |= in_doubt;
                list.push(suspect);
            }
        }
    }
    if list.len() >= MAX_CANDIDATES {
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
    Ok(SearchCandidates {
        entries: list,
        floors: since,
    })
}
