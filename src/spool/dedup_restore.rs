//! After a start: what the spool holds counts for duplicate detection like what Kafka holds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::{EntryContent, SpoolEntry};
use super::store::{SpoolStore, StoreError};
use super::{Spool, now_ms};
use crate::config;
use crate::dedup::deduplicator::Deduplicator;
use crate::dedup::spooled_facts::SpooledFacts;
use butlr_event::destination::Destination;
use butlr_event::{ParseLimits, ParsedBody, parse};

/// Entries read at a time.
const BATCH_ENTRIES: usize = 1_000;
/// Their bytes.
const BATCH_BYTES: usize = 4 << 20;
/// So many of a destination are told whatever their age, which takes a second or so.
const FULL_RESTORE_ENTRIES: u64 = 200_000;
/// Most that are told, of all destinations: they take about 120 bytes each until they are.
const MAX_ENTRIES: usize = 1_000_000;
/// Receipt is in the order of entries only as far as requests overtake each other and clocks are set.
const SLACK: Duration = Duration::from_secs(60);

/// Tells `desk` of the entries, or where there are very many of those young enough, on a thread of its own.
pub fn restore_dedup_window(
    spool: &Arc<Spool>,
    desk: &Arc<Deduplicator>,
    settings: &config::DedupConfig,
) {
    desk.expect_spool();
    let window = settings.id_window.max(settings.reading_window);
    let most = settings.max_ids.min(MAX_ENTRIES);
    let (spool, desk) = (Arc::clone(spool), Arc::clone(desk));
    let thread = std::thread::Builder::new()
        .name("spool-restore".into())
        .spawn(move || {
            // Also after a panic: events must not wait for what does not come.
            let _over = RestoreGuard(&desk);
            let began = Instant::now();
            let all = collect_entries(spool.store(), window, most);
            let entries = all.entries.len();
            // The newest first: what is known already is newer than what is told.
            let newest_first = all.entries.into_iter().rev();
            newest_first.for_each(|(_, told)| desk.restore_spooled(told));
            if all.is_partial {
                desk.mark_all_uncertain();
            }
            if let Some(why) = all.missing_reason {
                desk.set_incomplete_reason(why);
            }
            if entries > 0 {
                let took_s = began.elapsed().as_secs_f64();
                tracing::info!(entries, took_s, "what waits in the spool is known again");
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

/// What entries tell.
struct RestoredEntries {
    /// The oldest first.
    entries: VecDeque<(Destination, SpooledFacts)>,
    /// Some are left out.
    is_partial: bool,
    /// Why some are that may be younger than the window.
    missing_reason: Option<String>,
}

/// What the entries tell, of a destination with very many those of the last `window`; of all that the newest `most`.
///
/// All of them get into Kafka after what is there now. So none is too old, whatever its receipt says: Kafka was away for long,
/// or the clock was put back.
fn collect_entries(store: &SpoolStore, window: Duration, most: usize) -> RestoredEntries {
    let now_ms = now_ms();
    let there = Destination::all().into_iter();
    let there = there.filter(|to| store.present(*to) > 0);
    let mut lines: Vec<_> = there
        .map(|to| RestoreCursor::new(store, to, window, now_ms))
        .collect();
    let mut all = RestoredEntries {
        entries: VecDeque::new(),
        is_partial: lines.iter().any(|line| line.from > 0),
        missing_reason: None,
    };
    // In the order in which they came, whatever their destination: so the oldest is always the first.
    while let Some(line) = earliest_cursor(&mut lines) {
        let Some(one) = line.take_entry() else {
            continue;
        };
        if all.entries.len() == most {
            all.entries.pop_front();
            all.missing_reason = Some(format!("more than {most} entries wait in the spool"));
        }
        all.entries.push_back((line.to, one));
    }
    for line in lines {
        let lost = store.lost(line.to) - line.lost;
        let why = match line.error {
            Some(error) => error.to_string(),
            None if lost > 0 => format!("{lost} are lost to damage"),
            None => continue,
        };
        tracing::warn!(
            why,
            "entries of the spool cannot be read back: copies of them are published as new"
        );
        all.missing_reason = Some(format!("entries of the spool cannot be read back: {why}"));
        // What cannot be read may have replaced them.
        let of_this = all.entries.iter_mut().filter(|(to, _)| *to == line.to);
        of_this.for_each(|(_, one)| one.is_in_doubt = true);
    }
    all.is_partial |= all.missing_reason.is_some();
    all
}

/// The one whose next entry came first; `None`: there are no more.
fn earliest_cursor<'l, 's>(
    lines: &'l mut [RestoreCursor<'s>],
) -> Option<&'l mut RestoreCursor<'s>> {
    lines.iter_mut().for_each(RestoreCursor::fill_read_ahead);
    let with_more = lines.iter_mut().filter(|line| !line.read_ahead.is_empty());
    with_more.min_by_key(|line| line.read_ahead.front().map(|(seq, _)| *seq))
}

/// The entries of a destination, from one on.
struct RestoreCursor<'s> {
    store: &'s SpoolStore,
    to: Destination,
    window: Duration,
    now_ms: i64,
    /// Up to here they may be in Kafka.
    handed_upto: Option<u64>,
    from: u64,
    read_ahead: VecDeque<(u64, Vec<u8>)>,
    is_exhausted: bool,
    error: Option<StoreError>,
    /// Of its entries before any was read.
    lost: u64,
}

impl<'s> RestoreCursor<'s> {
    fn new(store: &'s SpoolStore, to: Destination, window: Duration, now_ms: i64) -> Self {
        let reach = i64::try_from((window + SLACK).as_millis()).unwrap_or(i64::MAX);
        Self {
            // Before anything of it is read.
            lost: store.lost(to),
            store,
            to,
            window,
            now_ms,
            handed_upto: store.handover_mark(to).map(|handed| handed.upto),
            from: match store.present(to) <= FULL_RESTORE_ENTRIES {
                true => 0,
                false => find_first_since(store, to, now_ms.saturating_sub(reach)),
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
        match self
            .store
            .read(self.to, self.from, BATCH_ENTRIES, BATCH_BYTES)
        {
            Ok(read) => self.read_ahead = read.into(),
            Err(error) => self.error = Some(error),
        }
        self.is_exhausted = self.read_ahead.is_empty();
    }

    /// What the next entry tells, if anything.
    fn take_entry(&mut self) -> Option<SpooledFacts> {
        let (seq, bytes) = self.read_ahead.pop_front()?;
        self.from = seq + 1;
        let entry = SpoolEntry::decode(&bytes).ok()?;
        let mut one = describe_entry(&entry, self.now_ms)?;
        if one.age > self.window {
            one.age = Duration::ZERO;
        }
        let suspect = entry.in_doubt || self.handed_upto.is_some_and(|upto| seq <= upto);
        Some(if suspect { one.into_in_doubt() } else { one })
    }
}

fn describe_entry(entry: &SpoolEntry<'_>, now_ms: i64) -> Option<SpooledFacts> {
    let received_ms = entry.received_ms;
    match &entry.content {
        EntryContent::Quarantined(_) => {
            Some(SpooledFacts::from_bytes(&entry.value, received_ms, now_ms))
        }
        EntryContent::Event { marks, .. } => {
            match parse(&entry.value, None, ParseLimits::UNLIMITED) {
                Ok(ParsedBody::Single(Ok(event))) => {
                    Some(SpooledFacts::from_event(&event, marks, received_ms, now_ms))
                }
                _ => None,
            }
        }
    }
}

/// The number of about the first entry that was received at `since` or later: receipt is nearly in the order of entries.
fn find_first_since(store: &SpoolStore, to: Destination, since: i64) -> u64 {
    let is_old = |seq| {
        let read = store.read(to, seq, 1, 1).unwrap_or_default();
        let entry = read
            .first()
            .and_then(|(_, bytes)| SpoolEntry::decode(bytes).ok());
        entry.is_some_and(|entry| entry.received_ms < since)
    };
    let (mut low, mut high) = (0, u64::MAX);
    while low < high {
        let middle = low + (high - low) / 2;
        match is_old(middle) {
            true => low = middle + 1,
            false => high = middle,
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

    /// A store with entries of so many ms ago.
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

    /// It gets into Kafka after all that is there, and so after what is younger.
    #[test]
    fn an_entry_is_told_whatever_its_receipt_says() {
        let hour = 3_600_000;
        let ages = [("a", 0), ("b", hour), ("c", 1_000)];
        let (_dir, store) = store(ages.map(|(value, age)| (TRAFFIC, value, age)));
        let all = collect_entries(&store, WINDOW, 10);
        assert_eq!(all.entries.len(), 3);
        assert!(all.entries.iter().all(|(_, one)| one.age <= WINDOW));
        assert!(!all.is_partial && all.missing_reason.is_none());
    }

    #[test]
    fn of_too_many_the_newest_are_told_whatever_their_destination() {
        let entries = [
            (TRAFFIC, "a"),
            (MOTION, "b"),
            (MOTION, "c"),
            (TRAFFIC, "d"),
            (MOTION, "e"),
        ];
        let (_dir, store) = store(entries.map(|(to, value)| (to, value, 0)));
        for most in 1..=5 {
            let all = collect_entries(&store, WINDOW, most);
            let told = all.entries.iter().map(|(to, one)| (*to, one.id_hash));
            let newest = entries[5 - most..].iter();
            let key = |value: &str| SpooledFacts::from_bytes(value.as_bytes(), 0, 0).id_hash;
            assert!(told.eq(newest.map(|(to, value)| (*to, key(value)))));
            assert_eq!(
                (all.is_partial, all.missing_reason.is_some()),
                (most < 5, most < 5)
            );
        }
    }
}
