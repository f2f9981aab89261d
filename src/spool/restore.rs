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
use crate::event::{Limits, Parsed, parse};
use crate::kafka::destination::Destination;

/// Entries read at a time.
const BATCH: usize = 1_000;
/// Their bytes.
const BATCH_BYTES: usize = 4 << 20;
/// So many of a destination are told whatever their age, which takes a second or so.
const FEW: u64 = 200_000;
/// Receipt is in the order of entries only as far as requests overtake each other and clocks are set.
const SLACK: Duration = Duration::from_secs(60);

/// Tells `desk` of the entries, or where there are very many of those young enough, on a thread of its own.
pub fn restore(spool: &Arc<Spool>, desk: &Arc<Desk>, settings: &config::Dedup) {
    desk.expect_spool();
    let window = settings.id_window.max(settings.reading_window);
    let most = settings.max_ids;
    let (spool, desk) = (Arc::clone(spool), Arc::clone(desk));
    let thread = std::thread::Builder::new()
        .name("spool-restore".into())
        .spawn(move || {
            // Also after a panic: events must not wait for what does not come.
            let _over = Over(&desk);
            let began = Instant::now();
            let Told { told, lacks } = all(spool.store(), window, most);
            let entries = told.len();
            // The newest first: what is known already is newer than what is told.
            told.into_iter()
                .rev()
                .for_each(|told| desk.restore_spooled(told));
            if let Some(why) = lacks {
                desk.spool_lacks(why);
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
            self.0.spool_lacks("reading the spool failed".to_owned());
        }
        self.0.spool_restored();
    }
}

/// What entries tell.
#[derive(Default)]
struct Told {
    /// The oldest first.
    told: VecDeque<SpooledTold>,
    /// Why that is not all, if so.
    lacks: Option<String>,
}

/// What the entries tell, of a destination with very many those of the last `window`; at most `most` of each.
///
/// All of them get into Kafka after what is there now. So none is too old, whatever its receipt says: Kafka was away for long,
/// or the clock was put back.
fn all(store: &Store, window: Duration, most: usize) -> Told {
    let mut all = Told::default();
    for to in Destination::all() {
        if store.present(to) == 0 {
            continue;
        }
        let mut told = VecDeque::new();
        if let Err(error) = of(store, to, window, most, &mut told) {
            tracing::warn!(%error, "entries of the spool cannot be read back: copies of them are published as new");
            all.lacks = Some(format!("entries of the spool cannot be read back: {error}"));
            // What cannot be read may have replaced them.
            told.iter_mut().for_each(|one| one.suspect = true);
        }
        all.told.append(&mut told);
    }
    all
}

fn of(
    store: &Store,
    to: Destination,
    window: Duration,
    most: usize,
    told: &mut VecDeque<SpooledTold>,
) -> Result<(), StoreError> {
    let now_ms = now_ms();
    let reach = i64::try_from((window + SLACK).as_millis()).unwrap_or(i64::MAX);
    let since = now_ms.saturating_sub(reach);
    let handed = store.handed(to).map(|handed| handed.upto);
    let mut from = match store.present(to) <= FEW {
        true => 0,
        false => first_since(store, to, since),
    };
    loop {
        let batch = store.read(to, from, BATCH, BATCH_BYTES)?;
        let Some((last, _)) = batch.last() else {
            return Ok(());
        };
        from = last + 1;
        for (seq, bytes) in &batch {
            let Ok(entry) = Entry::decode(bytes) else {
                continue;
            };
            let Some(mut one) = tell(&entry, now_ms) else {
                continue;
            };
            if one.age > window {
                one.age = Duration::ZERO;
            }
            let suspect = entry.in_doubt || handed.is_some_and(|upto| *seq <= upto);
            if told.len() == most {
                told.pop_front();
            }
            told.push_back(if suspect { one.suspected() } else { one });
        }
    }
}

fn tell(entry: &Entry<'_>, now_ms: i64) -> Option<SpooledTold> {
    let received_ms = entry.received_ms;
    match &entry.content {
        Content::Quarantined(_) => Some(SpooledTold::of_bytes(&entry.value, received_ms, now_ms)),
        Content::Event { marks, .. } => match parse(&entry.value, None, Limits::NONE) {
            Ok(Parsed::One(Ok(event))) => Some(SpooledTold::of(&event, marks, received_ms, now_ms)),
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
    use crate::event::EventType;
    use crate::spool::store::Options;

    /// It gets into Kafka after all that is there, and so after what is younger.
    #[test]
    fn an_entry_is_told_whatever_its_receipt_says() {
        const WINDOW: Duration = Duration::from_secs(900);
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(Options {
            dir: dir.path().to_owned(),
            segment_bytes: 1 << 20,
        })
        .unwrap();
        let to = Destination::Events(EventType::Traffic);
        let entry = |age_ms, value: &'static str| Entry {
            received_ms: now_ms() - age_ms,
            in_doubt: false,
            content: Content::Quarantined(Default::default()),
            value: Cow::Borrowed(value.as_bytes()),
        };
        let hour = 3_600_000;
        let ages = [("a", 0), ("b", hour), ("c", 1_000)];
        let entries = ages.map(|(value, age)| (to, entry(age, value).encode()));
        store.append(&entries).unwrap();
        let told = all(&store, WINDOW, 10).told;
        assert_eq!(told.len(), 3);
        assert!(told.iter().all(|one| one.age <= WINDOW));
        assert_eq!(all(&store, WINDOW, 2).told.len(), 2);
    }
}
