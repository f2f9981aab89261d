//! Restoring the dedup window from the spool after a start: for duplicate detection, a spooled
//! event counts like one in Kafka.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::{EntryContent, SpoolEntry};
use super::store::{ReadLimit, SpoolStore, StoreError};
use super::{Spool, now_ms};
use crate::config;
use crate::dedup::deduplicator::Deduplicator;
use crate::dedup::stored_facts::StoredFacts;
use butlr_event::destination::Destination;
use butlr_event::{ParseLimits, ParsedBody, parse};

const BATCH: ReadLimit = ReadLimit {
    entries: 1_000,
    bytes: 4 << 20,
};
/// Entries of a destination that are restored whatever their age, which takes about a second.
const FULL_RESTORE_ENTRIES: u64 = 200_000;
/// Limit of restored entries over all destinations; each takes about 120 bytes until then.
const MAX_ENTRIES: usize = 1_000_000;
/// Tolerance: the order of entries is that of receipt only as far as requests do not overtake each
/// other and the clock is not set.
const SLACK: Duration = Duration::from_secs(60);

/// Restores entries in `deduplicator`, on a thread: all of them, or only recent ones of a
/// destination that has very many.
pub fn restore_dedup_window(
    spool: &Arc<Spool>,
    deduplicator: &Arc<Deduplicator>,
    settings: &config::DedupConfig,
) {
    deduplicator.expect_spool();
    let window = settings.id_window.max(settings.reading_window);
    let limit = settings.max_ids.min(MAX_ENTRIES);
    let (spool, deduplicator) = (Arc::clone(spool), Arc::clone(deduplicator));
    let thread = std::thread::Builder::new()
        .name("spool-restore".into())
        .spawn(move || {
            // Also after a panic: events must not wait for a result that never comes.
            let _guard = RestoreGuard(&deduplicator);
            let began = Instant::now();
            let restored = collect_entries(spool.store(), window, limit);
            let entries = restored.entries.len();
            // Newest first: the deduplicator takes what it knows already for newer.
            let newest_first = restored.entries.into_iter().rev();
            newest_first.for_each(|(_, facts)| deduplicator.restore_spooled(facts));
            if restored.is_partial {
                deduplicator.mark_all_uncertain();
            }
            if let Some(why) = restored.missing_reason {
                deduplicator.set_incomplete_reason(why);
            }
            if entries > 0 {
                let took_s = began.elapsed().as_secs_f64();
                tracing::info!(entries, took_s, "restored the dedup window from the spool");
            }
        });
    thread.expect("the system can start a thread");
}

struct RestoreGuard<'d>(&'d Deduplicator);

impl Drop for RestoreGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.mark_all_uncertain();
            self.0
                .set_incomplete_reason("reading the spool failed".to_owned());
        }
        self.0.mark_spool_restored();
    }
}

struct RestoredEntries {
    /// Oldest first.
    entries: VecDeque<(Destination, StoredFacts)>,
    /// Some entries are left out.
    is_partial: bool,
    /// The reason why entries within the window are left out, if some are.
    missing_reason: Option<String>,
}

/// Collects the newest `limit` entries; of a destination with very many only those of the last
/// `window`.
///
/// All entries get into Kafka after the records that are there now. So none is too old, whatever
/// its time of receipt: Kafka was away for long, or the clock was put back.
fn collect_entries(store: &SpoolStore, window: Duration, limit: usize) -> RestoredEntries {
    let now_ms = now_ms();
    let destinations = Destination::all().into_iter();
    let mut cursors: Vec<_> = destinations
        .filter(|to| store.present(*to) > 0)
        .map(|to| RestoreCursor::new(store, to, window, now_ms))
        .collect();
    let mut restored = RestoredEntries {
        entries: VecDeque::new(),
        is_partial: cursors.iter().any(|cursor| cursor.from > 0),
        missing_reason: None,
    };
    // By sequence number over all destinations, so that the oldest entry is always the first.
    while let Some(cursor) = earliest_cursor(&mut cursors) {
        let Some(facts) = cursor.take_entry() else {
            continue;
        };
        if restored.entries.len() == limit {
            restored.entries.pop_front();
            restored.missing_reason = Some(format!("more than {limit} entries wait in the spool"));
        }
        restored.entries.push_back((cursor.to, facts));
    }
    for cursor in cursors {
        let lost = store.lost(cursor.to) - cursor.lost_before;
        let why = match cursor.error {
            Some(error) => error.to_string(),
            None if lost > 0 => format!("{lost} are lost to damage"),
            None => continue,
        };
        tracing::warn!(
            why,
            "spooled entries cannot be read back: duplicates of them are published as new"
        );
        restored.missing_reason = Some(format!("spooled entries cannot be read back: {why}"));
        // An entry that cannot be read may have superseded them.
        for (to, facts) in &mut restored.entries {
            facts.is_in_doubt |= *to == cursor.to;
        }
    }
    restored.is_partial |= restored.missing_reason.is_some();
    restored
}

/// Returns the cursor with the lowest next sequence number; `None` if no entry is left.
fn earliest_cursor<'l, 's>(
    cursors: &'l mut [RestoreCursor<'s>],
) -> Option<&'l mut RestoreCursor<'s>> {
    cursors.iter_mut().for_each(RestoreCursor::fill_read_ahead);
    let unfinished = cursors.iter_mut().filter(|c| !c.read_ahead.is_empty());
    unfinished.min_by_key(|c| c.read_ahead.front().map(|(seq, _)| *seq))
}

/// Reads the entries of a destination in order.
struct RestoreCursor<'s> {
    store: &'s SpoolStore,
    to: Destination,
    window: Duration,
    now_ms: i64,
    /// Entries up to this one may be in Kafka.
    handed_upto: Option<u64>,
    from: u64,
    read_ahead: VecDeque<(u64, Vec<u8>)>,
    is_exhausted: bool,
    error: Option<StoreError>,
    /// Lost entries before the first was read.
    lost_before: u64,
}

impl<'s> RestoreCursor<'s> {
    fn new(store: &'s SpoolStore, to: Destination, window: Duration, now_ms: i64) -> Self {
        let reach = i64::try_from((window + SLACK).as_millis()).unwrap_or(i64::MAX);
        Self {
            // First: the reads below may find damage.
            lost_before: store.lost(to),
            store,
            to,
            window,
            now_ms,
            handed_upto: store.handover_mark(to).map(|mark| mark.upto),
            from: if store.present(to) <= FULL_RESTORE_ENTRIES {
                0
            } else {
                find_first_since(store, to, now_ms.saturating_sub(reach))
            },
            read_ahead: VecDeque::new(),
            is_exhausted: false,
            error: None,
        }
    }

    fn fill_read_ahead(&mut self) {
        if !self.read_ahead.is_empty() || self.is_exhausted {
            return;
        }
        match self.store.read(self.to, self.from, BATCH) {
            Ok(read) => self.read_ahead = read.into(),
            Err(error) => self.error = Some(error),
        }
        self.is_exhausted = self.read_ahead.is_empty();
    }

    /// Takes the next entry; `None` if it means nothing to duplicate detection.
    fn take_entry(&mut self) -> Option<StoredFacts> {
        let (seq, bytes) = self.read_ahead.pop_front()?;
        self.from = seq + 1;
        let entry = SpoolEntry::decode(&bytes).ok()?;
        let mut facts = describe_entry(&entry, self.now_ms)?;
        if facts.age > self.window {
            facts.age = Duration::ZERO;
        }
        facts.is_in_doubt |= entry.in_doubt || self.handed_upto.is_some_and(|upto| seq <= upto);
        Some(facts)
    }
}

fn describe_entry(entry: &SpoolEntry<'_>, now_ms: i64) -> Option<StoredFacts> {
    let received_ms = entry.received_ms;
    match &entry.content {
        EntryContent::Quarantined(_) => {
            Some(StoredFacts::from_bytes(&entry.value, received_ms, now_ms))
        }
        EntryContent::Event { marks, .. } => {
            match parse(&entry.value, None, ParseLimits::UNLIMITED) {
                Ok(ParsedBody::Single(Ok(event))) => {
                    Some(StoredFacts::from_event(&event, marks, received_ms, now_ms))
                }
                _ => None,
            }
        }
    }
}

/// Finds the approximate first sequence number received at `since` or later, by bisection: times of
/// receipt are nearly in order.
fn find_first_since(store: &SpoolStore, to: Destination, since: i64) -> u64 {
    let is_old = |seq| {
        let read = store.read(to, seq, ReadLimit::ONE).unwrap_or_default();
        let entry = read
            .first()
            .and_then(|(_, bytes)| SpoolEntry::decode(bytes).ok());
        entry.is_some_and(|entry| entry.received_ms < since)
    };
    let (mut low, mut high) = (0, u64::MAX);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_old(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::spool::store::Options;
    use butlr_event::EventType;

    const WINDOW: Duration = Duration::from_secs(900);
    const TRAFFIC: Destination = Destination::Events(EventType::Traffic);
    const MOTION: Destination = Destination::Events(EventType::PirMotion);

    /// A store with entries of the given ages in ms.
    fn store<const N: usize>(
        entries: [(Destination, &'static str, i64); N],
    ) -> (tempfile::TempDir, SpoolStore) {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = SpoolStore::open(Options {
            dir: dir.path().to_owned(),
            segment_bytes: 1 << 20,
        })
        .unwrap();
        let entries = entries.map(|(to, value, age_ms)| {
            let entry = SpoolEntry {
                received_ms: now_ms() - age_ms,
                in_doubt: false,
                content: EntryContent::Quarantined(Default::default()),
                value: Cow::Borrowed(value.as_bytes()),
            };
            (to, entry.encode())
        });
        store.append(&entries).unwrap();
        (dir, store)
    }

    /// An old entry gets into Kafka after all records that are there, and so after younger ones.
    #[test]
    fn an_entry_is_restored_whatever_its_time_of_receipt() {
        let hour = 3_600_000;
        let ages = [("a", 0), ("b", hour), ("c", 1_000)];
        let (_dir, store) = store(ages.map(|(value, age)| (TRAFFIC, value, age)));
        let restored = collect_entries(&store, WINDOW, 10);
        assert_eq!(restored.entries.len(), 3);
        assert!(
            restored
                .entries
                .iter()
                .all(|(_, facts)| facts.age <= WINDOW)
        );
        assert!(!restored.is_partial && restored.missing_reason.is_none());
    }

    #[test]
    fn of_too_many_entries_the_newest_are_restored() {
        let entries = [
            (TRAFFIC, "a"),
            (MOTION, "b"),
            (MOTION, "c"),
            (TRAFFIC, "d"),
            (MOTION, "e"),
        ];
        let (_dir, store) = store(entries.map(|(to, value)| (to, value, 0)));
        for limit in 1..=5 {
            let all = collect_entries(&store, WINDOW, limit);
            let restored = all.entries.iter();
            let restored = restored.map(|(to, facts)| (*to, facts.id_hash));
            let newest = entries[5 - limit..].iter();
            let key = |value: &str| StoredFacts::from_bytes(value.as_bytes(), 0, 0).id_hash;
            assert!(restored.eq(newest.map(|(to, value)| (*to, key(value)))));
            assert_eq!(
                (all.is_partial, all.missing_reason.is_some()),
                (limit < 5, limit < 5)
            );
        }
    }
}
