//! Search for recovered entries that Kafka holds already, on a thread for each destination.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::mailbox::{DrainMessage, InDoubtSearchResult};
use super::publish;
use crate::spool::SpoolShared;
use crate::spool::in_doubt::{InDoubtEntry, SearchOutcome};
use crate::spool::panics::catch_panics;
use crate::spool::store::ReadLimit;
use butlr_event::destination::Destination;

/// [`find_stored`](crate::spool::in_doubt::find_stored) with its consumer; a fake in tests.
pub(in crate::spool) type InDoubtSearch = dyn Fn(&str, Vec<InDoubtEntry>, &[(i32, i64)], Duration, &AtomicBool) -> SearchOutcome
    + Send
    + Sync;

const BATCH: ReadLimit = ReadLimit {
    entries: 1_000,
    bytes: 4 << 20,
};

/// Limit of the entries searched for, at about 100 bytes each. Only a spool that has lost its
/// manifest can have more.
const MAX_CANDIDATES: usize = 2_000_000;

struct SearchCandidates {
    entries: Vec<InDoubtEntry>,
    /// Partition and offset before which no entry can be stored; empty if unknown.
    floors: Vec<(i32, i64)>,
}

/// Searches for recovered entries of `to`. The result always comes to the mailbox: without it the
/// destination would never be drained.
pub(super) fn start_search(
    shared: &Arc<SpoolShared>,
    to: Destination,
    search: &Arc<InDoubtSearch>,
    stop: &Arc<AtomicBool>,
) {
    let (shared, search, stop) = (Arc::clone(shared), Arc::clone(search), Arc::clone(stop));
    let run = move || {
        let mailbox = Arc::clone(&shared.mailbox);
        let topic = shared.lanes[to.index()].topic().to_owned();
        let within = shared.settings.recover_within;
        let candidates = collect_candidates(&shared, to, &stop);
        // The search may wait for Kafka without end, and must not keep the store open.
        drop(shared);
        let searched = candidates.and_then(|SearchCandidates { entries, floors }| {
            if entries.is_empty() {
                return Ok(InDoubtSearchResult::default());
            }
            catch_panics(|| InDoubtSearchResult {
                in_doubt: entries.len(),
                outcome: search(&topic, entries, &floors, within, &stop),
            })
            .map_err(|panic| format!("the search panicked: {panic}"))
        });
        let result = searched.unwrap_or_else(|why| InDoubtSearchResult {
            in_doubt: 0,
            outcome: SearchOutcome {
                incomplete_reason: Some(why),
                ..SearchOutcome::default()
            },
        });
        mailbox.push(DrainMessage::SearchFinished { to, result });
    };
    let thread = std::thread::Builder::new().name("spool-search".into());
    thread.spawn(run).expect("the system can start a thread");
}

/// Collects the recovered entries that were in doubt or are recorded as handed to Kafka.
fn collect_candidates(
    shared: &SpoolShared,
    to: Destination,
    stop: &AtomicBool,
) -> Result<SearchCandidates, String> {
    let mark = shared.store.handover_mark(to);
    let upto = mark.as_ref().map(|mark| mark.upto);
    let mut entries = Vec::new();
    let mut has_in_doubt = false;
    let mut from = 0;
    while from < shared.recovered_end
        && entries.len() < MAX_CANDIDATES
        && !stop.load(Ordering::Relaxed)
    {
        let read = shared.store.read(to, from, BATCH);
        let read = read.map_err(|error| error.to_string())?;
        let Some((last, _)) = read.last() else { break };
        from = last + 1;
        let recovered = read.iter().filter(|(seq, _)| *seq < shared.recovered_end);
        for (seq, bytes) in recovered {
            if let Some((entry, in_doubt)) = publish::to_in_doubt_entry(*seq, bytes)
                && (in_doubt || upto.is_some_and(|upto| *seq <= upto))
            {
                has_in_doubt |= in_doubt;
                entries.push(entry);
            }
        }
    }
    if entries.len() >= MAX_CANDIDATES {
        tracing::warn!(
            destination = to.name(),
            candidates = entries.len(),
            "too many entries of the previous run to search the topic for all: some may be stored twice"
        );
    }
    // Records of entries in doubt were sent before any mark was written.
    let floors = match mark {
        Some(mark) if !has_in_doubt => mark.tails,
        _ => Vec::new(),
    };
    Ok(SearchCandidates { entries, floors })
}
