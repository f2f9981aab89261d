//! After a start: what the spool holds counts for duplicate detection like what Kafka holds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::{Content, Entry};
use super::store::{Store, StoreError};
use super::{Spool, now_ms};
use crate::config;
use crate::dedup::desk::Desk;
use crate::dedup::spooled::SpooledTold;
use butlr_event::destination::Destination;
use butlr_event::{ParseLimits, ParsedBody, parse};

/// Entries read at a time.
const BATCH: usize = 1_000;
/// Their bytes.
const BATCH_BYTES: usize = 4 << 20;
/// So many of a destination are told whatever their age, which takes a second or so.
const FEW: u64 = 200_000;
/// Most that are told, of all destinations: they take about 120 bytes each until they are.
const MOST: usize = 1_000_000;
/// Receipt is in the order of entries only as far as requests overtake each other and clocks are set.
const SLACK: Duration = Duration::from_secs(60);

/// Tells `desk` of the entries, or where there are very many of those young enough, on a thread of its own.
pub fn restore(spool: &Arc<Spool>, desk: &Arc<Desk>, settings: &config::DedupConfig) {
    desk.expect_spool();
    let window = settings.id_window.max(settings.reading_window);
    let most = settings.max_ids.min(MOST);
    let (spool, desk) = (Arc::clone(spool), Arc::clone(desk));
    let thread = std::thread::Builder::new()
        .name("spool-restore".into())
        .spawn(move || {
            // Also after a panic: events must not wait for what does not come.
            let _over = Over(&desk);
            let began = Instant::now();
            let all = all(spool.store(), window, most);
            let entries = all.told.len();
            // The newest first: what is known already is newer than what is told.
            let newest_first = all.told.into_iter().rev();
            newest_first.for_each(|(_, told)| desk.restore_spooled(told));
            if all.leaves_out {
                desk.doubt_restored();
            }
            if let Some(why) = all.lacks {
                desk.set_incomplete(why);
            }
            if entries > 0 {
                let took_s = began.elapsed().as_secs_f64();
                tracing::info!(entries, took_s, "what waits in the spool is known again");
            }
        });
    thread.expect("the system can start a thread");
}

struct Over<'d>(&'d Desk);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.doubt_restored();
            self.0.set_incomplete("reading the spool failed".to_owned());
        }
        self.0.spool_restored();
    }
}

/// What entries tell.
struct Told {
    /// The oldest first.
    told: VecDeque<(Destination, SpooledTold)>,
    /// Some are left out.
    leaves_out: bool,
    /// Why some are that may be younger than the window.
    lacks: Option<String>,
}

/// What the entries tell, of a destination with very many those of the last `window`; of all that the newest `most`.
///
/// All of them get into Kafka after what is there now. So none is too old, whatever its receipt says: Kafka was away for long,
/// or the clock was put back.
fn all(store: &Store, window: Duration, most: usize) -> Told {
    let now_ms = now_ms();
    let there = Destination::all().into_iter();
    let there = there.filter(|to| store.present(*to) > 0);
    let mut lines: Vec<_> = there
        .map(|to| Line::new(store, to, window, now_ms))
        .collect();
    let mut all = Told {
        told: VecDeque::new(),
        leaves_out: lines.iter().any(|line| line.from > 0),
        lacks: None,
    };
    // In the order in which they came, whatever their destination: so the oldest is always the first.
    while let Some(line) = first(&mut lines) {
        let Some(one) = line.take() else {
            continue;
        };
        if all.told.len() == most {
            all.told.pop_front();
            all.lacks = Some(format!("more than {most} entries wait in the spool"));
        }
        all.told.push_back((line.to, one));
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
        all.lacks = Some(format!("entries of the spool cannot be read back: {why}"));
        // What cannot be read may have replaced them.
        let of_this = all.told.iter_mut().filter(|(to, _)| *to == line.to);
        of_this.for_each(|(_, one)| one.suspect = true);
    }
    all.leaves_out |= all.lacks.is_some();
    all
}

/// The one whose next entry came first; `None`: there are no more.
fn first<'l, 's>(lines: &'l mut [Line<'s>]) -> Option<&'l mut Line<'s>> {
    lines.iter_mut().for_each(Line::fill);
    let with_more = lines.iter_mut().filter(|line| !line.ahead.is_empty());
    with_more.min_by_key(|line| line.ahead.front().map(|(seq, _)| *seq))
}

/// The entries of a destination, from one on.
struct Line<'s> {
    store: &'s Store,
    to: Destination,
    window: Duration,
    now_ms: i64,
    /// Up to here they may be in Kafka.
    handed: Option<u64>,
    from: u64,
    ahead: VecDeque<(u64, Vec<u8>)>,
    is_over: bool,
    error: Option<StoreError>,
    /// Of its entries before any was read.
    lost: u64,
}

impl<'s> Line<'s> {
    fn new(store: &'s Store, to: Destination, window: Duration, now_ms: i64) -> Self {
        let reach = i64::try_from((window + SLACK).as_millis()).unwrap_or(i64::MAX);
        Self {
            // Before anything of it is read.
            lost: store.lost(to),
            store,
            to,
            window,
            now_ms,
            handed: store.handed(to).map(|handed| handed.upto),
            from: match store.present(to) <= FEW {
                true => 0,
                false => first_since(store, to, now_ms.saturating_sub(reach)),
            },
            ahead: VecDeque::new(),
            is_over: false,
            error: None,
        }
    }

    fn fill(&mut self) {
        if !self.ahead.is_empty() || self.is_over {
            return;
        }
        match self.store.read(self.to, self.from, BATCH, BATCH_BYTES) {
            Ok(read) => self.ahead = read.into(),
            Err(error) => self.error = Some(error),
        }
        self.is_over = self.ahead.is_empty();
    }

    /// What the next entry tells, if anything.
    fn take(&mut self) -> Option<SpooledTold> {
        let (seq, bytes) = self.ahead.pop_front()?;
        self.from = seq + 1;
        let entry = Entry::decode(&bytes).ok()?;
        let mut one = tell(&entry, self.now_ms)?;
        if one.age > self.window {
            one.age = Duration::ZERO;
        }
        let suspect = entry.in_doubt || self.handed.is_some_and(|upto| seq <= upto);
        Some(if suspect { one.suspected() } else { one })
    }
}

fn tell(entry: &Entry<'_>, now_ms: i64) -> Option<SpooledTold> {
    let received_ms = entry.received_ms;
    match &entry.content {
        Content::Quarantined(_) => Some(SpooledTold::of_bytes(&entry.value, received_ms, now_ms)),
        Content::Event { marks, .. } => match parse(&entry.value, None, ParseLimits::UNLIMITED) {
            Ok(ParsedBody::Single(Ok(event))) => Some(SpooledTold::of(&event, marks, received_ms, now_ms)),
            _ => None,
        },
    }
}

/// The number of about the first entry that was received at `since` or later: receipt is nearly in the order of entries.
fn first_since(store: &Store, to: Destination, since: i64) -> u64 {
    let is_old = |seq| {
        let read = store.read(to, seq, 1, 1).unwrap_or_default();
        let entry = read
            .first()
            .and_then(|(_, bytes)| Entry::decode(bytes).ok());
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
    ) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(Options {
            dir: dir.path().to_owned(),
            segment_bytes: 1 << 20,
        })
        .unwrap();
        let entries = entries.map(|(to, value, age_ms)| {
            let entry = Entry {
                received_ms: now_ms() - age_ms,
                in_doubt: false,
                content: Content::Quarantined(Default::default()),
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
        let all = all(&store, WINDOW, 10);
        assert_eq!(all.told.len(), 3);
        assert!(all.told.iter().all(|(_, one)| one.age <= WINDOW));
        assert!(!all.leaves_out && all.lacks.is_none());
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
            let all = all(&store, WINDOW, most);
            let told = all.told.iter().map(|(to, one)| (*to, one.id_key));
            let newest = entries[5 - most..].iter();
            let key = |value: &str| SpooledTold::of_bytes(value.as_bytes(), 0, 0).id_key;
            assert!(told.eq(newest.map(|(to, value)| (*to, key(value)))));
            assert_eq!((all.leaves_out, all.lacks.is_some()), (most < 5, most < 5));
        }
    }
}
